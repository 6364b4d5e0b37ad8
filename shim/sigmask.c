// sigmask.c: signal masks as the program sees them.
//
// A mask is the program's, but for two signals. Cancellation (SIG_CANCEL) is blocked from the injection of a call to its
// end, and the preemption signal in a handler on a small alternate stack; gp->masked says so. And the preemption signal
// is not blocked otherwise, as long as the program does not get one: gp->sig_blocked remembers that it believes so. Neither can be
// in a set of the program's, as libc strips both of SIG_CANCEL and SIG_SETXID; but PREEMPT_SIGNAL may be another one.

#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "shim.h"

static uint64_t our_bit(void)
{
	return SIG_BIT(config.signal);
}

// The program's mask, of the real one.
static uint64_t shown(bool blocked, uint64_t mask)
{
	mask &= ~(our_bit() | SIG_BIT(SIG_CANCEL));
	return blocked ? mask | our_bit() : mask;
}

void signal_show_mask(const struct g *gp, ucontext_t *uc)
{
	uint64_t mask;

	memcpy(&mask, &uc->uc_sigmask, sizeof mask);
	mask = shown(gp->sig_blocked, mask);
	memcpy(&uc->uc_sigmask, &mask, sizeof mask);
}

void signal_hide_mask(struct g *gp, uint64_t real, ucontext_t *uc)
{
	uint64_t mask, kept = SIG_BIT(SIG_CANCEL);

	memcpy(&mask, &uc->uc_sigmask, sizeof mask);
	if (gp) {
		gp->sig_blocked = mask & our_bit();
		kept |= our_bit();
	}
	mask = (mask & ~kept) | (real & kept);
	memcpy(&uc->uc_sigmask, &mask, sizeof mask);
}

int signal_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	struct g *gp = tls.self;
	uint64_t want = 0, was = 0, kept;
	bool named, blocked = gp && gp->sig_blocked;
	int r;

	if (set) {
		memcpy(&want, set, sizeof want);
		want &= ~(SIG_BIT(SIG_CANCEL) | SIG_BIT(SIG_SETXID)); // as libc does
	}
	named = want & our_bit();
	if (gp) {
		if (how != SIG_UNBLOCK || gp->masked)
			want &= ~our_bit();
		if (set && how == SIG_SETMASK && gp->masked) {
			// In a handler on top of a preemption, or on a small stack: what we have blocked stays so.
			os_sigmask(SIG_BLOCK, NULL, &kept);
			want |= kept & (our_bit() | SIG_BIT(SIG_CANCEL));
		}
		if (set && (named || how == SIG_SETMASK))
			gp->sig_blocked = named && how != SIG_UNBLOCK;
	}
	r = os_sigmask(how, set ? &want : NULL, &was);
	if (gp) {
		if (r < 0)
			gp->sig_blocked = blocked;
		was = shown(blocked, was);
	}
	if (r < 0)
		return r;
	if (old) {
		memset(old, 0, sizeof *old);
		memcpy(old, &was, sizeof was);
	}
	return 0;
}

// A jump restores a mask that libc saved by itself: the real one, without our signal. The program's was a set that had
// it if it has its neighbours.
void signal_jump(const sigset_t *saved)
{
	struct g *gp = tls.self;
	uint64_t mask, near = our_bit() << 1 | our_bit() >> 1;

	if (!gp)
		return;
	memcpy(&mask, saved, sizeof mask);
	gp->sig_blocked = config.signal != SIG_SETXID && (mask & near) == near;
}

// Signal-safe.
bool signal_mask_cancel(sigset_t *mask)
{
	uint64_t bits;
	bool was;

	memcpy(&bits, mask, sizeof bits);
	was = bits & SIG_BIT(SIG_CANCEL);
	bits |= SIG_BIT(SIG_CANCEL);
	memcpy(mask, &bits, sizeof bits);
	return !was;
}

void signal_unmask_preempt(void)
{
	uint64_t bits = our_bit() | SIG_BIT(SIG_CANCEL);

	os_sigmask(SIG_UNBLOCK, &bits, NULL);
}

void signal_unmask_cancel(void)
{
	uint64_t bit = SIG_BIT(SIG_CANCEL);

	os_sigmask(SIG_UNBLOCK, &bit, NULL);
}

// Signal-safe.
void cancel_hold(void)
{
	uint64_t bit = SIG_BIT(SIG_CANCEL), was = 0;

	os_sigmask(SIG_BLOCK, &bit, &was);
	tls.cancel_held = !(was & bit);
}

void cancel_release(void)
{
	tls.cancel_held = false;
	signal_unmask_cancel(); // where it acts, if it came
}

void signal_child_mask(bool begins)
{
	uint64_t bit = our_bit();

	if (tls.self && tls.self->sig_blocked)
		os_sigmask(begins ? SIG_BLOCK : SIG_UNBLOCK, &bit, NULL);
}
