// SPDX-License-Identifier: GPL-2.0-or-later
// Which tier belongs to which backing, and attaching one anew. Every refusal says what was found and
// what to type, and has written nothing.
//
// Attach, and a power cut at any point of it:
//	blank: headers; attach id 0, epoch; drain    the state is BLANK: it holds nothing, attach again
//	state ATTACHING; drain; attach id 0      the tier holds nothing: attach again
//	headers, drained one by one; LSN base, T, tails, epoch; table free; attach id; drain
//	superblocks ATTACHED, an epoch of their own: A, then B    from A on only this tier matches: finish
//	state IN_USE; drain; serve
#include "store_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "check.h"
#include "log.h"

#define MIB (UINT64_C(1) << 20)

struct tier_view {
	enum tier_found found;
	struct tier_geometry geometry;
	uint8_t fsid[16];
	uint64_t state, attach;
	uint64_t epoch; // with TIER_EPOCH_NEXT
};

struct backing_view {
	enum super_found found;
	struct super_disk super;
	char inferior; // copy of the superblock; 0: both are the same
	bool blank;
	char foreign[64]; // empty: nothing that libblkid knows
};

static int random_bytes(void *buffer, size_t bytes)
{
	return getrandom(buffer, bytes, 0) == (ssize_t)bytes ? 0 : -EIO;
}

// Of a word that is damaged: before a repair it is what the backing lets expect, or, the state, in use.
static int view_word(struct store *s, struct media *m, unsigned word, uint64_t expected, uint64_t *ret_value)
{
	uint64_t corrected;
	int r = tier_word_load(m, word, ret_value);
	if (!r || !s || !s->config.salvage)
		return r;
	if (word == WORD_ATTACH && (tier_word_correct(m, word, &corrected) || corrected != expected))
		return r; // it is not known to be this backing's
	*ret_value = expected;
	return salvage(s, &(struct check_finding){ .kind = CHECK_WORD_DAMAGED, .found = word });
}

// The store, with the superblock in force, may be NULL: nothing is expected then.
static int view_tier(struct store *s, struct media *m, struct tier_view *v)
{
	char name[64];
	int r = 0;
	memset(v, 0, sizeof *v);
	v->found = tier_probe(m, &v->geometry, v->fsid);
	if (v->found == TIER_FOUND_BLANK && m->fd >= 0 && m->class != MEDIA_DEVDAX)
		r = backing_probe_foreign(m->fd, name, sizeof name);
	if (r < 0) {
		log_error("%s: cannot look for other file systems there: %s", m->path, strerror(-r));
		return r;
	}
	if (r == 1)
		v->found = TIER_FOUND_FOREIGN;
	if (v->found == TIER_FOUND_BLANK && media_poisoned(m))
		v->found = TIER_FOUND_DAMAGED; // not all of these zeroes are its own
	if (v->found != TIER_FOUND_GOOD)
		return 0;
	r = view_word(s, m, WORD_STATE, TIER_IN_USE, &v->state);
	if (!r && v->state == TIER_BLANK)
		return 0; // the others may not have been written yet
	if (!r)
		r = view_word(s, m, WORD_ATTACH, s ? s->super.attach : 0, &v->attach);
	if (!r)
		r = view_word(s, m, WORD_EPOCH, s ? s->super.epoch | TIER_EPOCH_NEXT : 0, &v->epoch); // it may have been told
	if (r)
		v->found = TIER_FOUND_DAMAGED; // reported; it may still be given up
	return 0;
}

static int view_backing(struct backing *b, struct ioq *q, struct backing_view *v)
{
	memset(v, 0, sizeof *v);
	int r = super_load(b, q, &v->found, &v->super, &v->inferior);
	if (r || v->found != SUPER_NONE)
		return r;
	r = backing_probe_foreign(b->fd, v->foreign, sizeof v->foreign);
	if (r < 0)
		return r;
	if (r == 0)
		v->foreign[0] = 0;
	r = backing_is_blank(b);
	if (r < 0)
		return r;
	v->blank = r == 1 && v->foreign[0] == 0;
	return 0;
}

// ---- formatting ---------------------------------------------------------------------------------

static int check_tier_size(const struct media *m, bool tiny)
{
	struct tier_geometry g;
	if (!tiny && m->size_bytes < 32 * MIB) {
		log_error("%s: a tier of %llu MiB is too small: at least 32 MiB are needed", m->path,
			  (unsigned long long)(m->size_bytes / MIB));
		return -EINVAL;
	}
	if (tier_geometry_for(m->size_bytes, 0, &g)) {
		log_error("%s: too small for a tier", m->path);
		return -EINVAL;
	}
	return 0;
}

