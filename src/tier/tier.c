// SPDX-License-Identifier: GPL-2.0-or-later
// Header, words and life cycle of the tier.
#include "tier.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "hash.h"
#include "log.h"

#define MIB (UINT64_C(1) << 20)
#define KIB UINT64_C(1024)

static uint64_t clamp(uint64_t value, uint64_t low, uint64_t high)
{
	return value < low ? low : value > high ? high : value;
}

int tier_geometry_for(uint64_t size_bytes, unsigned rings, struct tier_geometry *ret_geometry)
{
	struct tier_geometry g = { .size_bytes = size_bytes & ~(uint64_t)(PAGE_BYTES - 1) };
	bool tiny = size_bytes < 16 * MIB; // tests only: the command line asks for more

	if (rings == 0) {
		long cores = sysconf(_SC_NPROCESSORS_CONF);
		rings = (unsigned)clamp(size_bytes / (4 * MIB), 1, clamp((uint64_t)cores, 1, TIER_RINGS_MAX));
	}
	if (rings > TIER_RINGS_MAX)
		return -EINVAL;
	g.rings = rings;
	g.ring_bytes = clamp(size_bytes / 64 / rings, tiny ? 64 * KIB : 256 * KIB, 64 * MIB) & ~(uint64_t)(PAGE_BYTES - 1);
	g.item_ring_bytes = clamp(size_bytes / 64, tiny ? 128 * KIB : 512 * KIB, 32 * MIB) & ~(uint64_t)(PAGE_BYTES - 1);
	g.table_offset = TIER_RINGS_OFFSET + rings * g.ring_bytes + g.item_ring_bytes;
	if (g.table_offset + TIER_FRAMES_MIN * (PAGE_BYTES + sizeof(struct slot_disk)) + PAGE_BYTES > g.size_bytes)
		return -EINVAL;
	uint64_t frames = (g.size_bytes - g.table_offset) / (PAGE_BYTES + sizeof(struct slot_disk));
	for (;; frames--) {
		uint64_t table = (frames * sizeof(struct slot_disk) + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
		g.frames_offset = g.table_offset + table;
		if (g.frames_offset + frames * PAGE_BYTES <= g.size_bytes)
			break;
	}
	g.frames = (frame_t)clamp(frames, 0, FRAME_NONE - 1);
	*ret_geometry = g;
	return 0;
}

// ---- header -----------------------------------------------------------------------------------

static uint64_t header_sum(const struct tier_header_disk *h)
{
	return hash_bytes(h, offsetof(struct tier_header_disk, sum));
}

static bool header_geometry(const struct tier_header_disk *h, uint64_t media_bytes, struct tier_geometry *ret)
{
	struct tier_geometry g = { .size_bytes = h->size_bytes, .rings = h->rings, .ring_bytes = h->ring_bytes,
				   .item_ring_bytes = h->item_ring_bytes, .table_offset = h->table_offset,
				   .frames_offset = h->frames_offset, .frames = (frame_t)h->frames };
	if (h->rings == 0 || h->rings > TIER_RINGS_MAX || h->size_bytes > media_bytes || h->frames < TIER_FRAMES_MIN || h->frames >= FRAME_NONE)
		return false;
	if (h->ring_bytes % PAGE_BYTES || h->item_ring_bytes % PAGE_BYTES || h->ring_bytes < RING_BYTES_MIN ||
	    h->item_ring_bytes < ITEM_RING_BYTES_MIN || h->ring_bytes > h->size_bytes || h->item_ring_bytes > h->size_bytes)
		return false;
	if (h->table_offset != TIER_RINGS_OFFSET + h->rings * h->ring_bytes + h->item_ring_bytes ||
	    h->frames_offset % PAGE_BYTES || h->frames_offset > h->size_bytes ||
	    h->frames_offset < h->table_offset + h->frames * sizeof(struct slot_disk) ||
	    h->frames > (h->size_bytes - h->frames_offset) / PAGE_BYTES)
		return false;
	*ret = g;
	return true;
}

static bool is_zero(const uint8_t *p, size_t bytes)
{
	return bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0);
}

enum tier_found tier_probe(const struct media *m, struct tier_geometry *ret_geometry, uint8_t ret_fsid[16])
{
	bool magic = false, future = false, wrong_size = false, shrunk = false;

	if (m->size_bytes < 2 * MIB)
		return is_zero(m->base, m->size_bytes) ? TIER_FOUND_BLANK : TIER_FOUND_FOREIGN;
	for (int copy = 0; copy < 2; copy++) {
		struct tier_header_disk h;
		memcpy(&h, m->base + copy * PAGE_BYTES, sizeof h);
		if (h.magic != VEMS_TIER_MAGIC)
			continue;
		magic = true;
		if (h.sum != header_sum(&h))
			continue;
		if (h.version > VEMS_VERSION || (h.incompat & ~VEMS_INCOMPAT_KNOWN) || (h.ro_compat & ~VEMS_RO_COMPAT_KNOWN)) {
			future = true;
			continue;
		}
		if (header_geometry(&h, m->size_bytes, ret_geometry) && is_zero(h.reserved, sizeof h.reserved)) {
			memcpy(ret_fsid, h.fsid, 16);
			return TIER_FOUND_GOOD;
		}
		wrong_size = true;
		if (h.size_bytes > m->size_bytes) {
			shrunk = true;
			ret_geometry->size_bytes = h.size_bytes;
		}
	}
	if (future)
		return TIER_FOUND_FUTURE;
	// A first header that was cut off has its magic, and nothing else was written before it was whole.
	uint64_t from = magic && !wrong_size ? TIER_WORDS_OFFSET : 0;
	if (is_zero(m->base + from, MIB - from) && is_zero(m->base + m->size_bytes - MIB, MIB))
		return TIER_FOUND_BLANK;
	if (shrunk)
		return TIER_FOUND_SHRUNK;
	return magic || wrong_size ? TIER_FOUND_DAMAGED : TIER_FOUND_FOREIGN;
}

