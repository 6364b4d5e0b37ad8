// test_modules.c: maps.c and modules.c: the right table for a PC, while modules come and go.
//
// The cache and the helper are doubles here: a list of tables made from the modules' own images.

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "unit.h"

enum { MS_NS = 1000000 };

// --- doubles ------------------------------------------------------------------------------------------

static struct made {
	struct table_header header;
	uint64_t head[128];
	struct table table;
} store[16];
static int nstore, opens, starts, asked, unread;
static bool runs, ends;
static useconds_t slow; // to open a file
static char paths[64][256];

int cache_open(const struct module_id *id, struct table *ret_table, size_t *ret_size)
{
	opens++;
	usleep(slow);
	for (int i = 0; i < nstore; i++) {
		struct made *m = &store[i];

		if (memcmp(m->header.id, id->id, sizeof(id->id)) || m->header.id_size != id->size)
			continue;
		*ret_table = m->table;
		*ret_size = sizeof(*m);
		return 0;
	}
	return -ENOENT;
}

void cache_close(struct table *table, size_t size)
{
	(void)table, (void)size;
	unread++;
}

int helper_start(const char *const *files, int n)
{
	ck_assert(!runs);
	starts++;
	asked = n;
	for (int i = 0; i < n; i++)
		snprintf(paths[i], sizeof(paths[i]), "%s", files[i]);
	runs = true;
	return 0;
}

int helper_poll(void)
{
	if (!runs)
		return -ECHILD;
	if (!ends)
		return -EAGAIN;
	runs = ends = false;
	return 0;
}

bool under_valgrind(void)
{
	return false;
}

bool helper_running(void)
{
	return runs;
}

void helper_end(void)
{
	ends = true;
}

void helper_library(const char *path)
{
	(void)path;
}

// A thread is process enough.
static bool refuse_calls, called;
static pthread_t caller;
static struct {
	void (*fn)(void *);
	void *arg;
} call;

static void *make_call(void *arg)
{
	call.fn(call.arg);
	return arg;
}

int helper_call(void (*fn)(void *), void *arg)
{
	ck_assert(!called);
	if (refuse_calls)
		return -EPERM;
	call.fn = fn;
	call.arg = arg;
	called = true;
	ck_assert_int_eq(pthread_create(&caller, NULL, make_call, NULL), 0);
	return 0;
}

bool helper_calling(void)
{
	if (called && pthread_tryjoin_np(caller, NULL) == 0)
		called = false;
	return called;
}

void helper_reset_in_child(void)
{
	called = false;
	runs = false;
}

// --- helpers ------------------------------------------------------------------------------------------

// Call modules_poll as sysmon does. Returns when it wants to be called again, from now.
static int64_t poll_for(int ms)
{
	int64_t end = os_nanotime() + (int64_t)ms * MS_NS, next = 0;

	do {
		usleep(300);
		next = modules_poll(os_nanotime()) - os_nanotime();
	} while (os_nanotime() < end);
	return next;
}

// Until there is nothing to do, but what a miss or the helper may bring.
static void settle(void)
{
	int64_t end = os_nanotime() + 10000 * (int64_t)MS_NS, next;

	do {
		usleep(300);
		next = modules_poll(os_nanotime());
		ck_assert_int_lt(os_nanotime(), end);
	} while (next < os_nanotime() + 21 * MS_NS);
}

static struct loaded_object object_of(void *pc)
{
	modules_find_object_fn *find =
		(modules_find_object_fn *)dlvsym(RTLD_DEFAULT, "_dl_find_object", "GLIBC_2.35");
	struct loaded_object o = {0};
	Dl_info info;
	void *map;

	if (find) {
		ck_assert_int_eq(find(pc, &o), 0);
		return o;
	}
	ck_assert(dladdr1(pc, &info, &map, RTLD_DL_LINKMAP));
	o.map_start = info.dli_fbase;
	o.map_end = (char *)info.dli_fbase + 5 * 4096;
	return o;
}

