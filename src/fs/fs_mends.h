// SPDX-License-Identifier: GPL-2.0-or-later
// Between check.c, which notes mends, and mend.c, which makes them.
#ifndef FS_MENDS_H
#define FS_MENDS_H

#include "fs_check.h"

enum mend_kind {
	MEND_DELETE,      // the item of that key
	MEND_NAME,        // the item of that key: to be under the hash of its name
	MEND_TYPE,        // the entry of that key: value is the type
	MEND_NLINK,       // of the inode, as the next five: value
	MEND_ENTRIES,
	MEND_PARENT,
	MEND_XATTRS,
	MEND_XATTR_FLAGS,
	MEND_PAGES,
	MEND_INODE,       // to be well formed, or made up: value is its type if nothing tells, more its pages
	MEND_ORPHAN,      // listed as one: value
	MEND_LOST,        // to lost+found
	MEND_UNHOLD,      // entries of it go from the directory `value`
	MEND_DROP,        // pages [value, more)
	MEND_DROP_OBJECT,
	MEND_POISON,      // pages [value, more), of which there is nothing
	MEND_TAIL         // of page `value`, zero from byte `more` on
};

struct mend {
	enum mend_kind kind;
	object_t object;
	uint64_t sub; // of a key
	uint64_t value, more;
};

struct fs_mends {
	struct mend *mend;
	size_t count, room;
	uint64_t brought; // to lost+found
	bool drop_damaged, damage_noted; // noted: pages that a check has found damaged, once
	bool failed; // no memory for one
};

void mends_add(struct fs_mends *mends, const struct mend *mend);
bool inode_size_good(const struct inode_disk *inode, size_t bytes); // of the item
bool inode_end_good(const struct store *store, const struct inode_disk *inode); // may it have pages_end?

#endif
