// SPDX-License-Identifier: GPL-2.0-or-later
// What is done with a damaged pair.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "fs.h"
#include "fs_check.h"
#include "pair.h"
#include "quick.h"

#define ENTRIES_MAX 400u
#define READ_PAGES 40u

#define RUN(body) OP_RUN(u->lane, body)

struct use {
	struct store *store;
	struct fs *fs;
	struct lane *lane;
	object_t entry[ENTRIES_MAX];
	unsigned entries;
	uint64_t cookie;
	uint8_t sum; // of all that was read: it must have been there
};

static int note_entry(void *arg, const char *name, const struct stat *attr, uint64_t cookie)
{
	struct use *u = arg;
	if (cookie <= u->cookie || u->entries == ENTRIES_MAX)
		return 1;
	u->cookie = cookie;
	if (name[0] != '.')
		u->entry[u->entries++] = attr->st_ino;
	u->sum += (uint8_t)strlen(name);
	return 0;
}

static int read_some(struct use *u, struct op *op, object_t id, uint64_t offset)
{
	static struct iovec iov[OP_PAGES_MAX];
	int count = 0;
	ssize_t r = fs_read(op, u->fs, id, offset, READ_PAGES * PAGE_BYTES, true, iov, &count);
	for (int i = 0; r > 0 && i < count; i++)
		for (size_t b = 0; b < iov[i].iov_len; b += 64)
			u->sum += ((const uint8_t *)iov[i].iov_base)[b];
	return (int)r;
}

static void see_xattrs(struct use *u, object_t id)
{
	static char list[4096], value[XATTR_BYTES_MAX];
	int bytes = RUN(fs_listxattr(op, u->fs, id, true, list, sizeof list - 1));
	if (bytes < 0)
		return;
	list[bytes] = 0;
	for (char *name = list; name < list + bytes; name += strlen(name) + 1)
		RUN(fs_getxattr(op, u->fs, id, name, value, sizeof value));
}

static void see(struct use *u, object_t id)
{
	static char target[4096];
	struct stat st;
	uint64_t at;
	if (RUN(fs_getattr(op, u->fs, id, &st)))
		return;
	see_xattrs(u, id);
	if (S_ISLNK(st.st_mode))
		RUN(fs_readlink(op, u->fs, id, target, sizeof target));
	if (!S_ISREG(st.st_mode) || st.st_size == 0)
		return;
	RUN(read_some(u, op, id, 0));
	RUN(read_some(u, op, id, (uint64_t)st.st_size - 1));
	RUN(fs_seek(op, u->fs, id, 0, false, &at));
	RUN(fs_seek(op, u->fs, id, (uint64_t)st.st_size / 2, true, &at));
}

static void see_all(struct use *u, const struct fuzz_pair *p)
{
	u->entry[u->entries++] = OBJECT_ROOT;
	for (unsigned i = 0; i < u->entries; i++) {
		u->cookie = 0;
		RUN(fs_readdir(op, u->fs, u->entry[i], u->cookie, true, note_entry, u));
		see(u, u->entry[i]);
	}
	for (unsigned i = 0; i < p->objects; i += 7) // whether there is a way to them or not
		see(u, p->object[i]);
}

