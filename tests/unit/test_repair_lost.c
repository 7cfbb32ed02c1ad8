// SPDX-License-Identifier: GPL-2.0-or-later
// The repair of tree nodes that cannot be read: what they may have had reads as an error, and is told.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "repair_world.h"
#include "walk.h"

// Two files that fill several leaves, one after the other, behind enough others for nodes above the leaves; and one
// with holes. Left so and unmounted, with a tier that has no copies; and after overwrites, by a crash.
#define OTHERS 1300u
#define LONG_PAGES 1100u
#define SPARSE_STEP 90u
static uint8_t *lost_image[2][2]; // unmounted, crash: tier, backing
static object_t long_file, next_file, sparse_file;

static void lost_images_keep(unsigned dirty)
{
	for (int i = 0; i < 2; i++) {
		lost_image[dirty][i] = aligned_alloc(PAGE_BYTES, i ? BACKING_BYTES : TIER_BYTES);
		assert_non_null(lost_image[dirty][i]);
	}
	images_take(lost_image[dirty][0], lost_image[dirty][1]);
}

static void write_long(object_t id)
{
	for (page_t page = 0; page < LONG_PAGES; page += 100)
		write_file(id, page * PAGE_BYTES, 100 * PAGE_BYTES);
}

// Of `next_file` all from there on was truncated and has grown again.
#define CUT_PAGE 700u

static void lost_images_make(void)
{
	struct stat st;
	char name[80];
	if (lost_image[0][0])
		return;
	images_put(tier_image, backing_image);
	open_fs();
	for (unsigned i = 0; i < OTHERS; i++) {
		snprintf(name, sizeof name, "another name of some length, for more leaves, number %u", i);
		make(second, name, S_IFREG | 0600, NULL);
	}
	long_file = make(OBJECT_ROOT, "long", S_IFREG | 0644, NULL);
	write_long(long_file);
	next_file = make(OBJECT_ROOT, "next", S_IFREG | 0644, NULL);
	write_long(next_file);
	sparse_file = make(OBJECT_ROOT, "sparse", S_IFREG | 0644, NULL);
	for (page_t page = 0; page < LONG_PAGES; page += SPARSE_STEP)
		write_file(sparse_file, page * PAGE_BYTES, PAGE_BYTES);
	close_fs(false);
	image_read(backing_path, backing, BACKING_BYTES);
	memset(tier, 0, TIER_BYTES);
	image_write(tier_path, tier, TIER_BYTES);
	open_fs();
	close_fs(false);
	lost_images_keep(0);
	open_fs();
	for (page_t page = 5; page < LONG_PAGES; page += 50)
		write_file(long_file, page * PAGE_BYTES, PAGE_BYTES);
	st.st_size = CUT_PAGE * PAGE_BYTES;
	assert_int_equal(RUN(fs_setattr(op, fs, next_file, &st, FS_SET_SIZE, &st)), 0);
	st.st_size = LONG_PAGES * PAGE_BYTES;
	assert_int_equal(RUN(fs_setattr(op, fs, next_file, &st, FS_SET_SIZE, &st)), 0);
	write_file(sparse_file, 3 * PAGE_BYTES, PAGE_BYTES);
	close_fs(true);
	forget_copies(true);
	lost_images_keep(1);
}

static bool is_dirty(object_t id, page_t page) // in the images of the crash
{
	return id == long_file ? page % 50 == 5 : id == sparse_file && page == 3;
}

static bool is_data(object_t id, page_t page, unsigned dirty)
{
	if (id == sparse_file)
		return page % SPARSE_STEP == 0 || (dirty && page == 3);
	return !dirty || id == long_file || page < CUT_PAGE;
}

// The node of that level on the way to the key; its keys are below *ret_limit.
static struct node_disk *node_of(struct item_key key, unsigned level, struct item_key *ret_limit)
{
	struct node_disk *n = root_node();
	*ret_limit = ITEM_KEY_MAX;
	while (n->level > level) {
		unsigned i = node_child_for(n, key);
		if (i + 1 < node_count(n))
			*ret_limit = node_key(n, i + 1);
		n = block_at(node_child(n, i).block);
	}
	return n;
}

