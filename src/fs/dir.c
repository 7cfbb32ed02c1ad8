// SPDX-License-Identifier: GPL-2.0-or-later
// Names: lookup, make, link, unlink, rmdir. Each watches the directory and the object named, so
// that both are at the commit as they were seen. A directory's nlink is 2 + its subdirectories.
#include <dirent.h>
#include "fs_impl.h"

int dir_get(struct op *op, object_t id, struct inode *ret_dir)
{
	int r = inode_watch_get(op, id, ret_dir);

	if (!r && !inode_is(ret_dir, S_IFDIR))
		r = -ENOTDIR;
	if (!r && !ret_dir->disk.nlink)
		r = -ENOENT;
	return r;
}

int dirent_find(struct op *op, object_t dir, const char *name, struct chain *ret_chain)
{
	return chain_find(op, dir, ITEM_DIRENT, name, strlen(name), ret_chain);
}

int dirent_put(struct op *op, struct item_key key, const char *name, const struct inode *child)
{
	union {
		struct dirent_disk dirent;
		uint8_t raw[sizeof(struct dirent_disk) + NAME_BYTES_MAX];
	} u;
	size_t bytes = strlen(name);

	u.dirent.object = child->id;
	u.dirent.type = IFTODT(child->disk.mode);
	u.dirent.name_bytes = bytes;
	memcpy(u.raw + sizeof u.dirent, name, bytes);
	return txn_put(op, key, u.raw, sizeof u.dirent + bytes);
}

// "." and ".." come for file handles, of which the kernel knows neither parent nor whether the
// object is still there; "." of any type of object.
static int lookup_dots(struct op *op, struct fs *fs, object_t id, bool parent, struct stat *ret_attr)
{
	struct inode inode;
	int r;

	r = inode_watch_get(op, id, &inode);
	if (!r && !inode.disk.nlink)
		r = -ESTALE;
	if (!r && parent)
		r = inode_is(&inode, S_IFDIR) ? inode_get(op, inode.disk.parent, &inode) : -ENOTDIR;
	if (!r)
		inode_stat(fs, &inode, ret_attr);
	return r;
}

int fs_lookup(struct op *op, struct fs *fs, object_t dir, const char *name, struct stat *ret_attr)
{
	struct inode inode;
	struct chain entry;
	int r;

	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return lookup_dots(op, fs, dir, name[1], ret_attr);
	r = name_check(name);
	if (!r)
		r = op_watch(op, dir);
	if (!r)
		r = dirent_find(op, dir, name, &entry);
	if (r)
		return r;
	if (!entry.found) {
		r = inode_get(op, dir, &inode);
		if (!r)
			r = inode_is(&inode, S_IFDIR) ? -ENOENT : -ENOTDIR;
		return r;
	}
	r = inode_get(op, entry.dirent.object, &inode);
	if (!r)
		inode_stat(fs, &inode, ret_attr);
	return r;
}

int inode_new(struct op *op, struct fs *fs, const struct fs_cred *cred, const struct inode *dir, mode_t mode, dev_t rdev,
	      const char *target, struct time_disk now, struct inode *ret_inode)
{
	gid_t gid = cred->gid;

	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		break;
	case S_IFLNK:
		if (target)
			break;
		/* fallthrough */
	default:
		return -EINVAL;
	}
	if (rdev > UINT32_MAX) // the low half is the kernel's own encoding, 12 bits of major, 20 of minor
		return -EINVAL;
	if (dir->disk.mode & S_ISGID) {
		gid = dir->disk.gid;
		if (S_ISDIR(mode))
			mode |= S_ISGID;
	}
	ret_inode->id = store_new_object(fs->store);
	ret_inode->bytes = sizeof ret_inode->disk;
	ret_inode->disk = (struct inode_disk){
		.mode = mode,
		.nlink = S_ISDIR(mode) ? 2 : 1,
		.uid = cred->uid,
		.gid = gid,
		.parent = S_ISDIR(mode) ? dir->id : 0,
		.rdev = S_ISCHR(mode) || S_ISBLK(mode) ? (uint32_t)rdev : 0,
		.flags = dir->disk.flags & INODE_FLAGS_INHERITED,
		.atime = now,
		.mtime = now,
		.ctime = now,
		.btime = now,
	};
	return S_ISLNK(mode) ? symlink_set(op, ret_inode, target) : 0;
}

// The directory, and the place for an entry that is not there yet.
static int prepare_add(struct op *op, object_t dir_id, const char *name, struct inode *ret_dir, struct chain *ret_entry)
{
	int r = dir_get(op, dir_id, ret_dir);

	if (!r)
		r = dirent_find(op, dir_id, name, ret_entry);
	if (r)
		return r;
	if (ret_entry->found)
		return -EEXIST;
	if (ret_entry->full)
		return -ENOSPC;
	return inode_may_add(ret_dir);
}

