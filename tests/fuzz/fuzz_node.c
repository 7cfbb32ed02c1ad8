// SPDX-License-Identifier: GPL-2.0-or-later
// A tree of arbitrary nodes: what node_valid() lets pass is walked and folded. Of a node the fields that
// say where it lies, and a leaf's offsets, are put right on request: chance alone would not hit them.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "fold.h"
#include "log.h"
#include "quick.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define BLOCKS 2048u
#define NODES 8u
#define NODE_BLOCK 100u // node i is in block NODE_BLOCK + i
#define LEVELS 16u
#define FETCHES_MAX 20000u
#define CHANGES_MAX 48u

struct input {
	const uint8_t *at;
	size_t left;
};

static struct backing *backing;
static struct ioq *queue;
static struct node_disk node[NODES];
static struct node_disk buffer[LEVELS]; // good until the next fetch of its level
static unsigned nodes, fetches;

static uint64_t take(struct input *in, size_t bytes)
{
	uint64_t value = 0;
	bytes = bytes < in->left ? bytes : in->left;
	if (bytes)
		memcpy(&value, in->at, bytes);
	in->at += bytes;
	in->left -= bytes;
	return value;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char path[64];
	int fd = memfd_create("backing", MFD_CLOEXEC);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	CHECK(fd >= 0 && ftruncate(fd, BLOCKS * PAGE_BYTES) == 0);
	void *memory = mmap(NULL, BLOCKS * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(memory != MAP_FAILED);
	quick_backing(memory, BLOCKS * PAGE_BYTES);
	CHECK(backing_open(path, false, &backing) == 0 && ioq_new(backing, 64, &queue) == 0);
	log_quiet(getenv("FUZZ_LOG") == NULL);
	return 0;
}

static int fetch(void *arg, struct node_ref ref, unsigned level, const struct node_disk **ret_node)
{
	if (ref.block < NODE_BLOCK || ref.block >= NODE_BLOCK + nodes || ++fetches > FETCHES_MAX || level >= LEVELS)
		return -EIO;
	memcpy(&buffer[level], &node[ref.block - NODE_BLOCK], PAGE_BYTES);
	if (!node_valid(&buffer[level], (int)level, ref.block, ref.birth))
		return -EUCLEAN;
	*ret_node = &buffer[level];
	return 0;
}

// ---- input ----------------------------------------------------------------------------------------

// 1 + n bytes of fields, the smallest possible way to say them.
static struct item_key take_key(struct input *in)
{
	unsigned how = (unsigned)take(in, 1);
	object_t object = how & 8 ? take(in, 8) : take(in, 1);
	uint64_t rest = how & 16 ? take(in, 7) : take(in, 1 + (how >> 5 & 1));
	return (struct item_key){ object, (uint64_t)(how & 7) << ITEM_REST_BITS | rest };
}

static void take_leaf(struct input *in, struct node_disk *n, unsigned count)
{
	uint8_t value[ITEM_VALUE_MAX] = { 0 };
	for (unsigned i = 0; i < count; i++) {
		struct item_key key = take_key(in);
		size_t bytes = take(in, 1) * 4;
		if (item_key_type(key) == ITEM_EXTENT) {
			struct extent_disk e = { take(in, 2), take(in, 1), (uint32_t)take(in, 1), (uint32_t)take(in, 1) & 3 };
			if (bytes % 16)
				bytes = sizeof e + (e.flags ? 0 : e.pages % 128 * sizeof e.sum[0]);
			memcpy(value, &e, sizeof e);
		} else {
			memset(value, 0x33, sizeof value);
		}
		node_add_item(n, key, value, bytes);
	}
}

static void take_inner(struct input *in, struct node_disk *n, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct item_key key = take_key(in);
		unsigned child = (unsigned)take(in, 1);
		struct node_ref ref = { NODE_BLOCK + child % NODES, 10, 0 };
		if (child & 128 && child % NODES < nodes && node[child % NODES].count > 0)
			key = node_key(&node[child % NODES], 0); // as it should be
		if (child & 64)
			ref.birth = take(in, 1);
		node_add_child(n, key, ref);
	}
}

