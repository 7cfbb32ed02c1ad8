// SPDX-License-Identifier: GPL-2.0-or-later
// The offline check: what is found of a damaged copy of the images must be exactly the kinds that the damage
// is, or a refusal to open.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "check_world.h"
#include "walk.h"

// ---- the count of pages ---------------------------------------------------------------------------------

#define SPARSE_PAGES 1500u

static uint64_t pages_counted(object_t id)
{
	struct fs_count count = { 0 }, before;

	while (!count.done) {
		before = count;
		assert_int_equal(RUN(fs_count(op, fs, id, &before, &count)), 0);
	}
	return count.pages;
}

static void sparse_change(object_t id, bool *there, uint64_t random)
{
	static const char data[32 * PAGE_BYTES] = { 'x' };
	page_t first = (random >> 8) % (SPARSE_PAGES - 32), count = 1 + (random >> 24) % 31, page;
	const struct stat cut = { .st_size = (off_t)(first * PAGE_BYTES) };
	uint64_t bytes = count * PAGE_BYTES, offset = first * PAGE_BYTES;
	struct stat st;

	if (random % 16 == 0) {
		assert_int_equal(RUN(fs_setattr(op, fs, id, &cut, FS_SET_SIZE, &st)), 0);
		count = SPARSE_PAGES - first;
	} else if (random % 16 < 7) {
		assert_int_equal(RUN(fs_punch(op, fs, id, offset, offset + bytes, true)), 0);
	} else {
		assert_int_equal(RUN(fs_write(op, fs, id, data, bytes, offset, true)), (int)bytes);
	}
	for (page = first; page < first + count; page++)
		there[page] = random % 16 >= 7;
}

// Through write-back, eviction and a crash; the backing is larger than the tier.
static void test_pages_of_a_sparse_file_are_counted(void **state)
{
	static bool there[SPARSE_PAGES];
	uint64_t random = 7;
	object_t id;

	images_put(tier_image, backing_image);
	open_fs();
	id = make(OBJECT_ROOT, "sparse", S_IFREG | 0644, NULL);
	for (unsigned i = 0; i < 3000; i++) {
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
		sparse_change(id, there, random >> 16);
		if (i % 97 == 0)
			assert_int_equal(store_sync(store), 0);
		if (i % 31 == 0) {
			uint64_t expected = 0;
			for (page_t page = 0; page < SPARSE_PAGES; page++)
				expected += there[page];
			assert_int_equal(pages_counted(id), expected);
		}
		if (i % 500 == 499) {
			close_fs(i % 1000 < 500);
			open_fs();
		}
	}
	close_fs(false);
	assert_int_equal(run_check(false, false), 0);
	assert_int_equal(founds, 0);
}

// ---- nothing to find ------------------------------------------------------------------------------------

static void test_clean_pair_has_no_findings(void **state)
{
	images_put(tier_image, backing_image);
	assert_int_equal(run_check(false, false), 0);
	assert_int_equal(founds, 0);
	assert_int_equal(result.directories, 5);
	assert_int_equal(result.files, 8 + FILES);
	assert_true(result.store.nodes > 3 && result.store.pages_read >= 110);
}

static void test_pair_left_by_a_crash_has_no_findings(void **state)
{
	images_put(dirty_tier_image, dirty_backing_image);
	assert_int_equal(run_check(false, false), 0);
	assert_int_equal(founds, 0);
	assert_true(result.store.frames > 0);
}

static void test_quick_reads_no_data(void **state)
{
	images_put(tier_image, backing_image);
	assert_int_equal(run_check(true, false), 0);
	assert_int_equal(founds, 0);
	assert_int_equal(result.store.pages_read, 0);
}

static void test_unmounted_backing_needs_no_tier(void **state)
{
	images_put(tier_image, backing_image);
	assert_int_equal(run_check(false, true), 0);
	assert_int_equal(founds, 0);
	assert_int_equal(result.store.frames, 0);
}

