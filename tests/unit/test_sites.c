// test_sites.c: which instructions of a module are rewritten, and that nothing else changes for who executes them. The module lies near
// the core or far from it.

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unwind.h>

#include "clock.h"
#include "sites.h"

enum { RCX = 2, RAX = 0, RDX = 1, R11 = 10, R12 = 11, NREGS = 15, FLAGS = 15 };

static struct g self;

static void become(void)
{
	now = 1000000000;
	os_vdso_clock_gettime = fake_clock; // PAUSEs that are far apart are not of one wait
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
	ck_assert_mem_eq(site("spin_zeros"), "\xf3\x90", 2);
	ck_assert_mem_eq(site("spin_mentioned"), "\xf3\x90", 2);
	ck_assert_mem_eq(site("call_mentioned"), "\x0f\x05", 2);
	ck_assert(rewritten("spin_differs"));
	ck_assert(rewritten("spin_tail"));
	ck_assert(rewritten("step_line"));
	ck_assert_uint_eq(site("step_ticket")[0], 0xe9); // straight to the stub: it has eight bytes
	ck_assert_uint_eq(stats.spin_sites, 12);	 // with the waits of these two
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

static void holds_p(void)
{
	static struct p held = {.word = P_SEQ_ONE | P_RUNNING};

	self.p = &held;
	self.pseq = P_SEQ_ONE;
}

// What it counts: only with demand, only of a G that may stop.
START_TEST(counted)
{
	rewrite();
	become();
	holds_p();
	call("spin_plain", 5);
	ck_assert_uint_eq(tls.pauses, 0);
	sched.demand = 1;
	call("spin_plain", 5);
	call("spin_chain", 5);
	ck_assert_uint_eq(tls.pauses, 10);
	call("spin_nocave", 5);
	ck_assert_uint_eq(tls.pauses, 10);
	now += 3000; // another wait
	call("spin_plain", 10);
	ck_assert_uint_eq(tls.pauses, 10);
	self.locks = 1;
	call("spin_plain", 100);
	ck_assert_uint_eq(tls.pauses, 110);
	self.locks = 0;
	tls.critical = 1; // it must not stop there: there is no policy to ask who is next
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

// Who runs on credit has no P to give away, and goes on until sysmon says that the credit is used up.
START_TEST(on_credit)
{
	rewrite();
	become();
	store_relaxed(&sched.active, PHASE_ACTIVE);
	sched.demand = 1;
	call("spin_plain", 100);
	ck_assert_uint_eq(stats.spin_yields, 0);
	ck_assert_uint_eq(tls.pauses, 0); // nor is it asked how long it waits
	ck_assert_int_eq(self.status, G_RUNNING);
	self.preempt = true;
	call("spin_plain", 100); // the P idles: it takes it
	ck_assert_uint_gt(stats.spin_yields, 0);
	ck_assert_ptr_nonnull(self.p);
}
END_TEST

// Where many run on credit who has a P goes on for a while as well; not without end, nor once that is over.
START_TEST(credit_common)
{
	rewrite();
	become();
	holds_p();
	store_relaxed(&sched.active, PHASE_ACTIVE);
	config.credit = 100000;
	sched.policy = &policy_fair;
	for (int i = 0; i < 100; i++) {
		struct g other = {.weight = WEIGHT_ORDINARY};

		now += 10000;
		ck_assert(credit_back(&other, now));
	}
	sched.demand = 1;
	for (int i = 0; i < 250; i++) {
		call("spin_plain", 10);
		now += 2000;
	}
	ck_assert_uint_eq(stats.spin_yields, 0);
	ck_assert(credit_is_common(now));
	call("spin_plain", 1);
	ck_assert_uint_eq(stats.spin_yields, 1);
	now += 10000000;
	ck_assert(!credit_is_common(now));
	call("spin_plain", 200);
	ck_assert_uint_gt(stats.spin_yields, 1);
}
END_TEST

// Whose slice is over stops at the next PAUSE, not at the 24th, but for a while with locks held: in our text no signal stops it.
START_TEST(asked_to_yield)
{
	rewrite();
	become();
	sched.demand = 1;
	self.preempt = true;
	self.locks = 1;
	call("spin_plain", 1);
	ck_assert(self.preempt);
	ck_assert_uint_eq(tls.pauses, 1);
	self.grace_over = true;
	call("spin_plain", 1);
	ck_assert(!self.preempt);
	ck_assert_uint_eq(stats.preempt_cooperative, 1);
	ck_assert_uint_eq(stats.spin_yields, 1);
	ck_assert_uint_eq(tls.pauses, 0); // a new wait
}
END_TEST

// A fork that is an instruction of the program tells nobody: the child has a copy of the G, and of the Gs that wait. It does not
// wait for these.
START_TEST(forked_unseen)
{
	int status;
	pid_t pid;

	rewrite();
	become();
	sched.demand = 1;
	ck_assert(sites_here());
	pid = fork();
	if (pid == 0) {
		if (sites_here())
			_exit(1);
		self.preempt = true;
		call("spin_plain", 100);
		if (!self.preempt || stats.spin_yields)
			_exit(2);
		sites_poll(clock_now); // a sysmon of its own: it is no copy any more
		_exit(sites_here() ? 0 : 3);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
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

// Our own text is left alone, whatever the file is called.
START_TEST(not_ours)
{
	bool stop = false;
	struct loaded_object object;
	struct text_patch patch = {.at = (uintptr_t)text_write, .size = 2};
	struct text_order order = {.pid = getpid(), .v = {&patch}, .n = {1}, .stop = &stop};

	ck_assert_int_eq(modules_find_object((void *)text_write, &object), 0);
	order.start = (uintptr_t)object.map_start;
	order.end = (uintptr_t)object.map_end;
	memcpy(patch.was, (const void *)text_write, 2);
	memcpy(patch.is, patch.was, 2);
	ck_assert_int_eq(text_write(&order), -EPERM);
	ck_assert_uint_eq(order.pages, 0);
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

// A cave that is in use where we would have written to, although not at its beginning.
START_TEST(cave_tail_in_use)
{
	uint8_t *p = symbol("cave_tail");
	void *page = (void *)((uintptr_t)p & -(uintptr_t)4096);

	ck_assert_int_eq(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
	p[51] = 0x55;
	ck_assert_int_eq(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
	rewrite();
	ck_assert_uint_eq(p[51], 0x55);
	ck_assert_mem_eq(site("spin_tail"), "\xf3\x90", 2);
	ck_assert(rewritten("spin_plain"));
}
END_TEST

static void line_kept(void);

// dlclose and dlopen at the same place: rewritten again, with the stubs it had.
START_TEST(unloaded)
{
	uintptr_t place = module->start;
	const struct site_slot *slots = site_slots;
	uintptr_t third;

	line_kept();
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
		line_kept();
		ck_assert_uint_eq(slots[10].back, 0);
		ck_assert_uint_eq(slots[SITE_ENQUEUE * SITE_STUBS + 2].back, 0);
	}
}
END_TEST

// A module that is gone for good when its instructions were about to be written: others get their turn.
START_TEST(gone)
{
	void *place = (void *)module->start;
	size_t size = module->end - module->start;

	modules_unload(true);
	rewrite(); // planned, not written
	dlclose(plugin);
	modules_unload(false);
	ck_assert(mmap(place, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
		       -1, 0) == place);
	rewrite();
	load();
	add_module();
	ck_assert_ptr_ne((void *)module->start, place);
	rewrite();
	ck_assert(rewritten("spin_plain"));
}
END_TEST

// The process that writes was killed between caves and sites: the jumps that are there are used.
START_TEST(broken_off)
{
	struct text_patch jump = {
		.at = (uintptr_t)site("spin_plain"), .size = 2, .is = {0xf3, 0x90}};
	bool never = false;
	struct text_order order = {.start = module->start,
				   .end = module->end,
				   .pid = getpid(),
				   .v = {NULL, &jump},
				   .n = {0, 1},
				   .stop = &never};

	rewrite();
	memcpy(jump.was, site("spin_plain"), 2);
	ck_assert_int_eq(text_write(&order), 0);
	ck_assert(!rewritten("spin_plain"));
	module->sites = SITES_NEW;
	rewrite();
	ck_assert_mem_eq(site("spin_plain"), jump.was, 2);
	become();
	holds_p();
	sched.demand = 1;
	call("spin_plain", 5);
	ck_assert_uint_eq(tls.pauses, 5);
}
END_TEST

// The process that writes is killed: it is said to write no longer, and the next one does the work.
START_TEST(killed)
{
	cpu_set_t one;
	int64_t before;

	CPU_ZERO(&one); // the other process does not run before we have killed it, mostly
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof one, &one);
	for (int i = 0; i < 1000 && !helper_calling(); i++) { // it may be over by then
		clock_now += 5000000;
		sites_poll(clock_now);
	}
	helper_leave();
	before = os_nanotime();
	sites_settle();
	ck_assert_int_lt(os_nanotime() - before, 500000000);
	helper_stay();
	rewrite();
	ck_assert(rewritten("spin_plain"));
	ck_assert(rewritten("step_call"));
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

// --- registers, stack, frames ---------------------------------------------------------------------------------

static uint64_t *in, *out;
static uint32_t word;

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
	in[R12] = (uint64_t)&word;
	in[FLAGS] = 0x8d7; // carry, parity, adjust, zero, sign, overflow; direction is 0x400
}

// The instructions by which threads get in line do what they did, and so does the next module at the same place.
static void line_kept(void)
{
	static const char *const names[] = {"step_line", "step_ticket"};
	static uint64_t expected[2][16];
	bool first = !rewritten("step_line");

	for (int i = 0; i < 2; i++) {
		uint32_t *changed = i ? symbol("state_tickets") : &word;

		fill(-1);
		*changed = 0x80000001;
		in[RDX] = 0x7fffffff;
		call(names[i], 0);
		ck_assert_uint_eq(*changed, i ? 0 : 0x7fffffff);
		ck_assert_uint_eq(out[RDX], 0x80000001);
		ck_assert_uint_eq(*(uint8_t *)symbol("state_damaged"), 0);
		if (first)
			memcpy(expected[i], out, sizeof expected[i]);
		for (int k = 0; k < 16; k++)
			ck_assert_msg(out[k] == expected[i][k], "%s: register %d: %lx", names[i], k,
				      out[k]);
	}
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
				in[5] = (uint64_t)&word;
				call("step_call", 0);
				compare(true, 0);
			}
		}
	}
}
END_TEST

START_TEST(in_line)
{
	line_kept();
	rewrite();
	ck_assert(rewritten("step_line"));
	for (int g = 0; g < 2; g++) {
		tls.g = NULL;
		if (g)
			become();
		for (int demand = 0; demand < 2; demand++) {
			sched.demand = demand;
			line_kept();
		}
	}
	// With a P it is counted; when its slice is over, it lets others run before it gets in line.
	holds_p();
	line_kept();
	ck_assert_uint_eq(self.line_passed, 1);
	self.preempt = true;
	line_kept();
	ck_assert(!self.preempt);
	ck_assert_uint_eq(stats.preempt_cooperative, 1);
	self.preempt = true;
	self.locks = 1;
	line_kept();
	ck_assert(self.preempt);
	ck_assert_uint_eq(stats.convoy_yields, 0);
}
END_TEST

static struct {
	uintptr_t lo, hi, cfa; // the function that is stepped through
	unsigned steps, ours, lost;
	uintptr_t least, most; // of the stack pointer in our text
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

		uintptr_t sp = (uintptr_t)uc->uc_mcontext.gregs[REG_RSP];

		// A call of the C library from the core would be none of ours.
		walk.ours += stub;
		walk.least = walk.least && walk.least < sp ? walk.least : sp;
		walk.most = walk.most > sp ? walk.most : sp;
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
		step_through("step_line", -1);
		step_through("step_ticket", -1);
	}
}
END_TEST

// Runtimes with small stacks of their own have some hundred bytes left where they spin or call the kernel: Go 800 in what is not
// to grow the stack. (What a sanitizer adds to each frame is not ours.)
START_TEST(stack_needed)
{
#ifdef __SANITIZE_ADDRESS__
	const unsigned most = 800;
#else
	const unsigned most = 400;
#endif

	rewrite();
	become();
	stack_is(0, 0); // a coroutine's
	sched.demand = 1;
	tls.pauses = 1000;
	self.preempt = true;
	step_through("step_pause", -1);
	ck_assert_uint_le(walk.most - walk.least, most);
	step_through("step_call", SYS_futex);
	ck_assert_uint_le(walk.most - walk.least, most);
	step_through("step_ticket", -1);
	ck_assert_uint_le(walk.most - walk.least, most);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, chosen);
	tcase_add_test(tc, counted);
	tcase_add_test(tc, on_credit);
	tcase_add_test(tc, credit_common);
	tcase_add_test(tc, asked_to_yield);
	tcase_add_test(tc, forked_unseen);
	tcase_add_test(tc, not_with_sample);
	tcase_add_test(tc, not_ours);
	tcase_add_test(tc, differs);
	tcase_add_test(tc, cave_in_use);
	tcase_add_test(tc, cave_tail_in_use);
	tcase_add_test(tc, unloaded);
	tcase_add_test(tc, gone);
	tcase_add_test(tc, broken_off);
	tcase_add_test(tc, killed);
	tcase_add_test(tc, unloading);
	tcase_add_test(tc, kept);
	tcase_add_test(tc, in_line);
	tcase_add_test(tc, unwound);
	tcase_add_test(tc, stack_needed);
}

int main(void)
{
	return unit_run("sites", add);
}
