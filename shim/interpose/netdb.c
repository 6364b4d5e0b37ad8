// netdb.c: host names. The resolver waits for the network inside libc and in name service modules,
// which come back through our wrappers: hence MAY_BLOCK_DEEP.

#include <netdb.h>

#include "interpose.h"

#define WRAP_DEEP(ret, name, params, args) WRAP(MAY_BLOCK_DEEP, ret, name, params, args)
#define R_PARAMS struct hostent *restrict he, char *restrict buf, size_t len
#define R_RESULT struct hostent **restrict result, int *restrict err

WRAP_DEEP(int, getaddrinfo,
	  (const char *restrict node, const char *restrict service,
	   const struct addrinfo *restrict hints, struct addrinfo **restrict res),
	  (node, service, hints, res))
WRAP_DEEP(int, getnameinfo,
	  (const struct sockaddr *restrict addr, socklen_t addrlen, char *restrict host,
	   socklen_t hostlen, char *restrict service, socklen_t servicelen, int flags),
	  (addr, addrlen, host, hostlen, service, servicelen, flags))
WRAP_DEEP(struct hostent *, gethostbyname, (const char *name), (name))
WRAP_DEEP(struct hostent *, gethostbyname2, (const char *name, int family), (name, family))
WRAP_DEEP(struct hostent *, gethostbyaddr, (const void *addr, socklen_t addrlen, int family),
	  (addr, addrlen, family))
WRAP_DEEP(int, gethostbyname_r, (const char *restrict name, R_PARAMS, R_RESULT),
	  (name, he, buf, len, result, err))
WRAP_DEEP(int, gethostbyname2_r, (const char *restrict name, int family, R_PARAMS, R_RESULT),
	  (name, family, he, buf, len, result, err))
WRAP_DEEP(int, gethostbyaddr_r,
	  (const void *restrict addr, socklen_t addrlen, int family, R_PARAMS, R_RESULT),
	  (addr, addrlen, family, he, buf, len, result, err))
