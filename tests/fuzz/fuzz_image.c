// SPDX-License-Identifier: GPL-2.0-or-later
// A pair with some damage, most of it under right checksums, is checked, repaired, mounted, walked, written to,
// closed. An input is a few choices, then one damage after the other (enum damage).
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"
#include "pair.h"
#include "space_layout.h"
#include "walk.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum choice { CHOOSE_DIRTY = 1, CHOOSE_CHECK = 2, CHOOSE_CHECK_AFTER = 4, CHOOSE_ABANDON = 8, CHOOSE_LOSE_TIER = 16,
	      CHOOSE_DISCARD_TIER = 32, CHOOSE_UNSEALED_TIER = 64, CHOOSE_UNSEALED_BACKING = 128 };
enum more { MORE_SEPARATORS = 1, MORE_ONE_SUPER = 2, MORE_NO_COUNTS = 4, MORE_READ_ONLY = 8, MORE_NO_WRITES = 16,
	    MORE_TWICE = 32, MORE_REPAIR = 64, MORE_DROP_DAMAGED = 128 };
enum damage { DAMAGE_SUPER, DAMAGE_ENTRIES, DAMAGE_NODE, DAMAGE_VALUE, DAMAGE_SPACE, DAMAGE_HEADER, DAMAGE_WORD, DAMAGE_SLOT,
	      DAMAGE_RECORD, DAMAGE_APPEND, DAMAGE_INSERT, DAMAGE_REMOVE, DAMAGE_FRAME, DAMAGE_BLOCK, DAMAGE_SUPER_B,
	      DAMAGE_REPEAT, DAMAGES };

static struct fuzz_pair clean, dirty;

static uint64_t telling_value(struct fuzz_pair *p, unsigned i)
{
	const uint64_t value[] = {
		0, 1, 2, UINT64_MAX, LSN_MAX, LSN_MAX + 1, PAGE_MAX, PAGE_MAX + 1, p->super.blocks, p->super.blocks - 1,
		p->geometry.frames, p->geometry.frames - 1, p->super.cut, p->super.cut + 1, p->super.root_block, p->lsn,
		63, 64, 65, 255, 256, 1024, 4095, 4096, 32768, 65536, UINT64_C(1) << 31, UINT64_C(1) << 32, UINT64_C(1) << 48,
		UINT64_C(1) << 55, UINT64_C(1) << 62, UINT64_C(1) << 63, INT64_MAX, p->node[i % p->nodes], p->object[i % p->objects],
		LSN_MAX - LSN_BASE_JUMP, PAGE_MAX - 63, FRAME_NONE, SPACE_WRITTEN, SPACE_WRITTEN | SPACE_SLOT
	};
	return value[i % (sizeof value / sizeof *value)];
}

// One field at `at` + an offset below `bytes` is set or changed.
static void alter(struct fuzz_pair *p, struct input *in, uint8_t *at, size_t bytes)
{
	uint8_t how = (uint8_t)input_take(in, 1);
	unsigned width = 1u << (how & 3);
	uint64_t offset = input_take(in, 2), value = 0;
	if (bytes < width)
		return;
	offset = offset % (bytes - width + 1) / width * width;
	memcpy(&value, at + offset, width);
	switch (how >> 2 & 3) {
	case 0: value = input_take(in, width); break;
	case 1: value ^= input_take(in, width); break;
	case 2: value += (uint64_t)(int8_t)input_take(in, 1); break;
	default: value = telling_value(p, (unsigned)input_take(in, 1));
	}
	memcpy(at + offset, &value, width);
}

static struct node_disk *node_chosen(struct fuzz_pair *p, struct input *in)
{
	block_t block = p->node[input_take(in, 1) % p->nodes];
	fuzz_touch_block(p, block);
	return (struct node_disk *)(p->backing + block * PAGE_BYTES);
}

static void alter_entries(struct fuzz_pair *p, struct input *in)
{
	struct node_disk *n = node_chosen(p, in);
	size_t bytes = offsetof(struct node_disk, body) +
		       n->count * (n->level ? sizeof(struct inner_entry_disk) : sizeof(struct leaf_entry_disk));
	alter(p, in, (uint8_t *)n, bytes < PAGE_BYTES ? bytes : PAGE_BYTES);
}

static void alter_value(struct fuzz_pair *p, struct input *in)
{
	struct node_disk *n = node_chosen(p, in);
	if (n->level > 0 || !node_valid(n, 0, n->block, n->birth))
		return;
	struct node_item item = node_item(n, (unsigned)(input_take(in, 1) % n->count));
	alter(p, in, (uint8_t *)item.value, item.bytes);
}

static object_t object_chosen(struct fuzz_pair *p, struct input *in)
{
	unsigned i = (unsigned)input_take(in, 1);
	return i < 200 ? p->object[i % p->objects] : i < 210 ? OBJECT_STORE : i < 220 ? OBJECT_ROOT : telling_value(p, i);
}

