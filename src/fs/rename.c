// SPDX-License-Identifier: GPL-2.0-or-later
// Rename: both directories, the object that moves and the one it replaces (or changes places with)
// in one transaction. A directory cannot be moved below itself: the kernel serialises renames of
// directories between directories and checks the path; here only the ends are checked, so that
// no object is changed twice in one transaction.
#include <stdio.h>
#include "fs_impl.h"

struct side {
	const char *name;
	struct inode *dir; // of both sides the same one within a directory
	struct chain entry;
	struct inode child; // if the entry was found
};
struct rename {
	struct inode dir[2];
	struct side from, to;
};

static bool is_directory(const struct side *side)
{
	return side->entry.found && inode_is(&side->child, S_IFDIR);
}

static int find_entry(struct op *op, struct side *side)
{
	return dirent_find(op, side->dir->id, side->name, &side->entry);
}

static int gather(struct op *op, object_t dir, const char *name, object_t newdir, const char *newname,
		  struct rename *ret_rename)
{
	struct rename *rename = ret_rename;
	int r;

	rename->from.name = name;
	rename->to.name = newname;
	rename->from.dir = rename->to.dir = &rename->dir[0];
	r = dir_get(op, dir, &rename->dir[0]);
	if (!r && newdir != dir) {
		rename->to.dir = &rename->dir[1];
		r = dir_get(op, newdir, &rename->dir[1]);
	}
	if (!r)
		r = find_entry(op, &rename->from);
	if (!r)
		r = find_entry(op, &rename->to);
	if (r)
		return r;
	if (!rename->from.entry.found)
		return -ENOENT;
	r = inode_watch_get(op, rename->from.entry.dirent.object, &rename->from.child);
	if (!r && rename->to.entry.found)
		r = inode_watch_get(op, rename->to.entry.dirent.object, &rename->to.child);
	return r;
}

static int check_flags(const struct side *from, const struct side *to)
{
	int r = inode_may_change(from->dir);

	if (!r)
		r = inode_may_change(&from->child);
	if (!r)
		r = to->entry.found ? inode_may_change(to->dir) : inode_may_add(to->dir);
	if (!r && to->entry.found)
		r = inode_may_change(&to->child);
	return r;
}

// 1: nothing to do.
static int check(const struct rename *rename, unsigned flags)
{
	const struct side *from = &rename->from, *to = &rename->to;
	int r = check_flags(from, to);

	if (r)
		return r;
	if (from->child.id == from->dir->id || from->child.id == to->dir->id)
		return -EINVAL;
	if (!to->entry.found) {
		if (flags & RENAME_EXCHANGE)
			return -ENOENT;
		return to->entry.full ? -ENOSPC : 0;
	}
	if (flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (from->child.id == to->child.id)
		return 1; // POSIX: two names of one object stay, both
	if (to->child.id == from->dir->id || to->child.id == to->dir->id)
		return flags & RENAME_EXCHANGE ? -EINVAL : -ENOTEMPTY;
	if (flags & RENAME_EXCHANGE)
		return 0;
	if (is_directory(from) != is_directory(to))
		return is_directory(from) ? -ENOTDIR : -EISDIR;
	return is_directory(to) && to->child.disk.entries ? -ENOTEMPTY : 0;
}

// The child of `from` takes the place of `to`; its own entry is the caller's.
static int move_child(struct op *op, struct side *from, struct side *to, struct time_disk now)
{
	int r;

	from->child.disk.ctime = now;
	if (is_directory(from)) {
		from->child.disk.parent = to->dir->id;
		from->dir->disk.nlink--;
		to->dir->disk.nlink++;
	}
	r = inode_put(op, &from->child);
	return r ? r : dirent_put(op, to->entry.key, to->name, &from->child);
}

// What stays in the place of a name that was in a lower layer of an overlay, too.
static int put_whiteout(struct op *op, struct fs *fs, const struct fs_cred *cred, struct side *side, struct time_disk now)
{
	struct inode whiteout;
	int r = inode_new(op, fs, cred, side->dir, S_IFCHR, 0, NULL, now, &whiteout);

	if (!r)
		r = inode_put(op, &whiteout);
	side->dir->disk.entries++;
	return r ? r : dirent_put(op, side->entry.key, side->name, &whiteout);
}

static int replace(struct op *op, struct side *from, struct side *to, struct time_disk now)
{
	int r;

	if (!to->entry.found)
		to->dir->disk.entries++;
	else if (is_directory(to))
		to->dir->disk.nlink--;
	from->dir->disk.entries--;
	r = move_child(op, from, to, now);
	if (!r && to->entry.found)
		r = unlink_child(op, &to->child, now);
	return r;
}

static int exchange(struct op *op, struct side *from, struct side *to, struct time_disk now)
{
	int r = move_child(op, from, to, now);

	return r ? r : move_child(op, to, from, now);
}

int fs_rename(struct op *op, struct fs *fs, const struct fs_cred *cred, object_t dir, const char *name,
	      object_t newdir, const char *newname, unsigned flags)
{
	struct time_disk now = time_now();
	struct rename rename;
	int r;

	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) ||
	    (flags & RENAME_EXCHANGE && flags != RENAME_EXCHANGE))
		return -EINVAL;
	r = name_check(name);
	if (!r)
		r = name_check(newname);
	if (!r)
		r = gather(op, dir, name, newdir, newname, &rename);
	if (!r)
		r = check(&rename, flags);
	if (r)
		return r > 0 ? 0 : r;
	inode_modified(rename.from.dir, now);
	inode_modified(rename.to.dir, now);
	if (flags == RENAME_EXCHANGE)
		r = exchange(op, &rename.from, &rename.to, now);
	else
		r = replace(op, &rename.from, &rename.to, now);
	if (!r && flags & RENAME_WHITEOUT)
		r = put_whiteout(op, fs, cred, &rename.from, now);
	else if (!r && flags != RENAME_EXCHANGE)
		r = txn_delete(op, rename.from.entry.key);
	if (!r)
		r = inode_put(op, rename.from.dir);
	if (!r && rename.to.dir != rename.from.dir)
		r = inode_put(op, rename.to.dir);
	if (!r)
		r = txn_commit(op, true);
	if (!r && flags != RENAME_EXCHANGE && rename.to.entry.found && !rename.to.child.disk.nlink)
		orphan_add(fs, rename.to.child.id);
	return r;
}
