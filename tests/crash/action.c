// SPDX-License-Identifier: GPL-2.0-or-later
#include "action.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define P ((uint64_t)PAGE_BYTES)
#define HUNDRED "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
#define LONG_TARGET HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED

const struct action actions_cold[] = {
	{ .kind = ACTION_MAKE, .path = "cold" },
	{ .kind = ACTION_WRITE, .path = "cold", .bytes = 24 * P + 100 },
	{ .kind = ACTION_MAKE, .path = "dirty" },
	{ .kind = ACTION_WRITE, .path = "dirty", .bytes = 6 * P + 300 },
	{ .kind = ACTION_MAKE, .path = "holes" },
	{ .kind = ACTION_WRITE, .path = "holes", .offset = 3 * P, .bytes = 2 * P },
	{ .kind = ACTION_WRITE, .path = "holes", .offset = 20 * P, .bytes = P },
	{ .kind = ACTION_TRUNCATE, .path = "holes", .bytes = 40 * P },
	{ .kind = ACTION_MAKE, .path = "kept" },
	{ .kind = ACTION_WRITE, .path = "kept", .bytes = 2 * P + 100 },
	{ .kind = ACTION_KEEP, .path = "kept", .offset = P, .bytes = 9 * P },
	{ .kind = ACTION_MKDIR, .path = "d" },
	{ .kind = ACTION_MKDIR, .path = "e" },
	{ .kind = ACTION_MKDIR, .path = "d/sub" },
	{ .kind = ACTION_MAKE, .path = "d/file" },
	{ .kind = ACTION_WRITE, .path = "d/file", .bytes = 700 },
	{ .kind = ACTION_MAKE, .path = "linked" },
	{ .kind = ACTION_WRITE, .path = "linked", .bytes = 2 * P },
	{ .kind = ACTION_LINK, .path = "linked", .to = "d/two" },
	{ .kind = ACTION_SYMLINK, .path = "short", .to = "cold" },
	{ .kind = ACTION_SYMLINK, .path = "long", .to = LONG_TARGET },
	{ .kind = ACTION_MAKE, .path = "attr" },
	{ .kind = ACTION_SETXATTR, .path = "attr", .to = "user.small", .bytes = 20 },
	{ .kind = ACTION_SETXATTR, .path = "attr", .to = "user.large", .bytes = 9000 },
	// Several leaves of them.
	{ .kind = ACTION_SETXATTR, .path = "cold", .to = "user.c0", .bytes = 900 },
	{ .kind = ACTION_SETXATTR, .path = "dirty", .to = "user.c1", .bytes = 900 },
	{ .kind = ACTION_SETXATTR, .path = "holes", .to = "user.c2", .bytes = 900 },
	{ .kind = ACTION_SETXATTR, .path = "linked", .to = "user.c3", .bytes = 900 },
	{ .kind = ACTION_SYNC },
	{ .kind = ACTION_EVICT },
};
const unsigned actions_cold_count = sizeof actions_cold / sizeof actions_cold[0];

// As many as take three records of the item ring.
#define B(n) { .kind = ACTION_SETXATTR, .path = "attr", .to = "user.b" #n, .bytes = 900 }

const struct action actions_dirty[] = {
	{ .kind = ACTION_WRITE, .path = "dirty", .offset = P, .bytes = P },
	{ .kind = ACTION_WRITE, .path = "dirty", .offset = 6 * P + 10, .bytes = 20 },
	{ .kind = ACTION_WRITE, .path = "holes", .offset = 10 * P, .bytes = P },
	{ .kind = ACTION_MAKE, .path = "d/sub/leaf" },
	{ .kind = ACTION_MAKE, .path = "open" },
	{ .kind = ACTION_WRITE, .path = "open", .bytes = P },
	{ .kind = ACTION_UNLINK_OPEN, .path = "open" },
	{ .kind = ACTION_RECLAIM },
	{ .kind = ACTION_WRITE, .path = "dirty", .offset = P, .bytes = P },
	B(0), B(1), B(2), B(3), B(4), B(5), B(6), B(7), B(8), B(9), B(10), B(11), B(12), B(13), B(14), B(15), B(16), B(17), B(18),
};
const unsigned actions_dirty_count = sizeof actions_dirty / sizeof actions_dirty[0];

