// topscreen.c: `preempt top` on a terminal, by ncurses.
//
// The terminal is given back before anything is said on it, also when a signal ends the command. Colours only where the terminal has them and
// NO_COLOR does not forbid them.

#include <curses.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "topview.h"

enum { ROWS_LEAST = 5, COLS_LEAST = 30, HEAD_MOST = 6, LIST_LINES = 2 };
static const double delay_least = 0.1, delay_most = 60;

static volatile sig_atomic_t ended_by;
static bool coloured;

struct screen {
	struct view *view;
	double delay;
	size_t first; // thread on the first line
	bool paused;
	int row; // where the next line goes
	const char *say;
};

static void on_signal(int sig)
{
	ended_by = sig;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

// --- begin and end ------------------------------------------------------------------------------------------

static void begin(void)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
	const int signals[] = {SIGINT, SIGTERM, SIGHUP};

	if (!newterm(NULL, stdout, stdin))
		die("a terminal of the kind TERM=%s cannot be used; -b prints lines",
		    term ? term : "");
	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
		struct sigaction act = {.sa_handler = on_signal};

		sigaction(signals[i], &act, NULL); // without SA_RESTART: getch comes back
	}
	cbreak();
	noecho();
	nonl();
	keypad(stdscr, true);
	curs_set(0);
	if (!(no && *no) && has_colors() && start_color() == OK) {
		use_default_colors();
		init_pair(1, COLOR_GREEN, -1);
		init_pair(2, COLOR_YELLOW, -1);
		coloured = true;
	}
}

static int end(const struct screen *s, int r)
{
	endwin();
	if (s->say)
		fprintf(stderr, "preempt: %s\n", s->say);
	if (ended_by && ended_by != SIGINT) {
		signal(ended_by, SIG_DFL);
		raise(ended_by);
	}
	return r;
}

// --- drawing ------------------------------------------------------------------------------------------------

static void put(void *arg, enum line kind, const char *text)
{
	struct screen *s = arg;
	attr_t attr = A_NORMAL;

	if (kind == LINE_TITLE)
		attr = A_BOLD;
	else if (kind == LINE_COLUMNS)
		attr = A_REVERSE;
	else if (coloured && kind == LINE_RUNS)
		attr = (attr_t)COLOR_PAIR(1);
	else if (coloured && kind == LINE_WAITS)
		attr = (attr_t)COLOR_PAIR(2);
	attrset(attr);
	mvaddstr(s->row++, 0, text);
	if (kind == LINE_COLUMNS)
		hline(' ' | A_REVERSE, COLS);
	attrset(A_NORMAL);
}

static bool too_small(void)
{
	char text[] = "terminal too small";

	if (LINES >= ROWS_LEAST && COLS >= COLS_LEAST)
		return false;
	erase();
	view_clip(text, COLS);
	mvaddstr(0, 0, text);
	refresh();
	return true;
}

static void put_foot(const struct screen *s, size_t room)
{
	const struct view *v = s->view;
	size_t last = s->first + room < v->n ? s->first + room : v->n;
	char text[256];

	snprintf(text, sizeof text, "%sq quit  s sort:%s%s  space %s  +/- %.1fs  %zu-%zu of %zu",
		 s->paused ? "PAUSED  " : "", sort_names[v->sort], v->reverse ? "(r)" : "",
		 s->paused ? "go on" : "pause", s->delay, v->n ? s->first + 1 : 0, last, v->n);
	view_clip(text, COLS - 1); // a character in the last cell would scroll some terminals
	attrset(A_BOLD);
	mvaddstr(LINES - 1, 0, text);
	attrset(A_NORMAL);
}

// How many threads fit, below how many lines of head.
static int room_for_threads(int *ret_head)
{
	int head = LINES - 2 - LIST_LINES - 1; // at least some threads

	if (head > HEAD_MOST)
		head = HEAD_MOST;
	if (LINES < 16 && head > 3)
		head = 3;
	if (head < 1)
		head = 1;
	*ret_head = head;
	return LINES - head - 2;
}

static void draw(struct screen *s)
{
	const struct view *v = s->view;
	int head, room;

	if (too_small())
		return;
	room = room_for_threads(&head);
	if (s->first + (size_t)room > v->n)
		s->first = v->n > (size_t)room ? v->n - (size_t)room : 0;
	erase();
	s->row = 0;
	view_head(v, COLS, head, put, s);
	view_columns(COLS, put, s);
	view_threads(v, COLS, s->first, (size_t)room, put, s);
	put_foot(s, (size_t)room);
	refresh();
}

