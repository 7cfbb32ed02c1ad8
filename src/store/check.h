// SPDX-License-Identifier: GPL-2.0-or-later
// Offline check of a pair: the store's part, and what the check of the file system above builds on. And
// its repair: the same pass again, into a new tree (docs/DESIGN.md "Repair").
#ifndef STORE_CHECK_H
#define STORE_CHECK_H

#include <stdatomic.h>
#include "store.h"

enum check_kind {
	// superblocks and tier
	CHECK_SUPER_DAMAGED,  // block; no good copy there
	CHECK_SUPER_DIFFERS,  // block; epochs of the copy in force and of the other one
	CHECK_FRAME_PLACES,   // frames counted one way and the other
	CHECK_FRAME_INDEX,    // frame; what the index has for its page
	CHECK_FRAME_CONTENT,  // frame; checksums
	CHECK_FRAME_STALE,    // frame; checksums, of the block and of its clean copy
	CHECK_FRAME_NOTHING,  // frame; a clean copy of a page that the tree does not have
	CHECK_WORD_DAMAGED,   // found: number of the tier's word
	CHECK_SLOT_DAMAGED,   // frame, of an object if it can be read; found: page
	CHECK_FRAME_CONFLICT, // frame; said to hold another page, or to be both in the log and on the backing
	CHECK_RECORD_DAMAGED, // found: LSN, expected: log ring
	CHECK_LOG_LOST,       // log ring, and bytes of it that cannot be read
	CHECK_RECORD_ITEM,    // key of an item in such a record, as far as it can be read
	// tree
	CHECK_NODE_UNREADABLE, // block; found: errno
	CHECK_NODE_CONTENT,    // block; checksums
	CHECK_NODE_MALFORMED,  // block; expected: level
	CHECK_NODE_ORDER,      // block; objects of the keys, of the separator and of the node's own
	CHECK_RANGE_LOST,      // key of the first item below such a node; of the first behind it, object and rest
	CHECK_ITEM_UNKNOWN,    // key; found: type
	CHECK_ITEM_FUTURE,     // key; expected: cut
	CHECK_EXTENT_MALFORMED, // page
	CHECK_EXTENT_BIRTH,    // page; expected: at most
	CHECK_EXTENT_OVERLAP,  // page; expected: first free page, found: first page
	CHECK_PAGE_LOST,       // page; known to be: it reads as an error
	// data and space
	CHECK_DATA_UNREADABLE, // page; block, errno
	CHECK_DATA_CONTENT,    // page; checksums
	CHECK_BLOCK_RANGE,     // block of a node or page that is not for those
	CHECK_BLOCK_TWICE,     // block used by more than one node or page
	CHECK_BLOCK_FREE,      // used, free in the bitmap; found: how many in a row
	CHECK_BLOCK_LEAKED,    // taken in the bitmap, used by nobody; found: how many in a row
	CHECK_BLOCK_UNKNOWN,   // likewise, but part of the tree could not be read; found: how many in all
	CHECK_SPACE_DAMAGED,   // a bitmap or table; found: errno
	CHECK_SPACE_COUNT,     // free blocks: counted, and as the superblock has it
	// file system: place is the name or the page, or nothing
	CHECK_ROOT_MISSING,
	CHECK_BYTES_LOST,      // of a file, in a part of the tree that cannot be read; from, to; its name and where that is
	CHECK_INODE_MALFORMED,
	CHECK_INODE_MISSING,   // items of an object without one; found: items
	CHECK_DIRENT_MALFORMED,
	CHECK_DIRENT_MISPLACED, // names in what is no directory
	CHECK_XATTR_MALFORMED,
	CHECK_NAME_HASH,
	CHECK_NAME_TWICE,
	CHECK_ENTRY_DANGLING,  // found: the object that is not there
	CHECK_ENTRY_TYPE,      // DT_* of the inode and of the entry
	CHECK_LINKS,           // as counted, as the inode has it
	CHECK_ENTRIES,         // likewise
	CHECK_PARENT,          // likewise
	CHECK_DIRECTORY_TWICE, // found: names
	CHECK_UNREACHABLE,     // a directory from which no way leads to the root
	CHECK_ORPHAN_UNLISTED, // no links, but no ORPHAN item
	CHECK_ORPHAN_LINKED,   // an ORPHAN item, but links
	CHECK_ORPHAN_MISSING,  // an ORPHAN item of no object
	CHECK_XATTRS,          // as counted, as the inode has it
	CHECK_XATTR_FLAGS,     // likewise
	CHECK_SYMLINK,         // target is not there in full
	CHECK_PAGES,           // as counted, as the inode has it
	CHECK_PAGES_MISPLACED, // pages of what has none
	CHECK_PAGES_PAST_END,  // page; expected: pages in all
	CHECK_BYTES_PAST_END,  // page; expected: 0, found: the first other byte
	CHECK_HIDDEN_MISSING,  // value of an xattr: pages expected and found; object: of the inode
	CHECK_HIDDEN_TWICE,    // found: references
	CHECK_HIDDEN_LEAKED,   // pages of an object that nothing refers to; found: pages
	CHECK_KINDS
};

