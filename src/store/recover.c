// SPDX-License-Identifier: GPL-2.0-or-later
// Recovery: DRAM from the media. Of each key the newest LSN wins, be it in the frame table or in a log
// record > T; items > C from any ring go to the overlay. The log is left as it stands: all of this can
// be cut short and begun again. It writes two words: the LSN base, 2^32 above all that was seen, and
// the epoch of the superblock in force.
//
// What is damaged ends it, and nothing was written. Before a repair it *salvages*: the damage is noted as a
// finding, one flipped bit is put right, and else it goes on without the slot, word or record; but a page of
// which a newer version may be lost by that is poisoned, rather than that the older one returns.
#include "check.h"
#include "store_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

struct recovery {
	struct store *s;
	lsn_t seen, tail, cut;
	uint8_t *named;    // bit per frame: a record > T names it
	uint8_t *slot_bad; // bit per frame
	uint64_t records, bad_slots;
	_Alignas(64) uint8_t buffer[RECORD_BYTES_MAX];
};

static bool bit(const uint8_t *bits, frame_t f)
{
	return bits[f / 8] >> (f % 8) & 1;
}
static void bit_set(uint8_t *bits, frame_t f)
{
	bits[f / 8] |= (uint8_t)(1u << (f % 8));
}

static void see(struct recovery *rc, lsn_t lsn)
{
	if (lsn > rc->seen)
		rc->seen = lsn;
}

int salvage(struct store *s, const struct check_finding *finding)
{
	if (!s->config.salvage)
		return -EUCLEAN;
	struct check_finding *more = realloc(s->salvage, (s->salvages + 1) * sizeof *more);
	if (!more)
		return -ENOMEM;
	s->salvage = more;
	s->salvage[s->salvages++] = *finding;
	return 0;
}

static int malformed_frame(const struct recovery *rc, frame_t f, const char *what)
{
	const struct frame *fr = &rc->s->tier->frame[f];
	int r = salvage(rc->s, &(struct check_finding){ .kind = CHECK_FRAME_CONFLICT, .object = fr->object, .page = fr->page,
							.place = PLACE_FRAME, .at = f });
	if (r != -EUCLEAN)
		return r;
	log_error("%s: frame %u of the tier %s; nothing was written", rc->s->media->path, f, what);
	return -EUCLEAN;
}

// Single-threaded: no other looks at the index yet. A frame is used again only when neither a slot nor a
// record > T has its old key; the index relies on one key for each frame.
static int newest_wins(struct recovery *rc, frame_t f, object_t object, page_t page, lsn_t lsn, uint64_t sum, bool filled)
{
	struct tier *t = rc->s->tier;
	struct frame *fr = &t->frame[f];
	struct bucket *b = index_bucket(t, object, page);
	frame_t old = index_find(t, b, object, page);

	if (frame_place(frame_state(fr)) != FRAME_FREE && (fr->object != object || fr->page != page))
		return malformed_frame(rc, f, "is said to hold two pages");
	if (old == f && fr->lsn >= lsn)
		return 0; // the power failed between slots and T: slot and record say the same
	fr->object = object;
	fr->page = page;
	fr->lsn = lsn;
	fr->sum = sum;
	atomic_store(&fr->state, FRAME_LIMBO | (filled ? FRAME_FILLED : 0));
	if (old != FRAME_NONE && old != f && t->frame[old].lsn >= lsn)
		return 0;
	if (old != FRAME_NONE && old != f)
		atomic_store(&t->frame[old].state, FRAME_LIMBO);
	atomic_store(&fr->state, FRAME_INDEXED | (filled ? FRAME_FILLED : 0));
	uint32_t version = index_lock(b);
	index_set(t, b, object, page, f);
	index_unlock(b, version, true);
	return 0;
}

// Tree nodes are only ever filled.
static bool slot_valid(const struct slot_disk *slot)
{
	return slot->object <= LSN_MAX && slot->page <= PAGE_MAX && slot->lsn != 0 && slot->lsn <= LSN_MAX &&
	       slot->flags <= SLOT_FILLED && (slot->object != OBJECT_STORE || slot->flags & SLOT_FILLED);
}

static int take_slot(struct recovery *rc, frame_t f, const struct slot_disk *slot)
{
	if (!slot_valid(slot))
		return malformed_frame(rc, f, "has a malformed slot");
	see(rc, slot->lsn);
	return newest_wins(rc, f, slot->object, slot->page, slot->lsn, slot->sum, slot->flags & SLOT_FILLED);
}

