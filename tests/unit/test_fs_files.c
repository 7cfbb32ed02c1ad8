// SPDX-License-Identifier: GPL-2.0-or-later
// Objects: content, attributes, symlinks, extended attributes.
#include <time.h>
#include "fs_world.h"

// ---- content ------------------------------------------------------------------------------------

static void write_reads_back(void **state)
{
	static const struct {
		uint64_t offset;
		size_t bytes;
	} cases[] = {
		{ 0, 1 }, { 0, 4096 }, { 0, 4097 }, { 1, 4095 }, { 1, 4096 }, { 4095, 2 }, { 100, 50 }, { 8192, 4096 },
		{ 8190, 10000 }, { 0, MIB }, { 1, MIB }, { 4095, MIB }, { 1000000, 300000 },
	};
	static char model[3 * MIB], data[MIB], result[3 * MIB];
	object_t f = file(OBJECT_ROOT, "f");
	uint64_t size = 0;

	memset(model, 0, sizeof model);
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		for (size_t b = 0; b < cases[i].bytes; b++)
			data[b] = (char)(i * 31 + b * 7 + b / 4096 + 1);
		assert_int_equal(write_at(f, data, cases[i].bytes, cases[i].offset), cases[i].bytes);
		memcpy(model + cases[i].offset, data, cases[i].bytes);
		if (size < cases[i].offset + cases[i].bytes)
			size = cases[i].offset + cases[i].bytes;
		assert_int_equal(attr_of(f).st_size, size);
		for (uint64_t at = 0; at < size; at += MIB)
			assert_int_equal(read_at(f, result + at, MIB, at), size - at < MIB ? size - at : MIB);
		assert_memory_equal(result, model, size);
		check_world();
	}
	assert_int_equal(attr_of(f).st_blocks, (size + 4095) / 4096 * 8);
}

static void write_past_the_end_leaves_holes(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(fill_at(f, 'x', 10, 100000), 10);
	assert_int_equal(w.store->pages, 1);
	assert_bytes(f, 0, 100000, 0);
	assert_bytes(f, 100000, 100010, 'x');
}

static uint64_t blocks_of(object_t id)
{
	struct fs_count count = { 0 }, before;

	if (attr_of(id).st_blocks != FS_BLOCKS_UNKNOWN)
		return (uint64_t)attr_of(id).st_blocks;
	while (!count.done) {
		before = count;
		assert_int_equal(RUN(fs_count(op, w.fs, id, &before, &count)), 0);
	}
	assert_int_equal(attr_of(id).st_blocks, count.pages * 8); // written down
	return count.pages * 8;
}

static void blocks_are_those_that_are_there(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	for (unsigned forgetful = 0; forgetful < 2; forgetful++) {
		w.store->forgetful = forgetful;
		assert_int_equal(truncate_to(f, 0), 0);
		assert_int_equal(blocks_of(f), 0);
		assert_int_equal(fill_at(f, 'x', 10000, 0), 10000);
		assert_int_equal(attr_of(f).st_blocks, 3 * 8);
		assert_int_equal(fill_at(f, 'x', 10000, 5000), 10000); // partly behind the end
		assert_int_equal(attr_of(f).st_blocks, 4 * 8);
		assert_int_equal(fill_at(f, 'x', 1, 100000), 1); // with a hole before it
		assert_int_equal(attr_of(f).st_blocks, 5 * 8);
		assert_int_equal(fill_at(f, 'x', 8192, 12288), 8192); // one page there, one not
		assert_int_equal(blocks_of(f), 6 * 8);
		assert_int_equal(truncate_to(f, 20000), 0);
		assert_int_equal(blocks_of(f), 5 * 8);
		assert_int_equal(truncate_to(f, 1000000), 0);
		assert_int_equal(blocks_of(f), 5 * 8);
		assert_int_equal(truncate_to(f, 5000), 0);
		assert_int_equal(blocks_of(f), 2 * 8);
		assert_int_equal(truncate_to(f, 4096), 0);
		assert_int_equal(attr_of(f).st_blocks, 8);
	}
}

static void write_a_page(void *arg)
{
	object_t f = *(object_t *)arg;

	assert_int_equal(RUN_OTHER(fs_write(op, w.fs, f, "y", 1, 50 * PAGE_BYTES, true)), 1);
}

