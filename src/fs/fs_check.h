// SPDX-License-Identifier: GPL-2.0-or-later
// Offline check of a file system: all of store_check(), and what inodes, names, attributes and pages
// must be to each other; and its repair.
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

// Mends: what a check has noted that is to be changed. In DRAM; nothing of the store changes by noting it.
struct fs_mends;
int fs_mends_new(bool drop_damaged, struct fs_mends **ret_mends); // drop_damaged: pages that read as errors, too
void fs_mends_free(struct fs_mends *mends);
// fs_check() that notes mends, too.
int fs_check_noting(struct store *store, const struct check_config *config, struct fs_mends *mends,
		    struct fs_check_result *ret_result);
// Makes them in DRAM, and those that a further check notes, until it notes none; what the further ones lose is
// reported. config: as for the check. No lane is there. -EUCLEAN: that does not end.
int fs_mend(struct store *store, const struct check_config *config, struct fs_mends *mends);
// What had no name any more, and was brought to lost+found.
uint64_t fs_mends_brought(const struct fs_mends *mends);

// The path of a directory, by its parents' entries: 0, or -ENOENT if it cannot be told. `lane` is idle.
int fs_check_path(struct lane *lane, object_t directory, char *ret_path, size_t path_bytes);

#endif
