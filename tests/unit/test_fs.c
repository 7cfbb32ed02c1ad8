// SPDX-License-Identifier: GPL-2.0-or-later
// The layer as a whole: start, orphans, damage; and each operation with a restart, and with an
// error, at each of its calls on the store.
#include "fs_world.h"

// ---- start --------------------------------------------------------------------------------------

static void start_creates_the_root_once(void **state)
{
	struct stat attr = attr_of(OBJECT_ROOT);

	assert_int_equal(attr.st_mode, S_IFDIR | 0755);
	assert_int_equal(attr.st_nlink, 2);
	assert_int_equal(attr.st_uid, 7);
	assert_int_equal(attr.st_gid, 8);
	assert_int_equal(w.store->commits, 1);
	remount();
	assert_int_equal(w.store->commits, 1);
}

static void start_writes_nothing_when_read_only(void **state)
{
	struct store *store = fake_store_new();
	struct fs *fs;

	store->read_only = true;
	assert_int_equal(fs_new(store, &fs), 0);
	assert_int_equal(fs_start(fs, 0, 0), -EROFS);
	assert_int_equal(store->commits, 0);
	fs_free(fs);
	fake_store_free(store);
}

// ---- orphans ------------------------------------------------------------------------------------

static void orphan_lives_until_closed_and_forgotten(void **state)
{
	for (int order = 0; order < 2; order++) {
		object_t f = file(OBJECT_ROOT, "f");

		fill_at(f, 'x', 5000, 0);
		fs_opened(w.fs, f);
		fs_opened(w.fs, f);
		assert_int_equal(unlink_name(OBJECT_ROOT, "f"), 0);
		assert_bytes(f, 0, 5000, 'x');
		fs_released(w.fs, f);
		if (order)
			fs_forgotten(w.fs, f);
		else
			fs_released(w.fs, f);
		assert_int_equal(fs_next_orphan(w.fs), 0);
		assert_int_equal(fill_at(f, 'y', 10, 0), 10);
		if (order)
			fs_released(w.fs, f);
		else
			fs_forgotten(w.fs, f);
		assert_int_equal(drop_orphans(), 1);
		assert_false(exists(f));
		assert_int_equal(w.store->pages, 0);
		assert_null(fake_store_item(w.store, item_key(OBJECT_STORE, ITEM_ORPHAN, f)));
	}
}

static void forget_of_a_linked_object_does_nothing(void **state)
{
	object_t f = file(OBJECT_ROOT, "f"), g = file(OBJECT_ROOT, "g");

	fs_forgotten(w.fs, f);
	fs_opened(w.fs, f);
	assert_int_equal(unlink_name(OBJECT_ROOT, "g"), 0);
	fs_forgotten(w.fs, f);
	fs_released(w.fs, f);
	fs_forgotten(w.fs, 4711);
	assert_int_equal(fs_next_orphan(w.fs), 0);
	fs_forgotten(w.fs, g);
	assert_int_equal(fs_next_orphan(w.fs), g);
	assert_int_equal(fs_next_orphan(w.fs), 0);
}

static void orphans_of_the_last_mount_are_dropped(void **state)
{
	char name[16];

	for (unsigned i = 0; i < 1100; i++) {
		snprintf(name, sizeof name, "%u", i);
		file(OBJECT_ROOT, name);
		assert_int_equal(unlink_name(OBJECT_ROOT, name), 0);
	}
	directory(OBJECT_ROOT, "d");
	assert_int_equal(remove_directory(OBJECT_ROOT, "d"), 0);
	remount();
	assert_int_equal(drop_orphans(), 1101);
	assert_int_equal(w.store->items, 1);
	remount();
	assert_int_equal(drop_orphans(), 0);
}

