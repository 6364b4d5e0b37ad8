/*
 * filter.c - executes a program under a seccomp filter.
 *
 *   filter docker PROGRAM ...               what containers have by default, in essence: all but these calls are allowed
 *   filter ACTION[:CALL,...] PROGRAM ...    only these calls (names below, or numbers) get ACTION: kill, killthread, trap, errno, allow
 *
 * A call may be followed by /ARGUMENT&BITS: only if one of the bits is in that argument, or by /ARGUMENT!BITS: only if none is.
 * Exit status 77: there are no filters here.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NAMESPACES = 0x7e020000 };
#define ERROR(e) (SECCOMP_RET_ERRNO | (e))

static struct sock_filter code[1024];
static unsigned short n;

static void add(unsigned short op, unsigned char jt, unsigned char jf, unsigned k)
{
	if (n == sizeof code / sizeof *code)
		exit(126);
	code[n++] = (struct sock_filter){op, jt, jf, k};
}

/* One call; with bits, only if one of them is (none: is not) in that argument. */
static void answer(long nr, int arg, unsigned bits, int none, unsigned what)
{
	add(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
	if (!bits) {
		add(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, (unsigned)nr);
	} else {
		add(BPF_JMP | BPF_JEQ | BPF_K, 0, 3, (unsigned)nr);
		add(BPF_LD | BPF_W | BPF_ABS, 0, 0,
		    (unsigned)(offsetof(struct seccomp_data, args) + 8 * (size_t)arg));
		add(BPF_JMP | BPF_JSET | BPF_K, none ? 1 : 0, none ? 0 : 1, bits);
	}
	add(BPF_RET | BPF_K, 0, 0, what);
}

static void docker(void)
{
	static const short refused[] = {
		SYS_acct,
		SYS_add_key,
		SYS_bpf,
		SYS_clock_adjtime,
		SYS_clock_settime,
		SYS_delete_module,
		SYS_finit_module,
		SYS_get_mempolicy,
		SYS_init_module,
		SYS_ioperm,
		SYS_iopl,
		SYS_kcmp,
		SYS_kexec_load,
		SYS_keyctl,
		SYS_mbind,
		SYS_mount,
		SYS_move_pages,
		SYS_open_by_handle_at,
		SYS_perf_event_open,
		SYS_pivot_root,
		SYS_quotactl,
		SYS_reboot,
		SYS_request_key,
		SYS_set_mempolicy,
		SYS_setns,
		SYS_settimeofday,
		SYS_swapoff,
		SYS_swapon,
		SYS_umount2,
		SYS_unshare,
		SYS_userfaultfd,
		SYS_vhangup,
		SYS_io_uring_setup,
		SYS_io_uring_enter,
		SYS_io_uring_register,
	};

	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		answer(refused[i], 0, 0, 0, ERROR(EPERM));
	answer(SYS_clone, 0, NAMESPACES, 0, ERROR(EPERM));
	answer(SYS_clone3, 0, 0, 0, ERROR(ENOSYS));
}

static long number(const char *name)
{
	static const struct {
		const char *name;
		long nr;
	} all[] = {
#define NAME(x) {#x, SYS_##x}
		NAME(openat),
		NAME(open),
		NAME(mkdir),
		NAME(renameat),
		NAME(fallocate),
		NAME(ftruncate),
		NAME(unlinkat),
		NAME(flock),
		NAME(mmap),
		NAME(mprotect),
		NAME(mremap),
		NAME(madvise),
		NAME(process_vm_readv),
		NAME(process_vm_writev),
		NAME(clone),
		NAME(close_range),
		NAME(execve),
		NAME(kill),
		NAME(setpgid),
		NAME(waitid),
		NAME(wait4),
		NAME(prctl),
		NAME(pwrite64),
		NAME(mlock),
		NAME(membarrier),
		NAME(rt_sigpending),
		NAME(rt_sigtimedwait),
		NAME(rt_tgsigqueueinfo),
		NAME(sched_setattr),
		NAME(sched_getscheduler),
		NAME(newfstatat),
		NAME(chdir),
		NAME(dup),
		NAME(poll),
		NAME(setpriority),
		NAME(readlink),
		NAME(futex),
	};

	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (strcmp(all[i].name, name) == 0)
			return all[i].nr;
	fprintf(stderr, "filter: no call %s\n", name);
	exit(126);
}

static void calls(char *list, unsigned what)
{
	for (char *call = strtok(list, ","); call; call = strtok(NULL, ",")) {
		char *slash = strchr(call, '/');
		unsigned bits = 0;
		int arg = 0, none = 0;

		if (slash) {
			*slash = 0;
			arg = slash[1] - '0';
			none = slash[2] == '!';
			bits = (unsigned)strtoul(slash + 3, NULL, 0);
		}
		answer(number(call), arg, bits, none, what);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		unsigned what;
	} actions[] = {
		{"kill", SECCOMP_RET_KILL_PROCESS}, {"killthread", SECCOMP_RET_KILL_THREAD},
		{"trap", SECCOMP_RET_TRAP},	    {"errno", ERROR(EPERM)},
		{"allow", SECCOMP_RET_ALLOW},
	};
	struct sock_fprog prog = {.filter = code};
	char *list;

	if (argc < 3)
		return 126;
	list = strchr(argv[1], ':');
	if (list)
		*list++ = 0;
	if (strcmp(argv[1], "docker") == 0)
		docker();
	for (size_t i = 0; list && i < sizeof actions / sizeof *actions; i++)
		if (strcmp(argv[1], actions[i].name) == 0)
			calls(list, actions[i].what);
	add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
	prog.len = n;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		return 77;
	execv(argv[2], argv + 2);
	return 126;
}
