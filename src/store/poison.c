// SPDX-License-Identifier: GPL-2.0-or-later
// What is done about pages of the tier that turn out to be poisoned while mounted (media/poison.c).
//
// 1. An operation begins when all that was found has been seen to, and its result counts only if no more was
//    found until its end. In between it may have loaded zeroes, of nodes too, and followed them anywhere; a
//    commit asks under its locks, before its record.
// 2. A frame that holds nothing any more is not used again in this mount: frames_claim() passes it over.
// 3. Nothing is acknowledged, and no frame or log space used again, on the strength of a store to a page
//    that was lost: each drain that is relied on is followed by a look (poison_spares_front(),
//    ring_holds(), tier_frame_holds()).
#include "store_impl.h"
#include "log.h"

static void meet_frame(struct store *s, uint64_t offset, frame_t f)
{
	struct frame *fr = &s->tier->frame[f];
	uint16_t state = atomic_fetch_or(&fr->state, FRAME_POISONED);
	bool used = frame_place(state) == FRAME_INDEXED || state & FRAME_KEPT;

	if (!used)
		log_error("%s: the memory at byte %llu has failed: free frame %u is out of use until the next mount", s->media->path,
			  (unsigned long long)offset, f);
	else if (state & FRAME_DIRTY)
		log_error("%s: the memory at byte %llu has failed: page %llu of object %llu, not yet on the backing (frame %u), "
			  "reads as an error until overwritten", s->media->path, (unsigned long long)offset,
			  (unsigned long long)fr->page, (unsigned long long)fr->object, f);
	else
		log_error("%s: the memory at byte %llu has failed: page %llu of object %llu (frame %u) will be read "
			  "from the backing again", s->media->path, (unsigned long long)offset, (unsigned long long)fr->page,
			  (unsigned long long)fr->object, f);
}

static void meet_front(struct store *s, uint64_t offset)
{
	const struct tier_geometry *g = &s->tier->geometry;
	const char *part = offset < TIER_WORDS_OFFSET ? "header" : offset < TIER_RINGS_OFFSET ? "words"
			   : offset < g->table_offset ? "log" : "frame table";

	log_error("%s: the memory at byte %llu, of the %s, has failed: nothing more can be written; all that was acknowledged "
		  "before is served", s->media->path, (unsigned long long)offset, part);
}

void poison_meet(struct store *s)
{
	pthread_mutex_lock(&s->poison_lock);
	unsigned met = atomic_load(&s->poison_met), count = media_poisoned(s->media);
	for (; met < count; met++) {
		uint64_t offset = s->media->poison[met], frames = s->tier->geometry.frames_offset;
		if (offset < frames)
			meet_front(s, offset);
		else if ((offset - frames) / PAGE_BYTES < s->tier->frames)
			meet_frame(s, offset, (frame_t)((offset - frames) / PAGE_BYTES));
	}
	if (!tier_front_holds(s->tier))
		atomic_store(&s->log_damaged, true);
	atomic_store(&s->poison_met, met);
	pthread_mutex_unlock(&s->poison_lock);
}

bool poison_spares_front(struct store *s)
{
	if (tier_front_holds(s->tier))
		return true;
	atomic_store(&s->log_damaged, true);
	return false;
}

void frame_damaged(struct store *s, frame_t f, uint64_t found)
{
	struct frame *fr = &s->tier->frame[f];
	if (atomic_fetch_or(&fr->state, FRAME_POISONED) & FRAME_POISONED)
		return; // reported
	log_error("%s: dirty page %llu of object %llu is damaged in the tier (frame %u): expected checksum %016llx, found %016llx; "
		  "it reads as an error until overwritten", s->media->path, (unsigned long long)fr->page,
		  (unsigned long long)fr->object, f, (unsigned long long)fr->sum, (unsigned long long)found);
}
