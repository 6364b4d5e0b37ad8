#!/bin/sh
# The session of README.md, on an unmodified program of Debian (package sysbench) and on bank.c: session.sh [DIRECTORY]. preempt is in PATH.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-.}"
job="sysbench mutex --threads=64 --mutex-num=1 --mutex-locks=${LOCKS:-150000} --mutex-loops=0 run"

say() {
	printf '$ %s\n' "$*"
	eval "$*"
	echo
}

say "preempt doctor sysbench"
say "preempt compare -- $job"
say "preempt run -- $job | grep 'total time'"
say "preempt stat -- $job > /dev/null"
say "preempt trace record -o job.trace -- $job > /dev/null"
say "preempt trace report job.trace"
say "cc -g -pthread -o bank $here/bank.c"
echo '$ preempt run -- ./bank &'
preempt run -- ./bank 2> bank.err &
for i in $(seq 60); do # the report comes after a second and a half
	sleep 1
	! grep -q deadlock: bank.err || break
done
cat bank.err
echo
pid=$!
say "preempt dump $pid"
kill "$pid"
wait || true