static void drop_of_what_is_gone_clears_the_note(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	log_quiet(1);
	assert_int_equal(RUN(fs_drop(op, w.fs, f)), -EUCLEAN); // has a name
	log_quiet(0);
	assert_int_equal(unlink_name(OBJECT_ROOT, "f"), 0);
	fs_forgotten(w.fs, f);
	w.store->fail_error = -EIO;
	w.store->fail_at = w.store->calls + 1;
	assert_int_equal(RUN(fs_drop(op, w.fs, fs_next_orphan(w.fs))), -EIO);
	fs_dropped(w.fs, f, -EIO);
	assert_int_equal(fs_next_orphan(w.fs), 0); // not at once
	atomic_store(&w.fs->drop_again_ms, 0);
	assert_int_equal(fs_next_orphan(w.fs), f);
	fs_dropped(w.fs, f, -EUCLEAN);
	assert_int_equal(fs_next_orphan(w.fs), 0);
	remount(); // it is found again
	assert_int_equal(drop_orphans(), 1);
	assert_false(exists(f));
}

static void open_counts_of_many(void **state)
{
	for (object_t id = 100; id < 5100; id++)
		for (unsigned n = id % 3 + 1; n; n--)
			fs_opened(w.fs, id);
	for (object_t id = 100; id < 5100; id++)
		orphan_add(w.fs, id);
	for (object_t id = 100; id < 5100; id++)
		fs_forgotten(w.fs, id);
	assert_int_equal(fs_next_orphan(w.fs), 0);
	for (object_t id = 100; id < 5100; id++)
		for (unsigned n = id % 3 + 1; n; n--)
			fs_released(w.fs, id);
	for (object_t id = 100; id < 5100; id++)
		assert_int_equal(fs_next_orphan(w.fs), id);
	assert_int_equal(fs_next_orphan(w.fs), 0);
	assert_int_equal(w.fs->known, 0);
	assert_true(w.fs->buckets <= 64);
}

// ---- damage -------------------------------------------------------------------------------------

static void damaged_items_are_refused(void **state)
{
	object_t f = file(OBJECT_ROOT, "f"), g = file(OBJECT_ROOT, "g");
	struct fake_item *item, saved;
	struct stat attr;

	log_quiet(1);
	item = (struct fake_item *)fake_store_item(w.store, item_key(f, ITEM_INODE, 0));
	saved = *item;
	item->bytes = 50;
	assert_int_equal(RUN(fs_getattr(op, w.fs, f, &attr)), -EUCLEAN);
	*item = saved;
	memset(item->value, 0, 4);
	assert_int_equal(RUN(fs_getattr(op, w.fs, f, &attr)), -EUCLEAN);
	*item = saved;
	item = (struct fake_item *)fake_store_item(w.store, item_key(OBJECT_ROOT, ITEM_DIRENT, name_hash("f", 1) << 8));
	saved = *item;
	item->value[offsetof(struct dirent_disk, name_bytes)] = 200;
	assert_int_equal(lookup(OBJECT_ROOT, "f"), -EUCLEAN);
	assert_int_equal(list(OBJECT_ROOT, 0, false, 10, &listing), -EUCLEAN);
	*item = saved;
	assert_int_equal(set_xattr(g, "user.a", "1", 1, 0), 0);
	item = (struct fake_item *)fake_store_item(w.store, item_key(g, ITEM_XATTR, name_hash("user.a", 6) << 8));
	saved = *item;
	item->bytes = 5;
	assert_int_equal(get_xattr(g, "user.a", NULL, 0), -EUCLEAN);
	assert_int_equal(list_xattr(g, NULL, 0), -EUCLEAN);
	*item = saved;
	log_quiet(0);
}

// ---- restarts and errors at every call ----------------------------------------------------------

// Owner, mask and others, and user 1; the value of both kinds.
static const struct {
	uint32_t version;
	struct {
		uint16_t tag, perm;
		uint32_t id;
	} entry[5];
} acl = { 2, { { 1, 7, 0 }, { 2, 7, 1 }, { 4, 7, 0 }, { 16, 5, 0 }, { 32, 1, 0 } } };

// What they work on; the same ids in every run.
static object_t dir, two, f, g, symlink_, unlinked, guarded, allocated;
static char big[20000], got[20000];

