// SPDX-License-Identifier: GPL-2.0-or-later
// Names: make, lookup, link, unlink, rename, readdir.
#include <fcntl.h>
#include <linux/fs.h>
#include "fs_world.h"

// ---- names --------------------------------------------------------------------------------------

static void make_sets_attributes_and_parent(void **state)
{
	struct stat before = attr_of(OBJECT_ROOT), attr, found, parent;

	assert_int_equal(RUN(fs_make(op, w.fs, &cred, OBJECT_ROOT, "a", S_IFREG | 0640, 0, NULL, &attr)), 0);
	assert_int_equal(RUN(fs_lookup(op, w.fs, OBJECT_ROOT, "a", &found)), 0);
	assert_memory_equal(&attr, &found, sizeof attr);
	assert_int_equal(attr.st_mode, S_IFREG | 0640);
	assert_int_equal(attr.st_nlink, 1);
	assert_int_equal(attr.st_uid, 1000);
	assert_int_equal(attr.st_size, 0);
	assert_int_equal(attr.st_blksize, 4096);
	parent = attr_of(OBJECT_ROOT);
	assert_int_equal(parent.st_nlink, 2);
	assert_true(parent.st_mtim.tv_sec > before.st_mtim.tv_sec || parent.st_mtim.tv_nsec > before.st_mtim.tv_nsec);
	directory(OBJECT_ROOT, "d");
	assert_int_equal(attr_of(OBJECT_ROOT).st_nlink, 3);
}

static void make_takes_every_type_but_no_other(void **state)
{
	static const mode_t types[] = { S_IFREG, S_IFDIR, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK };
	struct stat attr;
	char name[8];

	for (unsigned i = 0; i < 6; i++) {
		snprintf(name, sizeof name, "%u", i);
		assert_int_equal(RUN(fs_make(op, w.fs, &cred, OBJECT_ROOT, name, types[i] | 0600, 0x12345, NULL, &attr)), 0);
		assert_int_equal(attr.st_mode, types[i] | 0600);
		assert_int_equal(attr.st_rdev, types[i] == S_IFCHR || types[i] == S_IFBLK ? 0x12345 : 0);
	}
	assert_int_equal(make(OBJECT_ROOT, "none", 0600), -EINVAL);
	assert_int_equal(make(OBJECT_ROOT, "link", S_IFLNK | 0777), -EINVAL);
}

static void make_refuses(void **state)
{
	char name[NAME_BYTES_MAX + 2] = { 0 };
	object_t f = file(OBJECT_ROOT, "f"), d = directory(OBJECT_ROOT, "d");

	assert_int_equal(make(OBJECT_ROOT, "f", S_IFREG), -EEXIST);
	assert_int_equal(make(OBJECT_ROOT, "d", S_IFDIR), -EEXIST);
	assert_int_equal(make(f, "x", S_IFREG), -ENOTDIR);
	assert_int_equal(make(12345, "x", S_IFREG), -ESTALE);
	assert_int_equal(make(OBJECT_ROOT, "", S_IFREG), -EINVAL);
	assert_int_equal(make(OBJECT_ROOT, ".", S_IFREG), -EINVAL);
	assert_int_equal(make(OBJECT_ROOT, "..", S_IFREG), -EINVAL);
	assert_int_equal(make(OBJECT_ROOT, "a/b", S_IFREG), -EINVAL);
	memset(name, 'n', NAME_BYTES_MAX + 1);
	assert_int_equal(make(OBJECT_ROOT, name, S_IFREG), -ENAMETOOLONG);
	name[NAME_BYTES_MAX] = 0;
	assert_true(make(OBJECT_ROOT, name, S_IFREG) > 0);
	assert_true(lookup(OBJECT_ROOT, name) > 0);
	assert_int_equal(remove_directory(OBJECT_ROOT, "d"), 0);
	assert_int_equal(make(d, "x", S_IFREG), -ENOENT); // removed, but still known
	w.store->available = 0;
	assert_int_equal(make(OBJECT_ROOT, "new", S_IFREG), -ENOSPC);
	assert_int_equal(unlink_name(OBJECT_ROOT, "f"), 0);
}

