// SPDX-License-Identifier: GPL-2.0-or-later
// The damage that the check finds and the repair mends, and what is found of each.
#include "check_world.h"
#include <dirent.h>
#include <errno.h>
#include "walk.h"

// ---- damage to the images ----------------------------------------------------------------------------------

static void damage_leaf(void)
{
	leaf_of(item_key(big, ITEM_INODE, 0))->body[NODE_BODY_BYTES - 1] ^= 1;
}

static void damage_root(void)
{
	assert_true(root_node()->level > 0);
	root_node()->body[7] ^= 0x10;
}

void damage_data(void)
{
	((uint8_t *)block_at(extent_of(big, 0)->block + 3))[77] ^= 4;
}

static void damage_bitmap(void)
{
	bitmap()[3] ^= 2;
}

void damage_super_a(void)
{
	super()->created_ns ^= 1;
}

void damage_super_b(void)
{
	super_b()->reserved[100] ^= 1;
}

void age_super_b(void)
{
	super_b()->epoch--;
	super_seal(super_b());
}

static void swap_blocks(block_t a, block_t b)
{
	uint8_t page[PAGE_BYTES];
	memcpy(page, block_at(a), PAGE_BYTES);
	memcpy(block_at(a), block_at(b), PAGE_BYTES);
	memcpy(block_at(b), page, PAGE_BYTES);
}

static void swap_data(void)
{
	swap_blocks(extent_of(big, 0)->block, extent_of(big, 0)->block + 1);
}

static void swap_nodes(void)
{
	swap_blocks(node_child(root_node(), 0).block, node_child(root_node(), 1).block);
}

static void leak_block(void)
{
	block_t block = BACKING_BYTES / PAGE_BYTES - 100;
	bitmap_change(block, true);
}

void free_used_block(void)
{
	bitmap_change(extent_of(big, 0)->block + 5, false);
}

static void use_block_twice(void)
{
	extent_of(linked, 0)->block = extent_of(odd, 0)->block;
	reseal();
}

static void use_superblock(void)
{
	extent_of(linked, 0)->block = 1;
	reseal();
}

void change_extent_sum(void)
{
	extent_of(big, 0)->sum[2] ^= 1;
	reseal();
}

static void overlap_extents(void)
{
	struct item_key key = item_key(big, ITEM_EXTENT, 64);
	struct node_disk *n = leaf_of(key);
	struct leaf_entry_disk *e = (struct leaf_entry_disk *)n->body;
	e[node_lower_bound(n, key)].sub--;
	reseal();
}

static void future_extent(void)
{
	extent_of(big, 0)->birth = leaf_of(item_key(big, ITEM_EXTENT, 0))->birth + 1;
	reseal();
}

static void unsort_leaf(void)
{
	struct node_disk *n = leaf_of(item_key(big, ITEM_INODE, 0));
	struct leaf_entry_disk *e = (struct leaf_entry_disk *)n->body;
	struct leaf_entry_disk first = e[0];
	e[0].object = e[1].object;
	e[0].sub = e[1].sub;
	e[1].object = first.object;
	e[1].sub = first.sub;
	seal_leaf(n->block);
}

static void wrong_separator(void)
{
	struct inner_entry_disk *e = (struct inner_entry_disk *)root_node()->body;
	e[1].sub++;
	seal_root();
}

static void child_twice(void)
{
	struct inner_entry_disk *e = (struct inner_entry_disk *)root_node()->body;
	e[1].block = e[0].block;
	seal_root();
}

static void unknown_type(void)
{
	struct item_key key = item_key(OBJECT_STORE, ITEM_ORPHAN, orphan);
	struct node_disk *n = leaf_of(key);
	struct leaf_entry_disk *e = (struct leaf_entry_disk *)n->body;
	assert_true(item_key_equal(node_key(n, 0), key));
	e[0].sub = (uint64_t)77 << ITEM_REST_BITS;
	reseal();
}

static void no_pages_past_end(void)
{
	super()->incompat = 0;
	supers_seal();
}