// --- keys ---------------------------------------------------------------------------------------------------

static void scroll_by(struct screen *s, long lines)
{
	if (lines < 0 && s->first < (size_t)-lines)
		s->first = 0;
	else
		s->first += (size_t)lines; // draw has the upper bound
}

// False: the user wants to leave.
static bool key(struct screen *s, int c)
{
	struct view *v = s->view;
	int head, page = room_for_threads(&head);

	switch (c) {
	case 'q':
	case 'Q':
		return false;
	case 's':
		v->sort = (v->sort + 1) % SORTS;
		view_sort(v);
		break;
	case 'r':
		v->reverse = !v->reverse;
		view_sort(v);
		break;
	case ' ':
		s->paused = !s->paused;
		break;
	case '+':
		s->delay = s->delay * 2 < delay_most ? s->delay * 2 : delay_most;
		break;
	case '-':
		s->delay = s->delay / 2 > delay_least ? s->delay / 2 : delay_least;
		break;
	case KEY_UP:
	case 'k':
		scroll_by(s, -1);
		break;
	case KEY_DOWN:
	case 'j':
		scroll_by(s, 1);
		break;
	case KEY_PPAGE:
		scroll_by(s, -page);
		break;
	case KEY_NPAGE:
		scroll_by(s, page);
		break;
	case KEY_HOME:
		s->first = 0;
		break;
	case KEY_END:
		scroll_by(s, (long)v->n);
		break;
	default: // KEY_RESIZE: ncurses has the new size
		break;
	}
	return true;
}

// --- choosing a process -----------------------------------------------------------------------------------------

static void draw_list(const struct target *v, size_t n, size_t at)
{
	size_t room = LINES > LIST_LINES ? (size_t)(LINES - LIST_LINES) : 1;
	size_t first = at >= room ? at - room + 1 : 0;

	erase();
	for (size_t i = first; i < n && i - first < room; i++) {
		char text[128];

		snprintf(text, sizeof text, "%s%8d  %s", i == at ? "> " : "  ", v[i].pid,
			 v[i].name);
		view_clip(text, COLS);
		attrset(i == at ? A_REVERSE : A_NORMAL);
		mvaddstr((int)(i - first) + 1, 0, text);
	}
	attrset(A_BOLD);
	mvaddnstr(0, 0, "Which process?  arrows, Enter; q quits", COLS);
	attrset(A_NORMAL);
	refresh();
}

static bool choose(struct target *ret)
{
	struct target *v;
	size_t n = target_list(&v), at = 0;
	bool chosen = false;

	timeout(200);
	while (n && !ended_by && !chosen) {
		int c;

		if (!too_small())
			draw_list(v, n, at);
		c = getch();
		if (c == 'q' || c == 'Q')
			break;
		if ((c == KEY_UP || c == 'k') && at > 0)
			at--;
		if ((c == KEY_DOWN || c == 'j') && at + 1 < n)
			at++;
		chosen = c == '\n' || c == '\r' || c == KEY_ENTER;
	}
	if (chosen)
		*ret = v[at];
	free(v);
	return chosen;
}

// --- the whole ----------------------------------------------------------------------------------------------------

// Look once more. False: it is over, and why is to be said.
static bool look(struct screen *s, char *say, size_t size)
{
	struct snapshot snapshot;
	int r = snapshot_take(&s->view->target, &snapshot);

	if (r < 0) {
		snprintf(say, size, "process %d %s", s->view->target.pid, snapshot_error(r));
		s->say = say;
		return false;
	}
	view_update(s->view, &snapshot);
	return true;
}

int top_screen(struct view *v, double delay, long most)
{
	struct screen s = {.view = v, .delay = delay};
	char say[256];
	double next = 0;
	long looks = 0;

	begin();
	if (!v->target.pid && !choose(&v->target))
		return end(&s, 0);
	while (!ended_by) {
		double left = next - now();
		int c;

		if (left <= 0 && !s.paused) {
			if (most && looks == most)
				break;
			if (!look(&s, say, sizeof say))
				return end(&s, looks ? 0 : EXIT_FAILED);
			looks++;
			next = now() + s.delay;
			left = s.delay;
		}
		draw(&s);
		timeout(s.paused || left > 0.2 ? 200 : (int)(left * 1000) + 1);
		c = getch();
		if (c != ERR && !key(&s, c))
			break;
		if (s.paused && !target_lives(&v->target)) {
			s.say = "the process has ended";
			break;
		}
	}
	return end(&s, 0);
}
