// SPDX-License-Identifier: GPL-2.0-or-later
// Where the bitmaps and tables of space lie, and what is free in a part of it that was never
// written. Pure arithmetic. A part is a bitmap (level 0) or a table of that level; its index
// counts the parts of its level from the start of the device.
#ifndef TREE_SPACE_LAYOUT_H
#define TREE_SPACE_LAYOUT_H

#include "vems/format.h"

struct space_layout {
	uint64_t blocks, groups;
	unsigned levels;
};

struct space_layout space_layout(uint64_t blocks);
static inline uint64_t space_span(unsigned level) // groups below a part of that level
{
	return UINT64_C(1) << 8 * level;
}
_Static_assert(SPACE_FANOUT == 1u << 8, "space_span");

block_t space_slot(unsigned level, uint64_t index, unsigned slot);
uint64_t space_parts(const struct space_layout *l, unsigned level); // number of them
// Free blocks below a part that was never written: the most there can be.
uint64_t space_full(const struct space_layout *l, unsigned level, uint64_t index);
// The bitmap of a group that was never written.
void space_blank_bitmap(const struct space_layout *l, uint64_t group, uint64_t *bits);

#endif