void tier_write_header(struct media *m, const struct tier_geometry *g, const uint8_t fsid[16])
{
	struct tier_header_disk h = { .magic = VEMS_TIER_MAGIC, .version = VEMS_VERSION, .rings = g->rings,
				      .size_bytes = g->size_bytes, .ring_bytes = g->ring_bytes,
				      .item_ring_bytes = g->item_ring_bytes, .table_offset = g->table_offset,
				      .frames_offset = g->frames_offset, .frames = g->frames };
	memcpy(h.fsid, fsid, 16);
	h.sum = header_sum(&h);
	for (int copy = 0; copy < 2; copy++) {
		media_store64(m, (uint64_t *)(m->base + copy * PAGE_BYTES), h.magic);
		media_drain(m); // a torn one is known for ours
		media_copy(m, m->base + copy * PAGE_BYTES, &h, sizeof h);
		media_drain(m); // one copy is whole at any time
	}
}

bool tier_headers_equal(const struct media *m)
{
	return memcmp(m->base, m->base + PAGE_BYTES, PAGE_BYTES) == 0;
}

// ---- words --------------------------------------------------------------------------------------

static uint64_t word_encode(unsigned word, uint64_t value)
{
	uint8_t bytes[8];
	memcpy(bytes, &value, 7);
	bytes[7] = (uint8_t)word;
	return value | (uint64_t)crc8(bytes, 8) << 56;
}

static uint64_t *word_at(const struct media *m, unsigned word)
{
	return (uint64_t *)(m->base + TIER_WORDS_OFFSET + word * TIER_WORD_STRIDE);
}

int tier_word_load(const struct media *m, unsigned word, uint64_t *ret_value)
{
	uint64_t raw = __atomic_load_n(word_at(m, word), __ATOMIC_ACQUIRE), value = raw & LSN_MAX;
	if (word_encode(word, value) != raw) {
		log_error("%s: tier header word %u is damaged: found %016llx", m->path, word, (unsigned long long)raw);
		return -EUCLEAN;
	}
	*ret_value = value;
	return 0;
}

int tier_word_correct(const struct media *m, unsigned word, uint64_t *ret_value)
{
	uint64_t raw = __atomic_load_n(word_at(m, word), __ATOMIC_ACQUIRE);
	for (unsigned bit = 0; bit < 64; bit++) {
		uint64_t other = raw ^ UINT64_C(1) << bit;
		if (word_encode(word, other & LSN_MAX) == other) {
			*ret_value = other & LSN_MAX;
			return 0;
		}
	}
	return -EUCLEAN;
}

void tier_word_store(struct media *m, unsigned word, uint64_t value)
{
	media_store64(m, word_at(m, word), word_encode(word, value & LSN_MAX));
}

// ---- life cycle ---------------------------------------------------------------------------------

static int index_init(struct index *x, frame_t frames)
{
	x->buckets = (uint32_t)((uint64_t)frames * 2 / 11) + 1; // five and a half pages for seven entries
	// All entries in one chain of overflows is the worst case: frames / 7, and one per chain begun.
	x->overflows = frames / INDEX_WAYS + 2;
	x->bucket = aligned_alloc(64, (size_t)x->buckets * sizeof *x->bucket);
	x->overflow = aligned_alloc(64, (size_t)x->overflows * sizeof *x->overflow);
	if (!x->bucket || !x->overflow)
		return -ENOMEM;
	memset(x->bucket, 0, (size_t)x->buckets * sizeof *x->bucket);
	pthread_mutex_init(&x->overflow_lock, NULL);
	return 0;
}

static void rings_init(struct tier *t)
{
	uint8_t *at = t->media->base + TIER_RINGS_OFFSET;
	for (unsigned i = 0; i <= t->geometry.rings; i++) {
		struct ring *r = &t->ring[i];
		pthread_mutex_init(&r->lock, NULL);
		r->base = at;
		r->bytes = i < t->geometry.rings ? t->geometry.ring_bytes : t->geometry.item_ring_bytes;
		r->number = i;
		at += r->bytes;
	}
}

int tier_new(struct media *m, struct grace *grace, const struct tier_geometry *g, uint64_t attach, struct tier **ret_tier)
{
	struct tier *t = calloc(1, sizeof *t);
	if (!t)
		return -ENOMEM;
	t->media = m;
	t->grace = grace;
	t->geometry = *g;
	t->attach = attach;
	t->table = (struct slot_disk *)(m->base + g->table_offset);
	t->data = m->base + g->frames_offset;
	t->frames = g->frames;
	t->frame = calloc(t->frames, sizeof *t->frame);
	t->pool.free = t->pool.retired_first = t->pool.retired_last = t->pool.sealed_last = FRAME_NONE;
	pthread_mutex_init(&t->pool.lock, NULL);
	pthread_mutex_init(&t->table_lock, NULL);
	rings_init(t);
	if (!t->frame || index_init(&t->index, t->frames)) {
		tier_free(t);
		return -ENOMEM;
	}
	for (frame_t f = 0; f < t->frames; f++)
		t->frame[f].replaces = FRAME_NONE;
	*ret_tier = t;
	return 0;
}

void tier_free(struct tier *t)
{
	if (!t)
		return;
	free(t->frame);
	free(t->index.bucket);
	free(t->index.overflow);
	free(t);
}