static void blocks_are_counted_again_after_a_write(void **state)
{
	struct fs_count count[3] = { 0 };
	object_t f = file(OBJECT_ROOT, "f");

	w.store->forgetful = true;
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(fill_at(f, 'x', 1, (5 - i) * 10 * PAGE_BYTES), 1);
	assert_int_equal(attr_of(f).st_blocks, FS_BLOCKS_UNKNOWN);
	assert_int_equal(RUN(fs_count(op, w.fs, f, &count[0], &count[1])), 0);
	assert_false(count[1].done);
	write_a_page(&f);
	assert_int_equal(RUN(fs_count(op, w.fs, f, &count[1], &count[2])), 0);
	assert_int_equal(count[2].attempts, 1);
	assert_int_equal(blocks_of(f), 5 * 8);
}

static int copy(object_t from, uint64_t offset, object_t to, uint64_t to_offset, size_t bytes)
{
	static char buffer[MIB];

	return RUN(fs_copy(op, w.fs, from, offset, to, to_offset, bytes, buffer));
}

static void copy_is_a_read_and_a_write(void **state)
{
	object_t f = file(OBJECT_ROOT, "f"), g = file(OBJECT_ROOT, "g");

	assert_int_equal(fill_at(f, 'x', 10000, 0), 10000);
	assert_int_equal(fill_at(f, 'y', 10000, 10000), 10000);
	assert_int_equal(copy(f, 5000, g, 100, 10000), 10000);
	assert_bytes(g, 0, 100, 0);
	assert_bytes(g, 100, 5100, 'x');
	assert_bytes(g, 5100, 10100, 'y');
	assert_int_equal(copy(f, 15000, g, 0, MIB), 5000); // cut at the end
	assert_int_equal(copy(f, 20000, g, 0, MIB), 0);
	assert_int_equal(copy(f, 0, f, 20000, 10000), 10000); // within one file
	assert_bytes(f, 20000, 30000, 'x');
	assert_int_equal(truncate_to(f, 2 * MIB), 0);
	assert_int_equal(copy(f, 1, g, 4095, 2 * MIB), MIB);
	assert_int_equal(copy(OBJECT_ROOT, 0, g, 0, 1), -EISDIR);
	assert_int_equal(copy(f, 0, OBJECT_ROOT, 0, 1), -EISDIR);
}

static void set_times(object_t id, int64_t atime, int64_t mtime)
{
	struct stat attr = { .st_atim = { atime, 5 }, .st_mtim = { mtime, 6 }, .st_ctim = { mtime, 7 } };

	assert_int_equal(set_attr(id, attr, FS_SET_ATIME | FS_SET_MTIME | FS_SET_CTIME), 0);
}

static bool read_changes_atime(object_t id)
{
	struct timespec before = attr_of(id).st_atim, after;
	char byte;

	assert_true(read_at(id, &byte, 1, 0) >= 0);
	after = attr_of(id).st_atim;
	return before.tv_sec != after.tv_sec || before.tv_nsec != after.tv_nsec;
}

static void reading_changes_atime_as_the_mount_says(void **state)
{
	object_t f = file(OBJECT_ROOT, "f"), l = (object_t)make_symlink(OBJECT_ROOT, "l", "t");
	unsigned commits = w.store->commits;
	int64_t now = time(NULL);
	char byte;

	assert_true(read_changes_atime(f));
	assert_false(read_changes_atime(f));
	assert_int_equal(w.store->commits, commits);
	set_times(f, now - 10, now - 20);
	assert_false(read_changes_atime(f)); // what was noted is void, and the new one is good enough
	assert_int_equal(attr_of(f).st_atim.tv_sec, now - 10);
	set_times(f, now - 20, now - 10);
	assert_true(read_changes_atime(f));
	set_times(f, now - 100000, now - 200000); // more than a day
	assert_true(read_changes_atime(f));
	assert_false(read_changes_atime(f));
	assert_int_equal(write_at(f, "x", 1, 0), 1);
	assert_true(read_changes_atime(f));
	set_times(l, now - 20, now - 10);
	assert_int_equal(RUN(fs_readlink(op, w.fs, l, &byte, 1)), 1);
	assert_true(attr_of(l).st_atim.tv_sec >= now);
	set_times(OBJECT_ROOT, now - 20, now - 10);
	assert_int_equal(list(OBJECT_ROOT, 0, false, 10, &listing), 0);
	assert_true(attr_of(OBJECT_ROOT).st_atim.tv_sec >= now);
	fs_set_atime(w.fs, FS_ATIME_ALWAYS, false);
	assert_true(read_changes_atime(f));
	assert_true(read_changes_atime(f));
	set_times(OBJECT_ROOT, now - 20, now - 10);
	assert_int_equal(list(OBJECT_ROOT, 0, false, 10, &listing), 0);
	assert_int_equal(attr_of(OBJECT_ROOT).st_atim.tv_sec, now - 20);
	fs_set_atime(w.fs, FS_ATIME_NEVER, true);
	set_times(f, now - 20, now - 10);
	assert_false(read_changes_atime(f));
	fs_set_atime(w.fs, FS_ATIME_RELATIVE, true);
	assert_int_equal(RUN(fs_setflags(op, w.fs, f, 0x80)), 0); // FS_NOATIME_FL
	assert_false(read_changes_atime(f));
}

