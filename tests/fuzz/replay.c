// replay.c: runs a fuzz target over files and directories of files, without libFuzzer.
//
// Every file also cut short at several places, and with single bits turned, for a test in a second or so.

#include <dirent.h>
#include <limits.h>

#include "fuzz.h"

enum { FILE_MAX = 1 << 20, VARIANTS = 200 };

static int files;

static void variants(uint8_t *data, size_t size)
{
	uint32_t random = (uint32_t)size + 1;

	LLVMFuzzerTestOneInput(data, size);
	for (int i = 0; i < 8; i++)
		LLVMFuzzerTestOneInput(data, size * (size_t)i / 8);
	for (int i = 0; i < VARIANTS && size; i++) {
		size_t at;
		uint8_t bit;

		random = random * 1664525 + 1013904223;
		at = random / 8 % size;
		bit = (uint8_t)(1 << (random >> 29));
		data[at] ^= bit;
		LLVMFuzzerTestOneInput(data, size);
		data[at] ^= bit;
	}
}

static int replay_file(const char *path)
{
	static uint8_t data[FILE_MAX];
	FILE *f = fopen(path, "rb");
	size_t size;

	if (!f) {
		perror(path);
		return 1;
	}
	size = fread(data, 1, sizeof(data), f);
	fclose(f);
	variants(data, size);
	files++;
	return 0;
}

static int replay(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int failed = 0;

	if (!dir)
		return replay_file(path);
	while ((entry = readdir(dir))) {
		char name[PATH_MAX];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		failed |= replay_file(name);
	}
	closedir(dir);
	return failed;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= replay(argv[i]);
	printf("%d files\n", files);
	return failed || !files;
}
