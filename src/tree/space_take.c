// SPDX-License-Identifier: GPL-2.0-or-later
// Where blocks are taken from: at the goal if that is free; long runs one after another in groups that
// were wholly free, so that files stay in long pieces; short ones packed into groups already in use.
// The tables are descended by what is available below a child, from a cursor on; effort is bounded:
// a group that suits best is looked for in so many tables, then the next with anything free will do.
#include "space_impl.h"
#include <errno.h>
#include <string.h>

#define LONG_RUN 16u        // runs from here on go to wholly free groups
#define WORTH_A_VISIT 1024u // free blocks that make a group the next one to fill
#define VISITS_MAX 64u      // tables looked at for a group that suits best, before any will do

enum wanted { WHOLLY_FREE, PARTLY_FREE, ANY };

// Might there be such a group below? Exact for a group; for a table only ANY is.
static bool suits(enum wanted wanted, unsigned level, uint64_t avail, uint64_t full)
{
	if (wanted == ANY)
		return avail > 0;
	if (wanted == PARTLY_FREE)
		return avail >= WORTH_A_VISIT && avail < full;
	return avail > 0 && (level == 0 ? avail == full : avail >= SPACE_GROUP_BLOCKS / 2);
}

// One descent towards the first group >= *group that suits. 1: *group is it; 0: *group has moved on.
static int descend(struct space *s, enum wanted wanted, uint64_t *group, unsigned *visits)
{
	if (!suits(wanted, s->layout.levels, s->avail, space_full(&s->layout, s->layout.levels, 0))) {
		*group = UINT64_MAX;
		return 0;
	}
	for (unsigned level = s->layout.levels; level > 0; level--) {
		uint64_t index = *group / space_span(level);
		unsigned first = *group / space_span(level - 1) % SPACE_FANOUT, i = first;
		int r = part_load_path(s, level - 1, index * SPACE_FANOUT);
		if (fails_epoch(s, r))
			return r;
		struct table *t = (struct table *)part_find(s, level, index);
		++*visits;
		while (t != NULL && i < SPACE_FANOUT && !suits(wanted, level - 1, t->avail[i], t->full[i]))
			i++;
		if (t == NULL || i == SPACE_FANOUT) {
			*group = (index + 1) * space_span(level);
			return 0;
		}
		if (i != first)
			*group = index * space_span(level) + i * space_span(level - 1);
	}
	return 1;
}

static int find_in(struct space *s, enum wanted wanted, uint64_t from, uint64_t to, uint64_t *ret_group)
{
	for (unsigned visits = 0; from < to && (wanted == ANY || visits < VISITS_MAX);) {
		int r = descend(s, wanted, &from, &visits);
		if (r < 0)
			return r;
		if (r == 1 && from < to && wanted == PARTLY_FREE && s->large.valid && from == s->large.group) {
			from++; // left to the long runs
		} else if (r == 1 && from < to) {
			*ret_group = from;
			return 0;
		}
	}
	return -ENOSPC;
}

// The next group that suits, going round from the one given.
static int find_group(struct space *s, enum wanted wanted, uint64_t from, uint64_t *ret_group)
{
	int r = find_in(s, wanted, from, s->layout.groups, ret_group);
	return r == -ENOSPC ? find_in(s, wanted, 0, from, ret_group) : r;
}

// The first free run of `want` blocks in [from, to), or the longest there.
static void best_run(const uint64_t *busy, unsigned from, unsigned to, uint64_t want, unsigned *bit, unsigned *count)
{
	while (*count < want) {
		unsigned start = bits_find(busy, from, to, false);
		if (start == to)
			return;
		uint64_t stop = start + want < to ? start + want : to;
		from = bits_find(busy, start, (unsigned)stop, true);
		if (from - start > *count) {
			*bit = start;
			*count = from - start;
		}
	}
}

static void take(struct space *s, struct group *g, unsigned bit, unsigned count, struct run *ret_run)
{
	bits_assign(g->busy, bit, count, true);
	part_avail_add(s, 0, g->part.index, -(int64_t)count);
	*ret_run = (struct run){ g->part.index * SPACE_GROUP_BLOCKS + bit, count };
}

