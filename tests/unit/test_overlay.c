// SPDX-License-Identifier: GPL-2.0-or-later
// Listings of the overlay: what a sorted array of its items would say, and at once however many there are.
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store_world.h"

#define OBJECTS 3u
#define NAMES 600u
#define STEPS 20000u
#define MANY 100000u

static struct overlay overlay;
static struct item *gone;

static int setup(void **state)
{
	gone = NULL;
	return overlay_init(&overlay, *state ? MANY * 128 : 8192); // few buckets: objects share lists
}

static void free_gone(void)
{
	for (struct item *next; gone; gone = next) {
		next = gone->next;
		free(gone);
	}
}

static int teardown(void **state)
{
	overlay_fini(&overlay);
	free_gone();
	return 0;
}

static struct item *put(struct item_key key, lsn_t lsn, bool deleted, lsn_t cut)
{
	struct item *i = item_new(key, "value", (size_t)(lsn % 6), deleted);
	assert_non_null(i);
	i->lsn = lsn;
	overlay_put(&overlay, i, cut, &gone);
	return i;
}

// Of the reference: by object and name, the newest and one that an epoch has frozen.
static struct item *newest[OBJECTS][NAMES], *frozen[OBJECTS][NAMES];

// Names in chains of four, so that there are ordinals.
static struct item_key key_of(unsigned object, unsigned name)
{
	return item_key(OBJECT_FIRST + object, ITEM_DIRENT, (uint64_t)(name / 4) * 7919 * 256 + name % 4);
}

static void check_range(unsigned object, unsigned from, unsigned last)
{
	struct item_key end = key_of(object, last);
	const struct item *i = overlay_first(&overlay, key_of(object, from), end);
	for (unsigned name = from; name <= last; name++) {
		if (!newest[object][name])
			continue;
		assert_ptr_equal(i, newest[object][name]);
		i = overlay_after(&overlay, i, end);
	}
	assert_null(i);
}

static void check_some(unsigned object)
{
	unsigned from = (unsigned)rand() % NAMES;
	check_range(object, from, from + (unsigned)rand() % (NAMES - from));
	check_range(object, from / 4 * 4, from / 4 * 4 + 3); // of one hash
}

static void take(struct item **i)
{
	if (!*i)
		return;
	overlay_remove(&overlay, *i);
	(*i)->next = gone;
	gone = *i;
	*i = NULL;
}

static void end_epoch(lsn_t cut)
{
	for (unsigned object = 0; object < OBJECTS; object++)
		for (unsigned name = 0; name < NAMES; name++) {
			take(&frozen[object][name]);
			if (newest[object][name] && newest[object][name]->lsn <= cut)
				take(&newest[object][name]);
		}
}

static void any_range_is_in_order_and_of_newest_versions(void **state)
{
	lsn_t lsn = 1, cut = 0;
	memset(newest, 0, sizeof newest);
	memset(frozen, 0, sizeof frozen);
	for (unsigned step = 0; step < STEPS; step++) {
		unsigned object = (unsigned)rand() % OBJECTS, name = (unsigned)rand() % NAMES;
		struct item **n = &newest[object][name], **f = &frozen[object][name];
		if (step % 4000 == 3999) { // an epoch has ended, another begins
			end_epoch(cut);
			cut = lsn;
		}
		if (*n && (*n)->lsn <= cut)
			*f = *n;
		lsn++;
		*n = put(key_of(object, name), lsn, lsn % 3 == 0, cut);
		check_some(object);
		free_gone();
	}
}

static void drops_and_other_types_are_not_listed(void **state)
{
	struct item_key from = item_key(OBJECT_FIRST, ITEM_INODE, 0), last = item_key(OBJECT_FIRST, ITEM_ORPHAN, 0);
	const struct item *inode = put(from, 1, false, 0), *name = put(key_of(0, 1), 3, false, 0), *i;
	put(item_key(OBJECT_FIRST, ITEM_DROP, 2), 2, false, 0);
	put(item_key(OBJECT_FIRST + 1, ITEM_INODE, 0), 4, false, 0);
	i = overlay_first(&overlay, from, last);
	assert_ptr_equal(i, inode);
	i = overlay_after(&overlay, i, last);
	assert_ptr_equal(i, name);
	assert_null(overlay_after(&overlay, i, last));
	assert_null(overlay_first(&overlay, item_key(OBJECT_FIRST, ITEM_XATTR, 0), item_key(OBJECT_FIRST, ITEM_XATTR, ITEM_REST_MAX)));
}

static void many_items_of_one_object_are_no_chain(void **state)
{
	static struct item *item[MANY];
	struct item_key last = item_key(OBJECT_FIRST, ITEM_DIRENT, ITEM_REST_MAX);
	struct timespec used;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	time_t before = used.tv_sec;
	for (unsigned n = 0; n < MANY; n++)
		item[n] = put(item_key(OBJECT_FIRST, ITEM_DIRENT, hash_mix(n, 0) & ITEM_REST_MAX), n + 1, false, 0);
	for (unsigned n = 0; n < MANY; n++)
		assert_ptr_equal(overlay_first(&overlay, item[n]->key, last), item[n]);
	for (unsigned n = 0; n < MANY; n++)
		take(&item[n]);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	assert_in_range(used.tv_sec - before, 0, 4); // a walk along all for each takes a minute
	assert_int_equal(overlay.items, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(any_range_is_in_order_and_of_newest_versions, setup, teardown),
		cmocka_unit_test_setup_teardown(drops_and_other_types_are_not_listed, setup, teardown),
		cmocka_unit_test_prestate_setup_teardown(many_items_of_one_object_are_no_chain, setup, teardown, &overlay),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
