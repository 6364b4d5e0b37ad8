#!/bin/sh
# Repeats the concurrency cases under load: stress.sh [-n TIMES] [-j STREAMS] [-b PROGS] [LIB|plain [CASE...]]
#
# Each round runs every case once (default 1000 rounds; all cases of `progs -l stress`), with the
# settings rotating through PREEMPT_PROCS=1,2,4 by PREEMPT_QUANTUM=100us,10ms. The load is one busy process for each
# CPU and STREAMS rounds at a time (default four for each CPU), each stream beginning at another case. Stops at the first failure or
# hang, naming the case and its settings, when the other streams have ended their round. LIB is the library, by default the one of the build directory.
here=$(dirname "$0")
times=1000
streams=$(($(nproc) * 4))
progs=build/tests/prog/progs
while getopts n:j:b: opt; do
	case $opt in
	n) times=$OPTARG ;;
	j) streams=$OPTARG ;;
	b) progs=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
lib=${1:-$PWD/build/shim/libpreempt.so}
[ $# -eq 0 ] || shift
[ "$lib" = plain ] || [ -r "$lib" ] || { echo "stress.sh: no library $lib" >&2; exit 2; }
[ $# -gt 0 ] || set -- $("$progs" -l stress)
[ $# -gt 0 ] || { echo "stress.sh: no cases" >&2; exit 2; }
[ "$streams" -ge 1 ] || streams=1
dir=$(mktemp -d) || exit 2

# stream FIRST_ROUND CASE...: every STREAMS-th round
stream()
{
	round=$1
	shift
	while [ "$round" -le "$times" ] && [ ! -e "$dir/failed" ]; do
		# Each case meets each setting, whatever their number and that of the streams.
		PROGS_TIMEOUT="${PROGS_TIMEOUT:-120}" "$here/run.sh" -f -r $((round * 5)) -b "$progs" "$lib" "$@"
		status=$?
		if [ $status -ne 0 ] && [ $status -ne 77 ]; then
			echo "stress: round $round failed"
			: >"$dir/failed"
			return 1
		fi
		echo >>"$dir/rounds"
		done=$(wc -l <"$dir/rounds")
		[ $((done % 10)) -ne 0 ] || echo "stress: $done of $times rounds, $(($# * done)) runs passed"
		round=$((round + streams))
	done
}

pids=
trap 'kill $pids 2>/dev/null; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
i=0
while [ $i -lt "$(nproc)" ]; do
	nice sh -c 'while kill -0 $PPID 2>/dev/null; do i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; done' &
	pids="$pids $!"
	i=$((i + 1))
done
i=1
waits=
while [ $i -le "$streams" ]; do
	stream $i "$@" &
	waits="$waits $!"
	pids="$pids $!"
	# The next stream starts a few cases further on.
	n=$(($# / streams))
	while [ $n -gt 0 ]; do
		first=$1
		shift
		set -- "$@" "$first"
		n=$((n - 1))
	done
	i=$((i + 1))
done
for pid in $waits; do
	wait "$pid" || : >"$dir/failed"
done
[ ! -e "$dir/failed" ] || exit 1
echo "stress: $times rounds of $# cases passed"
