// SPDX-License-Identifier: GPL-2.0-or-later
// By which name a finding of the check is known: what the tree has of parents and entries, which may be damaged.
#include "fs_check.h"
#include "fs_impl.h"

#define DEPTH_MAX 64u

struct name_search {
	object_t object;
	uint8_t bytes;
	uint8_t name[NAME_BYTES_MAX];
};

static int match_entry(void *arg, struct item_key key, const void *value, size_t bytes)
{
	struct name_search *search = arg;
	const struct dirent_disk *e = value;

	if (!dirent_valid(e, bytes) || e->object != search->object)
		return 0;
	search->bytes = e->name_bytes;
	memcpy(search->name, e->name, e->name_bytes);
	return 1;
}

// The parent of a directory and its name there.
static int step_up(struct lane *lane, object_t *object, struct name_search *ret_search)
{
	struct inode inode;
	struct op *op = op_begin(lane);
	int r;

	do {
		r = inode_get(op, *object, &inode);
		if (!r && !inode_is(&inode, S_IFDIR))
			r = -ENOENT;
		ret_search->object = *object;
		ret_search->bytes = 0;
		if (!r)
			r = op_scan(op, item_key(inode.disk.parent, ITEM_DIRENT, 0), item_key(inode.disk.parent, ITEM_DIRENT, ITEM_REST_MAX),
				    match_entry, ret_search);
	} while (op_again(op, &r));
	op_end(op);
	if (r <= 0)
		return r ? r : -ENOENT;
	*object = inode.disk.parent;
	return 0;
}

int fs_check_path(struct lane *lane, object_t directory, char *ret_path, size_t path_bytes)
{
	char path[4096];
	size_t at = sizeof path - 1; // it grows to the front
	struct name_search step;

	path[at] = 0;
	for (unsigned depth = 0; directory != OBJECT_ROOT; depth++) {
		int r = depth < DEPTH_MAX ? step_up(lane, &directory, &step) : -ENOENT;
		if (!r && at < step.bytes + 1u)
			r = -ENOENT;
		if (r)
			return r;
		at -= step.bytes;
		memcpy(path + at, step.name, step.bytes);
		path[--at] = '/';
	}
	if (!path[at])
		path[--at] = '/';
	if (sizeof path - at > path_bytes)
		return -ENOENT;
	memcpy(ret_path, path + at, sizeof path - at);
	return 0;
}
