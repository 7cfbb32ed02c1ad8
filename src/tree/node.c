// SPDX-License-Identifier: GPL-2.0-or-later
// Layout of a node. The entries grow from the front of the body, a leaf's values from its end: the
// first item's value lies last, each next one directly before it, all padded to 8 bytes. There is
// thus one layout for one sequence of items, and node_valid() can ask for exactly that one.
#include "node.h"
#include <string.h>
#include "hash.h"

#define NODE_LEVELS_MAX 16u

static const struct leaf_entry_disk *leaf_entries(const struct node_disk *n)
{
	return (const struct leaf_entry_disk *)n->body;
}

static const struct inner_entry_disk *inner_entries(const struct node_disk *n)
{
	return (const struct inner_entry_disk *)n->body;
}

static size_t padded(size_t bytes)
{
	return (bytes + 7) & ~(size_t)7;
}

static bool leaf_valid(const struct node_disk *n)
{
	const struct leaf_entry_disk *e = leaf_entries(n);
	size_t front = offsetof(struct node_disk, body) + n->count * sizeof *e;
	size_t end = PAGE_BYTES;
	if (n->count > NODE_BODY_BYTES / sizeof *e || n->value_bytes > PAGE_BYTES - front)
		return false;
	for (unsigned i = 0; i < n->count; i++) {
		if (e[i].bytes > ITEM_VALUE_MAX || e[i].reserved != 0 || padded(e[i].bytes) > end - front ||
		    e[i].offset != end - padded(e[i].bytes))
			return false;
		end = e[i].offset;
	}
	return end == PAGE_BYTES - n->value_bytes;
}

static bool inner_valid(const struct node_disk *n)
{
	const struct inner_entry_disk *e = inner_entries(n);
	if (n->count > NODE_BODY_BYTES / sizeof *e || n->value_bytes != 0)
		return false;
	for (unsigned i = 0; i < n->count; i++)
		if (e[i].block == 0 || e[i].block == n->block || e[i].birth > n->birth)
			return false;
	return true;
}

bool node_valid(const struct node_disk *n, int level, block_t block, lsn_t birth)
{
	if (n->magic != VEMS_NODE_MAGIC || n->level >= NODE_LEVELS_MAX || (level >= 0 && n->level != level))
		return false;
	if (n->block != block || n->birth != birth || n->reserved != 0 || n->count == 0)
		return false;
	if (!(n->level == 0 ? leaf_valid(n) : inner_valid(n)))
		return false;
	for (unsigned i = 1; i < n->count; i++)
		if (item_key_compare(node_key(n, i - 1), node_key(n, i)) >= 0)
			return false;
	return true;
}

struct node_item node_item(const struct node_disk *n, unsigned i)
{
	const struct leaf_entry_disk *e = &leaf_entries(n)[i];
	return (struct node_item){ { e->object, e->sub }, (const uint8_t *)n + e->offset, e->bytes };
}

struct item_key node_key(const struct node_disk *n, unsigned i)
{
	if (n->level == 0)
		return (struct item_key){ leaf_entries(n)[i].object, leaf_entries(n)[i].sub };
	return (struct item_key){ inner_entries(n)[i].object, inner_entries(n)[i].sub };
}

struct node_ref node_child(const struct node_disk *n, unsigned i)
{
	const struct inner_entry_disk *e = &inner_entries(n)[i];
	return (struct node_ref){ e->block, e->birth, e->sum };
}

unsigned node_lower_bound(const struct node_disk *n, struct item_key key)
{
	unsigned low = 0, high = n->count;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		if (item_key_compare(node_key(n, middle), key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

unsigned node_child_for(const struct node_disk *n, struct item_key key)
{
	unsigned i = node_lower_bound(n, key);
	if (i < n->count && item_key_equal(node_key(n, i), key))
		return i;
	return i == 0 ? 0 : i - 1;
}

size_t node_used_bytes(const struct node_disk *n)
{
	if (n->level > 0)
		return n->count * sizeof(struct inner_entry_disk);
	return n->count * sizeof(struct leaf_entry_disk) + n->value_bytes;
}

void node_init(struct node_disk *n, unsigned level, block_t block, lsn_t birth)
{
	memset(n, 0, sizeof *n);
	n->magic = VEMS_NODE_MAGIC;
	n->level = (uint16_t)level;
	n->block = block;
	n->birth = birth;
}

bool node_add_item(struct node_disk *n, struct item_key key, const void *value, size_t bytes)
{
	if (bytes > ITEM_VALUE_MAX || node_used_bytes(n) + LEAF_ITEM_BYTES(bytes) > NODE_BODY_BYTES)
		return false;
	n->value_bytes += (uint32_t)padded(bytes);
	uint32_t offset = PAGE_BYTES - n->value_bytes;
	struct leaf_entry_disk *e = (struct leaf_entry_disk *)n->body + n->count++;
	*e = (struct leaf_entry_disk){ key.object, key.sub, (uint16_t)offset, (uint16_t)bytes, 0 };
	if (bytes > 0)
		memcpy((uint8_t *)n + offset, value, bytes);
	return true;
}

bool node_add_child(struct node_disk *n, struct item_key first, struct node_ref ref)
{
	struct inner_entry_disk *e = (struct inner_entry_disk *)n->body + n->count;
	if (node_used_bytes(n) + sizeof *e > NODE_BODY_BYTES)
		return false;
	*e = (struct inner_entry_disk){ first.object, first.sub, ref.block, ref.birth, ref.sum };
	n->count++;
	return true;
}

uint64_t node_sum(const struct node_disk *n, uint64_t seed)
{
	return checksum_page(seed, OBJECT_STORE, n->block, n);
}
