// SPDX-License-Identifier: GPL-2.0-or-later
// The scrub looks at nothing that may be freed or used again meanwhile, and mends what it says it has mended.
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

// A page that is armed traps the first access to it: was it by a reader?
struct trap {
	void *page;
	_Atomic unsigned accesses;
	_Atomic bool unguarded;
};
static struct trap data_trap, root_trap, drop_trap, *const traps[] = { &data_trap, &root_trap, &drop_trap };

static void on_access(int number, siginfo_t *info, void *context)
{
	for (unsigned i = 0; i < 3; i++) {
		struct trap *t = traps[i];
		if ((uintptr_t)info->si_addr - (uintptr_t)t->page >= PAGE_BYTES)
			continue;
		t->accesses++;
		if (grace_over(&s->grace, grace_start(&s->grace)))
			t->unguarded = true;
		mprotect(t->page, PAGE_BYTES, PROT_READ | PROT_WRITE);
		return;
	}
	abort();
}

static void protect_all(int protection)
{
	for (unsigned i = 0; i < 3; i++)
		mprotect(traps[i]->page, PAGE_BYTES, protection);
}

// Again before each read of the backing.
static int arm(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	protect_all(PROT_NONE);
	return 0;
}

static void *page_new(const void *content, size_t bytes)
{
	void *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	memcpy(page, content, bytes);
	return page;
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
	struct sigaction action = { .sa_sigaction = on_access, .sa_flags = SA_SIGINFO }, before;
	struct root *root = store_root(s);
	struct drop drop = { .object = object, .from = 0, .to = 1, .lsn = LSN_MAX };

	damage_page(); // but it is dropped
	root_trap.page = page_new(root, sizeof *root);
	drop_trap.page = page_new(&drop, sizeof drop);
	data_trap.page = tier_frame_data(s->tier, frame_of(s, object, 0));
	drops_add(&s->drops, drop_trap.page);
	atomic_store(&s->root, root_trap.page);
	s->backing->hook = &hook;
	sigaction(SIGSEGV, &action, &before);
	protect_all(PROT_NONE);
	scrub_all(s);
	protect_all(PROT_READ | PROT_WRITE);
	s->backing->hook = NULL;
	atomic_store(&s->root, root);
	drops_take_folded(&s->drops, LSN_MAX);
	sigaction(SIGSEGV, &before, NULL);
	free(root_trap.page);
	free(drop_trap.page);
	for (unsigned i = 0; i < 3; i++)
		assert_false(traps[i]->unguarded);
	assert_int_equal(data_trap.accesses, 1);
	assert_int_equal(root_trap.accesses, 2); // to begin with, and for the damaged block
	assert_int_equal(drop_trap.accesses, 1);
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

// ---- locks -------------------------------------------------------------------------------------------

static void test_one_scrub_at_a_time(void **state)
{
	assert_true(waits_for(&s->scrub_lock, scrub_all, s, NULL));
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
		TEST(test_one_scrub_at_a_time),
		TEST(test_poison_is_met_by_one_at_a_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
