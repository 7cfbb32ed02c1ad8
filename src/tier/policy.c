// SPDX-License-Identifier: GPL-2.0-or-later
// What policies share, and the two plain ones to compare with.
#include "policy.h"
#include <string.h>

enum { NOWHERE, CLOCK };

void queue_push(struct policy *p, unsigned queue, frame_t f)
{
	struct policy_queue *q = &p->queue[queue];
	struct frame *fr = &p->frame[f];
	fr->queue = (uint8_t)queue;
	fr->older = q->newest;
	fr->newer = FRAME_NONE;
	if (q->newest == FRAME_NONE)
		q->oldest = f;
	else
		p->frame[q->newest].newer = f;
	q->newest = f;
	q->count++;
}

// What was linked to `from` is linked to `to`; FRAME_NONE: its other neighbour.
static void relink(struct policy *p, const struct frame *from, frame_t to)
{
	struct policy_queue *q = &p->queue[from->queue];
	if (from->newer == FRAME_NONE)
		q->newest = to == FRAME_NONE ? from->older : to;
	else
		p->frame[from->newer].older = to == FRAME_NONE ? from->older : to;
	if (from->older == FRAME_NONE)
		q->oldest = to == FRAME_NONE ? from->newer : to;
	else
		p->frame[from->older].newer = to == FRAME_NONE ? from->newer : to;
}

void queue_remove(struct policy *p, frame_t f)
{
	struct frame *fr = &p->frame[f];
	relink(p, fr, FRAME_NONE);
	p->queue[fr->queue].count--;
	fr->queue = NOWHERE;
}

int policy_init(struct policy *p, const struct policy_ops *ops, struct frame *frame, frame_t frames,
		bool (*take)(void *arg, frame_t f), void *take_arg)
{
	memset(p, 0, sizeof *p);
	*p = (struct policy){ .ops = ops, .frame = frame, .frames = frames, .take = take, .take_arg = take_arg };
	for (unsigned i = 0; i < POLICY_QUEUES; i++)
		p->queue[i] = (struct policy_queue){ FRAME_NONE, FRAME_NONE, 0 };
	return ops->init ? ops->init(p) : 0;
}

void policy_fini(struct policy *p)
{
	if (p->ops && p->ops->fini)
		p->ops->fini(p);
	p->ops = NULL;
}

void policy_insert(struct policy *p, frame_t f)
{
	policy_remove(p, f);
	p->ops->insert(p, f);
}

void policy_replace(struct policy *p, frame_t old, frame_t f)
{
	struct frame *from = &p->frame[old], *to = &p->frame[f];
	policy_remove(p, f);
	if (from->queue == NOWHERE) {
		p->ops->insert(p, f);
		return;
	}
	relink(p, from, f);
	to->queue = from->queue;
	to->newer = from->newer;
	to->older = from->older;
	from->queue = NOWHERE;
}

void policy_remove(struct policy *p, frame_t f)
{
	if (p->frame[f].queue != NOWHERE)
		queue_remove(p, f);
}

frame_t policy_victim(struct policy *p)
{
	return p->ops->victim(p);
}

bool policy_check(const struct policy *p)
{
	uint64_t linked = 0, said = 0;
	for (unsigned q = 1; q < POLICY_QUEUES; q++) {
		frame_t newer = FRAME_NONE, f = p->queue[q].newest;
		uint32_t count = 0;
		for (; f != FRAME_NONE && count <= p->queue[q].count; newer = f, f = p->frame[f].older, count++)
			if (p->frame[f].queue != q || p->frame[f].newer != newer)
				return false;
		if (count != p->queue[q].count || p->queue[q].oldest != newer)
			return false;
		linked += count;
	}
	for (frame_t f = 0; f < p->frames; f++)
		said += p->frame[f].queue != NOWHERE;
	return said == linked;
}

// ---- CLOCK, LRU -----------------------------------------------------------------------------------

static void clock_insert(struct policy *p, frame_t f)
{
	frame_set_heat(&p->frame[f], 0);
	queue_push(p, CLOCK, f);
}

static void to_newest(struct policy *p, frame_t f)
{
	unsigned queue = p->frame[f].queue;
	queue_remove(p, f);
	queue_push(p, queue, f);
}

// Two turns: the first may find all of them warm.
static frame_t clock_victim(struct policy *p)
{
	for (uint64_t n = 2 * (uint64_t)queue_count(p, CLOCK); n; n--) {
		frame_t f = queue_oldest(p, CLOCK);
		struct frame *fr = &p->frame[f];
		if (frame_heat(fr) == 0 && p->take(p->take_arg, f)) {
			queue_remove(p, f);
			return f;
		}
		frame_set_heat(fr, 0);
		to_newest(p, f);
	}
	return FRAME_NONE;
}

static frame_t lru_victim(struct policy *p)
{
	for (uint32_t n = queue_count(p, CLOCK); n; n--) {
		frame_t f = queue_oldest(p, CLOCK);
		if (p->take(p->take_arg, f)) {
			queue_remove(p, f);
			return f;
		}
		to_newest(p, f);
	}
	return FRAME_NONE;
}

static void lru_hit(struct policy *p, frame_t f)
{
	if (p->frame[f].queue != NOWHERE)
		to_newest(p, f);
}

const struct policy_ops policy_clock = { .name = "clock", .insert = clock_insert, .victim = clock_victim };
const struct policy_ops policy_lru = { .name = "lru", .insert = clock_insert, .hit = lru_hit, .victim = lru_victim };
