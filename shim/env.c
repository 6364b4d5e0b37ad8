// env.c: the settings.
//
// Problem: a setting is named in four places that drift apart: where it is read, its default, its
// range, and its documentation. A typing error in one must be seen, not silently ignored.
// Approach: one table has it all. Defaults are text that goes through the same parser as the
// user's values, so what the help prints is what applies. A bad value is reported in one line and
// leaves the default; unknown PREEMPT_* names are reported too.
// The core is free of floating point and of libc, hence the parsers by hand.

#include "shim.h"

struct config config;

#define US ((int64_t)1000)
#define MS (1000 * US)
#define SEC (1000 * MS)

enum type {
	SWITCH,	  // bool
	DURATION, // int64_t, ns
	PROCS,	  // int; 0: auto
	POLICY,	  // const struct policy *
	SIGNAL,	  // int; the preemption signal
	DUMPSIG,  // int; any signal
	COUNT,	  // int
	LOGLEVEL, // int
	DEADLOCK, // int
	SPIN,	  // int; enum spin_mode
	STRING,	  // char[size]
	WEIGHTS,  // char[size]
	GLOBS,	  // char[size]
};

struct setting {
	const char *name;
	enum type type;
	void *value;
	size_t size;	      // of a string, with its NUL
	const char *def;      // NULL: nothing, or as def_text says
	const char *def_text; // for the help when the default is no constant
	int64_t min, max;
	bool zero; // a duration may also be a bare 0 (or 0 with a suffix), below min
	const char *arg;
	const char *range;
	const char *help;
};

#define TEXT(field) .value = config.field, .size = sizeof(config.field)

