// SPDX-License-Identifier: GPL-2.0-or-later
// Symlinks. Nearly all targets fit the inode's item behind the inode: creating one is a record of
// items, reading one a look at one item. The others are a page.
#include "fs_impl.h"

int symlink_set(struct op *op, struct inode *inode, const char *target)
{
	size_t bytes = strlen(target);
	void *page;
	int r;

	if (!bytes)
		return -ENOENT;
	if (bytes > SYMLINK_BYTES_MAX)
		return -ENAMETOOLONG;
	inode->disk.size = bytes;
	if (sizeof inode->disk + bytes <= sizeof inode->raw) {
		memcpy(inode->raw + sizeof inode->disk, target, bytes);
		inode->bytes = sizeof inode->disk + bytes;
		return 0;
	}
	r = txn_claim(op, inode->id, 0, 1);
	if (r)
		return r;
	page = op_scratch(op, 0);
	memcpy(page, target, bytes);
	return txn_page(op, inode->id, 0, page, NULL);
}

int fs_readlink(struct op *op, struct fs *fs, object_t id, char *buffer, size_t cap)
{
	struct page_view view;
	struct inode inode;
	const void *target;
	size_t bytes;
	int r;

	r = inode_watch_get(op, id, &inode);
	if (r)
		return r;
	if (!inode_is(&inode, S_IFLNK))
		return -EINVAL;
	target = inode.raw + sizeof inode.disk;
	if (inode.bytes == sizeof inode.disk) {
		r = op_read(op, id, 0, 1, false, &view);
		if (r)
			return r;
		target = view.data;
		if (!target)
			return -EUCLEAN;
	}
	atime_touch(fs, &inode);
	bytes = inode.disk.size < cap ? inode.disk.size : cap;
	memcpy(buffer, target, bytes);
	if (bytes < cap)
		buffer[bytes] = 0;
	return (int)bytes;
}
