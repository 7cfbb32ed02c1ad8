// SPDX-License-Identifier: GPL-2.0-or-later
// The operations that crash workloads are made of, each on the mounted file system and on the model of it.
#ifndef CRASH_ACTION_H
#define CRASH_ACTION_H

#include "mounted.h"

enum action_kind {
	ACTION_WRITE, ACTION_MAKE, ACTION_MKDIR, ACTION_SYMLINK, ACTION_LINK, ACTION_UNLINK, ACTION_UNLINK_OPEN, ACTION_RMDIR, ACTION_RENAME,
	ACTION_EXCHANGE, ACTION_TRUNCATE, ACTION_CHMOD, ACTION_SETXATTR, ACTION_REMOVEXATTR, ACTION_PUNCH, ACTION_ZERO,
	ACTION_ALLOCATE, ACTION_KEEP, ACTION_READ, ACTION_FSYNC, ACTION_SYNC, ACTION_EVICT, ACTION_RECLAIM,
	// Carried out by who owns the store; the first ones alone, the last one last.
	ACTION_FORMAT, ACTION_REFORMAT, ACTION_FORMAT_MOUNT, ACTION_MOUNT, ACTION_REMOUNT, ACTION_ATTACH, ACTION_REPAIR,
	ACTION_REPAIR_CLEAN, ACTION_UNMOUNT
};
struct action {
	const char *name; // NULL: of the preparation alone
	enum action_kind kind;
	const char *path, *to; // to: another path, a target, or the name of an attribute
	uint64_t offset, bytes;
};

extern const struct action actions[];
extern const unsigned action_count;
// What makes the tree that workloads start from: up to a sync with all of it evicted, and what is dirty on top.
extern const struct action actions_cold[], actions_dirty[];
extern const unsigned actions_cold_count, actions_dirty_count;

int action_find(const char *name, size_t bytes); // its number, or -1
// What the file system must return; -EINVAL: the path is not of a kind that the action is for.
int action_apply(const struct action *a, struct tree *t, unsigned stamp);
int action_do(const struct action *a, struct mounted *m, unsigned stamp);

#endif