static const struct setting settings[] = {
	// First, so that it governs the lines about all others.
	{.name = "PREEMPT_LOG",
	 .type = LOGLEVEL,
	 .value = &config.log,
	 .def = "warn",
	 .arg = "LEVEL",
	 .range = "off, error, warn, info or debug",
	 .help = "what the shim reports about itself on stderr"},
	{.name = "PREEMPT_OFF",
	 .type = SWITCH,
	 .value = &config.off,
	 .def = "0",
	 .arg = "SWITCH",
	 .range = "0 or 1",
	 .help = "every interposed call passes straight through"},
	{.name = "PREEMPT_PROCS",
	 .type = PROCS,
	 .value = &config.procs,
	 .def = "auto",
	 .min = 1,
	 .max = MAX_PROCS,
	 .arg = "N",
	 .range = "auto, or 1 to 1024",
	 .help = "number of Ps, that is of threads that run at the same time; auto is the smaller "
		 "of\n"
		 "the CPUs in the affinity mask and the cgroup's CPU quota, followed live"},
	{.name = "PREEMPT_QUANTUM",
	 .type = DURATION,
	 .value = &config.quantum,
	 .def = "10ms",
	 .min = 100 * US,
	 .max = 10 * SEC,
	 .arg = "DURATION",
	 .range = "100us to 10s",
	 .help = "how long a thread runs before it must let a waiting one run"},
	{.name = "PREEMPT_POLICY",
	 .type = POLICY,
	 .value = &config.policy,
	 .def = "fair",
	 .arg = "NAME",
	 .range = "go or fair",
	 .help = "who runs next: fair is least virtual time first, with the weights of\n"
		 "PREEMPT_WEIGHTS, nice values and scheduling classes; go is the order of Go's "
		 "scheduler"},
	{.name = "PREEMPT_ASYNCPREEMPTOFF",
	 .type = SWITCH,
	 .value = &config.asyncpreemptoff,
	 .def = "0",
	 .arg = "SWITCH",
	 .range = "0 or 1",
	 .help = "send no signals: threads are preempted in interposed calls only"},
	{.name = "PREEMPT_SIGNAL",
	 .type = SIGNAL,
	 .value = &config.signal,
	 .def_text = "one of libc's own, which no program uses",
	 .arg = "SIGNAL",
	 .range = "SIGURG or SIGRTMIN+n",
	 .help = "the signal that preempts a thread; the program may use it as well"},
	{.name = "PREEMPT_FORCE_AFTER",
	 .type = DURATION,
	 .value = &config.force_after,
	 .def = "100ms",
	 .min = 100 * US,
	 .max = 3600 * SEC,
	 .zero = true,
	 .arg = "DURATION",
	 .range = "100us to 3600s, or 0",
	 .help = "when a thread reaches no safe point for so long, it is stopped inside the "
		 "signal\n"
		 "handler; 0 is never"},
	{.name = "PREEMPT_LOCK_GRACE",
	 .type = DURATION,
	 .value = &config.lock_grace,
	 .def_text = "one quantum",
	 .max = 10 * SEC,
	 .zero = true,
	 .arg = "DURATION",
	 .range = "0 to 10s",
	 .help = "how long a thread that holds a lock is spared beyond its slice"},
	{.name = "PREEMPT_SPIN",
	 .type = SPIN,
	 .value = &config.spin,
	 .def = "on",
	 .arg = "MODE",
	 .range = "on, off or sample",
	 .help = "let others run in the place of threads that wait by spinning; sample does "
		 "without\n"
		 "rewriting instructions of the program"},
	{.name = "PREEMPT_CREDIT",
	 .type = DURATION,
	 .value = &config.credit,
	 .def = "100us",
	 .max = 1 * SEC,
	 .zero = true,
	 .arg = "DURATION",
	 .range = "0 to 1s",
	 .help = "how long a thread that returns from a blocking call may run before it has to "
		 "queue;\n"
		 "0 is never"},
	{.name = "PREEMPT_WEIGHTS",
	 .type = WEIGHTS,
	 TEXT(weights),
	 .def_text = "100 each",
	 .min = 1,
	 .max = 10000,
	 .arg = "GLOB:WEIGHT,...",
	 .range = "1 to 10000",
	 .help = "shares of the CPU by thread name, under policy fair; the first glob that "
		 "matches counts"},
	{.name = "PREEMPT_CRITICAL",
	 .type = GLOBS,
	 TEXT(critical),
	 .def_text = "none",
	 .arg = "GLOB:...",
	 .range = "function names",
	 .help = "further functions in which no thread may be stopped"},
	{.name = "PREEMPT_CACHE_DIR",
	 .type = STRING,
	 TEXT(cache_dir),
	 .def_text = "$XDG_CACHE_HOME/preempt, or ~/.cache/preempt",
	 .arg = "DIR",
	 .range = "a path",
	 .help = "where the tables of safe points are kept"},
	{.name = "PREEMPT_SCHEDTRACE",
	 .type = COUNT,
	 .value = &config.schedtrace_ms,
	 .def = "0",
	 .max = 3600000,
	 .arg = "MS",
	 .range = "0 to 3600000",
	 .help = "milliseconds between SCHED lines on stderr, in Go's format; 0 is none"},
	{.name = "PREEMPT_STATS",
	 .type = STRING,
	 TEXT(stats),
	 .def_text = "none",
	 .arg = "WHERE",
	 .range = "1 or a path",
	 .help = "figures at exit: 1 is a summary on stderr, a path gets JSON, or the text\n"
		 "format of Prometheus if it ends in .prom; %p in it is the pid"},
	{.name = "PREEMPT_STATS_PAGE",
	 .type = STRING,
	 TEXT(stats_page),
	 .def_text = "none",
	 .arg = "PATH",
	 .range = "a path",
	 .help = "file that has the counters while the process runs, and if it is killed; %p in "
		 "it is the\n"
		 "pid. For preempt stat"},
	{.name = "PREEMPT_TRACE",
	 .type = STRING,
	 TEXT(trace),
	 .def_text = "none",
	 .arg = "PATH",
	 .range = "a path",
	 .help = "file for a trace of all events; %p in it is the pid"},
	{.name = "PREEMPT_DUMP_SIGNAL",
	 .type = DUMPSIG,
	 .value = &config.dump_signal,
	 .def_text = "none",
	 .arg = "SIGNAL",
	 .range = "a name such as SIGUSR2 or SIGRTMIN+n",
	 .help = "a signal that makes the process print all its threads"},
	{.name = "PREEMPT_DEADLOCK",
	 .type = DEADLOCK,
	 .value = &config.deadlock,
	 .def = "report",
	 .arg = "WHAT",
	 .range = "off, report or abort",
	 .help = "what to do when all threads wait for each other"},
	{.name = "PREEMPT_CHAOS",
	 .type = COUNT,
	 .value = &config.chaos,
	 .def = "0",
	 .max = 2147483647,
	 .arg = "SEED",
	 .range = "0 to 2147483647",
	 .help = "find races: who runs, and when it yields, is drawn from the seed; 0 is off. The "
		 "same "
		 "seed\n"
		 "gives the same schedule with PREEMPT_PROCS=1"},
	{.name = "PREEMPT_STRICT",
	 .type = SWITCH,
	 .value = &config.strict,
	 .def = "0",
	 .arg = "SWITCH",
	 .range = "0 or 1",
	 .help = "a bad or unknown setting stops the program with exit code 127"},
};
enum { NSETTINGS = sizeof(settings) / sizeof(settings[0]) };

