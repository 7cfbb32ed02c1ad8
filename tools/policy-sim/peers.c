// SPDX-License-Identifier: GPL-2.0-or-later
// ARC (FAST 2003), S3-FIFO (SOSP 2023), Clock2Q+ (VLDB 2026), as their papers have them.
#include "peers.h"
#include <errno.h>
#include <stdlib.h>
#include "keys.h"

enum { NOWHERE, FIRST, SECOND };

struct ghosts {
	struct keys first, second; // pages that left FIRST, SECOND
};

static int ghosts_init(struct policy *p, uint32_t first, uint32_t second)
{
	struct ghosts *g = calloc(1, sizeof *g);
	if (!g)
		return -ENOMEM;
	p->state = g;
	int r = keys_init(&g->first, first);
	return r ? r : keys_init(&g->second, second);
}

static void ghosts_fini(struct policy *p)
{
	struct ghosts *g = p->state;
	keys_fini(&g->first);
	keys_fini(&g->second);
	free(g);
}

static void move(struct policy *p, unsigned queue, frame_t f)
{
	queue_remove(p, f);
	queue_push(p, queue, f);
}

static bool give_up(struct policy *p, frame_t f, struct keys *ghosts)
{
	if (!p->take(p->take_arg, f))
		return false;
	queue_remove(p, f);
	if (ghosts)
		keys_add(ghosts, p->frame[f].object, p->frame[f].page);
	return true;
}

// ---- ARC: T1 is FIRST, T2 is SECOND, p is the target --------------------------------------------------

static int arc_init(struct policy *p)
{
	return ghosts_init(p, p->frames, p->frames);
}

static void arc_hit(struct policy *p, frame_t f)
{
	move(p, SECOND, f);
}

static double ratio(uint32_t a, uint32_t b)
{
	return b && a > b ? (double)a / b : 1;
}

// The frame is found before the page is asked for here, so that its ghost counts in the next choice only.
static void arc_insert(struct policy *p, frame_t f)
{
	const struct frame *fr = &p->frame[f];
	struct ghosts *g = p->state;
	uint32_t first = g->first.count, second = g->second.count;
	bool known = true;

	if (keys_take(&g->first, fr->object, fr->page)) {
		p->target += ratio(second, first);
		p->target = p->target > p->frames ? p->frames : p->target;
	} else if (keys_take(&g->second, fr->object, fr->page)) {
		p->target -= ratio(first, second);
		p->target = p->target < 0 ? 0 : p->target;
	} else {
		known = false;
	}
	queue_push(p, known ? SECOND : FIRST, f);
	while (queue_count(p, FIRST) + g->first.count > p->frames && g->first.count)
		keys_forget_oldest(&g->first);
	while (queue_count(p, FIRST) + queue_count(p, SECOND) + g->first.count + g->second.count > 2 * p->frames && g->second.count)
		keys_forget_oldest(&g->second);
}

static frame_t arc_victim(struct policy *p)
{
	struct ghosts *g = p->state;
	bool first = queue_count(p, FIRST) && (queue_count(p, FIRST) > p->target || queue_count(p, SECOND) == 0);
	frame_t f = queue_oldest(p, first ? FIRST : SECOND);
	return f != FRAME_NONE && give_up(p, f, first ? &g->first : &g->second) ? f : FRAME_NONE;
}

const struct policy_ops policy_arc = { "arc", arc_init, ghosts_fini, arc_hit, arc_insert, arc_victim };

// ---- S3-FIFO: Small is FIRST, Main is SECOND ------------------------------------------------------------

static int s3fifo_init(struct policy *p)
{
	p->target = p->frames * 0.10;
	return ghosts_init(p, (uint32_t)(p->frames * 0.90), 0);
}

static void ghost_insert(struct policy *p, frame_t f)
{
	struct ghosts *g = p->state;
	bool known = keys_take(&g->first, p->frame[f].object, p->frame[f].page);
	frame_set_heat(&p->frame[f], 0);
	queue_push(p, known ? SECOND : FIRST, f);
}

static frame_t s3fifo_victim(struct policy *p)
{
	struct ghosts *g = p->state;
	while (queue_count(p, FIRST) + queue_count(p, SECOND)) {
		bool small = queue_count(p, FIRST) && (queue_count(p, FIRST) >= p->target || queue_count(p, SECOND) == 0);
		frame_t f = queue_oldest(p, small ? FIRST : SECOND);
		uint8_t heat = frame_heat(&p->frame[f]);
		if (small && heat > 1) {
			frame_set_heat(&p->frame[f], 0);
			move(p, SECOND, f);
		} else if (!small && heat) {
			frame_set_heat(&p->frame[f], heat - 1);
			move(p, SECOND, f);
		} else {
			return give_up(p, f, small ? &g->first : NULL) ? f : FRAME_NONE;
		}
	}
	return FRAME_NONE;
}

const struct policy_ops policy_s3fifo = { "s3fifo", s3fifo_init, ghosts_fini, NULL, ghost_insert, s3fifo_victim };

// ---- Clock2Q+: Small is FIRST with a window of half of it, Main is SECOND ---------------------------------

struct clock2qplus {
	struct ghosts ghosts; // first in the struct: ghosts_fini()
	uint64_t inserted;
	uint64_t *born; // by frame: inserted, when it came into Small
};

static int clock2qplus_init(struct policy *p)
{
	struct clock2qplus *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	p->state = c;
	p->target = p->frames * 0.10;
	c->born = calloc(p->frames, sizeof *c->born);
	int r = c->born ? keys_init(&c->ghosts.first, p->frames / 2) : -ENOMEM;
	return r ? r : keys_init(&c->ghosts.second, 0);
}

static void clock2qplus_fini(struct policy *p)
{
	struct clock2qplus *c = p->state;
	free(c->born);
	ghosts_fini(p);
}

static void clock2qplus_hit(struct policy *p, frame_t f)
{
	struct clock2qplus *c = p->state;
	if (p->frame[f].queue == SECOND || c->inserted - c->born[f] >= p->target / 2)
		frame_set_heat(&p->frame[f], 1);
}

static void clock2qplus_insert(struct policy *p, frame_t f)
{
	struct clock2qplus *c = p->state;
	ghost_insert(p, f);
	if (p->frame[f].queue == FIRST)
		c->born[f] = c->inserted++;
}

static frame_t clock2qplus_victim(struct policy *p)
{
	struct clock2qplus *c = p->state;
	while (queue_count(p, FIRST) + queue_count(p, SECOND)) {
		bool small = queue_count(p, FIRST) && (queue_count(p, FIRST) >= p->target || queue_count(p, SECOND) == 0);
		frame_t f = queue_oldest(p, small ? FIRST : SECOND);
		if (frame_heat(&p->frame[f]) == 0)
			return give_up(p, f, small ? &c->ghosts.first : NULL) ? f : FRAME_NONE;
		frame_set_heat(&p->frame[f], 0);
		move(p, SECOND, f);
	}
	return FRAME_NONE;
}

const struct policy_ops policy_clock2qplus = { "clock2qplus", clock2qplus_init, clock2qplus_fini, clock2qplus_hit,
					       clock2qplus_insert, clock2qplus_victim };