int fs_make(struct op *op, struct fs *fs, const struct fs_cred *cred, object_t dir_id, const char *name, mode_t mode,
	    dev_t rdev, const char *target, struct stat *ret_attr)
{
	struct time_disk now = time_now();
	struct inode dir, inode;
	struct chain entry;
	int r = name_check(name);

	if (!r)
		r = prepare_add(op, dir_id, name, &dir, &entry);
	if (!r && S_ISDIR(mode) && dir.disk.nlink == UINT32_MAX)
		r = -EMLINK;
	if (!r)
		r = inode_new(op, fs, cred, &dir, mode, rdev, target, now, &inode);
	if (!r)
		r = acl_inherit(op, &dir, cred->umask, &inode);
	if (!r)
		r = inode_put(op, &inode);
	if (!r)
		r = dirent_put(op, entry.key, name, &inode);
	if (r)
		return r;
	dir.disk.entries++;
	if (S_ISDIR(mode))
		dir.disk.nlink++;
	inode_modified(&dir, now);
	r = inode_put(op, &dir);
	if (!r)
		r = txn_commit(op, false);
	if (!r)
		inode_stat(fs, &inode, ret_attr);
	return r;
}

int fs_tmpfile(struct op *op, struct fs *fs, const struct fs_cred *cred, object_t dir_id, mode_t mode,
	       struct stat *ret_attr)
{
	struct inode dir, inode;
	int r = dir_get(op, dir_id, &dir);

	if (!r)
		r = inode_may_add(&dir);
	if (!r)
		r = inode_new(op, fs, cred, &dir, mode, 0, NULL, time_now(), &inode);
	if (!r)
		r = acl_inherit(op, &dir, cred->umask, &inode);
	if (r)
		return r;
	inode.disk.nlink = 0;
	r = inode_put(op, &inode);
	if (!r)
		r = txn_put(op, item_key(OBJECT_STORE, ITEM_ORPHAN, inode.id), "", 0);
	if (!r)
		r = txn_commit(op, false);
	if (r)
		return r;
	orphan_add_linkable(fs, inode.id);
	inode_stat(fs, &inode, ret_attr);
	return 0;
}

int fs_link(struct op *op, struct fs *fs, object_t id, object_t dir_id, const char *name, struct stat *ret_attr)
{
	struct time_disk now = time_now();
	struct inode dir, inode;
	struct chain entry;
	bool born;
	int r = name_check(name);

	if (!r)
		r = prepare_add(op, dir_id, name, &dir, &entry);
	if (!r)
		r = inode_watch_get(op, id, &inode);
	if (r)
		return r;
	if (inode_is(&inode, S_IFDIR) || inode_may_change(&inode))
		return -EPERM;
	born = !inode.disk.nlink;
	if (born && !orphan_is_linkable(fs, id))
		return -ENOENT; // an orphan stays one
	if (inode.disk.nlink >= LINKS_MAX)
		return -EMLINK;
	inode.disk.nlink++;
	inode.disk.ctime = now;
	dir.disk.entries++;
	inode_modified(&dir, now);
	r = dirent_put(op, entry.key, name, &inode);
	if (!r)
		r = inode_put(op, &inode);
	if (!r)
		r = inode_put(op, &dir);
	if (!r && born)
		r = txn_delete(op, item_key(OBJECT_STORE, ITEM_ORPHAN, id));
	if (!r)
		r = txn_commit(op, false);
	if (r)
		return r;
	if (born)
		orphan_remove(fs, id);
	inode_stat(fs, &inode, ret_attr);
	return 0;
}

int unlink_child(struct op *op, struct inode *child, struct time_disk now)
{
	int r;

	if (inode_is(child, S_IFDIR))
		child->disk.nlink = 0;
	else if (child->disk.nlink)
		child->disk.nlink--;
	child->disk.ctime = now;
	r = inode_put(op, child);
	if (!r && !child->disk.nlink)
		r = txn_put(op, item_key(OBJECT_STORE, ITEM_ORPHAN, child->id), "", 0);
	return r;
}

static int remove_entry(struct op *op, struct fs *fs, object_t dir_id, const char *name, bool directory)
{
	struct time_disk now = time_now();
	struct inode dir, child;
	struct chain entry;
	int r = name_check(name);

	if (!r)
		r = dir_get(op, dir_id, &dir);
	if (!r)
		r = dirent_find(op, dir_id, name, &entry);
	if (!r && !entry.found)
		r = -ENOENT;
	if (r)
		return r;
	r = inode_watch_get(op, entry.dirent.object, &child);
	if (!r)
		r = inode_may_change(&dir);
	if (!r)
		r = inode_may_change(&child);
	if (r)
		return r;
	if (directory != inode_is(&child, S_IFDIR))
		return directory ? -ENOTDIR : -EISDIR;
	if (directory && child.disk.entries)
		return -ENOTEMPTY;
	if (dir.disk.entries)
		dir.disk.entries--;
	if (directory && dir.disk.nlink > 2)
		dir.disk.nlink--;
	inode_modified(&dir, now);
	r = txn_delete(op, entry.key);
	if (!r)
		r = unlink_child(op, &child, now);
	if (!r)
		r = inode_put(op, &dir);
	if (!r)
		r = txn_commit(op, true);
	if (!r && !child.disk.nlink)
		orphan_add(fs, child.id);
	return r;
}

int fs_unlink(struct op *op, struct fs *fs, object_t dir, const char *name)
{
	return remove_entry(op, fs, dir, name, false);
}

int fs_rmdir(struct op *op, struct fs *fs, object_t dir, const char *name)
{
	return remove_entry(op, fs, dir, name, true);
}
