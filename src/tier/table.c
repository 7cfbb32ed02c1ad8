// SPDX-License-Identifier: GPL-2.0-or-later
// The frame table: what each frame holds, for those whose record has been reclaimed or that were
// filled from the backing.
#include "tier.h"
#include <string.h>
#include "hash.h"

static uint64_t frame_seed(const struct tier *t, frame_t f)
{
	return hash_mix(t->attach, f);
}

static uint64_t free_check(const struct tier *t, frame_t f)
{
	return hash_mix(frame_seed(t, f), 0x46524545 /* "FREE" */);
}

static uint64_t slot_check(const struct tier *t, frame_t f, const struct slot_disk *s)
{
	return hash_seeded((const uint8_t *)s + sizeof s->check, sizeof *s - sizeof s->check, frame_seed(t, f));
}

static struct slot_disk slot_image(const struct tier *t, frame_t f)
{
	const struct frame *fr = &t->frame[f];
	struct slot_disk s = { .object = fr->object, .page = fr->page, .lsn = fr->lsn, .sum = fr->sum,
			       .flags = frame_state(fr) & FRAME_FILLED ? SLOT_FILLED : 0 };
	s.check = slot_check(t, f, &s);
	return s;
}

enum slot_found slot_load(const struct tier *t, frame_t f, struct slot_disk *ret_slot)
{
	memcpy(ret_slot, &t->table[f], sizeof *ret_slot);
	if (ret_slot->check == free_check(t, f))
		return SLOT_FOUND_FREE;
	return ret_slot->check == slot_check(t, f, ret_slot) ? SLOT_FOUND_GOOD : SLOT_FOUND_BAD;
}

enum slot_found slot_correct(const struct tier *t, frame_t f, struct slot_disk *ret_slot)
{
	struct slot_disk s;
	memcpy(&s, &t->table[f], sizeof s);
	if (__builtin_popcountll(s.check ^ free_check(t, f)) == 1)
		return SLOT_FOUND_FREE;
	bool good = __builtin_popcountll(s.check ^ slot_check(t, f, &s)) == 1;
	for (unsigned bit = 8 * sizeof s.check; !good && bit < 8 * sizeof s; bit++) {
		uint8_t *byte = (uint8_t *)&s + bit / 8;
		*byte ^= (uint8_t)(1u << bit % 8);
		good = s.check == slot_check(t, f, &s);
		if (!good)
			*byte ^= (uint8_t)(1u << bit % 8);
	}
	*ret_slot = s;
	return good ? SLOT_FOUND_GOOD : SLOT_FOUND_BAD;
}

void slot_store_body(struct tier *t, frame_t f)
{
	struct slot_disk s = slot_image(t, f);
	media_copy(t->media, (uint8_t *)&t->table[f] + sizeof s.check, (uint8_t *)&s + sizeof s.check, sizeof s - sizeof s.check);
}

void slot_store_state(struct tier *t, frame_t f)
{
	struct slot_disk s = slot_image(t, f);
	media_store64(t->media, &t->table[f].check, s.check);
}

void slot_store_free(struct tier *t, frame_t f)
{
	media_store64(t->media, &t->table[f].check, free_check(t, f));
}

void table_store_all_free(struct tier *t)
{
	for (frame_t f = 0; f < t->frames; f++) {
		struct slot_disk s = { .check = free_check(t, f) };
		media_copy(t->media, &t->table[f], &s, sizeof s);
	}
}