static void make_inherits_the_group_of_a_setgid_directory(void **state)
{
	object_t d = directory(OBJECT_ROOT, "d"), sub;

	assert_int_equal(set_attr(d, (struct stat){ .st_mode = 02775, .st_gid = 50 }, FS_SET_MODE | FS_SET_GID), 0);
	sub = directory(d, "sub");
	assert_int_equal(attr_of(sub).st_gid, 50);
	assert_int_equal(attr_of(sub).st_mode, S_IFDIR | 02755);
	assert_int_equal(attr_of(file(d, "f")).st_gid, 50);
	assert_int_equal(attr_of((object_t)lookup(d, "f")).st_mode, S_IFREG | 0644);
}

static void lookup_tells_what_is_missing(void **state)
{
	object_t f = file(OBJECT_ROOT, "f"), d = directory(OBJECT_ROOT, "d"), e = directory(d, "e");

	assert_int_equal(lookup(OBJECT_ROOT, "x"), -ENOENT);
	assert_int_equal(lookup(f, "x"), -ENOTDIR);
	assert_int_equal(lookup(999, "x"), -ESTALE);
	assert_int_equal(lookup(e, "."), e);
	assert_int_equal(lookup(e, ".."), d);
	assert_int_equal(lookup(OBJECT_ROOT, ".."), OBJECT_ROOT);
	assert_int_equal(lookup(f, "."), f);
	assert_int_equal(lookup(f, ".."), -ENOTDIR);
	assert_int_equal(unlink_name(OBJECT_ROOT, "f"), 0);
	assert_int_equal(lookup(f, "."), -ESTALE);
}

static void every_request_for_a_dropped_object_is_stale(void **state)
{
	struct iovec iov[OP_PAGES_MAX];
	uint64_t offset;
	int count;

	assert_int_equal(set_attr(99, (struct stat){ 0 }, FS_SET_MODE), -ESTALE);
	assert_int_equal(link_to(99, OBJECT_ROOT, "x"), -ESTALE);
	assert_int_equal(fill_at(99, 1, 10, 0), -ESTALE);
	assert_int_equal(RUN(fs_read(op, w.fs, 99, 0, 10, true, iov, &count)), -ESTALE);
	assert_int_equal(RUN(fs_seek(op, w.fs, 99, 0, true, &offset)), -ESTALE);
	assert_int_equal(RUN(fs_readlink(op, w.fs, 99, NULL, 0)), -ESTALE);
	assert_int_equal(RUN(fs_readdir(op, w.fs, 99, 0, false, NULL, NULL)), -ESTALE);
	assert_int_equal(set_xattr(99, "user.a", "", 0, 0), -ESTALE);
	assert_int_equal(get_xattr(99, "user.a", NULL, 0), -ESTALE);
	assert_int_equal(list_xattr(99, NULL, 0), -ESTALE);
	assert_int_equal(remove_xattr(99, "user.a"), -ESTALE);
	assert_int_equal(unlink_name(99, "a"), -ESTALE);
	assert_int_equal(rename_name(99, "a", OBJECT_ROOT, "b", 0), -ESTALE);
}

static void names_of_one_hash_share_a_chain(void **state)
{
	char name[16];
	object_t id[NAME_ORDINALS];

	name_hash_mask = 0;
	for (unsigned i = 0; i < NAME_ORDINALS; i++) {
		snprintf(name, sizeof name, "n%u", i);
		id[i] = file(OBJECT_ROOT, name);
	}
	assert_int_equal(make(OBJECT_ROOT, "more", S_IFREG), -ENOSPC);
	assert_int_equal(lookup(OBJECT_ROOT, "more"), -ENOENT);
	assert_int_equal(unlink_name(OBJECT_ROOT, "more"), -ENOENT);
	assert_int_equal(rename_name(OBJECT_ROOT, "n1", OBJECT_ROOT, "n2", 0), 0);
	assert_int_equal(lookup(OBJECT_ROOT, "n1"), -ENOENT);
	assert_int_equal(lookup(OBJECT_ROOT, "n2"), id[1]);
	assert_true(make(OBJECT_ROOT, "more", S_IFREG) > 0); // in the gap
	assert_int_equal(rename_name(OBJECT_ROOT, "n7", OBJECT_ROOT, "another", 0), -ENOSPC);
	for (unsigned i = 3; i < NAME_ORDINALS; i++) {
		snprintf(name, sizeof name, "n%u", i);
		assert_int_equal(lookup(OBJECT_ROOT, name), id[i]);
	}
}

