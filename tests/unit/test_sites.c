// test_sites.c: instructions of a real module are rewritten, by the table that the real compiler makes of it. The module lies near the
// core or far from it, and each function of it is there for one thing: sites_plugin.S.

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unwind.h>

#include "compiler.h"
#include "site.h"
#include "unit.h"

enum { RCX = 2, RAX = 0, R11 = 10, NREGS = 15, FLAGS = 15 };

static void *plugin;
static struct table table;
static struct buffer buffer;
static struct mapped *module;
static struct g self;
static int64_t clock_now;

static void *symbol(const char *name)
{
	void *p = dlsym(plugin, name);

	ck_assert_msg(p != NULL, "%s", name);
	return p;
}

static uint8_t *site(const char *name)
{
	char buf[64];

	snprintf(buf, sizeof buf, "site_of_%s", name);
	return symbol(buf);
}

static bool rewritten(const char *name)
{
	return site(name)[0] == 0xeb;
}

// As loading.c would: one module with its table.
static void add_module(void)
{
	struct loaded_object object;

	ck_assert_int_eq(modules_find_object(symbol("spin_plain"), &object), 0);
	if (!modules)
		modules = os_mmap(sizeof *modules);
	memset(modules, 0, sizeof *modules);
	module = &modules->v[0];
	module->start = (uintptr_t)object.map_start;
	module->end = (uintptr_t)object.map_end;
	module->by_id = true;
	module->own = table;
	module->table = &module->own;
	module->state = TABLE_LOADED;
	modules->n = 1;
	modules->index[modules_hash(module->start) % MODULES_INDEX] = 1;
}

static void load(void)
{
	plugin = dlopen(PLUGIN, RTLD_NOW);
	ck_assert_msg(plugin != NULL, "%s", dlerror());
}

static void setup(void)
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
static void rewrite(void)
{
	for (int quiet = 0; quiet < 50;) {
		clock_now += 5000000;
		sites_poll(clock_now);
		quiet = module->sites == SITES_YOUNG || helper_calling() ? 0 : quiet + 1;
		usleep(100);
	}
}

static void become(void)
{
	memset(&self, 0, sizeof self);
	self.status = G_RUNNING;
	self.tid = os_gettid();
	tls.g = tls.self = &self;
	stack_is(4096, UINTPTR_MAX); // whatever: all of it
}

// In the test of frames it is the caller: not inlined, no tail call.
__attribute__((noinline)) static int call(const char *name, long n)
{
	((void (*)(long))symbol(name))(n);
	return *(volatile int *)&sched.demand;
}

// --- which ------------------------------------------------------------------------------------------------

START_TEST(chosen)
{
	rewrite();
	ck_assert(rewritten("spin_plain"));
	ck_assert(rewritten("spin_chain"));
	ck_assert(rewritten("spin_inside"));
	ck_assert(rewritten("step_pause"));
	ck_assert(rewritten("step_call"));
	ck_assert_mem_eq(site("spin_nocave"), "\xf3\x90", 2);
	ck_assert(rewritten("critical_spin")); // who waits for a lock has not got it
	ck_assert_mem_eq(site("spin_fall"), "\xf3\x90", 2);
	ck_assert_mem_eq(site("spin_cross"), "\xf3\x90", 2);
	ck_assert(rewritten("spin_differs"));
	ck_assert_uint_eq(stats.spin_sites, 7);
	// The first jump of the chain is a short one, too.
	ck_assert_uint_eq(site("spin_chain")[2 + (int8_t)site("spin_chain")[1]], 0xeb);
	for (int i = 0; i < 2; i++) { // without demand, and with
		sched.demand = i;
		call("spin_plain", 100);
		call("spin_chain", 100);
		call("spin_inside", 100);
	}
}
END_TEST