const struct action actions[] = {
	{ "write-dirty", ACTION_WRITE, .path = "dirty", .offset = P, .bytes = P },
	{ "write-cold", ACTION_WRITE, .path = "cold", .offset = 5 * P, .bytes = P },
	{ "write-part", ACTION_WRITE, .path = "cold", .offset = 7 * P + 100, .bytes = 50 },
	{ "write-span", ACTION_WRITE, .path = "dirty", .offset = P + 1000, .bytes = 3 * P },
	{ "write-hole", ACTION_WRITE, .path = "holes", .offset = 12 * P, .bytes = P },
	{ "write-many", ACTION_WRITE, .path = "cold", .offset = 2 * P, .bytes = 20 * P },
	{ "append", ACTION_WRITE, .path = "dirty", .offset = 6 * P + 300, .bytes = 5000 },
	{ "create", ACTION_MAKE, .path = "d/new" },
	{ "unlink", ACTION_UNLINK, .path = "cold" },
	{ "unlink-open", ACTION_UNLINK_OPEN, .path = "cold" }, // dropped by the next mount
	{ "unlink-dirty", ACTION_UNLINK, .path = "dirty" },
	{ "unlink-link", ACTION_UNLINK, .path = "linked" },
	{ "rename", ACTION_RENAME, .path = "d/file", .to = "e/moved" },
	{ "rename-over", ACTION_RENAME, .path = "dirty", .to = "cold" },
	{ "rename-dir", ACTION_RENAME, .path = "d/sub", .to = "e/sub" },
	{ "exchange", ACTION_EXCHANGE, .path = "e", .to = "d/file" },
	{ "link", ACTION_LINK, .path = "cold", .to = "d/cold" },
	{ "symlink", ACTION_SYMLINK, .path = "d/symlink", .to = "../cold" },
	{ "symlink-long", ACTION_SYMLINK, .path = "d/symlink", .to = LONG_TARGET },
	{ "mkdir", ACTION_MKDIR, .path = "e/dir" },
	{ "rmdir", ACTION_RMDIR, .path = "e" },
	{ "truncate-down", ACTION_TRUNCATE, .path = "cold", .bytes = 3 * P + 500 },
	{ "truncate-up", ACTION_TRUNCATE, .path = "holes", .bytes = 60 * P + 1 },
	{ "truncate-zero", ACTION_TRUNCATE, .path = "dirty" },
	{ "chmod", ACTION_CHMOD, .path = "d", .bytes = 0700 },
	{ "setxattr", ACTION_SETXATTR, .path = "attr", .to = "user.small", .bytes = 40 },
	{ "setxattr-large", ACTION_SETXATTR, .path = "cold", .to = "user.large", .bytes = 9000 },
	{ "setxattr-over", ACTION_SETXATTR, .path = "attr", .to = "user.large", .bytes = 700 },
	{ "removexattr", ACTION_REMOVEXATTR, .path = "attr", .to = "user.large" },
	{ "punch", ACTION_PUNCH, .path = "cold", .offset = 4 * P + 10, .bytes = 5 * P },
	{ "zero", ACTION_ZERO, .path = "holes", .offset = 9 * P + 10, .bytes = 40 * P },
	{ "allocate", ACTION_ALLOCATE, .path = "holes", .bytes = 8 * P },
	{ "keep", ACTION_KEEP, .path = "cold", .offset = 20 * P, .bytes = 12 * P },
	{ "keep-far", ACTION_KEEP, .path = "holes", .offset = 50 * P, .bytes = 20 * P },
	{ "append-kept", ACTION_WRITE, .path = "kept", .offset = 2 * P + 100, .bytes = 5000 },
	{ "truncate-kept", ACTION_TRUNCATE, .path = "kept", .bytes = 2 * P + 100 },
	{ "read", ACTION_READ, .path = "cold" }, // into the tier
	{ "fsync", ACTION_FSYNC, .path = "dirty" },
	{ .name = "sync", .kind = ACTION_SYNC },
	{ .name = "evict", .kind = ACTION_EVICT },
	{ .name = "reclaim", .kind = ACTION_RECLAIM },
	{ .name = "unmount", .kind = ACTION_UNMOUNT },
	{ .name = "mount", .kind = ACTION_MOUNT },     // what a crash has left
	{ .name = "remount", .kind = ACTION_REMOUNT }, // what was unmounted
	{ .name = "attach", .kind = ACTION_ATTACH },   // likewise, with a blank tier
	{ .name = "repair", .kind = ACTION_REPAIR },   // what a crash has left, by fsck, which writes all of it anew
	{ .name = "repair-clean", .kind = ACTION_REPAIR_CLEAN }, // what was unmounted, likewise
	{ .name = "format", .kind = ACTION_FORMAT },             // a blank pair, by mkfs
	{ .name = "reformat", .kind = ACTION_REFORMAT },         // one with a file system, by mkfs --force
	{ .name = "format-mount", .kind = ACTION_FORMAT_MOUNT }, // a blank pair, by mounting it
};
const unsigned action_count = sizeof actions / sizeof actions[0];

