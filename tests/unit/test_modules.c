// test_modules.c: modules.c: the right table for a PC, while modules come and go.
//
// The cache and the helper are doubles here: a list of tables made from the modules' own images.

#include "modules.h"

// Services run under filters that answer the calls of debuggers with death. No such call is made there, also not for lookups.
START_TEST(under_filter)
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
	ck_assert_ptr_eq(find_soon(c)->header, &mc->header);
	// Past our wrapper: sysmon finds out within about a second.
	unload_unseen(c);
	d = load("d");
	for (int i = 0; i < 100 && find(d); i++)
		poll_for(100);
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
		ck_assert_int_gt(poll_for(5), 21 * MS_NS); // nothing to do, as settle has it
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
	ck_assert_ptr_eq(find_soon(b)->header, &mb->header);
	ck_assert(runs);
	ma = make_table((void *)a.fn);
	ends = true;
	for (int i = 0; i < 1000 && runs; i++)
		poll_for(5);
	ck_assert(!runs);
	ck_assert_ptr_eq(find_soon(a)->header, &ma->header);
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
		usleep(300);
	}
	ck_assert_int_gt(opens, 0);
	ck_assert_int_eq(opened_here, 0); // who polls would have been kept
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
	tcase_add_test(tc, under_filter);
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