static void prepare(void)
{
	dir = directory(OBJECT_ROOT, "dir");
	two = directory(OBJECT_ROOT, "two");
	f = file(dir, "f");
	g = file(two, "g");
	directory(dir, "empty");
	directory(dir, "sub");
	memset(big, 'b', sizeof big);
	fill_at(f, 'f', 10000, 0);
	set_xattr(f, "user.big", big, sizeof big, 0);
	set_xattr(g, "security.capability", "cap", 3, 0);
	symlink_ = (object_t)make_symlink(dir, "link", "target");
	unlinked = file(dir, "unlinked");
	set_xattr(unlinked, "user.big", big, sizeof big, 0);
	unlink_name(dir, "unlinked");
	guarded = directory(OBJECT_ROOT, "guarded");
	set_xattr(guarded, ACL_ACCESS, &acl, sizeof acl, 0);
	set_xattr(guarded, ACL_DEFAULT, &acl, sizeof acl, 0);
	allocated = file(OBJECT_ROOT, "allocated");
	RUN(fs_allocate(op, w.fs, allocated, &(struct fs_allocation){ .end = 20000, .keep_size = true }, &(struct fs_allocation){ 0 }));
	memset(got, 0, sizeof got);
}

static struct stat got_attr;
static const struct stat new_attr = { .st_size = 5000, .st_mode = 0600 };

