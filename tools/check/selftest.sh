#!/bin/sh
# selftest.sh: each check fails on a bad input and passes on a good one.
set -u
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
cc=${CC:-cc}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1
status=0

# expect pass|fail WHAT CHECK ARG...
expect() {
	want=$1 what=$2 check=$3
	shift 3
	if "$here/$check" "$@" >out 2>&1; then got=pass; else got=fail; fi
	if [ $got != "$want" ]; then
		echo "selftest: $check on $what: expected to $want"
		sed 's/^/	/' out
		status=1
	fi
}

compile() { # NAME.c FLAG...: an archive NAME.a
	name=${1%.c}
	shift
	$cc -O2 -ffreestanding -c "$name.c" -o "$name.o" "$@" && ar rcs "$name.a" "$name.o"
}

# symbols, vectors
cat >good.c <<'EOF'
int twice(int x);
int twice(int x)
{
	return 2 * x;
}
EOF
cat >libc.c <<'EOF'
extern void *malloc(unsigned long);
void *f(void);
void *f(void)
{
	return malloc(8);
}
EOF
cat >vector.c <<'EOF'
double f(double x);
double f(double x)
{
	return x * x;
}
EOF
cat >x87.c <<'EOF'
long double f(long double x);
long double f(long double x)
{
	return x + x;
}
EOF
cat >rax.c <<'EOF'
void f(void);
void f(void)
{
	__asm__ volatile("movl $1, %%eax\n\tmovq %%rax, %%rbx" ::: "rax", "rbx");
}
EOF
for f in good libc vector x87 rax; do
	compile $f.c || exit 1
done
echo '# nothing' >none.allow
expect pass "a core without references" symbols.sh good.a none.allow
expect fail "a core that calls malloc" symbols.sh libc.a none.allow
echo 'malloc # allowed' >malloc.allow
expect pass "a reference that is allowed" symbols.sh libc.a malloc.allow
expect fail "no archive" symbols.sh missing.a none.allow
expect pass "general registers" vectors.sh rax.a
expect fail "an SSE instruction" vectors.sh vector.a
expect fail "an x87 instruction" vectors.sh x87.a
expect fail "no archive" vectors.sh missing.a

# needed
echo 'int puts(const char *); int f(void); int f(void) { return puts("f"); }' >lib.c
$cc -shared -fPIC lib.c -o good.so
$cc -shared -fPIC lib.c -o bad.so -Wl,--no-as-needed -lm
expect pass "a library that needs libc" needed.sh good.so
expect fail "a library that needs libm" needed.sh bad.so

# exports
cat >map <<'EOF'
GLIBC_2.2.5 {
global:
	sleep;
local:
	*;
};
EOF
echo 'unsigned sleep(unsigned s); unsigned sleep(unsigned s) { return s; }' >sleep.c
$cc -shared -fPIC sleep.c -o exact.so -Wl,--version-script=map
sed 's/sleep/usleep/' map >other.map
cat >more.map <<'EOF'
GLIBC_2.2.5 {
global:
	sleep;
	more;
local:
	*;
};
EOF
echo 'unsigned sleep(unsigned s); unsigned sleep(unsigned s) { return s; } int more(void); int more(void) { return 0; }' >more.c
$cc -shared -fPIC more.c -o more.so -Wl,--version-script=more.map
"$here/exports.sh" exact.so map >/dev/null 2>&1
if [ $? != 77 ]; then
	expect pass "the exports of the map" exports.sh exact.so map
	expect fail "an export that the map lacks" exports.sh more.so map
	expect fail "a name of the map that is not exported" exports.sh exact.so more.map
fi

# atomics
cat >good.h <<'EOF'
	store_release(&x, 1); // pairs with load_acquire in reader
	// pairs with store_release in writer
	v = load_acquire(&x);
	if (cas(&x, 1,
		2)) // against the other cas
		load_relaxed(&x);
	puts("xchg(");
EOF
printf '\tfetch_add(&x, 1);\n' >bare.h
printf '\tfetch_add(&x, 1); // pairs with y\n\txchg(&x, 1);\n' >second.h
printf '\tcas(&x, 1, 2); // CAS\n' >empty.h
printf '\t// pairs with y\n\n\tcas(&x, 1, 2);\n' >far.h
printf '\t__atomic_store_n(&x, 1, __ATOMIC_SEQ_CST);\n' >builtin.h
expect pass "commented accesses" atomics.sh good.h
for f in bare second empty far builtin; do
	expect fail "$f.h" atomics.sh $f.h
done

# settings
cat >command <<'EOF'
#!/bin/sh
printf 'PREEMPT_ONE=SWITCH (default 0)\n  text\n\nPREEMPT_TWO=TEXT\n  text\n'
EOF
chmod +x command
printf 'PREEMPT_ONE and PREEMPT_TWO\n' >both
printf 'PREEMPT_ONE\n' >few
printf 'PREEMPT_ONE PREEMPT_TWO PREEMPT_THREE\n' >many
expect pass "a text with all settings" settings.sh ./command both
expect fail "a text that lacks one" settings.sh ./command both few
expect fail "a text that invents one" settings.sh ./command many

# format
if command -v clang-format >/dev/null; then
	mkdir -p tree/shim tree/tools tree/tests tree/trampolines
	cp "$here/../../.clang-format" tree/
	printf 'int x(void)\n{\n\treturn 1;\n}\n' >tree/shim/x.c
	expect pass "formatted source" format.sh tree
	printf 'int x(void) { return 1; }\n' >tree/shim/x.c
	expect fail "unformatted source" format.sh tree
fi
exit $status