static int scan_table(struct recovery *rc)
{
	struct tier *t = rc->s->tier;
	int r = 0;
	for (frame_t f = 0; !r && f < t->frames; f++) {
		struct slot_disk slot;
		switch (slot_load(t, f, &slot)) {
		case SLOT_FOUND_GOOD:
			r = take_slot(rc, f, &slot);
			break;
		case SLOT_FOUND_BAD:
			bit_set(rc->slot_bad, f);
			rc->bad_slots++;
			break;
		case SLOT_FOUND_FREE:
			break;
		}
	}
	return r;
}

static bool drop_valid(const struct item_disk *d)
{
	const struct drop_disk *drop = (const void *)(d + 1);
	return d->bytes == sizeof *drop && !(d->flags & ITEM_DELETED) && item_key_rest((struct item_key){ d->object, d->sub }) == d->lsn &&
	       (drop->flags & DROP_OBJECT || drop->from < drop->to);
}

// What a log may have. EXTENTs are in trees alone, and a fold refuses them.
static bool item_valid(const struct item_disk *d, lsn_t record_lsn)
{
	enum item_type type = item_key_type((struct item_key){ d->object, d->sub });
	if (d->object > LSN_MAX || d->lsn == 0 || d->lsn > record_lsn)
		return false;
	return type == ITEM_INODE || type == ITEM_XATTR || type == ITEM_DIRENT || type == ITEM_ORPHAN ||
	       (type == ITEM_DROP && drop_valid(d));
}

static int replay_item(struct recovery *rc, const struct item_disk *d)
{
	struct store *s = rc->s;
	struct item_key key = { d->object, d->sub };
	const struct item *have = overlay_find(&s->overlay, key, LSN_MAX);
	struct item *replaced = NULL;

	see(rc, d->lsn);
	if (d->lsn <= rc->cut || (have && have->lsn >= d->lsn))
		return 0;
	struct item *item = item_new(key, d + 1, d->bytes, d->flags & ITEM_DELETED);
	if (!item)
		return -ENOMEM;
	item->lsn = d->lsn;
	overlay_put(&s->overlay, item, 0, &replaced);
	for (struct item *next; replaced; replaced = next) {
		next = replaced->next;
		free(replaced);
	}
	if (item_is_drop(item)) {
		const struct drop_disk *value = (const void *)item->value;
		struct drop *drop = drop_new(key.object, value->from, value->to, value->flags & DROP_OBJECT);
		if (!drop)
			return -ENOMEM;
		drop->lsn = item->lsn;
		drops_add(&s->drops, drop);
	}
	return 0;
}

static int replay_record(struct recovery *rc, const struct record_disk *r, bool switches)
{
	struct tier *t = rc->s->tier;
	const struct switch_disk *sw = record_switches(r);
	const struct item_disk *d = NULL;

	if (!sw || r->lsn > LSN_MAX)
		return -EUCLEAN;
	for (unsigned i = 0; switches && i < r->switches; i++) {
		if (sw[i].frame >= t->frames || sw[i].object == OBJECT_STORE || sw[i].object > LSN_MAX || sw[i].page > PAGE_MAX)
			return -EUCLEAN;
		bit_set(rc->named, sw[i].frame);
		int e = newest_wins(rc, sw[i].frame, sw[i].object, sw[i].page, r->lsn, sw[i].sum, false);
		if (e)
			return e;
	}
	for (unsigned i = 0; i < r->items; i++) {
		d = record_item(r, d);
		if (!d || !item_valid(d, r->lsn))
			return -EUCLEAN;
		int e = replay_item(rc, d);
		if (e)
			return e;
	}
	return 0;
}

static int word_damaged(struct recovery *rc, unsigned word)
{
	return salvage(rc->s, &(struct check_finding){ .kind = CHECK_WORD_DAMAGED, .found = word });
}

static int record_damaged(struct recovery *rc, const struct ring *r, lsn_t lsn)
{
	return salvage(rc->s, &(struct check_finding){ .kind = CHECK_RECORD_DAMAGED, .expected = r->number, .found = lsn });
}

static int load_word(struct recovery *rc, unsigned word, uint64_t instead, uint64_t *ret_value)
{
	int r = tier_word_load(rc->s->media, word, ret_value);
	if (r && !(r = word_damaged(rc, word)))
		*ret_value = instead;
	return r;
}

