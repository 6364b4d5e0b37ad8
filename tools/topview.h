// topview.h: what `preempt top` shows, whether on a screen, as text or as JSON.

#pragma once

#include "command.h"
#include "snapshots.h"

enum sort { SORT_RUN, SORT_DELAY, SORT_FOR, SORT_SWITCHES, SORT_TID, SORT_NAME, SORTS };
extern const char *const sort_names[SORTS];

// One thread. Shares are of the time between two snapshots, or of the thread's life so far.
struct row {
	const struct snapshot_thread *t;
	char name[32];
	double run, delay; // 0 to 1
	double switches, signals;
	int64_t in_state; // ns, or -1
	uint64_t cpu_ns;
};

struct view {
	struct target target;
	struct snapshot now, before; // before.head may be NULL
	struct row *rows;
	size_t n;
	enum sort sort;
	bool reverse;
	double seconds; // between the two
};

// A new snapshot; it is the view's from here on.
void view_update(struct view *v, struct snapshot *s);
void view_sort(struct view *v);
void view_free(struct view *v);

// As text: head, then threads from the first-th on, in lines of at most cols columns.
enum line { LINE_TITLE, LINE_HEAD, LINE_COLUMNS, LINE_THREAD, LINE_WAITS, LINE_RUNS };
typedef void view_line_fn(void *arg, enum line kind, const char *text);
int view_head(const struct view *v, int cols, int most, view_line_fn *line, void *arg); // lines
void view_columns(int cols, view_line_fn *line, void *arg);
void view_threads(const struct view *v, int cols, size_t first, size_t most, view_line_fn *line,
		  void *arg);

json_t *view_json(const struct view *v);
void view_clip(char *text, int cols); // to so many columns; what cannot be printed becomes '?'

// topscreen.c. target.pid 0: let the user choose one. Returns the exit code.
int top_screen(struct view *v, double delay, long most);