// What it counts: only with demand, only of a G that may stop.
START_TEST(counted)
{
	rewrite();
	become();
	call("spin_plain", 5);
	ck_assert_uint_eq(tls.pauses, 0);
	sched.demand = 1;
	call("spin_plain", 5);
	call("spin_chain", 5);
	ck_assert_uint_eq(tls.pauses, 10);
	call("spin_nocave", 5);
	ck_assert_uint_eq(tls.pauses, 10);
	self.locks = 1;
	call("spin_plain", 100);
	ck_assert_uint_eq(tls.pauses, 110);
	self.locks = 0;
	tls.critical = 1; // it must not stop there: a gosched without a P would hang here
	call("spin_plain", 1);
	ck_assert_uint_eq(tls.pauses, 0);
	ck_assert_uint_eq(stats.spin_yields, 0);
	tls.critical = 0;
	tls.stack_lo =
		(uintptr_t)__builtin_frame_address(0) - 1000; // nor on a stack with so little room
	call("spin_plain", 100);
	ck_assert_uint_eq(stats.spin_yields, 0);
}
END_TEST

START_TEST(not_with_sample)
{
	config.spin = SPIN_SAMPLE;
	rewrite();
	ck_assert_mem_eq(site("spin_plain"), "\xf3\x90", 2);
	ck_assert_mem_eq(site("step_call"), "\x0f\x05", 2);
	config.spin = SPIN_OFF;
	rewrite();
	ck_assert_mem_eq(site("spin_plain"), "\xf3\x90", 2);
}
END_TEST

// Somebody else has been there.
START_TEST(differs)
{
	uint8_t *p = site("spin_differs");
	void *page = (void *)((uintptr_t)p & -(uintptr_t)4096);

	ck_assert_int_eq(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
	p[0] = 0x66;
	ck_assert_int_eq(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
	rewrite();
	ck_assert_mem_eq(p, "\x66\x90", 2);
	ck_assert(rewritten("spin_plain"));
}
END_TEST

// A cave that is in use: the caves behind it are found, or there is none.
START_TEST(cave_in_use)
{
	uint8_t *p = symbol("cave_inside");
	void *page = (void *)((uintptr_t)p & -(uintptr_t)4096);

	ck_assert_int_eq(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
	p[1] = 0x55;
	ck_assert_int_eq(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
	rewrite();
	ck_assert_mem_eq(site("spin_inside"), "\xf3\x90", 2);
	ck_assert(rewritten("spin_plain"));
}
END_TEST

// Text that is not what it was mapped from: nothing is touched.
START_TEST(not_from_a_file)
{
	uintptr_t page = (uintptr_t)site("spin_plain") & -(uintptr_t)4096;
	static char copy[4096];

	memcpy(copy, (void *)page, 4096);
	ck_assert(mmap((void *)page, 4096, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void *)page);
	memcpy((void *)page, copy, 4096);
	mprotect((void *)page, 4096, PROT_READ | PROT_EXEC);
	rewrite();
	ck_assert_mem_eq(site("spin_plain"), "\xf3\x90", 2);
	ck_assert_mem_eq(site("step_call"), "\x0f\x05", 2);
}
END_TEST

// Profilers and crash reports look into /proc/self/maps; and nothing may be writable and executable.
START_TEST(maps_as_before)
{
	char line[512], path[256], perm[8];
	uintptr_t start, end, covered = module->start;
	unsigned long offset, inode;
	FILE *f;

	rewrite();
	ck_assert(rewritten("spin_plain"));
	f = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof line, f)) {
		path[0] = 0;
		ck_assert_int_ge(sscanf(line, "%lx-%lx %7s %lx %*s %lu %255s", &start, &end, perm,
					&offset, &inode, path),
				 5);
		ck_assert_msg(!(strchr(perm, 'w') && strchr(perm, 'x')), "%s", line);
		if (start < module->start || start >= module->end)
			continue;
		ck_assert_uint_eq(start, covered);
		covered = end;
		ck_assert_msg(strstr(path, "sites_plugin") != NULL, "%s", line);
	}
	fclose(f);
	ck_assert_uint_ge(covered, module->end & -(uintptr_t)4096);
}
END_TEST

// dlclose and dlopen at the same place: rewritten again, with the stubs it had.
START_TEST(unloaded)
{
	uintptr_t place = module->start;
	const struct site_slot *slots = site_slots;
	uintptr_t third;

	rewrite();
	ck_assert(rewritten("spin_plain"));
	third = slots[2].back;
	for (int i = 0; i < 3; i++) {
		struct loaded_object object;

		modules_unload(true);
		sites_settle();
		dlclose(plugin);
		modules_unload(false);
		rewrite(); // nothing is there
		load();
		ck_assert_int_eq(modules_find_object(symbol("spin_plain"), &object), 0);
		if ((uintptr_t)object.map_start != place)
			return; // the loader has put it elsewhere
		ck_assert_mem_eq(site("spin_plain"), "\xf3\x90", 2);
		rewrite();
		ck_assert(rewritten("spin_plain"));
		call("spin_plain", 10);
		ck_assert_uint_eq(slots[2].back, third);
		ck_assert_uint_eq(slots[7].back, 0);
	}
}
END_TEST

// While dlclose runs nothing is begun.
START_TEST(unloading)
{
	modules_unload(true);
	rewrite();
	ck_assert_mem_eq(site("spin_plain"), "\xf3\x90", 2);
	modules_unload(false);
	rewrite();
	ck_assert(rewritten("spin_plain"));
}
END_TEST

// --- text that is executed ----------------------------------------------------------------------------------

static bool over;

static void *spinner(void *arg)
{
	long *rounds = arg;

	while (!load_relaxed(&over)) {
		call("spin_plain", 50);
		call("spin_inside", 50);
		call("spin_chain", 50);
		(*rounds)++;
	}
	return NULL;
}

// Four threads execute what is written to, again and again.
START_TEST(executed)
{
	long rounds[4][8] = {{0}};
	pthread_t t[4];
	struct text_patch caves[1], jumps[1];
	struct text_order order = {.start = module->start,
				   .end = module->end,
				   .pid = getpid(),
				   .v = {caves, jumps},
				   .n = {1, 1},
				   .stop = &over};
	uint8_t *p = site("spin_plain");

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, spinner, rounds[i]);
	rewrite();
	ck_assert(rewritten("spin_plain"));
	// On and off. As the first patch one that changes nothing.
	for (int i = 0; i < 300; i++) {
		uint8_t on[2] = {p[0], p[1]};

		caves[0] = (struct text_patch){.at = (uintptr_t)p, .size = 2};
		memcpy(caves[0].was, on, 2);
		memcpy(caves[0].is, "\xf3\x90", 2);
		jumps[0] = caves[0];
		memcpy(jumps[0].was, "\xf3\x90", 2);
		memcpy(jumps[0].is, on, 2);
		order.pages = 0;
		ck_assert_int_eq(text_write(&order), 0);
		ck_assert_uint_eq(order.pages, 2);
	}
	over = true;
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		ck_assert_int_gt(rounds[i][0], 0);
	}
}
END_TEST

