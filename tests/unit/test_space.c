// SPDX-License-Identifier: GPL-2.0-or-later
// Space against a plain map in memory, over many epochs, sizes and reloads.
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
#include "space.h"
#include "space_layout.h"

#define SEED 42u
#define G SPACE_GROUP_BLOCKS

static char path[] = "/dev/shm/test-space-XXXXXX";
static struct backing *backing;
static struct ioq *queue;
static struct space *space;
static struct space_root root;
static uint64_t blocks;
static block_t unreadable; // 0: none
static unsigned read_errors; // so many reads to come

static int watch(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	if (kind == 'r' && read_errors) {
		read_errors--;
		return -EIO;
	}
	return kind == 'r' && unreadable != 0 && block == unreadable ? -EIO : 0;
}

static const struct backing_hook hook = { watch, NULL };

static void open_device(uint64_t count)
{
	blocks = count;
	unreadable = 0;
	strcpy(path + strlen(path) - 6, "XXXXXX");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	if (ftruncate(fd, (off_t)(blocks * PAGE_BYTES)) < 0) {
		close(fd);
		unlink(path);
		skip();
	}
	close(fd);
	assert_int_equal(backing_open(path, false, &backing), 0);
	assert_int_equal(backing->blocks, blocks);
	backing->hook = &hook;
	assert_int_equal(ioq_new(backing, 16, &queue), 0);
	root = space_root_format(blocks);
	assert_int_equal(space_new(backing, queue, blocks, SEED, root, &space), 0);
}

static void close_device(void)
{
	space_free(space);
	ioq_free(queue);
	backing_close(backing);
	unlink(path);
}

static void reload(void)
{
	space_free(space);
	assert_int_equal(space_new(backing, queue, blocks, SEED, root, &space), 0);
}

static void commit(void)
{
	assert_int_equal(space_write(space, &root), 0);
	ioq_wait_all(queue);
	assert_int_equal(space_written(space), 0);
	space_commit(space, root);
}

// ---- the reference --------------------------------------------------------------------------

#define TRACKED (4u * G) // blocks of the device that the reference follows; others must stay as made

static uint8_t force[TRACKED], taken[TRACKED], released[TRACKED]; // one byte per block
struct piece {
	block_t block;
	uint64_t count;
};
static struct piece piece[200000]; // taken in force, or in this epoch
static size_t pieces;

static int mark_taken(void *arg, block_t block, uint64_t count)
{
	for (uint64_t i = block; i < block + count && i < TRACKED; i++)
		((uint8_t *)arg)[i] = 1;
	*(uint64_t *)((uint8_t *)arg + TRACKED) += count;
	return 0;
}

static void compare(uint64_t expected_taken)
{
	static struct {
		uint8_t map[TRACKED];
		uint64_t count;
	} found;
	memset(&found, 0, sizeof found);
	assert_int_equal(space_for_each_taken(space, mark_taken, &found), 0);
	assert_int_equal(found.count, expected_taken);
	assert_int_equal(space_free_blocks(space), blocks - expected_taken);
	for (uint64_t i = 0; i < TRACKED && i < blocks; i++)
		if (found.map[i] != force[i])
			fail_msg("block %lu: expected %u, found %u", (unsigned long)i, force[i], found.map[i]);
}

static void take_some(uint64_t want, block_t goal)
{
	struct piece p;
	int r = space_take(space, want, goal, &p.block, &p.count);
	if (r == -ENOSPC) {
		for (uint64_t i = 0; i < blocks; i++)
			assert_true(force[i] || taken[i]);
		return;
	}
	assert_int_equal(r, 0);
	assert_true(p.count >= 1 && p.count <= want && p.block + p.count < blocks);
	if (goal != 0 && goal < TRACKED && !force[goal] && !taken[goal])
		assert_int_equal(p.block, goal);
	for (uint64_t i = p.block; i < p.block + p.count; i++) {
		assert_true(i < TRACKED); // what is beyond is not followed
		assert_false(force[i] || taken[i]);
		taken[i] = 1;
	}
	if (random() % 8 == 0) { // a part was not needed
		uint64_t back = 1 + (uint64_t)random() % p.count;
		space_untake(space, p.block + p.count - back, back);
		p.count -= back;
		memset(taken + p.block + p.count, 0, back);
	}
	if (p.count > 0)
		piece[pieces++] = p;
}

