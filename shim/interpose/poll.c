// poll.c: waiting for descriptors.
//
// All have an exact non-blocking twin: themselves with a zero timeout. When someone wants the P the
// twin is asked first; only if it finds nothing the P is handed on. Rejected: handing it on in any
// case, as an event loop under load nearly always finds events.

#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "interpose.h"

static const struct timespec no_time;

static bool is_zero(const struct timespec *t)
{
	return t && t->tv_sec == 0 && t->tv_nsec == 0;
}

// A twin runs while its thread holds a P, so the preemption signal may hit it, and poll and select
// report EINTR even when they were not to wait. That signal is none of the program's business.
static bool eintr_is_ours(const struct g *gp, uint32_t gen, uint32_t sigcount)
{
	return errno == EINTR && load_relaxed(&gp->preempt_gen) != gen &&
	       load_relaxed(&gp->sigcount) == sigcount;
}
#define AT_ONCE(gp, call)                                                                          \
	__extension__({                                                                            \
		int saved_ = errno, at_once_;                                                      \
		for (;;) {                                                                         \
			uint32_t gen_ = load_relaxed(&(gp)->preempt_gen);                          \
			uint32_t sigcount_ = load_relaxed(&(gp)->sigcount);                        \
                                                                                                   \
			at_once_ = (call);                                                         \
			if (at_once_ >= 0 || !eintr_is_ours(gp, gen_, sigcount_))                  \
				break;                                                             \
			errno = saved_;                                                            \
		}                                                                                  \
		at_once_;                                                                          \
	})

// nowait: the caller asks for no wait. twin: the call with a zero timeout; whatever it changes when
// it finds nothing must be put back by undo.
#define POLLS(nowait, twin, undo, call)                                                            \
	__extension__({                                                                            \
		struct g *gp_ = getg();                                                            \
		int r_ = 0;                                                                        \
		if (!gp_) {                                                                        \
			r_ = (call);                                                               \
		} else if (nowait) {                                                               \
			preempt_check(gp_);                                                        \
			r_ = AT_ONCE(gp_, call);                                                   \
		} else {                                                                           \
			bool wanted_ = demand();                                                   \
                                                                                                   \
			if (wanted_)                                                               \
				r_ = AT_ONCE(gp_, twin);                                           \
			if (r_ != 0) {                                                             \
				preempt_check(gp_);                                                \
			} else {                                                                   \
				if (wanted_) {                                                     \
					undo;                                                      \
					entersyscallblock(gp_);                                    \
				} else {                                                           \
					entersyscall(gp_);                                         \
				}                                                                  \
				r_ = (call);                                                       \
				exitsyscall(gp_);                                                  \
			}                                                                          \
		}                                                                                  \
		r_;                                                                                \
	})
#define WRAP_POLL(name, params, nowait, twin, args)                                                \
	REAL_FN(name);                                                                             \
	EXPORT int name params                                                                     \
	{                                                                                          \
		return POLLS(nowait, REAL(name) twin, (void)0, REAL(name) args);                   \
	}

// Not declared without _FORTIFY_SOURCE: entry points of fortified programs.
int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t len);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
		size_t len);

WRAP_POLL(poll, (struct pollfd * fds, nfds_t n, int timeout), timeout == 0, (fds, n, 0),
	  (fds, n, timeout))
ALIAS(__poll, poll);
WRAP_POLL(__poll_chk, (struct pollfd * fds, nfds_t n, int timeout, size_t len), timeout == 0,
	  (fds, n, 0, len), (fds, n, timeout, len))
WRAP_POLL(ppoll,
	  (struct pollfd * fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask),
	  is_zero(timeout), (fds, n, &no_time, mask), (fds, n, timeout, mask))
WRAP_POLL(__ppoll_chk,
	  (struct pollfd * fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
	   size_t len),
	  is_zero(timeout), (fds, n, &no_time, mask, len), (fds, n, timeout, mask, len))

WRAP_POLL(epoll_wait, (int ep, struct epoll_event *ev, int n, int timeout), timeout == 0,
	  (ep, ev, n, 0), (ep, ev, n, timeout))
WRAP_POLL(epoll_pwait, (int ep, struct epoll_event *ev, int n, int timeout, const sigset_t *mask),
	  timeout == 0, (ep, ev, n, 0, mask), (ep, ev, n, timeout, mask))

REAL_FN(epoll_pwait2);
EXPORT int epoll_pwait2(int ep, struct epoll_event *ev, int n, const struct timespec *timeout,
			const sigset_t *mask)
{
	if (!REAL(epoll_pwait2)) { // since glibc 2.35
		errno = ENOSYS;
		return -1;
	}
	return POLLS(is_zero(timeout), real_epoll_pwait2(ep, ev, n, &no_time, mask), (void)0,
		     real_epoll_pwait2(ep, ev, n, timeout, mask));
}

// --- select: the twin clears the sets when it finds nothing -------------------------------------

struct saved_sets {
	fd_set in, out, except;
};

static size_t set_bytes(int n)
{
	return ((size_t)n + 63) / 64 * 8;
}

static void save_sets(struct saved_sets *s, int n, const fd_set *in, const fd_set *out,
		      const fd_set *except)
{
	if (in)
		memcpy(&s->in, in, set_bytes(n));
	if (out)
		memcpy(&s->out, out, set_bytes(n));
	if (except)
		memcpy(&s->except, except, set_bytes(n));
}

static void restore_sets(const struct saved_sets *s, int n, fd_set *in, fd_set *out, fd_set *except)
{
	if (in)
		memcpy(in, &s->in, set_bytes(n));
	if (out)
		memcpy(out, &s->out, set_bytes(n));
	if (except)
		memcpy(except, &s->except, set_bytes(n));
}

// Programs may allocate sets larger than fd_set. Those, and errors, are for the kernel alone.
static bool sets_fit(int n)
{
	return n >= 0 && n <= FD_SETSIZE;
}

REAL_FN(select);
EXPORT int select(int n, fd_set *restrict in, fd_set *restrict out, fd_set *restrict except,
		  struct timeval *restrict timeout)
{
	struct saved_sets saved;
	struct timeval zero = {0};

	if (!sets_fit(n))
		return MAY_BLOCK(REAL(select)(n, in, out, except, timeout));
	return POLLS(
		timeout && timeout->tv_sec == 0 && timeout->tv_usec == 0,
		(save_sets(&saved, n, in, out, except), REAL(select)(n, in, out, except, &zero)),
		restore_sets(&saved, n, in, out, except),
		REAL(select)(n, in, out, except, timeout));
}
ALIAS(__select, select);

REAL_FN(pselect);
EXPORT int pselect(int n, fd_set *restrict in, fd_set *restrict out, fd_set *restrict except,
		   const struct timespec *restrict timeout, const sigset_t *restrict mask)
{
	struct saved_sets saved;

	if (!sets_fit(n))
		return MAY_BLOCK(REAL(pselect)(n, in, out, except, timeout, mask));
	return POLLS(is_zero(timeout),
		     (save_sets(&saved, n, in, out, except),
		      REAL(pselect)(n, in, out, except, &no_time, mask)),
		     restore_sets(&saved, n, in, out, except),
		     REAL(pselect)(n, in, out, except, timeout, mask));
}