// --- registers, stack, frames ---------------------------------------------------------------------------------

static uint64_t *in, *out;

static void fill(long nr)
{
	in = symbol("state_in");
	out = symbol("state_out");
	for (int i = 0; i < NREGS; i++)
		in[i] = 0x0101010101010101u * (unsigned)(i + 3);
	if (nr >= 0) {
		in[RAX] = (uint64_t)nr;
		in[4] = in[5] = in[1] = 0; // rsi, rdi, rdx: a futex call that fails
	}
	in[FLAGS] = 0x8d7; // carry, parity, adjust, zero, sign, overflow; direction is 0x400
}

static void compare(bool is_call, uint64_t result)
{
	for (int i = 0; i < NREGS; i++)
		if (!is_call || (i != RAX && i != RCX && i != R11))
			ck_assert_msg(out[i] == in[i], "register %d: %lx", i, out[i]);
	if (is_call)
		ck_assert_uint_eq(out[RAX], result);
	ck_assert_uint_eq(out[FLAGS] & 0xcd5, in[FLAGS] & 0xcd5);
	ck_assert_uint_eq(*(uint8_t *)symbol("state_damaged"), 0);
}

// Everything is as the instruction leaves it, on the short ways and the long.
START_TEST(kept)
{
	rewrite();
	for (int direction = 0; direction < 2; direction++) {
		for (int g = 0; g < 2; g++) {
			tls.g = NULL;
			if (g)
				become();
			for (int demand = 0; demand < 2; demand++) {
				sched.demand = demand;
				fill(-1);
				in[FLAGS] |= direction ? 0x400 : 0;
				call("step_pause", 0);
				compare(false, 0);
				fill(SYS_getppid); // made by the stub
				in[FLAGS] |= direction ? 0x400 : 0;
				call("step_call", 0);
				compare(true, (uint64_t)getppid());
				fill(100000);
				call("step_call", 0);
				compare(true, (uint64_t)-ENOSYS);
				fill(SYS_read); // by site_call
				in[FLAGS] |= direction ? 0x400 : 0;
				in[5] = 12345;
				call("step_call", 0);
				compare(true, (uint64_t)-EBADF);
				fill(SYS_futex);
				in[4] = 1; // wakes nobody
				in[5] = (uint64_t)&over;
				call("step_call", 0);
				compare(true, 0);
			}
		}
	}
}
END_TEST

