// SPDX-License-Identifier: GPL-2.0-or-later
// POSIX on the store: inodes, directories, files, symlinks, extended attributes.
// Functions with an op are bodies of operations (store.h): they may return -ERESTART and are run
// again. All return 0 or a negative errno unless they say otherwise. Ids are object ids.
#ifndef FS_FS_H
#define FS_FS_H

#include <sys/stat.h>
#include <sys/uio.h>
#include "store.h"

struct fs;

int fs_new(struct store *store, struct fs **ret_fs);
// Creates the root directory if the store is new, owned by uid:gid; drops what was unlinked but
// still open when the last mount ended. Uses a lane of its own.
int fs_start(struct fs *fs, uid_t uid, gid_t gid);
void fs_stop(struct fs *fs); // nothing is asked any more: what is in DRAM alone is written down
void fs_free(struct fs *fs);
// When reading a file changes its access time: relatime is the default.
enum fs_atime { FS_ATIME_RELATIVE, FS_ATIME_ALWAYS, FS_ATIME_NEVER };
void fs_set_atime(struct fs *fs, enum fs_atime mode, bool directories); // before the first operation
// Access times are kept in DRAM until there are many: writes one of them down, if nothing has to be waited for;
// `all`: even if there are few, and waits. False: none is left to be written, or not now. The lane is idle.
bool fs_has_atimes(const struct fs *fs); // many
bool fs_write_atime(struct fs *fs, struct lane *lane, bool all);

struct fs_cred { // of the caller; permissions are checked by the kernel
	uid_t uid;
	gid_t gid;
	mode_t umask; // applied here, unless the directory has a default ACL
};

// Also "." of any object and ".." of a directory, for file handles: -ESTALE once it is unlinked.
int fs_lookup(struct op *op, struct fs *fs, object_t dir, const char *name, struct stat *ret_attr);
int fs_getattr(struct op *op, struct fs *fs, object_t id, struct stat *ret_attr);
// Birth of the object too, if ret_birth.
int fs_stat(struct op *op, struct fs *fs, object_t id, struct stat *ret_attr, struct timespec *ret_birth);
// st_blocks of a file with holes may be FS_BLOCKS_UNKNOWN, by whatever call: then this counts them, in
// as many operations as it takes, from { 0 } until `done`.
#define FS_BLOCKS_UNKNOWN (-1)
struct fs_count {
	uint64_t pages; // of 4 KiB
	bool done;
	uint64_t next; // the rest is its own
	int64_t ctime_sec;
	uint32_t ctime_nsec;
	unsigned attempts;
};
int fs_count(struct op *op, struct fs *fs, object_t id, const struct fs_count *before, struct fs_count *ret_count);
#define FS_SET_MODE 1u
#define FS_SET_UID 2u
#define FS_SET_GID 4u
#define FS_SET_SIZE 8u
#define FS_SET_ATIME 16u
#define FS_SET_MTIME 32u
#define FS_SET_ATIME_NOW 64u
#define FS_SET_MTIME_NOW 128u
#define FS_SET_CTIME 256u
#define FS_KILL_SUIDGID 512u
// attr: st_mode, st_uid, st_gid, st_size, st_atim, st_mtim, st_ctim as named by `set`.
int fs_setattr(struct op *op, struct fs *fs, object_t id, const struct stat *attr, unsigned set, struct stat *ret_attr);

// FS_*_FL of <linux/fs.h>: IMMUTABLE, APPEND, NODUMP, NOATIME; others: -EOPNOTSUPP. Who may is the kernel's
// business; what they forbid is refused here, with -EPERM.
int fs_getflags(struct op *op, struct fs *fs, object_t id, unsigned *ret_flags);
int fs_setflags(struct op *op, struct fs *fs, object_t id, unsigned flags);
// May the file be opened so (O_* flags)? What it forbids to whomever, that is.
int fs_may_open(struct op *op, struct fs *fs, object_t id, int flags);

// mode with type; rdev for devices; target for symlinks (mode S_IFLNK | 0777), else NULL.
int fs_make(struct op *op, struct fs *fs, const struct fs_cred *cred, object_t dir, const char *name, mode_t mode,
	    dev_t rdev, const char *target, struct stat *ret_attr);
// Without a name, until fs_link() gives it one: gone once it is closed and forgotten.
int fs_tmpfile(struct op *op, struct fs *fs, const struct fs_cred *cred, object_t dir, mode_t mode,
	       struct stat *ret_attr);
int fs_link(struct op *op, struct fs *fs, object_t id, object_t dir, const char *name, struct stat *ret_attr);
int fs_unlink(struct op *op, struct fs *fs, object_t dir, const char *name); // not a directory
int fs_rmdir(struct op *op, struct fs *fs, object_t dir, const char *name);
// flags: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT, 0, the first and the last together; else
// -EINVAL. cred is for the whiteout.
int fs_rename(struct op *op, struct fs *fs, const struct fs_cred *cred, object_t dir, const char *name,
	      object_t newdir, const char *newname, unsigned flags);