static void access_times_are_written_down(void **state)
{
	static object_t id[3000];
	struct timespec atime;
	char name[16];

	for (unsigned i = 0; i < 3000; i++) {
		snprintf(name, sizeof name, "%u", i);
		id[i] = file(OBJECT_ROOT, name);
		assert_true(read_changes_atime(id[i]));
		while (fs_write_atime(w.fs, w.lane, false))
			;
		assert_true(atomic_load(&w.fs->atime.count) <= ATIME_PLENTY);
	}
	atime = attr_of(id[2999]).st_atim;
	assert_int_equal(unlink_name(OBJECT_ROOT, "17"), 0);
	fs_forgotten(w.fs, id[17]);
	assert_int_equal(drop_orphans(), 1);
	fs_stop(w.fs);
	assert_int_equal(atomic_load(&w.fs->atime.count), 0);
	remount();
	assert_int_equal(attr_of(id[2999]).st_atim.tv_nsec, atime.tv_nsec);
	for (unsigned i = 0; i < 3000; i++)
		assert_true(i == 17 || attr_of(id[i]).st_atim.tv_nsec != attr_of(id[i]).st_mtim.tv_nsec);
}

static void read_is_cut_at_the_end(void **state)
{
	object_t f = file(OBJECT_ROOT, "f"), d = directory(OBJECT_ROOT, "d");
	char buffer[16384];

	assert_int_equal(fill_at(f, 'x', 5000, 0), 5000);
	assert_int_equal(read_at(f, buffer, sizeof buffer, 0), 5000);
	assert_int_equal(read_at(f, buffer, sizeof buffer, 4999), 1);
	assert_int_equal(read_at(f, buffer, sizeof buffer, 5000), 0);
	assert_int_equal(read_at(f, buffer, sizeof buffer, UINT64_MAX), 0);
	assert_int_equal(read_at(f, buffer, 0, 0), 0);
	assert_int_equal(read_at(d, buffer, 10, 0), -EISDIR);
	assert_int_equal(read_at((object_t)make_symlink(OBJECT_ROOT, "l", "t"), buffer, 10, 0), -EINVAL);
}

static void read_cuts_what_is_too_much_for_one(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	char *buffer = malloc(2 * MIB);

	assert_int_equal(truncate_to(f, 2 * MIB), 0);
	assert_int_equal(read_at(f, buffer, 2 * MIB, 1), OP_PAGES_MAX * PAGE_BYTES - 1);
	free(buffer);
}

static void write_refuses(void **state)
{
	object_t f = file(OBJECT_ROOT, "f"), d = directory(OBJECT_ROOT, "d");
	static char data[MIB + 1];

	assert_int_equal(write_at(d, data, 1, 0), -EISDIR);
	assert_int_equal(write_at((object_t)make(OBJECT_ROOT, "p", S_IFIFO), data, 1, 0), -EINVAL);
	assert_int_equal(write_at(f, data, MIB + 1, 0), -EINVAL);
	assert_int_equal(write_at(f, data, 1, INT64_MAX), -EFBIG);
	assert_int_equal(write_at(f, data, 1, UINT64_MAX), -EFBIG);
	assert_int_equal(write_at(f, data, 2, INT64_MAX - 1), -EFBIG);
	assert_int_equal(write_at(f, data, 0, 5), 0);
	assert_int_equal(attr_of(f).st_size, 0);
	assert_int_equal(write_at(f, "x", 1, INT64_MAX - 1), 1);
	assert_int_equal(attr_of(f).st_size, INT64_MAX);
}

