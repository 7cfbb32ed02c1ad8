// SPDX-License-Identifier: GPL-2.0-or-later
// What the files of the layer share.
#ifndef FS_FS_IMPL_H
#define FS_FS_IMPL_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include "fs.h"
#include "log.h"

#define LINKS_MAX 65000u
#define FILE_BYTES_MAX ((uint64_t)INT64_MAX)
#define WRITE_BYTES_MAX (1u << 20)

struct known;

#define ATIME_SETS 1024u
#define ATIME_WAYS 8u
#define ATIME_PLENTY 1024u // entries: from here on they are written down

struct atime_entry { // under the set's lock; read without
	object_t id; // 0: none
	struct time_disk base, atime;
};
struct atime_set {
	pthread_mutex_t lock;
	_Atomic uint32_t sequence;
	struct atime_entry entry[ATIME_WAYS];
};

struct fs {
	struct store *store;

	struct { // atime.c
		enum fs_atime mode;
		bool directories;
		_Atomic uint32_t count, hand;
		struct atime_set set[ATIME_SETS];
	} atime;

	// orphan.c
	pthread_mutex_t lock;
	struct known **bucket;               // under lock: open objects and orphans, by id
	size_t buckets, known;               // under lock; buckets: 0 or a power of two
	struct known *ready, **ready_end;    // under lock: orphans to be dropped, oldest first
	struct known *dropping;              // under lock: those handed out
	_Atomic uint64_t drop_again_ms;      // not before, since one could not be dropped
	_Atomic size_t orphans, ready_count; // so that the usual answer, none, takes no lock
};

// ---- inode.c

struct inode { // an inode item, as it lies in the store
	object_t id;
	unsigned bytes; // of the item: more than the struct for a short symlink
	union {
		struct inode_disk disk;
		uint8_t raw[ITEM_VALUE_MAX];
	};
};

// -ESTALE: there is none; -EUCLEAN (reported).
int inode_get(struct op *op, object_t id, struct inode *ret_inode);
int inode_watch_get(struct op *op, object_t id, struct inode *ret_inode);
int inode_put(struct op *op, const struct inode *inode);
void inode_stat(struct fs *fs, const struct inode *inode, struct stat *ret_attr);
void inode_modified(struct inode *inode, struct time_disk now); // mtime and ctime
void inode_kill_suidgid(struct inode_disk *disk);
// Of a regular file: behind it all is a hole. That is the end of the file, unless pages were allocated past it.
page_t inode_pages_end(const struct inode_disk *disk);
// To be called with every change of the size: pages past it may be there up to that one.
void inode_set_pages_end(struct inode_disk *disk, page_t end);
bool inode_pages_end_good(const struct inode_disk *disk); // from the media
// `pages` of a regular file, kept in step by those who change its pages, before they change its size.
// A file without holes, which most are, tells by itself what is there. Of others it may take the tree
// to know; if that is not in the tier, the count is marked to be made anew by who asks for it.
bool inode_is_dense(const struct inode_disk *disk);
void inode_count_written(struct op *op, object_t id, struct inode_disk *disk, page_t first, page_t last);
// Returns how many pages have become holes, 0 if that is not known.
uint64_t inode_count_dropped(struct inode_disk *disk, page_t first, page_t end);
static inline page_t pages_of(uint64_t bytes)
{
	return (bytes >> PAGE_SHIFT) + (bytes % PAGE_BYTES != 0);
}
struct time_disk time_now(void);

static inline bool inode_is(const struct inode *inode, mode_t type)
{
	return (inode->disk.mode & S_IFMT) == type;
}

// What chattr(1) forbids: -EPERM. Changing the object itself, or taking a name of it away; adding names to
// a directory.
static inline int inode_may_change(const struct inode *inode)
{
	return inode->disk.flags & (INODE_IMMUTABLE | INODE_APPEND) ? -EPERM : 0;
}
static inline int inode_may_add(const struct inode *dir)
{
	return dir->disk.flags & INODE_IMMUTABLE ? -EPERM : 0;
}

// ---- name.c

