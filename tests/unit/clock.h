// clock.h: a clock that only the test moves. CPU clocks stay the real ones.

#pragma once

#include "unit.h"

enum { US = 1000, MS = 1000000 };

static int64_t now; // what os_nanotime and os_clock say, in ns

static inline int fake_clock(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	*ts = (struct timespec){now / 1000000000, now % 1000000000};
	return 0;
}
