// SPDX-License-Identifier: GPL-2.0-or-later
// Space promises. A commit claims, before its locks, what its fold may take at worst; the claim is
// refunded when the fold is in force. So ENOSPC comes from write(2), never later.
#include "store_impl.h"

bool space_claim(struct store *s, uint64_t blocks, bool may_use_reserve)
{
	pthread_mutex_lock(&s->space_lock);
	uint64_t promised = s->claims + blocks + (may_use_reserve ? 0 : s->reserve);
	bool room = promised <= space_free_blocks(s->space);
	if (room)
		s->claims += blocks;
	pthread_mutex_unlock(&s->space_lock);
	return room;
}

void space_unclaim(struct store *s, uint64_t blocks)
{
	pthread_mutex_lock(&s->space_lock);
	s->claims -= blocks;
	pthread_mutex_unlock(&s->space_lock);
}

// What the commit replaced needs no block of its own any more. Counting a commit to the later epoch
// by mistake only refunds it later.
void space_settle(struct store *s, uint64_t refund, uint64_t kept, bool after_cut)
{
	pthread_mutex_lock(&s->space_lock);
	s->claims_of[after_cut ? 1 - s->claims_before : s->claims_before] += kept;
	// The claim of what was replaced stands in either account; never take more than is there.
	unsigned first = after_cut ? 1 - s->claims_before : s->claims_before;
	for (int i = 0; i < 2; i++) {
		uint64_t *account = &s->claims_of[i ? 1 - first : first];
		uint64_t part = refund < *account ? refund : *account;
		*account -= part;
		s->claims -= part;
		refund -= part;
	}
	pthread_mutex_unlock(&s->space_lock);
}

void claims_recovered(struct store *s)
{
	s->claims = frames_dirty_count(s->tier) + atomic_load(&s->overlay.items) * BLOCKS_PER_ITEM;
	s->claims_of[s->claims_before] = s->claims;
}

void claims_folded(struct store *s)
{
	pthread_mutex_lock(&s->space_lock);
	s->claims -= s->claims_of[s->claims_before];
	s->claims_of[s->claims_before] = 0;
	s->claims_before = 1 - s->claims_before;
	atomic_store(&s->building, false);
	pthread_mutex_unlock(&s->space_lock);
}

void claims_abandoned(struct store *s)
{
	pthread_mutex_lock(&s->space_lock);
	s->claims_of[s->claims_before] += s->claims_of[1 - s->claims_before];
	s->claims_of[1 - s->claims_before] = 0;
	atomic_store(&s->building, false);
	pthread_mutex_unlock(&s->space_lock);
}