// A tail is right if a record is found there; where there was nothing to replay, any will do.
static int load_tail(struct recovery *rc, const struct ring *r, uint64_t *ret_tail)
{
	struct store *s = rc->s;
	int e = tier_word_load(s->media, WORD_RING_TAIL + r->number, ret_tail);
	if (!e)
		return *ret_tail % RECORD_ALIGN ? -EUCLEAN : 0;
	e = tier_word_correct(s->media, WORD_RING_TAIL + r->number, ret_tail);
	bool right = !e && *ret_tail % RECORD_ALIGN == 0 && ring_read(s->tier, r, *ret_tail, rc->buffer) == 0;
	if (!right && s->super.state != SUPER_CLEAN)
		return -EUCLEAN;
	if (!right)
		*ret_tail = 0;
	return word_damaged(rc, WORD_RING_TAIL + r->number);
}

// Valid records from *at on.
static int scan_records(struct recovery *rc, const struct ring *r, uint64_t end, uint64_t *at, lsn_t *last)
{
	struct store *s = rc->s;
	struct record_disk *record = (struct record_disk *)rc->buffer;
	bool items_only = r == tier_item_ring(s->tier);

	while (*at < end && ring_read(s->tier, r, *at, record) == 0 && record->lsn > *last) {
		*last = record->lsn;
		see(rc, *last);
		int e = replay_record(rc, record, !items_only && *last > rc->tail);
		if (e == -EUCLEAN && (e = record_damaged(rc, r, *last)))
			log_error("%s: record %llu of log ring %u is malformed", s->media->path, (unsigned long long)*last, r->number);
		if (e)
			return e;
		*at += record->bytes;
		rc->records++;
	}
	return 0;
}

// Of a switch that may be damaged: is it one that could have been?
static bool switch_likely(const struct recovery *rc, const struct switch_disk *sw)
{
	const struct tier *t = rc->s->tier;
	return sw->frame < t->frames && sw->object != OBJECT_STORE && sw->object <= rc->seen && sw->page <= PAGE_MAX &&
	       sw->reserved == 0 && frame_place(frame_state(&t->frame[sw->frame])) == FRAME_FREE;
}

// What a damaged record of that many bytes, at most, has had, as far as it can be read. Its pages are checked
// like those of other live records: the content proves them, or they are poisoned. Its items cannot be proved.
static int salvage_record(struct recovery *rc, const struct ring *r, uint64_t at, uint64_t bytes, lsn_t lsn)
{
	struct record_disk *record = (struct record_disk *)rc->buffer;
	const struct item_disk *d = NULL;
	int e = record_damaged(rc, r, lsn);

	// There may have been more records in it than the one that lies at its beginning.
	if (!e)
		e = salvage(rc->s, &(struct check_finding){ .kind = CHECK_LOG_LOST, .expected = r->number, .found = bytes });
	memset(rc->buffer, 0, sizeof rc->buffer);
	ring_copy(r, at, rc->buffer, bytes < RECORD_BYTES_MAX ? bytes : RECORD_BYTES_MAX);
	record->bytes = (uint32_t)(bytes < RECORD_BYTES_MAX ? bytes : RECORD_BYTES_MAX);
	const struct switch_disk *sw = record_switches(record);
	for (unsigned i = 0; !e && sw && i < record->switches; i++) {
		if (!switch_likely(rc, &sw[i]))
			continue;
		bit_set(rc->named, sw[i].frame);
		e = newest_wins(rc, sw[i].frame, sw[i].object, sw[i].page, lsn, sw[i].sum, false);
	}
	for (unsigned i = 0; !e && i < record->items && (d = record_item(record, d)) && item_valid(d, LSN_MAX); i++)
		e = salvage(rc->s, &(struct check_finding){ .kind = CHECK_RECORD_ITEM, .object = d->object, .place = PLACE_KEY,
							    .at = d->sub });
	return e;
}