static void test_backing_in_use_needs_its_tier(void **state)
{
	images_put(dirty_tier_image, dirty_backing_image);
	assert_int_equal(run_check(false, true), -ESTALE);
}

static void test_check_writes_nothing(void **state)
{
	uint8_t *now = malloc(TIER_BYTES + BACKING_BYTES);
	images_put(dirty_tier_image, dirty_backing_image);
	assert_int_equal(run_check(false, false), 0);
	images_take(now, now + TIER_BYTES);
	assert_memory_equal(now, dirty_tier_image, TIER_BYTES);
	assert_memory_equal(now + TIER_BYTES, dirty_backing_image, BACKING_BYTES);
	free(now);
}

static void test_cancelled_check_ends(void **state)
{
	atomic_bool cancelled = true;
	struct check_config check = { .report = note, .cancelled = &cancelled };
	struct store_config c = config;
	struct store *s;

	images_put(tier_image, backing_image);
	c.read_only = true;
	assert_int_equal(store_open(&c, &s), 0);
	assert_int_equal(fs_check(s, &check, &result), -ECANCELED);
	store_close(s);
}

// ---- damage to the images ----------------------------------------------------------------------------------

static void test_damage_is_found(void **state)
{
	for (size_t i = 0; i < damages_count; i++) {
		images_put(tier_image, backing_image);
		damages[i].damage();
		assert_int_equal(check_images(), 0);
		if (damages[i].any) {
			for (unsigned k = 0; damages[i].kinds[k] != END; k++)
				finding_of(damages[i].kinds[k]);
		} else {
			assert_kinds(damages[i].name, damages[i].kinds);
		}
	}
}

static void test_finding_says_where_and_what(void **state)
{
	images_put(tier_image, backing_image);
	damage_data();
	block_t block = extent_of(big, 0)->block + 3;
	assert_int_equal(check_images(), 0);
	const struct check_finding *f = finding_of(CHECK_DATA_CONTENT);
	assert_false(f->warning);
	assert_int_equal(f->object, big);
	assert_int_equal(f->place, PLACE_PAGE);
	assert_int_equal(f->at, 3);
	assert_int_equal(f->expected, extent_of(big, 0)->sum[3]);
	assert_int_equal(f->found, checksum_page(seed(), big, 3, block_at(block)));

	images_put(tier_image, backing_image);
	free_used_block();
	block = extent_of(big, 0)->block + 5;
	assert_int_equal(check_images(), 0);
	f = finding_of(CHECK_BLOCK_FREE);
	assert_int_equal(f->at, block);
	assert_int_equal(f->found, 1);
}

static void test_old_super_is_a_warning(void **state)
{
	images_put(tier_image, backing_image);
	age_super_b();
	assert_int_equal(check_images(), 0);
	assert_true(finding_of(CHECK_SUPER_DIFFERS)->warning);
	assert_int_equal(result.store.errors, 0);
	images_put(dirty_tier_image, dirty_backing_image);
	damage_super_b();
	assert_int_equal(check_images(), 0);
	assert_true(finding_of(CHECK_SUPER_DAMAGED)->warning);
}

static void test_both_supers_damaged_is_a_refusal(void **state)
{
	images_put(tier_image, backing_image);
	damage_super_a();
	damage_super_b();
	assert_int_equal(check_images(), -EUCLEAN);
}

// ---- damage to the tier -----------------------------------------------------------------------------------

static void test_damaged_clean_frame_is_a_warning(void **state)
{
	struct tier_geometry g;
	images_put(warm_image[0][0], warm_image[0][1]);
	frame_t f = some_frame(0, FRAME_DIRTY, &g);
	tier[g.frames_offset + (uint64_t)f * PAGE_BYTES + 9] ^= 1;
	assert_int_equal(check_images(), 0);
	assert_int_equal(founds, 1);
	assert_int_equal(found[0].kind, CHECK_FRAME_CONTENT);
	assert_int_equal(found[0].at, f);
	assert_true(found[0].warning);
}

