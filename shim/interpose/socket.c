// socket.c: calls on sockets.
//
// connect is class 2: poll has no answer for a socket that is not connected yet, and on the local
// machine it does not wait.

#include <poll.h>
#include <sys/socket.h>

#include "interpose.h"

// These flags promise that the call returns at once.
static bool sock_would_block(int fd, int flags, short events)
{
	if (flags & (MSG_DONTWAIT | MSG_ERRQUEUE | MSG_OOB))
		return false;
	return fd_would_block(fd, events);
}
#define SEND(name, params, args)                                                                   \
	WRAP_IF(sock_would_block(fd, flags, POLLOUT), ssize_t, name, params, args)
#define RECV(name, params, args)                                                                   \
	WRAP_IF(sock_would_block(fd, flags, POLLIN), ssize_t, name, params, args)

WRAP_IF(fd_would_block(fd, POLLIN), int, accept,
	(int fd, __SOCKADDR_ARG addr, socklen_t *restrict len), (fd, addr, len))
WRAP_IF(fd_would_block(fd, POLLIN), int, accept4,
	(int fd, __SOCKADDR_ARG addr, socklen_t *restrict len, int flags), (fd, addr, len, flags))
WRAP(MAY_BLOCK, int, connect, (int fd, __CONST_SOCKADDR_ARG addr, socklen_t len), (fd, addr, len))
ALIAS(__connect, connect);

SEND(send, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags))
SEND(sendto,
     (int fd, const void *buf, size_t n, int flags, __CONST_SOCKADDR_ARG addr, socklen_t len),
     (fd, buf, n, flags, addr, len))
SEND(sendmsg, (int fd, const struct msghdr *msg, int flags), (fd, msg, flags))
ALIAS(__send, send);
WRAP_IF(sock_would_block(fd, flags, POLLOUT), int, sendmmsg,
	(int fd, struct mmsghdr *msgs, unsigned int n, int flags), (fd, msgs, n, flags))

// Not declared without _FORTIFY_SOURCE: entry points of fortified programs.
ssize_t __recv_chk(int fd, void *buf, size_t n, size_t buflen, int flags);
ssize_t __recvfrom_chk(int fd, void *restrict buf, size_t n, size_t buflen, int flags,
		       __SOCKADDR_ARG addr, socklen_t *restrict len);

RECV(recv, (int fd, void *buf, size_t n, int flags), (fd, buf, n, flags))
RECV(__recv_chk, (int fd, void *buf, size_t n, size_t buflen, int flags),
     (fd, buf, n, buflen, flags))
RECV(recvfrom,
     (int fd, void *restrict buf, size_t n, int flags, __SOCKADDR_ARG addr,
      socklen_t *restrict len),
     (fd, buf, n, flags, addr, len))
RECV(__recvfrom_chk,
     (int fd, void *restrict buf, size_t n, size_t buflen, int flags, __SOCKADDR_ARG addr,
      socklen_t *restrict len),
     (fd, buf, n, buflen, flags, addr, len))
RECV(recvmsg, (int fd, struct msghdr *msg, int flags), (fd, msg, flags))
WRAP_IF(sock_would_block(fd, flags, POLLIN), int, recvmmsg,
	(int fd, struct mmsghdr *msgs, unsigned int n, int flags, struct timespec *timeout),
	(fd, msgs, n, flags, timeout))
