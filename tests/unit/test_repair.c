// SPDX-License-Identifier: GPL-2.0-or-later
// The repair: each damage that the check finds is done to a copy of the images and repaired. A second check
// finds nothing but what has to stay, what was not told as lost is as it was, and the pair mounts and works.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "check_world.h"
#include "walk.h"

// ---- as fsck does -----------------------------------------------------------------------------------

static unsigned stay; // findings of the last check that a repair leaves

static void note_all(void *arg, const struct check_finding *f)
{
	note(arg, f);
	stay += !f->warning && check_mend(f) == MEND_NOT;
}

static int open_for(bool repair, struct store **ret_store)
{
	struct store_config c = config;
	c.read_only = c.salvage = true;
	c.repair = repair;
	c.format_blank = false;
	return store_open(&c, ret_store);
}

// 1: repaired, 0: nothing to do.
static int run_repair(bool drop_damaged)
{
	struct check_config check = { .report = note_all };
	struct fs_mends *mends;
	struct store *s;
	int r = open_for(true, &s);

	if (r)
		return r;
	founds = stay = 0;
	assert_int_equal(fs_mends_new(drop_damaged, &mends), 0);
	r = fs_check_noting(s, &check, mends, &result);
	bool wanted = !r && result.store.errors > (drop_damaged ? 0 : stay);
	if (wanted) {
		r = fs_mend(s, &check, mends);
		if (!r)
			r = store_rebuild(s, &check);
		if (!r)
			r = store_put_in_force(s);
	}
	fs_mends_free(mends);
	store_close(s);
	return r ? r : wanted;
}

static int check_again(void)
{
	struct check_config check = { .report = note_all };
	struct store *s;
	int r = open_for(false, &s);
	if (r)
		return r;
	founds = stay = 0;
	r = fs_check(s, &check, &result);
	store_close(s);
	return r;
}

static void assert_only_stays(const char *name)
{
	int r = check_again();
	if (r)
		fail_msg("%s: cannot be checked once repaired: %d", name, r);
	for (unsigned i = 0; i < founds; i++) {
		char line[1024];
		if (found[i].warning || check_mend(&found[i]) == MEND_NOT)
			continue;
		check_describe(&found[i], line, sizeof line);
		fail_msg("%s: found after the repair: %s", name, line);
	}
}

static void put_case(void)
{
	image_write(tier_path, tier, TIER_BYTES);
	image_write(backing_path, backing, BACKING_BYTES);
}

// It mounts, takes a file, and is clean then.
static void assert_works(const char *name)
{
	open_fs();
	object_t id = make(OBJECT_ROOT, "made after the repair", S_IFREG | 0644, NULL);
	write_file(id, 0, 3 * PAGE_BYTES);
	close_fs(false);
	assert_only_stays(name);
}

// ---- each damage ----------------------------------------------------------------------------------------

static void test_damaged_images_are_repaired(void **state)
{
	for (unsigned i = 0; i < damages_count; i++) {
		images_put(tier_image, backing_image);
		damages[i].damage();
		put_case();
		int r = run_repair(false);
		if (r < 0)
			fail_msg("%s: repair: %d", damages[i].name, r);
		assert_only_stays(damages[i].name);
		assert_works(damages[i].name);
	}
}

static void test_wrong_meaning_is_repaired(void **state)
{
	for (unsigned i = 0; i < 2 * meanings_count; i++) {
		const char *name = meanings[i / 2].name;
		images_put(tier_image, backing_image);
		assert_int_equal(store_open(&config, &store), 0);
		assert_int_equal(lane_new(store, &lane), 0);
		assert_int_equal(RUN(meanings[i / 2].change(op)), 0);
		lane_free(lane);
		if (i % 2)
			assert_int_equal(store_close(store), 0);
		else
			store_abandon(store);
		int r = run_repair(false);
		if (r != 1)
			fail_msg("%s: repair: %d", name, r);
		assert_only_stays(name);
		assert_int_equal(stay, 0);
		assert_works(name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_damaged_images_are_repaired),
		cmocka_unit_test(test_wrong_meaning_is_repaired),
	};
	return cmocka_run_group_tests(tests, world_setup, world_teardown);
}
