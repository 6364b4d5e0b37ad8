#!/bin/sh
# vectors.sh CORE: no instruction of the core touches a vector, mask or x87 register.
#
# A preempted thread's vector state is left in place, not saved, so the shim must not change it.
set -eu
export LC_ALL=C

tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT

objdump -d --no-show-raw-insn -M att "$1" >"$tmp"
grep -q '%r[a-d]x' "$tmp" # it was disassembled at all
if grep -nE '%([xyz]?mm[0-9]+|st\b|k[0-7]\b)|\s(f(ld|st|add|sub|mul|div|ild|ist)[a-z0-9]*|emms|v?zero(upper|all)|fxsave|fxrstor|xsave|xrstor)[a-z0-9]*\b' \
	"$tmp" | head -20 | grep .; then
	exit 1
fi