static void write_without_space_may_only_overwrite(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(fill_at(f, 'a', 8192, 0), 8192);
	assert_int_equal(truncate_to(f, 20000), 0);
	w.store->available = 0;
	assert_int_equal(fill_at(f, 'b', 8000, 100), 8000);
	assert_int_equal(fill_at(f, 'c', 8000, 1000), -ENOSPC);
	assert_bytes(f, 100, 8100, 'b');
	assert_int_equal(truncate_to(f, 100), 0);
}

static void write_kills_suid_and_capabilities(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	struct stat mode = { .st_mode = 06775 };

	assert_int_equal(set_attr(f, mode, FS_SET_MODE), 0);
	assert_int_equal(set_xattr(f, "security.capability", "cap", 3, 0), 0);
	assert_int_equal(set_xattr(f, "user.a", "a", 1, 0), 0);
	assert_int_equal(RUN(fs_write(op, w.fs, f, "x", 1, 0, false)), 1);
	assert_int_equal(attr_of(f).st_mode, S_IFREG | 06775);
	assert_int_equal(get_xattr(f, "security.capability", NULL, 0), -ENODATA);
	assert_int_equal(get_xattr(f, "user.a", NULL, 0), 1);
	assert_int_equal(fill_at(f, 'x', 1, 0), 1);
	assert_int_equal(attr_of(f).st_mode, S_IFREG | 0775);
	mode.st_mode = 06745; // not executable by the group: S_ISGID stays
	assert_int_equal(set_attr(f, mode, FS_SET_MODE), 0);
	assert_int_equal(fill_at(f, 'x', 1, 0), 1);
	assert_int_equal(attr_of(f).st_mode, S_IFREG | 02745);
	assert_int_equal(set_xattr(f, "security.capability", "cap", 3, 0), 0);
	assert_int_equal(truncate_to(f, 0), 0);
	assert_int_equal(list_xattr(f, NULL, 0), 7);
}

static void extend_meanwhile(void *arg)
{
	object_t f = *(object_t *)arg;

	assert_int_equal(RUN_OTHER(fs_write(op, w.fs, f, "yy", 2, 9000, true)), 2);
}

static void writers_do_not_restart_each_other(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	w.store->meanwhile = extend_meanwhile;
	w.store->meanwhile_arg = &f;
	assert_int_equal(fill_at(f, 'x', 4096, 0), 4096);
	assert_int_equal(w.store->restarts, 0);
	assert_int_equal(attr_of(f).st_size, 9002);
	assert_bytes(f, 0, 4096, 'x');
	assert_bytes(f, 9000, 9002, 'y');
	w.store->meanwhile = extend_meanwhile;
	assert_int_equal(fill_at(f, 'z', 100, 8900), 100); // the same page: built on again
	assert_int_equal(w.store->restarts, 1);
	assert_bytes(f, 8900, 9000, 'z');
	assert_bytes(f, 9000, 9002, 'y');
}

static void drop_meanwhile(void *arg)
{
	object_t f = *(object_t *)arg;

	assert_int_equal(RUN_OTHER(fs_unlink(op, w.fs, OBJECT_ROOT, "f")), 0);
	fs_forgotten(w.fs, f);
	assert_int_equal(RUN_OTHER(fs_drop(op, w.fs, fs_next_orphan(w.fs))), 0);
}

static void write_to_a_file_dropped_meanwhile_is_stale(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	w.store->meanwhile = drop_meanwhile;
	w.store->meanwhile_arg = &f;
	assert_int_equal(fill_at(f, 'x', 4096, 0), -ESTALE);
}

static void seek_finds_data_and_holes(void **state)
{
	static const struct {
		uint64_t offset;
		bool data;
		int64_t result;
	} cases[] = {
		{ 0, true, 8192 },       { 8192, true, 8192 },   { 9000, true, 9000 },   { 16384, true, 40960 },
		{ 41000, true, 41000 },  { 0, false, 0 },        { 8192, false, 16384 }, { 9000, false, 16384 },
		{ 40960, false, 41960 }, { 41000, false, 41960 }, { 41960, true, -ENXIO }, { 41960, false, -ENXIO },
	};
	object_t f = file(OBJECT_ROOT, "f");
	uint64_t found;
	int r;

	fill_at(f, 'x', 8192, 8192);
	fill_at(f, 'x', 1000, 40960);
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		r = RUN(fs_seek(op, w.fs, f, cases[i].offset, cases[i].data, &found));
		assert_int_equal(r ? r : (int64_t)found, cases[i].result);
	}
	assert_int_equal(truncate_to(f, 100000), 0);
	assert_int_equal(RUN(fs_seek(op, w.fs, f, 50000, true, &found)), -ENXIO);
}