static int run_start(void)
{
	struct fs *fs;
	int r = fs_new(w.store, &fs);

	r = r ? r : fs_start(fs, 0, 0);
	fs_free(fs);
	return r;
}
static int run_lookup(void) { return RUN(fs_lookup(op, w.fs, dir, "f", &got_attr)); }
static int run_lookup_none(void) { return RUN(fs_lookup(op, w.fs, dir, "none", &got_attr)); }
static int run_lookup_parent(void) { return RUN(fs_lookup(op, w.fs, dir, "..", &got_attr)); }
static int run_getattr(void) { return RUN(fs_getattr(op, w.fs, f, &got_attr)); }
static int run_setattr(void) { return RUN(fs_setattr(op, w.fs, f, &new_attr, FS_SET_SIZE | FS_SET_MODE, &got_attr)); }
static int run_chown(void) { return RUN(fs_setattr(op, w.fs, g, &new_attr, FS_SET_UID, &got_attr)); }
static int run_create(void) { return make(dir, "new", S_IFREG | 0600); }
static int run_mkdir(void) { return make(dir, "new", S_IFDIR | 0700); }
static int run_symlink(void) { return make_symlink(dir, "new", "short"); }
static int run_symlink_long(void)
{
	char target[2000];

	memset(target, 't', sizeof target - 1);
	target[sizeof target - 1] = 0;
	return make_symlink(dir, "new", target);
}
static int run_readlink(void) { return RUN(fs_readlink(op, w.fs, symlink_, got, sizeof got)); }
static int run_link(void) { return link_to(f, two, "new"); }
static int run_unlink(void) { return unlink_name(dir, "f"); }
static int run_rmdir(void) { return remove_directory(dir, "empty"); }
static int run_rename(void) { return rename_name(dir, "f", two, "new", 0); }
static int run_rename_over(void) { return rename_name(dir, "f", two, "g", 0); }
static int run_rename_directory(void) { return rename_name(dir, "sub", dir, "empty", 0); }
static int run_exchange(void) { return rename_name(dir, "sub", two, "g", RENAME_EXCHANGE); }
static int run_readdir(void) { return list(dir, 0, true, 100, &listing) ?: (int)listing.count; }
static int run_read(void) { return read_at(f, got, 10000, 5); }
static int run_write(void) { return write_at(f, big, 9000, 100); }
static int run_write_capability(void) { return write_at(g, big, 9000, 4096); }
static int run_write_tight(void)
{
	int r;

	w.store->available = 0;
	r = write_at(f, big, 5000, 100);
	w.store->available = 1u << 20;
	return r;
}
static int run_allocate(void)
{
	const struct fs_allocation before = { .next = 100, .end = 200000 };
	struct fs_allocation after;

	return RUN(fs_allocate(op, w.fs, g, &before, &after));
}
static int run_allocate_past_end(void)
{
	const struct fs_allocation before = { .next = 4096, .end = 200000, .keep_size = true };
	struct fs_allocation after;

	return RUN(fs_allocate(op, w.fs, g, &before, &after));
}
static int run_allocate_undo(void)
{
	const struct fs_allocation of = { .next = 20000, .begun = true, .pages_end_before = 2 };

	return RUN(fs_allocate_undo(op, w.fs, allocated, &of));
}
static int run_punch(void) { return RUN(fs_punch(op, w.fs, f, 100, 9000, true)); }
static int run_punch_capability(void) { return RUN(fs_punch(op, w.fs, g, 100, 20000, false)); }
static int run_tmpfile(void) { return RUN(fs_tmpfile(op, w.fs, &cred, dir, S_IFREG | 0600, &got_attr)); }
static int run_whiteout(void) { return rename_name(dir, "f", two, "new", RENAME_WHITEOUT); }
static int run_whiteout_over(void) { return rename_name(dir, "f", two, "g", RENAME_WHITEOUT); }
static int run_copy(void)
{
	static char buffer[MIB];

	return RUN(fs_copy(op, w.fs, f, 5, g, 100, 10000, buffer));
}
static int run_getflags(void)
{
	unsigned flags;

	return RUN(fs_getflags(op, w.fs, f, &flags));
}
static int run_setflags(void) { return RUN(fs_setflags(op, w.fs, f, 0x40)); }
static int run_may_open(void) { return RUN(fs_may_open(op, w.fs, f, 1)); }
static int run_set_acl(void) { return set_xattr(f, ACL_ACCESS, &acl, sizeof acl, 0); }
static int run_set_default_acl(void) { return set_xattr(two, ACL_DEFAULT, &acl, sizeof acl, 0); }
static int run_inherit(void) { return make(guarded, "new", S_IFDIR | 0700); }
static int run_chmod_acl(void) { return RUN(fs_setattr(op, w.fs, guarded, &new_attr, FS_SET_MODE, &got_attr)); }
static int run_seek(void)
{
	uint64_t offset;

	return RUN(fs_seek(op, w.fs, f, 0, false, &offset)) ?: (int)offset;
}
static int run_setxattr(void) { return set_xattr(f, "user.new", "1", 1, 0); }
static int run_setxattr_big(void) { return set_xattr(f, "user.big", big, 9000, 0); }
static int run_getxattr(void) { return get_xattr(f, "user.big", got, sizeof got); }
static int run_listxattr(void) { return list_xattr(f, got, sizeof got); }
static int run_removexattr(void) { return remove_xattr(f, "user.big"); }
static int run_drop(void) { return RUN(fs_drop(op, w.fs, unlinked)); }

static const struct scenario {
	const char *name;
	int (*run)(void);
} scenarios[] = {
	{ "start", run_start },
	{ "lookup", run_lookup },
	{ "lookup none", run_lookup_none },
	{ "lookup parent", run_lookup_parent },
	{ "getattr", run_getattr },
	{ "setattr", run_setattr },
	{ "chown", run_chown },
	{ "create", run_create },
	{ "mkdir", run_mkdir },
	{ "symlink", run_symlink },
	{ "symlink long", run_symlink_long },
	{ "readlink", run_readlink },
	{ "link", run_link },
	{ "unlink", run_unlink },
	{ "rmdir", run_rmdir },
	{ "rename", run_rename },
	{ "rename over", run_rename_over },
	{ "rename directory", run_rename_directory },
	{ "exchange", run_exchange },
	{ "readdir", run_readdir },
	{ "read", run_read },
	{ "write", run_write },
	{ "write capability", run_write_capability },
	{ "write tight", run_write_tight },
	{ "allocate", run_allocate },
	{ "allocate past the end", run_allocate_past_end },
	{ "undo an allocation", run_allocate_undo },
	{ "punch", run_punch },
	{ "punch capability", run_punch_capability },
	{ "tmpfile", run_tmpfile },
	{ "whiteout", run_whiteout },
	{ "whiteout over", run_whiteout_over },
	{ "copy", run_copy },
	{ "getflags", run_getflags },
	{ "setflags", run_setflags },
	{ "may open", run_may_open },
	{ "set acl", run_set_acl },
	{ "set default acl", run_set_default_acl },
	{ "inherit", run_inherit },
	{ "chmod acl", run_chmod_acl },
	{ "seek", run_seek },
	{ "setxattr", run_setxattr },
	{ "setxattr big", run_setxattr_big },
	{ "getxattr", run_getxattr },
	{ "listxattr", run_listxattr },
	{ "removexattr", run_removexattr },
	{ "drop", run_drop },
};

