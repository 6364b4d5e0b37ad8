#!/bin/sh
# exports.sh LIB MAP: the exported symbols are the public ABI of the library.
#
# 1. LIB exports what MAP lists, each under the node it is listed in, and nothing else.
# 2. For each name, every version that the running libc exports is exported by LIB as well: through
#    a version left out, calls of older programs would pass by the scheduler. And LIB exports no
#    older version that libc does not have.
# Exit status 1 with the differences, 77 if the running libc is not glibc for x86-64.
set -eu
export LC_ALL=C

lib=$1
map=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# "name version" of every exported symbol of $1 but the version nodes themselves.
exports() {
	nm -D --defined-only "$1" | awk '$2 != "A" && $3 ~ /@/ {
		split($3, part, /@+/)
		if (part[2] != "GLIBC_PRIVATE")
			print part[1], part[2]
	}' | sort -u
}

libc=$(ldd "$(command -v sh)" | awk '/libc\.so\.6/ { print $3; exit }')
if [ -z "$libc" ] || [ "$(uname -m)" != x86_64 ]; then
	echo "exports.sh: no glibc for x86-64 here, skipped"
	exit 77
fi

# "name node" of every symbol in the map.
sed -e 's|/\*.*\*/||' -e '/\/\*/,/\*\//d' "$map" | awk '
	/^LIBPREEMPT / { next }
	/^(GLIBC|PREEMPT)_/ { node = $1; next }
	/^local:/ { is_local = 1; next }
	/^global:/ { is_local = 0; next }
	/^}/ { is_local = 0; next }
	!is_local { gsub(/;/, " "); for (i = 1; i <= NF; i++) print $i, node }
' | sort -u >"$tmp/map"
exports "$lib" >"$tmp/lib"
exports "$libc" >"$tmp/libc"
cut -d' ' -f1 "$tmp/map" | sort -u >"$tmp/names"
join "$tmp/names" "$tmp/libc" | sort -u >"$tmp/wanted"

status=0
report() { # title, file
	if [ -s "$2" ]; then
		echo "$1:"
		sed 's/^/	/' "$2"
		status=1
	fi
}

comm -23 "$tmp/map" "$tmp/lib" >"$tmp/missing"
report "in the map, not exported" "$tmp/missing"

# An export that is not in the map is all right only as an older version of a name that is.
comm -13 "$tmp/map" "$tmp/lib" | comm -23 - "$tmp/wanted" >"$tmp/extra"
nm -D --defined-only "$lib" | awk '$2 != "A" && $3 !~ /@/ { print $3, "(no version)" }' \
	>>"$tmp/extra"
report "exported, neither in the map nor an older version that libc has" "$tmp/extra"

comm -13 "$tmp/lib" "$tmp/wanted" >"$tmp/bypass"
comm -23 "$tmp/bypass" "$tmp/map" >"$tmp/versions" # the rest was reported above
report "version of libc that programs would reach past the library" "$tmp/versions"

exit $status
