// SPDX-License-Identifier: GPL-2.0-or-later
// Items that are in the log and not yet in the tree, in DRAM: a hash by key for lookups and a chain
// per object for listings. Readers traverse without locks: an item never changes, is put at the head
// of its chains, and is freed a grace period after it was taken out. So the first version of a key
// that is found is the newest.
#include "store_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t power_of_two(uint64_t at_least)
{
	uint32_t n = 64;
	while (n < at_least && n < (1u << 30))
		n <<= 1;
	return n;
}

int overlay_init(struct overlay *o, uint64_t bytes_max)
{
	memset(o, 0, sizeof *o);
	o->bytes_max = bytes_max;
	o->buckets = power_of_two(bytes_max / 128);
	o->hash = calloc(o->buckets, sizeof *o->hash);
	o->object = calloc(o->buckets, sizeof *o->object);
	if (!o->hash || !o->object) {
		free(o->hash);
		free(o->object);
		o->hash = NULL;
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < o->buckets; i++) {
		pthread_mutex_init(&o->hash[i].lock, NULL);
		pthread_mutex_init(&o->object[i].lock, NULL);
	}
	return 0;
}

void overlay_fini(struct overlay *o)
{
	for (uint32_t i = 0; i < o->buckets; i++) {
		struct item *item = atomic_load(&o->hash[i].first), *next;
		for (; item; item = next) {
			next = atomic_load(&item->hash_next);
			free(item);
		}
	}
	free(o->hash);
	free(o->object);
}

struct item *item_new(struct item_key key, const void *value, size_t bytes, bool deleted)
{
	struct item *i = malloc(sizeof *i + ((bytes + 7) & ~(size_t)7));
	if (!i)
		return NULL;
	memset(i, 0, sizeof *i);
	i->key = key;
	i->bytes = (uint16_t)bytes;
	i->deleted = deleted;
	if (bytes)
		memcpy(i->value, value, bytes);
	return i;
}

// Names of one hash differ in the ordinal alone, and are asked for together.
static struct overlay_bucket *hash_bucket(const struct overlay *o, struct item_key key)
{
	if (item_key_has_ordinal(key))
		key.sub &= ~UINT64_C(0xff);
	return &o->hash[hash_mix(key.object, key.sub) & (o->buckets - 1)];
}

static struct overlay_bucket *object_bucket(const struct overlay *o, object_t object)
{
	return &o->object[hash_mix(object, 0x6f626a) & (o->buckets - 1)];
}

const struct item *overlay_find(const struct overlay *o, struct item_key key, lsn_t not_above)
{
	const struct item *i = atomic_load_explicit(&hash_bucket(o, key)->first, memory_order_acquire);
	for (; i; i = atomic_load_explicit(&i->hash_next, memory_order_acquire))
		if (item_key_equal(i->key, key) && i->lsn <= not_above)
			return i;
	return NULL;
}

const struct item *overlay_chain_first(const struct overlay *o, struct item_key key)
{
	return atomic_load_explicit(&hash_bucket(o, key)->first, memory_order_acquire);
}

const struct item *overlay_object_first(const struct overlay *o, object_t object)
{
	return atomic_load_explicit(&object_bucket(o, object)->first, memory_order_acquire);
}

static void hash_unlink(struct overlay_bucket *b, struct item *i)
{
	struct item *next = atomic_load_explicit(&i->hash_next, memory_order_relaxed);
	if (next)
		next->hash_prev = i->hash_prev;
	atomic_store_explicit(i->hash_prev ? &i->hash_prev->hash_next : &b->first, next, memory_order_release);
}

static void object_unlink(struct overlay *o, struct item *i)
{
	struct overlay_bucket *b = object_bucket(o, i->key.object);
	pthread_mutex_lock(&b->lock);
	struct item *next = atomic_load_explicit(&i->object_next, memory_order_relaxed);
	if (next)
		next->object_prev = i->object_prev;
	atomic_store_explicit(i->object_prev ? &i->object_prev->object_next : &b->first, next, memory_order_release);
	pthread_mutex_unlock(&b->lock);
}

