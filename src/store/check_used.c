// SPDX-License-Identifier: GPL-2.0-or-later
// Which blocks the tree uses, in DRAM that does not grow with the device: a hash table of groups, a
// bitmap (4 KiB) for a group that is used in part, none for one that is full. Fixed blocks count as used.
#include "check_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BITMAP_BYTES (SPACE_GROUP_BLOCKS / 8)

static struct used_group *slot_of(struct used_group *slot, size_t slots, uint64_t group)
{
	size_t i = hash_mix(group, 0x75736564) & (slots - 1);
	while (slot[i].group != 0 && slot[i].group != group + 1)
		i = (i + 1) & (slots - 1);
	return &slot[i];
}

static int grow(struct used *u)
{
	size_t slots = u->slots ? 2 * u->slots : 64;
	struct used_group *slot = calloc(slots, sizeof *slot);
	if (!slot)
		return -ENOMEM;
	for (size_t i = 0; i < u->slots; i++)
		if (u->slot[i].group != 0)
			*slot_of(slot, slots, u->slot[i].group - 1) = u->slot[i];
	free(u->slot);
	u->slot = slot;
	u->slots = slots;
	return 0;
}

int used_mark(struct used *u, block_t block)
{
	uint64_t group = block / SPACE_GROUP_BLOCKS, mask = UINT64_C(1) << block % 64;
	size_t word = block % SPACE_GROUP_BLOCKS / 64;

	if (u->groups * 2 >= u->slots) {
		int r = grow(u);
		if (r)
			return r;
	}
	struct used_group *g = slot_of(u->slot, u->slots, group);
	if (g->group == 0) {
		uint64_t *bits = calloc(1, BITMAP_BYTES);
		if (!bits)
			return -ENOMEM;
		space_blank_bitmap(&u->layout, group, bits);
		*g = (struct used_group){ .group = group + 1, .bits = bits };
		for (size_t i = 0; i < BITMAP_BYTES / sizeof *bits; i++)
			g->count += (unsigned)__builtin_popcountll(bits[i]);
		u->groups++;
	}
	if (!g->bits || g->bits[word] & mask)
		return 1;
	g->bits[word] |= mask;
	g->count++;
	u->blocks++;
	if (g->count == SPACE_GROUP_BLOCKS) {
		free(g->bits);
		g->bits = NULL;
	}
	return 0;
}

void used_bits(const struct used *u, uint64_t group, uint64_t ret_bits[SPACE_GROUP_BLOCKS / 64])
{
	const struct used_group *g = u->slots ? slot_of(u->slot, u->slots, group) : NULL;
	if (!g || g->group == 0)
		space_blank_bitmap(&u->layout, group, ret_bits);
	else if (g->bits)
		memcpy(ret_bits, g->bits, BITMAP_BYTES);
	else
		memset(ret_bits, 0xff, BITMAP_BYTES);
}

bool used_has(const struct used *u, block_t block)
{
	uint64_t group = block / SPACE_GROUP_BLOCKS;
	const struct used_group *g = u->slots ? slot_of(u->slot, u->slots, group) : NULL;
	return g && g->group != 0 && (!g->bits || g->bits[block % SPACE_GROUP_BLOCKS / 64] >> block % 64 & 1);
}

void used_fini(struct used *u)
{
	for (size_t i = 0; i < u->slots; i++)
		free(u->slot[i].bits);
	free(u->slot);
}
