// SPDX-License-Identifier: GPL-2.0-or-later
// Listing a directory, in the order of its entries' keys. A cookie says where to go on: 1 is after
// ".", 2 after "..", rest + 3 after the entry whose key has that rest. So it stays valid whatever is
// made or removed meanwhile, and a listing neither misses nor repeats an entry that stayed.
//
// What one call lists is of one moment. It looks at as much as the caller has room for, and one more,
// however large the directory is.
#include <dirent.h>
#include "fs_impl.h"

#define COOKIE_DOT 1u
#define COOKIE_DOTDOT 2u
#define COOKIE_FIRST 3u

struct listing {
	struct op *op;
	struct fs *fs;
	bool plus;
	fs_fill_fn fill;
	void *arg;
};

// An entry whose inode is gone keeps nlink 0: the directory has changed meanwhile, and the call
// starts again, or it is damaged, and can be listed all the same.
static int entry_stat(const struct listing *l, const struct dirent_disk *dirent, struct stat *ret_attr)
{
	struct inode inode;
	int r;

	*ret_attr = (struct stat){ .st_ino = dirent->object, .st_mode = DTTOIF(dirent->type) };
	if (!l->plus)
		return 0;
	r = inode_get(l->op, dirent->object, &inode);
	if (!r)
		inode_stat(l->fs, &inode, ret_attr);
	return r == -ESTALE ? 0 : r;
}

// 1: the caller has enough.
static int fill_entry(void *arg, struct item_key key, const void *value, size_t bytes)
{
	const struct listing *l = arg;
	const struct dirent_disk *dirent = value;
	char name[NAME_BYTES_MAX + 1];
	struct stat attr;
	int r;

	if (!dirent_valid(dirent, bytes)) {
		name_report_damage(key);
		return -EUCLEAN;
	}
	r = entry_stat(l, dirent, &attr);
	if (r)
		return r;
	memcpy(name, dirent->name, dirent->name_bytes);
	name[dirent->name_bytes] = 0;
	return l->fill(l->arg, name, &attr, item_key_rest(key) + COOKIE_FIRST) != 0;
}

static int fill_dots(const struct inode *dir, uint64_t cookie, fs_fill_fn fill, void *arg)
{
	struct stat attr = { .st_ino = dir->id, .st_mode = S_IFDIR };

	if (cookie < COOKIE_DOT && fill(arg, ".", &attr, COOKIE_DOT))
		return 1;
	attr.st_ino = dir->disk.parent;
	return cookie < COOKIE_DOTDOT && fill(arg, "..", &attr, COOKIE_DOTDOT);
}

int fs_readdir(struct op *op, struct fs *fs, object_t dir_id, uint64_t cookie, bool plus, fs_fill_fn fill, void *arg)
{
	struct listing listing = { op, fs, plus, fill, arg };
	struct inode dir;
	uint64_t rest;
	int r;

	r = inode_watch_get(op, dir_id, &dir);
	if (r)
		return r;
	if (!inode_is(&dir, S_IFDIR))
		return -ENOTDIR;
	if (cookie < COOKIE_DOTDOT && fill_dots(&dir, cookie, fill, arg))
		return 0;
	atime_touch(fs, &dir);
	rest = cookie > COOKIE_DOTDOT ? cookie - COOKIE_FIRST + 1 : 0;
	if (rest > ITEM_REST_MAX)
		return 0;
	r = op_scan(op, item_key(dir_id, ITEM_DIRENT, rest), item_key(dir_id, ITEM_DIRENT, ITEM_REST_MAX), fill_entry, &listing);
	return r < 0 ? r : 0;
}
