// SPDX-License-Identifier: GPL-2.0-or-later
// Items that are in the log and not yet in the tree, in DRAM: a hash by key for lookups, and for listings a skip
// list (Pugh, 1990) of each object's items in the order of their keys, of one key the newest first. Readers
// traverse without locks: an item never changes, is put before older versions of its key in both, and is freed a
// grace period after it was taken out; until then its links lead on to what is behind it.
//
// Most lists are short, and have no head of upper levels. A long one gets it, for good, with an item that wants to be
// in some of them.
#include "store_impl.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHORT 32u      // items of a list
#define WANTS_LEVELS 2u // one item in 16

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
		pthread_mutex_init(&o->object[i].lowest.lock, NULL);
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
		free(atomic_load(&o->object[i].head));
	}
	free(o->hash);
	free(o->object);
}

static size_t padded(size_t bytes)
{
	return (bytes + 7) & ~(size_t)7;
}

// A quarter of the items of each level are in the next. At random: keys can be chosen.
static uint8_t random_levels(void)
{
	static _Thread_local uint64_t state;
	if (!state)
		state = hash_mix((uintptr_t)&state, 0) | 1;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint8_t)(__builtin_ctzll(state | UINT64_C(1) << 2 * OVERLAY_LEVELS) / 2);
}

struct item *item_new(struct item_key key, const void *value, size_t bytes, bool deleted)
{
	uint8_t levels = random_levels();
	struct item *i = malloc(sizeof *i + padded(bytes) + levels * sizeof i->object_next);
	if (!i)
		return NULL;
	memset(i, 0, sizeof *i);
	i->key = key;
	i->bytes = (uint16_t)bytes;
	i->deleted = deleted;
	i->levels = levels;
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

static struct overlay_list *object_list(const struct overlay *o, object_t object)
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

static void hash_unlink(struct overlay_bucket *b, struct item *i)
{
	struct item *next = atomic_load_explicit(&i->hash_next, memory_order_relaxed);
	if (next)
		next->hash_prev = i->hash_prev;
	atomic_store_explicit(i->hash_prev ? &i->hash_prev->hash_next : &b->first, next, memory_order_release);
}

// ---- the lists of objects

typedef _Atomic(struct item *) link_t;

static link_t *link_behind(struct item *i, unsigned level)
{
	return level == 0 ? &i->object_next : (link_t *)(void *)(i->value + padded(i->bytes)) + (level - 1);
}

static link_t *link_first(struct overlay_list *l, struct overlay_head *head, unsigned level)
{
	return level == 0 ? &l->lowest.first : &head->first[level - 1];
}

static bool is_before(const struct item *i, struct item_key key, lsn_t lsn)
{
	int order = item_key_compare(i->key, key);
	return order < 0 || (order == 0 && i->lsn > lsn);
}

// Of each level there is the link to the first item that is not before key and lsn; the levels.
static unsigned find_links(struct overlay_list *l, struct item_key key, lsn_t lsn, link_t *link[OVERLAY_LEVELS + 1])
{
	struct overlay_head *head = atomic_load_explicit(&l->head, memory_order_acquire);
	unsigned levels = head ? OVERLAY_LEVELS + 1 : 1;
	struct item *before = NULL, *next;

	for (unsigned level = levels; level-- > 0;) {
		link[level] = before ? link_behind(before, level) : link_first(l, head, level);
		while ((next = atomic_load_explicit(link[level], memory_order_acquire)) && is_before(next, key, lsn)) {
			before = next;
			link[level] = link_behind(next, level);
		}
	}
	return levels;
}

static bool is_long(struct overlay_list *l)
{
	const struct item *i = atomic_load_explicit(&l->lowest.first, memory_order_relaxed);
	for (unsigned n = 0; i && n < SHORT; n++)
		i = atomic_load_explicit(&i->object_next, memory_order_relaxed);
	return i;
}

static void object_link(struct overlay *o, struct item *i)
{
	struct overlay_list *l = object_list(o, i->key.object);
	link_t *link[OVERLAY_LEVELS + 1];

	pthread_mutex_lock(&l->lowest.lock);
	if (i->levels >= WANTS_LEVELS && !atomic_load_explicit(&l->head, memory_order_relaxed) && is_long(l))
		atomic_store_explicit(&l->head, calloc(1, sizeof *l->head), memory_order_release); // without memory it stays slow
	unsigned levels = find_links(l, i->key, i->lsn, link);
	if (i->levels >= levels)
		i->levels = (uint8_t)(levels - 1);
	for (unsigned level = 0; level <= i->levels; level++)
		atomic_store_explicit(link_behind(i, level), atomic_load_explicit(link[level], memory_order_relaxed),
				      memory_order_relaxed);
	for (unsigned level = 0; level <= i->levels; level++)
		atomic_store_explicit(link[level], i, memory_order_release);
	pthread_mutex_unlock(&l->lowest.lock);
}

static void object_unlink(struct overlay *o, struct item *i)
{
	struct overlay_list *l = object_list(o, i->key.object);
	link_t *link[OVERLAY_LEVELS + 1];

	pthread_mutex_lock(&l->lowest.lock);
	find_links(l, i->key, i->lsn, link);
	assert(atomic_load_explicit(link[0], memory_order_relaxed) == i); // no key has one LSN twice
	for (unsigned level = i->levels + 1u; level-- > 0;)
		atomic_store_explicit(link[level], atomic_load_explicit(link_behind(i, level), memory_order_relaxed),
				      memory_order_release);
	pthread_mutex_unlock(&l->lowest.lock);
}

// The first version of a key is the newest.
static const struct item *first_in_list(const struct item *i, struct item_key last)
{
	for (; i && item_key_compare(i->key, last) <= 0; i = atomic_load_explicit(&i->object_next, memory_order_acquire))
		if (!item_is_drop(i))
			return i;
	return NULL;
}

// Names of one hash are looked for all the time, and few.
static bool is_one_hash(struct item_key from, struct item_key last)
{
	return item_key_has_ordinal(from) && from.sub >> 8 == last.sub >> 8;
}

static const struct item *first_in_chain(const struct overlay *o, struct item_key from, struct item_key last)
{
	const struct item *first = NULL, *i = atomic_load_explicit(&hash_bucket(o, from)->first, memory_order_acquire);

	for (; i; i = atomic_load_explicit(&i->hash_next, memory_order_acquire))
		if (item_key_compare(i->key, from) >= 0 && item_key_compare(i->key, last) <= 0 &&
		    (!first || item_key_compare(i->key, first->key) < 0))
			first = i;
	return first;
}

const struct item *overlay_first(const struct overlay *o, struct item_key from, struct item_key last)
{
	link_t *link[OVERLAY_LEVELS + 1];

	if (is_one_hash(from, last))
		return first_in_chain(o, from, last);
	find_links(object_list(o, from.object), from, LSN_MAX, link);
	return first_in_list(atomic_load_explicit(link[0], memory_order_acquire), last);
}

const struct item *overlay_after(const struct overlay *o, const struct item *i, struct item_key last)
{
	struct item_key key = i->key;

	if (is_one_hash(key, last))
		return key.sub == last.sub ? NULL : first_in_chain(o, (struct item_key){ key.object, key.sub + 1 }, last);
	do
		i = atomic_load_explicit(&i->object_next, memory_order_acquire);
	while (i && item_key_equal(i->key, key));
	return first_in_list(i, last);
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
