// symbols.h: names for addresses in files, for `preempt dump`.

#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

// Print what lies at a link-time address of the file at path, seen below the directory root ("" for ours): FUNCTION+0xOFFSET, and
// FILE:LINE if there is debug information. False: nothing is known of it, and nothing was printed. exact: an instruction, else the address
// after a call.
bool symbol_print(FILE *out, const char *root, const char *path, uint64_t address, bool exact);
void symbols_free(void);
