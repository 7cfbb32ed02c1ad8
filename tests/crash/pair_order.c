// SPDX-License-Identifier: GPL-2.0-or-later
#include "pair_order.h"
#include <string.h>
#include "hash.h"

static block_t last_block(const struct pair_at *p)
{
	return p->durable->backing_bytes / PAGE_BYTES - 1;
}

bool pair_is_written(const struct image *durable, block_t block)
{
	return durable->written[block / 8] >> (block % 8) & 1;
}

static const struct super_disk *super_at(const struct pair_at *p, block_t block)
{
	const struct super_disk *s = (const void *)(p->durable->backing + block * PAGE_BYTES);
	return pair_is_written(p->durable, block) && super_valid(s, last_block(p) + 1) ? s : NULL;
}

static uint64_t epoch_at(const struct pair_at *p, block_t block)
{
	const struct super_disk *s = super_at(p, block);
	return s ? s->epoch : 0;
}

static const struct super_disk *super_in_force(const struct pair_at *p)
{
	bool last_is_newer = epoch_at(p, last_block(p)) > epoch_at(p, 0);
	return super_at(p, last_is_newer ? last_block(p) : 0);
}

bool pair_formats(const struct pair_at *p)
{
	return !super_in_force(p);
}

static bool supers_equal(const struct pair_at *p)
{
	return epoch_at(p, 0) && epoch_at(p, 0) == epoch_at(p, last_block(p));
}

// ---- the tier -------------------------------------------------------------------------------------

static const uint8_t *header(const struct media *m, int copy)
{
	return m->base + copy * PAGE_BYTES;
}

static bool header_settled(const struct pair_at *p, int copy)
{
	return memcmp(header(p->now, copy), header(p->durable->media, copy), PAGE_BYTES) == 0;
}

static bool word_is(const struct pair_at *p, unsigned word, uint64_t value)
{
	uint64_t found;
	return tier_word_load(p->durable->media, word, &found) == 0 && found == value;
}

static bool word_is_good(const struct pair_at *p, unsigned word)
{
	uint64_t found;
	return tier_word_load(p->durable->media, word, &found) == 0;
}

// The tier is the one that superblock is of: its epoch may be one behind, if it was told so.
static bool tier_follows(const struct pair_at *p, const struct super_disk *s)
{
	return word_is(p, WORD_ATTACH, s->attach) && (word_is(p, WORD_EPOCH, s->epoch) || word_is(p, WORD_EPOCH, s->epoch | TIER_EPOCH_NEXT) ||
						      word_is(p, WORD_EPOCH, (s->epoch - 1) | TIER_EPOCH_NEXT));
}

static bool tier_counts(const struct pair_at *p)
{
	const struct super_disk *s = super_in_force(p);
	return s && s->state == SUPER_ATTACHED && tier_follows(p, s);
}

const char *pair_header_relies(const struct pair_at *p, uint64_t offset, const void *src, uint64_t bytes)
{
	static const uint64_t magic = VEMS_TIER_MAGIC;
	int copy = offset >= PAGE_BYTES;
	if (memcmp(src, &magic, sizeof magic))
		return "a tier is blanked before the superblocks are wiped";
	if (!header_settled(p, !copy))
		return "a header before the other copy is drained";
	return bytes > 8 && memcmp(header(p->durable->media, copy), &magic, sizeof magic) ? "a header before its magic is drained" : NULL;
}

static const char *state_relies(const struct pair_at *p, uint64_t state)
{
	const struct super_disk *s = super_in_force(p);
	struct tier_geometry g;
	uint8_t fsid[16];
	if (tier_probe(p->durable->media, &g, fsid) != TIER_FOUND_GOOD)
		return "a state before a header is whole";
	if (!word_is_good(p, WORD_ATTACH) || !word_is_good(p, WORD_EPOCH))
		return "a state before attach id and epoch are words";
	if (state == TIER_ATTACHING)
		return tier_counts(p) ? "a tier is let go while the backing relies on it" : NULL;
	if (!supers_equal(p) || !tier_follows(p, s))
		return "a tier in use or clean before both superblocks say so";
	return state == TIER_CLEAN && s->state != SUPER_CLEAN ? "a clean tier of a backing that is not" : NULL;
}

