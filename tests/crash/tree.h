// SPDX-License-Identifier: GPL-2.0-or-later
// A tree of files as POSIX has it, and nothing of how vemsfuse keeps it: what a mounted file system must show.
#ifndef CRASH_TREE_H
#define CRASH_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define TREE_INODES 64u
#define TREE_NAMES 64u
#define TREE_XATTRS 24u
#define TREE_NAME_BYTES 32u
#define TREE_FILE_BYTES (96u << 12) // at most

struct tree_xattr {
	char name[TREE_NAME_BYTES];
	size_t bytes;
	unsigned stamp; // that the value is made of
};
struct tree_inode {
	mode_t mode; // 0: none
	unsigned nlink;
	uint64_t size;
	uint8_t *data; // of a file: TREE_FILE_BYTES
	char *target;  // of a symlink
	struct tree_xattr xattr[TREE_XATTRS];
	unsigned xattrs;
	bool timed; // the times are known
	struct timespec mtime, ctime;
};
struct tree_name {
	unsigned parent, child; // inodes
	char name[TREE_NAME_BYTES];
};
struct tree {
	struct tree_inode inode[TREE_INODES]; // 0: the root
	struct tree_name name[TREE_NAMES];
	unsigned names;
};

struct tree *tree_new(void);
struct tree *tree_copy(const struct tree *from);
void tree_free(struct tree *t);

// What a write or an xattr with that stamp has at that place.
uint8_t tree_byte(unsigned stamp, uint64_t at);
void tree_fill(void *data, unsigned stamp, uint64_t offset, size_t bytes);

// 0 or a negative errno, as the file system must return; -EINVAL: not for what is at that path. Times of what is changed become unknown.
int tree_find(const struct tree *t, const char *path, unsigned *ret_inode);
int tree_make(struct tree *t, const char *path, mode_t mode, const char *target);
int tree_link(struct tree *t, const char *path, const char *to);
int tree_unlink(struct tree *t, const char *path);
int tree_rmdir(struct tree *t, const char *path);
int tree_rename(struct tree *t, const char *path, const char *to, bool exchange);
int tree_write(struct tree *t, const char *path, uint64_t offset, size_t bytes, unsigned stamp);
int tree_zero(struct tree *t, const char *path, uint64_t from, uint64_t end, bool keep_size);
int tree_allocate(struct tree *t, const char *path, uint64_t end);
int tree_truncate(struct tree *t, const char *path, uint64_t size);
int tree_chmod(struct tree *t, const char *path, mode_t mode);
int tree_setxattr(struct tree *t, const char *path, const char *name, size_t bytes, unsigned stamp);
int tree_removexattr(struct tree *t, const char *path, const char *name);

#endif
