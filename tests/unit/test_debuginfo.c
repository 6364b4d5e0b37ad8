// test_debuginfo.c: inlined instances found through DWARF, in files compiled here.

#include "safepoint.h"

#include <fcntl.h>
#include <libelf.h>
#include <gelf.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const char source[] =
	"static inline __attribute__((always_inline)) void my_spin_lock(volatile int *l)\n"
	"{ while (__atomic_exchange_n(l, 1, 2)) if (*l > 5) __builtin_trap(); }\n"
	"static inline __attribute__((always_inline)) int compute(int x) { return x * 3 + 1; }\n"
	"static __attribute__((noinline)) void static_mutex_unlock(volatile int *l) { *l = 0; }\n"
	"int f(volatile int *l, int x);\n"
	"int f(volatile int *l, int x)\n"
	"{ my_spin_lock(l); x = compute(x) / *l; static_mutex_unlock(l); return x; }\n"
	"int g(volatile int *l, int x);\n"
	"int g(volatile int *l, int x) { { x += compute(x); if (x > 7) { my_spin_lock(l); x++; } } "
	"return x; }\n";

static char dir[] = "/tmp/debuginfo-XXXXXX";
static struct marks marks;
static struct module m;

static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int run(const char *fmt, ...)
{
	char cmd[2000];
	va_list ap;
	int n = snprintf(cmd, sizeof(cmd), "cd %s && ", dir);

	va_start(ap, fmt);
	vsnprintf(cmd + n, sizeof(cmd) - (size_t)n, fmt, ap);
	va_end(ap);
	return system(cmd);
}