static int take_at_goal(struct space *s, uint64_t want, block_t goal, struct run *ret_run)
{
	uint64_t index = goal / SPACE_GROUP_BLOCKS;
	unsigned bit = goal % SPACE_GROUP_BLOCKS;
	struct group *g;
	if (goal == 0 || index >= s->layout.groups)
		return -ENOSPC;
	int r = group_get(s, index, &g);
	if (r < 0)
		return fails_epoch(s, r) ? r : -ENOSPC;
	uint64_t stop = bit + want < SPACE_GROUP_BLOCKS ? bit + want : SPACE_GROUP_BLOCKS;
	unsigned end = bits_find(g->busy, bit, (unsigned)stop, true);
	if (end == bit)
		return -ENOSPC;
	take(s, g, bit, end - bit, ret_run);
	return 0;
}

// Long runs fill one wholly free group after another, each from its start.
static int take_long(struct space *s, uint64_t want, struct run *ret_run)
{
	while (!s->no_free_group || s->large.valid) {
		struct group *g;
		if (!s->large.valid) {
			int r = find_group(s, WHOLLY_FREE, s->large.group, &s->large.group);
			if (r < 0) {
				s->no_free_group = r == -ENOSPC;
				return r;
			}
			s->large.valid = true;
			s->large.bit = 0;
		}
		int r = group_get(s, s->large.group, &g);
		if (fails_epoch(s, r))
			return r;
		unsigned bit = 0, count = 0;
		if (r == 0)
			best_run(g->busy, s->large.bit, SPACE_GROUP_BLOCKS, want, &bit, &count);
		if (count >= LONG_RUN) {
			take(s, g, bit, count, ret_run);
			s->large.bit = bit + count;
			return 0;
		}
		s->large.valid = false;
	}
	return -ENOSPC;
}

static int next_small_group(struct space *s)
{
	static const enum wanted order[] = { PARTLY_FREE, WHOLLY_FREE, ANY };
	int r = -ENOSPC;
	s->small.bit = 0;
	for (unsigned i = 0; i < 3 && r == -ENOSPC; i++)
		r = find_group(s, order[i], s->small.group, &s->small.group);
	return r;
}

// Short runs are packed: the first that fits from the cursor on, or the longest of the group.
static int take_short(struct space *s, uint64_t want, struct run *ret_run)
{
	for (bool moved = false;; moved = true) {
		struct group *g;
		unsigned bit = 0, count = 0;
		int r = moved || !s->small.valid ? next_small_group(s) : 0;
		if (r < 0)
			return r;
		s->small.valid = true;
		r = group_get(s, s->small.group, &g);
		if (fails_epoch(s, r))
			return r;
		if (r < 0)
			continue; // its avail is 0 now
		best_run(g->busy, s->small.bit, SPACE_GROUP_BLOCKS, want, &bit, &count);
		best_run(g->busy, 0, s->small.bit, want, &bit, &count);
		if (count > 0) {
			take(s, g, bit, count, ret_run);
			s->small.bit = (bit + count) % SPACE_GROUP_BLOCKS;
			return 0;
		}
	}
}

int space_take(struct space *s, uint64_t want, block_t goal, block_t *ret_block, uint64_t *ret_count)
{
	struct run run;
	if (want == 0)
		return -EINVAL;
	if (want > SPACE_GROUP_BLOCKS)
		want = SPACE_GROUP_BLOCKS;
	int r = take_at_goal(s, want, goal, &run);
	if (r == -ENOSPC && want >= LONG_RUN)
		r = take_long(s, want, &run);
	if (r == -ENOSPC)
		r = take_short(s, want, &run);
	if (r < 0)
		return r == -ENOSPC && s->losts > 0 ? s->lost_error : r;
	*ret_block = run.block;
	*ret_count = run.count;
	return 0;
}

void space_untake(struct space *s, block_t block, uint64_t count)
{
	while (count > 0) {
		uint64_t index = block / SPACE_GROUP_BLOCKS;
		unsigned bit = block % SPACE_GROUP_BLOCKS;
		uint64_t n = count < SPACE_GROUP_BLOCKS - bit ? count : SPACE_GROUP_BLOCKS - bit;
		struct group *g = (struct group *)part_find(s, 0, index); // taken from, so it is there
		bits_assign(g->busy, bit, n, false);
		part_avail_add(s, 0, index, (int64_t)n);
		if (s->small.group == index && s->small.bit == bit + n)
			s->small.bit = bit;
		if (s->large.group == index && s->large.bit == bit + n)
			s->large.bit = bit;
		block += n;
		count -= n;
	}
}
