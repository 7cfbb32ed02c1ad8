// SPDX-License-Identifier: GPL-2.0-or-later
// Pairs of images: the tier in anonymous memory, the backing in a memfd. Those of the backing are used
// again, with rubbish in blocks that were not written: a free block may hold anything, but not what would
// have arrived in it.
#include "adversary.h"
#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "store_impl.h"

#define SPARES_MAX 8u

static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static struct image *spare;
static unsigned spares;

static struct image *image_get(uint64_t backing_bytes)
{
	struct image *i = NULL;
	pthread_mutex_lock(&spare_lock);
	for (struct image **link = &spare; *link; link = &(*link)->next)
		if ((*link)->backing_bytes == backing_bytes) {
			i = *link;
			*link = i->next;
			spares--;
			break;
		}
	pthread_mutex_unlock(&spare_lock);
	return i;
}

static void spoil(struct image *i)
{
	for (uint64_t b = 0; b < i->backing_bytes / PAGE_BYTES; b++)
		if (i->written[b / 8] >> (b % 8) & 1)
			memset(i->backing + b * PAGE_BYTES, 0xa5, PAGE_BYTES);
	memset(i->written, 0, i->backing_bytes / PAGE_BYTES / 8 + 1);
}

static struct image *image_make(uint64_t tier_bytes, uint64_t backing_bytes, bool blank)
{
	struct image *i = blank ? NULL : image_get(backing_bytes);
	if (!i) {
		i = calloc(1, sizeof *i);
		i->fd = memfd_create("backing", MFD_CLOEXEC);
		if (i->fd < 0 || ftruncate(i->fd, (off_t)backing_bytes)) {
			perror("memfd");
			exit(99);
		}
		i->backing = mmap(NULL, backing_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, i->fd, 0);
		i->backing_bytes = backing_bytes;
		i->written = calloc(1, backing_bytes / PAGE_BYTES / 8 + 1);
		assert(i->backing != MAP_FAILED && i->written);
	}
	if (media_open_dram(tier_bytes, &i->media)) {
		fprintf(stderr, "out of memory\n");
		exit(99);
	}
	return i;
}

struct image *image_new(uint64_t tier_bytes, uint64_t backing_bytes)
{
	return image_make(tier_bytes, backing_bytes, true);
}

void image_free(struct image *i)
{
	if (!i)
		return;
	media_close(i->media);
	i->media = NULL;
	i->blank_rest = false;
	spoil(i);
	pthread_mutex_lock(&spare_lock);
	if (spares < SPARES_MAX) {
		i->next = spare;
		spare = i;
		spares++;
		i = NULL;
	}
	pthread_mutex_unlock(&spare_lock);
	if (!i)
		return;
	munmap(i->backing, i->backing_bytes);
	close(i->fd);
	free(i->written);
	free(i);
}

struct image *image_copy(const struct image *from)
{
	struct image *i = image_make(from->media->size_bytes, from->backing_bytes, from->blank_rest);
	i->blank_rest = from->blank_rest;
	memcpy(i->media->base, from->media->base, from->media->size_bytes);
	for (uint64_t b = 0; b < from->backing_bytes / PAGE_BYTES; b++)
		if (from->written[b / 8] >> (b % 8) & 1) {
			memcpy(i->backing + b * PAGE_BYTES, from->backing + b * PAGE_BYTES, PAGE_BYTES);
			i->written[b / 8] |= (uint8_t)(1u << (b % 8));
		}
	return i;
}

int image_open(struct image *i, bool read_only, struct media **ret_media, struct backing **ret_backing)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", i->fd);
	int r = backing_open(path, read_only, ret_backing);
	if (r)
		return r;
	*ret_media = i->media;
	i->media = NULL;
	return 0;
}

// ---- invariants of the index --------------------------------------------------------------------------

// What is in the index and in the table has a place in the policy's queues; what is nowhere has none.
static int check_queues(const struct store *s, char *text, size_t bytes)
{
	const struct tier *t = s->tier;
	if (!policy_check(&s->policy)) {
		snprintf(text, bytes, "the policy's queues are damaged");
		return 1;
	}
	for (frame_t f = 0; f < t->frames; f++) {
		const struct frame *fr = &t->frame[f];
		uint16_t state = frame_state(fr);
		unsigned place = frame_place(state);
		bool must = place == FRAME_INDEXED && (state & FRAME_FILLED || fr->lsn <= t->tail_lsn);
		bool may = place == FRAME_INDEXED || place == FRAME_LIMBO;
		if (fr->queue ? may : !must)
			continue;
		snprintf(text, bytes, "frame %u in place %u, LSN %llu, is in queue %u", f, place, (unsigned long long)fr->lsn, fr->queue);
		return 1;
	}
	return 0;
}

// A free frame has a free slot, and what the table has to name is named there.
static int check_slots(const struct store *s, char *text, size_t bytes)
{
	const struct tier *t = s->tier;
	for (frame_t f = 0; f < t->frames; f++) {
		const struct frame *fr = &t->frame[f];
		uint16_t state = frame_state(fr);
		struct slot_disk slot;
		enum slot_found found = slot_load(t, f, &slot);
		bool named = frame_place(state) == FRAME_INDEXED && (state & FRAME_FILLED || fr->lsn <= t->tail_lsn);
		if (frame_place(state) == FRAME_FREE ? found == SLOT_FOUND_FREE : !named ||
		    (found == SLOT_FOUND_GOOD && slot.object == fr->object && slot.page == fr->page && slot.lsn == fr->lsn))
			continue;
		snprintf(text, bytes, "frame %u in place %u, object %llu page %llu LSN %llu: its slot is %s", f, frame_place(state),
			 (unsigned long long)fr->object, (unsigned long long)fr->page, (unsigned long long)fr->lsn,
			 found == SLOT_FOUND_FREE ? "free" : found == SLOT_FOUND_GOOD ? "of another page" : "bad");
		return 1;
	}
	return 0;
}

