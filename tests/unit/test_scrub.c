// SPDX-License-Identifier: GPL-2.0-or-later
// The scrub looks at nothing that may be freed or used again meanwhile, and mends what it says it has mended.
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "log.h"
#include "store_world.h"

static struct store *s;
static struct lane *lane;
static object_t object;

static void scrub_all(struct store *st)
{
	assert_int_equal(store_scrub(st), 0);
	while (atomic_load(&st->scrub_state) == 1) // store_stats() would be a reader
		sched_yield();
	store_scrub_stop(st);
}

static void expect_errors(uint64_t errors, uint64_t healed)
{
	struct vems_stats stats;
	store_stats(s, &stats);
	assert_int_equal(stats.scrub_errors, errors);
	assert_int_equal(stats.scrub_healed, healed);
}

static int setup(void **state)
{
	s = new_store();
	assert_int_equal(lane_new(s, &lane), 0);
	object = store_new_object(s);
	COMMIT(lane, write_page(op, object, 0, 1));
	assert_int_equal(store_sync(s), 0);
	return 0;
}

static int teardown(void **state)
{
	end_store(s, lane);
	return 0;
}

// ---- what is looked at by a reader ------------------------------------------------------------------------

static _Atomic unsigned unguarded;

static void expect_a_reader(void)
{
	if (grace_over(&s->grace, grace_start(&s->grace)))
		unguarded++;
}

// Again before each read of the backing.
static int arm(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	traps_arm();
	return 0;
}

static void damage_page(void)
{
	static const uint8_t zero[PAGE_BYTES];
	uint8_t data[PAGE_BYTES], ones[PAGE_BYTES];
	memset(ones, 1, sizeof ones);
	for (block_t b = 0; b < s->blocks; b++) {
		assert_int_equal(pread(backing_fd, data, PAGE_BYTES, (off_t)(b * PAGE_BYTES)), PAGE_BYTES);
		if (memcmp(data, ones, PAGE_BYTES) == 0) {
			assert_int_equal(pwrite(backing_fd, zero, PAGE_BYTES, (off_t)(b * PAGE_BYTES)), PAGE_BYTES);
			return;
		}
	}
	fail_msg("the page is not on the backing");
}

static void test_it_is_a_reader_of_what_may_go(void **state)
{
	const struct backing_hook hook = { arm, NULL };
	struct root *root = store_root(s), *copy = trap_page(root, sizeof *root);
	struct drop *drop = trap_page(&(struct drop){ .object = object, .from = 0, .to = 1, .lsn = LSN_MAX }, sizeof *drop);

	damage_page(); // but it is dropped
	traps[0] = (struct trap){ tier_frame_data(s->tier, frame_of(s, object, 0)), expect_a_reader, 0 };
	traps[1] = (struct trap){ copy, expect_a_reader, 0 };
	traps[2] = (struct trap){ drop, expect_a_reader, 0 };
	drops_add(&s->drops, drop);
	atomic_store(&s->root, copy);
	s->backing->hook = &hook;
	traps_begin();
	scrub_all(s);
	assert_int_equal(unguarded, 0);
	assert_int_equal(traps[0].accesses, 1);
	assert_int_equal(traps[1].accesses, 2); // to begin with, and for the damaged block
	assert_int_equal(traps[2].accesses, 1);
	traps_end();
	s->backing->hook = NULL;
	atomic_store(&s->root, root);
	drops_take_folded(&s->drops, LSN_MAX);
	free(copy);
	free(drop);
	expect_errors(0, 0);
}

// ---- what is healed -----------------------------------------------------------------------------------

static void test_a_damaged_superblock_is_written_again(void **state)
{
	static const uint8_t zero[PAGE_BYTES];
	for (char copy = 'A'; copy <= 'B'; copy++) {
		off_t at = copy == 'A' ? 0 : (off_t)((s->blocks - 1) * PAGE_BYTES);
		assert_int_equal(pwrite(backing_fd, zero, PAGE_BYTES, at), PAGE_BYTES);
		scrub_all(s);
		expect_errors(1, 1);
		scrub_all(s);
		expect_errors(0, 0);
	}
}

static void root_node_read(uint8_t *page)
{
	assert_int_equal(pread(backing_fd, page, PAGE_BYTES, (off_t)(store_root(s)->tree.ref.block * PAGE_BYTES)), PAGE_BYTES);
}

static void root_node_damage(void)
{
	static const uint8_t zero[PAGE_BYTES];
	assert_int_equal(pwrite(backing_fd, zero, PAGE_BYTES, (off_t)(store_root(s)->tree.ref.block * PAGE_BYTES)), PAGE_BYTES);
}

static void test_a_damaged_node_is_written_again_from_the_tier(void **state)
{
	uint8_t good[PAGE_BYTES], now[PAGE_BYTES];
	root_node_read(good);
	root_node_damage();
	scrub_all(s);
	expect_errors(1, 1);
	root_node_read(now);
	assert_memory_equal(now, good, PAGE_BYTES);
	scrub_all(s);
	expect_errors(0, 0);
}

static void test_a_damaged_node_without_a_copy_is_told(void **state)
{
	uint8_t bad[PAGE_BYTES], now[PAGE_BYTES];
	for (frame_t f = 0; f < s->tier->frames; f++)
		if (s->tier->frame[f].object == OBJECT_STORE)
			evict_frame(s, f);
	root_node_damage();
	root_node_read(bad);
	scrub_all(s);
	expect_errors(1, 0);
	root_node_read(now);
	assert_memory_equal(now, bad, PAGE_BYTES);
}

// ---- locks -------------------------------------------------------------------------------------------

static void start(struct store *st)
{
	store_scrub(st);
}

static void test_one_scrub_at_a_time(void **state)
{
	assert_true(waits_for(&s->scrub_lock, start, s, NULL));
	assert_true(waits_for(&s->scrub_lock, store_scrub_stop, s, NULL));
}

static void test_poison_is_met_by_one_at_a_time(void **state)
{
	assert_true(waits_for(&s->poison_lock, poison_meet, s, NULL));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	log_quiet(1);
	const struct CMUnitTest tests[] = {
		TEST(test_it_is_a_reader_of_what_may_go),
		TEST(test_a_damaged_superblock_is_written_again),
		TEST(test_a_damaged_node_is_written_again_from_the_tier),
		TEST(test_a_damaged_node_without_a_copy_is_told),
		TEST(test_one_scrub_at_a_time),
		TEST(test_poison_is_met_by_one_at_a_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