const struct damage damages[] = {
	{ "leaf", damage_leaf, true, { CHECK_NODE_CONTENT, END } },
	{ "root", damage_root, false, { CHECK_NODE_CONTENT, CHECK_RANGE_LOST, CHECK_BLOCK_UNKNOWN, END } },
	{ "data", damage_data, false, { CHECK_DATA_CONTENT, END } },
	{ "bitmap", damage_bitmap, false, { CHECK_SPACE_DAMAGED, END } },
	{ "super A", damage_super_a, false, { CHECK_SUPER_DAMAGED, END } },
	{ "super B", damage_super_b, false, { CHECK_SUPER_DAMAGED, END } },
	{ "super B old", age_super_b, false, { CHECK_SUPER_DIFFERS, END } },
	{ "swapped data", swap_data, false, { CHECK_DATA_CONTENT, END } },
	{ "swapped nodes", swap_nodes, true, { CHECK_NODE_CONTENT, END } },
	{ "leaked block", leak_block, false, { CHECK_BLOCK_LEAKED, END } },
	{ "free block in use", free_used_block, false, { CHECK_BLOCK_FREE, END } },
	{ "block used twice", use_block_twice, false, { CHECK_BLOCK_TWICE, CHECK_BLOCK_LEAKED, CHECK_DATA_CONTENT, END } },
	{ "fixed block used", use_superblock, true, { CHECK_BLOCK_RANGE, CHECK_BLOCK_LEAKED, END } },
	{ "wrong checksum of a page", change_extent_sum, true, { CHECK_DATA_CONTENT, END } },
	{ "extents overlap", overlap_extents, true, { CHECK_EXTENT_OVERLAP, END } },
	{ "extent of the future", future_extent, false, { CHECK_EXTENT_BIRTH, END } },
	{ "keys out of order", unsort_leaf, true, { CHECK_NODE_MALFORMED, END } },
	{ "wrong separator", wrong_separator, true, { CHECK_NODE_ORDER, END } },
	{ "child twice", child_twice, true, { CHECK_BLOCK_TWICE, END } },
	{ "pages past the end without the format's leave", no_pages_past_end, false, { CHECK_INODE_MALFORMED, END } },
	{ "unknown item", unknown_type, false, { CHECK_ITEM_UNKNOWN, CHECK_ORPHAN_UNLISTED, END } },
};

const unsigned damages_count = sizeof damages / sizeof damages[0];

// ---- damage to the tier -----------------------------------------------------------------------------------

// A frame of the images with those bits of state set or clear, which holds a page.
frame_t some_frame(uint16_t set, uint16_t clear, struct tier_geometry *ret_geometry)
{
	struct store_config c = config;
	struct store *s;
	frame_t f;

	c.read_only = true;
	assert_int_equal(store_open(&c, &s), 0);
	*ret_geometry = s->tier->geometry;
	for (f = 0; f < s->tier->frames; f++) {
		const struct frame *fr = &s->tier->frame[f];
		uint16_t state = frame_state(fr);
		if (frame_place(state) == FRAME_INDEXED && fr->object != OBJECT_STORE && (state & set) == set && !(state & clear))
			break;
	}
	assert_true(f < s->tier->frames);
	store_close(s);
	return f;
}

// ---- damage of meaning: committed in good order ---------------------------------------------------------------

static int put_inode(struct op *op, object_t id, void (*change)(struct inode *inode))
{
	struct inode inode;
	int r = inode_watch_get(op, id, &inode);
	if (r)
		return r;
	change(&inode);
	r = inode_put(op, &inode);
	return r ? r : txn_commit(op, false);
}

static void more_links(struct inode *i) { i->disk.nlink++; }
static void no_links(struct inode *i) { i->disk.nlink = 0; }
static void more_entries(struct inode *i) { i->disk.entries++; }
static void more_xattrs(struct inode *i) { i->disk.xattrs++; }
static void other_parent(struct inode *i) { i->disk.parent = second; }
static void capability(struct inode *i) { i->disk.flags |= INODE_CAPABILITY; }
static void bad_mode(struct inode *i) { i->disk.mode |= 1u << 20; }
static void shorter(struct inode *i) { i->disk.size = 2 * PAGE_BYTES; }
static void shorter_by_bytes(struct inode *i) { i->disk.size = 2 * PAGE_BYTES + 50; }
static void shorter_by_pages(struct inode *i) { i->disk.size = PAGE_BYTES; }
static void pages_end_within(struct inode *i) { i->disk.pages_end = 3; }