static int check_sizes(const struct media *m, const struct backing *b, bool tiny)
{
	int r = check_tier_size(m, tiny);
	if (!r && !tiny && b->size_bytes < 64 * MIB) {
		log_error("%s: a backing of %llu MiB is too small: at least 64 MiB are needed", b->path,
			  (unsigned long long)(b->size_bytes / MIB));
		r = -EINVAL;
	}
	return r;
}

static int format_backing(struct backing *b, struct ioq *q, struct super_disk *ret_super)
{
	struct super_disk s = { .magic = VEMS_SUPER_MAGIC, .version = VEMS_VERSION, .state = SUPER_CLEAN, .epoch = 1,
				.cut = LSN_FIRST, .blocks = b->blocks, .written_ns = wall_ns(), .created_ns = wall_ns() };
	int r = random_bytes(s.fsid, sizeof s.fsid);
	struct space_root space = space_root_format(b->blocks);

	s.space_levels = space.levels;
	s.space = space.entry;
	if (!r)
		r = super_write(b, q, &s, 'A');
	if (!r)
		r = super_write(b, q, &s, 'B');
	if (r) {
		log_error("%s: cannot be formatted: %s", b->path, strerror(-r));
		return r;
	}
	*ret_super = s;
	return 0;
}

// The tier's own file gets all its blocks now, so that no store meets a hole.
static int prepare_tier(struct media *m)
{
	int r = media_allocate(m);
	if (r)
		log_error("%s: cannot allocate the tier's file in full: %s", m->path, strerror(-r));
	return r;
}

// A tier that is BLANK and belongs to nobody yet: all that tier_probe() looks at.
static void blank_tier(struct media *m)
{
	uint8_t zero[PAGE_BYTES] = { 0 };
	for (uint64_t at = 0; at < MIB && at < m->size_bytes; at += PAGE_BYTES)
		media_copy(m, m->base + at, zero, PAGE_BYTES);
	for (uint64_t at = m->size_bytes > MIB ? m->size_bytes - MIB : 0; at < m->size_bytes; at += PAGE_BYTES)
		media_copy(m, m->base + (at & ~(uint64_t)(PAGE_BYTES - 1)), zero, PAGE_BYTES);
	media_drain(m); // before a superblock
}

// ---- attaching ------------------------------------------------------------------------------------

static int write_supers(struct store *s, uint32_t state, uint64_t attach)
{
	struct super_disk next = s->super;
	next.epoch++;
	next.state = state;
	next.attach = attach;
	int r = super_write(s->backing, s->ioq, &next, 'A');
	if (!r)
		r = super_write(s->backing, s->ioq, &next, 'B');
	if (r) {
		log_error("%s: superblock cannot be written: %s", s->backing->path, strerror(-r));
		return r;
	}
	s->super = next;
	return 0;
}

// The first write of a mount: the better copy is never touched while the other is bad.
int equalise_supers(struct store *s)
{
	if (!s->super_inferior)
		return 0;
	int r = super_write(s->backing, s->ioq, &s->super, s->super_inferior);
	if (r)
		log_error("%s: superblock cannot be written: %s", s->backing->path, strerror(-r));
	else
		s->super_inferior = 0;
	return r;
}

static void set_state(struct media *m, enum tier_state state)
{
	tier_word_store(m, WORD_STATE, state);
	media_drain(m);
}

static int new_tier(struct store *s, const struct tier_geometry *g, uint64_t attach)
{
	int r = tier_new(s->media, &s->grace, g, attach, &s->tier);
	if (r)
		log_error("%s: not enough memory for the index of %u frames", s->media->path, g->frames);
	return r;
}

