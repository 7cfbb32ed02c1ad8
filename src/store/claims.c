// SPDX-License-Identifier: GPL-2.0-or-later
// Space promises. A commit claims, before its locks, what its fold may take at worst; the claim is
// refunded when the fold is in force. So ENOSPC comes from write(2), never later.
//
// The reserve is kept in four steps: what grows must leave all of it, overwrites leave a quarter, deletes an
// eighth. So neither can take from deletes what they need to give space back; and the last eighth is
// nobody's claim: it holds the nodes above the leaves, which all of an epoch's commits share.
//
// What was dropped is free when its epoch is in force, and who needs it waits for that. People are told of it at
// once: else who deletes until df shows enough would delete all. Dirty pages count as taken, dead ones too until
// they leave the tier.
#include "store_impl.h"

bool space_claim(struct store *s, uint64_t blocks, enum space_use use)
{
	uint64_t leave = use == SPACE_GROWS ? s->reserve : use == SPACE_OVERWRITES ? s->reserve / 4 : s->reserve / 8;
	pthread_mutex_lock(&s->space_lock);
	bool room = s->claims + blocks + leave <= space_free_blocks(s->space);
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

void space_expect(struct store *s, uint64_t pages, bool after_cut)
{
	pthread_mutex_lock(&s->space_lock);
	s->returning_of[after_cut ? 1 - s->claims_before : s->claims_before] += pages;
	pthread_mutex_unlock(&s->space_lock);
}

void space_unexpect(struct store *s, uint64_t pages)
{
	pthread_mutex_lock(&s->space_lock);
	for (int i = 0; i < 2; i++) {
		uint64_t part = pages < s->returning_of[i] ? pages : s->returning_of[i];
		s->returning_of[i] -= part;
		pages -= part;
	}
	pthread_mutex_unlock(&s->space_lock);
}

void claims_recovered(struct store *s)
{
	s->claims = frames_dirty_count(s->tier) * BLOCKS_PER_PAGE + atomic_load(&s->overlay.items) * BLOCKS_PER_ITEM;
	s->claims_of[s->claims_before] = s->claims;
}

void claims_folded(struct store *s)
{
	pthread_mutex_lock(&s->space_lock);
	s->claims -= s->claims_of[s->claims_before];
	s->claims_of[s->claims_before] = s->returning_of[s->claims_before] = 0;
	s->claims_before = 1 - s->claims_before;
	atomic_store(&s->building, false);
	pthread_mutex_unlock(&s->space_lock);
}

void claims_abandoned(struct store *s)
{
	pthread_mutex_lock(&s->space_lock);
	s->claims_of[s->claims_before] += s->claims_of[1 - s->claims_before];
	s->returning_of[s->claims_before] += s->returning_of[1 - s->claims_before];
	s->claims_of[1 - s->claims_before] = s->returning_of[1 - s->claims_before] = 0;
	atomic_store(&s->building, false);
	pthread_mutex_unlock(&s->space_lock);
}