static struct item_key key_chosen(struct fuzz_pair *p, struct input *in)
{
	object_t object = object_chosen(p, in);
	unsigned type = (unsigned)input_take(in, 1), wide = type >> 4;
	uint64_t rest = wide & 1 ? input_take(in, 7) : wide & 2 ? telling_value(p, (unsigned)input_take(in, 1)) : input_take(in, 1);
	return (struct item_key){ object, (uint64_t)(type & 15) << ITEM_REST_BITS | (rest & ITEM_REST_MAX) };
}

// An item more, or one less.
static void change_leaf(struct fuzz_pair *p, struct input *in, bool insert)
{
	struct node_disk *n = node_chosen(p, in), old = *n;
	uint8_t value[ITEM_VALUE_MAX];
	if (n->level > 0 || !node_valid(n, 0, n->block, n->birth))
		return;
	unsigned gone = insert ? UINT32_MAX : (unsigned)(input_take(in, 1) % old.count), i = 0;
	struct item_key key = insert ? key_chosen(p, in) : ITEM_KEY_MAX;
	size_t bytes = insert ? input_take(in, 1) : 0;
	bytes = input_bytes(in, value, bytes);
	node_init(n, 0, old.block, old.birth);
	for (; i < old.count && item_key_compare(node_key(&old, i), key) < 0; i++)
		if (i != gone)
			node_add_item(n, node_key(&old, i), node_item(&old, i).value, node_item(&old, i).bytes);
	if (insert)
		node_add_item(n, key, value, bytes);
	for (; insert && i < old.count; i++)
		node_add_item(n, node_key(&old, i), node_item(&old, i).value, node_item(&old, i).bytes);
}

static void alter_space(struct fuzz_pair *p, struct input *in)
{
	unsigned which = (unsigned)input_take(in, 1), level = which % (p->super.space_levels + 1);
	block_t block = space_slot(level, 0, which >> 7);
	fuzz_touch_block(p, block);
	alter(p, in, p->backing + block * PAGE_BYTES, level ? 3 * sizeof(struct space_entry_disk) : PAGE_BYTES);
}

static void alter_word(struct fuzz_pair *p, struct input *in)
{
	unsigned word = (unsigned)(input_take(in, 1) % (WORD_RING_TAIL + p->geometry.rings + 2));
	uint64_t value;
	memcpy(&value, p->tier + TIER_WORDS_OFFSET + word * TIER_WORD_STRIDE, sizeof value);
	value &= LSN_MAX;
	alter(p, in, (uint8_t *)&value, sizeof value);
	fuzz_set_word(p, word, value);
}

static void alter_slot(struct fuzz_pair *p, struct input *in, bool seal)
{
	unsigned i = (unsigned)input_take(in, 1);
	frame_t f = p->slots && i < 200 ? p->slot[i % p->slots] : i * 3 % p->geometry.frames;
	struct slot_disk *s = (struct slot_disk *)(p->tier + p->geometry.table_offset) + f;
	fuzz_touch_tier(p, s, sizeof *s);
	alter(p, in, (uint8_t *)s, 48);
	if (seal)
		fuzz_seal_slot(p, f);
}

static void alter_record(struct fuzz_pair *p, struct input *in, bool seal)
{
	unsigned i = (unsigned)input_take(in, 1);
	if (!p->records)
		return;
	const struct found_record *found = &p->record[i % p->records];
	struct record_disk *r = fuzz_record_at(p, found->ring, found->offset);
	size_t bytes = r->bytes;
	if ((uint8_t *)r + bytes > p->tier + p->geometry.table_offset || bytes > RECORD_BYTES_MAX)
		return;
	fuzz_touch_tier(p, r, bytes);
	alter(p, in, (uint8_t *)r, bytes);
	if (seal)
		fuzz_seal_record(p, found->ring, found->offset);
}

static void append_record(struct fuzz_pair *p, struct input *in)
{
	static _Alignas(64) uint8_t buffer[RECORD_BYTES_MAX];
	struct record_disk *r = (struct record_disk *)buffer;
	unsigned how = (unsigned)input_take(in, 1), switches = how & 3, items = how >> 2 & 3;
	size_t at = sizeof *r;
	memset(buffer, 0, 8192);
	for (unsigned i = 0; i < switches; i++, at += sizeof(struct switch_disk)) {
		struct switch_disk *s = (struct switch_disk *)(buffer + at);
		struct item_key key = key_chosen(p, in);
		*s = (struct switch_disk){ .object = key.object, .page = item_key_rest(key), .frame = (frame_t)input_take(in, 2) };
		if (how & 16)
			s->frame = p->geometry.frames - 1 - s->frame % 32;
		if (s->frame < p->geometry.frames)
			s->sum = checksum_page(p->seed, s->object, s->page, p->tier + p->geometry.frames_offset + (uint64_t)s->frame * PAGE_BYTES);
	}
	for (unsigned i = 0; i < items; i++) {
		struct item_disk *d = (struct item_disk *)(buffer + at);
		struct item_key key = key_chosen(p, in);
		unsigned flags = (unsigned)input_take(in, 1);
		*d = (struct item_disk){ .object = key.object, .sub = key.sub, .lsn = p->lsn + 1, .flags = flags & 1 };
		d->bytes = (uint16_t)input_bytes(in, d + 1, flags >> 1);
		at += ITEM_RECORD_BYTES(d->bytes);
	}
	r->bytes = (uint32_t)((at + 63) & ~(size_t)63);
	r->switches = (uint16_t)switches;
	r->items = (uint16_t)items;
	r->lsn = how & 32 ? telling_value(p, (unsigned)input_take(in, 1)) : 0;
	fuzz_append_record(p, how & 64 ? p->geometry.rings : 0, r);
}

