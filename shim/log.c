// log.c: what the shim says about itself, and how it dies.
//
// Problem: a line on stderr must not mix with the program's output, may come from a signal handler,
// and must not depend on stdio, whose locks the program may hold at this moment.
// Approach: build the whole line on the stack and hand it to the kernel in one write(2).

#include <sys/syscall.h>

#include "shim.h"

enum { LINE_MAX_BYTES = 1024 };

static const char prefix[] = "libpreempt: ";

// A setting may hold a newline or an escape sequence; a line stays one plain line.
static void make_plain(char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)s[i] < ' ' || s[i] == 0x7f)
			s[i] = '?';
	}
}

static void write_line(char *buf, size_t len)
{
	struct quiet q = os_quiet_begin();

	make_plain(buf, len);
	buf[len++] = '\n';
	// The result is of no use: there is nowhere to complain when stderr is gone.
	(void)sys3(SYS_write, 2, buf, len);
	os_quiet_end(&q);
}

// Signal-safe; about 1.2 KB of stack.
void log_line(enum log_level level, const char *fmt, ...)
{
	char buf[LINE_MAX_BYTES + 1];
	struct text t = {.buf = buf, .len = 0, .cap = LINE_MAX_BYTES};
	va_list ap;

	if ((int)level > config.log || load_relaxed(&sched.sealed))
		return;
	text_printf(&t, "%s", prefix);
	va_start(ap, fmt);
	text_vprintf(&t, fmt, ap);
	va_end(ap);
	write_line(buf, t.len);
}

// Signal-safe. The program may catch, block or ignore SIGABRT; a broken scheduler must not go on,
// so the default action is restored in the kernel, past our own record of the program's handlers.
void throw(const char *why)
{
	char buf[LINE_MAX_BYTES + 1];
	struct text t = {.buf = buf, .len = 0, .cap = LINE_MAX_BYTES};
	// The kernel's struct sigaction: handler, flags, restorer, mask; all zero is SIG_DFL.
	const uint64_t dfl[4] = {0, 0, 0, 0};
	const uint64_t abrt = (uint64_t)1 << (SIGABRT - 1);

	text_printf(&t, "%sfatal: %s", prefix, why);
	write_line(buf, t.len);
	(void)sys4(SYS_rt_sigaction, SIGABRT, dfl, 0, sizeof(uint64_t));
	(void)sys4(SYS_rt_sigprocmask, SIG_UNBLOCK, &abrt, 0, sizeof(uint64_t));
	// Not os_tgkill: it needs a sched.pid that start-up may not have set.
	(void)sys3(SYS_tgkill, os_getpid(), os_gettid(), SIGABRT);
	for (;;)
		(void)sys1(SYS_exit_group, 128 + SIGABRT);
}
