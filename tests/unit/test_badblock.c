// SPDX-License-Identifier: GPL-2.0-or-later
// Write-back to a device with bad blocks, and to one that fails altogether for a while.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "log.h"
#include "store_impl.h"

#define TIER_BYTES (UINT64_C(4) << 20)
#define BACKING_BYTES (UINT64_C(32) << 20)
#define PAGES 200u
#define OBJECT 100u

static char tier_path[] = "/dev/shm/test-badblock-tier-XXXXXX", backing_path[] = "/dev/shm/test-badblock-XXXXXX";
static struct store *store;
static struct lane *lane;
static uint8_t refuses[BACKING_BYTES / PAGE_BYTES / 8]; // bit per block
static bool refuses_all;

static int before(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	if (kind != 'w' && kind != 'W')
		return 0;
	for (block_t b = block; b < block + (unsigned)iovcnt * (iov->iov_len / PAGE_BYTES); b++)
		if (refuses_all || refuses[b / 8] >> (b % 8) & 1)
			return -EIO;
	return 0;
}
static const struct backing_hook hook = { .before = before };

static void mount_pair(void)
{
	struct store_config config = { .format_blank = true, .tiny = true, .interval_ms = 600000 };
	struct media *m;
	struct backing *b;
	assert_int_equal(media_open(tier_path, false, &m), 0);
	assert_int_equal(backing_open(backing_path, false, &b), 0);
	b->hook = &hook;
	assert_int_equal(store_open_on(&config, m, b, &store), 0);
	assert_int_equal(lane_new(store, &lane), 0);
}

static void unmount_pair(void)
{
	lane_free(lane);
	assert_int_equal(store_close(store), 0);
}

static int write_all(struct op *op, uint8_t stamp)
{
	uint8_t page[PAGE_BYTES];
	int r = txn_claim(op, OBJECT, 0, PAGES);
	for (unsigned i = 0; !r && i < PAGES; i++) {
		memset(page, stamp + (int)i, sizeof page);
		r = txn_page(op, OBJECT, i, page, NULL);
	}
	if (!r)
		r = txn_put(op, item_key(OBJECT, ITEM_INODE, 0), &stamp, 1);
	return r ? r : txn_commit(op, false);
}

static void write_pages(uint8_t stamp)
{
	assert_int_equal(OP_RUN(lane, write_all(op, stamp)), 0);
}

static void expect_pages(uint8_t stamp)
{
	static struct page_view view[PAGES];
	struct op *op = op_begin(lane);
	int r;
	do
		r = op_read(op, OBJECT, 0, PAGES, false, view);
	while (op_again(op, &r));
	assert_int_equal(r, 0);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(((const uint8_t *)view[i].data)[17], (uint8_t)(stamp + i));
	op_end(op);
}

static bool noted_as_bad(block_t block)
{
	uint8_t value;
	return OP_RUN(lane, op_get(op, item_key(OBJECT_STORE, ITEM_BAD, block), &value, 1)) >= 0;
}

static int setup(void **state)
{
	int fd = mkstemp(tier_path);
	assert_int_equal(ftruncate(fd, TIER_BYTES), 0);
	close(fd);
	fd = mkstemp(backing_path);
	assert_int_equal(ftruncate(fd, BACKING_BYTES), 0);
	close(fd);
	memset(refuses, 0, sizeof refuses);
	refuses_all = false;
	mount_pair();
	return 0;
}

static int teardown(void **state)
{
	unlink(tier_path);
	unlink(backing_path);
	strcpy(tier_path + strlen(tier_path) - 6, "XXXXXX");
	strcpy(backing_path + strlen(backing_path) - 6, "XXXXXX");
	return 0;
}

static void other_blocks_are_taken_and_the_bad_ones_noted(void **state)
{
	for (block_t b = 10; b < 2000; b += 97) // data, nodes, wherever they go; not the space slots
		refuses[b / 8] |= (uint8_t)(1u << (b % 8));
	for (unsigned round = 0; round < 4; round++) {
		write_pages((uint8_t)(40 * round));
		// Every attempt finds bad blocks of one run only.
		int r = -EIO;
		for (unsigned i = 0; r && i < 60; i++)
			r = store_sync(store);
		assert_int_equal(r, 0);
		expect_pages((uint8_t)(40 * round));
	}
	unsigned noted = 0;
	for (block_t b = 0; b < BACKING_BYTES / PAGE_BYTES; b++)
		if (noted_as_bad(b)) {
			assert_true(refuses[b / 8] >> (b % 8) & 1);
			noted++;
		}
	assert_true(noted > 0);
	unmount_pair();
	mount_pair();
	expect_pages(120);
	unmount_pair();
}

static void a_device_that_fails_altogether_has_no_bad_blocks(void **state)
{
	write_pages(1);
	refuses_all = true;
	assert_int_equal(store_sync(store), -EIO);
	expect_pages(1); // hits go on
	write_pages(2);  // and so do writes, while there is room
	refuses_all = false;
	assert_int_equal(store_sync(store), 0);
	assert_int_equal(frames_dirty_count(store->tier), 0);
	for (block_t b = 0; b < BACKING_BYTES / PAGE_BYTES; b++)
		assert_false(noted_as_bad(b));
	expect_pages(2);
	unmount_pair();
}

static void an_unmount_gives_up_a_superblock_that_cannot_be_written(void **state)
{
	write_pages(1);
	refuses[0] = 1; // A
	lane_free(lane);
	assert_int_equal(store_close(store), -EIO);
	refuses[0] = 0;
	mount_pair();
	expect_pages(1);
	unmount_pair();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(other_blocks_are_taken_and_the_bad_ones_noted, setup, teardown),
		cmocka_unit_test_setup_teardown(a_device_that_fails_altogether_has_no_bad_blocks, setup, teardown),
		cmocka_unit_test_setup_teardown(an_unmount_gives_up_a_superblock_that_cannot_be_written, setup, teardown),
	};
	log_quiet(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
