// seccomp.c: prctl, by which a process can put itself under a filter. The other door is in syscall.c.

#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>

#include "interpose.h"

REAL_FN(prctl);

EXPORT int prctl(int option, ...)
{
	unsigned long arg[4];
	va_list ap;
	bool noted;
	int r;

	va_start(ap, option);
	for (int i = 0; i < 4; i++)
		arg[i] = va_arg(ap, unsigned long); // what was not given is not looked at
	va_end(ap);
	noted = option == PR_SET_SECCOMP && (arg[0] != SECCOMP_MODE_FILTER || arg[1]) &&

		confine_tightens(arg[0] == SECCOMP_MODE_FILTER ? (const void *)arg[1] : NULL);
	r = REAL(prctl)(option, arg[0], arg[1], arg[2], arg[3]);
	if (noted && r < 0)
		confine_failed();
	return r;
}