static void repeat_record(struct fuzz_pair *p, struct input *in)
{
	static _Alignas(64) uint8_t buffer[RECORD_BYTES_MAX];
	struct record_disk *r = (struct record_disk *)buffer;
	unsigned i = (unsigned)input_take(in, 1);
	if (!p->records)
		return;
	const struct record_disk *from = fuzz_record_at(p, p->record[i % p->records].ring, p->record[i % p->records].offset);
	if (from->bytes < sizeof *r || from->bytes > RECORD_BYTES_MAX ||
	    (const uint8_t *)from + from->bytes > p->tier + p->geometry.table_offset)
		return;
	memcpy(buffer, from, from->bytes);
	r->lsn = 0;
	uint32_t bytes = r->bytes;
	alter(p, in, buffer, bytes);
	if (r->bytes > bytes)
		r->bytes = bytes;
	fuzz_append_record(p, input_take(in, 1) & 1 ? p->geometry.rings : 0, r);
}

static void damage(struct fuzz_pair *p, struct input *in, bool seal_tier)
{
	uint8_t *backing = p->backing, *tier = p->tier;
	switch (input_take(in, 1) % DAMAGES) {
	case DAMAGE_SUPER:
		fuzz_touch_block(p, 0);
		alter(p, in, backing, 160);
		break;
	case DAMAGE_ENTRIES: alter_entries(p, in); break;
	case DAMAGE_NODE: alter(p, in, (uint8_t *)node_chosen(p, in), PAGE_BYTES); break;
	case DAMAGE_VALUE: alter_value(p, in); break;
	case DAMAGE_SPACE: alter_space(p, in); break;
	case DAMAGE_HEADER:
		fuzz_touch_tier(p, tier, PAGE_BYTES);
		alter(p, in, tier, 112);
		if (seal_tier)
			fuzz_seal_header(p);
		break;
	case DAMAGE_WORD: alter_word(p, in); break;
	case DAMAGE_SLOT: alter_slot(p, in, seal_tier); break;
	case DAMAGE_RECORD: alter_record(p, in, seal_tier); break;
	case DAMAGE_APPEND: append_record(p, in); break;
	case DAMAGE_INSERT: change_leaf(p, in, true); break;
	case DAMAGE_REMOVE: change_leaf(p, in, false); break;
	case DAMAGE_FRAME: {
		uint8_t *at = tier + p->geometry.frames_offset + input_take(in, 2) % p->geometry.frames * PAGE_BYTES;
		fuzz_touch_tier(p, at, PAGE_BYTES);
		alter(p, in, at, PAGE_BYTES);
		break;
	}
	case DAMAGE_BLOCK: {
		block_t block = input_take(in, 2) % 2048;
		fuzz_touch_block(p, block);
		alter(p, in, backing + block * PAGE_BYTES, PAGE_BYTES);
		break;
	}
	case DAMAGE_SUPER_B:
		fuzz_touch_block(p, FUZZ_BLOCKS - 1);
		alter(p, in, backing + (FUZZ_BLOCKS - 1) * (uint64_t)PAGE_BYTES, PAGE_BYTES);
		break;
	case DAMAGE_REPEAT: repeat_record(p, in); break;
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_pair_make(&clean, &dirty);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct input in = { data, bytes };
	unsigned choice = (unsigned)input_take(&in, 1), more = (unsigned)input_take(&in, 1);
	struct fuzz_pair *p = choice & CHOOSE_DIRTY ? &dirty : &clean, saved;
	memcpy(&saved, p, sizeof saved);
	while (in.left)
		damage(p, &in, !(choice & CHOOSE_UNSEALED_TIER));
	if (!(choice & CHOOSE_UNSEALED_BACKING)) {
		fuzz_seal_tree(p, more & MORE_SEPARATORS);
		fuzz_seal_space(p, !(more & MORE_NO_COUNTS));
		fuzz_seal_supers(p, !(more & MORE_ONE_SUPER));
	}
	const struct store_config config = { .read_only = more & MORE_READ_ONLY, .lose_tier = choice & CHOOSE_LOSE_TIER,
					     .discard_tier = choice & CHOOSE_DISCARD_TIER };
	if (choice & CHOOSE_CHECK)
		fuzz_check(p);
	if (more & MORE_REPAIR)
		fuzz_repair(p, more & MORE_DROP_DAMAGED);
	fuzz_use(p, &config, !(more & MORE_NO_WRITES), !(choice & CHOOSE_ABANDON));
	if (more & MORE_TWICE)
		fuzz_use(p, &config, true, true);
	if (choice & CHOOSE_CHECK_AFTER)
		fuzz_check(p);
	memcpy(p, &saved, sizeof saved);
	fuzz_pair_restore(p);
	return 0;
}