enum check_place { PLACE_NONE, PLACE_BLOCK, PLACE_FRAME, PLACE_PAGE, PLACE_KEY, PLACE_NAME };

struct check_finding {
	enum check_kind kind;
	bool warning; // nothing is lost and the next mount mends it
	bool copied;  // a node or page of which the tier has a copy that is good
	object_t object;
	enum check_place place;
	uint64_t at;      // block, frame, page; key: what comes after the object
	page_t page;      // PLACE_FRAME: of the object
	const char *name; // PLACE_NAME; good during the call
	object_t parent;  // CHECK_BYTES_LOST: the directory that has the name; 0: none has
	uint64_t expected, found;
};

// What a repair does about it.
enum check_mend {
	MEND_SAFE,  // it loses nothing, and nothing has to be guessed
	MEND_LOSES, // something is dropped, made up or moved
	MEND_NOT    // content is gone: it goes on to read as an error
};
enum check_mend check_mend(const struct check_finding *finding);

// "object 17, page 3: content does not match its checksum: expected ..., found ...".
void check_describe(const struct check_finding *finding, char *ret_line, size_t line_bytes);

struct check_result {
	uint64_t errors, warnings;
	uint64_t nodes, items, pages_read, frames, blocks_used; // looked at
	uint64_t nodes_lost; // a sum over those that were not looked at: what is missing may be below; 0: none
};

// The content of the store as it is, item by item: of each key the newest version, DROPs applied. In
// key order; an object's pages come where its extents would. A nonzero return ends the check.
struct check_visitor {
	int (*item)(void *arg, struct item_key key, const void *value, size_t bytes);
	// A run of pages that are not holes; *ret_tag (0 if not set) comes along with their content.
	int (*pages)(void *arg, object_t object, page_t first, unsigned count, uint64_t *ret_tag);
	// Of those pages, sooner or later, those that could be read and are good. Not with quick, unless the
	// page is in the tier alone.
	int (*content)(void *arg, object_t object, page_t page, const void *data, uint64_t tag);
};

struct check_config {
	bool quick; // does not read data blocks
	void (*report)(void *arg, const struct check_finding *finding);
	// Now and then; may be NULL. `what` is in words; of `total` blocks or frames, 0: unknown.
	void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
	void *arg;
	const atomic_bool *cancelled; // -ECANCELED soon after it is set; may be NULL
	const struct check_visitor *visitor; // may be NULL, as may any of its functions
	void *visitor_arg;
};

// The store must be open read-only, no operation running. 0 whatever was found; -ECANCELED, -ENOMEM,
// or what the visitor returned.
int store_check(struct store *store, const struct check_config *config, struct check_result *ret_result);
// After it, or from a visitor for pages that have passed: the first part of [*from, *to) where pages of the object may have
// been that could not be read, and nothing newer is known to have removed them. False: there is none.
bool check_lost_pages(const struct store *store, object_t object, page_t *from, page_t *to);
// Was anything of the tier damaged, so that items may be older than the pages?
bool check_salvaged(const struct store *store);
// The items alone (visitor.item), nothing reported: parts that cannot be read are passed over.
int check_each_item(struct store *store, const struct check_config *config);
// ---- repair --------------------------------------------------------------------------------------

// Opened read-only with config.repair. Mends come to DRAM, over what was recovered, as commits would leave
// them: checks and operations see them, nothing is written. No operation is running.
int mend_item(struct store *store, struct item_key key, const void *value, size_t bytes, bool deleted);
int mend_drop(struct store *store, object_t object, page_t from, page_t to); // pages
int mend_drop_object(struct store *store, object_t object);
int mend_tail(struct store *store, object_t object, page_t page, unsigned bytes); // zeroes from there on
// Pages of which there is nothing, so that they read as errors. -ENOSPC (reported).
int mend_poison(struct store *store, object_t object, page_t from, page_t to);

// Writes all that a check passes now to a new tree, and new bitmaps; nothing in force is touched. From
// then on the store is that tree alone, to be checked once more. No lane is there. nodes_lost: of the check that
// the user was told; -EIO where there are others by now. -ENOSPC (reported).
int store_rebuild(struct store *store, const struct check_config *config, uint64_t nodes_lost);
// And puts it in force. Then the store is only to be closed. An error (reported) leaves the one or the other.
int store_put_in_force(struct store *store);

// For the layer above: counts and reports.
void check_report(const struct check_config *config, struct check_result *result, const struct check_finding *finding);

#endif