static void truncate_zeroes_what_it_cuts(void **state)
{
	static const uint64_t sizes[] = { 19999, 16384, 16383, 8193, 8192, 5000, 4097, 4096, 4095, 1, 0 };
	object_t f = file(OBJECT_ROOT, "f");

	for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		assert_int_equal(fill_at(f, 'x', 20000, 0), 20000);
		assert_int_equal(truncate_to(f, sizes[i]), 0);
		check_world();
		assert_int_equal(attr_of(f).st_size, sizes[i]);
		assert_int_equal(truncate_to(f, 30000), 0);
		if (sizes[i])
			assert_bytes(f, 0, sizes[i], 'x');
		assert_bytes(f, sizes[i], 30000, 0);
	}
}

static void truncate_leaves_holes_alone(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(truncate_to(f, INT64_MAX), 0);
	assert_int_equal(truncate_to(f, 100001), 0);
	assert_int_equal(truncate_to(f, 5), 0);
	assert_int_equal(w.store->pages, 0);
	assert_int_equal(truncate_to(f, (uint64_t)INT64_MAX + 1), -EFBIG);
	assert_int_equal(truncate_to(OBJECT_ROOT, 0), -EISDIR);
	assert_int_equal(truncate_to((object_t)make(OBJECT_ROOT, "p", S_IFIFO), 0), -EINVAL);
}

static void write_meanwhile(void *arg)
{
	object_t f = *(object_t *)arg;

	assert_int_equal(RUN_OTHER(fs_write(op, w.fs, f, "yy", 2, 50, true)), 2);
}

static void truncate_keeps_what_was_written_meanwhile(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(truncate_to(f, 5000), 0);
	w.store->meanwhile = write_meanwhile; // fills the hole that was seen
	w.store->meanwhile_arg = &f;
	assert_int_equal(truncate_to(f, 51), 0);
	assert_bytes(f, 50, 51, 'y');
	assert_int_equal(truncate_to(f, 100), 0);
	assert_bytes(f, 51, 100, 0);
}

static void setattr_sets_what_is_named(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	struct stat attr = { .st_mode = 04711, .st_uid = 5, .st_gid = 6,
			     .st_atim = { 1, 2 }, .st_mtim = { -3, 4 }, .st_ctim = { 5, 6 } };
	struct stat got, before = attr_of(f);
	unsigned set;

	assert_int_equal(set_attr(f, attr, 0), 0);
	got = attr_of(f);
	assert_memory_equal(&got, &before, sizeof got);
	set = FS_SET_MODE | FS_SET_UID | FS_SET_GID | FS_SET_ATIME | FS_SET_MTIME | FS_SET_CTIME;
	assert_int_equal(set_attr(f, attr, set), 0);
	got = attr_of(f);
	assert_int_equal(got.st_mode, S_IFREG | 04711);
	assert_int_equal(got.st_uid, 5);
	assert_int_equal(got.st_gid, 6);
	assert_int_equal(got.st_atim.tv_sec, 1);
	assert_int_equal(got.st_mtim.tv_sec, -3);
	assert_int_equal(got.st_mtim.tv_nsec, 4);
	assert_int_equal(got.st_ctim.tv_sec, 5);
	assert_int_equal(set_attr(f, (struct stat){ .st_uid = 9 }, FS_SET_UID | FS_KILL_SUIDGID), 0);
	got = attr_of(f);
	assert_int_equal(got.st_mode, S_IFREG | 0711);
	assert_int_equal(got.st_gid, 6);
	assert_int_equal(got.st_mtim.tv_sec, -3);
	assert_true(got.st_ctim.tv_sec > 1000);
	assert_int_equal(set_attr(f, attr, FS_SET_ATIME_NOW | FS_SET_MTIME_NOW), 0);
	assert_true(attr_of(f).st_atim.tv_sec > 1000 && attr_of(f).st_mtim.tv_sec > 1000);
}