static int links_of_file(struct op *op) { return put_inode(op, linked, more_links); }
static int links_of_directory(struct op *op) { return put_inode(op, sub, more_links); }
static int unlisted_orphan(struct op *op) { return put_inode(op, big, no_links); }
static int linked_orphan(struct op *op) { return put_inode(op, orphan, more_links); }
static int entries(struct op *op) { return put_inode(op, sub, more_entries); }
static int xattrs(struct op *op) { return put_inode(op, attributed, more_xattrs); }
static int parent(struct op *op) { return put_inode(op, subsub, other_parent); }
static int flag(struct op *op) { return put_inode(op, big, capability); }
static int malformed(struct op *op) { return put_inode(op, odd, bad_mode); }
static int pages_past_end(struct op *op) { return put_inode(op, big, shorter); }
static int bytes_past_end(struct op *op) { return put_inode(op, odd, shorter_by_bytes); }
static int data_past_end(struct op *op) { return put_inode(op, allocated, shorter_by_pages); }
static int pages_end(struct op *op) { return put_inode(op, allocated, pages_end_within); }


static int put_entry(struct op *op, object_t dir, const char *name, object_t object, uint8_t type, uint64_t key_change)
{
	struct chain chain;
	uint8_t raw[sizeof(struct dirent_disk) + NAME_BYTES_MAX];
	struct dirent_disk *e = (struct dirent_disk *)raw;
	size_t bytes = strlen(name);
	int r = dirent_find(op, dir, name, &chain);

	if (r)
		return r;
	e->object = object;
	e->type = type;
	e->name_bytes = (uint8_t)bytes;
	memcpy(e->name, name, bytes);
	chain.key.sub ^= key_change;
	r = txn_put(op, chain.key, raw, sizeof *e + bytes);
	return r ? r : txn_commit(op, false);
}

static int delete_entry(struct op *op, object_t dir, const char *name)
{
	struct chain chain;
	int r = dirent_find(op, dir, name, &chain);
	if (!r)
		r = txn_delete(op, chain.key);
	return r ? r : txn_commit(op, true);
}

static int delete_item(struct op *op, struct item_key key)
{
	int r = txn_delete(op, key);
	return r ? r : txn_commit(op, true);
}

static int put_page(struct op *op, object_t object, page_t page)
{
	uint8_t *data = op_scratch(op, 0);
	int r = txn_claim(op, object, page, 1);
	data[0] = 1;
	if (!r)
		r = txn_page(op, object, page, data, NULL);
	return r ? r : txn_commit(op, false);
}

// Their page is in the tier alone.
static int dirty_past_end(struct op *op)
{
	uint8_t *data = op_scratch(op, 0);
	int r = txn_claim(op, odd, 2, 1);
	memset(data, 1, 100);
	memset(data + 100, 0, PAGE_BYTES - 100);
	if (!r)
		r = txn_page(op, odd, 2, data, NULL);
	return r ? r : put_inode(op, odd, shorter_by_bytes);
}

static int cycle(struct op *op)
{
	// sub moves below its own subdirectory, in all but the kernel's view.
	struct inode above, dir, below;
	struct chain chain;
	int r = inode_watch_get(op, OBJECT_ROOT, &above);
	if (!r)
		r = inode_watch_get(op, sub, &dir);
	if (!r)
		r = inode_watch_get(op, subsub, &below);
	if (!r)
		r = dirent_find(op, OBJECT_ROOT, "sub", &chain);
	if (!r)
		r = txn_delete(op, chain.key);
	if (!r)
		r = dirent_find(op, subsub, "sub", &chain);
	if (!r)
		r = dirent_put(op, chain.key, "sub", &dir);
	above.disk.entries--;
	above.disk.nlink--;
	below.disk.entries++;
	below.disk.nlink++;
	dir.disk.parent = subsub;
	if (!r)
		r = inode_put(op, &above);
	if (!r)
		r = inode_put(op, &dir);
	if (!r)
		r = inode_put(op, &below);
	return r ? r : txn_commit(op, false);
}

