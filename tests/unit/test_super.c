// SPDX-License-Identifier: GPL-2.0-or-later
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "log.h"
#include "space.h"
#include "super.h"

#define BLOCKS 16384u

static char path[] = "/dev/shm/test-super-XXXXXX";
static struct backing *backing;
static struct ioq *queue;
static block_t unreadable[2];
static unsigned unreadables;

static int fail_reads(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	for (unsigned i = 0; i < unreadables; i++)
		if (kind == 'r' && unreadable[i] == block)
			return -EIO;
	return 0;
}

static const struct backing_hook hook = { fail_reads, NULL };

static int set_up(void **state)
{
	strcpy(path + strlen(path) - 6, "XXXXXX");
	int fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, (off_t)BLOCKS * PAGE_BYTES) < 0 || close(fd) < 0)
		return -1;
	unreadables = 0;
	if (backing_open(path, false, &backing) < 0)
		return -1;
	backing->hook = &hook;
	return ioq_new(backing, 8, &queue);
}

static int tear_down(void **state)
{
	ioq_free(queue);
	backing_close(backing);
	return unlink(path);
}

static struct super_disk good(uint64_t epoch)
{
	struct super_disk s = {
		.magic = VEMS_SUPER_MAGIC, .version = VEMS_VERSION, .state = SUPER_ATTACHED, .attach = 77,
		.epoch = epoch, .cut = 1000 + epoch, .blocks = BLOCKS, .root_block = 30 + epoch, .root_birth = 900,
		.root_sum = 5, .root_level = 1, .space_levels = space_levels(BLOCKS),
		.space = { SPACE_WRITTEN | SPACE_SLOT | 9000, 6 },
	};
	super_seal(&s);
	return s;
}

static void write_copy(struct super_disk s, char copy)
{
	assert_int_equal(super_write(backing, queue, &s, copy), 0);
}

// inferior: the copy that is to be made equal; 0: they are the same.
static void expect(enum super_found found, uint64_t epoch, char inferior)
{
	static struct super_disk s;
	enum super_found got;
	char got_inferior;
	assert_int_equal(super_load(backing, queue, &got, &s, &got_inferior), 0);
	assert_int_equal(got, found);
	if (found == SUPER_GOOD)
		assert_int_equal(got_inferior, inferior);
	if (found == SUPER_GOOD || found == SUPER_FUTURE || found == SUPER_SHRUNK)
		assert_int_equal(s.epoch, epoch);
}

static void damage(char copy, size_t offset)
{
	struct super_disk *s = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	assert_int_equal(ioq_read(queue, super_block(backing, copy), s, 1), 0);
	((uint8_t *)s)[offset] ^= 0x10;
	assert_int_equal(ioq_write(queue, super_block(backing, copy), s, 1, true), 0);
	free(s);
}

static void blank_device_has_none(void **state)
{
	expect(SUPER_NONE, 0, 0);
}

static void newer_copy_is_chosen(void **state)
{
	write_copy(good(5), 'A');
	expect(SUPER_GOOD, 5, 'B');
	write_copy(good(5), 'B');
	expect(SUPER_GOOD, 5, 0);
	write_copy(good(6), 'A');
	expect(SUPER_GOOD, 6, 'B');
	write_copy(good(7), 'B');
	expect(SUPER_GOOD, 7, 'A');
}

static void good_copy_stands_in_for_a_damaged_one(void **state)
{
	for (unsigned c = 0; c < 2; c++) {
		write_copy(good(6), 'A');
		write_copy(good(5), 'B');
		damage(c ? 'A' : 'B', c ? 4095 : 72);
		expect(SUPER_GOOD, c ? 5 : 6, c ? 'A' : 'B');
	}
	damage('B', 0); // the magic itself
	expect(SUPER_DAMAGED, 0, 0);
	damage('A', 0);
	expect(SUPER_NONE, 0, 0);
}

static void two_of_one_epoch_must_be_the_same(void **state)
{
	struct super_disk s = good(5);
	write_copy(s, 'A');
	s.cut++;
	write_copy(s, 'B');
	expect(SUPER_DAMAGED, 0, 0);
}

static void later_formats_are_told_from_damage(void **state)
{
	struct super_disk s = good(5);
	write_copy(s, 'A');
	s.version++;
	s.epoch++;
	write_copy(s, 'B');
	expect(SUPER_FUTURE, 6, 0);
	s = good(7);
	s.incompat = VEMS_INCOMPAT_SNAPSHOTS;
	write_copy(s, 'A');
	write_copy(good(6), 'B');
	expect(SUPER_FUTURE, 7, 0);
	damage('A', 100);
	expect(SUPER_GOOD, 6, 'A');
}