static void change(struct use *u, const struct fuzz_pair *p)
{
	static uint8_t data[3 * PAGE_BYTES + 99];
	static const struct fs_cred cred = { 0, 0, 022 };
	static char value[9000];
	struct stat st = { 0 };
	object_t id = p->object[p->objects / 2], big = p->object[2], dir = p->object[0];
	memset(data, 0x5a, sizeof data);
	RUN(fs_write(op, u->fs, big, data, sizeof data, 5 * PAGE_BYTES + 11, true));
	RUN(fs_write(op, u->fs, id, data, sizeof data, 100, true));
	if (RUN(fs_make(op, u->fs, &cred, OBJECT_ROOT, "new", S_IFREG | 0644, 0, NULL, &st)) == 0)
		RUN(fs_write(op, u->fs, st.st_ino, data, sizeof data, 0, true));
	RUN(fs_make(op, u->fs, &cred, dir, "newer", S_IFDIR | 0755, 0, NULL, &st));
	RUN(fs_rename(op, u->fs, &cred, dir, "big", OBJECT_ROOT, "new", 0));
	RUN(fs_unlink(op, u->fs, dir, "other"));
	RUN(fs_rmdir(op, u->fs, dir, "newer"));
	RUN(fs_setxattr(op, u->fs, p->object[3], "user.large", value, sizeof value, 0));
	RUN(fs_removexattr(op, u->fs, p->object[3], "user.small"));
	st.st_size = 3 * PAGE_BYTES + 5;
	RUN(fs_setattr(op, u->fs, big, &st, FS_SET_SIZE, &st));
	st.st_size = INT64_MAX;
	RUN(fs_setattr(op, u->fs, id, &st, FS_SET_SIZE, &st));
	for (object_t orphan; (orphan = fs_next_orphan(u->fs));) {
		RUN(fs_drop(op, u->fs, orphan));
		fs_dropped(u->fs, orphan, 0);
	}
}

static void use_lane(struct use *u, const struct fuzz_pair *p, bool writes)
{
	see_all(u, p);
	if (!writes)
		return;
	change(u, p);
	evict_some(u->store, 100, true);
	store_sync(u->store);
	evict_some(u->store, 1000, true);
	u->entries = 0;
	see_all(u, p);
	change(u, p);
}

void fuzz_use(struct fuzz_pair *p, const struct store_config *config, bool writes, bool close)
{
	struct use *u = calloc(1, sizeof *u);
	struct vems_stats stats;
	if (!u)
		abort();
	if (fuzz_pair_open(p, config, &u->store)) {
		free(u);
		return;
	}
	if (fs_new(u->store, &u->fs))
		abort();
	if (fs_start(u->fs, 0, 0) == 0 && lane_new(u->store, &u->lane) == 0) {
		use_lane(u, p, writes && !config->read_only);
		store_stats(u->store, &stats);
		lane_free(u->lane);
	}
	fs_free(u->fs);
	if (close)
		store_close(u->store);
	else
		store_abandon(u->store);
	free(u);
}

static void describe(void *arg, const struct check_finding *finding)
{
	char line[512];
	uint64_t *stay = arg;
	check_describe(finding, line, sizeof line);
	*stay += !finding->warning && check_mend(finding) == MEND_NOT;
}

// Errors that a repair would do something about.
static uint64_t check(struct fuzz_pair *p, bool salvage)
{
	const struct store_config config = { .read_only = true, .salvage = salvage };
	uint64_t stay = 0;
	const struct check_config check = { .report = describe, .arg = &stay };
	struct fs_check_result result;
	struct store *s;
	if (fuzz_pair_open(p, &config, &s))
		return 0;
	int r = fs_check(s, &check, &result);
	store_close(s);
	return r ? 0 : result.store.errors - stay;
}

void fuzz_check(struct fuzz_pair *p)
{
	check(p, false);
}

static int mend(struct store *s, struct fs_mends *mends, bool drop_damaged)
{
	uint64_t stay = 0;
	const struct check_config check = { .report = describe, .arg = &stay };
	struct fs_check_result result;
	int r = fs_check_noting(s, &check, mends, &result);
	if (!r && result.store.errors == (drop_damaged ? 0 : stay))
		return -EALREADY;
	if (!r)
		r = fs_mend(s, &check, mends);
	if (!r)
		r = store_rebuild(s, &check, result.store.nodes_lost);
	return r ? r : store_put_in_force(s);
}

void fuzz_repair(struct fuzz_pair *p, bool drop_damaged)
{
	const struct store_config config = { .read_only = true, .salvage = true, .repair = true };
	struct fs_mends *mends;
	struct store *s;
	if (fuzz_pair_open(p, &config, &s))
		return;
	CHECK(fs_mends_new(drop_damaged, &mends) == 0);
	int r = mend(s, mends, drop_damaged);
	fs_mends_free(mends);
	store_close(s);
	CHECK(r || check(p, true) == 0);
}
