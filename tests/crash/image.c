// SPDX-License-Identifier: GPL-2.0-or-later
// Pairs of images: the tier in anonymous memory, the backing in a memfd. Those of the backing are used
// again, with what they held left in blocks that were not written: a free block may hold anything.
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
	pthread_mutex_lock(&spare_lock);
	if (spares < SPARES_MAX) {
		memset(i->written, 0, i->backing_bytes / PAGE_BYTES / 8 + 1);
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
	struct image *i = image_make(from->media->size_bytes, from->backing_bytes, false);
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
