// SPDX-License-Identifier: GPL-2.0-or-later
// Offline check of a file system: all of store_check(), and what inodes, names, attributes and pages
// must be to each other.
#ifndef FS_CHECK_H
#define FS_CHECK_H

#include "check.h"
#include "store.h"

struct fs_check_result {
	struct check_result store; // errors and warnings are of both layers
	uint64_t directories, files; // files: all that are no directories
};

// The visitor of the config is the check's own; all else as for store_check(), errors too.
// DRAM: 16 bytes an object, 56 more a directory.
int fs_check(struct store *store, const struct check_config *config, struct fs_check_result *ret_result);
// The path of a directory, by its parents' entries: 0, or -ENOENT if it cannot be told. `lane` is idle.
int fs_check_path(struct lane *lane, object_t directory, char *ret_path, size_t path_bytes);

#endif