static void take_node(struct input *in, unsigned i)
{
	struct node_disk *n = &node[i];
	unsigned how = (unsigned)take(in, 1), level = how & 7, count = (unsigned)take(in, 1);
	if (how & 8) { // raw
		size_t bytes = 4 * take(in, 1);
		bytes = bytes < in->left ? bytes : in->left;
		memset(n, 0, sizeof *n);
		memcpy(n, in->at, bytes);
		in->at += bytes;
		in->left -= bytes;
		if (how & 16) {
			n->magic = VEMS_NODE_MAGIC;
			n->block = NODE_BLOCK + i;
			n->birth = 10;
			n->level &= 3;
			n->reserved = 0;
		}
		return;
	}
	node_init(n, level, NODE_BLOCK + i, 10);
	if (level == 0)
		take_leaf(in, n, count);
	else
		take_inner(in, n, count);
	while (how >> 5 && in->left) { // some bytes of it are changed
		uint8_t *at = (uint8_t *)n + take(in, 2) % PAGE_BYTES;
		*at = (uint8_t)take(in, 1);
		how -= 32;
	}
}

// ---- use ------------------------------------------------------------------------------------------

static unsigned walk(const struct tree_root *root)
{
	struct item_key key = ITEM_KEY_MIN;
	const struct node_disk *leaf;
	struct node_item item;
	unsigned sum = 0;
	fetches = 0;
	while (tree_leaf(root, key, fetch, NULL, &leaf, &key) == 0 && leaf) {
		for (unsigned i = 0; i < node_count(leaf); i++) {
			item = node_item(leaf, i);
			for (size_t b = 0; b < item.bytes; b++)
				sum += ((const uint8_t *)item.value)[b];
			sum += extent_valid(&item, BLOCKS);
		}
		if (item_key_equal(key, ITEM_KEY_MAX))
			break;
	}
	for (unsigned i = 0; i < 4; i++) {
		fetches = 0;
		key = item_key(i * 3, ITEM_EXTENT, i * 70);
		tree_get(root, key, fetch, NULL, &item);
		tree_floor(root, key, item_key(i * 3, ITEM_EXTENT, 0), fetch, NULL, &item);
		tree_next(root, key, ITEM_KEY_MAX, fetch, NULL, &item);
	}
	return sum;
}

static void fold(struct input *in, const struct tree_root *root)
{
	struct fold_drop drop[4];
	struct fold_config config = { .backing = backing, .queue = queue, .seed = 1, .old = *root, .birth = 100, .cut = 90, .fetch = fetch };
	struct space_root in_force = space_root_format(BLOCKS), next;
	struct tree_root result;
	uint64_t sum[EXTENT_PAGES_MAX] = { 0 };
	uint8_t value[ITEM_VALUE_MAX] = { 0 };
	struct fold *f = NULL;

	if (space_new(backing, queue, BLOCKS, 1, in_force, &config.space))
		abort();
	space_begin(config.space);
	config.drops = drop;
	config.drop_count = take(in, 1) % 5;
	for (size_t i = 0; i < config.drop_count; i++) {
		drop[i].object = take(in, 1);
		drop[i].from = take(in, 1);
		drop[i].to = take(in, 1) & 128 ? take(in, 7) : take(in, 1);
		drop[i].lsn = take(in, 1);
		drop[i].whole = take(in, 1) & 1;
	}
	fetches = 0;
	int r = fold_new(&config, &f);
	for (unsigned i = 0; !r && in->left && i < CHANGES_MAX; i++) {
		struct item_key key = take_key(in);
		unsigned how = (unsigned)take(in, 1);
		if (item_key_type(key) == ITEM_EXTENT)
			r = fold_extent(f, key.object, item_key_rest(key), how & 127, how & 128 ? 0 : 1000, sum, how >> 7);
		else if (how & 1)
			r = fold_delete(f, key);
		else
			r = fold_put(f, key, value, how * 4);
		r = r == -EINVAL ? 0 : r; // out of order
	}
	if (!r)
		r = fold_finish(f, &result);
	if (!r)
		r = space_write(config.space, &next);
	ioq_wait_all(queue);
	fold_free(f);
	space_free(config.space);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct input in = { data, bytes };
	unsigned how = (unsigned)take(&in, 1);
	nodes = 0;
	for (unsigned count = 1 + how % NODES; nodes < count; nodes++)
		take_node(&in, nodes);
	unsigned last = nodes - 1;
	struct tree_root root = { { NODE_BLOCK + last, node[last].birth, 0 }, how & 128 ? node[last].level : how >> 3 & 15 };
	walk(&root);
	fold(&in, &root);
	return 0;
}