static ssize_t read_page(object_t id, page_t page, uint8_t *data)
{
	struct iovec iov[OP_PAGES_MAX];
	struct op *op = op_begin(lane);
	int count, r;
	do {
		r = (int)fs_read(op, fs, id, page * PAGE_BYTES, PAGE_BYTES, false, iov, &count);
		uint8_t *to = data;
		for (int i = 0; r > 0 && i < count; i++)
			to = (uint8_t *)memcpy(to, iov[i].iov_base, iov[i].iov_len) + iov[i].iov_len;
	} while (op_again(op, &r));
	op_end(op);
	return r;
}

// As write_file() has it, zeroes in holes, an error where it was lost.
static void assert_page(object_t id, page_t page, unsigned dirty, bool was_lost)
{
	uint8_t data[PAGE_BYTES];
	ssize_t r = read_page(id, page, data);
	bool kept = !was_lost || (dirty && (is_dirty(id, page) || (id == next_file && page >= CUT_PAGE)));

	if (!kept && !dropping) {
		if (r != -EIO)
			fail_msg("object %llu, page %llu is lost and reads as %zd", (unsigned long long)id, (unsigned long long)page, r);
		return;
	}
	if (r != PAGE_BYTES)
		fail_msg("object %llu, page %llu: %zd", (unsigned long long)id, (unsigned long long)page, r);
	for (unsigned i = 0; i < PAGE_BYTES; i += 512) {
		uint8_t expected = kept && is_data(id, page, dirty) ? (uint8_t)(1 + (id * 31 + (page * PAGE_BYTES + i) / 512) % 255) : 0;
		if (data[i] != expected)
			fail_msg("object %llu, page %llu: byte %u is %u, not %u", (unsigned long long)id, (unsigned long long)page, i, data[i],
				 expected);
	}
}

static bool was_told(object_t id, page_t page)
{
	for (unsigned i = 0; i < founds; i++)
		if (found[i].kind == CHECK_BYTES_LOST && found[i].object == id && found[i].expected <= page * PAGE_BYTES &&
		    found[i].found >= page * PAGE_BYTES)
			return true;
	return false;
}

// Of a file that is still there each page. One that has neither its inode nor any page left is gone, and was told.
static unsigned assert_file(object_t id, const char *name, unsigned dirty, struct item_key from, struct item_key limit)
{
	bool told_of[LONG_PAGES], any_left = dirty;
	unsigned pages = id == sparse_file ? (LONG_PAGES - 1) / SPARSE_STEP * SPARSE_STEP + 1 : LONG_PAGES, lost = 0;
	struct stat st;
	bool was_lost[LONG_PAGES], inode_lost = item_key_compare(item_key(id, ITEM_INODE, 0), from) >= 0;

	for (page_t page = 0; page < pages; page++) {
		struct item_key key = item_key(id, ITEM_EXTENT, page);
		was_lost[page] = item_key_compare(key, from) >= 0 && item_key_compare(key, limit) < 0;
		told_of[page] = was_told(id, page);
		any_left |= !was_lost[page] && is_data(id, page, dirty);
	}
	int r = RUN(fs_lookup(op, fs, OBJECT_ROOT, name, &st));
	if (r == -ENOENT && inode_lost && !any_left)
		return 1;
	assert_int_equal(r, 0);
	assert_int_equal(st.st_ino, id);
	assert_int_equal(st.st_size, pages * PAGE_BYTES);
	assert_true(st.st_blocks * 512 <= st.st_size);
	bool any = false; // none of them may have been: then none is
	for (page_t page = 0; page < pages; page++)
		any |= was_lost[page] && is_data(id, page, dirty) && !(dirty && is_dirty(id, page));
	for (page_t page = 0; page < pages; page++) {
		assert_page(id, page, dirty, any && was_lost[page]);
		bool kept = dirty && (is_dirty(id, page) || (id == next_file && page >= CUT_PAGE));
		assert_int_equal(told_of[page], any && was_lost[page] && !kept);
		lost += any && was_lost[page];
	}
	return lost;
}