static void link_counts_names(void **state)
{
	object_t f = file(OBJECT_ROOT, "f"), d = directory(OBJECT_ROOT, "d");

	assert_int_equal(link_to(f, d, "g"), 0);
	assert_int_equal(attr_of(f).st_nlink, 2);
	assert_int_equal(lookup(d, "g"), f);
	assert_int_equal(link_to(f, d, "g"), -EEXIST);
	assert_int_equal(link_to(d, OBJECT_ROOT, "e"), -EPERM);
	assert_int_equal(unlink_name(OBJECT_ROOT, "f"), 0);
	assert_int_equal(attr_of(f).st_nlink, 1);
	assert_int_equal(unlink_name(d, "g"), 0);
	assert_int_equal(attr_of(f).st_nlink, 0);
	assert_int_equal(link_to(f, d, "again"), -ENOENT);
}

static void link_stops_at_the_limit(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	struct fake_item *item = (struct fake_item *)fake_store_item(w.store, item_key(f, ITEM_INODE, 0));
	struct inode_disk *disk = (void *)item->value;

	disk->nlink = LINKS_MAX;
	assert_int_equal(link_to(f, OBJECT_ROOT, "g"), -EMLINK);
	disk->nlink = 1;
}

static void unlink_and_rmdir_check_types(void **state)
{
	object_t d = directory(OBJECT_ROOT, "d");

	file(OBJECT_ROOT, "f");
	file(d, "inner");
	assert_int_equal(unlink_name(OBJECT_ROOT, "d"), -EISDIR);
	assert_int_equal(remove_directory(OBJECT_ROOT, "f"), -ENOTDIR);
	assert_int_equal(remove_directory(OBJECT_ROOT, "d"), -ENOTEMPTY);
	assert_int_equal(unlink_name(OBJECT_ROOT, "x"), -ENOENT);
	assert_int_equal(remove_directory(OBJECT_ROOT, "x"), -ENOENT);
	assert_int_equal(unlink_name(d, "inner"), 0);
	assert_int_equal(remove_directory(OBJECT_ROOT, "d"), 0);
	assert_int_equal(attr_of(OBJECT_ROOT).st_nlink, 2);
	assert_int_equal(attr_of(OBJECT_ROOT).st_size, 1);
	assert_int_equal(attr_of(d).st_nlink, 0);
}

static void unlink_other_meanwhile(void *arg)
{
	assert_int_equal(RUN_OTHER(fs_unlink(op, w.fs, OBJECT_ROOT, "b")), 0);
}

static void names_are_still_true_at_the_commit(void **state)
{
	object_t a = file(OBJECT_ROOT, "a");

	assert_int_equal(link_to(a, OBJECT_ROOT, "b"), 0);
	w.store->meanwhile = unlink_other_meanwhile;
	assert_int_equal(unlink_name(OBJECT_ROOT, "a"), 0);
	assert_int_equal(w.store->restarts, 1);
	assert_int_equal(attr_of(a).st_nlink, 0);
	file(OBJECT_ROOT, "b");
	w.store->meanwhile = unlink_other_meanwhile;
	assert_int_equal(rename_name(OBJECT_ROOT, "b", OBJECT_ROOT, "c", 0), -ENOENT);
	file(OBJECT_ROOT, "b");
	w.store->meanwhile = unlink_other_meanwhile;
	assert_int_equal(unlink_name(OBJECT_ROOT, "b"), -ENOENT);
}

static void drop_meanwhile(void *arg)
{
	assert_int_equal(RUN_OTHER(fs_unlink(op, w.fs, OBJECT_ROOT, "a")), 0);
	fs_forgotten(w.fs, *(object_t *)arg);
	assert_int_equal(RUN_OTHER(fs_drop(op, w.fs, fs_next_orphan(w.fs))), 0);
}

