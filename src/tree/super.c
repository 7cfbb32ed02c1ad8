// SPDX-License-Identifier: GPL-2.0-or-later
// The superblocks. An epoch is in force once one good copy of it is durable: A is written before B,
// so a crash between the two leaves A newer, one during either leaves at most that one copy torn,
// and the other is whole. Hence the newer good copy is always the file system, and it is safe to
// reuse what only the older one refers to as soon as both have been written.
//
// Two good copies of one epoch that differ were never written by us: refused, not guessed at. So is
// a device of which one copy cannot be read and the other is not ours: it must not pass for blank. Nor
// is what lies at the end of a device that has shrunk a copy to go by: a file system of that very size,
// from before this one, may have left it.
#include "super.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "hash.h"
#include "log.h"
#include "space.h"

#define SUPER_LEVELS_MAX 16u
#define SUPER_BLOCKS_MAX (UINT64_C(1) << 48) // 1 EiB

block_t super_block(const struct backing *b, char copy)
{
	return copy == 'A' ? 0 : b->blocks - 1;
}

void super_seal(struct super_disk *s)
{
	s->sum = hash_bytes(s, offsetof(struct super_disk, sum));
}

static bool sum_good(const struct super_disk *s)
{
	return s->magic == VEMS_SUPER_MAGIC && s->sum == hash_bytes(s, offsetof(struct super_disk, sum));
}

static bool from_the_future(const struct super_disk *s)
{
	return sum_good(s) && (s->version > VEMS_VERSION || (s->incompat & ~VEMS_INCOMPAT_KNOWN) != 0);
}

static bool root_valid(const struct super_disk *s)
{
	if (s->root_block == 0)
		return s->root_birth == 0 && s->root_sum == 0 && s->root_level == 0;
	return s->root_block < s->blocks - 1 && s->root_birth <= LSN_MAX && s->root_level < SUPER_LEVELS_MAX;
}

static bool space_valid(const struct super_disk *s)
{
	if (s->space_levels != space_levels(s->blocks))
		return false;
	if ((s->space.word & SPACE_WRITTEN) == 0)
		return s->space.word == 0 && s->space.sum == 0;
	return (s->space.word & ~(SPACE_WRITTEN | SPACE_SLOT)) <= s->blocks - space_fixed_blocks(s->blocks);
}

bool super_valid(const struct super_disk *s, uint64_t backing_blocks)
{
	if (!sum_good(s) || s->version != VEMS_VERSION || (s->incompat & ~VEMS_INCOMPAT_KNOWN) != 0)
		return false;
	if (s->state != SUPER_CLEAN && s->state != SUPER_ATTACHED)
		return false;
	if (s->attach > LSN_MAX || (s->state == SUPER_ATTACHED && s->attach == 0) || s->cut > LSN_MAX)
		return false;
	if (s->blocks < SPACE_BLOCKS_MIN || s->blocks > backing_blocks || !root_valid(s) || !space_valid(s))
		return false;
	for (size_t i = 0; i < sizeof s->reserved; i++)
		if (s->reserved[i] != 0)
			return false;
	return true;
}

struct copy {
	struct super_disk *super;
	int error; // of reading it
	bool ours, future, good, shrunk;
};

static void read_copy(struct backing *b, struct ioq *q, block_t block, struct copy *c)
{
	c->error = ioq_read(q, block, c->super, 1);
	c->ours = c->error == 0 && c->super->magic == VEMS_SUPER_MAGIC;
	c->future = c->ours && from_the_future(c->super);
	c->good = c->ours && super_valid(c->super, b->blocks);
	c->shrunk = c->ours && !c->good && super_valid(c->super, SUPER_BLOCKS_MAX);
}

static const struct copy *choose(const struct copy *a, const struct copy *b, enum super_found *ret_found)
{
	bool both = a->good && b->good;
	if (a->future || b->future) {
		*ret_found = SUPER_FUTURE;
		return a->future ? a : b;
	}
	if (a->shrunk) {
		*ret_found = SUPER_SHRUNK;
		return a;
	}
	if (both && a->super->epoch == b->super->epoch && memcmp(a->super, b->super, sizeof *a->super) != 0) {
		log_error("superblocks A and B: both of epoch %" PRIu64 ", but not the same", a->super->epoch);
		*ret_found = SUPER_DAMAGED;
		return NULL;
	}
	if (a->good || b->good) {
		*ret_found = SUPER_GOOD;
		return both ? (b->super->epoch > a->super->epoch ? b : a) : (a->good ? a : b);
	}
	*ret_found = a->ours || b->ours ? SUPER_DAMAGED : SUPER_NONE;
	return NULL;
}

int super_load(struct backing *b, struct ioq *q, enum super_found *ret_found, struct super_disk *ret_super,
	       char *ret_inferior)
{
	struct super_disk *both = aligned_alloc(PAGE_BYTES, 2 * PAGE_BYTES);
	if (both == NULL)
		return -ENOMEM;
	struct copy first = { .super = &both[0] }, second = { .super = &both[1] };
	read_copy(b, q, super_block(b, 'A'), &first);
	// The device may have grown since; the file system has not.
	read_copy(b, q, first.good ? first.super->blocks - 1 : super_block(b, 'B'), &second);
	const struct copy *chosen = choose(&first, &second, ret_found);
	if (chosen != NULL)
		memcpy(ret_super, chosen->super, sizeof *ret_super);
	bool same = first.good && second.good && memcmp(first.super, second.super, sizeof *ret_super) == 0;
	*ret_inferior = same ? 0 : chosen == &second ? 'A' : 'B';
	free(both);
	if (chosen != NULL)
		return 0;
	return first.error < 0 ? first.error : second.error; // what cannot be read may be anything
}

int super_write(struct backing *b, struct ioq *q, struct super_disk *s, char copy)
{
	_Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES]; // no want of memory is to pass for a device that fails
	super_seal(s);
	memcpy(page, s, PAGE_BYTES);
	return ioq_write(q, copy == 'A' ? 0 : s->blocks - 1, page, 1, true);
}

int super_wipe(struct backing *b, struct ioq *q)
{
	void *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	if (page == NULL)
		return -ENOMEM;
	memset(page, 0, PAGE_BYTES);
	int r = ioq_write(q, super_block(b, 'A'), page, 1, true);
	if (r == 0)
		r = ioq_write(q, super_block(b, 'B'), page, 1, true);
	free(page);
	return r;
}