// --- parsers: NULL, or what the value is not
// ------------------------------------------------------

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool has_prefix(const char *s, const char *prefix)
{
	while (*prefix) {
		if (*s++ != *prefix++)
			return false;
	}
	return true;
}

// Digits from *s on; *s moves behind them. -1: there are none. Large numbers saturate, far above
// every range and far below where they would overflow when scaled to ns.
static int64_t parse_digits(const char **s)
{
	const int64_t huge = (int64_t)1 << 60;
	int64_t n = 0;

	if (!digit(**s))
		return -1;
	for (; digit(**s); ++*s) {
		if (n < huge / 16)
			n = n * 10 + (**s - '0');
		else
			n = huge;
	}
	return n;
}

static const char *parse_int(const char *s, int64_t *ret)
{
	int64_t n = parse_digits(&s);

	if (n < 0 || *s)
		return "not a number";
	*ret = n;
	return NULL;
}

static const char *parse_duration(const char *s, bool bare_zero, int64_t *ret)
{
	static const struct {
		const char *suffix;
		int64_t ns;
	} units[] = {{"ns", 1}, {"us", US}, {"ms", MS}, {"s", SEC}};
	int64_t whole, fraction = 0, scale = 1;

	if (bare_zero && str_eq(s, "0")) {
		*ret = 0;
		return NULL;
	}
	whole = parse_digits(&s);
	if (whole < 0)
		return "not a duration";
	if (*s == '.') {
		s++;
		if (!digit(*s))
			return "not a duration";
		for (; digit(*s); s++) {
			if (scale < SEC) { // what is below a nanosecond does not count
				fraction = fraction * 10 + (*s - '0');
				scale *= 10;
			}
		}
	}
	if (!*s)
		return "no unit (ns, us, ms or s)";
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (!str_eq(s, units[i].suffix))
			continue;
		if (whole > INT64_MAX / units[i].ns - 1)
			*ret = INT64_MAX;
		else
			*ret = whole * units[i].ns + fraction * units[i].ns / scale;
		return NULL;
	}
	return "not a duration";
}

// One of a list of words; *ret is its place.
static bool parse_word(const char *s, const char *const *words, int *ret)
{
	for (int i = 0; words[i]; i++) {
		if (str_eq(s, words[i])) {
			*ret = i;
			return true;
		}
	}
	return false;
}

// Kernel numbers: the C library keeps the first two real-time signals (32, 33) for itself, so the
// program's SIGRTMIN is 34.
static bool parse_rtsig(const char *s, int *ret)
{
	enum { FIRST = 34, LAST = 64 };
	int64_t n = 0;

	if (!has_prefix(s, "SIGRTMIN"))
		return false;
	s += sizeof("SIGRTMIN") - 1;
	if (*s) {
		if (*s++ != '+' || parse_int(s, &n) || n > LAST - FIRST)
			return false;
	}
	*ret = FIRST + (int)n;
	return true;
}