static void identify(void *pc, struct module_id *id)
{
	struct loaded_object o = object_of(pc);
	struct map_line line = {0};
	struct stat st;
	Dl_info info;

	ck_assert(dladdr(pc, &info));
	ck_assert_int_eq(stat(info.dli_fname, &st), 0);
	line.path = info.dli_fname;
	line.dev = st.st_dev;
	line.ino = st.st_ino;
	ck_assert_int_eq(module_identify((uintptr_t)o.map_start, (uintptr_t)o.map_end, &line, id),
			 0);
}

// A table for the module of pc, as it is mapped now.
static struct made *make_table(void *pc)
{
	struct made *m = &store[nstore++];
	struct loaded_object o = object_of(pc);
	struct module_id id;

	identify(pc, &id);
	memset(m, 0, sizeof(*m));
	memcpy(m->head, o.map_start, sizeof(m->head));
	memcpy(m->header.id, id.id, sizeof(id.id));
	m->header.id_size = id.size;
	m->header.head_size = 900;
	m->header.load_vaddr = 0;
	m->header.text_base = 4096;
	m->header.text_size = 4096;
	m->table = (struct table){.header = &m->header, .head = (uint8_t *)m->head};
	return m;
}

struct plugin {
	void *handle;
	int (*fn)(void);
};

static struct plugin load(const char *name)
{
	struct plugin p;
	char path[512];

	snprintf(path, sizeof(path), "%s/%s.so", PLUGINS, name);
	p.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	ck_assert_msg(p.handle != NULL, "%s", dlerror());
	p.fn = (int (*)(void))dlsym(p.handle, "plugin_answer");
	ck_assert_ptr_nonnull((void *)p.fn);
	return p;
}

// As interpose/dl.c.
static void unload(struct plugin p)
{
	modules_unload(true);
	ck_assert_int_eq(dlclose(p.handle), 0);
	modules_unload(false);
}

// As libc unloads its own modules, past our wrapper.
static void unload_unseen(struct plugin p)
{
	ck_assert_int_eq(dlclose(p.handle), 0);
}

static const struct table *find(struct plugin p)
{
	uintptr_t bias = 1;
	const struct table *t = modules_find((uintptr_t)p.fn, &bias);

	if (t)
		ck_assert_uint_eq(bias, (uintptr_t)object_of((void *)p.fn).map_start);
	return t;
}

static void setup(void)
{
	unit_config();
	modules_find_object =
		(modules_find_object_fn *)dlvsym(RTLD_DEFAULT, "_dl_find_object", "GLIBC_2.35");
}

static void setup_old(void)
{
	refuse_calls = true;
	unit_config();
	modules_find_object = NULL;
}

// --- maps.c -------------------------------------------------------------------------------------------

START_TEST(lines)
{
	static const char *const bad[] = {
		"",
		"5-4 r-xp 0 8:1 5 /x",
		"g-10 r-xp 0 8:1 5 /x",
		"1000-2000",
		"1000-2000 r-",
		"1000-2000 r-xp 0 8-1 5 /x",
		"1000-2000 r-xp 0 8:1 x /x",
		"10000000000000000-20000000000000000 r-xp 0 8:1 5 /x",
		"-",
	};
	char buf[256];
	struct map_line l;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(buf, sizeof(buf), "%s", bad[i]);
		ck_assert_msg(!maps_parse(buf, &l), "%s", bad[i]);
	}
	strcpy(buf, "7f0012345000-7f0012346000 r-xp 0001f000 103:12c 4711     /a b/c (x)");
	ck_assert(maps_parse(buf, &l));
	ck_assert_uint_eq(l.start, 0x7f0012345000);
	ck_assert_uint_eq(l.end, 0x7f0012346000);
	ck_assert_uint_eq(l.offset, 0x1f000);
	ck_assert_uint_eq(l.dev, makedev(0x103, 0x12c));
	ck_assert_uint_eq(l.ino, 4711);
	ck_assert(l.exec && !l.deleted);
	ck_assert_str_eq(l.path, "/a b/c (x)");
	strcpy(buf, "1000-2000 rw-p 00000000 00:00 0");
	ck_assert(maps_parse(buf, &l) && !l.exec);
	ck_assert_str_eq(l.path, "");
	strcpy(buf, "1000-2000 r-xp 00000000 00:00 0                  [vdso]");
	ck_assert(maps_parse(buf, &l));
	ck_assert_str_eq(l.path, "");
	strcpy(buf, "1000-2000 r-xp 00000000 08:01 77 /lib/x.so (deleted)");
	ck_assert(maps_parse(buf, &l) && l.deleted);
	ck_assert_str_eq(l.path, "/lib/x.so");
	strcpy(buf, "1000-2000 r-xp 00000000 08:01 77 /lib/x\\012.so");
	ck_assert(maps_parse(buf, &l) && l.deleted); // not a path to hand on
}
END_TEST

