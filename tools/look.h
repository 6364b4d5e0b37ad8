// look.h: what can be seen in one ELF file (look.c), for program.c.

#pragma once

#include <stdbool.h>
#include <stdint.h>

// Functions of other modules that it uses.
enum import {
	IMPORT_THREADS = 1, // pthread_create, thrd_create
	IMPORT_SIGNALS = 2, // sigaction and its kin: may handle any signal
	IMPORT_CLONE = 4,   // threads without libc
	IMPORT_STACKS = 8,  // makecontext, swapcontext: coroutines
	IMPORT_DLOPEN = 16,
};

struct look {
	bool elf; // else nothing below counts
	bool x86_64, dynamic_object;
	int bits;
	char interpreter[256]; // "": static, or a library
	unsigned imports;
	bool unwind; // has .eh_frame
	bool go;     // built by the Go tool chain
	bool code;
};

bool look_at(const char *path, struct look *ret); // false: not an ELF file that can be read