// SIGKILL and SIGSTOP cannot be caught, and those of faults mean something else.
static bool parse_dumpsig(const char *s, int *ret)
{
	static const struct {
		const char *name;
		int nr;
	} names[] = {
		{"SIGHUP", SIGHUP},   {"SIGINT", SIGINT},	{"SIGQUIT", SIGQUIT},
		{"SIGUSR1", SIGUSR1}, {"SIGUSR2", SIGUSR2},	{"SIGTERM", SIGTERM},
		{"SIGALRM", SIGALRM}, {"SIGWINCH", SIGWINCH},	{"SIGURG", SIGURG},
		{"SIGIO", SIGIO},     {"SIGPWR", SIGPWR},	{"SIGCONT", SIGCONT},
		{"SIGTTIN", SIGTTIN}, {"SIGTTOU", SIGTTOU},	{"SIGTSTP", SIGTSTP},
		{"SIGPROF", SIGPROF}, {"SIGVTALRM", SIGVTALRM}, {"SIGPIPE", SIGPIPE},
		{"SIGCHLD", SIGCHLD}, {"SIGXCPU", SIGXCPU},	{"SIGXFSZ", SIGXFSZ},
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (str_eq(s, names[i].name)) {
			*ret = names[i].nr;
			return true;
		}
	}
	return parse_rtsig(s, ret);
}

// glob:weight,... A thread name may hold a colon, so the last one before the comma counts.
static const char *check_weights(const char *s, int64_t min, int64_t max)
{
	for (;;) {
		const char *start = s, *colon = NULL;
		int64_t n;

		for (; *s && *s != ','; s++) {
			if (*s == ':')
				colon = s;
		}
		if (!colon || colon == start)
			return "not a list of glob:weight";
		colon++;
		n = parse_digits(&colon);
		if (n < 0 || colon != s)
			return "not a list of glob:weight";
		if (n < min || n > max)
			return "a weight is out of range";
		if (!*s++)
			return NULL;
	}
}

static const char *check_globs(const char *s)
{
	for (;;) {
		const char *start = s;

		while (*s && *s != ':')
			s++;
		if (s == start)
			return "an empty name in the list";
		if (!*s++)
			return NULL;
	}
}

static const char *store_string(const struct setting *set, const char *s)
{
	char *to = set->value;
	size_t len = str_len(s);

	if (len >= set->size)
		return "too long";
	for (size_t i = 0; i <= len; i++)
		to[i] = s[i];
	return NULL;
}

// The setting, from s. NULL: done. Else what s is not; the value is unchanged.
static const char *parse(const struct setting *set, const char *s)
{
	static const char *const switches[] = {"0", "1", "off", "on", NULL};
	static const char *const spin[] = {"0", "1", "off", "on", "sample", NULL};
	static const char *const levels[] = {"off", "error", "warn", "info", "debug", NULL};
	static const char *const deadlock[] = {"off", "report", "abort", NULL};
	const char *why = NULL;
	int64_t n = 0;
	int i = 0;

	switch (set->type) {
	case SPIN:
		if (!parse_word(s, spin, &i))
			return "not on, off or sample";
		*(int *)set->value = i < 4 ? i & 1 : SPIN_SAMPLE;
		return NULL;
	case SWITCH:
		if (!parse_word(s, switches, &i))
			return "not 0, 1, off or on";
		*(bool *)set->value = i & 1;
		return NULL;
	case DURATION:
		why = parse_duration(s, set->zero, &n);
		if (why)
			return why;
		if ((n < set->min && !(set->zero && n == 0)) || n > set->max)
			return "out of range";
		*(int64_t *)set->value = n;
		return NULL;
	case PROCS:
		if (str_eq(s, "auto")) {
			*(int *)set->value = 0;
			return NULL;
		}
		why = parse_int(s, &n);
		if (why)
			return "not auto or a number";
		if (n < set->min || n > set->max)
			return "out of range";
		*(int *)set->value = (int)n;
		return NULL;
	case POLICY:
		if (str_eq(s, policy_fair.name))
			*(const struct policy **)set->value = &policy_fair;
		else if (str_eq(s, policy_go.name))
			*(const struct policy **)set->value = &policy_go;
		else
			return "not a policy";
		return NULL;
	case SIGNAL:
		if (str_eq(s, "SIGURG"))
			i = SIGURG;
		else if (!parse_rtsig(s, &i))
			return "not SIGURG or SIGRTMIN+n";
		*(int *)set->value = i;
		return NULL;
	case DUMPSIG:
		if (!parse_dumpsig(s, &i))
			return "not the name of a usable signal";
		*(int *)set->value = i;
		return NULL;
	case COUNT:
		why = parse_int(s, &n);
		if (why)
			return why;
		if (n < set->min || n > set->max)
			return "out of range";
		*(int *)set->value = (int)n;
		return NULL;
	case LOGLEVEL:
		if (!parse_word(s, levels, &i))
			return "not a level";
		*(int *)set->value = i;
		return NULL;
	case DEADLOCK:
		if (!parse_word(s, deadlock, &i))
			return "not off, report or abort";
		*(int *)set->value = i;
		return NULL;
	case STRING:
		return store_string(set, s);
	case WEIGHTS:
		why = check_weights(s, set->min, set->max);
		return why ? why : store_string(set, s);
	case GLOBS:
		why = check_globs(s);
		return why ? why : store_string(set, s);
	}
	return "not understood";
}

