// SPDX-License-Identifier: GPL-2.0-or-later
// Reading ahead of who reads a file in sequence that is not in the tier.
#ifndef FRONTEND_READAHEAD_H
#define FRONTEND_READAHEAD_H

#include "fs.h"

struct readahead;
// 0 with NULL where the store keeps nothing of what is read.
int readahead_new(struct store *store, struct fs *fs, struct readahead **ret_readahead);
void readahead_free(struct readahead *r); // waits for what is under way
// Somebody has read that; `missed`: not all of it was in the tier. Never waits. NULL: nobody reads ahead.
void readahead_note(struct readahead *r, object_t object, uint64_t offset, size_t bytes, bool missed);

#endif