static const char *in_dir(const char *name)
{
	static char path[2][200];
	static unsigned i;

	i ^= 1;
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static void compile(const char *flags)
{
	const char *cc = getenv("CC");
	FILE *f = fopen(in_dir("t.c"), "w");

	ck_assert_ptr_nonnull(f);
	fputs(source, f);
	fclose(f);
	ck_assert_int_eq(
		run("%s %s -O2 -fPIC -shared -Wl,--build-id -o t.so t.c", cc ? cc : "cc", flags),
		0);
}

// The executable sections and nothing else, as elf.c would fill it. debug: name of a debug file, or NULL.
static void open_module(const char *name, const char *debug)
{
	static struct section text[8];
	Elf_Scn *scn = NULL;
	GElf_Shdr sh;

	memset(&m, 0, sizeof(m));
	elf_version(EV_CURRENT);
	m.path = strdup(in_dir(name));
	m.fd = open(m.path, O_RDONLY);
	m.elf = elf_begin(m.fd, ELF_C_READ_MMAP, NULL);
	ck_assert_ptr_nonnull(m.elf);
	m.debug_fd = -1;
	if (debug) {
		m.debug_path = strdup(in_dir(debug));
		m.debug_fd = open(m.debug_path, O_RDONLY);
		m.debug_elf = elf_begin(m.debug_fd, ELF_C_READ_MMAP, NULL);
		ck_assert_ptr_nonnull(m.debug_elf);
	}
	m.text = text;
	while ((scn = elf_nextscn(m.elf, scn))) {
		if (gelf_getshdr(scn, &sh) && sh.sh_flags & SHF_EXECINSTR && m.ntext < 8)
			text[m.ntext++] = (struct section){"", sh.sh_addr, sh.sh_size, NULL};
	}
}

static void close_module(void)
{
	elf_end(m.debug_elf);
	elf_end(m.elf);
	if (m.debug_fd >= 0)
		close(m.debug_fd);
	close(m.fd);
	free(m.debug_path);
	free((char *)m.path);
	marks_free(&marks);
}

static void symbol(const char *file, const char *name, uint64_t *ret_lo, uint64_t *ret_hi)
{
	unsigned long lo, size;
	FILE *f;

	ck_assert_int_eq(run("nm -S %s | grep ' %s$' >sym", file, name), 0);
	f = fopen(in_dir("sym"), "r");
	ck_assert_int_eq(fscanf(f, "%lx %lx", &lo, &size), 2);
	fclose(f);
	*ret_lo = lo;
	*ret_hi = lo + size;
}

// What every form of debug information must yield: a part of f and a part of g, and all of the static function.
static void check_marks(const char *symbols)
{
	uint64_t lo, hi, n;

	ck_assert_int_eq(debuginfo_mark(&m, "", &marks), 0);
	symbol(symbols, "f", &lo, &hi);
	n = marked_bytes(&marks, MARK_CRITICAL, lo, hi);
	ck_assert_uint_gt(n, 0);
	ck_assert_uint_lt(n, hi - lo);
	// The lock comes before the division and the return.
	ck_assert(!marked(&marks, MARK_CRITICAL, hi - 1, hi, ANY));
	symbol(symbols, "g", &lo, &hi);
	n = marked_bytes(&marks, MARK_CRITICAL, lo, hi);
	ck_assert_uint_gt(n, 0);
	ck_assert_uint_lt(n, hi - lo);
	symbol(symbols, "static_mutex_unlock", &lo, &hi);
	ck_assert(marked(&marks, MARK_CRITICAL, lo, hi, ANY));
	ck_assert(m.source & TABLE_DEBUG_INFO);
	ck_assert(m.source & TABLE_DEBUG_LINE);
}

static const char *const forms[] = {"-g -gdwarf-4", "-g -gdwarf-5", "-g -gdwarf-5 -gz=zlib",
				    "-g -gdwarf-4 -fdebug-types-section",
				    "-g -gdwarf-5 -ffunction-sections -fno-omit-frame-pointer"};

// DWARF 4 and 5, compressed or not, with ranges of both kinds.
START_TEST(versions)
{
	compile(forms[_i]);
	open_module("t.so", NULL);
	check_marks("t.so");
	ck_assert(!(m.source & TABLE_DEBUG_ALT));
	close_module();
}
END_TEST

// The user's globs count for inlined functions as well.
START_TEST(globs)
{
	uint64_t lo, hi, before;

	compile("-g");
	open_module("t.so", NULL);
	symbol("t.so", "f", &lo, &hi);
	ck_assert_int_eq(debuginfo_mark(&m, "", &marks), 0);
	before = marked_bytes(&marks, MARK_CRITICAL, lo, hi);
	ck_assert_int_eq(debuginfo_mark(&m, "comp?te", &marks), 0);
	ck_assert_uint_gt(marked_bytes(&marks, MARK_CRITICAL, lo, hi), before);
	close_module();
}
END_TEST

// The debug information is in another file, the module is stripped.
START_TEST(separate)
{
	compile("-g");
	ck_assert_int_eq(
		run("objcopy --only-keep-debug t.so t.debug && cp t.so full.so && strip t.so"), 0);
	open_module("t.so", "t.debug");
	check_marks("full.so");
	close_module();
}
END_TEST

// No debug information: nothing happens.
START_TEST(none)
{
	compile("");
	open_module("t.so", NULL);
	ck_assert_int_eq(debuginfo_mark(&m, "*", &marks), 0);
	ck_assert_uint_eq(marks.n, 0);
	ck_assert_uint_eq(m.source, 0);
	close_module();
}
END_TEST

// dwz has moved the common part to another file: names are found there, and without it nothing goes wrong.
START_TEST(alternate)
{
	if (run("dwz --version >out 2>&1")) {
		puts("test_debuginfo: no dwz, the alternate file is not tested");
		return;
	}
	compile("-g -gdwarf-4");
	ck_assert_int_eq(run("cp t.so u.so && dwz -m common t.so u.so && test -s common"), 0);
	open_module("t.so", NULL);
	check_marks("t.so");
	ck_assert(m.source & TABLE_DEBUG_ALT);
	close_module();
	ck_assert_int_eq(run("rm common"), 0);
	open_module("t.so", NULL);
	ck_assert_int_eq(debuginfo_mark(&m, "", &marks), 0);
	ck_assert(!(m.source & TABLE_DEBUG_ALT));
	close_module();
}
END_TEST

// Damage in the debug sections: each run ends, in a child, without a mark outside the code. libdwarf itself may crash, which is
// why the compiler runs in a process of its own; that is counted, and must be rare.
START_TEST(damage)
{
	unsigned crashes = 0, rounds = 60;
	unsigned long off = 0, size = 0;
	FILE *f;

	compile("-g -gdwarf-5");
	ck_assert_int_eq(
		run("cp t.so good.so; readelf -SW good.so | sed -n 's/.*\\.debug_info *PROGBITS "
		    "*[0-9a-f]* \\([0-9a-f]*\\) \\([0-9a-f]*\\).*/\\1 \\2/p' >sec"),
		0);
	f = fopen(in_dir("sec"), "r");
	ck_assert_int_eq(fscanf(f, "%lx %lx", &off, &size), 2);
	fclose(f);
	for (unsigned i = 0; i < rounds; i++) {
		int fd, status;
		pid_t pid;

		ck_assert_int_eq(run("cp good.so t.so"), 0);
		fd = open(in_dir("t.so"), O_RDWR);
		for (unsigned k = 0; k < 1 + i / 4; k++) {
			uint8_t byte = (uint8_t)(i * 37 + k * 101);

			ck_assert_int_eq(pwrite(fd, &byte, 1,
						(off_t)(off + (i * 131 + k * 977) % (size + 400))),
					 1);
		}
		close(fd);
		pid = fork();
		if (!pid) {
			alarm(20);
			open_module("t.so", NULL);
			if (debuginfo_mark(&m, "", &marks))
				_exit(1);
			for (size_t k = 0; k < marks.n; k++) {
				bool inside = false;

				for (size_t s = 0; s < m.ntext; s++)
					inside |= marks.v[k].lo >= m.text[s].addr &&
						  marks.v[k].hi <= m.text[s].addr + m.text[s].size;
				if (!inside)
					_exit(2);
			}
			_exit(0);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_msg(!WIFSIGNALED(status) || WTERMSIG(status) != SIGALRM, "round %u hangs",
			      i);
		crashes += WIFSIGNALED(status);
		ck_assert_msg(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "round %u", i);
	}
	ck_assert_uint_le(crashes, rounds / 10);
}
END_TEST

// Sections that claim to be larger than the file are refused before libdwarf sees them.
START_TEST(truncated)
{
	struct stat st;

	compile("-g");
	ck_assert_int_eq(stat(in_dir("t.so"), &st), 0);
	open_module("t.so", NULL);
	for (int i = 0; i < 8; i++) {
		Elf_Scn *scn = NULL;
		GElf_Shdr sh;
		size_t strings;

		// In memory only: libelf gives us its copy of the header.
		elf_getshdrstrndx(m.elf, &strings);
		while ((scn = elf_nextscn(m.elf, scn))) {
			gelf_getshdr(scn, &sh);
			if (strcmp(elf_strptr(m.elf, strings, sh.sh_name), ".debug_str"))
				continue;
			sh.sh_size = (uint64_t)st.st_size << (8 * i);
			gelf_update_shdr(scn, &sh);
		}
		m.source = 0;
		ck_assert_int_eq(debuginfo_mark(&m, "", &marks), 0);
		ck_assert_uint_eq(m.source, 0);
	}
	ck_assert_uint_eq(marks.n, 0);
	close_module();
}
END_TEST

static void setup(void)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	memset(&marks, 0, sizeof(marks));
}

static void teardown(void)
{
	run("rm -f -- *");
	rmdir(dir);
}

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, versions, 0, 5);
	tcase_add_test(tc, globs);
	tcase_add_test(tc, separate);
	tcase_add_test(tc, none);
	tcase_add_test(tc, alternate);
	tcase_add_test(tc, damage);
	tcase_add_test(tc, truncated);
}

int main(void)
{
	return unit_run("debuginfo", add);
}