// The length, at most cap; a zero byte follows if there is room.
int fs_readlink(struct op *op, struct fs *fs, object_t id, char *buffer, size_t cap);

// Calls fill for each entry after cookie (0: the start) until it returns nonzero, which means that
// this entry did not fit; "." and ".." first. attr has st_ino and the type in st_mode; all the rest
// too if `plus`, but for "." and ".." and for an entry whose object cannot be found: st_nlink is 0
// then. A body that is run again starts over: the caller empties its buffer before.
typedef int (*fs_fill_fn)(void *arg, const char *name, const struct stat *attr, uint64_t cookie);
int fs_readdir(struct op *op, struct fs *fs, object_t dir, uint64_t cookie, bool plus, fs_fill_fn fill, void *arg);

// Open counts keep unlinked objects alive. Not operations: no op. Only the first can fail: -ENOMEM.
int fs_opened(struct fs *fs, object_t id);
void fs_released(struct fs *fs, object_t id);
void fs_forgotten(struct fs *fs, object_t id); // the kernel knows it no more
// An unlinked object that is neither open nor known: to be dropped with fs_drop(), whose result is for
// fs_dropped(). 0: none, or none now, since one could not be dropped a moment ago: it comes again, or,
// if it is damaged, at the next mount.
object_t fs_next_orphan(struct fs *fs);
bool fs_has_orphans(struct fs *fs); // there is one
int fs_drop(struct op *op, struct fs *fs, object_t id); // 1: not all of it fitted one transaction; once more
void fs_dropped(struct fs *fs, object_t id, int result);

// ret_iov: at most OP_PAGES_MAX entries pointing into the tier, into buffers of the op, or at zeroes;
// good until op_end(). Returns the count of bytes, cut at the end of the file.
// touch: it counts as an access (not so with O_NOATIME).
ssize_t fs_read(struct op *op, struct fs *fs, object_t id, uint64_t offset, size_t bytes, bool touch,
		struct iovec *ret_iov, int *ret_iovcnt);
// All of it or nothing; bytes <= 1 MiB. kill_suidgid clears S_ISUID, and S_ISGID if the group may
// execute: always, unless the frontend knows better. Capabilities are taken away in any case, here
// as by setattr of size or owner.
ssize_t fs_write(struct op *op, struct fs *fs, object_t id, const void *data, size_t bytes, uint64_t offset,
		 bool kill_suidgid);
// From one file to another (or the same), as by fs_write(): at most 1 MiB at a time, through the buffer
// of as many bytes. The count, 0 at the end of the file.
ssize_t fs_copy(struct op *op, struct fs *fs, object_t from, uint64_t offset, object_t to, uint64_t to_offset,
		size_t bytes, void *buffer);
// fallocate(2), of bytes [next, end): zeroes where there are holes, in as many operations as it takes, until next
// is `end`. With keep_size the size stays, also where that is past the end. -ENOSPC. One that fails halfway is to
// be undone: then all is as it was past the end of the file, and past what was allocated there.
struct fs_allocation {
	uint64_t next, end;
	bool keep_size;
	bool begun; // the rest is its own
	uint64_t size_before;
	page_t pages_end_before;
};
int fs_allocate(struct op *op, struct fs *fs, object_t id, const struct fs_allocation *before,
		struct fs_allocation *ret_allocation);
int fs_allocate_undo(struct op *op, struct fs *fs, object_t id, const struct fs_allocation *allocation);
// Holes, and zeroes where only a part of a page is meant; without keep_size the file grows to `end`. What is allocated
// past the end stays.
int fs_punch(struct op *op, struct fs *fs, object_t id, uint64_t offset, uint64_t end, bool keep_size);
int fs_seek(struct op *op, struct fs *fs, object_t id, uint64_t offset, bool data, uint64_t *ret_offset);

// Values up to XATTR_BYTES_MAX; ACLs (system.posix_acl_*) up to 122 entries. FS_XATTR_KILL_SGID, among the flags:
// an access ACL takes S_ISGID away. trusted.* are listed only with `trusted`. The two that read return the length; cap 0: only that.
#define FS_XATTR_KILL_SGID 256
int fs_setxattr(struct op *op, struct fs *fs, object_t id, const char *name, const void *value, size_t bytes,
		int flags);
ssize_t fs_getxattr(struct op *op, struct fs *fs, object_t id, const char *name, void *value, size_t cap);
ssize_t fs_listxattr(struct op *op, struct fs *fs, object_t id, bool trusted, char *list, size_t cap);
int fs_removexattr(struct op *op, struct fs *fs, object_t id, const char *name);

#endif
