// SPDX-License-Identifier: GPL-2.0-or-later
#include "keys.h"
#include <errno.h>
#include <stdlib.h>
#include "hash.h"

int keys_init(struct keys *k, uint32_t room)
{
	*k = (struct keys){ .room = room ? room : 1 };
	k->buckets = k->room;
	k->key = calloc(k->room, sizeof *k->key);
	k->bucket = calloc(k->buckets, sizeof *k->bucket);
	if (!k->key || !k->bucket) {
		keys_fini(k);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < k->room; i++) {
		k->key[i].chain = k->unused;
		k->unused = i + 1;
	}
	return 0;
}

void keys_fini(struct keys *k)
{
	free(k->key);
	free(k->bucket);
	*k = (struct keys){ 0 };
}

static uint32_t *bucket_of(struct keys *k, object_t object, page_t page)
{
	return &k->bucket[hash_mix(object, page) % k->buckets];
}

static void unlist(struct keys *k, const struct key *e)
{
	*(e->newer ? &k->key[e->newer - 1].older : &k->newest) = e->older;
	*(e->older ? &k->key[e->older - 1].newer : &k->oldest) = e->newer;
}

bool keys_take(struct keys *k, object_t object, page_t page)
{
	for (uint32_t *at = bucket_of(k, object, page); *at; at = &k->key[*at - 1].chain) {
		struct key *e = &k->key[*at - 1];
		if (e->object != object || e->page != page)
			continue;
		uint32_t place = *at;
		*at = e->chain;
		unlist(k, e);
		e->chain = k->unused;
		k->unused = place;
		k->count--;
		return true;
	}
	return false;
}

void keys_forget_oldest(struct keys *k)
{
	if (k->oldest)
		keys_take(k, k->key[k->oldest - 1].object, k->key[k->oldest - 1].page);
}

void keys_add(struct keys *k, object_t object, page_t page)
{
	if (k->count == k->room)
		keys_forget_oldest(k);
	uint32_t place = k->unused, *bucket = bucket_of(k, object, page);
	struct key *e = &k->key[place - 1];
	k->unused = e->chain;
	*e = (struct key){ object, page, *bucket, 0, k->newest };
	*bucket = place;
	*(k->newest ? &k->key[k->newest - 1].newer : &k->oldest) = place;
	k->newest = place;
	k->count++;
}