static void symlinks_of_all_lengths(void **state)
{
	static const unsigned lengths[] = { 1, 100, 895, 896, 897, 1000, 4094, 4095 };
	char target[4098], result[4097], name[16];
	int id;

	for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		memset(target, 'a' + (int)i, sizeof target);
		target[lengths[i]] = 0;
		snprintf(name, sizeof name, "%u", i);
		id = make_symlink(OBJECT_ROOT, name, target);
		assert_true(id > 0);
		assert_int_equal(RUN(fs_readlink(op, w.fs, (object_t)id, result, sizeof result)), lengths[i]);
		assert_string_equal(result, target);
		assert_int_equal(attr_of((object_t)id).st_size, lengths[i]);
		assert_int_equal(!!fake_store_page(w.store, (object_t)id, 0), lengths[i] > 896);
		// Its inode is put whole by others, too.
		assert_int_equal(set_attr((object_t)id, (struct stat){ .st_uid = 3 }, FS_SET_UID), 0);
		assert_int_equal(link_to((object_t)id, OBJECT_ROOT, "link"), 0);
		assert_int_equal(unlink_name(OBJECT_ROOT, "link"), 0);
		assert_int_equal(RUN(fs_readlink(op, w.fs, (object_t)id, result, sizeof result)), lengths[i]);
		assert_string_equal(result, target);
	}
	id = lookup(OBJECT_ROOT, "1");
	assert_int_equal(RUN(fs_readlink(op, w.fs, (object_t)id, result, 10)), 10);
	memset(target, 'x', 4096);
	target[4096] = 0;
	assert_int_equal(make_symlink(OBJECT_ROOT, "long", target), -ENAMETOOLONG);
	assert_int_equal(make_symlink(OBJECT_ROOT, "empty", ""), -ENOENT);
	assert_int_equal(RUN(fs_readlink(op, w.fs, OBJECT_ROOT, result, 10)), -EINVAL);
}

// ---- extended attributes ------------------------------------------------------------------------

static void xattr_values_of_all_sizes(void **state)
{
	// The name has 6 bytes: an item takes 1024 - 13 - 6 of the value.
	static const unsigned sizes[] = { 0, 1, 1004, 1005, 1006, 4095, 4096, 4097, 65535, 65536, 1, 65536, 0 };
	static char value[65537], result[65536];
	object_t f = file(OBJECT_ROOT, "f");

	for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		memset(value, 'a' + (int)i, sizeof value);
		assert_int_equal(set_xattr(f, "user.x", value, sizes[i], i ? XATTR_REPLACE : XATTR_CREATE), 0);
		assert_int_equal(get_xattr(f, "user.x", NULL, 0), sizes[i]);
		assert_int_equal(get_xattr(f, "user.x", result, sizeof result), sizes[i]);
		assert_memory_equal(result, value, sizes[i]);
		if (sizes[i] > 1)
			assert_int_equal(get_xattr(f, "user.x", result, sizes[i] - 1), -ERANGE);
		assert_int_equal(w.store->pages, sizes[i] > 1005 ? (sizes[i] + 4095) / 4096 : 0);
		check_world();
	}
	assert_int_equal(set_xattr(f, "user.x", value, 65537, 0), -E2BIG);
	assert_int_equal(set_xattr(f, "user.x", value, 5000, 0), 0);
	assert_int_equal(remove_xattr(f, "user.x"), 0);
	assert_int_equal(w.store->pages, 0);
	assert_int_equal(get_xattr(f, "user.x", NULL, 0), -ENODATA);
}

