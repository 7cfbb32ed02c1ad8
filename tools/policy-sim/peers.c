// SPDX-License-Identifier: GPL-2.0-or-later
// ARC (FAST 2003), S3-FIFO (SOSP 2023), Clock2Q+ (VLDB 2026), as their papers and their authors' code have them.
#include "peers.h"
#include <errno.h>
#include <stdlib.h>
#include "keys.h"

enum { NOWHERE, FIRST, SECOND };

struct ghosts { // first in what each of them keeps
	struct keys first, second; // pages that left FIRST, SECOND
	enum { UNKNOWN, OF_FIRST, OF_SECOND } next; // where the page that comes in next was known
};

static int ghosts_init(struct ghosts *g, uint32_t first, uint32_t second)
{
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
	p->state = calloc(1, sizeof(struct ghosts));
	return p->state ? ghosts_init(p->state, p->frames, p->frames) : -ENOMEM;
}

static void arc_hit(struct policy *p, frame_t f)
{
	move(p, SECOND, f);
}

static double ratio(uint32_t a, uint32_t b)
{
	return b && a > b ? (double)a / b : 1;
}

static void arc_adapt(struct policy *p, uint32_t of_first, uint32_t of_second)
{
	const struct ghosts *g = p->state;
	if (g->next == OF_FIRST) {
		p->target += ratio(of_second, of_first);
		p->target = p->target > p->frames ? p->frames : p->target;
	} else if (g->next == OF_SECOND) {
		p->target -= ratio(of_first, of_second);
		p->target = p->target < 0 ? 0 : p->target;
	}
}

static void arc_insert(struct policy *p, frame_t f)
{
	struct ghosts *g = p->state;
	struct keys *first = &g->first, *second = &g->second;
	queue_push(p, g->next == UNKNOWN ? FIRST : SECOND, f);
	while (queue_count(p, FIRST) + first->count > p->frames && first->count)
		keys_forget_oldest(first);
	while (queue_count(p, FIRST) + queue_count(p, SECOND) + first->count + second->count > 2 * p->frames && second->count)
		keys_forget_oldest(second);
}

static frame_t arc_victim(struct policy *p)
{
	struct ghosts *g = p->state;
	uint32_t count = queue_count(p, FIRST);
	bool first = count && (count > p->target || (count == p->target && g->next == OF_SECOND) || queue_count(p, SECOND) == 0);
	frame_t f = queue_oldest(p, first ? FIRST : SECOND);
	return f != FRAME_NONE && give_up(p, f, first ? &g->first : &g->second) ? f : FRAME_NONE;
}

const struct policy_ops policy_arc = { "arc", arc_init, ghosts_fini, arc_hit, arc_insert, arc_victim };

// ---- S3-FIFO: Small is FIRST, Main is SECOND ------------------------------------------------------------

static int s3fifo_init(struct policy *p)
{
	p->state = calloc(1, sizeof(struct ghosts));
	p->target = (uint32_t)(p->frames * 0.10);
	return p->state ? ghosts_init(p->state, (uint32_t)(p->frames * 0.90), 0) : -ENOMEM;
}

static void ghost_insert(struct policy *p, frame_t f)
{
	const struct ghosts *g = p->state;
	frame_set_heat(&p->frame[f], 0);
	queue_push(p, g->next == UNKNOWN ? FIRST : SECOND, f);
}

// The search that begins in Small goes on there until a page has left, as the authors' own code does it. A page of
// Small that was hit `promoted` times goes to Main.
static frame_t small_or_main_victim(struct policy *p, uint8_t promoted)
{
	struct ghosts *g = p->state;
	bool small = queue_count(p, FIRST) >= p->target;
	for (;;) {
		small = small && queue_count(p, FIRST);
		frame_t f = queue_oldest(p, small ? FIRST : SECOND);
		if (f == FRAME_NONE)
			return FRAME_NONE;
		uint8_t heat = frame_heat(&p->frame[f]);
		if (heat < (small ? promoted : 1))
			return give_up(p, f, small ? &g->first : NULL) ? f : FRAME_NONE;
		frame_set_heat(&p->frame[f], small ? 0 : heat - 1);
		move(p, SECOND, f);
	}
}

static frame_t s3fifo_victim(struct policy *p)
{
	return small_or_main_victim(p, 2);
}

const struct policy_ops policy_s3fifo = { "s3fifo", s3fifo_init, ghosts_fini, NULL, ghost_insert, s3fifo_victim };

// ---- Clock2Q+: Small is FIRST with a window of half of it, Main is SECOND ---------------------------------

struct clock2qplus {
	struct ghosts ghosts;
	uint64_t inserted;
	uint64_t *born; // by frame: inserted, when it came into Small
};

static int clock2qplus_init(struct policy *p)
{
	struct clock2qplus *c = p->state = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	p->filling = true;
	p->target = (uint32_t)(p->frames * 0.10);
	c->born = calloc(p->frames, sizeof *c->born);
	return c->born ? ghosts_init(&c->ghosts, (uint32_t)(p->frames * 0.90), 0) : -ENOMEM;
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
	bool room = queue_count(p, FIRST) < p->target;
	ghost_insert(p, f);
	if (p->filling && !room)
		move(p, SECOND, f);
	if (p->frame[f].queue == FIRST)
		c->born[f] = ++c->inserted;
}

static frame_t clock2qplus_victim(struct policy *p)
{
	p->filling = false;
	return small_or_main_victim(p, 1);
}

const struct policy_ops policy_clock2qplus = { "clock2qplus", clock2qplus_init, clock2qplus_fini, clock2qplus_hit,
					       clock2qplus_insert, clock2qplus_victim };

// ---- what the simulator asks of them all ------------------------------------------------------------------

void peer_expect(struct policy *p, object_t object, page_t page)
{
	struct ghosts *g = p->state;
	uint32_t of_first = g->first.count, of_second = g->second.count;
	g->next = keys_take(&g->first, object, page) ? OF_FIRST : keys_take(&g->second, object, page) ? OF_SECOND : UNKNOWN;
	if (p->ops == &policy_arc)
		arc_adapt(p, of_first, of_second);
}