// Between the entry and the inode it names.
static void lookup_is_of_one_moment(void **state)
{
	object_t a = file(OBJECT_ROOT, "a");

	w.store->meanwhile = drop_meanwhile;
	w.store->meanwhile_arg = &a;
	w.store->meanwhile_at = w.store->calls + 3;
	assert_int_equal(lookup(OBJECT_ROOT, "a"), -ENOENT);
	assert_int_equal(w.store->restarts, 1);
}

// ---- without a name -------------------------------------------------------------------------------

static object_t tmpfile_in(object_t dir)
{
	struct stat attr;

	assert_int_equal(RUN(fs_tmpfile(op, w.fs, &cred, dir, S_IFREG | 0600, &attr)), 0);
	assert_int_equal(attr.st_nlink, 0);
	assert_int_equal(attr.st_mode, S_IFREG | 0600);
	fs_opened(w.fs, attr.st_ino);
	return attr.st_ino;
}

static void tmpfile_is_gone_when_closed(void **state)
{
	object_t f = tmpfile_in(OBJECT_ROOT);

	assert_int_equal(list(OBJECT_ROOT, 0, false, 100, &listing), 0);
	assert_int_equal(listing.count, 2);
	fs_forgotten(w.fs, f);
	assert_int_equal(drop_orphans(), 0);
	fs_released(w.fs, f);
	assert_int_equal(drop_orphans(), 1);
	assert_false(exists(f));
	tmpfile_in(OBJECT_ROOT);
	remount();
	assert_int_equal(drop_orphans(), 1);
}

static void tmpfile_may_get_a_name(void **state)
{
	object_t f = tmpfile_in(OBJECT_ROOT);

	assert_int_equal(fill_at(f, 'x', 5000, 0), 5000);
	assert_int_equal(link_to(f, OBJECT_ROOT, "f"), 0);
	assert_int_equal(attr_of(f).st_nlink, 1);
	fs_released(w.fs, f);
	fs_forgotten(w.fs, f);
	assert_int_equal(fs_next_orphan(w.fs), 0);
	remount();
	assert_int_equal(drop_orphans(), 0);
	assert_bytes(f, 0, 5000, 'x');
	fs_opened(w.fs, f);
	assert_int_equal(unlink_name(OBJECT_ROOT, "f"), 0);
	assert_int_equal(link_to(f, OBJECT_ROOT, "g"), -ENOENT); // an orphan now, and for good
	fs_released(w.fs, f);
	fs_forgotten(w.fs, f);
	assert_int_equal(drop_orphans(), 1);
}

// ---- what chattr(1) forbids -------------------------------------------------------------------------

static void set_flags(object_t id, unsigned flags)
{
	assert_int_equal(RUN(fs_setflags(op, w.fs, id, flags)), 0);
}

static unsigned flags_of(object_t id)
{
	unsigned flags;

	assert_int_equal(RUN(fs_getflags(op, w.fs, id, &flags)), 0);
	return flags;
}

static void flags_are_kept_and_inherited(void **state)
{
	const unsigned all = FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL;
	object_t d = directory(OBJECT_ROOT, "d"), f = file(d, "f");

	assert_int_equal(flags_of(f), 0);
	set_flags(f, all);
	assert_int_equal(flags_of(f), all);
	assert_int_equal(RUN(fs_setflags(op, w.fs, f, FS_COMPR_FL | FS_NODUMP_FL)), -EOPNOTSUPP);
	assert_int_equal(flags_of(f), all);
	set_flags(d, all & ~(unsigned)FS_IMMUTABLE_FL);
	assert_int_equal(flags_of(file(d, "g")), FS_NODUMP_FL | FS_NOATIME_FL);
	assert_int_equal(flags_of(directory(d, "e")), FS_NODUMP_FL | FS_NOATIME_FL);
	set_flags(d, 0);
	assert_int_equal(flags_of(file(d, "h")), 0);
}