static struct {
	uintptr_t lo, hi, cfa; // the function that is stepped through
	unsigned steps, ours, lost;
	bool found, caller;
} walk;

static _Unwind_Reason_Code frame(struct _Unwind_Context *c, void *arg)
{
	int before;
	uintptr_t ip = _Unwind_GetIPInfo(c, &before);

	(void)arg;
	if (walk.found && !walk.caller)
		walk.caller = ip >= (uintptr_t)call && ip < (uintptr_t)call + 512;
	if (ip >= walk.lo && ip < walk.hi && !walk.found) {
		uint64_t *state = in;

		walk.found = before; // it goes on at this PC
		// A register that the stub does not touch, and one that it saves.
		walk.found &= _Unwind_GetGR(c, 12) == state[11] && _Unwind_GetGR(c, 5) == state[5];
	}
	return _URC_NO_REASON;
}

static void on_step(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	uintptr_t pc = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
	uintptr_t text = (uintptr_t)site_pause_stubs;
	extern const char __executable_start[], etext[];

	(void)sig;
	(void)info;
	walk.steps++;
	if (pc >= (uintptr_t)__executable_start && pc < (uintptr_t)etext) {
		bool stub = pc - text < SITE_DISTANCE;

		// A call of the C library from the core would be none of ours.
		walk.ours += stub;
		walk.found = walk.caller = false;
		_Unwind_Backtrace(frame, NULL);
		if (!walk.found || !walk.caller)
			walk.lost++;
	}
}

static void step_through(const char *name, long nr)
{
	struct sigaction act = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
	char end[64];

	snprintf(end, sizeof end, "behind_%s", name);
	memset(&walk, 0, sizeof walk);
	walk.lo = (uintptr_t)site(name);
	walk.hi = (uintptr_t)symbol(end) + 1;
	sigaction(SIGTRAP, &act, NULL);
	fill(nr);
	in[FLAGS] |= 0x100;
	call(name, 0);
	in[FLAGS] &= ~(uint64_t)0x100;
	ck_assert_uint_ge(walk.ours, 4); // the four instructions of a stub
	ck_assert_uint_gt(walk.steps, 20);
	ck_assert_uint_eq(walk.lost, 0);
}

// At every instruction of ours an unwinder finds the function and its caller, with its registers.
START_TEST(unwound)
{
	rewrite();
	become();
	for (int demand = 0; demand < 2; demand++) {
		sched.demand = demand;
		step_through("step_pause", -1);
		compare(false, 0);
		step_through("step_call", SYS_getppid);
		compare(true, (uint64_t)getppid());
		step_through("step_call", SYS_futex);
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, chosen);
	tcase_add_test(tc, counted);
	tcase_add_test(tc, not_with_sample);
	tcase_add_test(tc, differs);
	tcase_add_test(tc, cave_in_use);
	tcase_add_test(tc, not_from_a_file);
	tcase_add_test(tc, maps_as_before);
	tcase_add_test(tc, unloaded);
	tcase_add_test(tc, unloading);
	tcase_add_test(tc, executed);
	tcase_add_test(tc, kept);
	tcase_add_test(tc, unwound);
}

int main(void)
{
	return unit_run("sites", add);
}
