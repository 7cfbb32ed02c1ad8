// SPDX-License-Identifier: GPL-2.0-or-later
// The on-media truth, in the order of docs/FORMAT.md. All fields are little-endian; reserved
// ones are zero and checked. Checksums are XXH3-64. Of pages, nodes and space: XXH3(content) XOR
// mix(mix(seed, object), page), with mix() of base/hash.h and seed = XXH3 of the file system id. Of
// slots and log records, where ids are mixed in: XXH3 seeded with them.
#ifndef VEMS_FORMAT_H
#define VEMS_FORMAT_H

#include <stdint.h>
#include "vems/types.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "media structures are used in place");

#define VEMS_VERSION 1u
#define VEMS_SUPER_MAGIC UINT64_C(0x0a52505553534d56) // "VMSSUPR\n"
#define VEMS_TIER_MAGIC UINT64_C(0x0a524549545f4d56)  // "VM_TIER\n"
#define VEMS_NODE_MAGIC 0x444e4d56u                   // "VMND"

#define VEMS_INCOMPAT_SNAPSHOTS UINT64_C(1) // reserved
#define VEMS_INCOMPAT_PAST_END UINT64_C(2)  // files may have pages past their size: inode_disk.pages_end
#define VEMS_INCOMPAT_KNOWN VEMS_INCOMPAT_PAST_END
#define VEMS_RO_COMPAT_KNOWN UINT64_C(0)

// ---- backing: superblock --------------------------------------------------------------------

// Copy A in block 0, copy B in the last block. One epoch is one step from one to the next.
enum super_state { SUPER_CLEAN = 1, SUPER_ATTACHED = 2 };

struct space_entry_disk {
	uint64_t word; // bit 63: written; bit 62: which of the two slots; bits 0..55: free blocks
	uint64_t sum;  // of the child (bitmap or table), level and index mixed in
};
#define SPACE_WRITTEN (UINT64_C(1) << 63)
#define SPACE_SLOT (UINT64_C(1) << 62)
#define SPACE_FREE_MASK LSN_MAX

struct super_disk {
	uint64_t magic;
	uint32_t version;
	uint32_t state; // enum super_state
	uint64_t compat, ro_compat, incompat;
	uint8_t fsid[16];
	uint64_t attach; // id of the attached tier, kept when CLEAN; 56 bits, 0: never attached
	uint64_t epoch;
	uint64_t cut; // LSN: all commits <= it are here, none above
	uint64_t blocks;
	uint64_t written_ns; // wall clock at the cut, nanoseconds since 1970
	uint64_t root_block, root_birth, root_sum; // root_block 0: the tree is empty
	uint32_t root_level;                       // 0: the root is a leaf
	uint32_t space_levels;                     // of tables above the bitmaps
	struct space_entry_disk space;             // the top table or, with no levels, the one bitmap
	uint64_t created_ns;
	uint8_t reserved[4096 - 152 - 8];
	uint64_t sum; // of all before it
};
_Static_assert(sizeof(struct super_disk) == PAGE_BYTES, "a superblock is one block");
_Static_assert(offsetof(struct super_disk, reserved) == 152, "layout");

// ---- backing: space -------------------------------------------------------------------------

// Fixed places, two slots each, so that writing space allocates nothing. A group is
// SPACE_GROUP_BLOCKS blocks; a bitmap covers one group, a table covers SPACE_FANOUT children
// (bitmaps or tables). The slots of a group's bitmap are its first two blocks (in group 0 the
// superblock comes before them); then, in a group that is the first of a table's span, two blocks
// for each such table, lowest level first. Bit set: taken. Not written: all free but the fixed.
#define SPACE_GROUP_BLOCKS 32768u
#define SPACE_FANOUT 256u

struct space_table_disk {
	struct space_entry_disk entry[SPACE_FANOUT];
};
_Static_assert(sizeof(struct space_table_disk) == PAGE_BYTES, "a table is one block");

// ---- backing: tree --------------------------------------------------------------------------

