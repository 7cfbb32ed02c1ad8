// SPDX-License-Identifier: GPL-2.0-or-later
// fallocate: what it leaves in the file, past its end, in its size and in its count of pages.
#include <linux/falloc.h>
#include "fs_world.h"

static int allocate(object_t f, uint64_t offset, uint64_t bytes, bool keep_size)
{
	struct fs_allocation a = { .next = offset, .end = offset + bytes, .keep_size = keep_size }, before;
	int r = 0;

	do {
		before = a;
		r = RUN(fs_allocate(op, w.fs, f, &before, &a));
		assert_true(r || a.next > before.next);
	} while (!r && a.next < a.end);
	if (r)
		assert_int_equal(RUN(fs_allocate_undo(op, w.fs, f, &before)), 0);
	return r;
}

static page_t pages_end_of(object_t f)
{
	return ((const struct inode_disk *)fake_store_item(w.store, item_key(f, ITEM_INODE, 0))->value)->pages_end;
}

static uint64_t pages_of_file(object_t f)
{
	return (uint64_t)attr_of(f).st_blocks / 8;
}

static int punch(object_t f, uint64_t offset, uint64_t bytes, bool keep_size)
{
	return RUN(fs_punch(op, w.fs, f, offset, offset + bytes, keep_size));
}

static void allocate_fills_holes_with_zeroes(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(fill_at(f, 'x', 5000, 8000), 5000); // pages 1 to 3
	assert_int_equal(allocate(f, 100, 29900, false), 0);
	assert_int_equal(attr_of(f).st_size, 30000);
	assert_int_equal(attr_of(f).st_blocks, 8 * 8);
	assert_bytes(f, 0, 8000, 0);
	assert_bytes(f, 8000, 13000, 'x');
	assert_bytes(f, 13000, 30000, 0);
	w.store->available = 0;
	assert_int_equal(fill_at(f, 'y', 30000, 0), 30000); // that was the point
	assert_bytes(f, 0, 30000, 'y');
}

static void allocate_within_the_size_keeps_it(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(truncate_to(f, 10000), 0);
	assert_int_equal(allocate(f, 0, 4096, false), 0);
	assert_int_equal(attr_of(f).st_size, 10000);
	assert_int_equal(attr_of(f).st_blocks, 8);
	assert_int_equal(allocate(f, 0, 12288, true), 0); // to the end of its last page
	assert_int_equal(attr_of(f).st_size, 10000);
	assert_int_equal(attr_of(f).st_blocks, 3 * 8);
	assert_int_equal(w.store->incompat, 0); // nothing new for the format
}

static void keep_size_allocates_past_the_end(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(fill_at(f, 'x', 5000, 0), 5000);
	assert_int_equal(allocate(f, 0, 2 * MIB + 1, true), 0);
	assert_int_equal(attr_of(f).st_size, 5000);
	assert_int_equal(pages_of_file(f), 513);
	assert_int_equal(read_at(f, (char[10]){ 0 }, 10, 5000), 0);
	w.store->available = 0;
	assert_int_equal(fill_at(f, 'y', MIB, 5000), MIB); // that was the point
	assert_int_equal(fill_at(f, 'y', 2 * MIB + PAGE_BYTES - MIB - 5000, MIB + 5000), 2 * MIB + PAGE_BYTES - MIB - 5000);
	assert_int_equal(pages_of_file(f), 513);
	assert_int_equal(pages_end_of(f), 0); // all of it is within
	assert_bytes(f, 5000, MIB, 'y');
	assert_bytes(f, MIB, 2 * MIB, 'y');
}

static void a_file_grows_over_what_is_allocated_there(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(fill_at(f, 'x', 5000, 0), 5000);
	assert_int_equal(allocate(f, 0, 100000, true), 0); // 25 pages
	assert_int_equal(truncate_to(f, 50000), 0);
	assert_int_equal(attr_of(f).st_size, 50000);
	assert_int_equal(pages_of_file(f), 25);
	assert_int_equal(pages_end_of(f), 25);
	assert_bytes(f, 5000, 50000, 0);
	assert_int_equal(fill_at(f, 'z', 10, 200000), 10); // far behind: holes between
	assert_int_equal(pages_of_file(f), 26);
	assert_int_equal(pages_end_of(f), 0);
	assert_bytes(f, 5000, 200000, 0);
	assert_int_equal(allocate(f, 0, 300000, false), 0);
	assert_int_equal(pages_of_file(f), 74);
}

