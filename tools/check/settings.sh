#!/bin/sh
# settings.sh COMMAND TEXT...: each TEXT names exactly the settings that `COMMAND help env` prints.
set -eu
export LC_ALL=C

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
command=$1
shift

names() {
	grep -oE 'PREEMPT_[A-Z_]+' | sort -u
}

"$command" help env >"$tmp/help"
grep -oE '^ *PREEMPT_[A-Z_]+' "$tmp/help" | names >"$tmp/table"
[ -s "$tmp/table" ]
status=0
for text in "$@"; do
	sed 's/\\-/-/g' "$text" | names >"$tmp/text" || true
	if ! diff "$tmp/table" "$tmp/text" >"$tmp/diff"; then
		echo "settings in the table (<) and in $text (>):"
		grep '^[<>]' "$tmp/diff"
		status=1
	fi
done
exit $status
