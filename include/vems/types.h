// SPDX-License-Identifier: GPL-2.0-or-later
// The units of the project. Pages, frames, blocks and tree nodes are all PAGE_BYTES long;
// distinct names keep them apart.
#ifndef VEMS_TYPES_H
#define VEMS_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE_BYTES 4096u
#define PAGE_SHIFT 12

typedef uint64_t object_t; // file, directory or hidden object; never reused
typedef uint64_t page_t;   // page number within an object
typedef uint32_t frame_t;  // page-sized cell of the tier
typedef uint64_t block_t;  // page-sized cell of the backing
typedef uint64_t lsn_t;    // log sequence number, 56 bits

#define FRAME_NONE UINT32_MAX
#define LSN_MAX ((UINT64_C(1) << 56) - 1)
#define PAGE_MAX ((UINT64_C(1) << 51) - 1) // pages of a file of 2^63 bytes

enum {
	OBJECT_STORE = 0, // what the store keeps of its own; in the frame table: tree nodes, page = block
	OBJECT_ROOT = 1,  // the root directory
	OBJECT_FIRST = 16 // ids below are not handed out
};

// Items have a 16-byte key, ordered by object, then type, then rest.
enum item_type {
	ITEM_INODE = 0,
	ITEM_XATTR = 1,  // rest: 48-bit hash of the name, 8-bit ordinal
	ITEM_DIRENT = 2, // likewise; also the readdir cookie
	ITEM_EXTENT = 3, // rest: first page; the store's own
	ITEM_DROP = 4,   // rest: LSN; the store's own
	ITEM_ORPHAN = 5, // under OBJECT_STORE; rest: object
	ITEM_BAD = 6,    // under OBJECT_STORE; rest: block that must not be used
};

#define ITEM_REST_BITS 56
#define ITEM_REST_MAX ((UINT64_C(1) << ITEM_REST_BITS) - 1)
#define ITEM_VALUE_MAX 1024u // bytes

struct item_key {
	uint64_t object;
	uint64_t sub; // type << 56 | rest
};

static inline struct item_key item_key(object_t object, enum item_type type, uint64_t rest)
{
	return (struct item_key){ object, (uint64_t)type << ITEM_REST_BITS | rest };
}
static inline enum item_type item_key_type(struct item_key key)
{
	return (enum item_type)(key.sub >> ITEM_REST_BITS);
}
static inline uint64_t item_key_rest(struct item_key key)
{
	return key.sub & ITEM_REST_MAX;
}
static inline int item_key_compare(struct item_key a, struct item_key b)
{
	if (a.object != b.object)
		return a.object < b.object ? -1 : 1;
	return a.sub < b.sub ? -1 : a.sub > b.sub;
}
static inline bool item_key_equal(struct item_key a, struct item_key b)
{
	return a.object == b.object && a.sub == b.sub;
}
// Names: 48 bits of hash, then an ordinal among equal hashes.
static inline bool item_key_has_ordinal(struct item_key key)
{
	return item_key_type(key) == ITEM_DIRENT || item_key_type(key) == ITEM_XATTR;
}
#define ITEM_KEY_MIN ((struct item_key){ 0, 0 })
#define ITEM_KEY_MAX ((struct item_key){ UINT64_MAX, UINT64_MAX })

// A tree node or extent is named by block and birth; the parent holds its checksum.
struct node_ref {
	block_t block;
	lsn_t birth;
	uint64_t sum;
};

#endif