int action_find(const char *name, size_t bytes)
{
	for (unsigned i = 0; i < action_count; i++)
		if (strlen(actions[i].name) == bytes && memcmp(actions[i].name, name, bytes) == 0)
			return (int)i;
	return -1;
}

// ---- on the model -----------------------------------------------------------------------------------

int action_apply(const struct action *a, struct tree *t, unsigned stamp)
{
	switch (a->kind) {
	case ACTION_WRITE:
		return tree_write(t, a->path, a->offset, a->bytes, stamp);
	case ACTION_MAKE:
		return tree_make(t, a->path, S_IFREG | 0644, NULL);
	case ACTION_MKDIR:
		return tree_make(t, a->path, S_IFDIR | 0755, NULL);
	case ACTION_SYMLINK:
		return tree_make(t, a->path, S_IFLNK | 0777, a->to);
	case ACTION_LINK:
		return tree_link(t, a->path, a->to);
	case ACTION_UNLINK:
	case ACTION_UNLINK_OPEN:
		return tree_unlink(t, a->path);
	case ACTION_RMDIR:
		return tree_rmdir(t, a->path);
	case ACTION_RENAME:
	case ACTION_EXCHANGE:
		return tree_rename(t, a->path, a->to, a->kind == ACTION_EXCHANGE);
	case ACTION_TRUNCATE:
		return tree_truncate(t, a->path, a->bytes);
	case ACTION_CHMOD:
		return tree_chmod(t, a->path, (mode_t)a->bytes);
	case ACTION_SETXATTR:
		return tree_setxattr(t, a->path, a->to, a->bytes, stamp);
	case ACTION_REMOVEXATTR:
		return tree_removexattr(t, a->path, a->to);
	case ACTION_PUNCH:
	case ACTION_ZERO:
		return tree_zero(t, a->path, a->offset, a->offset + a->bytes, a->kind == ACTION_PUNCH);
	case ACTION_ALLOCATE:
		return tree_allocate(t, a->path, a->offset + a->bytes);
	case ACTION_KEEP: // nothing that can be seen
		return tree_zero(t, a->path, a->offset, a->offset, true);
	case ACTION_READ:
	case ACTION_FSYNC:
		return tree_find(t, a->path, &(unsigned){ 0 });
	default:
		return 0;
	}
}

// ---- on the file system -------------------------------------------------------------------------------

static const struct fs_cred cred = { 0, 0, 022 };

static int parent_find(struct mounted *m, const char *path, object_t *ret_parent, const char **ret_name)
{
	const char *slash = strrchr(path, '/');
	char parent[64];
	snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) : 0, path);
	*ret_name = slash ? slash + 1 : path;
	return mounted_find(m, parent, ret_parent);
}

static int do_make(const struct action *a, struct mounted *m)
{
	mode_t mode = a->kind == ACTION_MAKE ? S_IFREG | 0666 : a->kind == ACTION_MKDIR ? S_IFDIR | 0777 : S_IFLNK | 0777;
	object_t dir;
	const char *name;
	struct stat st;
	int r = parent_find(m, a->path, &dir, &name);
	return r ? r : RUN(m, fs_make(op, m->fs, &cred, dir, name, mode, 0, a->to, &st));
}

// As the frontend: the kernel forgets what it knew, and what has no name any more is dropped.
static int forget(struct mounted *m, object_t id)
{
	if (id)
		fs_forgotten(m->fs, id);
	return mounted_drop_orphans(m);
}

static int do_remove(const struct action *a, struct mounted *m)
{
	object_t dir, id = 0;
	const char *name;
	int r = parent_find(m, a->path, &dir, &name);
	if (!r)
		r = mounted_find(m, a->path, &id);
	if (!r)
		r = a->kind == ACTION_RMDIR ? RUN(m, fs_rmdir(op, m->fs, dir, name)) : RUN(m, fs_unlink(op, m->fs, dir, name));
	return r || a->kind == ACTION_UNLINK_OPEN ? r : forget(m, id);
}

static int do_rename(const struct action *a, struct mounted *m)
{
	unsigned flags = a->kind == ACTION_EXCHANGE ? RENAME_EXCHANGE : 0;
	object_t dir, new_dir, over = 0;
	const char *name, *new_name;
	int r = parent_find(m, a->path, &dir, &name);
	if (!r)
		r = parent_find(m, a->to, &new_dir, &new_name);
	if (!r && mounted_find(m, a->to, &over))
		over = 0;
	if (!r)
		r = RUN(m, fs_rename(op, m->fs, &cred, dir, name, new_dir, new_name, flags));
	return r || flags ? r : forget(m, over);
}

static int do_link(const struct action *a, struct mounted *m)
{
	object_t id, dir;
	const char *name;
	struct stat st;
	int r = mounted_find(m, a->path, &id);
	if (!r)
		r = parent_find(m, a->to, &dir, &name);
	return r ? r : RUN(m, fs_link(op, m->fs, id, dir, name, &st));
}