static int scan_ring(struct recovery *rc, struct ring *r)
{
	struct store *s = rc->s;
	const struct record_disk *record = (const struct record_disk *)rc->buffer;
	bool items_only = r == tier_item_ring(s->tier);
	lsn_t last = 0;
	uint64_t tail, next;

	int e = load_tail(rc, r, &tail);
	if (e)
		return e;
	uint64_t at = tail, end = tail + r->bytes;
	e = scan_records(rc, r, end, &at, &last);
	// There is one drain per record: nothing intact can lie behind a torn one. A lane's record <= T is
	// not needed; one of the item ring is for as long as it lies there.
	while (!e && at < end && ring_search(s->tier, r, at, items_only || last > rc->tail ? last : rc->tail, rc->buffer, &next)) {
		if (!s->config.salvage) {
			log_error("%s: log ring %u is damaged at offset %llu, record %llu lies behind it; nothing was written",
				  s->media->path, r->number, (unsigned long long)at, (unsigned long long)record->lsn);
			return -EUCLEAN;
		}
		e = salvage_record(rc, r, at, next - at, record->lsn - 1);
		at = next;
		if (!e)
			e = scan_records(rc, r, end, &at, &last);
	}
	r->tail = tail;
	r->head = at;
	atomic_store(&r->visible_head, at);
	atomic_store(&r->durable_tail, tail);
	// Nor would a torn one have to lie in memory that has failed.
	uint64_t left = end - at;
	if (!e && at < end && !ring_holds(s->tier, r, at, left < RECORD_BYTES_MAX ? left : RECORD_BYTES_MAX) &&
	    (e = record_damaged(rc, r, last + 1)))
		log_error("%s: log ring %u ends at offset %llu in memory that has failed; nothing was written", s->media->path,
			  r->number, (unsigned long long)at);
	return e;
}

// Frames that no key's current version is in: free, or waiting for their slot to be freed.
static int settle_frames(struct recovery *rc)
{
	struct store *s = rc->s;
	struct tier *t = s->tier;

	s->limbo = FRAME_NONE;
	s->limbo_count = 0;
	for (frame_t f = 0; f < t->frames; f++) {
		struct frame *fr = &t->frame[f];
		unsigned place = frame_place(frame_state(fr));
		if (place == FRAME_INDEXED) {
			policy_insert(&s->policy, f);
			// No cut is in force before T has passed it, and evicting relies on that.
			if (fr->lsn > rc->tail && fr->lsn <= rc->cut && !(frame_state(fr) & FRAME_FILLED)) {
				int r = malformed_frame(rc, f, "is of a record that both the log and the backing have");
				if (r)
					return r;
			}
			if (fr->lsn > rc->cut && !(frame_state(fr) & FRAME_FILLED))
				frame_set_dirty(t, f);
			continue;
		}
		if (place == FRAME_FREE && !bit(rc->slot_bad, f)) {
			frames_return(t, &f, 1);
			continue;
		}
		frame_t current = place == FRAME_LIMBO ? index_find(t, index_bucket(t, fr->object, fr->page), fr->object, fr->page)
						       : FRAME_NONE;
		fr->lsn = 0; // reclaiming its own record frees nothing: what `replaces` leads to is not older than it
		if (current != FRAME_NONE && t->frame[current].lsn > rc->tail) {
			fr->replaces = t->frame[current].replaces;
			t->frame[current].replaces = f;
			continue;
		}
		atomic_store(&fr->state, FRAME_LIMBO);
		fr->replaces = s->limbo;
		s->limbo = f;
		s->limbo_count++;
	}
	return 0;
}

// Nothing tells whether the page was newer than what the backing has, and its key may be another's. A repair
// poisons what can be read as one: if another frame has it, that is as new.
static int poison_slot(struct recovery *rc, frame_t f, const struct slot_disk *slot)
{
	struct tier *t = rc->s->tier;
	struct check_finding finding = { .kind = CHECK_SLOT_DAMAGED, .place = PLACE_FRAME, .at = f };
	bool known = slot_valid(slot) && slot->object != OBJECT_STORE && slot->object <= rc->seen;
	int r = 0;

	if (known) {
		finding.object = slot->object;
		finding.page = finding.found = slot->page;
	}
	if (known && index_find(t, index_bucket(t, slot->object, slot->page), slot->object, slot->page) == FRAME_NONE) {
		r = newest_wins(rc, f, slot->object, slot->page, slot->lsn > rc->cut ? slot->lsn : rc->cut + 1, slot->sum, false);
		atomic_fetch_or(&t->frame[f].state, FRAME_POISONED);
	}
	return r ? r : salvage(rc->s, &finding);
}

