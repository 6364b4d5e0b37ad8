#!/bin/sh
# Repeats the concurrency cases under load: stress.sh [-n TIMES] [-b PROGS] [LIB [CASE...]]
#
# Each round runs every case once (default 1000 rounds; all cases of `progs -l stress`), with the
# settings rotating through PREEMPT_PROCS=1,2,4 by PREEMPT_QUANTUM=100us,10ms, beside two busy
# processes for each CPU. Stops at the first failure or hang, naming the case and its settings.
# LIB is the library, by default the one of the build directory; "plain" for none.
here=$(dirname "$0")
times=1000
progs=build/tests/prog/progs
while getopts n:b: opt; do
	case $opt in
	n) times=$OPTARG ;;
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

load=
i=0
while [ $i -lt $(($(nproc) * 2)) ]; do
	sh -c 'while kill -0 $PPID 2>/dev/null; do i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; done' &
	load="$load $!"
	i=$((i + 1))
done
trap 'kill $load 2>/dev/null' EXIT
trap 'exit 130' INT TERM

k=0
round=1
while [ $round -le "$times" ]; do
	for name; do
		case $((k % 6)) in
		0) p=1 q=100us ;;
		1) p=2 q=10ms ;;
		2) p=4 q=100us ;;
		3) p=1 q=10ms ;;
		4) p=2 q=100us ;;
		5) p=4 q=10ms ;;
		esac
		"$here/run.sh" -p $p -q $q -b "$progs" "$lib" "$name"
		status=$?
		if [ $status -ne 0 ] && [ $status -ne 77 ]; then
			echo "stress: round $round: $name failed, PREEMPT_PROCS=$p PREEMPT_QUANTUM=$q"
			exit 1
		fi
		k=$((k + 1))
	done
	# Each case meets each setting, whatever their number.
	k=$((round * 5))
	[ $((round % 10)) -ne 0 ] || echo "stress: $round of $times rounds, $(($# * round)) runs passed"
	round=$((round + 1))
done
echo "stress: $times rounds of $# cases passed"
