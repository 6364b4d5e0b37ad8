// ipc.c: message queues and System V IPC. None of the System V waits restarts after a signal: they
// rely on the rule that a thread in a call gets no preemption signal (HACKING.md, section 7).

#include <mqueue.h>
#include <poll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

#include "interpose.h"

// --- POSIX message queues: descriptors, as far as the kernel is concerned ------------------------

WRAP_IF(fd_would_block(mq, POLLOUT), int, mq_send,
	(mqd_t mq, const char *msg, size_t len, unsigned int prio), (mq, msg, len, prio))
WRAP_IF(fd_would_block(mq, POLLOUT), int, mq_timedsend,
	(mqd_t mq, const char *msg, size_t len, unsigned int prio, const struct timespec *abs),
	(mq, msg, len, prio, abs))
WRAP_IF(fd_would_block(mq, POLLIN), ssize_t, mq_receive,
	(mqd_t mq, char *msg, size_t len, unsigned int *prio), (mq, msg, len, prio))
WRAP_IF(fd_would_block(mq, POLLIN), ssize_t, mq_timedreceive,
	(mqd_t mq, char *restrict msg, size_t len, unsigned int *restrict prio,
	 const struct timespec *restrict abs),
	(mq, msg, len, prio, abs))
COMPAT(mq_send, 2_3_4, "GLIBC_2.3.4");
COMPAT(mq_timedsend, 2_3_4, "GLIBC_2.3.4");
COMPAT(mq_receive, 2_3_4, "GLIBC_2.3.4");
COMPAT(mq_timedreceive, 2_3_4, "GLIBC_2.3.4");

// --- System V: the non-blocking twin would take effect, so class 2 -------------------------------

WRAP(MAY_BLOCK, int, msgsnd, (int q, const void *msg, size_t len, int flags), (q, msg, len, flags))
WRAP(MAY_BLOCK, ssize_t, msgrcv, (int q, void *msg, size_t len, long type, int flags),
     (q, msg, len, type, flags))
WRAP(MAY_BLOCK, int, semop, (int set, struct sembuf *ops, size_t n), (set, ops, n))
WRAP(MAY_BLOCK, int, semtimedop,
     (int set, struct sembuf *ops, size_t n, const struct timespec *timeout),
     (set, ops, n, timeout))
