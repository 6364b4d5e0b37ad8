#!/bin/bash
# lint.sh BUILD: cppcheck and clang-tidy over the library and the command, as compiled in BUILD (ninja -C build lint).
#
# What is not looked at, and why, is in .clang-tidy and cppcheck.suppress. A tool that is missing is skipped with a line; exit status 77 if
# both are, 1 if one has something to say.
set -u
build=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/../.." || exit 2
status=77

if command -v cppcheck >/dev/null; then
	((status == 77)) && status=0
	cppcheck --enable=warning,performance,portability --std=c11 --quiet --error-exitcode=1 --inline-suppr \
		--suppressions-list=<(grep -v '^//' tools/check/cppcheck.suppress) \
		-D__x86_64__ -D_GNU_SOURCE -DPREEMPT_VERSION='"x"' -DPREEMPT_SYSTEM_CACHE='"x"' -DPREEMPT_BINDIR='"x"' \
		-DPREEMPT_LIBDIR='"x"' -DPREEMPT_LIBDIR_NAME='"x"' \
		-I shim -I include -I trampolines/x86_64 -I tools -I tools/safepoint shim tools || status=1
	echo "lint: cppcheck done"
else
	echo "lint: cppcheck skipped, it is not installed"
fi

if command -v clang-tidy >/dev/null; then
	((status == 77)) && status=0
	dir=$(mktemp -d) || exit 2
	trap 'rm -rf "$dir"' EXIT
	# gcc's own options are not clang's. Each source once: some are compiled for several programs.
	python3 - "$build" "$dir" <<'EOF'
import json
import os
import sys

build, out = sys.argv[1:3]
gcc_only = ("-fno-tree-loop-distribute-patterns",)
seen, commands = set(), []
for c in json.load(open(f"{build}/compile_commands.json", encoding="utf-8")):
    path = os.path.normpath(os.path.join(c["directory"], c["file"]))
    part = os.path.relpath(path).split("/")[0]
    if path in seen or not path.endswith(".c") or part not in ("shim", "tools") or "PREEMPT_FAULTS" in c["command"]:
        continue
    seen.add(path)
    c["command"] = " ".join(w for w in c["command"].split(" ") if w not in gcc_only)
    commands.append(c)
json.dump(commands, open(f"{out}/compile_commands.json", "w", encoding="utf-8"))
open(f"{out}/files", "w", encoding="utf-8").writelines(p + "\n" for p in sorted(seen))
EOF
	xargs -a "$dir/files" -n 4 -P 2 clang-tidy -p "$dir" --quiet >"$dir/log" 2>/dev/null || status=1
	grep -E 'warning:|error:' "$dir/log" | sort -u | head -n 60
	echo "lint: clang-tidy done"
else
	echo "lint: clang-tidy skipped, it is not installed"
fi
exit $status