static void object_link(struct overlay *o, struct item *i)
{
	struct overlay_bucket *b = object_bucket(o, i->key.object);
	pthread_mutex_lock(&b->lock);
	struct item *first = atomic_load_explicit(&b->first, memory_order_relaxed);
	atomic_store_explicit(&i->object_next, first, memory_order_relaxed);
	i->object_prev = NULL;
	if (first)
		first->object_prev = i;
	atomic_store_explicit(&b->first, i, memory_order_release);
	pthread_mutex_unlock(&b->lock);
}

static void account(struct overlay *o, const struct item *i, int sign)
{
	atomic_fetch_add_explicit(&o->items, (uint64_t)(int64_t)sign, memory_order_relaxed);
	atomic_fetch_add_explicit(&o->bytes, (uint64_t)(sign * (int64_t)item_cost(i)), memory_order_relaxed);
}

void overlay_put(struct overlay *o, struct item *item, lsn_t cut, struct item **ret_replaced)
{
	struct overlay_bucket *b = hash_bucket(o, item->key);
	struct item *gone = NULL;

	// In the object's chain first: a listing may meet two versions and takes the newer one.
	object_link(o, item);
	account(o, item, 1);
	pthread_mutex_lock(&b->lock);
	struct item *first = atomic_load_explicit(&b->first, memory_order_relaxed), *next;
	atomic_store_explicit(&item->hash_next, first, memory_order_relaxed);
	item->hash_prev = NULL;
	if (first)
		first->hash_prev = item;
	atomic_store_explicit(&b->first, item, memory_order_release);
	for (struct item *i = first; i; i = next) {
		next = atomic_load_explicit(&i->hash_next, memory_order_relaxed);
		if (!item_key_equal(i->key, item->key) || (i->lsn <= cut && cut < item->lsn))
			continue;
		hash_unlink(b, i);
		i->next = gone;
		gone = i;
	}
	pthread_mutex_unlock(&b->lock);
	for (struct item *i = gone; i; i = next) {
		next = i->next;
		object_unlink(o, i);
		account(o, i, -1);
		i->next = *ret_replaced;
		*ret_replaced = i;
	}
}

void overlay_remove(struct overlay *o, struct item *item)
{
	struct overlay_bucket *b = hash_bucket(o, item->key);
	pthread_mutex_lock(&b->lock);
	hash_unlink(b, item);
	pthread_mutex_unlock(&b->lock);
	object_unlink(o, item);
	account(o, item, -1);
}

void overlay_each(struct overlay *o, void (*fn)(void *arg, struct item *item), void *arg)
{
	for (uint32_t i = 0; i < o->buckets; i++) {
		if (!atomic_load_explicit(&o->hash[i].first, memory_order_relaxed))
			continue;
		pthread_mutex_lock(&o->hash[i].lock);
		struct item *item = atomic_load_explicit(&o->hash[i].first, memory_order_relaxed), *next;
		for (; item; item = next) {
			next = atomic_load_explicit(&item->hash_next, memory_order_relaxed);
			fn(arg, item);
		}
		pthread_mutex_unlock(&o->hash[i].lock);
	}
}

void overlay_drop_superseded(struct overlay *o, struct item **ret_gone)
{
	struct item *gone = NULL, *next;
	for (uint32_t n = 0; n < o->buckets; n++) {
		struct overlay_bucket *b = &o->hash[n];
		if (!atomic_load_explicit(&b->first, memory_order_relaxed))
			continue;
		pthread_mutex_lock(&b->lock);
		for (struct item *i = atomic_load_explicit(&b->first, memory_order_relaxed); i; i = next) {
			next = atomic_load_explicit(&i->hash_next, memory_order_relaxed);
			const struct item *newest = atomic_load_explicit(&b->first, memory_order_relaxed);
			while (!item_key_equal(newest->key, i->key))
				newest = atomic_load_explicit(&newest->hash_next, memory_order_relaxed);
			if (newest == i)
				continue;
			hash_unlink(b, i);
			i->next = gone;
			gone = i;
		}
		pthread_mutex_unlock(&b->lock);
	}
	for (struct item *i = gone; i; i = i->next) {
		object_unlink(o, i);
		account(o, i, -1);
	}
	*ret_gone = gone;
}
