#!/bin/sh
# atomics.sh FILE...: every ordered atomic access says what it pairs with.
#
# The comment stands on a line of the same statement or on the line directly above it. An access
# without an order (load_relaxed, store_relaxed, count_relaxed) needs none. atomic.h, which defines
# the macros, is passed over, and so that no file goes round them, __atomic and __sync builtins are
# accepted with a comment only, too.
set -eu
export LC_ALL=C

exec awk '
function done() {
	if (at && !said) {
		print where ": no comment that names the partner: " what
		bad = 1
	}
	at = said = 0
}
FNR == 1 { done(); above = 0; skip = FILENAME ~ /(^|\/)atomic\.h$/ }
skip { next }
{
	code = $0
	gsub(/"([^"\\]|\\.)*"/, "\"\"", code)
	comment = ""
	if (i = index(code, "//")) {
		comment = substr(code, i + 2)
		code = substr(code, 1, i - 1)
	}
	words = comment ~ /[A-Za-z_]+[^A-Za-z_]+[A-Za-z_]+/
	if (code ~ /^[ \t]*$/) { # a comment, or empty
		above = comment == "" ? 0 : above || words
		next
	}
	if (match(code, /(^|[^A-Za-z_0-9])(load_acquire|load_seq_cst|store_release|xchg|fetch_add|fetch_sub|fetch_or|fetch_and|cas|__(atomic|sync)_[a-z_]+)[ \t]*\(/)) {
		if (!at) {
			at = 1
			where = FILENAME ":" FNR
			what = code
			sub(/^[ \t]+/, "", what)
			said = above
		}
	}
	if (at && words)
		said = 1
	above = 0
	if (code ~ /[;{}:][ \t]*$/)
		done()
}
END { done(); exit bad }
' "$@"
