// SPDX-License-Identifier: GPL-2.0-or-later
// Which blocks are taken: bitmaps in groups under a radix tree of tables, all at fixed places with
// two slots each, so that writing them allocates nothing (format.h). For the epoch thread alone.
// What is in force is never written; an epoch collects takes and frees and writes the other slots.
// DRAM: what the epoch touches, no more.
#ifndef TREE_SPACE_H
#define TREE_SPACE_H

#include "backing.h"
#include "vems/format.h"

struct space;
struct space_root { // as in the superblock
	struct space_entry_disk entry;
	unsigned levels;
};

#define SPACE_BLOCKS_MIN 64u // of a file system, and of its last group: fewer at the end are never used

// Levels of tables for that many blocks; blocks that are never free (superblocks, slots, unused end).
unsigned space_levels(uint64_t blocks);
uint64_t space_fixed_blocks(uint64_t blocks);
struct space_root space_root_format(uint64_t blocks); // of an empty file system

// The queue must be the epoch thread's. seed: of the file system.
int space_new(struct backing *b, struct ioq *q, uint64_t blocks, uint64_t seed, struct space_root in_force,
	      struct space **ret_space);
void space_free(struct space *s);

// In force: what the last epoch freed and could not read is seen when it has ended. Any thread.
uint64_t space_free_blocks(const struct space *s);

// One epoch:
void space_begin(struct space *s);
// Takes a run of up to `want` contiguous blocks, free in force and not taken since; near goal if
// that is free (0: no goal). Runs of 16 and more prefer wholly free groups. 0, -ENOSPC (none at
// all), or an error reading a bitmap (-EIO, -EUCLEAN, that group is passed over if others have room).
int space_take(struct space *s, uint64_t want, block_t goal, block_t *ret_block, uint64_t *ret_count);
// The block in force is free once this epoch is in force. -EUCLEAN (reported) if it was not taken,
// by space_write() at the latest: a bitmap is not read for it before. What an unreadable bitmap
// covers stays taken (reported).
int space_release(struct space *s, block_t block, uint64_t count);
// Gives back blocks taken since space_begin() and not written.
void space_untake(struct space *s, block_t block, uint64_t count);
// Writes bitmaps and tables into their other slots (submitted to q, not waited for) and returns
// the root for the superblock. Nothing may be taken or released after it.
int space_write(struct space *s, struct space_root *ret_root);
int space_written(const struct space *s); // its writes have completed (ioq_wait_all): 0 or the first error
void space_commit(struct space *s, struct space_root now_in_force); // after both superblock copies
void space_abandon(struct space *s); // the epoch never was; after its writes have completed

// A repair's epoch, which believes no map: begins with what is taken (fixed blocks too), to
// which what can be read is added. Parts that cannot be read are made anew.
typedef void (*space_taken_fn)(const void *arg, uint64_t group, uint64_t *ret_bits);
void space_begin_anew(struct space *s, space_taken_fn taken, const void *arg);
// Instead of space_write(): exactly these are taken from now on.
int space_write_anew(struct space *s, space_taken_fn taken, const void *arg, struct space_root *ret_root);

// For checks: calls fn for every run of taken blocks, fixed ones included, reading all bitmaps.
int space_for_each_taken(struct space *s, int (*fn)(void *arg, block_t block, uint64_t count), void *arg);

#endif
