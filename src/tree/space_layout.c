// SPDX-License-Identifier: GPL-2.0-or-later
#include "space_layout.h"
#include <string.h>
#include "space.h"

static uint64_t round_up_div(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

struct space_layout space_layout(uint64_t blocks)
{
	struct space_layout l = { .blocks = blocks, .groups = round_up_div(blocks, SPACE_GROUP_BLOCKS) };
	// A last group might be too short for its own slots; it must hold superblock B too.
	if (l.groups > 1 && blocks % SPACE_GROUP_BLOCKS != 0 && blocks % SPACE_GROUP_BLOCKS < SPACE_BLOCKS_MIN)
		l.groups--;
	while (space_span(l.levels) < l.groups)
		l.levels++;
	return l;
}

block_t space_slot(unsigned level, uint64_t index, unsigned slot)
{
	block_t start = index * space_span(level) * SPACE_GROUP_BLOCKS;
	return (start == 0 ? 1 : start) + 2 * level + slot;
}

uint64_t space_parts(const struct space_layout *l, unsigned level)
{
	return round_up_div(l->groups, space_span(level));
}

// Slots at the start of the groups [start, end), all levels.
static uint64_t slot_blocks(const struct space_layout *l, uint64_t start, uint64_t end)
{
	uint64_t parts = 0;
	for (unsigned level = 0; level <= l->levels; level++)
		parts += round_up_div(end, space_span(level)) - round_up_div(start, space_span(level));
	return 2 * parts;
}

// Superblock B lies in the last group, or behind it.
static bool last_group_has_super(const struct space_layout *l)
{
	return l->blocks <= l->groups * SPACE_GROUP_BLOCKS;
}

uint64_t space_full(const struct space_layout *l, unsigned level, uint64_t index)
{
	uint64_t start = index * space_span(level), end = min_u64(start + space_span(level), l->groups);
	if (start >= end)
		return 0;
	uint64_t fixed = slot_blocks(l, start, end);
	if (start == 0)
		fixed++;
	if (end == l->groups && last_group_has_super(l))
		fixed++;
	return min_u64(end * SPACE_GROUP_BLOCKS, l->blocks) - start * SPACE_GROUP_BLOCKS - fixed;
}

void space_blank_bitmap(const struct space_layout *l, uint64_t group, uint64_t *bits)
{
	block_t start = group * SPACE_GROUP_BLOCKS;
	unsigned fixed = (unsigned)slot_blocks(l, group, group + 1) + (group == 0);
	uint64_t end = min_u64(SPACE_GROUP_BLOCKS, l->blocks - start);
	if (group == l->groups - 1 && last_group_has_super(l))
		end--;
	memset(bits, 0, PAGE_BYTES);
	for (unsigned i = 0; i < fixed; i++)
		bits[i / 64] |= UINT64_C(1) << i % 64;
	for (; end % 64; end++)
		bits[end / 64] |= UINT64_C(1) << end % 64;
	memset(bits + end / 64, 0xff, (SPACE_GROUP_BLOCKS - end) / 8);
}

unsigned space_levels(uint64_t blocks)
{
	return space_layout(blocks).levels;
}

uint64_t space_fixed_blocks(uint64_t blocks)
{
	struct space_layout l = space_layout(blocks);
	return blocks - space_full(&l, l.levels, 0);
}

struct space_root space_root_format(uint64_t blocks)
{
	return (struct space_root){ .levels = space_levels(blocks) };
}