static void count_line(void *arg, const struct map_line *line)
{
	int *n = arg;

	*n += line->exec && *line->path;
}

// In steps of a few lines it finds as many executable files as in one go.
START_TEST(steps)
{
	int want = 0, whole = 0, stepped = 0, n = 0;
	struct map_cursor c = {0};
	char line[4096], buf[8192];
	FILE *f = fopen("/proc/self/maps", "r");

	while (fgets(line, sizeof(line), f)) {
		char perm[8], path[512] = "";

		sscanf(line, "%*s %7s %*s %*s %*s %500s", perm, path);
		want += perm[2] == 'x' && path[0] == '/';
	}
	fclose(f);
	ck_assert_int_ge(want, 3);
	ck_assert_int_eq(maps_read(&c, buf, sizeof(buf), INT64_MAX, count_line, &whole), 0);
	ck_assert(c.done);
	ck_assert_int_eq(whole, want);
	c = (struct map_cursor){0};
	while (!c.done) {
		uint64_t before = c.offset;

		ck_assert_int_eq(maps_read(&c, buf, 512, 0, count_line, &stepped), 0);
		ck_assert(c.done || c.offset > before); // always a step further
		ck_assert_int_lt(n++, 1000);
	}
	ck_assert_int_eq(stepped, want);
	ck_assert_int_gt(n, 2);
	// A buffer too small for a line: an error, no endless loop.
	c = (struct map_cursor){0};
	ck_assert_int_lt(maps_read(&c, buf, 16, INT64_MAX, count_line, &stepped), 0);
	ck_assert(c.done);
}
END_TEST

START_TEST(memory)
{
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char buf[16];

	strcpy(p + 4090, "hello");
	ck_assert_int_eq(memory_read((uintptr_t)p + 4090, buf, 6), 0);
	ck_assert_str_eq(buf, "hello");
	munmap(p + 4096, 4096);
	ck_assert_int_lt(memory_read((uintptr_t)p + 4090, buf, 16), 0);
	ck_assert_int_lt(memory_read(8, buf, 1), 0);
}
END_TEST

// Services run under filters that answer the calls of debuggers with death. No such call is made there, also not for lookups.
START_TEST(confined)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {sizeof(code) / sizeof(code[0]), code};
	struct plugin a = load("a");
	struct made *ma = make_table((void *)a.fn);
	char buf[16] = "";

	ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
	ck_assert_int_eq(memory_read((uintptr_t) "hello", buf, 6), 0);
	ck_assert_str_eq(buf, "hello");
	ck_assert_int_lt(memory_read(8, buf, 1), 0);
	settle();
	ck_assert_ptr_eq(find(a)->header, &ma->header);
}
END_TEST

