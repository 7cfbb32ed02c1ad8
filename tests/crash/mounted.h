// SPDX-License-Identifier: GPL-2.0-or-later
// A file system on a pair of images, as it would be mounted, without FUSE.
#ifndef CRASH_MOUNTED_H
#define CRASH_MOUNTED_H

#include "fs.h"
#include "store_impl.h"
#include "tree.h"

struct mounted {
	struct store *store;
	struct fs *fs;
	struct lane *lane;
};

// The result of an operation that is `body`, which uses `op`.
#define RUN(m, body) OP_RUN((m)->lane, body)

// On a store that is open. What was made is to be freed whatever the result.
int mounted_start(struct mounted *m, struct store *s);
void mounted_free(struct mounted *m); // not the store
int mounted_find(struct mounted *m, const char *path, object_t *ret_id);
int mounted_drop_orphans(struct mounted *m);
// 0, or 1 with what differs first.
int mounted_compare(struct mounted *m, const struct tree *t, char *text, size_t bytes);
// Names and attributes alone: content stays where it is. Unknown times are noted.
int mounted_compare_and_learn(struct mounted *m, struct tree *t, char *text, size_t bytes);

#endif
