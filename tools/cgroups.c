// cgroups.c: limits of control groups, versions 1 and 2, as a container sees them.
//
// /proc/self/cgroup says where in the hierarchy we are, /proc/self/mountinfo where the hierarchy is mounted and from which place in it
// on. Both may be mounted at once; the controller is in one of them. The limits of all groups above ours hold as well, as far as they
// can be seen. (shim/cgroup.c does the same for CPUs, without libc.)

#include "cgroups.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct place {
	char dir[2 * PATH_MAX];
	size_t top; // length of the mount point in it
};

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *s = list; (s = strstr(s, word)); s += n) {
		if ((s == list || s[-1] == ',') && (!s[n] || s[n] == ',' || s[n] == '\n'))
			return true;
	}
	return false;
}

static FILE *open_below(const char *root, const char *path)
{
	char full[PATH_MAX];

	return snprintf(full, sizeof full, "%s%s", root, path) < PATH_MAX ? fopen(full, "re")
									  : NULL;
}

// The path of our group; v1: in the hierarchy of the controller.
static bool our_path(const char *root, const char *controller, bool v1, char ret[PATH_MAX])
{
	FILE *f = open_below(root, "/proc/self/cgroup");
	char line[PATH_MAX + 100];
	bool found = false;

	while (f && !found && fgets(line, sizeof line, f)) {
		char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;

		if (!path)
			continue;
		*path++ = 0;
		path[strcspn(path, "\n")] = 0;
		found = v1 ? has_word(list + 1, controller)
			   : line[0] == '0' && line[1] == ':' && !list[1];
		if (found)
			snprintf(ret, PATH_MAX, "%s", path);
	}
	if (f)
		fclose(f);
	return found;
}

// Blanks and backslashes in paths are written as \ooo.
static void unescape(char *s)
{
	unsigned c;
	char *to = s;
	int n;

	while (*s) {
		if (*s == '\\' && sscanf(s, "\\%3o%n", &c, &n) == 1 && n == 4) {
			*to++ = (char)c;
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = 0;
}

// A line of mountinfo: ID PARENT DEV ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE SUPER
static bool is_mount(char *line, const char *controller, bool v1, char **ret_root, char **ret_mount)
{
	char *dash = strstr(line, " - "), *save, *type, *super;

	if (!dash)
		return false;
	*dash = 0;
	type = strtok_r(dash + 3, " \n", &save);
	strtok_r(NULL, " \n", &save);
	super = strtok_r(NULL, " \n", &save);
	if (!type || strcmp(type, v1 ? "cgroup" : "cgroup2") != 0 ||
	    (v1 && (!super || !has_word(super, controller))))
		return false;
	strtok_r(line, " ", &save);
	strtok_r(NULL, " ", &save);
	strtok_r(NULL, " ", &save);
	*ret_root = strtok_r(NULL, " ", &save);
	*ret_mount = strtok_r(NULL, " ", &save);
	if (!*ret_root || !*ret_mount)
		return false;
	unescape(*ret_root);
	unescape(*ret_mount);
	return true;
}

static bool find_place(const char *root, const char *controller, bool v1, struct place *ret)
{
	char path[PATH_MAX], line[3 * PATH_MAX], *from, *mount;
	bool found = false;
	FILE *f;

	if (!our_path(root, controller, v1, path))
		return false;
	f = open_below(root, "/proc/self/mountinfo");
	while (f && !found && fgets(line, sizeof line, f)) {
		const char *place = path;
		size_t n;

		if (!is_mount(line, controller, v1, &from, &mount))
			continue;
		n = strcmp(from, "/") == 0 ? 0 : strlen(from);
		// A path outside of what is mounted: a container that hides it; the mount is our group.
		if (strncmp(place, from, n) != 0 || (place[n] && place[n] != '/') ||
		    strstr(place, "/..") || strcmp(place + n, "/") == 0)
			place = "";
		else
			place += n;
		ret->top = (size_t)snprintf(ret->dir, sizeof ret->dir, "%s%s", root, mount);
		found = ret->top + strlen(place) < sizeof ret->dir;
		if (found)
			strcat(ret->dir, place);
	}
	if (f)
		fclose(f);
	return found;
}

// A number in a file, -1: none, or "max".
static int64_t number_in(const char *dir, const char *name)
{
	char path[2 * PATH_MAX + 100];
	long long n = -1;
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "re");
	if (!f)
		return -1;
	if (fscanf(f, "%lld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

static void look(struct limit *least, const char *dir, const char *max_name, const char *used_name)
{
	struct limit l = {number_in(dir, max_name), number_in(dir, used_name)};

	// Version 1 says "none" by a number near the largest.
	if (l.max < 0 || l.max > INT64_MAX / 2)
		return;
	if (l.used < 0)
		l.used = 0;
	if (least->max < 0 || l.max - l.used < least->max - least->used)
		*least = l;
}

struct limit limit_of(const char *root, const char *controller)
{
	struct limit least = {-1, 0};
	struct place p;
	char max[64], used[64];

	for (int v1 = 0; v1 < 2; v1++) {
		bool bytes = v1 && strcmp(controller, "memory") == 0;

		if (!find_place(root, controller, v1, &p))
			continue;
		snprintf(max, sizeof max, "%s.%s", controller, bytes ? "limit_in_bytes" : "max");
		snprintf(used, sizeof used, "%s.%s", controller,
			 bytes ? "usage_in_bytes" : "current");
		for (;;) {
			char *slash;

			look(&least, p.dir, max, used);
			slash = strrchr(p.dir, '/');
			if (strlen(p.dir) <= p.top || !slash)
				break;
			*slash = 0;
		}
	}
	return least;
}
