// SPDX-License-Identifier: GPL-2.0-or-later
#include "pair.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "fs.h"
#include "hash.h"
#include "log.h"
#include "quick.h"
#include "super.h"
#include "space_layout.h"
#include "walk.h"

#define BACKING_BYTES ((uint64_t)FUZZ_BLOCKS * PAGE_BYTES)
#define SUM_LEVEL 0x73706163u // of a part of space (FORMAT.md)
#define NODES_SEALED_MAX 4096u
#define GUARD_BYTES (1u << 20)
#define FILES_CLEAN 120u
#define FILES_DIRTY 16u // few enough that no epoch is wanted

uint64_t input_take(struct input *in, unsigned bytes)
{
	uint64_t value = 0;
	input_bytes(in, &value, bytes);
	return value;
}

size_t input_bytes(struct input *in, void *to, size_t bytes)
{
	size_t there = bytes < in->left ? bytes : in->left;
	if (there)
		memcpy(to, in->at, there);
	in->at += there;
	in->left -= there;
	return there;
}

// ---- what was touched -------------------------------------------------------------------------------

static void touch(uint8_t *bits, uint64_t page)
{
	__atomic_fetch_or(&bits[page / 8], (uint8_t)(1u << page % 8), __ATOMIC_RELAXED);
}

static void touch_stored(struct fuzz_pair *p, uint64_t offset, size_t bytes)
{
	for (uint64_t page = offset / PAGE_BYTES; page <= (offset + bytes - 1) / PAGE_BYTES; page++)
		touch(p->tier_touched, page);
}

void fuzz_touch_tier(struct fuzz_pair *p, const void *at, size_t bytes)
{
	touch_stored(p, (uint64_t)((const uint8_t *)at - p->tier), bytes);
}

void fuzz_touch_block(struct fuzz_pair *p, block_t block)
{
	touch(p->backing_touched, block);
}

static void restore(uint8_t *now, const uint8_t *before, uint8_t *bits, uint64_t pages)
{
	for (uint64_t i = 0; i < pages / 8 + 1; i++) {
		for (unsigned b = 0; bits[i] && b < 8; b++)
			if (bits[i] >> b & 1)
				memcpy(now + (8 * i + b) * PAGE_BYTES, before + (8 * i + b) * PAGE_BYTES, PAGE_BYTES);
		bits[i] = 0;
	}
}

void fuzz_pair_restore(struct fuzz_pair *p)
{
	restore(p->tier, p->tier_before, p->tier_touched, FUZZ_TIER_BYTES / PAGE_BYTES);
	restore(p->backing, p->backing_before, p->backing_touched, FUZZ_BLOCKS);
}

// ---- opening ------------------------------------------------------------------------------------------

static void seen_store(void *arg, uint64_t offset, const void *src, size_t bytes)
{
	touch_stored(arg, offset, bytes);
}

static void seen_drain(void *arg)
{
}

static int seen_io(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	if (kind != 'w' && kind != 'W')
		return 0;
	for (int i = 0; i < iovcnt; block += iov[i++].iov_len / PAGE_BYTES)
		for (size_t b = 0; b < iov[i].iov_len / PAGE_BYTES; b++)
			if (block + b < FUZZ_BLOCKS)
				fuzz_touch_block(arg, block + b);
	return 0;
}

static uint8_t *map(int fd, uint64_t bytes, void *at)
{
	void *base = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
	CHECK(base != MAP_FAILED);
	return base;
}

