/*
 * impostor.c - impostor LIBRARY HOW DIRECTORY: looks to `preempt dump` like a process with the library, and answers as HOW says.
 *
 * It has a mapping named libpreempt.so and a thread named sysmon that takes one signal only; the signal has the name of the
 * answer. Prints "ready" when it can be asked.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *how, *dir;

static void put(const char *path)
{
	static const char text[] = "libpreempt: the \033[31manswer\n";
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);

	if (fd < 0 || write(fd, text, sizeof text - 1) < 0)
		abort();
	if (strcmp(how, "others_file") == 0 && fchown(fd, 65534, 65534) != 0)
		abort();
	if (strcmp(how, "writable_file") == 0)
		fchmod(fd, 0666);
	close(fd);
}

static void asked(int sig, siginfo_t *info, void *uc)
{
	char path[256], away[256], whole[256];

	(void)sig;
	(void)uc;
	snprintf(path, sizeof path, "%s/.new", dir);
	snprintf(away, sizeof away, "%s/elsewhere", dir);
	snprintf(whole, sizeof whole, "%s/dump-%08x", dir,
		 (uint32_t)(uintptr_t)info->si_value.sival_ptr);
	if (strcmp(how, "fifo") == 0) {
		mkfifo(whole, 0600);
	} else if (strcmp(how, "link") == 0) {
		put(away);
		if (symlink(away, whole) != 0)
			abort();
	} else {
		put(path);
		if (rename(path, whole) != 0)
			abort();
	}
}

static void *monitor(void *arg)
{
	uint64_t mask = ~((uint64_t)1 << (SIGUSR2 - 1));

	prctl(PR_SET_NAME, "sysmon");
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask);
	printf("ready\n");
	fflush(stdout);
	for (;;)
		pause();
	return arg;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_sigaction = asked, .sa_flags = SA_SIGINFO};
	sigset_t all;
	pthread_t t;
	int fd;

	if (argc != 4)
		return 2;
	how = argv[2];
	dir = argv[3];
	fd = open(argv[1], O_RDONLY);
	if (fd < 0 || mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED)
		return 2;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	sigaction(SIGUSR2, &sa, NULL);
	if (pthread_create(&t, NULL, monitor, NULL) != 0)
		return 2;
	pthread_join(t, NULL);
	return 0;
}
