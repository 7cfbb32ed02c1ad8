// SPDX-License-Identifier: GPL-2.0-or-later
// Pages by key in order of arrival, exactly: a hash table of chains, and a list through it.
#ifndef POLICY_SIM_KEYS_H
#define POLICY_SIM_KEYS_H

#include "vems/types.h"

struct key {
	object_t object;
	page_t page;
	uint32_t chain, newer, older; // places + 1; 0: none
};
struct keys {
	struct key *key; // [room]
	uint32_t *bucket;
	uint32_t buckets, room, count;
	uint32_t newest, oldest, unused; // places + 1
};

int keys_init(struct keys *k, uint32_t room); // -ENOMEM
void keys_fini(struct keys *k);
// As the newest; in a full table the oldest is forgotten. The key is not there yet.
void keys_add(struct keys *k, object_t object, page_t page);
bool keys_take(struct keys *k, object_t object, page_t page); // was it there?
void keys_forget_oldest(struct keys *k);

#endif