static void xattr_flags_and_names(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	char name[NAME_BYTES_MAX + 2] = { 0 }, list_[1024];

	assert_int_equal(set_xattr(f, "user.a", "1", 1, XATTR_REPLACE), -ENODATA);
	assert_int_equal(set_xattr(f, "user.a", "1", 1, XATTR_CREATE), 0);
	assert_int_equal(set_xattr(f, "user.a", "2", 1, XATTR_CREATE), -EEXIST);
	assert_int_equal(set_xattr(f, "user.a", "2", 1, 8), -EINVAL);
	assert_int_equal(get_xattr(f, "user.b", NULL, 0), -ENODATA);
	assert_int_equal(remove_xattr(f, "user.b"), -ENODATA);
	memset(name, 'n', NAME_BYTES_MAX + 1);
	assert_int_equal(set_xattr(f, name, "", 0, 0), -ERANGE);
	assert_int_equal(set_xattr(f, "", "", 0, 0), -ERANGE);
	name[NAME_BYTES_MAX] = 0;
	assert_int_equal(set_xattr(f, name, "", 0, 0), -EOPNOTSUPP);
	assert_int_equal(set_xattr(f, "system.other", "", 0, 0), -EOPNOTSUPP);
	assert_int_equal(set_xattr(f, "user.", "", 0, 0), -EINVAL);
	memcpy(name, "trusted.", 8);
	assert_int_equal(set_xattr(f, name, "long", 4, 0), 0);
	assert_int_equal(list_xattr(f, NULL, 0), 7 + 256);
	assert_int_equal(list_xattr(f, list_, 7 + 255), -ERANGE);
	assert_int_equal(list_xattr(f, list_, sizeof list_), 7 + 256);
	assert_true(!strcmp(list_, "user.a") || !strcmp(list_ + 256, "user.a"));
	assert_int_equal(RUN(fs_listxattr(op, w.fs, f, false, list_, sizeof list_)), 7);
	assert_string_equal(list_, "user.a");
	assert_int_equal(list_xattr(OBJECT_ROOT, list_, sizeof list_), 0);
}

static void xattr_names_of_one_hash(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	char name[16], value[16];

	name_hash_mask = 0;
	for (unsigned i = 0; i < NAME_ORDINALS; i++) {
		snprintf(name, sizeof name, "user.%u", i);
		assert_int_equal(set_xattr(f, name, name, strlen(name), 0), 0);
	}
	assert_int_equal(set_xattr(f, "user.more", "", 0, 0), -ENOSPC);
	assert_int_equal(get_xattr(f, "user.more", NULL, 0), -ENODATA);
	assert_int_equal(remove_xattr(f, "user.17"), 0);
	assert_int_equal(set_xattr(f, "user.more", "", 0, 0), 0);
	assert_int_equal(get_xattr(f, "user.255", value, sizeof value), 8);
	assert_memory_equal(value, "user.255", 8);
	assert_int_equal(list_xattr(f, NULL, 0), 10 * 7 + 90 * 8 + 156 * 9 + 10 - 8);
	name_hash_mask = UINT64_MAX;
	assert_int_equal(unlink_name(OBJECT_ROOT, "f"), 0);
	fs_forgotten(w.fs, f);
	assert_int_equal(drop_orphans(), 1);
}

static void drop_takes_hidden_values_along(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	static char value[10000];
	char name[16];

	for (unsigned i = 0; i < 3 * HIDDEN_BATCH + 1; i++) {
		snprintf(name, sizeof name, "user.%u", i);
		assert_int_equal(set_xattr(f, name, value, sizeof value, 0), 0);
	}
	assert_int_equal(set_xattr(f, "user.small", "1", 1, 0), 0);
	assert_int_equal(unlink_name(OBJECT_ROOT, "f"), 0);
	fs_forgotten(w.fs, f);
	assert_int_equal(fs_next_orphan(w.fs), f);
	while (RUN(fs_drop(op, w.fs, f)) > 0)
		check_world();
	fs_dropped(w.fs, f, 0);
	assert_int_equal(fs_next_orphan(w.fs), 0);
	assert_false(exists(f));
	assert_int_equal(w.store->pages, 0);
	assert_int_equal(w.store->items, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(write_reads_back),
		TEST(write_past_the_end_leaves_holes),
		TEST(copy_is_a_read_and_a_write),
		TEST(reading_changes_atime_as_the_mount_says),
		TEST(access_times_are_written_down),
		TEST(blocks_are_those_that_are_there),
		TEST(blocks_are_counted_again_after_a_write),
		TEST(read_is_cut_at_the_end),
		TEST(read_cuts_what_is_too_much_for_one),
		TEST(write_refuses),
		TEST(write_without_space_may_only_overwrite),
		TEST(write_kills_suid_and_capabilities),
		TEST(writers_do_not_restart_each_other),
		TEST(write_to_a_file_dropped_meanwhile_is_stale),
		TEST(seek_finds_data_and_holes),
		TEST(truncate_zeroes_what_it_cuts),
		TEST(truncate_leaves_holes_alone),
		TEST(truncate_keeps_what_was_written_meanwhile),
		TEST(setattr_sets_what_is_named),
		TEST(symlinks_of_all_lengths),
		TEST(xattr_values_of_all_sizes),
		TEST(xattr_flags_and_names),
		TEST(xattr_names_of_one_hash),
		TEST(drop_takes_hidden_values_along),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