// While nothing runs: each entry names a frame that is in the index under that key, once.
static int check_index_locked(struct store *s, char *text, size_t bytes)
{
	struct tier *t = s->tier;
	uint8_t *seen = calloc(1, t->frames);
	int bad = 0;
	for (uint32_t n = 0; n < t->index.buckets && !bad; n++)
		for (struct bucket *b = &t->index.bucket[n]; b && !bad; b = b->next ? &t->index.overflow[b->next - 1] : NULL)
			for (int way = 0; way < INDEX_WAYS && !bad; way++) {
				uint64_t entry = b->entry[way];
				if (!entry)
					continue;
				frame_t f = (uint32_t)entry - 1;
				const struct frame *fr = &t->frame[f];
				if (f < t->frames && frame_place(frame_state(fr)) == FRAME_INDEXED && !seen[f]++ &&
				    index_bucket(t, fr->object, fr->page) == &t->index.bucket[n])
					continue;
				snprintf(text, bytes, "index: an entry for frame %u, which is in place %u with object %llu page %llu LSN %llu%s", f,
					 frame_place(frame_state(fr)), (unsigned long long)fr->object, (unsigned long long)fr->page,
					 (unsigned long long)fr->lsn, seen[f] > 1 ? " (twice)" : "");
				bad = 1;
			}
	for (frame_t f = 0; f < t->frames && !bad; f++)
		if (frame_place(frame_state(&t->frame[f])) == FRAME_INDEXED && !seen[f]) {
			snprintf(text, bytes, "index: frame %u has no entry", f);
			bad = 1;
		}
	free(seen);
	return bad || check_queues(s, text, bytes) || check_slots(s, text, bytes);
}

// The chores thread may be evicting and reclaiming already.
int check_index(struct store *s, char *text, size_t bytes)
{
	pthread_mutex_lock(&s->tier->table_lock);
	int bad = check_index_locked(s, text, bytes);
	pthread_mutex_unlock(&s->tier->table_lock);
	return bad;
}

// ---- the full check ---------------------------------------------------------------------------------

struct first_error {
	char *text;
	size_t bytes;
};

static void note_finding(void *arg, const struct check_finding *finding)
{
	struct first_error *e = arg;
	if (!finding->warning && !e->text[0])
		check_describe(finding, e->text, e->bytes);
}

static int check_open(struct store *s, image_check_fn check, char *text, size_t bytes)
{
	struct first_error first = { text, bytes };
	const struct check_config config = { .report = note_finding, .arg = &first };
	struct check_result result;
	text[0] = 0;
	int r = check(s, &config, &result);
	if (r)
		snprintf(text, bytes, "the check: %s", strerror(-r));
	return r || result.errors;
}

int image_check(const struct image *i, bool lost_tier, image_check_fn check, image_then_fn then, void *arg, char *text,
		size_t bytes)
{
	const struct store_config config = { .read_only = true, .lose_tier = lost_tier, .tiny = true, .assume_persistent = true };
	struct image view = *i;
	struct media *m;
	struct backing *b;
	struct store *s;
	if (media_open_dram(i->media->size_bytes, &view.media))
		abort();
	memcpy(view.media->base, i->media->base, i->media->size_bytes);
	int r = image_open(&view, true, &m, &b);
	if (!r)
		r = store_open_on(&config, m, b, &s);
	if (r) {
		snprintf(text, bytes, "opening read-only: %s", strerror(-r));
		return 1;
	}
	r = check_open(s, check, text, bytes);
	if (!r && then)
		r = then(s, arg, text, bytes);
	store_abandon(s);
	return r;
}

void image_blank_tier(struct image *i)
{
	memset(i->media->base, 0, i->media->size_bytes);
}

void image_tear_header_b(struct image *i)
{
	memset(i->media->base + PAGE_BYTES + 8, 0, PAGE_BYTES - 8);
}

void image_tear_super_b(struct image *i)
{
	memset(i->backing + i->backing_bytes - PAGE_BYTES / 2, 0, PAGE_BYTES / 2);
}

int image_age_tier(struct image *i, uint64_t epoch)
{
	struct tier_geometry g;
	uint8_t fsid[16];
	uint64_t state;
	if (tier_probe(i->media, &g, fsid) != TIER_FOUND_GOOD || tier_word_load(i->media, WORD_STATE, &state) || state != TIER_IN_USE)
		return 1;
	tier_word_store(i->media, WORD_EPOCH, epoch);
	media_drain(i->media);
	return 0;
}

const struct super_disk *image_super(const struct image *i)
{
	uint64_t blocks = i->backing_bytes / PAGE_BYTES;
	const struct super_disk *a = (const void *)i->backing, *b = (const void *)(i->backing + (blocks - 1) * PAGE_BYTES);
	bool a_good = super_valid(a, blocks), b_good = super_valid(b, blocks);
	if (a_good && b_good)
		return b->epoch > a->epoch ? b : a;
	return a_good ? a : b_good ? b : NULL;
}

static int save(const char *prefix, const char *suffix, const uint8_t *data, uint64_t bytes)
{
	char path[512];
	snprintf(path, sizeof path, "%s.%s", prefix, suffix);
	FILE *f = fopen(path, "w");
	if (!f)
		return -1;
	size_t put = fwrite(data, 1, bytes, f);
	return fclose(f) || put != bytes ? -1 : 0;
}

int image_save(const struct image *i, const char *prefix)
{
	return save(prefix, "tier", i->media->base, i->media->size_bytes) ||
	       save(prefix, "backing", i->backing, i->backing_bytes);
}