static void immutable_forbids_all_changes(void **state)
{
	object_t d = directory(OBJECT_ROOT, "d"), f = file(d, "f"), inside = directory(d, "inside");
	struct stat attr = { .st_mode = 0600, .st_size = 5 };

	set_flags(f, FS_IMMUTABLE_FL);
	assert_int_equal(write_at(f, "x", 1, 0), -EPERM);
	assert_int_equal(set_attr(f, attr, FS_SET_MODE), -EPERM);
	assert_int_equal(set_attr(f, attr, FS_SET_SIZE), -EPERM);
	assert_int_equal(set_attr(f, attr, FS_SET_MTIME | FS_SET_MTIME_NOW), -EPERM);
	assert_int_equal(set_xattr(f, "user.a", "a", 1, 0), -EPERM);
	assert_int_equal(remove_xattr(f, "user.a"), -EPERM);
	assert_int_equal(link_to(f, OBJECT_ROOT, "g"), -EPERM);
	assert_int_equal(unlink_name(d, "f"), -EPERM);
	assert_int_equal(rename_name(d, "f", OBJECT_ROOT, "f", 0), -EPERM);
	file(d, "g");
	assert_int_equal(rename_name(d, "g", d, "f", 0), -EPERM);
	assert_int_equal(RUN(fs_may_open(op, w.fs, f, O_RDONLY)), 0);
	assert_int_equal(RUN(fs_may_open(op, w.fs, f, O_RDWR)), -EPERM);
	assert_int_equal(RUN(fs_may_open(op, w.fs, f, O_WRONLY | O_APPEND)), -EPERM);
	set_flags(f, 0);
	set_flags(d, FS_IMMUTABLE_FL);
	assert_int_equal(write_at(f, "x", 1, 0), 1);
	assert_int_equal(make(d, "new", S_IFREG | 0600), -EPERM);
	assert_int_equal(make(d, "new", S_IFDIR | 0700), -EPERM);
	assert_int_equal(make(d, "f", S_IFREG | 0600), -EEXIST);
	assert_int_equal(RUN(fs_tmpfile(op, w.fs, &cred, d, S_IFREG | 0600, &attr)), -EPERM);
	assert_int_equal(unlink_name(d, "f"), -EPERM);
	assert_int_equal(unlink_name(d, "none"), -ENOENT);
	assert_int_equal(remove_directory(d, "inside"), -EPERM);
	assert_int_equal(rename_name(d, "f", OBJECT_ROOT, "f", 0), -EPERM);
	assert_int_equal(link_to(f, d, "h"), -EPERM);
	file(inside, "below");
}

static void append_only_lets_grow(void **state)
{
	object_t d = directory(OBJECT_ROOT, "d"), f = file(d, "f");
	struct stat attr = { .st_mode = 0600 };

	set_flags(f, FS_APPEND_FL);
	assert_int_equal(write_at(f, "x", 1, 0), 1);
	assert_int_equal(set_attr(f, attr, FS_SET_SIZE), -EPERM);
	assert_int_equal(set_attr(f, attr, FS_SET_MODE), -EPERM);
	assert_int_equal(set_attr(f, attr, FS_SET_MTIME), -EPERM);
	assert_int_equal(set_attr(f, attr, FS_SET_MTIME | FS_SET_MTIME_NOW), 0);
	assert_int_equal(RUN(fs_may_open(op, w.fs, f, O_WRONLY)), -EPERM);
	assert_int_equal(RUN(fs_may_open(op, w.fs, f, O_WRONLY | O_APPEND)), 0);
	assert_int_equal(RUN(fs_may_open(op, w.fs, f, O_WRONLY | O_APPEND | O_TRUNC)), -EPERM);
	assert_int_equal(unlink_name(d, "f"), -EPERM);
	set_flags(f, 0);
	set_flags(d, FS_APPEND_FL);
	file(d, "g");
	assert_int_equal(unlink_name(d, "f"), -EPERM);
	assert_int_equal(rename_name(d, "f", d, "h", 0), -EPERM);
	file(OBJECT_ROOT, "in");
	assert_int_equal(rename_name(OBJECT_ROOT, "in", d, "in", 0), 0);
	file(OBJECT_ROOT, "in");
	assert_int_equal(rename_name(OBJECT_ROOT, "in", d, "in", 0), -EPERM);
}

// ---- rename -------------------------------------------------------------------------------------

enum what { NONE, FILE_, EMPTY, FULL };

static object_t make_what(object_t dir, const char *name, enum what what)
{
	object_t id;

	if (what == NONE)
		return 0;
	if (what == FILE_)
		return file(dir, name);
	id = directory(dir, name);
	if (what == FULL)
		directory(id, "inner");
	return id;
}