const char *pair_word_relies(const struct pair_at *p, unsigned word, uint64_t value)
{
	const struct super_disk *s = super_in_force(p);
	if (word == WORD_STATE)
		return state_relies(p, value);
	if (word == WORD_EPOCH && value & TIER_EPOCH_NEXT && s && tier_counts(p) && !word_is(p, WORD_EPOCH, s->epoch) &&
	    !word_is(p, WORD_EPOCH, value))
		return "superblocks are announced before those in force are noted";
	if (word == WORD_EPOCH)
		return s && tier_counts(p) && (value & ~TIER_EPOCH_NEXT) > s->epoch ? "the tier's epoch before the superblock's" : NULL;
	if (word == WORD_ATTACH && value == 0 && (word_is(p, WORD_STATE, TIER_IN_USE) || word_is(p, WORD_STATE, TIER_CLEAN)))
		return "an attach id taken back before the state says so";
	uint64_t attach;
	bool attaches = tier_word_load(p->now, WORD_ATTACH, &attach) == 0 && attach == 0;
	return attaches && word != WORD_ATTACH ? pair_table_relies(p) : NULL;
}

const char *pair_table_relies(const struct pair_at *p)
{
	return word_is(p, WORD_ATTACH, 0) && word_is(p, WORD_STATE, TIER_ATTACHING) ? NULL : "a tier is made anew before it says so";
}

const char *pair_use_relies(const struct pair_at *p)
{
	return word_is(p, WORD_STATE, TIER_IN_USE) ? NULL : "a tier is used before it says so";
}

// ---- the backing ------------------------------------------------------------------------------------

static uint64_t free_check(const struct media *m, uint64_t attach, uint64_t f, const struct tier_geometry *g)
{
	uint64_t check;
	memcpy(&check, m->base + g->table_offset + f * sizeof(struct slot_disk), sizeof check);
	return check ^ hash_mix(hash_mix(attach, f), 0x46524545);
}

static bool tier_is_new(const struct pair_at *p, const struct super_disk *next)
{
	uint64_t base;
	bool good = tier_word_load(p->durable->media, WORD_LSN_BASE, &base) == 0 && base > next->cut && word_is(p, WORD_TAIL_LSN, 0);
	for (unsigned i = 0; i <= p->geometry.rings; i++)
		good &= word_is(p, WORD_RING_TAIL + i, 0);
	for (uint64_t f = 0; f < p->geometry.frames; f++)
		good &= free_check(p->durable->media, next->attach, f, &p->geometry) == 0;
	return good && header_settled(p, 0) && header_settled(p, 1);
}

// The first copy of an epoch with a tier.
static const char *attached_relies(const struct pair_at *p, const struct super_disk *next)
{
	const struct super_disk *before = super_in_force(p);
	if (!tier_follows(p, next))
		return "a superblock whose tier would not be known for its own";
	if (word_is(p, WORD_STATE, TIER_CLEAN))
		return "a superblock while its tier is clean";
	return word_is(p, WORD_STATE, TIER_ATTACHING) && before->attach != next->attach && !tier_is_new(p, next)
		       ? "a superblock before its tier is one in full" : NULL;
}

const char *pair_super_relies(const struct pair_at *p, block_t block, const struct super_disk *next)
{
	uint64_t own = epoch_at(p, block), other = epoch_at(p, last_block(p) - block);
	if (!super_valid(next, last_block(p) + 1))
		return NULL; // wiped
	if (pair_formats(p))
		return memcmp(p->now->base, p->durable->media->base, p->now->size_bytes) ? "a superblock before the tier is blank" : NULL;
	if (other == next->epoch && own <= other)
		return NULL; // the second copy
	if (own != other || own + 1 != next->epoch)
		return "a superblock before the two before it are of one epoch";
	bool follows = next->state == SUPER_ATTACHED || tier_counts(p);
	return follows ? attached_relies(p, next) : NULL;
}

const char *pair_rest_relies(const struct pair_at *p)
{
	const struct super_disk *s = super_in_force(p);
	if (!supers_equal(p))
		return "the superblocks are not the same in the end";
	bool let_go = word_is(p, WORD_STATE, TIER_ATTACHING) && word_is(p, WORD_ATTACH, 0);
	if (s->attach && !(word_is(p, WORD_EPOCH, s->epoch) && (word_is(p, WORD_STATE, TIER_CLEAN) || let_go)))
		return "the tier is neither clean nor let go in the end";
	return tier_headers_equal(p->durable->media) ? NULL : "the headers are not the same in the end";
}