// What reads as an error can be written, cut off and removed; space and counts are right then.
static void use_lost(object_t id, unsigned dirty)
{
	struct stat st;
	if (RUN(fs_stat(op, fs, id, &st, NULL)))
		return;
	for (page_t page = 0; page < LONG_PAGES; page += 7)
		write_file(id, page * PAGE_BYTES, PAGE_BYTES);
	for (page_t page = 0; page < LONG_PAGES; page += 7)
		if (is_data(id, page, 0))
			assert_page(id, page, 0, false);
	close_fs(dirty);
	assert_only_stays("written over");
	open_fs();
	st.st_size = 21 * PAGE_BYTES; // of a page that was written
	assert_int_equal(RUN(fs_setattr(op, fs, id, &st, FS_SET_SIZE, &st)), 0);
	close_fs(!dirty);
	assert_only_stays("cut off");
	open_fs();
}

static void lost_node(unsigned dirty, object_t id, page_t page, unsigned level, bool drop)
{
	struct item_key key = item_key(id, ITEM_EXTENT, page), limit;
	unsigned lost = 0;

	images_put(lost_image[dirty][0], lost_image[dirty][1]);
	struct node_disk *n = node_of(key, level, &limit);
	struct item_key from = node_key(n, 0);
	assert_true(root_node()->level > level);
	n->body[NODE_BODY_BYTES - 1] ^= 1;
	put_case();
	assert_int_equal(run_repair(drop), 1);
	open_fs();
	lost += assert_file(long_file, "long", dirty, from, limit);
	lost += assert_file(next_file, "next", dirty, from, limit);
	lost += assert_file(sparse_file, "sparse", dirty, from, limit);
	assert_true(lost > 0);
	use_lost(long_file, dirty);
	use_lost(next_file, dirty);
	use_lost(sparse_file, dirty);
	for (unsigned i = 0; i < 3; i++)
		RUN(fs_unlink(op, fs, OBJECT_ROOT, ((const char *[]){ "long", "next", "sparse" })[i]));
	close_fs(false);
	open_fs(); // the orphans go
	for (object_t orphan_id; (orphan_id = fs_next_orphan(fs));)
		while (RUN(fs_drop(op, fs, orphan_id)) == 1)
			;
	close_fs(false);
	assert_int_equal(check_again(), 0);
	assert_int_equal(founds, 0);
}

static void test_pages_of_a_lost_leaf_read_as_errors(void **state)
{
	lost_images_make();
	for (unsigned i = 0; i < 4; i++) {
		bool dirty = i % 2, drop = i / 2;
		lost_node(dirty, long_file, 600, 0, drop); // a part of one file
		lost_node(dirty, next_file, 0, 0, drop);   // its beginning, and the end of the one before
		if (drop)
			continue;
		lost_node(dirty, long_file, 0, 0, false); // likewise, and inodes
		lost_node(dirty, next_file, LONG_PAGES - 1, 0, false);
		lost_node(dirty, sparse_file, SPARSE_STEP, 0, false);
	}
}

static void test_pages_of_a_lost_inner_node_read_as_errors(void **state)
{
	lost_images_make();
	for (unsigned i = 0; i < 4; i++)
		lost_node(i % 2, long_file, 600, 1, i / 2);
}

// To write down what may be lost of it would take more space than there is.
static void test_lost_part_of_a_huge_sparse_file_has_to_be_dropped(void **state)
{
	struct stat st = { .st_size = INT64_C(1) << 50 };
	struct item_key limit;
	lost_images_make();
	images_put(lost_image[0][0], lost_image[0][1]);
	open_fs();
	assert_int_equal(RUN(fs_setattr(op, fs, long_file, &st, FS_SET_SIZE, &st)), 0);
	close_fs(false);
	images_take(tier, backing);
	node_of(item_key(long_file, ITEM_EXTENT, LONG_PAGES - 1), 0, &limit)->body[NODE_BODY_BYTES - 1] ^= 1;
	put_case();
	assert_int_equal(run_repair(false), -ENOSPC);
	assert_int_equal(run_repair(true), 1);
	assert_only_stays("sparse");
	assert_works("sparse");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pages_of_a_lost_leaf_read_as_errors),
		cmocka_unit_test(test_pages_of_a_lost_inner_node_read_as_errors),
		cmocka_unit_test(test_lost_part_of_a_huge_sparse_file_has_to_be_dropped),
	};
	return cmocka_run_group_tests(tests, world_setup, world_teardown);
}
