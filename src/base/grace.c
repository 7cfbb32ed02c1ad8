// SPDX-License-Identifier: GPL-2.0-or-later
#include "grace.h"
#include <string.h>
#include <time.h>

void grace_init(struct grace *g)
{
	memset(g, 0, sizeof *g);
	atomic_init(&g->clock, 1);
}

struct grace_reader *grace_register(struct grace *g)
{
	for (unsigned i = 0; i < GRACE_READERS_MAX; i++) {
		bool used = false;
		if (atomic_compare_exchange_strong(&g->reader[i].used, &used, true))
			return &g->reader[i];
	}
	return NULL;
}

void grace_unregister(struct grace_reader *r)
{
	grace_leave(r);
	atomic_store(&r->used, false);
}

uint64_t grace_start(struct grace *g)
{
	// The increment orders what was unlinked before it; readers that enter later see a larger clock.
	return atomic_fetch_add(&g->clock, 1) + 1;
}

bool grace_over(struct grace *g, uint64_t target)
{
	atomic_thread_fence(memory_order_seq_cst);
	for (unsigned i = 0; i < GRACE_READERS_MAX; i++) {
		uint64_t seen = atomic_load_explicit(&g->reader[i].seen, memory_order_acquire);
		if (seen != 0 && seen < target)
			return false;
	}
	return true;
}

void grace_wait(struct grace *g, uint64_t target)
{
	for (unsigned round = 0; !grace_over(g, target); round++) {
		struct timespec pause = { 0, round < 10 ? 20000 : 500000 };
		nanosleep(&pause, NULL);
	}
}