static void truncating_gives_back_what_is_allocated_past_the_end(void **state)
{
	static const uint64_t sizes[] = { 10000, 9000, 8192, 100, 0 };

	for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		char name[16];
		object_t f;

		snprintf(name, sizeof name, "f%u", i);
		f = file(OBJECT_ROOT, name);
		assert_int_equal(fill_at(f, 'x', 10000, 0), 10000);
		assert_int_equal(allocate(f, MIB, MIB, true), 0);
		assert_int_equal(pages_of_file(f), 3 + 256);
		assert_int_equal(truncate_to(f, sizes[i]), 0);
		for (struct fs_count count = { 0 }, before; !count.done;) {
			before = count;
			assert_int_equal(RUN(fs_count(op, w.fs, f, &before, &count)), 0);
		}
		assert_int_equal(pages_of_file(f), pages_of(sizes[i]));
		assert_int_equal(pages_end_of(f), 0);
		assert_bytes(f, 0, sizes[i], 'x');
	}
}

static void allocated_pages_need_not_begin_at_the_end(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	uint64_t at;

	w.store->available = 2;
	assert_int_equal(allocate(f, MIB, 8192, true), 0); // what lies before takes no space
	w.store->available = 1u << 20;
	assert_int_equal(pages_of_file(f), 2);
	assert_int_equal(pages_end_of(f), 258);
	assert_int_equal(truncate_to(f, 3 * PAGE_BYTES), 0); // as many as the size has room for, and none of them there
	assert_int_equal(pages_of_file(f), 2);
	assert_int_equal(RUN(fs_seek(op, w.fs, f, 0, true, &at)), -ENXIO);
	assert_int_equal(RUN(fs_seek(op, w.fs, f, 0, false, &at)), 0);
	assert_int_equal(at, 0);
	assert_int_equal(allocate(f, 0, 2 * MIB, true), 0);
	assert_int_equal(pages_of_file(f), 512);
	assert_int_equal(RUN(fs_seek(op, w.fs, f, 0, false, &at)), 0);
	assert_int_equal(at, 3 * PAGE_BYTES);
	assert_int_equal(allocate(f, INT64_MAX - 5000, 5000, true), 0); // the end of all
	assert_int_equal(pages_end_of(f), UINT64_C(1) << 51);
	assert_int_equal(truncate_to(f, INT64_MAX), 0);
	assert_int_equal(pages_end_of(f), 0);
}

static void punching_leaves_what_is_allocated_past_the_end(void **state)
{
	for (int how = 0; how < 2; how++) {
		char name[2] = { (char)('a' + how), 0 };
		object_t f = file(OBJECT_ROOT, name);

		assert_int_equal(fill_at(f, 'x', 5000, 0), 5000);
		assert_int_equal(allocate(f, 0, 100000, true), 0);
		assert_int_equal(punch(f, 10000, 20000, true), 0);
		assert_int_equal(pages_of_file(f), 25);
		assert_int_equal(punch(f, 0, 100000, true), 0);
		assert_int_equal(pages_of_file(f), 23);
		assert_int_equal(attr_of(f).st_size, 5000);
		assert_bytes(f, 0, 5000, 0);
		if (how) {
			assert_int_equal(punch(f, 0, 50000, false), 0); // ZERO_RANGE: the file grows
			assert_int_equal(attr_of(f).st_size, 50000);
			assert_int_equal(pages_end_of(f), 25);
			assert_int_equal(fill_at(f, 'y', 100, 90000), 100);
			assert_bytes(f, 0, 90000, 0);
		}
	}
}

// Of four steps the third fails: all past the end is as it was, and what was allocated there before stays.
static void a_failed_allocation_is_undone(void **state)
{
	for (int how = 0; how < 4; how++) {
		bool keep_size = how & 1, had_some = how & 2;
		char name[2] = { (char)('a' + how), 0 };
		object_t f = file(OBJECT_ROOT, name);
		struct fs_allocation a = { .end = 4 * MIB, .keep_size = keep_size }, before;

		assert_int_equal(fill_at(f, 'x', 5000, 0), 5000);
		if (had_some)
			assert_int_equal(allocate(f, 0, 100000, true), 0);
		w.store->available = 1u << 20;
		for (int step = 0; step < 2; step++) {
			before = a;
			assert_int_equal(RUN(fs_allocate(op, w.fs, f, &before, &a)), 0);
		}
		assert_int_equal(attr_of(f).st_size, keep_size ? 5000 : a.next);
		w.store->available = 0;
		before = a;
		assert_int_equal(RUN(fs_allocate(op, w.fs, f, &before, &a)), -ENOSPC);
		assert_int_equal(RUN(fs_allocate_undo(op, w.fs, f, &before)), 0);
		assert_int_equal(attr_of(f).st_size, 5000);
		assert_int_equal(pages_of_file(f), had_some ? 25 : 2);
		assert_int_equal(pages_end_of(f), had_some ? 25 : 0);
		assert_bytes(f, 0, 5000, 'x');
		w.store->available = 1u << 20;
	}
}