static int attach_tier(struct store *s, lsn_t base)
{
	struct media *m = s->media;
	struct tier_geometry g;
	uint64_t attach = 0;
	int r = check_tier_size(m, s->config.tiny);

	if (!r)
		r = tier_geometry_for(m->size_bytes, 0, &g);
	while (!r && attach == 0) {
		r = random_bytes(&attach, sizeof attach);
		attach &= LSN_MAX;
	}
	if (!r)
		r = prepare_tier(m);
	if (!r)
		r = new_tier(s, &g, attach);
	if (r)
		return r;
	r = equalise_supers(s);
	if (r)
		return r;
	uint64_t state;
	if (tier_word_load(m, WORD_STATE, &state) || state == TIER_BLANK) { // words without a header would look foreign, words never written damaged
		tier_write_header(m, &g, s->super.fsid);
		tier_word_store(m, WORD_ATTACH, 0);
		tier_word_store(m, WORD_EPOCH, 0);
		media_drain(m);
	}
	set_state(m, TIER_ATTACHING);
	tier_word_store(m, WORD_ATTACH, 0);
	tier_write_header(m, &g, s->super.fsid); // whose drain is the id's too
	tier_word_store(m, WORD_LSN_BASE, base);
	tier_word_store(m, WORD_TAIL_LSN, 0);
	tier_word_store(m, WORD_EPOCH, s->super.epoch + 1);
	for (unsigned i = 0; i <= g.rings; i++)
		tier_word_store(m, WORD_RING_TAIL + i, 0);
	table_store_all_free(s->tier);
	tier_word_store(m, WORD_ATTACH, attach);
	media_drain(m); // all that the tier begins with before a superblock makes it count
	if (!tier_front_holds(s->tier)) { // before the backing relies on it
		log_error("%s: the memory at byte %llu has failed: it cannot be a tier", m->path, (unsigned long long)m->poison[0]);
		return -EIO;
	}
	r = write_supers(s, SUPER_ATTACHED, attach);
	if (r)
		return r;
	set_state(m, TIER_IN_USE);
	return 0;
}

// The tier is this backing's own.
static int resume_tier(struct store *s, const struct tier_view *t)
{
	s->resumes = true;
	s->told_of_next = t->epoch == (s->super.epoch | TIER_EPOCH_NEXT);
	return new_tier(s, &t->geometry, t->attach);
}

void pair_note(struct store *s)
{
	tier_word_store(s->media, WORD_EPOCH, s->super.epoch);
}

static void tell_of_next(struct store *s)
{
	tier_word_store(s->media, WORD_EPOCH, s->super.epoch | TIER_EPOCH_NEXT);
}

// Superblocks of an epoch of their own, of the tree in force.
static int supers_again(struct store *s, uint32_t state)
{
	pair_announce(s);
	int r = write_supers(s, state, s->tier->attach);
	if (r)
		return r;
	pair_note(s);
	media_drain(s->media); // before it is told of the next
	s->told_of_next = false;
	return 0;
}

int pair_resumed(struct store *s)
{
	if (!s->resumes)
		return 0; // attached just now
	int r = equalise_supers(s);
	if (r)
		return r;
	if (!tier_headers_equal(s->media))
		tier_write_header(s->media, &s->tier->geometry, s->super.fsid);
	if (!s->told_of_next)
		pair_note(s); // only now: the copy that was written first may be in the device's cache alone
	set_state(s->media, TIER_IN_USE); // before a superblock is written: while it is CLEAN, none is torn
	return s->super.state == SUPER_CLEAN || s->told_of_next ? supers_again(s, SUPER_ATTACHED) : 0;
}

int pair_skip_announced(struct store *s)
{
	if (s->told_of_next) {
		set_state(s->media, TIER_IN_USE); // as before any superblock
		return supers_again(s, s->super.state);
	}
	pair_note(s);
	media_drain(s->media); // before it is told of the next
	return 0;
}

void pair_announce(struct store *s)
{
	tell_of_next(s);
	media_drain(s->media); // before the superblocks
}

void pair_announce_last(struct store *s)
{
	tell_of_next(s);
	set_state(s->media, TIER_LEAVING); // whose drain is before the superblocks
}

void pair_release_tier(struct store *s)
{
	struct media *m = s->media;
	if (!s->resumes)
		return; // none was given
	set_state(m, TIER_ATTACHING);
	tier_word_store(m, WORD_ATTACH, 0);
	pair_note(s);
	media_drain(m);
	if (!tier_headers_equal(m))
		tier_write_header(m, &s->tier->geometry, s->super.fsid);
}

// Read-only and without its tier: an empty one in DRAM stands for it.
static int empty_tier(struct store *s)
{
	struct media *m;
	struct tier_geometry g;
	int r = media_open_dram(2 * MIB, &m);
	if (r)
		return r;
	media_close(s->media);
	s->media = m;
	r = tier_geometry_for(m->size_bytes, 1, &g);
	if (!r)
		r = new_tier(s, &g, 1);
	if (!r) {
		for (unsigned i = WORD_STATE; i <= WORD_RING_TAIL + 1; i++)
			tier_word_store(m, i, 0);
		table_store_all_free(s->tier);
	}
	return r;
}

