// modules.h: for test_modules.c: doubles of the cache and of the helper, modules to load, and tables made for them.

#pragma once

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
static pthread_t tester;
static _Atomic(int) opened_here; // by who polls
static bool runs, ends;
static useconds_t slow; // to open a file
static char paths[64][256];

int cache_open(const struct module_id *id, struct table *ret_table, size_t *ret_size)
{
	opens++;
	opened_here += pthread_equal(pthread_self(), tester) != 0;
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

bool helper_running(void)
{
	return runs;
}

void helper_end(void)
{
	ends = true;
}

void helper_leave(void)
{
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

bool helper_clones(void)
{
	return false;
}

void helper_reset_in_child(void)
{
	called = false;
	runs = false;
}

// --- helpers ------------------------------------------------------------------------------------------

// Call modules_poll as sysmon does. Returns when it wants to be called again, from the last call on: this thread may stand still
// behind it.
static int64_t poll_for(int ms)
{
	int64_t end = os_nanotime() + (int64_t)ms * MS_NS, next = 0, now;

	do {
		usleep(300);
		now = os_nanotime();
		next = modules_poll(now) - now;
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

static const struct table *find(struct plugin p);

// As soon as sysmon has it. The bound is for machines that do nothing for seconds.
static const struct table *find_soon(struct plugin p)
{
	for (int i = 0; i < 3000 && !find(p); i++)
		poll_for(5);
	ck_assert_ptr_nonnull(find(p));
	return find(p);
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
	tester = pthread_self();
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