static void undoing_nothing_changes_nothing(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	unsigned commits;

	w.store->available = 2;
	commits = w.store->commits;
	assert_int_equal(allocate(f, 0, 3 * PAGE_BYTES, true), -ENOSPC);
	assert_int_equal(w.store->commits, commits);
	assert_int_equal(pages_of_file(f), 0);
}

static void what_has_no_name_gives_all_back(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(allocate(f, MIB, MIB, true), 0);
	assert_int_equal(unlink_name(OBJECT_ROOT, "f"), 0);
	fs_forgotten(w.fs, f);
	assert_int_equal(drop_orphans(), 1);
	assert_int_equal(w.store->pages, 0);
}

static void another_end_of_pages_is_refused(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	struct inode_disk *disk = (void *)fake_store_item(w.store, item_key(f, ITEM_INODE, 0))->value;
	struct stat attr;

	assert_int_equal(truncate_to(f, 3 * PAGE_BYTES), 0);
	log_quiet(1);
	disk->pages_end = 3; // that is its size
	assert_int_equal(RUN(fs_getattr(op, w.fs, f, &attr)), -EUCLEAN);
	disk->pages_end = (UINT64_C(1) << 51) + 1;
	assert_int_equal(RUN(fs_getattr(op, w.fs, f, &attr)), -EUCLEAN);
	log_quiet(0);
	disk->pages_end = 4;
	assert_int_equal(RUN(fs_getattr(op, w.fs, f, &attr)), 0);
	disk->pages_end = 0;
}

static void allocate_takes_more_than_one_commit(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	unsigned commits = w.store->commits;

	assert_int_equal(allocate(f, 0, 3 * MIB + 1, false), 0);
	assert_int_equal(w.store->commits - commits, 4);
	assert_int_equal(attr_of(f).st_size, 3 * MIB + 1);
	assert_int_equal(attr_of(f).st_blocks, (3 * 256 + 1) * 8);
}

static void allocate_refuses(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(allocate(directory(OBJECT_ROOT, "d"), 0, 1, false), -EISDIR);
	assert_int_equal(allocate((object_t)make(OBJECT_ROOT, "p", S_IFIFO), 0, 1, false), -ENODEV);
	assert_int_equal(allocate(f, INT64_MAX, 1, false), -EFBIG);
	assert_int_equal(punch(f, INT64_MAX, 1, true), -EFBIG);
	assert_int_equal(allocate(f, 0, INT64_MAX, false), -ENOSPC); // at once
	assert_int_equal(w.store->pages, 0);
	w.store->available = 2;
	assert_int_equal(allocate(f, 0, 3 * PAGE_BYTES, false), -ENOSPC);
	assert_int_equal(allocate(f, 0, 2 * PAGE_BYTES, false), 0);
}

static void punch_leaves_a_hole(void **state)
{
	static const struct {
		uint64_t offset, bytes;
		unsigned pages; // of six, the last one half
	} cases[] = {
		{ 0, 4096, 5 }, { 0, 100, 6 }, { 100, 100, 6 }, { 4000, 200, 6 }, { 4095, 4098, 5 }, { 4096, 8192, 4 },
		{ 1, 22527, 1 }, { 0, 22528, 0 }, { 0, MIB, 0 }, { 20480, 2048, 5 }, { 20481, 2047, 6 }, { 16000, MIB, 4 },
		{ 22528, 100, 6 }, { MIB, MIB, 6 }, { 8191, 8194, 4 },
	};
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		char name[16];
		uint64_t offset = cases[i].offset, end = offset + cases[i].bytes, size = 5 * 4096 + 2048;
		unsigned commits;
		object_t f;

		snprintf(name, sizeof name, "f%u", i);
		f = file(OBJECT_ROOT, name);
		assert_int_equal(fill_at(f, 'x', size, 0), size);
		commits = w.store->commits;
		assert_int_equal(punch(f, offset, cases[i].bytes, true), 0);
		assert_int_equal(w.store->commits, commits + 1);
		assert_int_equal(attr_of(f).st_size, size);
		assert_int_equal(attr_of(f).st_blocks, cases[i].pages * 8);
		if (offset > size)
			offset = size;
		if (end > size)
			end = size;
		assert_bytes(f, 0, offset, 'x');
		assert_bytes(f, offset, end, 0);
		assert_bytes(f, end, size, 'x');
	}
}

static void zero_range_may_grow_the_file(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(fill_at(f, 'x', 10000, 0), 10000);
	assert_int_equal(punch(f, 5000, 15000, false), 0);
	assert_int_equal(attr_of(f).st_size, 20000);
	assert_bytes(f, 0, 5000, 'x');
	assert_bytes(f, 5000, 20000, 0);
}