struct outcome {
	int result;
	unsigned calls, restarts, commits, orphans;
	char *before, *after;
};

// A world of its own; the call `fail_at` of the scenario's fails.
static struct outcome play(const struct scenario *s, unsigned fail_at, int error)
{
	struct outcome o = { 0 };

	setup(NULL);
	prepare();
	o.before = fake_store_dump(w.store);
	w.store->calls = w.store->commits = w.store->restarts = 0;
	w.store->fail_at = fail_at;
	w.store->fail_error = error;
	o.result = s->run();
	o.calls = w.store->calls;
	o.commits = w.store->commits;
	o.restarts = w.store->restarts;
	w.store->fail_at = 0;
	o.after = fake_store_dump(w.store);
	o.orphans = (unsigned)atomic_load(&w.fs->orphans);
	teardown(NULL);
	return o;
}

static void free_outcome(struct outcome *o)
{
	free(o->before);
	free(o->after);
}

static void each_scenario(void (*check)(const struct scenario *s, unsigned fail_at, const struct outcome *plain))
{
	for (unsigned i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
		struct outcome plain = play(&scenarios[i], 0, 0);

		assert_true(plain.calls);
		assert_true(plain.commits <= 1);
		for (unsigned n = 1; n <= plain.calls; n++)
			check(&scenarios[i], n, &plain);
		free_outcome(&plain);
	}
}

static void check_restart(const struct scenario *s, unsigned fail_at, const struct outcome *plain)
{
	struct outcome o = play(s, fail_at, -ERESTART);

	if (o.restarts != 1 || o.result != plain->result || o.orphans != plain->orphans || o.commits != plain->commits ||
	    strcmp(o.after, plain->after))
		fail_msg("%s, restart at call %u: result %d, %u restarts, %u orphans", s->name, fail_at, o.result,
			 o.restarts, o.orphans);
	free_outcome(&o);
}

static void check_error(const struct scenario *s, unsigned fail_at, const struct outcome *plain)
{
	struct outcome o = play(s, fail_at, -EIO);

	if (o.result != -EIO || o.orphans != 1 || strcmp(o.after, o.before))
		fail_msg("%s, error at call %u: result %d, %u orphans", s->name, fail_at, o.result, o.orphans);
	free_outcome(&o);
}

static void a_restart_at_any_call_changes_nothing(void **state)
{
	each_scenario(check_restart);
}

static void an_error_at_any_call_leaves_all_as_it_was(void **state)
{
	each_scenario(check_error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(start_creates_the_root_once),
		TEST(start_writes_nothing_when_read_only),
		TEST(orphan_lives_until_closed_and_forgotten),
		TEST(forget_of_a_linked_object_does_nothing),
		TEST(orphans_of_the_last_mount_are_dropped),
		TEST(drop_of_what_is_gone_clears_the_note),
		TEST(open_counts_of_many),
		TEST(damaged_items_are_refused),
		cmocka_unit_test(a_restart_at_any_call_changes_nothing),
		cmocka_unit_test(an_error_at_any_call_leaves_all_as_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
