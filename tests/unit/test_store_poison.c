// SPDX-License-Identifier: GPL-2.0-or-later
// Pages of the tier that fail while it is mounted: each costs what was in it and nowhere else.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "log.h"
#include "poisoner.h"
#include "store_impl.h"

#define TIER_BYTES (UINT64_C(4) << 20)
#define BACKING_BYTES (UINT64_C(32) << 20)
#define PAGES 200u
#define OBJECT 100u
#define SOME 77u // a page

static char tier_path[] = "/dev/shm/test-sp-tier-XXXXXX", backing_path[] = "/dev/shm/test-sp-XXXXXX";
static struct store *store;
static struct lane *lane;
static struct sigaction ours;

static void mount_pair(void)
{
	struct store_config config = { .tier_path = tier_path, .backing_path = backing_path, .format_blank = true, .tiny = true,
				       .interval_ms = 600000 };
	assert_int_equal(store_open(&config, &store), 0);
	assert_int_equal(lane_new(store, &lane), 0);
}

static void crash(void)
{
	lane_free(lane);
	store_abandon(store);
}

static void unmount_pair(void)
{
	lane_free(lane);
	assert_int_equal(store_close(store), 0);
}

static int setup(void **state)
{
	int fd = mkstemp(tier_path);
	assert_int_equal(ftruncate(fd, TIER_BYTES), 0);
	close(fd);
	fd = mkstemp(backing_path);
	assert_int_equal(ftruncate(fd, BACKING_BYTES), 0);
	close(fd);
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

// ---- work -----------------------------------------------------------------------------------------

static int write_run(struct op *op, page_t first, unsigned count, uint8_t stamp)
{
	uint8_t page[PAGE_BYTES];
	int r = txn_claim(op, OBJECT, first, count);
	for (unsigned i = 0; !r && i < count; i++) {
		memset(page, stamp + (int)(first + i), sizeof page);
		r = txn_page(op, OBJECT, first + i, page, NULL);
	}
	if (!r)
		r = txn_put(op, item_key(OBJECT, ITEM_INODE, 0), &stamp, 1);
	return r ? r : txn_commit(op, false);
}

static int try_write(page_t first, unsigned count, uint8_t stamp)
{
	struct op *op = op_begin(lane);
	int r;
	do
		r = write_run(op, first, count, stamp);
	while (op_again(op, &r));
	op_end(op);
	return r;
}

static void write_pages(uint8_t stamp)
{
	assert_int_equal(try_write(0, PAGES, stamp), 0);
}

// 0 and the page is as `stamp` has it, or an error.
static int read_one(page_t page, uint8_t stamp)
{
	struct page_view view;
	uint8_t copy[PAGE_BYTES];
	struct op *op = op_begin(lane);
	int r;
	do {
		r = op_read(op, OBJECT, page, 1, false, &view);
		if (!r && view.data)
			memcpy(copy, view.data, sizeof copy);
	} while (op_again(op, &r));
	op_end(op);
	assert_true(r || view.data);
	for (unsigned i = 0; !r && i < PAGE_BYTES; i++)
		assert_int_equal(copy[i], (uint8_t)(stamp + page));
	return r;
}

static void expect_all_but(page_t lost, uint8_t stamp)
{
	for (page_t page = 0; page < PAGES; page++)
		if (page != lost)
			assert_int_equal(read_one(page, stamp), 0);
}

static frame_t frame_of(object_t object, page_t page)
{
	struct bucket *bucket;
	uint32_t version;
	return index_look(store->tier, object, page, &bucket, &version);
}

static void poison_at(const void *at)
{
	sigaction(SIGBUS, &ours, NULL); // CMocka takes it for each test
	assert_true(poison_page((void *)at));
}

static void poison_frame(frame_t f)
{
	assert_true(f != FRAME_NONE);
	poison_at(tier_frame_data(store->tier, f));
}

// ---- frames -----------------------------------------------------------------------------------------

static void expect_never_claimed(frame_t f)
{
	static frame_t claimed[TIER_BYTES / PAGE_BYTES];
	unsigned count = 0;
	while (frames_poll(store->tier) || frame_place(frame_state(&store->tier->frame[f])) == FRAME_GRACE)
		;
	while (frames_claim(store->tier, 1, 0, &claimed[count]))
		assert_int_not_equal(claimed[count++], f);
	assert_int_equal(frames_free_count(store->tier), 0);
	frames_return(store->tier, claimed, count);
}

static void a_clean_frame_is_a_miss_and_not_used_again(void **state)
{
	write_pages(1);
	assert_int_equal(store_sync(store), 0);
	frame_t f = frame_of(OBJECT, SOME);
	poison_frame(f);
	expect_all_but(PAGES, 1);
	assert_true(frame_of(OBJECT, SOME) != f);
	expect_never_claimed(f);
	assert_int_equal(frame_place(frame_state(&store->tier->frame[f])), FRAME_LOST);
	write_pages(2);
	unmount_pair();
	mount_pair();
	expect_all_but(PAGES, 2);
	unmount_pair();
}

static void a_dirty_frame_is_an_error_until_overwritten(void **state)
{
	write_pages(1);
	assert_int_equal(store_sync(store), 0);
	write_pages(2);
	poison_frame(frame_of(OBJECT, SOME));
	assert_int_equal(read_one(SOME, 2), -EIO); // not the version before
	expect_all_but(SOME, 2);
	assert_int_equal(try_write(SOME, 1, 2), 0);
	expect_all_but(PAGES, 2);
	assert_int_equal(store_sync(store), 0);
	unmount_pair();
	mount_pair();
	expect_all_but(PAGES, 2);
	unmount_pair();
}

static void a_dirty_frame_that_nobody_overwrites_stays_an_error(void **state)
{
	write_pages(1);
	assert_int_equal(store_sync(store), 0);
	write_pages(2);
	poison_frame(frame_of(OBJECT, SOME));
	assert_int_equal(store_sync(store), 0); // the epoch meets it first
	assert_int_equal(read_one(SOME, 2), -EIO);
	expect_all_but(SOME, 2);
	unmount_pair();
	mount_pair();
	assert_int_equal(read_one(SOME, 2), -EIO);
	expect_all_but(SOME, 2);
	assert_int_equal(try_write(SOME, 1, 2), 0);
	expect_all_but(PAGES, 2);
	unmount_pair();
}

static void nodes_are_read_from_the_backing_again(void **state)
{
	write_pages(1);
	assert_int_equal(store_sync(store), 0);
	for (frame_t f = 0; f < store->tier->frames; f++) {
		const struct frame *fr = &store->tier->frame[f];
		if (frame_place(frame_state(fr)) == FRAME_INDEXED)
			poison_frame(f); // every one: the walk for a page comes by all
	}
	expect_all_but(PAGES, 1);
	assert_int_equal(try_write(SOME, 1, 1), 0);
	assert_int_equal(store_sync(store), 0);
	expect_all_but(PAGES, 1);
	unmount_pair();
}

static void free_frames_are_passed_over(void **state)
{
	for (frame_t f = store->tier->pool.free; f != FRAME_NONE; f = store->tier->frame[f].replaces)
		if (f % 3)
			poison_frame(f);
	write_pages(1);
	expect_all_but(PAGES, 1);
	crash(); // and in the tier alone
	mount_pair();
	expect_all_but(PAGES, 1);
	unmount_pair();
}

// ---- what lies before the frames ----------------------------------------------------------------------

static void expect_no_commits(void)
{
	int r = try_write(SOME, 1, 1);
	assert_true(r == -EIO || r == -EROFS); // before and after an epoch has failed for it
	expect_all_but(PAGES, 1);
	assert_int_not_equal(store_sync(store), 0);
	expect_all_but(PAGES, 1);
}

static void poison_in_the_log_ends_commits_and_loses_none(void **state)
{
	unsigned long done = 0;
	int r = 0;
	write_pages(1);
	for (unsigned at = 2; at < 4; at++) // not where the records lie that are still needed
		for (unsigned ring = 0; ring < store->tier->geometry.rings; ring++)
			poison_at(store->tier->ring[ring].base + at * 4 * PAGE_BYTES);
	for (; !r; done += !r)
		r = try_write(SOME, 1, 1);
	assert_int_equal(r, -EIO);
	assert_true(done > 0);
	expect_no_commits();
	lane_free(lane);
	assert_int_not_equal(store_close(store), 0);
	mount_pair();
	expect_all_but(PAGES, 1);
	unmount_pair();
}

static void poison_in_the_table_ends_commits_and_loses_none(void **state)
{
	write_pages(1);
	poison_at((void *)((uintptr_t)&store->tier->table[frame_of(OBJECT, SOME)] & ~(uintptr_t)(PAGE_BYTES - 1)));
	assert_int_not_equal(store_sync(store), 0);
	expect_no_commits();
	crash();
	mount_pair();
	expect_all_but(PAGES, 1);
	unmount_pair();
}

static void poison_in_the_words_ends_commits_and_loses_none(void **state)
{
	write_pages(1);
	poison_at(store->media->base + TIER_WORDS_OFFSET);
	assert_int_not_equal(store_sync(store), 0);
	expect_no_commits();
	crash();
	mount_pair();
	expect_all_but(PAGES, 1);
	unmount_pair();
}

static void a_log_that_ends_in_failed_memory_is_refused(void **state)
{
	struct store_config config = { .tiny = true, .interval_ms = 600000 };
	struct media *m;
	struct backing *b;
	write_pages(1);
	uint64_t head = TIER_RINGS_OFFSET + store->tier->ring[0].head % store->tier->ring[0].bytes;
	crash();
	assert_int_equal(media_open(tier_path, false, &m), 0);
	assert_int_equal(backing_open(backing_path, false, &b), 0);
	poison_at(m->base + (head & ~(uint64_t)(PAGE_BYTES - 1)));
	assert_int_equal(store_open_on(&config, m, b, &store), -EUCLEAN); // the newest record may have been there
	mount_pair();
	expect_all_but(PAGES, 1);
	unmount_pair();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_clean_frame_is_a_miss_and_not_used_again, setup, teardown),
		cmocka_unit_test_setup_teardown(a_dirty_frame_is_an_error_until_overwritten, setup, teardown),
		cmocka_unit_test_setup_teardown(a_dirty_frame_that_nobody_overwrites_stays_an_error, setup, teardown),
		cmocka_unit_test_setup_teardown(nodes_are_read_from_the_backing_again, setup, teardown),
		cmocka_unit_test_setup_teardown(free_frames_are_passed_over, setup, teardown),
		cmocka_unit_test_setup_teardown(poison_in_the_log_ends_commits_and_loses_none, setup, teardown),
		cmocka_unit_test_setup_teardown(poison_in_the_table_ends_commits_and_loses_none, setup, teardown),
		cmocka_unit_test_setup_teardown(a_log_that_ends_in_failed_memory_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(poison_in_the_words_ends_commits_and_loses_none, setup, teardown),
	};
	void *probe = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (!poison_page(probe))
		return 77; // Linux 6.6 and userfaultfd are needed
	log_quiet(!getenv("LOUD"));
	setup(NULL);
	sigaction(SIGBUS, NULL, &ours);
	unmount_pair();
	teardown(NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
