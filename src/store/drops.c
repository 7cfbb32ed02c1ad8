// SPDX-License-Identifier: GPL-2.0-or-later
// DROPs in force, by object. They are items of the overlay as well (for the log and the fold); this
// is how readers and the epoch ask about a page. Few at any time, most often none.
#include "store_impl.h"
#include <errno.h>
#include <stdlib.h>

#define CLUSTER_PAGES 512u
#define NO_CLUSTER UINT64_MAX

int drops_init(struct drops *d, uint32_t buckets)
{
	d->bucket = calloc(buckets, sizeof *d->bucket);
	if (!d->bucket)
		return -ENOMEM;
	d->buckets = buckets;
	return 0;
}

void drops_fini(struct drops *d)
{
	struct drop *drops = drops_take_folded(d, LSN_MAX);
	for (struct drop *next; drops; drops = next) {
		next = drops->taken_next;
		free(drops);
	}
	free(d->bucket);
	d->bucket = NULL;
	d->buckets = 0;
}

// Of DROPs that lie in one cluster of pages, or with NO_CLUSTER of all others. One file may have as many small holes
// as the overlay has room for; who asks for a page meets those near it.
static _Atomic(struct drop *) *bucket_of(const struct drops *d, object_t object, uint64_t cluster)
{
	return &d->bucket[hash_mix(object, cluster) & (d->buckets - 1)];
}

static uint64_t cluster_of(const struct drop *drop)
{
	bool within = drop->from / CLUSTER_PAGES == (drop->to - 1) / CLUSTER_PAGES;
	return within && !drop->whole ? drop->from / CLUSTER_PAGES : NO_CLUSTER;
}

struct drop *drop_new(object_t object, page_t from, page_t to, bool whole)
{
	struct drop *d = calloc(1, sizeof *d);
	if (d)
		*d = (struct drop){ .object = object, .from = from, .to = to, .whole = whole };
	return d;
}

void drops_add(struct drops *d, struct drop *drop)
{
	_Atomic(struct drop *) *b = bucket_of(d, drop->object, cluster_of(drop));
	pthread_mutex_lock(&d->lock);
	atomic_store_explicit(&drop->next, atomic_load_explicit(b, memory_order_relaxed), memory_order_relaxed);
	atomic_store_explicit(b, drop, memory_order_release);
	atomic_fetch_add_explicit(&d->count, 1, memory_order_release);
	pthread_mutex_unlock(&d->lock);
}

static lsn_t newest_in(const _Atomic(struct drop *) *bucket, object_t object, page_t page, lsn_t not_above)
{
	lsn_t newest = 0;
	const struct drop *i = atomic_load_explicit(bucket, memory_order_acquire);
	for (; i; i = atomic_load_explicit(&i->next, memory_order_acquire))
		if (i->object == object && page >= i->from && page < i->to && i->lsn > newest && i->lsn <= not_above)
			newest = i->lsn;
	return newest;
}

lsn_t drops_newest(const struct drops *d, object_t object, page_t page, lsn_t not_above)
{
	if (!drops_any(d))
		return 0;
	lsn_t near = newest_in(bucket_of(d, object, page / CLUSTER_PAGES), object, page, not_above);
	lsn_t wide = newest_in(bucket_of(d, object, NO_CLUSTER), object, page, not_above);
	return near > wide ? near : wide;
}

bool drops_whole(const struct drops *d, object_t object, lsn_t *ret_lsn)
{
	if (!drops_any(d))
		return false;
	const struct drop *i = atomic_load_explicit(bucket_of(d, object, NO_CLUSTER), memory_order_acquire);
	for (; i; i = atomic_load_explicit(&i->next, memory_order_acquire))
		if (i->whole && i->object == object) {
			*ret_lsn = i->lsn;
			return true;
		}
	return false;
}

struct drop *drops_take_folded(struct drops *d, lsn_t cut)
{
	struct drop *taken = NULL;
	if (!drops_any(d))
		return NULL;
	pthread_mutex_lock(&d->lock);
	for (unsigned b = 0; b < d->buckets; b++) {
		_Atomic(struct drop *) *link = &d->bucket[b];
		struct drop *i;
		while ((i = atomic_load_explicit(link, memory_order_relaxed))) {
			if (i->lsn > cut) {
				link = &i->next;
				continue;
			}
			// A reader at i still finds its way on: i->next is left as it is until the grace is over.
			atomic_store_explicit(link, atomic_load_explicit(&i->next, memory_order_relaxed), memory_order_release);
			atomic_fetch_sub_explicit(&d->count, 1, memory_order_relaxed);
			i->taken_next = taken;
			taken = i;
		}
	}
	pthread_mutex_unlock(&d->lock);
	return taken;
}

static int fold_drop_order(const void *a, const void *b)
{
	const struct fold_drop *x = a, *y = b;
	if (x->object != y->object)
		return x->object < y->object ? -1 : 1;
	return x->from < y->from ? -1 : x->from > y->from;
}

int drops_collect(struct drops *d, lsn_t cut, struct fold_drop **ret_drops, size_t *ret_count)
{
	size_t count = 0, room;
	pthread_mutex_lock(&d->lock);
	room = atomic_load(&d->count);
	struct fold_drop *list = malloc((room + 1) * sizeof *list);
	for (unsigned b = 0; list && b < d->buckets; b++) {
		const struct drop *i = atomic_load_explicit(&d->bucket[b], memory_order_relaxed);
		for (; i; i = atomic_load_explicit(&i->next, memory_order_relaxed))
			if (i->lsn <= cut)
				list[count++] = (struct fold_drop){ i->object, i->from, i->to, i->lsn, i->whole };
	}
	pthread_mutex_unlock(&d->lock);
	if (!list)
		return -ENOMEM;
	qsort(list, count, sizeof *list, fold_drop_order);
	*ret_drops = list;
	*ret_count = count;
	return 0;
}
