// dl.c: dlclose, only to count it.
//
// A module without build-id cannot be told from another one that is loaded at its place later, so its safe-point table
// counts until the next dlclose (modules.c). dlopen is not wrapped: glibc looks at the caller's address, for search paths
// and namespaces. dlclose runs destructors of the program, so the thread keeps its P and can be preempted.

#include <dlfcn.h>

#include "interpose.h"

REAL_FN(dlclose);

EXPORT int dlclose(void *handle)
{
	int r;

	modules_unload(true);
	sites_settle();
	r = REAL(dlclose)(handle);
	modules_unload(false);
	return r;
}
COMPAT(dlclose, 2_2_5, "GLIBC_2.2.5");
