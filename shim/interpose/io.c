// io.c: reading, writing, and the other calls on open descriptors.
//
// Calls on a position in a file (pread, fsync, ...) are class 2: files are always "ready", asking
// poll about them first would only cost. Stream-like calls ask poll when someone wants the P.
// Stdio is not here: its read and write happen inside libc, where sysmon finds them.

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>
#include <unistd.h>

#include "interpose.h"

bool fd_would_block(int fd, short events)
{
	struct pollfd pfd = {.fd = fd, .events = events};

	if (sys3(SYS_poll, &pfd, 1, 0) != 0)
		return false;
	// Not ready: a descriptor in non-blocking mode says EAGAIN at once, and an event loop would
	// lose its P for nothing.
	long flags = sys3(SYS_fcntl, fd, F_GETFL, 0);
	return flags >= 0 && !(flags & O_NONBLOCK);
}

// --- read and write ---------------------------------------------------------------------------

// Not declared without _FORTIFY_SOURCE: entry points of fortified programs.
ssize_t __read_chk(int fd, void *buf, size_t n, size_t buflen);
ssize_t __pread_chk(int fd, void *buf, size_t n, off_t off, size_t buflen);
ssize_t __pread64_chk(int fd, void *buf, size_t n, off64_t off, size_t buflen);

WRAP_IF(fd_would_block(fd, POLLIN), ssize_t, read, (int fd, void *buf, size_t n), (fd, buf, n))
WRAP_IF(fd_would_block(fd, POLLIN), ssize_t, __read_chk,
	(int fd, void *buf, size_t n, size_t buflen), (fd, buf, n, buflen))
WRAP_IF(fd_would_block(fd, POLLIN), ssize_t, readv, (int fd, const struct iovec *iov, int n),
	(fd, iov, n))
WRAP_IF(fd_would_block(fd, POLLIN), int, eventfd_read, (int fd, eventfd_t *value), (fd, value))
WRAP_IF(fd_would_block(fd, POLLOUT), ssize_t, write, (int fd, const void *buf, size_t n),
	(fd, buf, n))
WRAP_IF(fd_would_block(fd, POLLOUT), ssize_t, writev, (int fd, const struct iovec *iov, int n),
	(fd, iov, n))
WRAP_IF(fd_would_block(fd, POLLOUT), int, eventfd_write, (int fd, eventfd_t value), (fd, value))
ALIAS(__read, read);
ALIAS(__write, write);

WRAP(MAY_BLOCK, ssize_t, pread, (int fd, void *buf, size_t n, off_t off), (fd, buf, n, off))
WRAP(MAY_BLOCK, ssize_t, pread64, (int fd, void *buf, size_t n, off64_t off), (fd, buf, n, off))
WRAP(MAY_BLOCK, ssize_t, __pread_chk, (int fd, void *buf, size_t n, off_t off, size_t buflen),
     (fd, buf, n, off, buflen))
WRAP(MAY_BLOCK, ssize_t, __pread64_chk, (int fd, void *buf, size_t n, off64_t off, size_t buflen),
     (fd, buf, n, off, buflen))
WRAP(MAY_BLOCK, ssize_t, pwrite, (int fd, const void *buf, size_t n, off_t off), (fd, buf, n, off))
WRAP(MAY_BLOCK, ssize_t, pwrite64, (int fd, const void *buf, size_t n, off64_t off),
     (fd, buf, n, off))
ALIAS(__pread64, pread64);
ALIAS(__pwrite64, pwrite64);

#define VECTORED(name, off_type)                                                                   \
	WRAP(MAY_BLOCK, ssize_t, name, (int fd, const struct iovec *iov, int n, off_type off),     \
	     (fd, iov, n, off))
VECTORED(preadv, off_t)
VECTORED(preadv64, off64_t)
VECTORED(pwritev, off_t)
VECTORED(pwritev64, off64_t)

#define VECTORED_FLAGS(name, off_type)                                                             \
	WRAP(MAY_BLOCK, ssize_t, name,                                                             \
	     (int fd, const struct iovec *iov, int n, off_type off, int flags),                    \
	     (fd, iov, n, off, flags))
VECTORED_FLAGS(preadv2, off_t)
VECTORED_FLAGS(preadv64v2, off64_t)
VECTORED_FLAGS(pwritev2, off_t)
VECTORED_FLAGS(pwritev64v2, off64_t)

// --- moving data between descriptors ------------------------------------------------------------

WRAP_IF(fd_would_block(out, POLLOUT), ssize_t, sendfile, (int out, int in, off_t *off, size_t n),
	(out, in, off, n))
WRAP_IF(fd_would_block(out, POLLOUT), ssize_t, sendfile64,
	(int out, int in, off64_t *off, size_t n), (out, in, off, n))

