// SPDX-License-Identifier: GPL-2.0-or-later
// Which frame holds a page: a hash table of cache-line buckets in DRAM. A look takes no lock and
// does no atomic write: the bucket's version makes it one moment. Changes lock the bucket by making
// the version odd. A chain of overflow buckets belongs to its first bucket and is kept without holes.
#include "tier.h"
#include <assert.h>
#include <sched.h>
#include "hash.h"

static uint64_t key_hash(object_t object, page_t page)
{
	return hash_mix(object, page);
}

static uint32_t hash_tag(uint64_t hash)
{
	return (uint32_t)hash;
}

struct bucket *index_bucket(const struct tier *t, object_t object, page_t page)
{
	return &t->index.bucket[(key_hash(object, page) >> 32) * t->index.buckets >> 32];
}

static struct bucket *bucket_next(const struct index *x, const struct bucket *b)
{
	uint32_t next = atomic_load_explicit(&b->next, memory_order_acquire);
	return next && next <= x->overflows ? &x->overflow[next - 1] : NULL;
}

// Without the lock the result means something only if the version did not change meanwhile.
static frame_t chain_find(const struct tier *t, const struct bucket *b, object_t object, page_t page, uint32_t tag)
{
	for (unsigned hops = 0; b && hops <= t->index.overflows; b = bucket_next(&t->index, b), hops++)
		for (int way = 0; way < INDEX_WAYS; way++) {
			uint64_t entry = atomic_load_explicit(&b->entry[way], memory_order_acquire);
			if (entry == 0)
				return FRAME_NONE; // no holes: nothing behind
			if ((uint32_t)(entry >> 32) != tag)
				continue;
			const struct frame *f = &t->frame[(uint32_t)entry - 1];
			if (f->page == page && f->object == object)
				return (uint32_t)entry - 1;
		}
	return FRAME_NONE;
}

static void relax(unsigned *spins)
{
	// The holder may have been preempted: give it the core.
	if (++*spins % 64 == 0)
		sched_yield();
	else
		__builtin_ia32_pause();
}

frame_t index_look(const struct tier *t, object_t object, page_t page, struct bucket **ret_bucket, uint32_t *ret_version)
{
	struct bucket *b = index_bucket(t, object, page);
	uint32_t tag = hash_tag(key_hash(object, page));
	unsigned spins = 0;

	for (;;) {
		uint32_t version = atomic_load_explicit(&b->version, memory_order_acquire);
		if (!(version & 1)) {
			frame_t f = chain_find(t, b, object, page, tag);
			atomic_thread_fence(memory_order_acquire);
			if (atomic_load_explicit(&b->version, memory_order_relaxed) == version) {
				*ret_bucket = b;
				*ret_version = version;
				return f;
			}
		}
		relax(&spins);
	}
}

uint32_t index_lock(struct bucket *b)
{
	unsigned spins = 0;
	for (;;) {
		uint32_t version = atomic_load_explicit(&b->version, memory_order_relaxed);
		if (!(version & 1) && atomic_compare_exchange_weak_explicit(&b->version, &version, version + 1,
									      memory_order_acquire, memory_order_relaxed)) {
			atomic_thread_fence(memory_order_release); // odd before any entry changes
			return version;
		}
		relax(&spins);
	}
}

void index_unlock(struct bucket *b, uint32_t version, bool changed)
{
	atomic_store_explicit(&b->version, version + (changed ? 2 : 0), memory_order_release);
}

static bool is_locked(const struct bucket *b)
{
	return atomic_load_explicit(&b->version, memory_order_relaxed) & 1;
}

frame_t index_find(const struct tier *t, struct bucket *b, object_t object, page_t page)
{
	return chain_find(t, b, object, page, hash_tag(key_hash(object, page)));
}

static struct bucket *overflow_add(struct index *x, struct bucket *last)
{
	pthread_mutex_lock(&x->overflow_lock);
	uint32_t taken = x->overflow_free ? x->overflow_free : ++x->overflow_used;
	assert(taken <= x->overflows); // there are enough for every frame in one chain
	struct bucket *b = &x->overflow[taken - 1];
	if (x->overflow_free)
		x->overflow_free = atomic_load_explicit(&b->next, memory_order_relaxed);
	pthread_mutex_unlock(&x->overflow_lock);
	for (int way = 0; way < INDEX_WAYS; way++)
		atomic_store_explicit(&b->entry[way], 0, memory_order_relaxed);
	atomic_store_explicit(&b->next, 0, memory_order_relaxed);
	atomic_store_explicit(&last->next, taken, memory_order_release);
	return b;
}

static void overflow_drop(struct index *x, struct bucket *before)
{
	uint32_t number = atomic_load_explicit(&before->next, memory_order_relaxed);
	atomic_store_explicit(&before->next, 0, memory_order_release);
	pthread_mutex_lock(&x->overflow_lock);
	// A reader on its way through sees the version change and looks again.
	atomic_store_explicit(&x->overflow[number - 1].next, x->overflow_free, memory_order_relaxed);
	x->overflow_free = number;
	pthread_mutex_unlock(&x->overflow_lock);
}

static _Atomic uint64_t *chain_entry(struct tier *t, struct bucket *b, object_t object, page_t page, struct bucket **ret_last)
{
	uint32_t tag = hash_tag(key_hash(object, page));
	for (;; b = bucket_next(&t->index, b)) {
		for (int way = 0; way < INDEX_WAYS; way++) {
			uint64_t entry = atomic_load_explicit(&b->entry[way], memory_order_relaxed);
			if (entry == 0) {
				*ret_last = b;
				return NULL;
			}
			const struct frame *f = &t->frame[(uint32_t)entry - 1];
			if ((uint32_t)(entry >> 32) == tag && f->page == page && f->object == object)
				return &b->entry[way];
		}
		if (!bucket_next(&t->index, b)) {
			*ret_last = b;
			return NULL;
		}
	}
}

void index_set(struct tier *t, struct bucket *b, object_t object, page_t page, frame_t f)
{
	assert(is_locked(b));
	struct bucket *last = b;
	_Atomic uint64_t *entry = chain_entry(t, b, object, page, &last);
	uint64_t value = (uint64_t)hash_tag(key_hash(object, page)) << 32 | (f + 1);

	for (int way = 0; !entry && way < INDEX_WAYS; way++)
		if (atomic_load_explicit(&last->entry[way], memory_order_relaxed) == 0)
			entry = &last->entry[way];
	if (!entry)
		entry = &overflow_add(&t->index, last)->entry[0];
	atomic_store_explicit(entry, value, memory_order_release);
}

// The last entry of the chain takes the place of the one that goes.
void index_remove(struct tier *t, struct bucket *b, object_t object, page_t page)
{
	assert(is_locked(b));
	struct bucket *last = b, *before = NULL;
	int way = INDEX_WAYS - 1;
	_Atomic uint64_t *entry = chain_entry(t, b, object, page, &last);

	if (!entry)
		return;
	for (last = b; bucket_next(&t->index, last); last = bucket_next(&t->index, last))
		before = last;
	while (way > 0 && atomic_load_explicit(&last->entry[way], memory_order_relaxed) == 0)
		way--;
	uint64_t moved = atomic_load_explicit(&last->entry[way], memory_order_relaxed);
	atomic_store_explicit(entry, moved, memory_order_release);
	atomic_store_explicit(&last->entry[way], 0, memory_order_release);
	if (way == 0 && before)
		overflow_drop(&t->index, before);
}
