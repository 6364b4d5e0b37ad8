// file.c: opening files. A FIFO, a device or a network file system may keep the caller waiting.
//
// close is not interposed: it is called in places where nothing else may happen (after fork, in
// signal handlers), and a close that blocks is rare enough to be left to sysmon.

#include <fcntl.h>
#include <stdarg.h>

#include "interpose.h"

// mode is passed only with flags that create a file; elsewhere there is no argument to fetch.
#define HAS_MODE(flags) (((flags)&O_CREAT) || ((flags)&O_TMPFILE) == O_TMPFILE)
#define FETCH_MODE(flags)                                                                          \
	mode_t mode = 0;                                                                           \
	if (HAS_MODE(flags)) {                                                                     \
		va_list ap;                                                                        \
		va_start(ap, flags);                                                               \
		mode = va_arg(ap, mode_t);                                                         \
		va_end(ap);                                                                        \
	}

#define OPEN(name)                                                                                 \
	REAL_FN(name);                                                                             \
	EXPORT int name(const char *path, int flags, ...)                                          \
	{                                                                                          \
		FETCH_MODE(flags)                                                                  \
		return MAY_BLOCK(REAL(name)(path, flags, mode));                                   \
	}
#define OPENAT(name)                                                                               \
	REAL_FN(name);                                                                             \
	EXPORT int name(int dir, const char *path, int flags, ...)                                 \
	{                                                                                          \
		FETCH_MODE(flags)                                                                  \
		return MAY_BLOCK(REAL(name)(dir, path, flags, mode));                              \
	}
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
ALIAS(__open, open);
ALIAS(__open64, open64);

// Not declared without _FORTIFY_SOURCE: entry points of fortified programs.
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

WRAP(MAY_BLOCK, int, __open_2, (const char *path, int flags), (path, flags))
WRAP(MAY_BLOCK, int, __open64_2, (const char *path, int flags), (path, flags))
WRAP(MAY_BLOCK, int, __openat_2, (int dir, const char *path, int flags), (dir, path, flags))
WRAP(MAY_BLOCK, int, __openat64_2, (int dir, const char *path, int flags), (dir, path, flags))
WRAP(MAY_BLOCK, int, creat, (const char *path, mode_t mode), (path, mode))
WRAP(MAY_BLOCK, int, creat64, (const char *path, mode_t mode), (path, mode))
WRAP(MAY_BLOCK, int, open_by_handle_at, (int dir, struct file_handle *handle, int flags),
     (dir, handle, flags))