static const struct {
	enum what from, to;
	unsigned flags;
	int result;
} rename_matrix[] = {
	{ NONE, NONE, 0, -ENOENT },
	{ NONE, FILE_, 0, -ENOENT },
	{ FILE_, NONE, 0, 0 },
	{ FILE_, FILE_, 0, 0 },
	{ FILE_, EMPTY, 0, -EISDIR },
	{ FILE_, FULL, 0, -EISDIR },
	{ EMPTY, NONE, 0, 0 },
	{ EMPTY, FILE_, 0, -ENOTDIR },
	{ EMPTY, EMPTY, 0, 0 },
	{ EMPTY, FULL, 0, -ENOTEMPTY },
	{ FULL, NONE, 0, 0 },
	{ FULL, EMPTY, 0, 0 },
	{ FILE_, NONE, RENAME_NOREPLACE, 0 },
	{ FILE_, FILE_, RENAME_NOREPLACE, -EEXIST },
	{ FULL, EMPTY, RENAME_NOREPLACE, -EEXIST },
	{ FILE_, NONE, RENAME_EXCHANGE, -ENOENT },
	{ FILE_, FILE_, RENAME_EXCHANGE, 0 },
	{ FILE_, FULL, RENAME_EXCHANGE, 0 },
	{ FULL, FILE_, RENAME_EXCHANGE, 0 },
	{ FULL, EMPTY, RENAME_EXCHANGE, 0 },
	{ FILE_, NONE, RENAME_WHITEOUT, 0 },
	{ FILE_, FILE_, RENAME_WHITEOUT, 0 },
	{ FULL, EMPTY, RENAME_WHITEOUT, 0 },
	{ FILE_, NONE, RENAME_WHITEOUT | RENAME_NOREPLACE, 0 },
	{ FILE_, FILE_, RENAME_WHITEOUT | RENAME_NOREPLACE, -EEXIST },
	{ FILE_, FILE_, RENAME_WHITEOUT | RENAME_EXCHANGE, -EINVAL },
	{ FILE_, NONE, 8, -EINVAL },
	{ FILE_, FILE_, RENAME_NOREPLACE | RENAME_EXCHANGE, -EINVAL },
};

static void rename_case(unsigned i, bool across)
{
	char a[16], b[16];
	object_t dir = directory(OBJECT_ROOT, "one"), newdir = across ? directory(OBJECT_ROOT, "two") : dir, from, to;
	int r;

	snprintf(a, sizeof a, "a%u", i);
	snprintf(b, sizeof b, "b%u", i);
	from = make_what(dir, a, rename_matrix[i].from);
	to = make_what(newdir, b, rename_matrix[i].to);
	r = rename_name(dir, a, newdir, b, rename_matrix[i].flags);
	assert_int_equal(r, rename_matrix[i].result);
	if (!r) {
		assert_int_equal(lookup(newdir, b), from);
		if (rename_matrix[i].flags & RENAME_WHITEOUT) {
			struct stat white = attr_of((object_t)lookup(dir, a));

			assert_int_equal(white.st_mode, S_IFCHR);
			assert_int_equal(white.st_rdev, 0);
			assert_int_equal(white.st_uid, cred.uid);
			assert_int_equal(unlink_name(dir, a), 0);
			fs_forgotten(w.fs, white.st_ino);
			assert_int_equal(drop_orphans(), 1);
		} else {
			assert_int_equal(lookup(dir, a), rename_matrix[i].flags & RENAME_EXCHANGE ? (int)to : -ENOENT);
		}
		if (to && !(rename_matrix[i].flags & RENAME_EXCHANGE)) {
			assert_int_equal(attr_of(to).st_nlink, 0);
			fs_forgotten(w.fs, to);
			assert_int_equal(drop_orphans(), 1);
			assert_false(exists(to));
		}
	} else {
		assert_int_equal(lookup(dir, a), from ? (int)from : -ENOENT);
		assert_int_equal(lookup(newdir, b), to ? (int)to : -ENOENT);
	}
}

