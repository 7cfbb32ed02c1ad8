// SPDX-License-Identifier: GPL-2.0-or-later
// Mends: what a repair changes, in DRAM alone, over what was recovered. They have LSNs above all that is
// there, so that they are the newest of their keys for checks, operations and the rebuild.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "check_impl.h"
#include "log.h"
#include "node.h"
#include "store_impl.h"

int mend_item(struct store *s, struct item_key key, const void *value, size_t bytes, bool deleted)
{
	struct item *item = item_new(key, value, bytes, deleted), *replaced = NULL;
	if (!item)
		return -ENOMEM;
	item->lsn = atomic_fetch_add(&s->lsn, 1);
	overlay_put(&s->overlay, item, 0, &replaced);
	for (struct item *next; replaced; replaced = next) {
		next = replaced->next;
		free(replaced);
	}
	return 0;
}

static int put_drop(struct store *s, object_t object, page_t from, page_t to, bool whole)
{
	struct drop *drop = drop_new(object, from, to, whole);
	if (!drop)
		return -ENOMEM;
	drop->lsn = atomic_fetch_add(&s->lsn, 1);
	drops_add(&s->drops, drop);
	return 0;
}

int mend_drop(struct store *s, object_t object, page_t from, page_t to)
{
	return put_drop(s, object, from, to, false);
}

int mend_drop_object(struct store *s, object_t object)
{
	return put_drop(s, object, 0, UINT64_MAX, true);
}

#define EXTENTS_PER_LEAF (NODE_BODY_BYTES / LEAF_ITEM_BYTES(sizeof(struct extent_disk)))

int mend_poison(struct store *s, object_t object, page_t from, page_t to)
{
	struct poisoned *more = realloc(s->poisoned.range, (s->poisoned.count + 1) * sizeof *more);
	if (!more)
		return -ENOMEM;
	s->poisoned.range = more;
	s->poisoned.extents += (to - from) / EXTENT_PAGES_MAX + 1;
	if (s->poisoned.extents / EXTENTS_PER_LEAF > space_free_blocks(s->space) / 4) { // a sparse file of any size
		log_error("%s: of object %llu %llu pages may be lost, and to write down that they read as errors takes too much space: "
			  "--drop-damaged makes holes of them", s->backing->path, (unsigned long long)object, (unsigned long long)(to - from));
		return -ENOSPC;
	}
	more[s->poisoned.count++] = (struct poisoned){ object, from, to, atomic_fetch_add(&s->lsn, 1) };
	return 0;
}

// The first that is not before the page.
static size_t tail_at(const struct store *s, object_t object, page_t page)
{
	size_t low = 0, high = s->tails.count;
	while (low < high) {
		size_t i = low + (high - low) / 2;
		const struct tail *t = &s->tails.tail[i];
		if (t->object < object || (t->object == object && t->page < page))
			low = i + 1;
		else
			high = i;
	}
	return low;
}

static struct tail *find_tail(const struct store *s, object_t object, page_t page)
{
	size_t i = tail_at(s, object, page);
	struct tail *t = i < s->tails.count ? &s->tails.tail[i] : NULL;
	return t && t->object == object && t->page == page ? t : NULL;
}

int mend_tail(struct store *s, object_t object, page_t page, unsigned bytes)
{
	struct tail *tail = find_tail(s, object, page);
	if (tail) {
		tail->bytes = bytes < tail->bytes ? bytes : tail->bytes;
		return 0;
	}
	tail = realloc(s->tails.tail, (s->tails.count + 1) * sizeof *tail);
	if (!tail)
		return -ENOMEM;
	s->tails.tail = tail;
	tail += tail_at(s, object, page);
	memmove(tail + 1, tail, (size_t)(s->tails.tail + s->tails.count++ - tail) * sizeof *tail);
	*tail = (struct tail){ object, page, bytes };
	return 0;
}

unsigned mended_bytes(const struct store *s, object_t object, page_t page)
{
	const struct tail *tail = find_tail(s, object, page);
	return tail ? tail->bytes : PAGE_BYTES;
}
