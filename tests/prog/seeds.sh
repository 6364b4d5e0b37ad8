#!/bin/sh
# The stress cases by schedules drawn from seeds: seeds.sh [-e N] [-b PROGS] LIB FIRST [LAST]
#
# PREEMPT_CHAOS goes from FIRST to LAST (FIRST if not said), PREEMPT_PROCS=1,2,4 and two slices with it. -e N: each seed runs every Nth case,
# the next seed the ones behind those; so N seeds run all. Goes on after a failure; a line for each, that repeats it: exit status 1.
here=$(dirname "$0")
every=1
progs=build/tests/prog/progs
while getopts e:b: opt; do
	case $opt in
	e) every=$OPTARG ;;
	b) progs=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
lib=$1 seed=$2 last=${3:-$2}
cases=$("$progs" -l stress)
[ -n "$cases" ] || { echo "seeds.sh: no cases" >&2; exit 2; }
result=0
while [ "$seed" -le "$last" ]; do
	case $((seed % 3)) in
	0) p=1 q=10ms ;;
	1) p=2 q=100us ;;
	2) p=4 q=100us ;;
	esac
	i=0
	for name in $cases; do
		i=$((i + 1))
		[ $((i % every)) -eq $((seed % every)) ] || continue
		PREEMPT_CHAOS=$seed PROGS_TIMEOUT="${PROGS_TIMEOUT:-120}" "$here/run.sh" -f -p $p -q $q -b "$progs" "$lib" "$name"
		status=$?
		if [ $status -ne 0 ] && [ $status -ne 77 ]; then
			echo "seeds: PREEMPT_CHAOS=$seed run.sh -f -p $p -q $q $name"
			result=1
		fi
	done
	seed=$((seed + 1))
done
exit $result