static void changes_are_those_of_a_write(void **state)
{
	for (int how = 0; how < 2; how++) {
		char name[2] = { (char)('a' + how), 0 };
		object_t f = file(OBJECT_ROOT, name);
		struct stat before, after;

		assert_int_equal(fill_at(f, 'x', 10000, 0), 10000);
		assert_int_equal(set_attr(f, (struct stat){ .st_mode = 06775 }, FS_SET_MODE), 0);
		assert_int_equal(set_xattr(f, "security.capability", "cap", 3, 0), 0);
		before = attr_of(f);
		assert_int_equal(how ? punch(f, 1, 5000, true) : allocate(f, 0, 20000, false), 0);
		assert_int_equal(attr_of(f).st_mode, S_IFREG | 06775); // the kernel asks by itself
		assert_int_equal(get_xattr(f, "security.capability", NULL, 0), -ENODATA);
		after = attr_of(f);
		assert_true(memcmp(&after.st_mtim, &before.st_mtim, sizeof before.st_mtim));
		assert_true(memcmp(&after.st_ctim, &before.st_ctim, sizeof before.st_ctim));
	}
}

static void mark(bool *there, page_t first, page_t end, bool as)
{
	for (page_t page = first; page < end; page++)
		there[page] = as;
}

// Everything that changes the pages of a file, in any order, against a plain copy of it.
static void any_order_of_changes_keeps_content_and_count(void **state)
{
	static char model[64 * PAGE_BYTES], data[64 * PAGE_BYTES], result[64 * PAGE_BYTES];
	static bool there[64]; // pages, past the end as well
	object_t f = file(OBJECT_ROOT, "f");
	uint64_t size = 0, seed = 1;

	memset(model, 0, sizeof model);
	memset(there, 0, sizeof there);
	for (unsigned i = 0; i < 3000; i++) {
		seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
		uint64_t offset = (seed >> 20) % (sizeof model - 40000), bytes = (seed >> 40) % (i % 3 ? 30000 : 300) + 1;
		uint64_t end = offset + bytes;
		bool keep = seed >> 60 & 1;

		w.store->forgetful = i / 100 % 2;
		switch (i % 7) {
		case 0:
		case 1:
			memset(data, (int)(i % 255 + 1), bytes);
			assert_int_equal(write_at(f, data, bytes, offset), bytes);
			memcpy(model + offset, data, bytes);
			size = size < end ? end : size;
			mark(there, offset >> PAGE_SHIFT, pages_of(end), true);
			break;
		case 2:
		case 3:
			assert_int_equal(punch(f, offset, bytes, keep), 0);
			if (offset < size) {
				memset(model + offset, 0, (end < size ? end : size) - offset);
				mark(there, pages_of(offset), end < size ? end >> PAGE_SHIFT : pages_of(size), false);
			}
			size = size < end && !keep ? end : size;
			break;
		case 4:
			assert_int_equal(allocate(f, offset, bytes, keep), 0);
			size = size < end && !keep ? end : size;
			mark(there, offset >> PAGE_SHIFT, pages_of(end), true);
			break;
		case 5:
			assert_int_equal(truncate_to(f, offset), 0);
			if (offset < size)
				memset(model + offset, 0, size - offset);
			if (offset <= size)
				mark(there, pages_of(offset), 64, false);
			size = offset;
			break;
		default:
			for (struct fs_count count = { 0 }, before; !count.done;) {
				before = count;
				assert_int_equal(RUN(fs_count(op, w.fs, f, &before, &count)), 0);
			}
			assert_true(attr_of(f).st_blocks >= 0);
		}
		assert_int_equal(attr_of(f).st_size, size);
		assert_int_equal(read_at(f, result, sizeof result, 0), size);
		assert_memory_equal(result, model, size);
		for (page_t page = 0; page < 64; page++)
			assert_int_equal(!!fake_store_page(w.store, f, page), there[page]);
		check_world();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(allocate_fills_holes_with_zeroes),
		TEST(allocate_within_the_size_keeps_it),
		TEST(keep_size_allocates_past_the_end),
		TEST(a_file_grows_over_what_is_allocated_there),
		TEST(truncating_gives_back_what_is_allocated_past_the_end),
		TEST(allocated_pages_need_not_begin_at_the_end),
		TEST(punching_leaves_what_is_allocated_past_the_end),
		TEST(a_failed_allocation_is_undone),
		TEST(undoing_nothing_changes_nothing),
		TEST(what_has_no_name_gives_all_back),
		TEST(another_end_of_pages_is_refused),
		TEST(allocate_takes_more_than_one_commit),
		TEST(allocate_refuses),
		TEST(punch_leaves_a_hole),
		TEST(zero_range_may_grow_the_file),
		TEST(changes_are_those_of_a_write),
		TEST(any_order_of_changes_keeps_content_and_count),
	};
	return cmocka_run_group_tests_name("fs_allocate", tests, NULL, NULL);
}
