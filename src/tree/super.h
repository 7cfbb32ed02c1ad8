// SPDX-License-Identifier: GPL-2.0-or-later
// Superblocks: two copies, A and B.
#ifndef TREE_SUPER_H
#define TREE_SUPER_H

#include "backing.h"
#include "vems/format.h"

enum super_found {
	SUPER_NONE,    // neither copy has the magic
	SUPER_GOOD,    // the newer good copy is returned
	SUPER_DAMAGED, // magic there, no copy good
	SUPER_FUTURE,  // good, but of a later version or with unknown incompat bits
	SUPER_SHRUNK   // copy A good, and returned, but of more blocks than the backing has
};
// Reads both copies and chooses; an I/O error where one cannot be read and the other will not do.
// ret_inferior: the copy ('A', 'B') that is not as the chosen one, 0: they are the same. blocks in the super must not exceed
// the backing's.
int super_load(struct backing *b, struct ioq *q, enum super_found *ret_found, struct super_disk *ret_super,
	       char *ret_inferior);
// Seals (checksum) and writes one copy ('A' or 'B'), durable on return.
int super_write(struct backing *b, struct ioq *q, struct super_disk *s, char copy);
void super_seal(struct super_disk *s);
bool super_valid(const struct super_disk *s, uint64_t backing_blocks);
// Zeroes both copies, durable on return: mkfs, before anything else is written.
int super_wipe(struct backing *b, struct ioq *q);
block_t super_block(const struct backing *b, char copy);

#endif