static void release_some(size_t in_force)
{
	size_t i = (size_t)random() % in_force;
	struct piece *p = &piece[i];
	uint64_t count = 1 + (uint64_t)random() % p->count;
	if (released[p->block])
		return;
	assert_int_equal(space_release(space, p->block, count), 0);
	memset(released + p->block, 1, count);
}

static void settle_reference(bool committed, size_t before)
{
	size_t kept = 0;
	for (uint64_t i = 0; i < blocks && i < TRACKED; i++) {
		if (committed)
			force[i] = (force[i] || taken[i]) && !released[i];
		taken[i] = 0;
	}
	if (!committed)
		pieces = before;
	for (size_t i = 0; i < pieces; i++) {
		struct piece p = piece[i];
		while (committed && p.count > 0 && released[p.block]) {
			p.block++;
			p.count--;
		}
		if (p.count > 0)
			piece[kept++] = p;
	}
	pieces = kept;
	memset(released, 0, sizeof released);
}

static uint64_t reference_taken(void)
{
	uint64_t sum = 0;
	for (uint64_t i = 0; i < blocks && i < TRACKED; i++)
		sum += force[i];
	return sum;
}

static void random_epochs(uint64_t count, unsigned epochs, unsigned operations)
{
	open_device(count);
	memset(force, 0, sizeof force);
	memset(taken, 0, sizeof taken);
	memset(released, 0, sizeof released);
	pieces = 0;
	struct {
		uint8_t map[TRACKED];
		uint64_t count;
	} *fixed = calloc(1, sizeof *fixed);
	assert_int_equal(space_for_each_taken(space, mark_taken, fixed), 0);
	memcpy(force, fixed->map, sizeof force);
	assert_int_equal(fixed->count, space_fixed_blocks(blocks));
	free(fixed);
	for (unsigned e = 0; e < epochs; e++) {
		size_t before = pieces;
		bool growing = e / 4 % 2 == 0;
		space_begin(space);
		for (unsigned i = 0; i < operations; i++) {
			if (before > 0 && random() % 4 < (growing ? 1 : 3))
				release_some(before);
			else
				take_some(1 + (uint64_t)random() % (random() % 3 ? 12 : 300),
					  random() % 2 && pieces ? piece[pieces - 1].block + piece[pieces - 1].count : 0);
		}
		bool committed = random() % 4 != 0;
		if (committed) {
			commit();
		} else {
			if (random() % 2) { // after writing, too
				struct space_root unused;
				assert_int_equal(space_write(space, &unused), 0);
				ioq_wait_all(queue);
			}
			space_abandon(space);
		}
		settle_reference(committed, before);
		if (random() % 3 == 0)
			reload();
		compare(reference_taken());
	}
	close_device();
}

static void tiny_device_matches_the_reference(void **state)
{
	srandom(1);
	random_epochs(16384, 60, 200); // 64 MiB
	random_epochs(64, 30, 10);
	random_epochs(300, 30, 20);
}

static void odd_sizes_match_the_reference(void **state)
{
	static const uint64_t sizes[] = { G, G + 1, G + 63, G + 64, 2 * G - 1, 3 * G + 4711, 4 * G };
	srandom(2);
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
		random_epochs(sizes[i], 16, 300);
}

// ---- large devices --------------------------------------------------------------------------

static uint64_t taken_total;

static int add_up(void *arg, block_t block, uint64_t count)
{
	taken_total += count;
	return 0;
}

