// SPDX-License-Identifier: GPL-2.0-or-later
// Life cycle: the root directory and the orphans of the last mount.
#include <stdlib.h>
#include "fs_impl.h"

int fs_new(struct store *store, struct fs **ret_fs)
{
	struct fs *fs = calloc(1, sizeof *fs);

	if (!fs)
		return -ENOMEM;
	fs->store = store;
	orphan_init(fs);
	atime_init(fs);
	fs_set_atime(fs, FS_ATIME_RELATIVE, true);
	*ret_fs = fs;
	return 0;
}

void fs_free(struct fs *fs)
{
	if (!fs)
		return;
	orphan_fini(fs);
	atime_fini(fs);
	free(fs);
}

static int make_root(struct op *op, struct fs *fs, uid_t uid, gid_t gid)
{
	struct inode root;
	struct time_disk now = time_now();
	int r;

	r = inode_watch_get(op, OBJECT_ROOT, &root);
	if (!r)
		return inode_is(&root, S_IFDIR) ? 0 : -EUCLEAN;
	if (r != -ESTALE)
		return r;
	if (store_read_only(fs->store))
		return -EROFS;
	root.id = OBJECT_ROOT;
	root.bytes = sizeof root.disk;
	root.disk = (struct inode_disk){ .mode = S_IFDIR | 0755, .nlink = 2, .uid = uid, .gid = gid, .parent = OBJECT_ROOT,
					 .atime = now, .mtime = now, .ctime = now, .btime = now };
	r = inode_put(op, &root);
	return r ? r : txn_commit(op, false);
}

#define ORPHAN_BATCH 512u
struct orphan_batch {
	unsigned count;
	object_t id[ORPHAN_BATCH];
};

static int collect_orphan(void *arg, struct item_key key, const void *value, size_t bytes)
{
	struct orphan_batch *batch = arg;

	batch->id[batch->count++] = item_key_rest(key);
	return batch->count == ORPHAN_BATCH;
}

static int scan_orphans(struct op *op, object_t first, struct orphan_batch *ret_batch)
{
	int r;

	ret_batch->count = 0;
	r = op_scan(op, item_key(OBJECT_STORE, ITEM_ORPHAN, first), item_key(OBJECT_STORE, ITEM_ORPHAN, ITEM_REST_MAX),
		    collect_orphan, ret_batch);
	return r < 0 ? r : 0;
}

static int queue_orphans(struct fs *fs, struct lane *lane)
{
	struct orphan_batch batch;
	object_t first = 0;
	struct op *op;
	int r;

	do {
		op = op_begin(lane);
		do
			r = scan_orphans(op, first, &batch);
		while (op_again(op, &r));
		op_end(op);
		if (r)
			return r;
		for (unsigned i = 0; i < batch.count && !r; i++)
			r = orphan_add_ready(fs, batch.id[i]);
		if (r)
			return r;
		if (batch.count)
			first = batch.id[batch.count - 1] + 1;
	} while (batch.count == ORPHAN_BATCH);
	return 0;
}

int fs_start(struct fs *fs, uid_t uid, gid_t gid)
{
	struct lane *lane;
	struct op *op;
	int r;

	r = lane_new(fs->store, &lane);
	if (r)
		return r;
	op = op_begin(lane);
	do
		r = make_root(op, fs, uid, gid);
	while (op_again(op, &r));
	op_end(op);
	if (!r && !store_read_only(fs->store))
		r = queue_orphans(fs, lane);
	lane_free(lane);
	return r;
}

void fs_stop(struct fs *fs)
{
	struct lane *lane;

	if (store_read_only(fs->store) || lane_new(fs->store, &lane))
		return;
	lane_be_impatient(lane);
	while (fs_write_atime(fs, lane, true))
		;
	lane_free(lane);
}