// ---- the table -----------------------------------------------------------------------------------

// What would overwrite it must not be advised then.
static bool backing_is_in_the_place_of_the_tier(const struct store *s)
{
	const struct media *m = s->media;
	return m->size_bytes >= PAGE_BYTES && super_valid((const struct super_disk *)m->base, m->size_bytes / PAGE_BYTES);
}

static bool no_tier_given(const struct store *s)
{
	return s->media->class == MEDIA_DRAM;
}

static int refuse_backing(struct store *s, const struct backing_view *v)
{
	const char *path = s->backing->path, *tier_path = no_tier_given(s) ? "PATH" : s->media->path;
	switch (v->found) {
	case SUPER_DAMAGED:
		log_error("%s: both superblocks are damaged", path);
		return -EUCLEAN;
	case SUPER_SHRUNK:
		log_error("%s: is smaller than its file system: %llu MiB of %llu MiB; restore its size", path,
			  (unsigned long long)(s->backing->size_bytes / MIB),
			  (unsigned long long)((v->super.blocks * PAGE_BYTES + MIB - 1) / MIB));
		return -EUCLEAN;
	case SUPER_FUTURE:
		log_error("%s: was written by a newer version of vemsfuse", path);
		return -ENOTSUP;
	default:
		if (backing_is_in_the_place_of_the_tier(s))
			log_error("%s: is the backing of a vemsfuse file system, not a tier: exchange --pmem and --backing", s->media->path);
		else if (v->foreign[0])
			log_error("%s: holds something else (%s); to overwrite it: mkfs.vemsfuse --force --pmem=%s --backing=%s", path,
				  v->foreign, tier_path, path);
		else
			log_error("%s: is not blank and holds no vemsfuse file system; to overwrite it: mkfs.vemsfuse --force --pmem=%s "
				  "--backing=%s", path, tier_path, path);
		return -EINVAL;
	}
}

// A tier that is neither blank nor a good one of ours; the backing is in order.
static int refuse_tier(struct store *s, const struct tier_view *t)
{
	const char *path = s->media->path;
	switch (t->found) {
	case TIER_FOUND_DAMAGED:
		log_error("%s: the tier's headers are damaged; --discard-tier gives up what it holds", path);
		return -EUCLEAN;
	case TIER_FOUND_SHRUNK:
		log_error("%s: the tier is smaller than when it was formatted: %llu bytes of %llu; restore its size, or give up what it "
			  "holds with --discard-tier, and --lose-tier if it was in use", path, (unsigned long long)s->media->size_bytes,
			  (unsigned long long)t->geometry.size_bytes);
		return -EUCLEAN;
	case TIER_FOUND_FUTURE:
		log_error("%s: the tier was written by a newer version of vemsfuse; --discard-tier gives up what it holds", path);
		return -ENOTSUP;
	default:
		log_error("%s: is neither blank nor a tier of vemsfuse; --discard-tier overwrites it", path);
		return -EINVAL;
	}
}

static double age_seconds(const struct super_disk *super)
{
	uint64_t now = wall_ns();
	return now > super->written_ns ? (double)(now - super->written_ns) / 1e9 : 0;
}

static bool tier_is_own(const struct tier_view *t, const struct super_disk *super)
{
	return t->found == TIER_FOUND_GOOD && t->attach != 0 && t->attach == super->attach && memcmp(t->fsid, super->fsid, 16) == 0;
}

static bool tier_is_in_step(const struct tier_view *t, const struct super_disk *super)
{
	return tier_is_own(t, super) && (t->epoch == super->epoch || t->epoch == (super->epoch | TIER_EPOCH_NEXT));
}

// Superblocks of which it was told were written, and the tier has not heard that they are there.
static bool tier_is_one_behind(const struct tier_view *t, const struct super_disk *super)
{
	return tier_is_own(t, super) && t->epoch == ((super->epoch - 1) | TIER_EPOCH_NEXT);
}

static bool tier_follows(const struct tier_view *t, const struct super_disk *super)
{
	return tier_is_in_step(t, super) || (tier_is_one_behind(t, super) && t->state != TIER_LEAVING);
}

static bool tier_has_left(const struct tier_view *t, const struct super_disk *super)
{
	return tier_is_one_behind(t, super) && t->state == TIER_LEAVING;
}

static bool tier_is_empty(const struct tier_view *t, const struct super_disk *super)
{
	return t->found == TIER_FOUND_BLANK || tier_has_left(t, super) ||
	       (t->found == TIER_FOUND_GOOD && (t->state == TIER_ATTACHING || t->state == TIER_BLANK));
}

