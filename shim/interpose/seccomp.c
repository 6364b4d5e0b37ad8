// seccomp.c: the doors by which a process puts itself under a filter: prctl, and syscall(SYS_seccomp), which comes from syscall.c.

#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "interpose.h"

extern __typeof__(syscall) *real_syscall __attribute__((visibility("hidden")));

REAL_FN(prctl);

EXPORT int prctl(int option, ...)
{
	unsigned long arg[4];
	va_list ap;
	enum confine_note note = CONFINE_UNNOTED;
	int r;

	va_start(ap, option);
	for (int i = 0; i < 4; i++)
		arg[i] = va_arg(ap, unsigned long); // what was not given is not looked at
	va_end(ap);
	if (option == PR_SET_SECCOMP && arg[0] == SECCOMP_MODE_STRICT)
		note = confine_tightens(NULL);
	if (option == PR_SET_SECCOMP && arg[0] == SECCOMP_MODE_FILTER && arg[1]) // else a question
		note = confine_tightens((const void *)arg[1]);
	r = REAL(prctl)(option, arg[0], arg[1], arg[2], arg[3]);
	if (r < 0)
		confine_failed(note);
	return r;
}

// Without a program, and in strict mode with flags, it is a question: libseccomp's are.
long seccomp_call(unsigned operation, unsigned flags, const void *prog)
{
	enum confine_note note = CONFINE_UNNOTED;
	long r;

	if (operation == SECCOMP_SET_MODE_STRICT && !flags && !prog)
		note = confine_tightens(NULL);
	if (operation == SECCOMP_SET_MODE_FILTER && prog)
		note = confine_tightens(prog);
	r = real_syscall(SYS_seccomp, operation, flags, prog);
	// TSYNC that fails says for which thread.
	if (r < 0 || (r > 0 && !(flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)))
		confine_failed(note);
	return r;
}
