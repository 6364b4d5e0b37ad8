#!/bin/sh
# needed.sh LIB: the library needs libc and nothing else, for it is loaded into every program.
set -eu
export LC_ALL=C

extra=$(readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p' |
	grep -vxE 'libc\.so\.6|ld-linux-x86-64\.so\.2' || true)
if [ -n "$extra" ]; then
	echo "$1 needs:" $extra
	exit 1
fi
readelf -dW "$1" | grep -q 'NEEDED.*libc\.so\.6'