static void layout_adds_up(void **state)
{
	static const struct {
		uint64_t blocks;
		unsigned levels;
	} cases[] = {
		{ 64, 0 }, { G, 0 }, { G + 64, 1 }, { 256 * (uint64_t)G, 1 }, { 256 * (uint64_t)G + 63, 1 },
		{ 256 * (uint64_t)G + 64, 2 }, { 65536 * (uint64_t)G + 12345, 3 }, { UINT64_C(1) << 48, 5 },
	};
	for (unsigned c = 0; c < sizeof cases / sizeof cases[0]; c++) {
		struct space_layout l = space_layout(cases[c].blocks);
		assert_int_equal(l.levels, cases[c].levels);
		assert_int_equal(space_parts(&l, l.levels), 1);
		for (unsigned level = 1; level <= l.levels && level <= 2; level++) {
			uint64_t last = space_parts(&l, level) - 1, sum = 0;
			for (unsigned i = 0; i < SPACE_FANOUT; i++)
				sum += space_full(&l, level - 1, last * SPACE_FANOUT + i);
			assert_int_equal(sum, space_full(&l, level, last));
		}
		uint64_t bits[G / 64], free = 0;
		space_blank_bitmap(&l, l.groups - 1, bits);
		for (unsigned i = 0; i < G / 64; i++)
			free += 64 - (unsigned)__builtin_popcountll(bits[i]);
		assert_int_equal(free, space_full(&l, 0, l.groups - 1));
	}
}

static void slots_never_coincide(void **state)
{
	struct space_layout l = space_layout(300 * (uint64_t)G);
	uint8_t *seen = calloc(300, 16);
	for (unsigned level = 0; level <= l.levels; level++)
		for (uint64_t i = 0; i < space_parts(&l, level); i++)
			for (unsigned slot = 0; slot < 2; slot++) {
				block_t b = space_slot(level, i, slot);
				uint64_t bits[G / 64];
				assert_true(b != 0 && b % G < 16 && !seen[b / G * 16 + b % G]++);
				space_blank_bitmap(&l, b / G, bits);
				assert_true(bits[b % G / 64] >> b % 64 & 1);
			}
	free(seen);
}

// 8 TiB and a little: three levels of parts, hardly anything of them ever written.
static void sparse_device_is_used_from_end_to_end(void **state)
{
	enum { RUNS = 3000 };
	static struct piece run[RUNS];
	open_device(257 * 256 * (uint64_t)G + 100);
	uint64_t fixed = space_fixed_blocks(blocks), total = 0;
	assert_int_equal(space_free_blocks(space), blocks - fixed);
	srandom(3);
	space_begin(space);
	for (unsigned i = 0; i < RUNS; i++) {
		block_t goal = i % 3 == 0 ? (((uint64_t)random() << 31) + (uint64_t)random()) % blocks : 0;
		assert_int_equal(space_take(space, 1 + i % 40, goal, &run[i].block, &run[i].count), 0);
		total += run[i].count;
	}
	commit();
	reload();
	assert_int_equal(space_free_blocks(space), blocks - fixed - total);
	taken_total = 0;
	assert_int_equal(space_for_each_taken(space, add_up, NULL), 0);
	assert_int_equal(taken_total, fixed + total);
	space_begin(space);
	for (unsigned i = 0; i < RUNS; i++)
		assert_int_equal(space_release(space, run[i].block, run[i].count), 0);
	commit();
	reload();
	assert_int_equal(space_free_blocks(space), blocks - fixed);
	close_device();
}

// ---- placement ------------------------------------------------------------------------------

static void long_runs_follow_each_other_in_free_groups(void **state)
{
	block_t block, expected = 0;
	uint64_t count;
	open_device(8 * (uint64_t)G);
	space_begin(space);
	assert_int_equal(space_take(space, 1, 0, &block, &count), 0);
	assert_true(block < G);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(space_take(space, 64, 0, &block, &count), 0);
		assert_int_equal(count, 64);
		assert_true(block >= G);
		if (i > 0)
			assert_int_equal(block, expected);
		expected = block + count;
	}
	assert_int_equal(space_take(space, 3, 0, &block, &count), 0);
	assert_true(block < G); // not among the long ones
	space_abandon(space);
	close_device();
}