static bool tier_is_dirty(const struct tier_view *t)
{
	return t->found == TIER_FOUND_GOOD && (t->state == TIER_IN_USE || t->state == TIER_LEAVING);
}

static int attach_or_empty(struct store *s, lsn_t base)
{
	return s->read_only ? empty_tier(s) : attach_tier(s, base);
}

static void warn_of_discard(struct store *s, const struct tier_view *t)
{
	if (tier_is_dirty(t))
		log_warning("%s: gave up a tier that was in use by another file system", s->media->path);
}

// A tier that is not empty and not this backing's: only with --discard-tier.
static int discard(struct store *s, const struct tier_view *t, lsn_t base)
{
	const char *path = s->media->path;
	if (!s->config.discard_tier && t->found != TIER_FOUND_GOOD)
		return refuse_tier(s, t);
	if (!s->config.discard_tier) {
		log_error("%s: is the tier of another file system or mount%s; --discard-tier gives up what it holds", path,
			  tier_is_dirty(t) ? " and may hold data that is nowhere else" : "");
		return -ESTALE;
	}
	warn_of_discard(s, t);
	return attach_or_empty(s, base);
}

static int lose_tier(struct store *s)
{
	log_warning("%s: mounting the last epoch without its tier: whatever was written after its cut, %.0f seconds ago, is lost",
		    s->backing->path, age_seconds(&s->super));
	return attach_or_empty(s, s->super.cut + LSN_LOST_JUMP);
}

static int pair_attached(struct store *s, const struct tier_view *t)
{
	const struct super_disk *super = &s->super;

	// Also where the last step of attaching was cut off. --lose-tier, not needed, changes nothing.
	if (tier_follows(t, super))
		return resume_tier(s, t);
	if (tier_is_own(t, super) && !s->config.lose_tier) {
		log_error("%s and %s: one of them is a stale copy: the tier is of epoch %llu, the backing of epoch %llu; use the matching "
			  "pair, or --lose-tier to mount the backing alone", s->media->path, s->backing->path,
			  (unsigned long long)(t->epoch & ~TIER_EPOCH_NEXT), (unsigned long long)super->epoch);
		return -ESTALE;
	}
	// What is another's or unknown needs --discard-tier as well; a damaged tier of ours is as good as lost.
	bool unknown = !tier_is_empty(t, super) && !tier_is_own(t, super) && t->found != TIER_FOUND_DAMAGED;
	bool may = s->config.lose_tier && (!unknown || s->config.discard_tier);
	if (!may && t->found == TIER_FOUND_SHRUNK) // it may well be ours
		return refuse_tier(s, t);
	if (!may && no_tier_given(s)) {
		log_error("%s: was not unmounted: its tier is needed too, --pmem=PATH", s->backing->path);
		return -ESTALE;
	}
	if (!may) {
		log_error("%s: its tier is missing: %s is not the one it was last mounted with%s; %s mounts the last epoch%s and loses what "
			  "was written in the %.0f s since", s->backing->path, s->media->path,
			  tier_is_dirty(t) && unknown ? ", and may hold data that is nowhere else" : "",
			  unknown ? "--lose-tier with --discard-tier" : "--lose-tier",
			  unknown ? ", gives up what that one holds" : "", age_seconds(super));
		return -ESTALE;
	}
	if (unknown)
		warn_of_discard(s, t);
	return lose_tier(s);
}

static int pair_clean(struct store *s, const struct tier_view *t)
{
	const struct super_disk *super = &s->super;
	lsn_t base = super->cut + LSN_BASE_JUMP;

	if (tier_follows(t, super) && t->state != TIER_ATTACHING)
		return resume_tier(s, t);
	if (tier_is_empty(t, super))
		return attach_or_empty(s, base);
	return discard(s, t, base);
}

int pair_damaged(struct store *s)
{
	bool clean = s->super.state == SUPER_CLEAN;
	if (!s->config.lose_tier && !(clean && s->config.discard_tier)) {
		if (clean)
			log_error("%s: the tier is damaged; the backing holds everything: --discard-tier attaches it anew", s->media->path);
		else
			log_error("%s: the tier is damaged; %s--lose-tier goes on from the last epoch and loses what was written in the "
				  "%.0f s since", s->media->path,
				  s->config.salvage ? "" : "fsck.vemsfuse -y keeps what can be kept; ", age_seconds(&s->super));
		return -EUCLEAN;
	}
	s->resumes = false;
	tier_free(s->tier);
	s->tier = NULL;
	return clean ? attach_or_empty(s, s->super.cut + LSN_BASE_JUMP) : lose_tier(s);
}

