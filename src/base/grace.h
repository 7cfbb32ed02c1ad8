// SPDX-License-Identifier: GPL-2.0-or-later
// Grace periods: memory and frames that readers may still look at are reused only after every
// reader has passed a quiescent point (QSBR: McKenney & Slingwine, "Read-Copy Update", 1998).
// Readers pay one plain store on entry and one on leaving.
#ifndef BASE_GRACE_H
#define BASE_GRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define GRACE_READERS_MAX 512u

struct grace_reader {
	_Alignas(64) _Atomic uint64_t seen; // 0: quiescent; else the clock at entry
	_Atomic bool used;
};
struct grace {
	_Alignas(64) _Atomic uint64_t clock;
	struct grace_reader reader[GRACE_READERS_MAX];
};

void grace_init(struct grace *g);
struct grace_reader *grace_register(struct grace *g); // NULL: too many
void grace_unregister(struct grace_reader *r);

static inline void grace_enter(struct grace *g, struct grace_reader *r)
{
	atomic_store_explicit(&r->seen, atomic_load_explicit(&g->clock, memory_order_relaxed), memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst); // seen before anything is looked at
}
static inline void grace_leave(struct grace_reader *r)
{
	atomic_store_explicit(&r->seen, 0, memory_order_release);
}

// What was taken out of sight before grace_start() may be reused once grace_over(its result).
uint64_t grace_start(struct grace *g);
bool grace_over(struct grace *g, uint64_t target);
void grace_wait(struct grace *g, uint64_t target); // sleeps; not for a reader between enter and leave

#endif
