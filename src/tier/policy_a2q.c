// SPDX-License-Identifier: GPL-2.0-or-later
// A2Q: Clock2Q+ (VLDB 2026) with a Small queue that adapts.
//
//	new page -> YOUNG -> OLD -> given up, known to small_ghost
//	                         -> MAIN, if it was hit while it was OLD
//	new page known to small_ghost -> MAIN: a clock of one bit; given up, known to main_ghost
//	a victim that cannot go (dirty) -> WAIT_*; goes first once it can, or -> MAIN if it was hit
//
// YOUNG and OLD are one FIFO, Small. Hits of a page in its younger half are of one use and forgotten
// (Clock2Q+'s correlation window); where Small is large, it stands in for LRU, and YOUNG is less than half of it
// (WINDOW_SHARE). Small's target follows what would have been a hit: a page found
// in the ghost soon after Small gave it up says that Small is too small; one that Main gave up, that it
// is too large. Older ghosts do not count: loops would turn the policy into LRU.
#include "policy.h"

enum { NOWHERE, YOUNG, OLD, MAIN, WAIT_SMALL, WAIT_MAIN };

#define WAIT_LOOKS 8u // at those that wait, for each victim
#define WAIT_LOOKS_LAST 4096u // where there is none elsewhere
// How far the target moves, and of what share of the frames' worth of evictions a ghost is young. Larger steps
// follow a working set sooner; in a tier of some 200 frames they make the target jump to its least, where it stays,
// since no page is then used again soon enough after Small gave it up.
#define TARGET_STEP 3
#define YOUNG_SHARE 0.10
#define WINDOW_SHARE 0.05

static uint32_t small_count(const struct policy *p)
{
	return queue_count(p, YOUNG) + queue_count(p, OLD);
}

static int a2q_init(struct policy *p)
{
	p->filling = true;
	p->target = p->frames * 0.10;
	int r = ghost_init(&p->small_ghost, (uint32_t)(p->frames * 0.75));
	return r ? r : ghost_init(&p->main_ghost, (uint32_t)(p->frames * 0.10));
}

static void a2q_fini(struct policy *p)
{
	ghost_fini(&p->small_ghost);
	ghost_fini(&p->main_ghost);
}

static void target_move(struct policy *p, double by)
{
	double target = p->target + by, least = p->frames * 0.02, most = p->frames * 0.95;
	p->target = target < least ? least : target > most ? most : target;
}

static void push(struct policy *p, unsigned queue, frame_t f)
{
	frame_set_heat(&p->frame[f], 0);
	queue_push(p, queue, f);
}

static void move(struct policy *p, unsigned queue, frame_t f)
{
	queue_remove(p, f);
	push(p, queue, f);
}

static void a2q_insert(struct policy *p, frame_t f)
{
	const struct frame *fr = &p->frame[f];
	uint64_t age, young = (uint64_t)(p->frames * YOUNG_SHARE);
	bool main = false;

	if (ghost_take(&p->small_ghost, fr->object, fr->page, &age)) {
		main = true;
		if (age <= young)
			target_move(p, TARGET_STEP);
	} else if (ghost_take(&p->main_ghost, fr->object, fr->page, &age) && age <= young) {
		target_move(p, -TARGET_STEP);
	}
	if (main || (p->filling && small_count(p) >= p->target)) {
		push(p, MAIN, f);
		return;
	}
	double window = p->target / 2 < p->frames * WINDOW_SHARE ? p->target / 2 : p->frames * WINDOW_SHARE;
	push(p, YOUNG, f);
	while (queue_count(p, YOUNG) > window)
		move(p, OLD, queue_oldest(p, YOUNG));
}

// Gives up f, of Small or Main, unless it has to wait.
static bool give_up(struct policy *p, frame_t f, bool small)
{
	struct frame *fr = &p->frame[f];
	if (!p->take(p->take_arg, f)) {
		move(p, small ? WAIT_SMALL : WAIT_MAIN, f);
		return false;
	}
	queue_remove(p, f);
	ghost_add(small ? &p->small_ghost : &p->main_ghost, fr->object, fr->page);
	return true;
}

static frame_t victim_of_waiting(struct policy *p, unsigned queue, uint32_t looks)
{
	if (looks > queue_count(p, queue))
		looks = queue_count(p, queue);
	for (; looks; looks--) {
		frame_t f = queue_oldest(p, queue);
		if (frame_heat(&p->frame[f]))
			move(p, MAIN, f);
		else if (give_up(p, f, queue == WAIT_SMALL))
			return f;
	}
	return FRAME_NONE;
}

// From Small's end; each step makes it smaller.
static frame_t victim_of_small(struct policy *p)
{
	frame_t f = queue_oldest(p, OLD) != FRAME_NONE ? queue_oldest(p, OLD) : queue_oldest(p, YOUNG);
	if (p->frame[f].queue == OLD && frame_heat(&p->frame[f])) {
		move(p, MAIN, f);
		return FRAME_NONE;
	}
	return give_up(p, f, true) ? f : FRAME_NONE;
}

// A step of the clock. However many, hits earn one turn: more of them keep a working set that is over.
static frame_t victim_of_main(struct policy *p)
{
	frame_t f = queue_oldest(p, MAIN);
	if (frame_heat(&p->frame[f])) {
		move(p, MAIN, f);
		return FRAME_NONE;
	}
	return give_up(p, f, false) ? f : FRAME_NONE;
}

static frame_t a2q_victim(struct policy *p)
{
	p->filling = false;
	frame_t f = victim_of_waiting(p, WAIT_SMALL, WAIT_LOOKS);
	if (f == FRAME_NONE)
		f = victim_of_waiting(p, WAIT_MAIN, WAIT_LOOKS);
	// A step leaves Small or Main with one less, or cools one page down, which readers may be warming.
	uint64_t steps = 5 * ((uint64_t)small_count(p) + queue_count(p, MAIN));
	for (; f == FRAME_NONE && small_count(p) + queue_count(p, MAIN) && steps; steps--) {
		bool small = small_count(p) && (small_count(p) >= p->target || queue_count(p, MAIN) == 0);
		f = small ? victim_of_small(p) : victim_of_main(p);
	}
	if (f == FRAME_NONE)
		f = victim_of_waiting(p, WAIT_SMALL, WAIT_LOOKS_LAST);
	return f != FRAME_NONE ? f : victim_of_waiting(p, WAIT_MAIN, WAIT_LOOKS_LAST);
}

const struct policy_ops policy_a2q = { .name = "a2q", .init = a2q_init, .fini = a2q_fini, .insert = a2q_insert,
				       .victim = a2q_victim };
