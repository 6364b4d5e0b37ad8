#!/bin/sh
# format.sh ROOT: the C sources are as clang-format leaves them.
set -eu

if ! command -v clang-format >/dev/null; then
	echo "format.sh: no clang-format here"
	exit 77
fi
cd "$1"
find shim tools tests trampolines -name '*.[ch]' -exec clang-format --dry-run -Werror {} + 2>&1 |
	sed -n 's/: error:.*//p' | cut -d: -f1 | sort | uniq -c >"${TMPDIR:-/tmp}/format.$$"
status=0
if [ -s "${TMPDIR:-/tmp}/format.$$" ]; then
	echo "places to format:"
	cat "${TMPDIR:-/tmp}/format.$$"
	status=1
fi
rm -f "${TMPDIR:-/tmp}/format.$$"
exit $status
