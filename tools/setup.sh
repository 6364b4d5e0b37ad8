#!/bin/bash
# setup.sh demo|test: from a fresh Debian 12 machine to a comparison, or to the tests' result.
#
# Installs the Debian packages that are missing (as root or with sudo; nothing is fetched when all are
# there), builds into build/, then
#   demo  runs unmodified programs plain and under the library and prints what changed
#   test  runs every test and static check; the last line is "N passed, N failed[, N skipped]",
#         exit status 0 only if all pass
set -u
cd "$(dirname "$0")/.." || exit 1
export DEBIAN_FRONTEND=noninteractive
unset LD_PRELOAD
for name in $(compgen -e PREEMPT_); do
	unset "$name"
done

build=build
logs=$build/setup-logs

say() {
	printf '== %s\n' "$*"
}

die() {
	printf 'setup.sh: %s\n' "$*" >&2
	exit 1
}

install_packages() {
	local missing=() package sudo=

	for package; do
		dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' ||
			missing+=("$package")
	done
	((${#missing[@]})) || return 0
	say "installing ${missing[*]}"
	if ((EUID != 0)); then
		command -v sudo >/dev/null || die "need root or sudo to install: ${missing[*]}"
		sudo="sudo --preserve-env=DEBIAN_FRONTEND"
	fi
	$sudo apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return
	$sudo apt-get -qq update >/dev/null &&
		$sudo apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null ||
		die "could not install: ${missing[*]}"
}

# configure_and_build DIR [MESON-OPTION...]; CC is passed through.
configure_and_build() {
	local dir=$1

	shift
	mkdir -p "$logs"
	if [[ ! -f $dir/build.ninja ]]; then
		rm -rf "$dir/meson-private" "$dir/meson-info"
		meson setup "$dir" "$@" >"$logs/configure.log" 2>&1 || {
			tail -n 20 "$logs/configure.log"
			return 1
		}
	fi
	meson compile -C "$dir" >"$logs/compile.log" 2>&1 || {
		grep -E 'error|warning|FAILED|undefined' "$logs/compile.log" | head -n 30
		return 1
	}
}

# What some tests run beside the library. They are skipped where it cannot be had.
companions=(g++ strace nginx-light golang-go nodejs libjemalloc2 libmimalloc2.0 libtcmalloc-minimal4
	libeatmydata1 libfaketime gnuplot-nox valgrind libboost-context-dev libtbb-dev libomp-dev libclang-rt-14-dev
	tmux systemtap-sdt-dev bpftrace)

base=(gcc libc6-dev meson ninja-build pkg-config python3 binutils libelf-dev libdwarf-dev libzydis-dev
	libjansson-dev libncurses-dev)

# --- demo -----------------------------------------------------------------------------------------

demo() {
	install_packages "${base[@]}" check pigz xz-utils
	say "building"
	configure_and_build "$build" || die "the build failed"
	tools/demo.py "$build"
}

# --- test -----------------------------------------------------------------------------------------

passed=0 failed=0 skipped=0

# result NAME STATUS: count one result, say it; STATUS 0, 77 or a failure.
result() {
	case $2 in
	0)
		echo "ok       $1"
		((passed++))
		;;
	77)
		echo "skipped  $1"
		((skipped++))
		;;
	*)
		echo "FAILED   $1"
		((failed++))
		;;
	esac
}

# Counts from meson's testlog.json; failures and the reasons of skips are printed.
count_tests() {
	local numbers

	numbers=$(python3 - "$1" <<'EOF'
import json
import sys

names = {"OK": 0, "EXPECTEDFAIL": 0, "SKIP": 2}
count = [0, 0, 0]
try:
    for line in open(sys.argv[1]):
        test = json.loads(line)
        kind = names.get(test["result"], 1)
        count[kind] += 1
        if kind == 0:
            continue
        words = (test.get("stdout", "") + "\n" + test.get("stderr", "")).strip().splitlines()
        label = "skipped " if kind == 2 else "FAILED  "
        print(f"{label} {test['name']} ({test['result']})", file=sys.stderr)
        for text in words[-(3 if kind == 2 else 30):]:
            print("    " + text, file=sys.stderr)
except (OSError, ValueError) as e:
    print(f"FAILED   the test log: {e}", file=sys.stderr)
    count[1] += 1
print(*count)
EOF
)
	read -r p f s <<<"$numbers"
	((passed += p, failed += f, skipped += s))
}

run_tests() {
	local dir=$build log=$build/meson-logs/testlog.json line rc

	install_packages "${base[@]}" check clang clang-format gdb libunwind-dev spin
	(install_packages "${companions[@]}") || say "some tests will be skipped"
	say "gcc: build"
	CC=gcc configure_and_build "$build"
	rc=$?
	result "build with gcc, no warnings" $rc
	if ((rc == 0)); then
		say "tests"
		rm -f "$log"
		meson test -C "$build" --no-rebuild --print-errorlogs >"$logs/test.log" 2>&1
		rc=$?
		count_tests "$log"
		if ((rc != 0 && failed == 0)); then
			tail -n 20 "$logs/test.log"
			result "meson test" $rc
		fi
		sed -n '/^Ok:/,/^Timeout:/p' "$logs/test.log"

		say "static checks"
		tools/check/run.sh "$build/shim/libpreempt.so" "$build/shim/libcore.a" \
			"$build/tools/preempt" >"$logs/check.log" 2>&1
		while IFS= read -r line; do
			case $line in
			'check '*': ok') result "${line%: *}" 0 ;;
			'check '*': skipped') result "${line%: *}" 77 ;;
			'check '*': FAILED') result "${line%: *}" 1 ;;
			*) printf '    %s\n' "$line" ;;
			esac
		done <"$logs/check.log"

		say "cppcheck, clang-tidy"
		tools/check/lint.sh "$build" >"$logs/lint.log" 2>&1
		rc=$?
		((rc)) && head -n 30 "$logs/lint.log"
		result "cppcheck and clang-tidy" $rc

		say "installation"
		rm -rf "$logs/root"
		DESTDIR=$PWD/$logs/root meson install -C "$build" --no-rebuild \
			>"$logs/install.log" 2>&1 &&
			PREEMPT_CACHE_DIR=$PWD/$logs/tables \
				"$(find "$logs/root" -path '*/bin/preempt')" run -- true
		result "installed command finds the installed library" $?
	fi

	say "clang: build"
	CC=clang configure_and_build "$build-clang"
	result "build with clang, no warnings" $?

	say "sanitizers"
	tests/sanitize address >"$logs/sanitize.log" 2>&1
	rc=$?
	((rc)) && tail -n 30 "$logs/sanitize.log"
	result "unit tests with AddressSanitizer and UndefinedBehaviorSanitizer" $rc

	say "fuzzers, some seconds each"
	tests/fuzz/run -c -s 4 >"$logs/fuzz.log" 2>&1
	rc=$?
	((rc)) && grep -v 'Uses:' "$logs/fuzz.log" | tail -n 30
	result "fuzzers" $rc

	say "coverage"
	tests/coverage 88 >"$logs/coverage.log" 2>&1
	rc=$?
	tail -n 1 "$logs/coverage.log"
	result "the tests reach 88 % of the lines of the core" $rc

	printf '%d passed, %d failed' $passed $failed
	((skipped)) && printf ', %d skipped' $skipped
	echo
	((failed == 0))
}

case ${1:-} in
demo) demo ;;
test) run_tests ;;
*)
	echo "usage: tools/setup.sh demo|test" >&2
	exit 2
	;;
esac