START_TEST(identity)
{
	static const uint8_t a_id[] = {0xaa, 1, 2, 3, 4, 5, 6, 7};
	struct plugin a = load("a"), c = load("c");
	struct loaded_object o = object_of((void *)c.fn);
	struct module_id id = {.size = 99};
	uint64_t want[4];
	char path[512];
	struct stat st;
	void *junk;

	identify((void *)a.fn, &id);
	ck_assert_uint_eq(id.size, sizeof(a_id));
	ck_assert_mem_eq(id.id, a_id, sizeof(a_id));
	for (int i = sizeof(a_id); i < TABLE_ID_MAX; i++)
		ck_assert_uint_eq(id.id[i], 0);
	// Without build-id: the file.
	snprintf(path, sizeof(path), "%s/c.so", PLUGINS);
	ck_assert_int_eq(stat(path, &st), 0);
	want[0] = st.st_dev;
	want[1] = st.st_ino;
	want[2] = (uint64_t)st.st_size;
	want[3] = (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec;
	identify((void *)c.fn, &id);
	ck_assert_uint_eq(id.size, 0);
	ck_assert_mem_eq(id.id, want, sizeof(want));
	// Another file at that path, or none: not known, and *id is left alone.
	id.size = 99;
	ck_assert_int_lt(module_identify((uintptr_t)o.map_start, (uintptr_t)o.map_end,
					 &(struct map_line){.path = path, .ino = 1}, &id),
			 0);
	ck_assert_int_lt(module_identify((uintptr_t)o.map_start, (uintptr_t)o.map_end, NULL, &id),
			 0);
	// Memory that is no module, or no memory.
	junk = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_int_lt(module_identify((uintptr_t)junk, (uintptr_t)junk + 4096, NULL, &id), 0);
	for (int seed = 0; seed < 2000; seed++) { // an ELF header with anything after it
		srand((unsigned)seed);
		memcpy(junk, o.map_start, 4096);
		for (int i = 0; i < 40; i++)
			((uint8_t *)junk)[20 + rand() % 1000] = (uint8_t)rand();
		module_identify((uintptr_t)junk, (uintptr_t)junk + 4096, NULL, &id);
	}
	munmap(junk, 4096);
	ck_assert_int_lt(module_identify((uintptr_t)junk, (uintptr_t)junk + 4096, NULL, &id), 0);
	ck_assert_uint_eq(id.size == 99 || id.size <= TABLE_ID_MAX, 1);
}
END_TEST

// --- modules.c ----------------------------------------------------------------------------------------

// A PC in a module with a table finds it and the bias, also when the module came later; others find none.
START_TEST(finds)
{
	struct plugin a = load("a"), b;
	uintptr_t bias;
	struct made *ma = make_table((void *)a.fn), *mb;
	void *jit = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_null(find(a)); // nobody has looked yet
	settle();
	ck_assert_ptr_eq(find(a)->header, &ma->header);
	ck_assert_ptr_null(modules_find((uintptr_t)jit, &bias));
	ck_assert_ptr_null(modules_find(0, &bias));
	ck_assert_ptr_null(modules_find(UINTPTR_MAX, &bias));
	b = load("b");
	mb = make_table((void *)b.fn);
	ck_assert_ptr_null(find(b)); // the miss makes sysmon look
	settle();
	ck_assert_ptr_eq(find(b)->header, &mb->header);
	ck_assert_ptr_eq(find(a)->header, &ma->header);
}
END_TEST

// Modules of one layout at one address: none ever gets the other's table, and one that comes back
// has its own at once.
START_TEST(reuse)
{
	struct plugin a = load("a"), b;
	void *at = (void *)a.fn;
	struct made *ma = make_table(at), *mb;

	settle();
	ck_assert_ptr_eq(find(a)->header, &ma->header);
	for (int i = 0; i < 3; i++) {
		if (i == 1)
			unload_unseen(a);
		else
			unload(a);
		b = load("b");
		ck_assert_ptr_eq((void *)b.fn, at); // else this test says nothing
		ck_assert_int_eq(b.fn(), 2);
		if (i == 0) {
			ck_assert_ptr_null(find(b));
			mb = make_table(at);
			settle();
		}
		ck_assert_ptr_eq(find(b)->header, &mb->header);
		unload(b);
		a = load("a");
		ck_assert_ptr_eq((void *)a.fn, at);
		ck_assert_ptr_eq(find(a)->header, &ma->header);
	}
}
END_TEST

// As above where the first module has no table: the second is looked for all the same.
START_TEST(reuse_without_table)
{
	struct plugin a = load("a"), b;
	void *at = (void *)a.fn;
	struct made *mb;

	settle();
	ck_assert_ptr_null(find(a));
	poll_for(10);
	unload(a);
	b = load("b");
	ck_assert_ptr_eq((void *)b.fn, at);
	mb = make_table(at);
	ck_assert_ptr_null(find(b));
	settle();
	ck_assert_ptr_eq(find(b)->header, &mb->header);
	// And unseen: after a while, for a PC in it is wanted again and again.
	unload(b);
	nstore = 0;
	a = load("a");
	ck_assert_ptr_null(find(a));
	runs = false;
	settle();
	runs = false; // the helper ended in vain
	settle();
	for (int i = 0; i < 3; i++) {
		find(a);
		poll_for(10);
	}
	unload_unseen(a);
	b = load("b");
	for (int i = 0; i < 50 && !find(b); i++)
		poll_for(100);
	ck_assert_ptr_eq(find(b)->header, &mb->header);
}
END_TEST

// Without build-id two modules may begin alike: c's table is not d's, and not even c's after a dlclose, until
// sysmon has looked again.
START_TEST(no_build_id)
{
	struct plugin c = load("c"), a = load("a"), d;
	struct loaded_object o = object_of((void *)c.fn);
	void *at = (void *)c.fn;
	struct made *mc = make_table(at);
	uint8_t head[900];

	memcpy(head, o.map_start, sizeof(head));
	settle();
	ck_assert_ptr_eq(find(c)->header, &mc->header);
	modules_unload(true);
	ck_assert_ptr_null(find(c)); // while a dlclose runs
	modules_unload(false);
	ck_assert_ptr_null(find(c));
	settle();
	ck_assert_ptr_eq(find(c)->header, &mc->header);
	unload(c);
	d = load("d");
	ck_assert_ptr_eq((void *)d.fn, at);
	ck_assert_int_eq(d.fn(), 4);
	ck_assert_mem_eq(head, o.map_start, sizeof(head)); // else this test says nothing
	for (int i = 0; i < 50; i++) {
		ck_assert_ptr_null(find(d));
		poll_for(2);
	}
	unload(d);
	c = load("c");
	ck_assert_ptr_eq((void *)c.fn, at);
	for (int i = 0; i < 500 && !find(c); i++)
		poll_for(2);
	ck_assert_ptr_eq(find(c)->header, &mc->header);
	// Past our wrapper: sysmon finds out within about a second.
	unload_unseen(c);
	d = load("d");
	poll_for(1500);
	ck_assert_ptr_null(find(d));
	unload(a);
}
END_TEST

// A module without a table is asked for once, and then costs nothing; so does the vDSO.
START_TEST(misses_end)
{
	uintptr_t vdso = getauxval(AT_SYSINFO_EHDR), bias;
	struct plugin a = load("a");
	int before;

	settle();
	ck_assert_int_eq(starts, 1);
	ck_assert_int_ge(asked, 3); // the test itself, libc, ...
	ends = true;
	for (int i = 0; i < 20; i++) {
		ck_assert_ptr_null(find(a));
		ck_assert_ptr_null(modules_find(vdso + 0x800, &bias));
		poll_for(20);
	}
	settle();
	before = opens;
	for (int i = 0; i < 10; i++) {
		ck_assert_ptr_null(find(a));
		ck_assert_ptr_null(modules_find(vdso + 0x800, &bias));
		ck_assert_int_gt(poll_for(5), 50 * MS_NS); // nothing to do for long
	}
	ck_assert_int_eq(opens, before);
	ck_assert_int_eq(starts, 1);
}
END_TEST

// The helper gets the paths of what is missing, wanted modules first, not before 20 ms, and what it builds is found,
// while it runs and when it has ended.
START_TEST(helper_builds)
{
	int64_t start = os_nanotime();
	struct plugin a = load("a"), b = load("b");
	struct made *ma, *mb;

	while (starts == 0) {
		int64_t now = os_nanotime();

		ck_assert_int_lt(now - start, 5000 * (int64_t)MS_NS);
		modules_poll(now);
		find(b);
		usleep(200);
	}
	ck_assert_int_ge(os_nanotime() - start, 20 * MS_NS);
	ck_assert_ptr_nonnull(strstr(paths[0], "/b.so"));
	mb = make_table((void *)b.fn);
	poll_for(250);
	ck_assert(runs);
	ck_assert_ptr_eq(find(b)->header, &mb->header);
	ma = make_table((void *)a.fn);
	ends = true;
	poll_for(250);
	ck_assert(!runs);
	ck_assert_ptr_eq(find(a)->header, &ma->header);
	ck_assert_int_eq(starts, 1);
}
END_TEST

// Files that are slow to open do not keep sysmon, and are found all the same.
START_TEST(slow_files)
{
	struct plugin a = load("a");
	struct made *ma = make_table((void *)a.fn);
	int64_t begun = os_nanotime();

	slow = 200000;
	while (!find(a)) {
		int64_t now = os_nanotime();

		ck_assert_int_lt(now - begun, 20000 * (int64_t)MS_NS);
		modules_poll(now);
		ck_assert_int_lt(os_nanotime() - now, 150 * MS_NS);
		usleep(300);
	}
	ck_assert_int_gt(opens, 0);
	ck_assert_ptr_eq(find(a)->header, &ma->header);
}
END_TEST

// Tables that do not belong to the module are refused.
START_TEST(foreign_tables)
{
	struct plugin a = load("a");
	struct made *m = make_table((void *)a.fn);

	switch (_i) {
	case 0:
		m->header.text_size = 1 << 20; // beyond the module
		break;
	case 1:
		m->header.head_size = 0; // would fit anything
		break;
	case 2:
		m->header.load_vaddr = 8192; // text before the module
		break;
	case 3:
		m->header.text_base = UINT64_MAX - 100;
		break;
	case 4:
		m->head[30] ^= 1; // made from another image
		break;
	case 5:
		m->head[112] ^= (uint64_t)1 << 24; // in the last four bytes of head_size
		break;
	}
	settle();
	ck_assert_ptr_null(find(a));
	ck_assert_int_eq(unread, _i < 4);
}
END_TEST

// A program that makes a module's first page unreadable is not hurt by lookups there; the table is found again when it can
// be read again.
START_TEST(unreadable)
{
	struct plugin a = load("a");
	struct made *ma = make_table((void *)a.fn);
	void *start = object_of((void *)a.fn).map_start;

	settle();
	ck_assert_ptr_eq(find(a)->header, &ma->header);
	ck_assert_int_eq(mprotect(start, 4096, PROT_NONE), 0);
	ck_assert_ptr_null(find(a));
	ck_assert_int_eq(mprotect(start, 4096, PROT_READ), 0);
	ck_assert_ptr_eq(find(a)->header, &ma->header);
}
END_TEST

// On one walk a module is compared once; the next walk compares anew, and so does a lookup outside of walks.
START_TEST(walks)
{
	struct plugin p[] = {load("a"), load("b")};
	struct made *made[] = {make_table((void *)p[0].fn), make_table((void *)p[1].fn)};

	settle();
	modules_walk(true);
	for (int i = 0; i < 2; i++)
		ck_assert_ptr_eq(find(p[i])->header, &made[i]->header);
	for (int i = 0; i < 2; i++)
		made[i]->head[30] ^= 1; // another image
	for (int i = 0; i < 2; i++)
		ck_assert_ptr_eq(find(p[i])->header, &made[i]->header);
	modules_walk(true);
	ck_assert_ptr_null(find(p[0]));
	made[0]->head[30] ^= 1;
	ck_assert_ptr_eq(find(p[0])->header, &made[0]->header);
	modules_walk(false);
	made[0]->head[30] ^= 1;
	ck_assert_ptr_null(find(p[0]));
}
END_TEST

// A program that has no descriptor left: nothing happens, and when it has some again, all is made up for.
START_TEST(no_descriptors)
{
	struct rlimit old, none;
	struct plugin a = load("a");
	struct made *ma;
	int free_fd;

	getrlimit(RLIMIT_NOFILE, &old);
	free_fd = dup(0); // the lowest
	close(free_fd);
	none = (struct rlimit){(rlim_t)free_fd, old.rlim_max};
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	poll_for(60);
	ck_assert_ptr_null(find(a));
	ck_assert_int_eq(starts, 0);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
	for (int i = 0; i < 500 && starts == 0; i++)
		poll_for(10);
	ck_assert_int_eq(starts, 1);
	ma = make_table((void *)a.fn);
	ends = true;
	for (int i = 0; i < 500 && !find(a); i++)
		poll_for(10);
	ck_assert_ptr_eq(find(a)->header, &ma->header);
}
END_TEST

// A child of fork has the tables at once, and asks its own helper.
START_TEST(forked)
{
	struct plugin a = load("a");
	struct made *ma = make_table((void *)a.fn);
	int status;
	pid_t pid;

	settle();
	ck_assert_int_eq(starts, 1);
	pid = fork();
	if (pid == 0) {
		modules_reset_in_child();
		if (find(a)->header != &ma->header || runs)
			_exit(1);
		settle();
		_exit(starts != 2 || find(a)->header != &ma->header);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert(runs);
}
END_TEST

// Lookups from many threads while modules come and go never give a wrong table.
static atomic_int stop;
static _Atomic(void *) where;

static void *looker(void *arg)
{
	long *hits = arg;

	while (!stop) {
		uintptr_t bias, pc = (uintptr_t)where;
		const struct table *t = modules_find(pc, &bias);

		if (t)
			(*hits)++;
		// What it found was right at some moment of the call: it is one of the two.
		if (t && t->header != &store[0].header && t->header != &store[1].header)
			return arg;
	}
	return NULL;
}

START_TEST(concurrent)
{
	struct plugin a = load("a"), b = load("b"), p;
	pthread_t t[2];
	long hits[2] = {0, 0};
	int64_t end;

	make_table((void *)a.fn);
	make_table((void *)b.fn);
	where = (void *)a.fn;
	settle();
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, looker, &hits[i]), 0);
	end = os_nanotime() + 500 * MS_NS;
	for (int i = 0; os_nanotime() < end; i++) {
		// b comes and goes, a stays: a lookup of a must always succeed.
		unload(b);
		p = load(i % 2 ? "b" : "c");
		ck_assert_ptr_eq(find(a)->header, &store[0].header);
		modules_poll(os_nanotime());
		if (!(i % 2)) {
			unload(p);
			p = load("b");
		}
		b = p;
		usleep(100);
	}
	stop = 1;
	for (int i = 0; i < 2; i++) {
		void *wrong;

		pthread_join(t[i], &wrong);
		ck_assert_ptr_null(wrong);
		ck_assert_int_gt(hits[i], 0);
	}
}
END_TEST

static void add_lookups(TCase *tc)
{
	tcase_add_test(tc, finds);
	tcase_add_test(tc, confined);
	tcase_add_test(tc, reuse);
	tcase_add_test(tc, reuse_without_table);
	tcase_add_test(tc, no_build_id);
	tcase_add_test(tc, helper_builds);
	tcase_add_loop_test(tc, foreign_tables, 0, 6);
	tcase_add_test(tc, no_descriptors);
	tcase_add_test(tc, unreadable);
	tcase_add_test(tc, walks);
	tcase_add_test(tc, forked);
	tcase_add_test(tc, concurrent);
}

int main(void)
{
	Suite *suite = suite_create("modules");
	TCase *tc = tcase_create("modules"), *old = tcase_create("without _dl_find_object");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_set_timeout(old, 60);
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_checked_fixture(old, setup_old, NULL);
	tcase_add_test(tc, lines);
	tcase_add_test(tc, steps);
	tcase_add_test(tc, memory);
	tcase_add_test(tc, identity);
	add_lookups(tc);
	tcase_add_test(tc, misses_end);
	tcase_add_test(tc, slow_files);
	add_lookups(old);
	suite_add_tcase(suite, tc);
	suite_add_tcase(suite, old);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
