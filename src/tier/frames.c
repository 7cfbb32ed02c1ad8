// SPDX-License-Identifier: GPL-2.0-or-later
// Frames: the free list, grace, and the end of frames that an epoch or the log still holds.
//
//	FREE -> BUILD (claim) -> INDEXED (switch, admission)
//	INDEXED -> LIMBO (a commit replaces it) -> GRACE (its slot is durably free and it is not KEPT)
//	INDEXED -> LEAVING (evict, drop pass) -> GRACE (slot durably free) -> FREE (grace over)
//	BUILD -> FREE (operation given up, drained)
//	FREE -> LOST (claim: its memory is poisoned)
//
// A frame on the free list has a slot that is durably free. Who takes a frame out of the index, under
// the bucket's lock, owns it.
#include "tier.h"
#include <assert.h>

static void state_set(struct tier *t, frame_t f, uint16_t state)
{
	atomic_store_explicit(&t->frame[f].state, state, memory_order_release);
}

static frame_t pop_free(struct tier *t)
{
	struct frame_pool *p = &t->pool;
	uint32_t have = atomic_load_explicit(&p->free_count, memory_order_relaxed);
	frame_t f;
	while ((f = p->free) != FRAME_NONE) {
		bool holds = tier_frame_holds(t, f);
		p->free = t->frame[f].replaces;
		t->frame[f].replaces = FRAME_NONE;
		state_set(t, f, holds ? FRAME_BUILD : FRAME_LOST);
		have--;
		if (holds)
			break;
	}
	atomic_store_explicit(&p->free_count, have, memory_order_relaxed);
	return f;
}

static void push_free(struct tier *t, frame_t f)
{
	struct frame_pool *p = &t->pool;
	uint32_t have = atomic_load_explicit(&p->free_count, memory_order_relaxed);
	assert(have < t->frames && !t->frame[f].queue);
	state_set(t, f, FRAME_FREE);
	atomic_store_explicit(&t->frame[f].heat, 0, memory_order_relaxed);
	t->frame[f].replaces = p->free;
	p->free = f;
	atomic_store_explicit(&p->free_count, have + 1, memory_order_relaxed);
}

bool frames_claim(struct tier *t, unsigned count, unsigned spare, frame_t *ret_frames)
{
	unsigned got = 0;
	if (frames_free_count(t) < count + spare)
		return false;
	pthread_mutex_lock(&t->pool.lock);
	if (frames_free_count(t) >= count + spare)
		while (got < count && (ret_frames[got] = pop_free(t)) != FRAME_NONE)
			got++;
	bool enough = got == count;
	while (!enough && got)
		push_free(t, ret_frames[--got]);
	pthread_mutex_unlock(&t->pool.lock);
	return enough;
}

void frames_return(struct tier *t, const frame_t *frames, unsigned count)
{
	if (count == 0)
		return;
	pthread_mutex_lock(&t->pool.lock);
	for (unsigned i = 0; i < count; i++)
		push_free(t, frames[i]);
	pthread_mutex_unlock(&t->pool.lock);
}

void frames_retire(struct tier *t, const frame_t *frames, unsigned count)
{
	struct frame_pool *p = &t->pool;
	if (count == 0)
		return;
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < count; i++) {
		frame_t f = frames[i];
		state_set(t, f, FRAME_GRACE);
		t->frame[f].replaces = FRAME_NONE;
		if (p->retired_last == FRAME_NONE)
			p->retired_first = f;
		else
			t->frame[p->retired_last].replaces = f;
		p->retired_last = f;
	}
	pthread_mutex_unlock(&p->lock);
}

static void seal_batch(struct tier *t)
{
	struct frame_pool *p = &t->pool;
	if (p->retired_last == p->sealed_last)
		return;
	if (p->batch_head - p->batch_tail == RETIRE_BATCHES)
		p->batch_head--; // the youngest batch waits longer: right, only later
	p->batch[p->batch_head % RETIRE_BATCHES].target = grace_start(t->grace);
	p->batch[p->batch_head % RETIRE_BATCHES].last = p->retired_last;
	p->batch_head++;
	p->sealed_last = p->retired_last;
}

unsigned frames_poll(struct tier *t)
{
	struct frame_pool *p = &t->pool;
	unsigned moved = 0;
	pthread_mutex_lock(&p->lock);
	seal_batch(t);
	while (p->batch_tail != p->batch_head && grace_over(t->grace, p->batch[p->batch_tail % RETIRE_BATCHES].target)) {
		frame_t last = p->batch[p->batch_tail++ % RETIRE_BATCHES].last, f;
		do {
			f = p->retired_first;
			p->retired_first = t->frame[f].replaces;
			push_free(t, f);
			moved++;
		} while (f != last);
	}
	if (p->retired_first == FRAME_NONE)
		p->retired_last = p->sealed_last = FRAME_NONE;
	pthread_mutex_unlock(&p->lock);
	return moved;
}

static void dirty_less(struct tier *t)
{
	atomic_fetch_sub_explicit(&t->pool.dirty_count, 1, memory_order_relaxed);
}

// KEPT and SLOT_FREED are the two holds on a frame in LIMBO; whoever takes the last one retires it.
void frame_release(struct tier *t, frame_t f)
{
	_Atomic uint16_t *state = &t->frame[f].state;
	uint16_t old = atomic_load(state);
	while (old & FRAME_KEPT) {
		if (!atomic_compare_exchange_weak(state, &old, (uint16_t)(old & ~(FRAME_KEPT | FRAME_DIRTY))))
			continue;
		if (old & FRAME_DIRTY)
			dirty_less(t);
		if (old & FRAME_SLOT_FREED)
			frames_retire(t, &f, 1);
		return;
	}
}

void frame_slot_freed(struct tier *t, frame_t f)
{
	uint16_t old = atomic_fetch_or(&t->frame[f].state, FRAME_SLOT_FREED);
	if (!(old & FRAME_KEPT))
		frames_retire(t, &f, 1);
}

void frame_set_dirty(struct tier *t, frame_t f)
{
	if (!(atomic_fetch_or(&t->frame[f].state, FRAME_DIRTY) & FRAME_DIRTY))
		atomic_fetch_add_explicit(&t->pool.dirty_count, 1, memory_order_relaxed);
}

void frame_set_clean(struct tier *t, frame_t f)
{
	_Atomic uint16_t *state = &t->frame[f].state;
	uint16_t old = atomic_load(state);
	while (!(old & FRAME_KEPT)) {
		if (!atomic_compare_exchange_weak(state, &old, (uint16_t)(old & ~(FRAME_DIRTY | FRAME_PASSED))))
			continue;
		if (old & FRAME_DIRTY)
			dirty_less(t);
		return;
	}
	frame_release(t, f);
}