static void unreadable_device_never_passes_for_blank(void **state)
{
	enum super_found found;
	static struct super_disk s;
	char inferior;
	unreadable[unreadables++] = super_block(backing, 'A');
	assert_int_equal(super_load(backing, queue, &found, &s, &inferior), -EIO);
	write_copy(good(3), 'B');
	expect(SUPER_GOOD, 3, 'A');
	unreadable[unreadables++] = super_block(backing, 'B');
	assert_int_equal(super_load(backing, queue, &found, &s, &inferior), -EIO);
}

static void grown_device_is_mounted_as_it_was(void **state)
{
	struct super_disk s = good(4);
	s.blocks = 8192;
	s.space.word = SPACE_WRITTEN | 8000;
	write_copy(s, 'A');
	write_copy(s, 'B');
	expect(SUPER_GOOD, 4, 0);
}

static void shrink(uint64_t blocks)
{
	ioq_free(queue);
	backing_close(backing);
	assert_int_equal(truncate(path, (off_t)(blocks * PAGE_BYTES)), 0);
	assert_int_equal(backing_open(path, false, &backing), 0);
	assert_int_equal(ioq_new(backing, 8, &queue), 0);
}

static void shrunk_device_is_told_from_damage(void **state)
{
	write_copy(good(4), 'A');
	write_copy(good(4), 'B');
	shrink(BLOCKS - 1);
	expect(SUPER_SHRUNK, 4, 0);
	damage('A', 100);
	expect(SUPER_DAMAGED, 0, 0);
	damage('A', 100);
	shrink(BLOCKS); // the size alone is back
	expect(SUPER_GOOD, 4, 'B');
}

static void old_copy_at_the_end_of_a_shrunk_device_is_not_taken(void **state)
{
	struct super_disk s = good(9);
	s.blocks = 8192;
	s.space.word = SPACE_WRITTEN | 8000;
	write_copy(s, 'B'); // before the device grew
	write_copy(good(4), 'A');
	write_copy(good(4), 'B');
	expect(SUPER_GOOD, 4, 0);
	shrink(8192);
	expect(SUPER_SHRUNK, 4, 0);
}

static void wiped_device_has_none(void **state)
{
	write_copy(good(4), 'A');
	write_copy(good(4), 'B');
	assert_int_equal(super_wipe(backing, queue), 0);
	expect(SUPER_NONE, 0, 0);
}

static void fields_are_checked(void **state)
{
	struct super_disk s = good(1);
	assert_true(super_valid(&s, BLOCKS));
	assert_true(super_valid(&s, BLOCKS + 1));
	assert_false(super_valid(&s, BLOCKS - 1));
	for (unsigned c = 0;; c++) {
		s = good(1);
		switch (c) {
		case 0: s.magic++; break;
		case 1: s.version++; break;
		case 2: s.state = 0; break;
		case 3: s.state = 3; break;
		case 4: s.attach = 0; break;
		case 5: s.attach = LSN_MAX + 1; break;
		case 6: s.cut = LSN_MAX + 1; break;
		case 7: s.blocks = 0; break;
		case 8: s.blocks = SPACE_BLOCKS_MIN - 1; break;
		case 9: s.root_block = BLOCKS - 1; break;
		case 10: s.root_block = UINT64_MAX; break;
		case 11: s.root_birth = LSN_MAX + 1; break;
		case 12: s.root_level = 16; break;
		case 13: s.root_block = 0; break;
		case 14: s.space_levels++; break;
		case 15: s.space.word = SPACE_WRITTEN | BLOCKS; break;
		case 16: s.space.word = SPACE_SLOT; break;
		case 17: s.space.word |= UINT64_C(1) << 60; break;
		case 18: s.incompat = VEMS_INCOMPAT_KNOWN + 1; break;
		case 19: s.reserved[0] = 1; break;
		case 20: s.reserved[sizeof s.reserved - 1] = 1; break;
		default: return;
		}
		super_seal(&s);
		if (super_valid(&s, BLOCKS))
			fail_msg("case %u passed", c);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(blank_device_has_none),
		TEST(newer_copy_is_chosen),
		TEST(good_copy_stands_in_for_a_damaged_one),
		TEST(two_of_one_epoch_must_be_the_same),
		TEST(later_formats_are_told_from_damage),
		TEST(unreadable_device_never_passes_for_blank),
		TEST(grown_device_is_mounted_as_it_was),
		TEST(shrunk_device_is_told_from_damage),
		TEST(old_copy_at_the_end_of_a_shrunk_device_is_not_taken),
		TEST(wiped_device_has_none),
		TEST(fields_are_checked),
	};
	log_quiet(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
