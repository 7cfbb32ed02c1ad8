// SPDX-License-Identifier: GPL-2.0-or-later
// Blocks that refuse to be written. A failed data or node write abandons its epoch; the blocks at fault
// are found then, taken out of use before the next one takes any, and noted in the tree by it. All of
// this is the epoch thread's.
#include "store_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

// A device that refuses every block is no device with a bad block: one that nobody has tried must do.
static bool device_writes(struct store *s, const void *page)
{
	block_t control;
	uint64_t count;
	if (space_take(s->space, 1, 0, &control, &count))
		return false;
	bool good = ioq_write(s->ioq, control, page, 1, false) == 0;
	space_untake(s->space, control, count);
	return good;
}

static int bad_add(struct store *s, block_t block)
{
	block_t *more = realloc(s->bad, (s->bads + 1) * sizeof *more);
	if (!more)
		return -ENOMEM;
	s->bad = more;
	s->bad[s->bads++] = block;
	log_error("%s: block %llu cannot be written: it is not used any more", s->backing->path, (unsigned long long)block);
	return 0;
}

void bad_blocks_find(struct store *s, block_t block, unsigned count)
{
	void *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	if (!page)
		return;
	memset(page, 0, PAGE_BYTES);
	for (unsigned i = 0; i < count; i++) {
		if (ioq_write(s->ioq, block + i, page, 1, false) == 0)
			continue; // it was a passing error, or another block of the run
		if (!device_writes(s, page) || bad_add(s, block + i))
			break;
	}
	free(page);
}

int bad_blocks_avoid(struct store *s)
{
	for (size_t i = 0; i < s->bads; i++) {
		block_t got;
		uint64_t count;
		int r = space_take(s->space, 1, s->bad[i], &got, &count);
		if (r)
			return r;
		if (got != s->bad[i]) // taken in force: it was written well once
			space_untake(s->space, got, count);
	}
	return 0;
}

static int block_order(const void *a, const void *b)
{
	block_t x = *(const block_t *)a, y = *(const block_t *)b;
	return x < y ? -1 : x > y;
}

int bad_blocks_fold(struct store *s, struct fold *fold)
{
	int r = 0;
	if (s->bads)
		qsort(s->bad, s->bads, sizeof *s->bad, block_order);
	for (size_t i = 0; !r && i < s->bads; i++)
		r = fold_put(fold, item_key(OBJECT_STORE, ITEM_BAD, s->bad[i]), NULL, 0);
	return r;
}

void bad_blocks_noted(struct store *s)
{
	s->bads = 0;
}
