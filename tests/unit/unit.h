// unit.h: what all unit tests share. Each test_X.c tests shim/X.c, linked with the whole core.

#pragma once

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim.h"

// The settings of a process without any PREEMPT_ variable.
static inline const char *unit_no_env(const char *name)
{
	(void)name;
	return NULL;
}

static inline void unit_config(void)
{
	ck_assert_int_eq(env_read(unit_no_env, NULL), 0);
}

// Run fn with stderr going to buf, NUL-ended.
static inline void unit_stderr(void (*fn)(void *), void *arg, char *buf, size_t size)
{
	char path[] = "/tmp/unit-XXXXXX";
	int fd = mkstemp(path), saved = dup(2);
	ssize_t n;

	ck_assert_int_ge(fd, 0);
	unlink(path);
	dup2(fd, 2);
	fn(arg);
	dup2(saved, 2);
	close(saved);
	n = pread(fd, buf, size - 1, 0);
	buf[n < 0 ? 0 : n] = 0;
	close(fd);
}

static inline int unit_run(const char *name, void (*add)(TCase *))
{
	Suite *suite = suite_create(name);
	TCase *tc = tcase_create(name);
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	add(tc);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
