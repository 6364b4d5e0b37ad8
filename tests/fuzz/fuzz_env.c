// fuzz_env.c: settings from arbitrary bytes: an environment, its entries divided by newlines.
//
// Whatever it says: what is read is within the bounds that the help states, every complaint is one plain line of at most
// 1 KiB, and there are as many lines as bad settings if the level lets them through. Each value is then given to the command's own check.

#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "shim.h"

enum { ENTRIES = 64, LINES_MAX = 1 << 18 };

static char *entries[ENTRIES + 1];
static int complaints = -1; // a file in memory

static const char *fake_getenv(const char *name)
{
	size_t n = strlen(name);

	for (char **e = entries; *e; e++)
		if (!strncmp(*e, name, n) && (*e)[n] == '=')
			return *e + n + 1;
	return NULL;
}

static int divide(char *text)
{
	int n = 0;

	for (char *s = text; s && n < ENTRIES; n++) {
		entries[n] = s;
		s = strchr(s, '\n');
		if (s)
			*s++ = 0;
	}
	entries[n] = NULL;
	return n;
}

static void check_lines(int bad)
{
	static char text[LINES_MAX];
	ssize_t n = pread(complaints, text, sizeof(text), 0);
	int lines = 0;

	MUST(n >= 0 && n < LINES_MAX);
	for (char *s = text, *end; s < text + n; s = end + 1, lines++) {
		end = memchr(s, '\n', (size_t)(text + n - s));
		MUST(end && end - s <= 1024 && !strncmp(s, "libpreempt: ", 12));
		for (char *c = s; c < end; c++)
			MUST((unsigned char)*c >= ' ' && *c != 0x7f);
	}
	MUST(lines == (config.log >= LOG_WARN ? bad : 0));
}

static void check_string(const char *s, size_t size)
{
	MUST(memchr(s, 0, size));
}

static void check_config(void)
{
	static const char *const names[] = {"a", "w200", "", "a:b", "exactly15chars_"};

	MUST(config.procs >= 0 && config.procs <= 1024);
	MUST(config.quantum >= 100000 && config.quantum <= 10000000000);
	MUST(config.force_after == 0 ||
	     (config.force_after >= 100000 && config.force_after <= 3600000000000));
	MUST(config.lock_grace >= 0 && config.lock_grace <= 10000000000);
	MUST(config.credit >= 0 && config.credit <= 1000000000);
	MUST(config.signal == SIG_SETXID || config.signal == SIGURG ||
	     (config.signal >= 34 && config.signal <= 64));
	MUST(config.dump_signal >= 0 && config.dump_signal <= 64 && config.dump_signal != SIGKILL);
	MUST(!config.dump_signal || config.dump_signal != config.signal);
	MUST(config.log >= LOG_OFF && config.log <= LOG_DEBUG);
	MUST(config.deadlock >= DEADLOCK_OFF && config.deadlock <= DEADLOCK_ABORT);
	MUST(config.spin >= SPIN_OFF && config.spin <= SPIN_SAMPLE);
	MUST(config.schedtrace_ms >= 0 && config.schedtrace_ms <= 3600000);
	MUST(config.chaos >= 0);
	MUST(config.policy == &policy_fair || config.policy == &policy_go);
	check_string(config.stats, sizeof(config.stats));
	check_string(config.stats_page, sizeof(config.stats_page));
	check_string(config.trace, sizeof(config.trace));
	check_string(config.cache_dir, sizeof(config.cache_dir));
	check_string(config.weights, sizeof(config.weights));
	check_string(config.critical, sizeof(config.critical));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		uint32_t w = weight_of_name(config.weights, names[i]);

		MUST(w <= 10000);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	int stderr_fd, bad, n;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	n = divide(text);
	if (complaints < 0)
		complaints = memfd_create("complaints", MFD_CLOEXEC);
	MUST(complaints >= 0 && ftruncate(complaints, 0) == 0 &&
	     lseek(complaints, 0, SEEK_SET) == 0);
	fflush(stderr);
	stderr_fd = dup(2);
	MUST(stderr_fd >= 0 && dup2(complaints, 2) == 2);
	bad = env_read(fake_getenv, entries);
	MUST(dup2(stderr_fd, 2) == 2);
	close(stderr_fd);
	check_lines(bad);
	check_config();
	for (int i = 0; i < n; i++) {
		const char *value = strchr(entries[i], '=');

		for (int set = 0; value && set < 32; set++)
			(void)env_check(set, value + 1);
	}
	free(text);
	return 0;
}