int dangling(struct op *op) { return put_entry(op, sub, "nothing", 999999, DT_REG, 0); }
static int entry_type(struct op *op) { return put_entry(op, sub, "linked", linked, DT_DIR, 0); }
static int wrong_hash(struct op *op) { return put_entry(op, sub, "here", big, DT_REG, 0x10000); }
static int name_twice(struct op *op) { return put_entry(op, sub, "linked", linked, DT_REG, 1); }
static int bad_name(struct op *op) { return put_entry(op, sub, "a/b", big, DT_REG, 0); }
static int entry_in_file(struct op *op) { return put_entry(op, big, "x", linked, DT_REG, 0); }
static int directory_twice(struct op *op) { return put_entry(op, second, "again", subsub, DT_DIR, 0); }
static int unreachable(struct op *op) { return delete_entry(op, OBJECT_ROOT, "sub"); }
static int no_entry(struct op *op) { return delete_entry(op, OBJECT_ROOT, "big"); }
static int no_inode(struct op *op) { return delete_item(op, item_key(big, ITEM_INODE, 0)); }
static int no_root(struct op *op) { return delete_item(op, item_key(OBJECT_ROOT, ITEM_INODE, 0)); }
static int no_orphan(struct op *op) { return delete_item(op, item_key(OBJECT_STORE, ITEM_ORPHAN, orphan)); }
static int pages_of_directory(struct op *op) { return put_page(op, sub, 0); }
static int pages_of_nothing(struct op *op) { return put_page(op, store_new_object(store), 0); }
static void more_pages(struct inode *i) { i->disk.pages++; }
static int page_count(struct op *op) { return put_inode(op, big, more_pages); }
static int page_behind(struct op *op) { return put_page(op, big, 310); }
static int page_behind_allocated(struct op *op) { return put_page(op, allocated, 8); }
static int target_twice(struct op *op) { return put_page(op, symlink_long, 1); }
static int missing_orphan(struct op *op)
{
	int r = txn_put(op, item_key(OBJECT_STORE, ITEM_ORPHAN, 5555), "", 0);
	return r ? r : txn_commit(op, false);
}
static int no_target(struct op *op)
{
	int r = txn_drop(op, symlink_long, 0, 1);
	return r ? r : txn_commit(op, true);
}
static int no_value(struct op *op)
{
	struct chain chain;
	int r = chain_find(op, attributed, ITEM_XATTR, "user.large", strlen("user.large"), &chain);
	if (!r)
		r = txn_drop_object(op, chain.xattr.object);
	return r ? r : txn_commit(op, true);
}
static int shared_value(struct op *op)
{
	struct chain chain, other;
	uint8_t raw[ITEM_VALUE_MAX];
	struct xattr_disk *x = (struct xattr_disk *)raw;
	int r = chain_find(op, attributed, ITEM_XATTR, "user.large", 10, &chain);
	if (!r)
		r = chain_find(op, attributed, ITEM_XATTR, "user.small", 10, &other);
	if (r)
		return r;
	memcpy(raw, chain.value, chain.bytes);
	memcpy(x->name, "user.small", 10);
	r = txn_put(op, other.key, raw, chain.bytes);
	return r ? r : txn_commit(op, false);
}
static int lost_value(struct op *op)
{
	struct chain chain;
	int r = chain_find(op, attributed, ITEM_XATTR, "user.large", 10, &chain);
	if (!r)
		r = txn_delete(op, chain.key);
	return r ? r : txn_commit(op, true);
}