static void test_damaged_dirty_frame_is_an_error(void **state)
{
	struct tier_geometry g;
	images_put(dirty_tier_image, dirty_backing_image);
	frame_t f = some_frame(FRAME_DIRTY, 0, &g);
	tier[g.frames_offset + (uint64_t)f * PAGE_BYTES + 9] ^= 1;
	assert_int_equal(check_images(), 0);
	assert_int_equal(founds, 1);
	assert_int_equal(found[0].kind, CHECK_FRAME_CONTENT);
	assert_false(found[0].warning);
}

static void test_damaged_slot_is_a_refusal(void **state)
{
	struct tier_geometry g;
	images_put(warm_image[1][0], warm_image[1][1]);
	frame_t f = some_frame(0, FRAME_DIRTY, &g);
	tier[g.table_offset + (uint64_t)f * sizeof(struct slot_disk) + 20] ^= 3;
	assert_int_equal(check_images(), -EUCLEAN);
}

static void test_clean_copy_of_other_content_is_found(void **state)
{
	images_put(warm_image[0][0], warm_image[0][1]);
	change_extent_sum();
	assert_int_equal(check_images(), 0);
	assert_true(has(CHECK_FRAME_STALE));
}

// Any bit anywhere: found, refused or without effect, but never a crash.
static void test_any_bit(void **state)
{
	unsigned rounds = getenv("CHECK_ROUNDS") ? (unsigned)atoi(getenv("CHECK_ROUNDS")) : 150;
	int tier_fd = open(tier_path, O_WRONLY), backing_fd = open(backing_path, O_WRONLY);

	images_put(dirty_tier_image, dirty_backing_image);
	srandom(7);
	for (unsigned i = 0; i < rounds; i++) {
		bool in_tier = i % 2;
		uint64_t end = in_tier ? TIER_BYTES : BACKING_BYTES / 8, at = (uint64_t)random() % end;
		uint8_t *image = in_tier ? tier : backing;
		block_t leaf = !in_tier && i % 4 == 0 ? leaf_of(item_key(i % 8 ? sub : big, ITEM_INODE, 0))->block : 0;
		if (leaf) // sealed again: what is in it is believed
			at = leaf * PAGE_BYTES + at % PAGE_BYTES;
		image[at] ^= (uint8_t)(1u << random() % 8);
		if (leaf) {
			seal_leaf(leaf);
			image_write(backing_path, backing, BACKING_BYTES);
		}
		assert_int_equal(pwrite(in_tier ? tier_fd : backing_fd, image + at, 1, (off_t)at), 1);
		int r = run_check(false, false);
		assert_true(r == 0 || r == -EUCLEAN || r == -ESTALE || r == -EINVAL || r == -ENOTSUP);
		images_put(dirty_tier_image, dirty_backing_image);
	}
	close(tier_fd);
	close(backing_fd);
}

// ---- damage of meaning ----------------------------------------------------------------------------------------

// Both ways: still in the tier's log, and folded into the tree.
static void test_wrong_meaning_is_found(void **state)
{
	for (unsigned i = 0; i < 2 * meanings_count; i++) {
		images_put(tier_image, backing_image);
		assert_int_equal(store_open(&config, &store), 0);
		assert_int_equal(lane_new(store, &lane), 0);
		int r = RUN(meanings[i / 2].change(op));
		if (r)
			fail_msg("%s: cannot be made: %d", meanings[i / 2].name, r);
		lane_free(lane);
		if (i % 2)
			assert_int_equal(store_close(store), 0);
		else
			store_abandon(store);
		assert_int_equal(run_check(false, false), 0);
		assert_kinds(meanings[i / 2].name, meanings[i / 2].kinds);
	}
}

static void test_finding_names_the_entry(void **state)
{
	images_put(tier_image, backing_image);
	assert_int_equal(store_open(&config, &store), 0);
	assert_int_equal(lane_new(store, &lane), 0);
	assert_int_equal(RUN(dangling(op)), 0);
	lane_free(lane);
	assert_int_equal(store_close(store), 0);
	assert_int_equal(run_check(false, false), 0);
	const struct check_finding *f = finding_of(CHECK_ENTRY_DANGLING);
	assert_int_equal(f->object, sub);
	assert_int_equal(f->place, PLACE_NAME);
	assert_int_equal(f->found, 999999);
}

