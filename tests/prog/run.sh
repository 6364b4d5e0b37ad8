#!/bin/sh
# Runs cases of progs: run.sh [-f] [-p PROCS] [-q QUANTUM] [-r K] [-b PROGS] LIB CASE...
#
# LIB is the library to preload, or "plain" for none. Without -p and -q each case runs under the
# whole matrix, PREEMPT_PROCS=1,2,4 by PREEMPT_QUANTUM=100us,10ms. With -r (rotate) the first case runs once, with the
# K-th of these settings, the second with the next, and so on to the first failure. The library is preloaded into
# the program alone. Exit 0 if all pass, 77 if all that did not pass were skipped, else 1. A run
# that does not end is reported with the backtraces of its threads if gdb is there; with -f (fast) its own
# watchdog kills it.
procs="1 2 4"
quanta="100us 10ms"
progs=$(dirname "$0")/progs
fast=
rotate=
while getopts fp:q:r:b: opt; do
	case $opt in
	f) fast=1 ;;
	p) procs=$OPTARG ;;
	q) quanta=$OPTARG ;;
	r) rotate=$OPTARG ;;
	b) progs=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
lib=$1
shift
case $lib in
/* | plain) ;;
*) lib=$PWD/$lib ;; # a case may go to another directory
esac
limit=${PROGS_TIMEOUT:-30}
# Tables of the programs under test go here, not to the user's cache.
[ -n "${PREEMPT_CACHE_DIR:-}" ] || PREEMPT_CACHE_DIR=$(cd "$(dirname "$progs")" && pwd)/cache
export PREEMPT_CACHE_DIR
mkdir -p -m 700 "$PREEMPT_CACHE_DIR"
out=$(mktemp) || exit 2
trap 'rm -f "$out"' EXIT
result=0

# one CASE [NAME=VALUE...]: the case with these settings, its verdict against what it printed.
one() {
	name=$1
	shift
	[ "$lib" = plain ] || set -- "$@" "LD_PRELOAD=$lib"
	if [ "$fast" ]; then
		(export PROGS_TIMEOUT="$limit" "$@" && exec "$progs" "$name") >"$out" 2>&1
		verdict $? "$name" "$@"
		return
	fi
	env PROGS_TIMEOUT=$((limit + 10)) "$@" "$progs" "$name" >"$out" 2>&1 &
	pid=$!
	# The watcher gives up on its own, and shows where a program that hangs is.
	(
		i=0
		while [ $i -lt $((limit * 10)) ]; do
			kill -0 $pid 2>/dev/null || exit 0
			sleep 0.1
			i=$((i + 1))
		done
		echo "HANG $name $*"
		command -v gdb >/dev/null &&
			gdb -p $pid -batch -ex 'thread apply all bt' </dev/null 2>/dev/null
		kill -9 $pid
	) >"$out.hang" 2>&1 &
	watcher=$!
	wait $pid 2>/dev/null
	status=$?
	if [ -s "$out.hang" ]; then
		wait $watcher 2>/dev/null
		cat "$out.hang" >&2
	else
		kill $watcher 2>/dev/null
		wait $watcher 2>/dev/null
	fi
	rm -f "$out.hang"
	verdict $status "$name" "$@"
}

# It printed OK and nothing else. No process is started for it.
said_ok() {
	{ IFS= read -r said && [ "$said" = OK ] && ! IFS= read -r said && [ -z "$said" ]; } <"$out"
}

# verdict STATUS CASE [NAME=VALUE...]
verdict() {
	status=$1
	name=$2
	shift 2
	# Where the library must step aside it says so, and nothing else.
	[ "$name" != rlimit_nproc ] ||
		sed -i '/^libpreempt: .*without the scheduler$/d' "$out"
	if [ $status -eq 77 ]; then
		cat "$out" >&2
		[ $result -ne 0 ] || result=77
	elif [ $status -ne 0 ] || ! said_ok; then
		echo "FAIL $name $*: status $status" >&2
		sed 's/^/    /' "$out" >&2
		result=1
	fi
}

# K-th setting of the matrix, from 0: neighbours differ in both.
rotated() {
	case $(($1 % 6)) in
	0) procs=1 quanta=100us ;;
	1) procs=2 quanta=10ms ;;
	2) procs=4 quanta=100us ;;
	3) procs=1 quanta=10ms ;;
	4) procs=2 quanta=100us ;;
	5) procs=4 quanta=10ms ;;
	esac
}

for name; do
	if [ "$rotate" ]; then
		[ $result -ne 1 ] || break
		rotated "$rotate"
		rotate=$((rotate + 1))
	fi
	if [ "$lib" = plain ]; then
		one "$name"
		continue
	fi
	for p in $procs; do
		for q in $quanta; do
			# 10 ms: where there are no tables, 100 would make a minute of some cases.
			one "$name" PREEMPT_PROCS="$p" PREEMPT_QUANTUM="$q" PREEMPT_FORCE_AFTER=10ms
		done
	done
done
exit $result