struct node_disk {
	uint32_t magic;
	uint16_t level; // 0: leaf
	uint16_t count;
	uint64_t block, birth;
	uint32_t value_bytes; // leaf: of values, which end at the end of the node
	uint32_t reserved;
	uint8_t body[PAGE_BYTES - 32];
};
struct leaf_entry_disk { // body of a leaf: count of these, ascending
	uint64_t object, sub;
	uint16_t offset, bytes; // of the value, from the start of the node
	uint32_t reserved;
};
struct inner_entry_disk { // body of an inner node
	uint64_t object, sub; // first key of the child, exactly
	uint64_t block, birth, sum;
};
_Static_assert(sizeof(struct node_disk) == PAGE_BYTES, "a node is one block");
_Static_assert(sizeof(struct leaf_entry_disk) == 24 && sizeof(struct inner_entry_disk) == 40, "layout");

#define EXTENT_PAGES_MAX 64u
enum extent_flag { EXTENT_UNWRITTEN = 1, EXTENT_POISONED = 2 }; // no block, no sums

struct extent_disk {
	uint64_t block; // first of a run
	uint64_t birth; // cut of the epoch that wrote it
	uint32_t pages;
	uint32_t flags;
	uint64_t sum[]; // of each page, taken when it was written by the user; key mixed in
};

struct drop_disk { // value of ITEM_DROP: pages [from, to) with birth or LSN below the drop's are dead
	uint64_t from, to;
	uint32_t flags;
	uint32_t reserved;
};
enum drop_flag { DROP_OBJECT = 1 }; // the whole object: all pages and items

// ---- tier -----------------------------------------------------------------------------------

// [header A][header B][words][rings][frame table][frames]
#define TIER_WORDS_OFFSET 8192u
#define TIER_WORDS_BYTES 8192u
#define TIER_RINGS_OFFSET (TIER_WORDS_OFFSET + TIER_WORDS_BYTES)
#define TIER_RINGS_MAX 64u // of lanes; one more for items
#define TIER_FRAMES_MIN 64u

struct tier_header_disk {
	uint64_t magic;
	uint32_t version;
	uint32_t rings; // of lanes; the item ring comes after them
	uint64_t compat, ro_compat, incompat;
	uint8_t fsid[16];
	uint64_t size_bytes;
	uint64_t ring_bytes, item_ring_bytes;
	uint64_t table_offset, frames_offset;
	uint64_t frames;
	uint8_t reserved[4096 - 104 - 8];
	uint64_t sum; // of all before it
};
_Static_assert(sizeof(struct tier_header_disk) == PAGE_BYTES, "layout");
_Static_assert(offsetof(struct tier_header_disk, reserved) == 104, "layout");

// Mutable words: 56 bits of value, CRC-8 on top, each in a cache line of its own.
enum tier_word {
	WORD_STATE,    // enum tier_state
	WORD_ATTACH,   // attach id
	WORD_EPOCH,    // of the superblock in force; with TIER_EPOCH_NEXT, that of the next one may be
	WORD_LSN_BASE, // all LSNs seen before this attach or recovery are below
	WORD_TAIL_LSN, // T: no record <= it is needed
	WORD_RING_TAIL // logical offset, one word per ring
};
// LEAVING: in use, until superblocks of the next epoch are there; from then on it holds nothing
enum tier_state { TIER_BLANK = 0, TIER_ATTACHING = 1, TIER_IN_USE = 2, TIER_CLEAN = 3, TIER_LEAVING = 4 };
#define TIER_WORD_STRIDE 64u
#define TIER_EPOCH_NEXT (UINT64_C(1) << 55) // set before superblocks are written

struct slot_disk { // of the frame table, one per frame
	uint64_t check; // of the rest with frame and attach id mixed in; or that of a free slot
	uint64_t object, page;
	uint64_t lsn;
	uint64_t sum; // of the frame's content; key mixed in
	uint64_t flags;
	uint64_t reserved[2];
};
enum slot_flag { SLOT_FILLED = 1 }; // from the backing: clean whatever its LSN
_Static_assert(sizeof(struct slot_disk) == 64, "a slot is one cache line");