static void test_path_of_a_directory(void **state)
{
	char path[64];
	struct store_config c = config;

	images_put(tier_image, backing_image);
	c.read_only = true;
	assert_int_equal(store_open(&c, &store), 0);
	assert_int_equal(lane_new(store, &lane), 0);
	assert_int_equal(fs_check_path(lane, subsub, path, sizeof path), 0);
	assert_string_equal(path, "/sub/subsub");
	assert_int_equal(fs_check_path(lane, OBJECT_ROOT, path, sizeof path), 0);
	assert_string_equal(path, "/");
	assert_int_equal(fs_check_path(lane, big, path, sizeof path), -ENOENT);
	assert_int_equal(fs_check_path(lane, subsub, path, 8), -ENOENT);
	lane_free(lane);
	store_close(store);
}

// ---- blocks used --------------------------------------------------------------------------------------------

static void test_used_blocks_of_a_full_group(void **state)
{
	struct used u = { .layout = space_layout(UINT64_C(1) << 40) };
	uint64_t blank[SPACE_GROUP_BLOCKS / 64], bits[SPACE_GROUP_BLOCKS / 64];
	uint64_t group = UINT64_C(1) << 20;
	unsigned marked = 0;

	space_blank_bitmap(&u.layout, group, blank);
	for (unsigned i = 0; i < SPACE_GROUP_BLOCKS; i++) {
		bool fixed = blank[i / 64] >> i % 64 & 1;
		assert_int_equal(used_mark(&u, group * SPACE_GROUP_BLOCKS + i), fixed);
		marked += !fixed;
	}
	assert_int_equal(u.blocks, marked);
	assert_int_equal(used_mark(&u, group * SPACE_GROUP_BLOCKS + 9000), 1);
	for (uint64_t g = 1; g < 1000; g++)
		assert_int_equal(used_mark(&u, g * 7 * SPACE_GROUP_BLOCKS + 500), 0);
	used_bits(&u, group, bits);
	for (unsigned i = 0; i < SPACE_GROUP_BLOCKS / 64; i++)
		assert_int_equal(bits[i], UINT64_MAX);
	used_bits(&u, group + 1, bits);
	space_blank_bitmap(&u.layout, group + 1, blank);
	assert_memory_equal(bits, blank, sizeof bits);
	used_fini(&u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clean_pair_has_no_findings),
		cmocka_unit_test(test_pair_left_by_a_crash_has_no_findings),
		cmocka_unit_test(test_quick_reads_no_data),
		cmocka_unit_test(test_unmounted_backing_needs_no_tier),
		cmocka_unit_test(test_backing_in_use_needs_its_tier),
		cmocka_unit_test(test_check_writes_nothing),
		cmocka_unit_test(test_cancelled_check_ends),
		cmocka_unit_test(test_damage_is_found),
		cmocka_unit_test(test_finding_says_where_and_what),
		cmocka_unit_test(test_old_super_is_a_warning),
		cmocka_unit_test(test_both_supers_damaged_is_a_refusal),
		cmocka_unit_test(test_damaged_clean_frame_is_a_warning),
		cmocka_unit_test(test_damaged_dirty_frame_is_an_error),
		cmocka_unit_test(test_damaged_slot_is_a_refusal),
		cmocka_unit_test(test_clean_copy_of_other_content_is_found),
		cmocka_unit_test(test_wrong_meaning_is_found),
		cmocka_unit_test(test_finding_names_the_entry),
		cmocka_unit_test(test_path_of_a_directory),
		cmocka_unit_test(test_used_blocks_of_a_full_group),
		cmocka_unit_test(test_pages_of_a_sparse_file_are_counted),
		cmocka_unit_test(test_any_bit),
	};
	return cmocka_run_group_tests(tests, world_setup, world_teardown);
}
