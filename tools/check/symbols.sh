#!/bin/sh
# symbols.sh CORE ALLOW: the core calls nothing outside itself but what ALLOW lists, one name a line.
#
# Nearly everything in the core may be reached from the signal handler or with a lock of the shim
# held; a call of libc there may deadlock or damage libc's state.
set -eu
export LC_ALL=C

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

nm "$1" >"$tmp/nm"
awk 'NF == 3 && $2 ~ /[A-TV-Z]/ { print $3 } NF == 3 && $2 ~ /[vw]/ { print $3 }' "$tmp/nm" |
	sort -u >"$tmp/defined"
awk 'NF == 2 && $1 ~ /[Uvw]/ { print $2 }' "$tmp/nm" | sort -u >"$tmp/undefined"
sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$2" | sort -u >"$tmp/allowed"
[ -s "$tmp/defined" ]

comm -23 "$tmp/undefined" "$tmp/defined" | comm -23 - "$tmp/allowed" >"$tmp/extra"
if [ -s "$tmp/extra" ]; then
	echo "the core refers to:" $(cat "$tmp/extra")
	exit 1
fi