static int do_write(const struct action *a, struct mounted *m, object_t id, unsigned stamp)
{
	uint8_t *data = malloc(a->bytes);
	tree_fill(data, stamp, a->offset, a->bytes);
	int r = RUN(m, fs_write(op, m->fs, id, data, a->bytes, a->offset, true));
	free(data);
	return r < 0 ? r : (uint64_t)r == a->bytes ? 0 : -EIO;
}

static int do_setxattr(const struct action *a, struct mounted *m, object_t id, unsigned stamp)
{
	uint8_t *value = malloc(a->bytes);
	tree_fill(value, stamp, 0, a->bytes);
	int r = RUN(m, fs_setxattr(op, m->fs, id, a->to, value, a->bytes, 0));
	free(value);
	return r;
}

static int do_allocate(const struct action *a, struct mounted *m, object_t id)
{
	struct fs_allocation allocation = { .next = a->offset, .end = a->offset + a->bytes, .keep_size = a->kind == ACTION_KEEP };
	int r = 0;
	while (!r && allocation.next < allocation.end) {
		struct fs_allocation before = allocation;
		r = RUN(m, fs_allocate(op, m->fs, id, &before, &allocation));
	}
	return r;
}

static int do_setattr(const struct action *a, struct mounted *m, object_t id)
{
	struct stat st = { .st_mode = (mode_t)a->bytes, .st_size = (off_t)a->bytes };
	return RUN(m, fs_setattr(op, m->fs, id, &st, a->kind == ACTION_CHMOD ? FS_SET_MODE : FS_SET_SIZE, &st));
}

static int do_read(struct mounted *m, object_t id)
{
	struct iovec iov[OP_PAGES_MAX];
	int count, r = RUN(m, fs_read(op, m->fs, id, 0, TREE_FILE_BYTES, false, iov, &count));
	return r < 0 && r != -EISDIR ? r : 0;
}

static int do_to_object(const struct action *a, struct mounted *m, unsigned stamp)
{
	object_t id;
	int r = mounted_find(m, a->path, &id);
	if (r)
		return r;
	switch (a->kind) {
	case ACTION_WRITE:
		return do_write(a, m, id, stamp);
	case ACTION_TRUNCATE:
	case ACTION_CHMOD:
		return do_setattr(a, m, id);
	case ACTION_SETXATTR:
		return do_setxattr(a, m, id, stamp);
	case ACTION_REMOVEXATTR:
		return RUN(m, fs_removexattr(op, m->fs, id, a->to));
	case ACTION_PUNCH:
	case ACTION_ZERO:
		return RUN(m, fs_punch(op, m->fs, id, a->offset, a->offset + a->bytes, a->kind == ACTION_PUNCH));
	case ACTION_ALLOCATE:
	case ACTION_KEEP:
		return do_allocate(a, m, id);
	case ACTION_READ:
		return do_read(m, id);
	default: // fsync, as the frontend has it
		return store_is_persistent(m->store) ? 0 : store_sync(m->store);
	}
}

// Whatever is clean.
static void *evict_thread(void *arg)
{
	struct store *s = arg;
	struct grace_reader *reader = grace_register(&s->grace);
	grace_enter(&s->grace, reader);
	while (evict_some(s, UINT32_MAX, true))
		;
	grace_leave(reader);
	grace_unregister(reader);
	return NULL;
}

// By another thread, as another lane would: what this one drains later is of no help to it.
static void evict_all(struct mounted *m)
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, evict_thread, m->store))
		abort();
	pthread_join(thread, NULL);
	frames_poll(m->store->tier);
}

// Likewise.
static void reclaim_all(struct mounted *m)
{
	chores_reclaim_to(m->store, atomic_load(&m->store->lsn) - 1);
	frames_poll(m->store->tier);
}

int action_do(const struct action *a, struct mounted *m, unsigned stamp)
{
	switch (a->kind) {
	case ACTION_MAKE:
	case ACTION_MKDIR:
	case ACTION_SYMLINK:
		return do_make(a, m);
	case ACTION_UNLINK:
	case ACTION_UNLINK_OPEN:
	case ACTION_RMDIR:
		return do_remove(a, m);
	case ACTION_RENAME:
	case ACTION_EXCHANGE:
		return do_rename(a, m);
	case ACTION_LINK:
		return do_link(a, m);
	case ACTION_SYNC:
		return store_sync(m->store);
	case ACTION_EVICT:
		evict_all(m);
		return 0;
	case ACTION_RECLAIM:
		reclaim_all(m);
		return 0;
	default:
		return do_to_object(a, m, stamp);
	}
}
