// test_critical.c: which names are critical, and what follows from which function.

#include "safepoint.h"

// Names that must be, by kind.
START_TEST(names_yes)
{
	static const char *const names[] = {
		"malloc",
		"free",
		"_int_malloc",
		"tcache_put",
		"je_malloc",
		"mi_malloc",
		"tc_malloc",
		"posix_memalign",
		"__libc_malloc",
		"_Znwm",
		"_ZdaPvSt11align_val_t",
		"dlopen",
		"_dl_relocate_object",
		"__tls_get_addr",
		"_Unwind_RaiseException",
		"__cxa_guard_acquire",
		"__gxx_personality_v0",
		"fprintf",
		"fputs",
		"_IO_file_xsputn",
		"getline",
		"setlocale",
		"localtime_r",
		"rand",
		"syslog",
		"getaddrinfo",
		"pthread_mutex_lock",
		"__pthread_mutex_lock",
		"pthread_cond_wait@@GLIBC_2.3.2",
		"sem_post",
		"lll_lock",
		"__lll_lock_wait_private",
		"fork",
		"exit",
		"atexit",
		"my_spin_lock",
		"raw_spin_unlock_irq",
		"pthread_spin_lock",
		"spinlock",
		"take_spinlock",
		"spinlock_acquire",
		"uv_mutex_lock",
		"xyz_trylock",
		"mutex_unlock_slow",
		"_ZN4base9spin_lock7acquireEv",
		"_ZN8SpinLock4LockEv",
		"_ZNSt5mutex4lockEv",
		"malloc.cold",
		"_int_free.part.0",
		"arena_get2.constprop.0",
		"_int_malloc.isra.0.part.1.cold",
		"my_spin_lock.llvm.1234",
		"_RNvMNtNtNtNtCs_3std3sys4sync5mutex5futexNtB2_5Mutex14lock_contended",
		"__GI__IO_puts.cold"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		ck_assert_msg(critical_name(names[i], ""), "%s", names[i]);
}
END_TEST

// Names that compute, or run threads: a mark there would cost fairness.
START_TEST(names_no)
{
	static const char *const names[] = {"main",
					    "memcpy",
					    "strlen",
					    "floor",
					    "fmod",
					    "fcntl",
					    "qsort",
					    "gettext_hash",
					    "malloced",
					    "freeze",
					    "putative",
					    "getrandom",
					    "get",
					    "print",
					    "sort",
					    "start_thread",
					    "__libc_start_main",
					    "__libc_start_main@@GLIBC_2.34",
					    "__libc_start_call_main",
					    "__cxa_demangle",
					    "spinlock_worker",
					    "spinlocks_bench",
					    "lock",
					    "block",
					    "unlocked",
					    "randomize",
					    "syslog.Dial",
					    "exit.func1",
					    "free.",
					    "sync.(*Mutex).Lock",
					    "exit_code",
					    "forklift",
					    "zlib_deflate",
					    "_ZN3foo3barEv",
					    "_ZNSt6vectorIiSaIiEE9push_backERKi",
					    "",
					    ".cold",
					    "@"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		ck_assert_msg(!critical_name(names[i], ""), "%s", names[i]);
	ck_assert(!critical_name(NULL, "*"));
}
END_TEST

// The user's globs: joined by colons, empty ones and overlong ones ignored, full fnmatch syntax.
START_TEST(globs)
{
	char longname[2000];

	ck_assert(critical_name("my_thing", "my_*"));
	ck_assert(critical_name("my_thing.cold", "my_thing"));
	ck_assert(critical_name("other", "my_*:oth?r"));
	ck_assert(critical_name("x9", "::x[0-9]::"));
	ck_assert(!critical_name("my", "my_*:"));
	ck_assert(!critical_name("a", ":"));
	ck_assert(critical_name("malloc", NULL));
	memset(longname, 'a', sizeof(longname) - 1);
	longname[sizeof(longname) - 1] = 0;
	ck_assert(!critical_name(longname, longname));
	ck_assert(critical_name(longname, "a*"));
}
END_TEST

// Functions of 0x100 bytes at 0x1000, 0x1100, ...
enum { FUNCS = 8 };
static struct code_func code[FUNCS];
static uint64_t jumps[8];
static struct func funcs[FUNCS];
static struct section text = {".text", 0x1000, 0x100 * FUNCS, NULL};
static struct module m;
static struct code_facts facts;
static struct marks marks;

static void setup(void)
{
	memset(&m, 0, sizeof(m));
	memset(code, 0, sizeof(code));
	memset(funcs, 0, sizeof(funcs));
	for (unsigned i = 0; i < FUNCS; i++) {
		code[i].lo = 0x1000 + 0x100 * i;
		code[i].hi = code[i].lo + 0x100;
	}
	m.text = &text;
	m.ntext = 1;
	m.funcs = funcs;
	strcpy(m.soname, "prog");
	facts = (struct code_facts){.funcs = code, .n = FUNCS, .jumps = jumps};
	memset(&marks, 0, sizeof(marks));
}

static void teardown(void)
{
	marks_free(&marks);
}

static void name(unsigned i, const char *s)
{
	funcs[m.nfuncs++] = (struct func){.lo = code[i].lo, .hi = code[i].hi, .name = s};
}

static void jump(unsigned from, uint64_t to)
{
	if (!code[from].njumps++)
		code[from].first_jump = (uint32_t)facts.njumps;
	jumps[facts.njumps++] = to;
}

static unsigned critical(void)
{
	unsigned mask = 0;

	marks_free(&marks);
	ck_assert_int_eq(critical_mark(&m, &facts, "user_*", &marks), 0);
	for (unsigned i = 0; i < FUNCS; i++) {
		uint64_t n = marked_bytes(&marks, MARK_CRITICAL, code[i].lo, code[i].hi);

		ck_assert(n == 0 || n == 0x100);
		mask |= (n != 0) << i;
	}
	return mask;
}

// Whole functions by name, also by an alias, and by the user's globs.
START_TEST(by_name)
{
	name(0, "main");
	name(1, "alias");
	name(1, "malloc");
	name(2, "user_thing");
	name(3, "compute");
	ck_assert_uint_eq(critical(), 1 << 1 | 1 << 2);
}
END_TEST

// Lock instructions count in libc, and not in programs; threads' own functions never do.
START_TEST(by_locks)
{
	code[1].locks = code[2].locks = true;
	code[2].outermost = true;
	ck_assert_uint_eq(critical(), 0);
	strcpy(m.soname, "libc.so.6");
	ck_assert_uint_eq(critical(), 1 << 1);
	strcpy(m.soname, "libcrypto.so.3");
	ck_assert_uint_eq(critical(), 0);
}
END_TEST

// Modules that are critical as a whole.
START_TEST(whole)
{
	strcpy(m.soname, "ld-linux-x86-64.so.2");
	ck_assert_uint_eq(critical(), (1 << FUNCS) - 1);
	strcpy(m.soname, "libgcc_s.so.1");
	ck_assert_uint_eq(critical(), (1 << FUNCS) - 1);
}
END_TEST

// What a critical function jumps to: functions without a name, on and on, and back from a .cold part.
START_TEST(follows)
{
	name(0, "malloc");
	jump(0, code[3].lo);	    // unnamed
	jump(3, code[5].lo);	    // from there another
	jump(5, code[6].lo + 0x10); // into the middle: a part of 6
	name(6, "something");
	name(7, "something_else");
	jump(6,
	     code[7].lo); // static functions have names where there is a symbol table: small ones follow
	jump(6, 0x9999); // nowhere
	ck_assert_uint_eq(critical(), 1 << 0 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7);
	// Exported functions are judged by their names, with a symbol table as without.
	funcs[m.nfuncs - 1].exported = true;
	ck_assert_uint_eq(critical(), 1 << 0 | 1 << 3 | 1 << 5 | 1 << 6);
	m.source = TABLE_SYMTAB;
	ck_assert_uint_eq(critical(), 1 << 0 | 1 << 3 | 1 << 5 | 1 << 6);
	funcs[m.nfuncs - 1].exported = false;
	code[7].outermost = true;
	ck_assert_uint_eq(critical(), 1 << 0 | 1 << 3 | 1 << 5 | 1 << 6);
}
END_TEST

// Two functions that jump to each other end.
START_TEST(cycle)
{
	name(0, "free");
	jump(0, code[1].lo);
	jump(1, code[0].lo);
	ck_assert_uint_eq(critical(), 3);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, names_yes);
	tcase_add_test(tc, names_no);
	tcase_add_test(tc, globs);
	tcase_add_test(tc, by_name);
	tcase_add_test(tc, by_locks);
	tcase_add_test(tc, whole);
	tcase_add_test(tc, follows);
	tcase_add_test(tc, cycle);
}

int main(void)
{
	return unit_run("critical", add);
}
