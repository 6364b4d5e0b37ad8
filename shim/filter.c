// filter.c: what a seccomp filter will answer to a call, by its own program.
//
// Problem. A process that has threads puts itself under a filter made for the calls that it knows of. Ours are others, and a filter
// may answer those with death. To try them is too late then. Approach: the filter is a program of classic BPF, handed to the kernel in
// memory that we see (interpose/seccomp.c). So it is run here, before it is put up, on each call that we may make (calls.c).
//
// Harmless is also an error, as we bear those everywhere. A signal, death, a tracer's or a supervisor's judgement are not. A
// program that the kernel will refuse is harmless, mostly: it will not be put up.
//
// Signal-safe; 300 bytes of stack; a jump goes forwards only, so each instruction is executed once at most.

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>

#include "shim.h"

enum { PAGE = 4096 };

static uint32_t load(const struct seccomp_data *data, uint32_t at)
{
	uint32_t v;

	memcpy(&v, (const char *)data + at, sizeof v);
	return v;
}

// What seccomp admits of BPF (Linux: seccomp_check_filter).
uint32_t filter_run(const struct sock_filter *prog, unsigned len, const struct seccomp_data *data)
{
	uint32_t a = 0, x = 0, mem[BPF_MEMWORDS] = {0};

	for (uint64_t pc = 0; pc < len; pc++) {
		const struct sock_filter *f = &prog[pc];
		uint32_t k = f->k, src = BPF_SRC(f->code) == BPF_X ? x : k;
		bool bad = k >= BPF_MEMWORDS; // as a word of mem

		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			if (k % 4 || k >= sizeof *data)
				return SECCOMP_RET_ALLOW;
			a = load(data, k);
			continue;
		case BPF_LD | BPF_IMM:
			a = k;
			continue;
		case BPF_LD | BPF_MEM:
			if (bad)
				return SECCOMP_RET_ALLOW;
			a = mem[k];
			continue;
		case BPF_LD | BPF_W | BPF_LEN:
			a = sizeof *data;
			continue;
		case BPF_LDX | BPF_IMM:
			x = k;
			continue;
		case BPF_LDX | BPF_MEM:
			if (bad)
				return SECCOMP_RET_ALLOW;
			x = mem[k];
			continue;
		case BPF_LDX | BPF_W | BPF_LEN:
			x = sizeof *data;
			continue;
		case BPF_ST:
			if (bad)
				return SECCOMP_RET_ALLOW;
			mem[k] = a;
			continue;
		case BPF_STX:
			if (bad)
				return SECCOMP_RET_ALLOW;
			mem[k] = x;
			continue;
		case BPF_MISC | BPF_TAX:
			x = a;
			continue;
		case BPF_MISC | BPF_TXA:
			a = x;
			continue;
		case BPF_RET | BPF_K:
			return k;
		case BPF_RET | BPF_A:
			return a;
		case BPF_JMP | BPF_JA:
			pc += k;
			continue;
		default:
			break;
		}
		switch (f->code & ~BPF_X) {
		case BPF_JMP | BPF_JEQ:
			pc += a == src ? f->jt : f->jf;
			break;
		case BPF_JMP | BPF_JGT:
			pc += a > src ? f->jt : f->jf;
			break;
		case BPF_JMP | BPF_JGE:
			pc += a >= src ? f->jt : f->jf;
			break;
		case BPF_JMP | BPF_JSET:
			pc += a & src ? f->jt : f->jf;
			break;
		case BPF_ALU | BPF_ADD:
			a += src;
			break;
		case BPF_ALU | BPF_SUB:
			a -= src;
			break;
		case BPF_ALU | BPF_MUL:
			a *= src;
			break;
		case BPF_ALU | BPF_DIV:
			if (src == 0)
				return SECCOMP_RET_KILL_THREAD;
			a /= src;
			break;
		case BPF_ALU | BPF_AND:
			a &= src;
			break;
		case BPF_ALU | BPF_OR:
			a |= src;
			break;
		case BPF_ALU | BPF_XOR:
			a ^= src;
			break;
		case BPF_ALU | BPF_LSH:
			a <<= src & 31;
			break;
		case BPF_ALU | BPF_RSH:
			a >>= src & 31;
			break;
		case BPF_ALU | BPF_NEG:
			a = -a;
			break;
		default: // the kernel refuses such a program
			return SECCOMP_RET_ALLOW;
		}
	}
	return SECCOMP_RET_ALLOW; // as it does one without an end
}

static bool harmless(uint32_t answer)
{
	switch (answer & SECCOMP_RET_ACTION_FULL) {
	case SECCOMP_RET_ALLOW:
	case SECCOMP_RET_LOG:
		return true;
	case SECCOMP_RET_ERRNO: // 0: a success that has done nothing
		return answer & SECCOMP_RET_DATA;
	default:
		return false;
	}
}

static bool readable(const void *p, size_t size)
{
	uintptr_t end = (uintptr_t)p + size;

	for (uintptr_t at = (uintptr_t)p & ~(uintptr_t)(PAGE - 1); at < end; at += PAGE)
		if (!os_readable(at))
			return false;
	return true;
}

bool filter_readable(const struct sock_fprog *prog)
{
	return readable(prog, sizeof *prog) &&
	       readable(prog->filter, prog->len * sizeof *prog->filter);
}

bool filter_harmless(const struct sock_fprog *prog, long nr, const uint64_t arg[6])
{
	struct seccomp_data data = {
		.nr = (int)nr,
		.arch = AUDIT_ARCH_X86_64,
		.instruction_pointer = (uintptr_t)&filter_harmless,
	};

	memcpy(data.args, arg, sizeof data.args);
	return harmless(filter_run(prog->filter, prog->len, &data));
}