// --- reading
// --------------------------------------------------------------------------------------

static const char *default_text(const struct setting *set)
{
	return set->def ? set->def : set->def_text;
}

static void complain(const struct setting *set, const char *s, const char *why)
{
	if (str_eq(why, "out of range") || str_eq(why, "a weight is out of range"))
		log_line(LOG_WARN, "%s=%s: %s (%s); using %s", set->name, s, why, set->range,
			 default_text(set));
	else
		log_line(LOG_WARN, "%s=%s: %s; using %s", set->name, s, why, default_text(set));
}

// Does the environment entry "NAME=value" name this setting?
static bool names(const char *entry, const char *name)
{
	if (!has_prefix(entry, name))
		return false;
	entry += str_len(name);
	return *entry == '=' || !*entry;
}

static bool known(const char *entry)
{
	for (int i = 0; i < NSETTINGS; i++) {
		if (names(entry, settings[i].name))
			return true;
	}
	return false;
}

// Unknown names: a misspelt setting would else be a silent no.
static int check_names(char **envp)
{
	int bad = 0;

	for (; envp && *envp; envp++) {
		char name[64];
		size_t n = 0;

		if (!has_prefix(*envp, "PREEMPT_") || known(*envp))
			continue;
		for (const char *s = *envp; *s && *s != '=' && n < sizeof(name) - 1; s++)
			name[n++] = *s;
		name[n] = 0;
		log_line(LOG_WARN, "%s: unknown setting; ignored", name);
		bad++;
	}
	return bad;
}

static void set_defaults(void)
{
	for (int i = 0; i < NSETTINGS; i++) {
		const struct setting *set = &settings[i];

		if (set->size)
			*(char *)set->value = 0;
		if (set->def && parse(set, set->def))
			throw("env.c: a default is not valid");
	}
	config.signal = SIG_SETXID;
	config.dump_signal = 0;
	config.lock_grace = -1; // one quantum, which may be set yet
}

int env_read(const char *(*getenv_fn)(const char *), char **envp)
{
	int bad = 0;

	set_defaults();
	for (int i = 0; i < NSETTINGS; i++) {
		const struct setting *set = &settings[i];
		const char *s = getenv_fn(set->name), *why;

		// An empty value is the shell's idiom for "not set".
		if (!s || !*s)
			continue;
		why = parse(set, s);
		if (why) {
			complain(set, s, why);
			bad++;
		}
	}
	if (config.lock_grace < 0)
		config.lock_grace = config.quantum;
	if (config.dump_signal && config.dump_signal == config.signal) {
		log_line(LOG_WARN, "PREEMPT_DUMP_SIGNAL: is the preemption signal; using none");
		config.dump_signal = 0;
		bad++;
	}
	return bad + check_names(envp);
}

void env_help(struct text *out)
{
	for (int i = 0; i < NSETTINGS; i++) {
		const struct setting *set = &settings[i];

		text_printf(out, "%s=%s\n    %s; default: %s\n    ", set->name, set->arg,
			    set->range, default_text(set));
		for (const char *s = set->help; *s; s++) {
			text_printf(out, "%c", *s);
			if (*s == '\n')
				text_printf(out, "    ");
		}
		text_printf(out, "\n");
	}
}

bool env_setting(int i, struct setting_info *ret)
{
	const struct setting *set = &settings[i];

	if (i < 0 || i >= NSETTINGS)
		return false;
	*ret = (struct setting_info){
		.name = set->name,
		.arg = set->arg,
		.range = set->range,
		.help = set->help,
		.def = default_text(set),
		.is_switch = set->type == SWITCH,
	};
	return true;
}

const char *env_check(int i, const char *value)
{
	return i < 0 || i >= NSETTINGS ? "not a setting" : parse(&settings[i], value);
}