static int pair_blank(struct store *s, const struct backing_view *b, const struct tier_view *t)
{
	if (!b->blank)
		return refuse_backing(s, b);
	if (t->found != TIER_FOUND_BLANK) {
		log_error("%s is blank but %s is not; to format the pair: mkfs.vemsfuse --force --pmem=%s --backing=%s", s->backing->path,
			  s->media->path, s->media->path, s->backing->path);
		return -EINVAL;
	}
	if (s->read_only || !s->config.format_blank) {
		log_error("%s: blank: no file system here", s->backing->path);
		return -EINVAL;
	}
	int r = check_sizes(s->media, s->backing, s->config.tiny);
	if (r)
		return r;
	log_info("formatting the blank pair %s (%llu MiB, tier) and %s (%llu MiB, backing)", s->media->path,
		 (unsigned long long)(s->media->size_bytes / MIB), s->backing->path,
		 (unsigned long long)(s->backing->size_bytes / MIB));
	r = prepare_tier(s->media);
	if (!r)
		r = format_backing(s->backing, s->ioq, &s->super);
	return r ? r : attach_tier(s, s->super.cut + LSN_BASE_JUMP);
}

int pair(struct store *s, struct media *m, struct backing *b)
{
	struct backing_view bv;
	struct tier_view tv;

	int r = view_backing(b, s->ioq, &bv);
	if (r) {
		log_error("%s: cannot read superblocks: %s", b->path, strerror(-r));
		return r;
	}
	s->super = bv.super;
	r = view_tier(s, m, &tv);
	if (r)
		return r;
	if (bv.found == SUPER_NONE)
		return pair_blank(s, &bv, &tv);
	if (bv.found != SUPER_GOOD)
		return refuse_backing(s, &bv);
	if (s->super.cut > LSN_LIMIT - LSN_LOST_JUMP || s->super.epoch > TIER_EPOCH_NEXT / 2) {
		log_error("%s: numbers are used up: the superblock has cut %llu and epoch %llu", b->path,
			  (unsigned long long)s->super.cut, (unsigned long long)s->super.epoch);
		return -EUCLEAN;
	}
	s->super_inferior = bv.inferior;
	return s->super.state == SUPER_ATTACHED ? pair_attached(s, &tv) : pair_clean(s, &tv);
}

// ---- mkfs ----------------------------------------------------------------------------------------

static int format_check(struct media *m, struct backing *b, struct ioq *q, bool force)
{
	struct backing_view bv;
	struct tier_view tv;
	int r = view_backing(b, q, &bv);
	if (!r)
		r = view_tier(NULL, m, &tv); // a damaged word is as good a reason as any to format
	if (r || force)
		return r;
	if (bv.found != SUPER_NONE || !bv.blank) {
		log_error("%s: is not blank: it holds %s; --force overwrites it", b->path,
			  bv.found != SUPER_NONE ? "a vemsfuse file system" : bv.foreign[0] ? bv.foreign : "data");
		return -EEXIST;
	}
	if (tv.found != TIER_FOUND_BLANK) {
		log_error("%s: is not blank: it holds %s; --force overwrites it", m->path,
			  tv.found == TIER_FOUND_FOREIGN ? "other data" : "a tier of vemsfuse");
		return -EEXIST;
	}
	return 0;
}

int store_format_on(const struct store_format_config *config, struct media *m, struct backing *b)
{
	struct ioq *q = NULL;
	struct super_disk super;
	int r = ioq_new(b, 8, &q);

	if (!r)
		r = check_sizes(m, b, config->tiny);
	if (!r)
		r = format_check(m, b, q, config->force);
	if (!r)
		r = prepare_tier(m);
	if (!r)
		r = super_wipe(b, q); // first: a half made pair is no pair
	if (!r) {
		blank_tier(m);
		r = format_backing(b, q, &super);
	}
	if (q)
		ioq_free(q);
	return r;
}

int store_format(const struct store_format_config *config)
{
	struct media *m = NULL;
	struct backing *b = NULL;
	int r = media_open(config->tier_path, false, &m);

	if (!r)
		r = backing_open(config->backing_path, false, &b);
	if (!r)
		r = store_format_on(config, m, b);
	if (b)
		backing_close(b);
	if (m)
		media_close(m);
	return r;
}