static void short_runs_are_packed(void **state)
{
	block_t block, expected = 0;
	uint64_t count;
	open_device(8 * (uint64_t)G);
	space_begin(space);
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(space_take(space, 1 + i % 15, 0, &block, &count), 0);
		assert_int_equal(count, 1 + i % 15);
		if (i > 0)
			assert_int_equal(block, expected);
		expected = block + count;
		if (count > 5) { // what was not needed comes next
			space_untake(space, block + count - 5, 5);
			expected -= 5;
		}
	}
	space_abandon(space);
	close_device();
}

static void all_space_can_be_taken(void **state)
{
	block_t block;
	uint64_t count, total = 0;
	int r;
	open_device(5 * (uint64_t)G + 1000);
	space_begin(space);
	while ((r = space_take(space, 1 + total % 100, 0, &block, &count)) == 0)
		total += count;
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(total, blocks - space_fixed_blocks(blocks));
	assert_int_equal(space_free_blocks(space), total); // still that of the superblock in force
	commit();
	assert_int_equal(space_free_blocks(space), 0);
	space_begin(space);
	assert_int_equal(space_release(space, 100, 50), 0);
	assert_int_equal(space_take(space, 1, 0, &block, &count), -ENOSPC); // two maps
	commit();
	space_begin(space);
	assert_int_equal(space_take(space, 64, 0, &block, &count), 0);
	assert_true(block == 100 && count == 50);
	space_abandon(space);
	close_device();
}

// ---- damage ---------------------------------------------------------------------------------

static void wrong_releases_are_refused(void **state)
{
	static const struct piece wrong[] = {
		{ 0, 1 }, { 1, 1 }, { 10000, 1 }, { 2 * G - 1, 1 }, { 2 * G - 5, 50 }, { G, 2 },
	};
	block_t block;
	uint64_t count;
	struct space_root unused;
	open_device(2 * (uint64_t)G);
	space_begin(space);
	assert_int_equal(space_take(space, 10, 500, &block, &count), 0);
	commit();
	for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0] + 2; i++) {
		space_begin(space);
		int r = 0;
		if (i < sizeof wrong / sizeof wrong[0])
			r = space_release(space, wrong[i].block, wrong[i].count);
		else
			assert_true(space_release(space, 505, 5) == 0 && space_release(space, i % 2 ? 505 : 500, 6) == 0);
		if (r == 0)
			r = space_write(space, &unused);
		assert_int_equal(r, -EUCLEAN);
		ioq_wait_all(queue);
		space_abandon(space);
	}
	close_device();
}

static void unreadable_bitmap_is_passed_over(void **state)
{
	block_t block;
	uint64_t count, before, total = 0;
	int r;
	open_device(3 * (uint64_t)G);
	space_begin(space);
	assert_int_equal(space_take(space, 10, 1000, &block, &count), 0);
	assert_int_equal(space_take(space, 10, G + 1000, &block, &count), 0);
	commit();
	reload();
	unreadable = space_slot(0, 1, 0);
	before = space_free_blocks(space);
	space_begin(space);
	assert_int_equal(space_take(space, 1, G + 2000, &block, &count), 0);
	assert_true(block / G != 1);
	space_abandon(space);
	assert_int_equal(space_free_blocks(space), before); // all of it may be there again next time
	space_begin(space);
	while ((r = space_take(space, 100, 0, &block, &count)) == 0) {
		assert_true(block / G != 1);
		total += count;
	}
	assert_int_equal(r, -EIO);
	assert_in_range(total, G, before - G / 2);
	assert_int_equal(space_free_blocks(space), before);
	assert_int_equal(space_release(space, G + 1000, 10), 0); // stays taken
	assert_int_equal(space_release(space, 1000, 10), 0);
	commit();
	assert_int_equal(space_free_blocks(space), 10);
	unreadable = 0;
	space_begin(space); // readable again
	assert_int_equal(space_take(space, 1, G + 2000, &block, &count), 0);
	assert_int_equal(block, G + 2000);
	space_abandon(space);
	reload();
	taken_total = 0;
	assert_int_equal(space_for_each_taken(space, add_up, NULL), 0);
	assert_int_equal(space_free_blocks(space), blocks - taken_total);
	close_device();
}