// The items of one object whose names have one hash: where a name is, or would go.
struct chain {
	bool found, full;    // full: not found, and all ordinals are taken
	struct item_key key; // found: its own; else the first free one, unless full
	unsigned bytes;      // of the value, if found; it has been checked
	union {
		uint8_t value[ITEM_VALUE_MAX];
		struct dirent_disk dirent;
		struct xattr_disk xattr;
	};
};

extern uint64_t name_hash_mask; // of the hash; tests clear bits to make names collide

uint64_t name_hash(const char *name, size_t bytes);
// Of a directory entry. -ENAMETOOLONG, -EINVAL.
int name_check(const char *name);
// Whether a value from the media is well formed.
bool dirent_valid(const struct dirent_disk *dirent, size_t bytes);
bool xattr_valid(const struct xattr_disk *xattr, size_t bytes);
void name_report_damage(struct item_key key); // of a value that is not
// 0 whether found or not; -EUCLEAN (reported).
int chain_find(struct op *op, object_t object, enum item_type type, const char *name, size_t name_bytes,
	       struct chain *ret_chain);

// ---- dir.c

// Watches it too. -ENOTDIR; -ENOENT: it is removed, nothing may be added.
int dir_get(struct op *op, object_t id, struct inode *ret_dir);
int dirent_find(struct op *op, object_t dir, const char *name, struct chain *ret_chain);
// An object for a directory, not put yet; nlink is that of one name.
int inode_new(struct op *op, struct fs *fs, const struct fs_cred *cred, const struct inode *dir, mode_t mode, dev_t rdev,
	      const char *target, struct time_disk now, struct inode *ret_inode);
int dirent_put(struct op *op, struct item_key key, const char *name, const struct inode *child);
// Takes a name from the child and puts it, as an orphan if it was the last: then nlink is 0, and
// orphan_add() is due after the commit.
int unlink_child(struct op *op, struct inode *child, struct time_disk now);

// ---- symlink.c

// Makes *inode a symlink: in its item, or in a page, claimed and written here.
int symlink_set(struct op *op, struct inode *inode, const char *target);

// ---- xattr.c

int xattr_put(struct op *op, struct item_key key, const char *name, const void *value, size_t bytes); // fits the item
uint32_t xattr_flag(const char *name); // of the inode that has it, or 0
// Part of a transaction that puts the inode afterwards, claims come before it: a write, truncation
// or chown takes the file's capabilities away.
int xattr_drop_capability(struct op *op, struct inode *inode);
// Drops up to HIDDEN_BATCH values that are hidden objects, and their items; ret_more: not all.
#define HIDDEN_BATCH 6u // what one transaction of the store takes, with room for the object itself
int xattr_drop_hidden(struct op *op, struct inode *inode, bool *ret_more);

// ---- acl.c

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
#define ACL_BYTES_MAX (ITEM_VALUE_MAX - sizeof(struct xattr_disk) - (sizeof ACL_DEFAULT - 1))

// Before one of them is set: the inode's mode follows an access ACL. needless: the mode says it all, and
// there is to be none.
int acl_prepare(struct inode *inode, const char *name, const void *value, size_t bytes, bool *ret_needless);
int acl_chmod(struct op *op, const struct inode *inode); // the access ACL follows the mode
// Mode and ACLs of a new object, whose mode is as it was asked for: puts the ACLs, not the inode.
int acl_inherit(struct op *op, const struct inode *dir, mode_t umask, struct inode *inode);

// ---- atime.c

void atime_init(struct fs *fs);
void atime_fini(struct fs *fs);
void atime_touch(struct fs *fs, const struct inode *inode); // it has been read
void atime_forget(struct fs *fs, object_t id);              // it has been set
struct time_disk atime_of(struct fs *fs, const struct inode *inode);

// ---- orphan.c

void orphan_init(struct fs *fs);
void orphan_fini(struct fs *fs);
// Unlinked by a commit of this mount, so that the kernel knows it.
void orphan_add(struct fs *fs, object_t id);
// Likewise, but may get a name again (O_TMPFILE): then orphan_remove() is due after the commit.
void orphan_add_linkable(struct fs *fs, object_t id);
bool orphan_is_linkable(struct fs *fs, object_t id);
void orphan_remove(struct fs *fs, object_t id);
// To be dropped: neither open nor known.
int orphan_add_ready(struct fs *fs, object_t id);

#endif
