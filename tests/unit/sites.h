// sites.h: for tests with instructions of a real module that are rewritten, by the table that the real compiler makes of it. Each
// function of the module is there for one thing: sites_plugin.S.

#pragma once

#include <dlfcn.h>
#include <sched.h>
#include <sys/mman.h>

#include "compiler.h"
#include "site.h"
#include "unit.h"

static void *plugin;
static struct table table;
static struct buffer buffer;
static struct mapped *module;
static int64_t clock_now;

static inline void *symbol(const char *name)
{
	void *p = dlsym(plugin, name);

	ck_assert_msg(p != NULL, "%s", name);
	return p;
}

static inline uint8_t *site(const char *name)
{
	char buf[64];

	snprintf(buf, sizeof buf, "site_of_%s", name);
	return symbol(buf);
}

static inline bool rewritten(const char *name)
{
	return site(name)[0] == 0xeb;
}

// As loading.c would: one more module with its table.
static inline void add_module(void)
{
	struct loaded_object object;
	uint32_t h;

	ck_assert_int_eq(modules_find_object(symbol("spin_plain"), &object), 0);
	if (!modules)
		modules = os_mmap(sizeof *modules);
	module = &modules->v[modules->n++];
	module->start = (uintptr_t)object.map_start;
	module->end = (uintptr_t)object.map_end;
	module->by_id = true;
	module->own = table;
	module->table = &module->own;
	module->state = TABLE_LOADED;
	for (h = modules_hash(module->start); modules->index[h % MODULES_INDEX]; h++)
		;
	modules->index[h % MODULES_INDEX] = (uint16_t)modules->n;
}

static inline void load(void)
{
	plugin = dlopen(PLUGIN, RTLD_NOW);
	ck_assert_msg(plugin != NULL, "%s", dlerror());
}

static inline void setup(void)
{
	const char *why = "";

	unit_config();
	config.log = LOG_INFO;
	sched.pid = getpid();
	modules_find_object =
		(modules_find_object_fn *)dlvsym(RTLD_DEFAULT, "_dl_find_object", "GLIBC_2.35");
	ck_assert(modules_find_object != NULL);
	ck_assert_int_eq(sched_init(1), 0);
	load();
	ck_assert_msg(compile_module(PLUGIN, "critical_*", false, &buffer, &why) == 0, "%s", why);
	ck_assert_ptr_null(table_check(buffer.data, buffer.size, &table));
	add_module();
}

// sysmon's calls, until there is nothing to be done for a while.
static inline void rewrite(void)
{
	for (int quiet = 0; quiet < 50;) {
		clock_now += 5000000;
		sites_poll(clock_now);
		quiet = helper_calling() ? 0 : quiet + 1;
		usleep(100);
	}
}