static void rename_does_what_its_matrix_says(void **state)
{
	for (unsigned i = 0; i < sizeof rename_matrix / sizeof *rename_matrix; i++)
		for (int variant = 0; variant < 4; variant++) {
			name_hash_mask = variant & 2 ? 0 : UINT64_MAX;
			rename_case(i, variant & 1);
			teardown(NULL);
			setup(NULL);
		}
}

static void rename_of_one_object_to_itself_does_nothing(void **state)
{
	object_t f = file(OBJECT_ROOT, "a");

	assert_int_equal(link_to(f, OBJECT_ROOT, "b"), 0);
	w.store->commits = 0;
	assert_int_equal(rename_name(OBJECT_ROOT, "a", OBJECT_ROOT, "b", 0), 0);
	assert_int_equal(rename_name(OBJECT_ROOT, "a", OBJECT_ROOT, "a", 0), 0);
	assert_int_equal(rename_name(OBJECT_ROOT, "a", OBJECT_ROOT, "b", RENAME_EXCHANGE), 0);
	assert_int_equal(w.store->commits, 0);
	assert_int_equal(lookup(OBJECT_ROOT, "a"), f);
}

static void rename_refuses_directories_into_themselves(void **state)
{
	object_t a = directory(OBJECT_ROOT, "a"), b = directory(a, "b");

	assert_int_equal(rename_name(OBJECT_ROOT, "a", a, "x", 0), -EINVAL);
	assert_int_equal(rename_name(a, "b", OBJECT_ROOT, "a", 0), -ENOTEMPTY);
	assert_int_equal(rename_name(a, "b", OBJECT_ROOT, "a", RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(lookup(a, "b"), b);
}

static void rename_keeps_other_links_of_the_target(void **state)
{
	object_t b = file(OBJECT_ROOT, "b"), a = file(OBJECT_ROOT, "a");

	assert_int_equal(link_to(b, OBJECT_ROOT, "c"), 0);
	assert_int_equal(rename_name(OBJECT_ROOT, "a", OBJECT_ROOT, "b", 0), 0);
	assert_int_equal(attr_of(b).st_nlink, 1);
	assert_int_equal(lookup(OBJECT_ROOT, "b"), a);
	fs_forgotten(w.fs, b);
	assert_int_equal(drop_orphans(), 0);
}

// ---- readdir ------------------------------------------------------------------------------------

static void readdir_lists_all_with_attributes(void **state)
{
	object_t d = directory(OBJECT_ROOT, "d"), f = file(d, "f"), s = directory(d, "s");

	fill_at(f, 1, 5000, 0);
	for (int plus = 0; plus < 2; plus++) {
		assert_int_equal(list(d, 0, plus, 1024, &listing), 0);
		assert_int_equal(listing.count, 4);
		assert_string_equal(listing.name[0], ".");
		assert_string_equal(listing.name[1], "..");
		assert_int_equal(listing.attr[0].st_ino, d);
		assert_int_equal(listing.attr[1].st_ino, OBJECT_ROOT);
		assert_int_equal(listing.attr[listed(&listing, "f")].st_ino, f);
		assert_int_equal(listing.attr[listed(&listing, "f")].st_mode, S_IFREG | (plus ? 0644 : 0));
		assert_int_equal(listing.attr[listed(&listing, "f")].st_size, plus ? 5000 : 0);
		assert_int_equal(listing.attr[listed(&listing, "s")].st_ino, s);
		assert_int_equal(listing.attr[listed(&listing, "s")].st_nlink, plus ? 2 : 0);
	}
	assert_int_equal(list(f, 0, false, 10, &listing), -ENOTDIR);
	assert_int_equal(list(d, UINT64_MAX, false, 10, &listing), 0);
	assert_int_equal(listing.count, 0);
}

// Whatever the size of the caller's buffer, each entry comes once.
static void readdir_goes_on_from_any_cookie(void **state)
{
	static const unsigned limits[] = { 1, 2, 3, 64, 65, 1000 };
	char name[16];

	for (unsigned i = 0; i < 700; i++) {
		snprintf(name, sizeof name, "entry-%u", i);
		file(OBJECT_ROOT, name);
	}
	for (unsigned k = 0; k < sizeof limits / sizeof *limits; k++) {
		unsigned total = 0;

		listing.cookie = 0;
		do {
			assert_int_equal(list(OBJECT_ROOT, listing.cookie, false, limits[k], &listing), 0);
			total += listing.count;
		} while (listing.count);
		assert_int_equal(total, 702);
	}
}

static void readdir_reads_no_more_than_it_gives(void **state)
{
	char name[16];

	for (unsigned i = 0; i < 700; i++) {
		snprintf(name, sizeof name, "entry-%u", i);
		file(OBJECT_ROOT, name);
	}
	w.store->scanned = w.store->calls = 0;
	assert_int_equal(list(OBJECT_ROOT, 0, true, 20, &listing), 0);
	assert_true(w.store->scanned <= 20);
	assert_true(w.store->calls <= 30);
}

static void readdir_cookies_survive_changes(void **state)
{
	char name[16];
	unsigned seen[100] = { 0 };

	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof name, "%u", i);
		file(OBJECT_ROOT, name);
	}
	listing.cookie = 0;
	for (unsigned round = 0;; round++) {
		assert_int_equal(list(OBJECT_ROOT, listing.cookie, false, 7, &listing), 0);
		if (!listing.count)
			break;
		for (unsigned i = 0; i < listing.count; i++)
			if (listing.name[i][0] >= '0' && listing.name[i][0] <= '9')
				seen[atoi(listing.name[i])]++;
		snprintf(name, sizeof name, "new%u", round);
		file(OBJECT_ROOT, name);
		assert_true(listing.name[listing.count - 1][0]);
		unlink_name(OBJECT_ROOT, listing.name[listing.count - 1]); // the one the cookie came from
	}
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(seen[i], 1);
}