#define RECORD_ALIGN 64u
#define RECORD_BYTES_MAX 32768u
#define RING_BYTES_MIN (2 * RECORD_BYTES_MAX)
#define ITEM_RING_BYTES_MIN (4 * RECORD_BYTES_MAX) // half full, it takes the largest record's items again
#define RECORD_SWITCHES_MAX 320u
struct record_disk {
	uint64_t check; // of the rest, with attach id, ring and logical offset mixed in
	uint64_t lsn;
	uint32_t bytes; // whole record, a multiple of RECORD_ALIGN
	uint16_t switches, items;
	uint64_t reserved;
	// switches, then items each followed by its value, padded to 8
};
struct switch_disk {
	uint64_t object, page;
	uint64_t sum;
	uint32_t frame;
	uint32_t reserved;
};
struct item_disk {
	uint64_t object, sub;
	uint64_t lsn; // of the commit that put it: the record's own, or, logged again, the first one
	uint16_t bytes;
	uint16_t flags;
	uint32_t reserved;
};
enum item_flag { ITEM_DELETED = 1 };
_Static_assert(sizeof(struct record_disk) == 32 && sizeof(struct switch_disk) == 32 && sizeof(struct item_disk) == 32,
	       "layout");

// ---- file system items ----------------------------------------------------------------------

// Items of names (ITEM_DIRENT, ITEM_XATTR): the rest of the key is name_hash << 8 | ordinal, with
// name_hash the upper 48 bits of XXH3-64(name, NAME_HASH_SEED). Names of one hash take the first
// free of ordinals 0..255.
#define NAME_HASH_SEED UINT64_C(0x6873616873656d76)
#define NAME_ORDINALS 256u
#define NAME_BYTES_MAX 255u
#define XATTR_BYTES_MAX 65536u
#define SYMLINK_BYTES_MAX 4095u

struct time_disk {
	int64_t sec;
	uint32_t nsec;
	uint32_t reserved;
};

// Value of ITEM_INODE. The target of a symlink follows it, if the two fit ITEM_VALUE_MAX; a longer
// one is the symlink's page 0, zero-filled. Its length is the size. Nothing follows otherwise.
struct inode_disk {
	uint32_t mode, nlink;
	uint32_t uid, gid;
	uint64_t size;    // bytes; directories: 0
	uint64_t parent;  // directories: for ".." and handles
	union {
		uint64_t entries;   // directories, "." and ".." not counted
		uint64_t pages_end; // regular files: pages past the size are below it; 0: there are none
	};
	uint32_t rdev;    // devices: as the kernel encodes them in 32 bits
	uint32_t flags;   // enum inode_flag
	struct time_disk atime, mtime, ctime, btime;
	uint32_t xattrs; // number of them
	uint32_t reserved;
	uint64_t pages; // regular files: of its pages those that are no holes; see INODE_PAGES_UNSURE
};
enum inode_flag {
	INODE_CAPABILITY = 1,  // has the xattr security.capability
	INODE_PAGES_UNSURE = 2, // `pages` is to be counted anew
	INODE_IMMUTABLE = 4,   // these four: chattr(1)
	INODE_APPEND = 8,
	INODE_NODUMP = 16,
	INODE_NOATIME = 32,
	INODE_ACL = 64,          // has the xattr system.posix_acl_access
	INODE_DEFAULT_ACL = 128, // has the xattr system.posix_acl_default
};
#define INODE_FLAGS_KNOWN 255u
#define INODE_FLAGS_INHERITED (INODE_NODUMP | INODE_NOATIME)
_Static_assert(sizeof(struct inode_disk) == 128 && offsetof(struct inode_disk, pages) == 120, "layout");

struct dirent_disk { // value of ITEM_DIRENT
	uint64_t object;
	uint8_t type; // DT_*
	uint8_t name_bytes;
	uint8_t name[];
} __attribute__((packed));

struct xattr_disk { // value of ITEM_XATTR
	uint64_t object;      // hidden, holding the value from page 0 on; 0: the value follows the name
	uint32_t value_bytes; // up to XATTR_BYTES_MAX
	uint8_t name_bytes;
	uint8_t name[];
} __attribute__((packed));

// ITEM_ORPHAN has no value: the object has no name any more, but may be open.

#endif