// A second mapping of the tier, for the store, between pages that fault.
static uint8_t *map_guarded(int fd)
{
	uint8_t *place = mmap(NULL, FUZZ_TIER_BYTES + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(place != MAP_FAILED);
	return map(fd, FUZZ_TIER_BYTES, place + GUARD_BYTES);
}

int fuzz_pair_open(struct fuzz_pair *p, const struct store_config *config, struct store **ret_store)
{
	static struct media_recorder recorder;
	static struct backing_hook hook;
	struct media *m = calloc(1, sizeof *m);
	struct backing *b;
	struct store_config c = *config;
	bool writes = !c.read_only || c.repair;
	char path[64];

	CHECK(m);
	CHECK(mprotect(p->store_tier, FUZZ_TIER_BYTES, PROT_READ | (writes ? PROT_WRITE : 0)) == 0);
	quick_tier(p->store_tier);
	quick_backing(p->backing, BACKING_BYTES);
	*m = (struct media){ .base = p->store_tier, .size_bytes = FUZZ_TIER_BYTES, .class = MEDIA_DRAM, .read_only = !writes,
			     .fd = -1, .path = "tier" };
	recorder = (struct media_recorder){ seen_store, seen_drain, p };
	m->recorder = &recorder;
	snprintf(path, sizeof path, "/proc/self/fd/%d", p->backing_fd);
	CHECK(backing_open(path, !writes, &b) == 0);
	strcpy(b->path, "backing");
	hook = (struct backing_hook){ seen_io, p };
	b->hook = &hook;
	c.tiny = c.assume_persistent = true;
	c.interval_ms = 3600000;
	c.io_timeout_ms = 1;
	return store_open_on(&c, m, b, ret_store);
}

// ---- making ---------------------------------------------------------------------------------------------

static const struct fs_cred cred = { 0, 0, 022 };
static struct lane *lane;
static struct fs *fs;

#define RUN(body) OP_RUN(lane, body)

static object_t make(struct fuzz_pair *p, object_t dir, const char *name, mode_t mode, const char *target)
{
	struct stat st;
	CHECK(RUN(fs_make(op, fs, &cred, dir, name, mode, 0, target, &st)) == 0);
	if (p->objects < FUZZ_OBJECTS_MAX)
		p->object[p->objects++] = st.st_ino;
	return st.st_ino;
}

static void write_file(object_t id, uint64_t page, unsigned pages)
{
	static uint8_t data[64 * PAGE_BYTES];
	for (size_t i = 0; i < pages * PAGE_BYTES; i += 16)
		memset(data + i, (int)(id + page + i / 512), 16);
	CHECK(RUN(fs_write(op, fs, id, data, pages * PAGE_BYTES, page * PAGE_BYTES, true)) == (int)(pages * PAGE_BYTES));
}

static void populate(struct fuzz_pair *p, const char *directory, unsigned files)
{
	static char target[3001], value[5000];
	char name[128];
	struct stat st;
	memset(target, 't', sizeof target - 1);
	memset(value, 'v', sizeof value);
	object_t dir = make(p, OBJECT_ROOT, directory, S_IFDIR | 0755, NULL), sub = make(p, dir, "sub", S_IFDIR | 0755, NULL);
	object_t big = make(p, dir, "big", S_IFREG | 0644, NULL), odd = make(p, sub, "odd", S_IFREG | 0644, NULL);
	write_file(big, 0, 64);
	write_file(big, 64, 20);
	write_file(big, 300, 3);
	write_file(odd, 0, 3);
	CHECK(RUN(fs_link(op, fs, odd, dir, "other", &st)) == 0);
	make(p, sub, "short", S_IFLNK | 0777, "target");
	make(p, sub, "long", S_IFLNK | 0777, target);
	CHECK(RUN(fs_setxattr(op, fs, odd, "user.small", "1", 1, 0)) == 0);
	CHECK(RUN(fs_setxattr(op, fs, odd, "user.large", value, sizeof value, 0)) == 0);
	for (unsigned i = 0; i < files; i++) {
		snprintf(name, sizeof name, "a name of some length, so that there are several leaves, number %u", i);
		object_t id = make(p, sub, name, S_IFREG | 0600, NULL);
		if (i % 16 == 0)
			write_file(id, 0, 1);
	}
	object_t orphan = make(p, sub, "orphan", S_IFREG | 0600, NULL);
	write_file(orphan, 0, 1);
	CHECK(RUN(fs_unlink(op, fs, sub, "orphan")) == 0);
	struct stat half = { .st_size = 30 * PAGE_BYTES + 7 };
	CHECK(RUN(fs_setattr(op, fs, big, &half, FS_SET_SIZE, &st)) == 0);
}

static struct store *session(struct fuzz_pair *p)
{
	const struct store_config config = { .format_blank = true };
	struct store *s;
	CHECK(fuzz_pair_open(p, &config, &s) == 0);
	CHECK(fs_new(s, &fs) == 0 && fs_start(fs, 0, 0) == 0 && lane_new(s, &lane) == 0);
	return s;
}

static void pair_init(struct fuzz_pair *p, const struct fuzz_pair *from)
{
	memset(p, 0, sizeof *p);
	p->tier_fd = memfd_create("tier", MFD_CLOEXEC);
	p->backing_fd = memfd_create("backing", MFD_CLOEXEC);
	CHECK(ftruncate(p->tier_fd, FUZZ_TIER_BYTES) == 0 && ftruncate(p->backing_fd, (off_t)BACKING_BYTES) == 0);
	p->tier = map(p->tier_fd, FUZZ_TIER_BYTES, NULL);
	p->store_tier = map_guarded(p->tier_fd);
	p->backing = map(p->backing_fd, BACKING_BYTES, NULL);
	p->tier_touched = calloc(1, FUZZ_TIER_BYTES / PAGE_BYTES / 8 + 1);
	p->backing_touched = calloc(1, FUZZ_BLOCKS / 8 + 1);
	CHECK(p->tier_touched && p->backing_touched);
	if (!from)
		return;
	memcpy(p->object, from->object, sizeof p->object);
	p->objects = from->objects;
	memcpy(p->tier, from->tier, FUZZ_TIER_BYTES);
	for (block_t b = 0; b < FUZZ_BLOCKS; b++)
		if (from->backing_touched[b / 8] >> b % 8 & 1) {
			memcpy(p->backing + b * PAGE_BYTES, from->backing + b * PAGE_BYTES, PAGE_BYTES);
			fuzz_touch_block(p, b);
		}
}

static void list_nodes(struct fuzz_pair *p, block_t block, unsigned level)
{
	const struct node_disk *n = (const void *)(p->backing + block * PAGE_BYTES);
	CHECK(p->nodes < FUZZ_CATALOGUE_MAX && n->magic == VEMS_NODE_MAGIC);
	p->node[p->nodes++] = block;
	for (unsigned i = 0; level > 0 && i < node_count(n); i++)
		list_nodes(p, node_child(n, i).block, level - 1);
}

static void list_tier(struct fuzz_pair *p, struct store *s)
{
	uint8_t *buffer = aligned_alloc(64, RECORD_BYTES_MAX);
	struct slot_disk slot;
	CHECK(buffer);
	p->attach = s->tier->attach;
	p->geometry = s->tier->geometry;
	p->lsn = atomic_load(&s->lsn);
	for (frame_t f = 0; f < s->tier->frames && p->slots < FUZZ_CATALOGUE_MAX; f++)
		if (slot_load(s->tier, f, &slot) == SLOT_FOUND_GOOD)
			p->slot[p->slots++] = f;
	for (unsigned r = 0; r <= p->geometry.rings; r++) {
		uint64_t at = s->tier->ring[r].tail;
		for (; at < s->tier->ring[r].head; at += ((struct record_disk *)buffer)->bytes) {
			CHECK(ring_read(s->tier, &s->tier->ring[r], at, buffer) == 0);
			if (p->records < FUZZ_CATALOGUE_MAX)
				p->record[p->records++] = (struct found_record){ r, at };
		}
		p->ring_head[r] = at;
	}
	free(buffer);
}

// What there is to damage, and the images as they are now, to go back to.
static void pair_finish(struct fuzz_pair *p)
{
	const struct store_config config = { .read_only = true };
	struct store *s;
	struct fuzz_pair before;
	CHECK(fuzz_pair_open(p, &config, &s) == 0);
	p->super = s->super;
	p->seed = s->seed;
	list_tier(p, s);
	list_nodes(p, p->super.root_block, p->super.root_level);
	CHECK(store_close(s) == 0);
	pair_init(&before, p);
	p->tier_before = before.tier;
	p->backing_before = before.backing;
	free(before.tier_touched);
	free(before.backing_touched);
	memset(p->tier_touched, 0, FUZZ_TIER_BYTES / PAGE_BYTES / 8 + 1);
	memset(p->backing_touched, 0, FUZZ_BLOCKS / 8 + 1);
}

void fuzz_pair_make(struct fuzz_pair *clean, struct fuzz_pair *dirty)
{
	log_quiet(1);
	pair_init(clean, NULL);
	struct store *s = session(clean);
	populate(clean, "first", FILES_CLEAN);
	lane_free(lane);
	fs_free(fs);
	CHECK(store_close(s) == 0);
	pair_init(dirty, clean);
	pair_finish(clean);
	s = session(dirty);
	chores_stop(s); // all of it stays in the log
	populate(dirty, "second", FILES_DIRTY);
	lane_free(lane);
	fs_free(fs);
	store_abandon(s);
	pair_finish(dirty);
	if (getenv("FUZZ_LOG"))
		fprintf(stderr, "clean: %u nodes, %u slots, %u records; dirty: %u nodes, %u slots, %u records\n", clean->nodes, clean->slots,
			clean->records, dirty->nodes, dirty->slots, dirty->records);
	log_quiet(getenv("FUZZ_LOG") == NULL);
	CHECK(clean->super.state == SUPER_CLEAN && dirty->super.state == SUPER_ATTACHED && dirty->records > 10);
}

// ---- checksums --------------------------------------------------------------------------------------------

static struct super_disk *super_a(struct fuzz_pair *p)
{
	return (struct super_disk *)p->backing;
}

static uint8_t *ring_base(struct fuzz_pair *p, unsigned ring)
{
	return p->tier + TIER_RINGS_OFFSET + ring * p->geometry.ring_bytes;
}

static uint64_t ring_bytes(const struct fuzz_pair *p, unsigned ring)
{
	return ring < p->geometry.rings ? p->geometry.ring_bytes : p->geometry.item_ring_bytes;
}

struct record_disk *fuzz_record_at(struct fuzz_pair *p, unsigned ring, uint64_t offset)
{
	return (struct record_disk *)(ring_base(p, ring) + offset % ring_bytes(p, ring));
}

void fuzz_seal_record(struct fuzz_pair *p, unsigned ring, uint64_t offset)
{
	struct record_disk *r = fuzz_record_at(p, ring, offset);
	uint64_t at = offset % ring_bytes(p, ring);
	if (r->bytes < sizeof *r || r->bytes > RECORD_BYTES_MAX || at + r->bytes > ring_bytes(p, ring))
		return;
	fuzz_touch_tier(p, r, sizeof *r);
	r->check = hash_seeded((uint8_t *)r + sizeof r->check, r->bytes - sizeof r->check,
			       hash_mix(hash_mix(p->attach, ring), offset));
}

void fuzz_append_record(struct fuzz_pair *p, unsigned ring, struct record_disk *record)
{
	uint64_t at = p->ring_head[ring];
	if (at % ring_bytes(p, ring) + record->bytes > ring_bytes(p, ring))
		return;
	if (record->lsn == 0)
		record->lsn = ++p->lsn;
	struct record_disk *r = fuzz_record_at(p, ring, at);
	fuzz_touch_tier(p, r, record->bytes);
	memcpy(r, record, record->bytes);
	fuzz_seal_record(p, ring, at);
	p->ring_head[ring] += (record->bytes + RECORD_ALIGN - 1) & ~(uint64_t)(RECORD_ALIGN - 1);
}

void fuzz_seal_slot(struct fuzz_pair *p, frame_t f)
{
	struct slot_disk *s = (struct slot_disk *)(p->tier + p->geometry.table_offset) + f;
	fuzz_touch_tier(p, s, sizeof *s);
	s->check = hash_seeded((uint8_t *)s + sizeof s->check, sizeof *s - sizeof s->check, hash_mix(p->attach, f));
}

void fuzz_seal_header(struct fuzz_pair *p)
{
	struct tier_header_disk *h = (struct tier_header_disk *)p->tier;
	fuzz_touch_tier(p, h, 2 * PAGE_BYTES);
	h->sum = hash_bytes(h, offsetof(struct tier_header_disk, sum));
	memcpy(h + 1, h, PAGE_BYTES);
}

void fuzz_set_word(struct fuzz_pair *p, unsigned word, uint64_t value)
{
	uint8_t bytes[8];
	uint64_t *at = (uint64_t *)(p->tier + TIER_WORDS_OFFSET + word * TIER_WORD_STRIDE);
	value &= LSN_MAX;
	memcpy(bytes, &value, 7);
	bytes[7] = (uint8_t)word;
	fuzz_touch_tier(p, at, sizeof *at);
	*at = value | (uint64_t)crc8(bytes, 8) << 56;
}

static uint64_t seal_node(struct fuzz_pair *p, block_t block, unsigned level, bool separators, unsigned *left)
{
	struct node_disk *n = (struct node_disk *)(p->backing + block * PAGE_BYTES);
	struct inner_entry_disk *e = (struct inner_entry_disk *)n->body;
	unsigned count = n->count <= NODE_BODY_BYTES / sizeof *e ? n->count : 0;
	fuzz_touch_block(p, block);
	for (unsigned i = 0; level > 0 && i < count && *left > 0; i++) {
		if (e[i].block >= FUZZ_BLOCKS)
			continue;
		--*left;
		e[i].sum = seal_node(p, e[i].block, level - 1, separators, left);
		const struct node_disk *child = (const void *)(p->backing + e[i].block * PAGE_BYTES);
		if (separators)
			memcpy(&e[i], child->body, sizeof(struct item_key));
	}
	return checksum_page(p->seed, OBJECT_STORE, block, n);
}

void fuzz_seal_tree(struct fuzz_pair *p, bool separators)
{
	struct super_disk *s = super_a(p);
	unsigned left = NODES_SEALED_MAX;
	if (s->root_block < FUZZ_BLOCKS && s->root_block > 0 && s->root_level < 16)
		s->root_sum = seal_node(p, s->root_block, s->root_level, separators, &left);
}

static uint64_t part_count(const struct space_table_disk *t, unsigned level, uint64_t blocks)
{
	struct space_layout l = space_layout(blocks);
	uint64_t sum = 0;
	if (level == 0) {
		for (unsigned i = 0; i < PAGE_BYTES / 8; i++)
			sum += 64u - (unsigned)__builtin_popcountll(((const uint64_t *)t)[i]);
		return sum;
	}
	for (unsigned i = 0; i < SPACE_FANOUT; i++)
		sum += t->entry[i].word & SPACE_WRITTEN ? t->entry[i].word & SPACE_FREE_MASK : space_full(&l, level - 1, i);
	return sum;
}

static void seal_part(struct fuzz_pair *p, struct space_entry_disk *e, unsigned level, uint64_t index, bool counts)
{
	if (!(e->word & SPACE_WRITTEN))
		return;
	block_t block = space_slot(level, index, (e->word & SPACE_SLOT) != 0);
	if (block >= FUZZ_BLOCKS)
		return;
	struct space_table_disk *t = (struct space_table_disk *)(p->backing + block * PAGE_BYTES);
	fuzz_touch_block(p, block);
	for (unsigned i = 0; level > 0 && i < 2; i++)
		seal_part(p, &t->entry[i], level - 1, i, counts);
	if (counts)
		e->word = (e->word & ~SPACE_FREE_MASK) | part_count(t, level, p->super.blocks);
	e->sum = checksum_page(p->seed, SUM_LEVEL + level, index, t);
}

void fuzz_seal_space(struct fuzz_pair *p, bool counts)
{
	seal_part(p, &super_a(p)->space, p->super.space_levels, 0, counts);
}

void fuzz_seal_supers(struct fuzz_pair *p, bool both)
{
	fuzz_touch_block(p, 0);
	super_seal(super_a(p));
	if (!both)
		return;
	fuzz_touch_block(p, FUZZ_BLOCKS - 1);
	memcpy(p->backing + BACKING_BYTES - PAGE_BYTES, super_a(p), PAGE_BYTES);
}
