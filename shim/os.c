// os.c: the kernel, without libc.
//
// Everything the core needs from outside the process goes through raw system calls here, because
// libc's wrappers set errno, are cancellation points, and are themselves interposed.

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "shim.h"

os_clock_gettime_fn *os_vdso_clock_gettime;
os_getcpu_fn *os_vdso_getcpu;

// The compiler may call these four whatever flags it is given. libc's own use vector registers, which
// async_preempt does not save; hidden visibility keeps these to ourselves.
void *memcpy(void *restrict d, const void *restrict s, size_t n)
{
	void *ret = d;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	return ret;
}

void *memset(void *d, int c, size_t n)
{
	void *ret = d;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return ret;
}

void *memmove(void *d, const void *s, size_t n)
{
	if ((uintptr_t)d - (uintptr_t)s >= n)
		return memcpy(d, s, n);
	for (size_t i = n; i-- > 0;)
		((volatile char *)d)[i] = ((const char *)s)[i];
	return d;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const volatile unsigned char *x = a, *y = b;

	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}

bool str_eq(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

size_t str_len(const char *s)
{
	size_t n = 0;

	while (((const volatile char *)s)[n])
		n++;
	return n;
}

// --- futex --------------------------------------------------------------------------------------

int os_futex_wait(uint32_t *word, uint32_t val, const struct deadline *until)
{
	int op = FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG;

	if (until && until->clock == CLOCK_REALTIME)
		op |= FUTEX_CLOCK_REALTIME;
	return (int)sys6(SYS_futex, (long)word, op, val, until ? (long)&until->at : 0, 0,
			 FUTEX_BITSET_MATCH_ANY);
}

int os_futex_wake(uint32_t *word, int n)
{
	return (int)sys3(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n);
}

void lock_acquire(struct lock *l)
{
	struct g *gp;

	CHECKED(invariant_acquires(l));
	if (cas(&l->word, 0, 1)) { // pairs with the xchg in lock_release
		CHECKED(invariant_acquired(l));
		return;
	}
	// Sections under a shim lock are tens of ns; a short spin usually outlasts them.
	for (int i = 0; i < 40; i++) {
		cpu_relax();
		if (load_relaxed(&l->word) == 0 && cas(&l->word, 0, 1)) { // pairs with lock_release
			CHECKED(invariant_acquired(l));
			return;
		}
	}
	gp = tls.self;
	if (gp)
		gp->dozes = true;
	while (xchg(&l->word, 2) != 0) // pairs with the xchg in lock_release
		os_futex_wait(&l->word, 2, NULL);
	if (gp)
		gp->dozes = false;
	CHECKED(invariant_acquired(l));
}

void lock_release(struct lock *l)
{
	CHECKED(invariant_releases(l));
	if (xchg(&l->word, 0) == 2) // publishes the section to the next lock_acquire
		os_futex_wake(&l->word, 1);
}

// --- time ---------------------------------------------------------------------------------------

int64_t os_clock(clockid_t clock)
{
	struct timespec ts;
	long r;

	// The vDSO's answers for these two need no system call.
	if ((clock == CLOCK_MONOTONIC || clock == CLOCK_REALTIME) && os_vdso_clock_gettime)
		r = os_vdso_clock_gettime(clock, &ts);
	else
		r = sys2(SYS_clock_gettime, clock, &ts);
	return r < 0 ? r : ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t os_nanotime(void)
{
	return os_clock(CLOCK_MONOTONIC);
}

int64_t os_thread_cputime(int tid)
{
	if (unlikely(load_relaxed(&sched.sealed))) // and nobody is scheduled any more
		return -EPERM;
	return os_clock((clockid_t)(~(unsigned)tid << 3 | 6)); // MAKE_THREAD_CPUCLOCK(tid, SCHED)
}

bool os_deadline_passed(const struct deadline *d)
{
	// Seconds may be anything up to INT64_MAX: compare without multiplying.
	int64_t now = os_clock(d->clock), sec = now / 1000000000;

	return sec > d->at.tv_sec || (sec == d->at.tv_sec && now % 1000000000 >= d->at.tv_nsec);
}

struct deadline os_deadline_in(int64_t ns)
{
	int64_t t = os_nanotime() + (ns < 0 ? 0 : ns);

	return (struct deadline){CLOCK_MONOTONIC, {t / 1000000000, t % 1000000000}};
}

// --- memory, processes, files ---------------------------------------------------------------------

void *os_mmap(size_t len)
{
	long p = sys6(SYS_mmap, 0, (long)len, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p < 0 && p > -4096 ? NULL : (void *)p;
}

void os_munmap(void *p, size_t len)
{
	if (!load_relaxed(&sched.sealed)) // else in a child
		sys2(SYS_munmap, p, len);
}

// Asks futex, which is allowed in every sandbox and which valgrind lets pass without a word: the kernel compares the word, and
// then wakes nobody and moves nobody.
bool os_readable(uintptr_t p)
{
	p &= ~(uintptr_t)3;
	return sys6(SYS_futex, (long)p, FUTEX_CMP_REQUEUE_PRIVATE, 0, 0, (long)p, 0) != -EFAULT;
}

int os_tgkill(int tid, int sig)
{
	return (int)sys3(SYS_tgkill, sched.pid, tid, sig);
}

unsigned os_getcpu(void)
{
	unsigned cpu = 0;

	if (os_vdso_getcpu)
		os_vdso_getcpu(&cpu, NULL, NULL);
	else
		sys3(SYS_getcpu, &cpu, NULL, NULL);
	return cpu;
}

void os_thread_name(char name[16])
{
	name[0] = 0;
	sys5(SYS_prctl, PR_GET_NAME, (long)name, 0, 0, 0);
}

int os_gettid(void)
{
	return (int)sys0(SYS_gettid);
}

int os_getpid(void)
{
	return (int)sys0(SYS_getpid);
}

int os_read_file(const char *path, char *buf, size_t len)
{
	long fd = sys3(SYS_open, path, O_RDONLY | O_CLOEXEC, 0), n;
	size_t done = 0;

	if (fd < 0)
		return (int)fd;
	do {
		n = sys3(SYS_read, fd, buf + done, len - 1 - done);
		if (n > 0)
			done += (size_t)n;
	} while (n > 0 && done < len - 1);
	sys1(SYS_close, fd);
	if (n < 0)
		return (int)n;
	buf[done] = 0;
	return (int)done;
}

// SIGPIPE and SIGXFSZ go to the thread that writes. One that was pending before stays so.
static const uint64_t write_signals = SIG_BIT(SIGPIPE) | SIG_BIT(SIGXFSZ);

struct quiet os_quiet_begin(void)
{
	struct quiet q = {0};

	os_sigmask(SIG_BLOCK, &write_signals, &q.mask);
	sys2(SYS_rt_sigpending, &q.pending, sizeof q.pending);
	return q;
}

void os_quiet_end(const struct quiet *q)
{
	const uint64_t ours = write_signals & ~q->pending;
	struct timespec at_once = {0, 0};

	while (ours && sys4(SYS_rt_sigtimedwait, &ours, 0, &at_once, sizeof ours) > 0)
		;
	os_sigmask(SIG_SETMASK, &q->mask, NULL);
}

char os_thread_state(int tid)
{
	char path[64], buf[256];
	struct text t = {path, 0, sizeof path};
	int n, i;

	text_printf(&t, "/proc/self/task/%d/stat", tid);
	n = os_read_file(path, buf, sizeof buf);
	if (n <= 0)
		return 0;
	// The name may contain anything, also ')': the state follows the last one.
	for (i = n - 1; i >= 0 && buf[i] != ')'; i--)
		;
	return i >= 0 && i + 2 < n ? buf[i + 2] : 0;
}

// The name in it may contain anything but a newline.
int64_t os_thread_waits(int tid)
{
	static const char key[] = "\nvoluntary_ctxt_switches:\t";
	char path[64], buf[4096];
	struct text t = {path, 0, sizeof path};
	int64_t waits = 0;
	int n;

	text_printf(&t, "/proc/self/task/%d/status", tid);
	n = os_read_file(path, buf, sizeof buf);
	for (int i = 0; i < n; i++) {
		size_t k = 0;

		while (k < sizeof key - 1 && buf[i + (int)k] == key[k])
			k++;
		if (k < sizeof key - 1)
			continue;
		for (i += (int)k; buf[i] >= '0' && buf[i] <= '9'; i++)
			waits = waits * 10 + (buf[i] - '0');
		return waits;
	}
	return -1;
}

int os_affinity_cpus(int tid)
{
	unsigned long mask[128]; // 8192 CPUs, the kernel's largest
	long n = sys3(SYS_sched_getaffinity, tid, sizeof mask, mask);
	int cpus = 0;

	if (n < 0)
		return (int)n;
	for (size_t i = 0; i < (size_t)n / sizeof mask[0]; i++)
		for (unsigned long m = mask[i]; m; m &= m - 1)
			cpus++;
	return cpus;
}

// --- a thread of our own ----------------------------------------------------------------------------

struct spawn {
	void (*fn)(void *);
	void *arg;
};

__attribute__((used)) static void spawned(struct spawn *s)
{
	s->fn(s->arg);
	for (;;)
		sys1(SYS_exit, 0);
}

enum { SPAWN_STACK = 64 * 1024 };

int os_spawn(void (*fn)(void *), void *arg)
{
	// The new thread gets a TLS block of its own, zeroed but for the self pointers that the ABI
	// wants, so that tls.g is NULL in it and no access reaches the creator's variables.
	char *self = (char *)__builtin_thread_pointer();
	char *mine = (char *)&tls;
	size_t below, tcb = 4096, len;
	uint64_t all = ~(uint64_t)0, old;
	struct spawn *s;
	char *mem, *fs;
	long tid;

	// In a register: linkers cannot relax a TLS address that is a memory operand of sub.
	__asm__("" : "+r"(mine));
	below = (size_t)(self - mine) + 4096;
	len = SPAWN_STACK + ((below + 4095) & ~(size_t)4095) + tcb;
	mem = os_mmap(len);
	if (!mem)
		return -ENOMEM;
	fs = mem + len - tcb;
	*(void **)fs = fs;
	*(void **)(fs + 16) = fs;
	s = (struct spawn *)(mem + SPAWN_STACK - sizeof *s - 64);
	*s = (struct spawn){fn, arg};

	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof all);
	tid = os_fault(SYS_clone, 0, 0);
	if (!tid) {
		register long r10 __asm__("r10") = 0; // child tid: none
		register char *r8 __asm__("r8") = fs; // TLS
		register struct spawn *rbx __asm__("rbx") = s;
		long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
			     CLONE_SYSVSEM | CLONE_SETTLS;

		// The child starts on its own stack with rbx kept and must not return from here.
		__asm__ volatile("syscall\n\t"
				 "test %%eax, %%eax\n\t"
				 "jnz 1f\n\t"
				 "xor %%ebp, %%ebp\n\t"
				 "mov %%rbx, %%rdi\n\t"
				 "call spawned\n\t"
				 "hlt\n"
				 "1:"
				 : "=a"(tid)
				 : "a"((long)SYS_clone), "D"(flags), "S"((char *)s - 64), "d"(0L),
				   "r"(r10), "r"(r8), "r"(rbx)
				 : "rcx", "r11", "memory");
	}
	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof all);
	if (tid < 0)
		os_munmap(mem, len);
	return (int)tid;
}

// --- text -----------------------------------------------------------------------------------------

static void text_char(struct text *t, char c)
{
	if (t->len + 1 < t->cap) {
		t->buf[t->len++] = c;
		t->buf[t->len] = 0;
	}
}

static void text_number(struct text *t, unsigned long v, unsigned base, int width, char pad)
{
	char digits[24];
	int n = 0;

	do
		digits[n++] = "0123456789abcdef"[v % base];
	while ((v /= base) != 0);
	while (width-- > n)
		text_char(t, pad);
	while (n > 0)
		text_char(t, digits[--n]);
}

void text_vprintf(struct text *t, const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		char pad = ' ';
		int width = 0, longs = 0;

		if (*fmt != '%') {
			text_char(t, *fmt);
			continue;
		}
		if (*++fmt == '0')
			pad = *fmt++;
		for (; *fmt >= '0' && *fmt <= '9'; fmt++)
			width = width * 10 + *fmt - '0';
		for (; *fmt == 'l' || *fmt == 'z'; fmt++)
			longs = 1;
		switch (*fmt) {
		case 's':
			for (const char *s = va_arg(ap, const char *); *s; s++, width--)
				text_char(t, *s);
			while (width-- > 0)
				text_char(t, ' ');
			break;
		case 'c':
			text_char(t, (char)va_arg(ap, int));
			break;
		case 'd': {
			long v = longs ? va_arg(ap, long) : va_arg(ap, int);

			if (v < 0) {
				text_char(t, '-');
				width--;
			}
			text_number(t, v < 0 ? 0 - (unsigned long)v : (unsigned long)v, 10, width,
				    pad);
			break;
		}
		case 'u':
		case 'x':
			text_number(t, longs ? va_arg(ap, unsigned long) : va_arg(ap, unsigned),
				    *fmt == 'u' ? 10 : 16, width, pad);
			break;
		case '%':
			text_char(t, '%');
			break;
		default:
			return; // a format this file does not know is a bug, not a reason to crash
		}
	}
}

void text_printf(struct text *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	text_vprintf(t, fmt, ap);
	va_end(ap);
}

bool text_write_fd(const struct text *t, int fd)
{
	struct quiet q = os_quiet_begin();
	size_t done = 0;

	while (done < t->len) {
		long n = sys3(SYS_write, fd, t->buf + done, t->len - done);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	os_quiet_end(&q);
	return done == t->len;
}
