// fuzz_elf.c: the whole compiler on arbitrary bytes as a file, and its dump. Either there is no table and one line says
// why, or there is one that the library accepts.
// Without debug information: no_debuginfo.c says why.

#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static FILE *null;
	static char path[40];
	static int fd = -1;
	struct buffer buffer = {0};
	const char *why = NULL;
	struct table table;

	if (fd < 0) {
		fd = memfd_create("fuzz", MFD_CLOEXEC);
		null = fopen("/dev/null", "w");
		MUST(fd >= 0 && null);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
		return 0;
	if (compile_module(path, "my_*:lock", true, &buffer, &why) != 0) {
		MUST(why && *why && !strchr(why, '\n') && !buffer.data);
		return 0;
	}
	MUST(!table_check(buffer.data, buffer.size, &table));
	fuzz_lookups(&table);
	MUST(dump_table(&table, null) == 0);
	free(buffer.data);
	return 0;
}