// Neither free, nor good, nor torn: damaged. One flipped bit is put right. What else there was may have been the
// newest version of any page at all, unless the backing holds everything.
static int take_bad_slot(struct recovery *rc, frame_t f)
{
	struct store *s = rc->s;
	bool clean = s->super.state == SUPER_CLEAN;
	struct slot_disk slot;
	enum slot_found found = clean ? SLOT_FOUND_FREE : slot_correct(s->tier, f, &slot);

	if (found == SLOT_FOUND_BAD && s->config.salvage)
		return poison_slot(rc, f, &slot);
	if (found == SLOT_FOUND_BAD) {
		log_error("%s: slot %u of the frame table is damaged, and which page it is of is not known; nothing was written",
			  s->media->path, f);
		return -EUCLEAN;
	}
	log_warning("%s: slot %u of the frame table is damaged: %s", s->media->path, f,
		    clean ? "freed, as the backing holds everything" : "a bit has flipped, and is put right");
	return found == SLOT_FOUND_FREE ? 0 : take_slot(rc, f, &slot); // settle_frames() has a free one freed
}

// A slot that is neither free nor good is torn only if a record > T names its frame.
static int take_bad_slots(struct recovery *rc)
{
	int r = 0;
	for (frame_t f = 0; !r && rc->bad_slots && f < rc->s->tier->frames; f++)
		if (bit(rc->slot_bad, f) && !bit(rc->named, f))
			r = take_bad_slot(rc, f);
	return r;
}

// Pages of live records: whoever reads them next relies on them.
static void verify_live(struct recovery *rc)
{
	struct store *s = rc->s;
	struct tier *t = s->tier;
	for (frame_t f = 0; f < t->frames; f++) {
		struct frame *fr = &t->frame[f];
		if (!bit(rc->named, f) || frame_place(frame_state(fr)) != FRAME_INDEXED ||
		    fr->lsn < drops_newest(&s->drops, fr->object, fr->page, LSN_MAX))
			continue;
		uint64_t found = checksum_page(s->seed, fr->object, fr->page, tier_frame_data(t, f));
		if (found != fr->sum)
			frame_damaged(s, f, found);
	}
}

static int scan(struct recovery *rc)
{
	struct store *s = rc->s;
	int r = scan_table(rc);
	for (unsigned i = 0; !r && i <= s->tier->geometry.rings; i++)
		r = scan_ring(rc, &s->tier->ring[i]);
	if (!r)
		r = take_bad_slots(rc);
	if (!r)
		r = settle_frames(rc);
	if (!r)
		verify_live(rc);
	return r;
}

int recover(struct store *s)
{
	uint64_t base, began = now_ms();
	struct recovery *rc = aligned_alloc(64, (sizeof *rc + 63) & ~(size_t)63);
	size_t bits = s->tier->frames / 8 + 1;

	if (!rc)
		return -ENOMEM;
	memset(rc, 0, offsetof(struct recovery, buffer));
	rc->s = s;
	rc->cut = s->super.cut;
	rc->seen = rc->cut;
	rc->named = calloc(1, bits);
	rc->slot_bad = calloc(1, bits);
	// T has passed the cut, and what it has passed beyond is still there as it was if the tails are not.
	int r = rc->named && rc->slot_bad ? load_word(rc, WORD_TAIL_LSN, rc->cut, &rc->tail) : -ENOMEM;
	if (!r)
		r = load_word(rc, WORD_LSN_BASE, rc->cut, &base);
	if (!r) {
		see(rc, base);
		see(rc, rc->tail);
		atomic_store(&s->tier->tail_lsn, rc->tail);
		r = scan(rc);
	}
	if (!r && rc->seen > LSN_LIMIT) {
		log_error("%s: log sequence numbers are used up: %llu was found", s->media->path, (unsigned long long)rc->seen);
		r = -EUCLEAN;
	}
	if (!r) {
		lsn_t next = rc->seen + LSN_BASE_JUMP;
		atomic_store(&s->lsn, next);
		atomic_store(&s->cut, rc->cut);
		atomic_store(&s->clean_cut, rc->cut);
		claims_recovered(s); // promised before the crash
		if (!s->read_only) {
			tier_word_store(s->media, WORD_LSN_BASE, next);
			media_drain(s->media); // before an LSN is handed out or a superblock written
			if (!poison_spares_front(s))
				r = -EUCLEAN;
		}
		s->recovery_ms = now_ms() - began;
	}
	free(rc->named);
	free(rc->slot_bad);
	free(rc);
	return r;
}
