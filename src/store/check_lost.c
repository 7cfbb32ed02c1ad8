// SPDX-License-Identifier: GPL-2.0-or-later
// What a check could not read, as ranges of keys, and which pages of an object may have been there. A page in such a
// range is no hole until a DROP says so: DROPs that are still known are all newer than the tree.
#include "check_impl.h"
#include <errno.h>
#include <stdlib.h>

int lost_begin(struct store *s)
{
	s->lost.count = 0;
	free(s->lost.drop);
	s->lost.drop = NULL;
	s->lost.drops = 0;
	return drops_collect(&s->drops, LSN_MAX, &s->lost.drop, &s->lost.drops);
}

int lost_add(struct store *s, struct item_key from, struct item_key limit)
{
	if (s->lost.count && item_key_compare(s->lost.range[s->lost.count - 1].limit, from) > 0)
		from = s->lost.range[s->lost.count - 1].limit; // an extent that cannot be believed reaches into what follows
	if (item_key_compare(from, limit) >= 0)
		return 0;
	struct key_range *more = realloc(s->lost.range, (s->lost.count + 1) * sizeof *more);
	if (!more)
		return -ENOMEM;
	s->lost.range = more;
	s->lost.range[s->lost.count++] = (struct key_range){ from, limit };
	return 0;
}

// First page of the object whose key is not below that one.
static page_t page_from(struct item_key key, object_t object)
{
	if (key.object != object)
		return key.object < object ? 0 : PAGE_MAX + 1;
	return item_key_type(key) < ITEM_EXTENT ? 0 : item_key_type(key) > ITEM_EXTENT ? PAGE_MAX + 1 : item_key_rest(key);
}

// The first part of [*from, *to) that no DROP has.
static bool not_dropped(const struct store *s, object_t object, page_t *from, page_t *to)
{
	size_t low = 0, high = s->lost.drops;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (s->lost.drop[middle].object < object)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < s->lost.drops && s->lost.drop[low].object == object; low++) {
		const struct fold_drop *d = &s->lost.drop[low];
		if (d->from >= *to)
			break;
		if (d->from > *from) {
			*to = d->from;
			break;
		}
		if (d->to > *from)
			*from = d->to;
	}
	return *from < *to;
}

bool check_lost_pages(const struct store *s, object_t object, page_t *from, page_t *to)
{
	size_t low = 0, high = s->lost.count;

	if (object > s->super.cut) // born since
		return false;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (page_from(s->lost.range[middle].limit, object) <= *from)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < s->lost.count; low++) {
		page_t first = page_from(s->lost.range[low].from, object), end = page_from(s->lost.range[low].limit, object);
		first = first > *from ? first : *from;
		end = end < *to ? end : *to;
		if (first >= *to)
			return false;
		if (not_dropped(s, object, &first, &end)) {
			*from = first;
			*to = end;
			return true;
		}
	}
	return false;
}

bool lost_has(const struct store *s, object_t object, page_t page)
{
	page_t end = page + 1;
	return check_lost_pages(s, object, &page, &end);
}

bool check_salvaged(const struct store *s)
{
	return s->salvages != 0;
}