// No block stays taken for it: one error is asked again, and of a device that reads nothing nothing is
// believed.
static void passing_errors_cost_no_block(void **state)
{
	static const unsigned errors[] = { 1, UINT32_MAX };
	block_t block;
	uint64_t count, before;
	open_device(3 * (uint64_t)G);
	before = space_free_blocks(space);
	for (unsigned i = 0; i < 2; i++) {
		space_begin(space);
		assert_int_equal(space_take(space, 10, 1000, &block, &count), 0);
		commit();
		reload();
		space_begin(space);
		assert_int_equal(space_release(space, 1000, 10), 0);
		read_errors = errors[i];
		if (i == 0) {
			commit();
		} else {
			assert_int_equal(space_write(space, &root), -EIO);
			space_abandon(space);
			space_begin(space);
			assert_int_equal(space_take(space, 10, 0, &block, &count), -EIO);
			space_abandon(space);
			read_errors = 0;
			space_begin(space);
			assert_int_equal(space_release(space, 1000, 10), 0);
			commit();
		}
		assert_int_equal(space_free_blocks(space), before);
	}
	close_device();
}

static void damaged_and_misplaced_parts_are_found(void **state)
{
	block_t block;
	uint64_t count;
	uint8_t *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	open_device(3 * (uint64_t)G);
	space_begin(space);
	assert_int_equal(space_take(space, 10, 1000, &block, &count), 0);
	assert_int_equal(space_take(space, 10, G + 1000, &block, &count), 0);
	commit();
	for (unsigned c = 0; c < 3; c++) {
		block_t at = c == 0 ? space_slot(0, 1, 0) : space_slot(1, 0, 0);
		if (c == 2) { // a good bitmap in another's place
			assert_int_equal(ioq_read(queue, space_slot(0, 0, 0), page, 1), 0);
			at = space_slot(0, 1, 0);
			assert_int_equal(ioq_write(queue, at, page, 1, false), 0);
		} else { // a block taken in exchange for another; a child's checksum
			assert_int_equal(ioq_read(queue, at, page, 1), 0);
			page[c == 0 ? 125 : 24] ^= 1;
			page[200] ^= c == 0;
			assert_int_equal(ioq_write(queue, at, page, 1, false), 0);
			page[c == 0 ? 125 : 24] ^= 1;
			page[200] ^= c == 0;
		}
		reload();
		assert_int_equal(space_for_each_taken(space, add_up, NULL), -EUCLEAN);
		assert_int_equal(ioq_write(queue, at, page, 1, false), 0);
	}
	root.entry.word++;
	reload();
	assert_int_equal(space_for_each_taken(space, add_up, NULL), -EUCLEAN); // counts do not add up
	root.entry.word |= SPACE_FREE_MASK;
	assert_int_equal(space_new(backing, queue, blocks, SEED, root, &(struct space *){ NULL }), -EUCLEAN);
	free(page);
	close_device();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layout_adds_up),
		cmocka_unit_test(slots_never_coincide),
		cmocka_unit_test(tiny_device_matches_the_reference),
		cmocka_unit_test(odd_sizes_match_the_reference),
		cmocka_unit_test(sparse_device_is_used_from_end_to_end),
		cmocka_unit_test(long_runs_follow_each_other_in_free_groups),
		cmocka_unit_test(short_runs_are_packed),
		cmocka_unit_test(all_space_can_be_taken),
		cmocka_unit_test(wrong_releases_are_refused),
		cmocka_unit_test(unreadable_bitmap_is_passed_over),
		cmocka_unit_test(passing_errors_cost_no_block),
		cmocka_unit_test(damaged_and_misplaced_parts_are_found),
	};
	log_quiet(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
