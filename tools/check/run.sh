#!/bin/sh
# run.sh LIB CORE COMMAND: all static checks of the library, the core archive and the sources.
#
# One line per check: "check NAME: ok", "FAILED" or "skipped", the check's own words above it.
# A check exits 0 (ok), 77 (cannot be made here) or anything else. Exit status 1 if one failed.
set -u

lib=$1 core=$2 command=$3
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
status=0

check() {
	name=$1
	shift
	"$@"
	case $? in
	0) echo "check $name: ok" ;;
	77) echo "check $name: skipped" ;;
	*)
		echo "check $name: FAILED"
		status=1
		;;
	esac
}

check exports "$here/exports.sh" "$lib" "$root/shim/libpreempt.map"
check needed "$here/needed.sh" "$lib"
check symbols "$here/symbols.sh" "$core" "$here/core-symbols.allow"
check vectors "$here/vectors.sh" "$core"
check atomics "$here/atomics.sh" "$root"/shim/*.[ch] "$root"/shim/interpose/*.[ch]
check settings "$here/settings.sh" "$command" "$root/man/libpreempt.7" "$root/README.md"
check format "$here/format.sh" "$root"
check selftest "$here/selftest.sh"
exit $status