static bool pipe_would_block(int in, int out, unsigned int flags)
{
	if (flags & SPLICE_F_NONBLOCK)
		return false;
	return fd_would_block(in, POLLIN) || fd_would_block(out, POLLOUT);
}

WRAP_IF(pipe_would_block(in, out, flags), ssize_t, splice,
	(int in, off64_t *inoff, int out, off64_t *outoff, size_t n, unsigned int flags),
	(in, inoff, out, outoff, n, flags))
WRAP_IF(pipe_would_block(in, out, flags), ssize_t, tee,
	(int in, int out, size_t n, unsigned int flags), (in, out, n, flags))
WRAP(MAY_BLOCK, ssize_t, vmsplice, (int fd, const struct iovec *iov, size_t n, unsigned int flags),
     (fd, iov, n, flags))
WRAP(MAY_BLOCK, ssize_t, copy_file_range,
     (int in, off64_t *inoff, int out, off64_t *outoff, size_t n, unsigned int flags),
     (in, inoff, out, outoff, n, flags))

// --- waiting for devices ------------------------------------------------------------------------

WRAP(MAY_BLOCK, int, fsync, (int fd), (fd))
WRAP(MAY_BLOCK, int, fdatasync, (int fd), (fd))
WRAP(MAY_BLOCK, int, syncfs, (int fd), (fd))
WRAP(MAY_BLOCK, int, sync_file_range, (int fd, off64_t off, off64_t n, unsigned int flags),
     (fd, off, n, flags))
WRAP(MAY_BLOCK, int, msync, (void *p, size_t len, int flags), (p, len, flags))
WRAP(MAY_BLOCK, int, fallocate, (int fd, int mode, off_t off, off_t n), (fd, mode, off, n))
WRAP(MAY_BLOCK, int, fallocate64, (int fd, int mode, off64_t off, off64_t n), (fd, mode, off, n))
WRAP(MAY_BLOCK, int, posix_fallocate, (int fd, off_t off, off_t n), (fd, off, n))
WRAP(MAY_BLOCK, int, posix_fallocate64, (int fd, off64_t off, off64_t n), (fd, off, n))
WRAP(MAY_BLOCK, int, tcdrain, (int fd), (fd))

REAL_FN(sync);
EXPORT void sync(void)
{
	(void)MAY_BLOCK((REAL(sync)(), 0));
}

REAL_FN(ioctl);
EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;

	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	return MAY_BLOCK(REAL(ioctl)(fd, request, arg));
}

// --- file locks ---------------------------------------------------------------------------------
//
// Each has a non-blocking twin, and taking a lock twice is taking it once: so the twin is asked,
// and the real call repeats it, now at once, if it succeeded.

static bool flock_would_block(int fd, int op)
{
	return !(op & (LOCK_NB | LOCK_UN)) && sys2(SYS_flock, fd, op | LOCK_NB) != 0;
}
WRAP_IF(flock_would_block(fd, op), int, flock, (int fd, int op), (fd, op))

REAL_FN(lockf);
REAL_FN(lockf64);
static bool lockf_would_block(int fd, int cmd, off64_t len)
{
	int saved = errno;
	bool blocks = cmd == F_LOCK && REAL(lockf64)(fd, F_TLOCK, len) != 0;

	errno = saved;
	return blocks;
}

EXPORT int lockf(int fd, int cmd, off_t len)
{
	return WILL_BLOCK_IF(lockf_would_block(fd, cmd, len), REAL(lockf)(fd, cmd, len));
}

EXPORT int lockf64(int fd, int cmd, off64_t len)
{
	return WILL_BLOCK_IF(lockf_would_block(fd, cmd, len), REAL(lockf64)(fd, cmd, len));
}

// Of all commands of fcntl only these two wait. The twin's command, or 0.
static int fcntl_twin(int cmd)
{
	switch (cmd) {
	case F_SETLKW:
		return F_SETLK;
	case F_OFD_SETLKW:
		return F_OFD_SETLK;
	default:
		return 0;
	}
}

#define FCNTL(name)                                                                                \
	REAL_FN(name);                                                                             \
	EXPORT int name(int fd, int cmd, ...)                                                      \
	{                                                                                          \
		va_list ap;                                                                        \
                                                                                                   \
		va_start(ap, cmd);                                                                 \
		void *arg = va_arg(ap, void *);                                                    \
		va_end(ap);                                                                        \
		int twin = fcntl_twin(cmd);                                                        \
		if (!twin)                                                                         \
			return REAL(name)(fd, cmd, arg);                                           \
		return WILL_BLOCK_IF(sys3(SYS_fcntl, fd, twin, arg) != 0,                          \
				     REAL(name)(fd, cmd, arg));                                    \
	}
FCNTL(fcntl)
FCNTL(fcntl64)
ALIAS(__fcntl, fcntl);