static void readdir_is_of_one_moment(void **state)
{
	object_t a = file(OBJECT_ROOT, "a");

	file(OBJECT_ROOT, "b");
	w.store->meanwhile = drop_meanwhile;
	w.store->meanwhile_arg = &a;
	w.store->meanwhile_at = w.store->calls + 4; // watch, inode, scan
	assert_int_equal(list(OBJECT_ROOT, 0, true, 10, &listing), 0);
	assert_int_equal(w.store->restarts, 1);
	assert_int_equal(listing.count, 3);
	assert_int_equal(listed(&listing, "a"), -1);
}

static void readdir_steps_through_a_chain(void **state)
{
	name_hash_mask = 0;
	file(OBJECT_ROOT, "a");
	file(OBJECT_ROOT, "b");
	file(OBJECT_ROOT, "c");
	listing.cookie = 0;
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(list(OBJECT_ROOT, listing.cookie, false, 1, &listing), 0);
		assert_string_equal(listing.name[0], ((const char *[]){ ".", "..", "a", "b", "c" })[i]);
	}
	assert_int_equal(list(OBJECT_ROOT, listing.cookie, false, 1, &listing), 0);
	assert_int_equal(listing.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(make_sets_attributes_and_parent),
		TEST(make_takes_every_type_but_no_other),
		TEST(make_refuses),
		TEST(make_inherits_the_group_of_a_setgid_directory),
		TEST(lookup_tells_what_is_missing),
		TEST(every_request_for_a_dropped_object_is_stale),
		TEST(names_of_one_hash_share_a_chain),
		TEST(link_counts_names),
		TEST(link_stops_at_the_limit),
		TEST(unlink_and_rmdir_check_types),
		TEST(tmpfile_is_gone_when_closed),
		TEST(tmpfile_may_get_a_name),
		TEST(flags_are_kept_and_inherited),
		TEST(immutable_forbids_all_changes),
		TEST(append_only_lets_grow),
		TEST(rename_does_what_its_matrix_says),
		TEST(rename_of_one_object_to_itself_does_nothing),
		TEST(rename_refuses_directories_into_themselves),
		TEST(rename_keeps_other_links_of_the_target),
		TEST(readdir_lists_all_with_attributes),
		TEST(readdir_goes_on_from_any_cookie),
		TEST(readdir_reads_no_more_than_it_gives),
		TEST(readdir_cookies_survive_changes),
		TEST(readdir_steps_through_a_chain),
		TEST(names_are_still_true_at_the_commit),
		TEST(lookup_is_of_one_moment),
		TEST(readdir_is_of_one_moment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