const struct meaning meanings[] = {
	{ "links of a file", links_of_file, { CHECK_LINKS, END } },
	{ "links of a directory", links_of_directory, { CHECK_LINKS, END } },
	{ "unlisted orphan", unlisted_orphan, { CHECK_ORPHAN_UNLISTED, CHECK_LINKS, END } },
	{ "linked orphan", linked_orphan, { CHECK_ORPHAN_LINKED, CHECK_LINKS, END } },
	{ "entries", entries, { CHECK_ENTRIES, END } },
	{ "xattrs", xattrs, { CHECK_XATTRS, END } },
	{ "parent", parent, { CHECK_PARENT, END } },
	{ "capability flag", flag, { CHECK_XATTR_FLAGS, END } },
	{ "malformed inode", malformed, { CHECK_INODE_MALFORMED, END } },
	{ "pages past the end", pages_past_end, { CHECK_PAGES_PAST_END, END } },
	{ "bytes past the end", bytes_past_end, { CHECK_BYTES_PAST_END, END } },
	{ "bytes past the end, in the tier", dirty_past_end, { CHECK_BYTES_PAST_END, END } },
	{ "data in pages past the end", data_past_end, { CHECK_PAGES_PAST_END, END } },
	{ "end of the pages past the end", pages_end, { CHECK_INODE_MALFORMED, END } },
	{ "dangling entry", dangling, { CHECK_ENTRY_DANGLING, CHECK_ENTRIES, END } },
	{ "type of an entry", entry_type, { CHECK_ENTRY_TYPE, END } },
	{ "wrong hash", wrong_hash, { CHECK_NAME_HASH, CHECK_ENTRIES, CHECK_LINKS, END } },
	{ "name twice", name_twice, { CHECK_NAME_TWICE, CHECK_ENTRIES, CHECK_LINKS, END } },
	{ "bad name", bad_name, { CHECK_DIRENT_MALFORMED, CHECK_ENTRIES, END } },
	{ "entry in a file", entry_in_file, { CHECK_DIRENT_MISPLACED, CHECK_LINKS, END } },
	{ "directory with two names", directory_twice, { CHECK_DIRECTORY_TWICE, CHECK_ENTRIES, CHECK_LINKS, END } },
	{ "unreachable", unreachable, { CHECK_UNREACHABLE, CHECK_ENTRIES, CHECK_LINKS, END } },
	{ "cycle", cycle, { CHECK_UNREACHABLE, END } },
	{ "no entry", no_entry, { CHECK_LINKS, CHECK_ENTRIES, END } },
	{ "no inode", no_inode, { CHECK_ENTRY_DANGLING, CHECK_HIDDEN_LEAKED, END } },
	{ "no root", no_root, { CHECK_ROOT_MISSING, CHECK_INODE_MISSING, CHECK_UNREACHABLE, END } },
	{ "orphan without item", no_orphan, { CHECK_ORPHAN_UNLISTED, END } },
	{ "orphan that is not there", missing_orphan, { CHECK_ORPHAN_MISSING, END } },
	{ "pages of a directory", pages_of_directory, { CHECK_PAGES_MISPLACED, END } },
	{ "pages of nothing", pages_of_nothing, { CHECK_HIDDEN_LEAKED, END } },
	{ "page behind", page_behind, { CHECK_PAGES_PAST_END, CHECK_PAGES, END } },
	{ "page behind those past the end", page_behind_allocated, { CHECK_PAGES_PAST_END, CHECK_PAGES, END } },
	{ "number of pages", page_count, { CHECK_PAGES, END } },
	{ "symlink with two pages", target_twice, { CHECK_SYMLINK, CHECK_PAGES_PAST_END, END } },
	{ "symlink without its page", no_target, { CHECK_SYMLINK, END } },
	{ "xattr without its value", no_value, { CHECK_HIDDEN_MISSING, END } },
	{ "xattrs with one value", shared_value, { CHECK_HIDDEN_TWICE, END } },
	{ "value without its xattr", lost_value, { CHECK_HIDDEN_LEAKED, CHECK_XATTRS, END } },
};

const unsigned meanings_count = sizeof meanings / sizeof meanings[0];
