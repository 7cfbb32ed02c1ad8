// SPDX-License-Identifier: GPL-2.0-or-later
// The order of an offline check: superblocks, frames of the tier, the tree with all that hangs on it, and
// last what is used against what the bitmaps say is taken. Opening the store has looked at the rest: the
// pairing, the words, every slot of the frame table, every record of the log and their order.
#include "check_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PROGRESS_MS 200u

void check_report(const struct check_config *config, struct check_result *result, const struct check_finding *finding)
{
	if (finding->warning)
		result->warnings++;
	else
		result->errors++;
	if (config->report)
		config->report(config->arg, finding);
}

static void report(struct check *c, const struct check_finding *finding)
{
	check_report(c->config, c->result, finding);
}

void check_progress(struct check *c, const char *what, uint64_t step)
{
	c->done += step;
	if (!c->config->progress)
		return;
	uint64_t now = now_ms();
	if (now < c->next_progress)
		return;
	c->next_progress = now + PROGRESS_MS;
	c->config->progress(c->config->arg, what, c->done, c->total);
}

static void progress_begin(struct check *c, uint64_t total)
{
	c->done = 0;
	c->total = total;
}

// ---- superblocks -----------------------------------------------------------------------------------

// The tier is told last that all is on the backing, and first that it is not so any more.
static bool was_unmounted(const struct store *s)
{
	uint64_t state;
	return s->super.state == SUPER_CLEAN && tier_word_load(s->media, WORD_STATE, &state) == 0 && state == TIER_CLEAN;
}

// A copy that is not the one in force: older by an epoch, or torn, after a power cut; the next mount makes
// the two equal. After an unmount nothing can have torn it.
static int check_super(struct check *c, block_t block)
{
	struct store *s = c->s;
	struct super_disk *copy = aligned_alloc(PAGE_BYTES, PAGE_BYTES);

	if (!copy)
		return -ENOMEM;
	struct check_finding f = { .place = PLACE_BLOCK, .at = block, .expected = s->super.epoch };
	int r = ioq_read(s->ioq, block, copy, 1);
	if (r || !super_valid(copy, s->backing->blocks)) {
		f.kind = CHECK_SUPER_DAMAGED;
		f.warning = !was_unmounted(s);
		report(c, &f);
	} else if (memcmp(copy, &s->super, sizeof *copy) != 0) {
		f.kind = CHECK_SUPER_DIFFERS;
		f.warning = copy->epoch + 1 == s->super.epoch || s->super.state == SUPER_ATTACHED;
		f.found = copy->epoch;
		report(c, &f);
	}
	free(copy);
	return 0;
}

static int check_supers(struct check *c)
{
	int r = check_super(c, 0);
	return r ? r : check_super(c, c->s->super.blocks - 1);
}

// ---- frames ------------------------------------------------------------------------------------------

bool frame_is_good(const struct store *s, frame_t f)
{
	const struct frame *fr = &s->tier->frame[f];
	return !(frame_state(fr) & FRAME_POISONED) &&
	       checksum_page(s->seed, fr->object, fr->page, tier_frame_data(s->tier, f)) == fr->sum;
}

frame_t frame_copy_of(const struct store *s, object_t object, page_t page, uint64_t sum)
{
	const struct tier *t = s->tier;
	frame_t f = index_find(t, index_bucket(t, object, page), object, page);
	bool good = f != FRAME_NONE && t->frame[f].sum == sum && !(frame_state(&t->frame[f]) & FRAME_DIRTY) && frame_is_good(s, f);
	return good ? f : FRAME_NONE;
}

static void check_content(struct check *c, frame_t f)
{
	struct tier *t = c->s->tier;
	struct frame *fr = &t->frame[f];
	bool dirty = frame_state(fr) & FRAME_DIRTY;
	uint64_t sum = checksum_page(c->s->seed, fr->object, fr->page, tier_frame_data(t, f));

	if (sum == fr->sum)
		return;
	if (fr->lsn < drops_newest(&c->s->drops, fr->object, fr->page, LSN_MAX))
		return; // dead
	if (dirty)
		atomic_fetch_or(&fr->state, FRAME_POISONED);
	report(c, &(struct check_finding){ .kind = CHECK_FRAME_CONTENT, .warning = !dirty, .object = fr->object, .page = fr->page,
					   .place = PLACE_FRAME, .at = f, .expected = fr->sum, .found = sum });
}

static void compare_counts(struct check *c, uint64_t expected, uint64_t found)
{
	if (expected != found)
		report(c, &(struct check_finding){ .kind = CHECK_FRAME_PLACES, .expected = expected, .found = found });
}

// Every frame is in one place, and what waits there is known to whoever is to free it.
static int check_frames(struct check *c)
{
	struct tier *t = c->s->tier;
	uint64_t place[FRAME_PLACE_MASK + 1] = { 0 }, dirty = 0, chained = 0;

	progress_begin(c, t->frames);
	for (frame_t f = 0; f < t->frames; f++) {
		struct frame *fr = &t->frame[f];
		uint16_t state = frame_state(fr);
		place[frame_place(state)]++;
		if (f % 1024 == 0 && check_cancelled(c->config))
			return -ECANCELED;
		check_progress(c, "tier", 1);
		if (frame_place(state) != FRAME_INDEXED)
			continue;
		dirty += (state & FRAME_DIRTY) != 0;
		for (frame_t old = fr->replaces; old != FRAME_NONE && old < t->frames && chained <= t->frames; chained++)
			old = t->frame[old].replaces;
		frame_t current = index_find(t, index_bucket(t, fr->object, fr->page), fr->object, fr->page);
		if (current != f)
			report(c, &(struct check_finding){ .kind = CHECK_FRAME_INDEX, .object = fr->object, .page = fr->page,
							   .place = PLACE_FRAME, .at = f, .expected = f, .found = current });
		c->result->frames++;
		check_content(c, f);
	}
	compare_counts(c, place[FRAME_FREE], frames_free_count(t));
	compare_counts(c, place[FRAME_LIMBO], c->s->limbo_count + chained);
	compare_counts(c, dirty, frames_dirty_count(t));
	compare_counts(c, t->frames, place[FRAME_FREE] + place[FRAME_LIMBO] + place[FRAME_INDEXED]);
	return 0;
}

// ---- space ---------------------------------------------------------------------------------------------

struct compare {
	struct check *check;
	uint64_t group;     // being collected
	uint64_t taken[SPACE_GROUP_BLOCKS / 64];
	uint64_t count;     // taken blocks in all
	struct check_finding run; // found 0: none
	uint64_t lost, first_lost; // taken, and what uses it may be in a part of the tree that cannot be read
};

static void run_end(struct compare *m)
{
	if (m->run.found)
		report(m->check, &m->run);
	m->run.found = 0;
}

static void run_add(struct compare *m, enum check_kind kind, block_t block)
{
	if (kind == CHECK_BLOCK_LEAKED && m->check->result->nodes_lost) {
		if (m->lost++ == 0)
			m->first_lost = block;
		return;
	}
	if (m->run.found && (m->run.kind != kind || m->run.at + m->run.found != block))
		run_end(m);
	if (!m->run.found)
		m->run = (struct check_finding){ .kind = kind, .place = PLACE_BLOCK, .at = block };
	m->run.found++;
}

static void compare_group(struct compare *m)
{
	const struct space_layout *l = &m->check->used.layout;
	uint64_t used[SPACE_GROUP_BLOCKS / 64];
	block_t start = m->group * SPACE_GROUP_BLOCKS;

	if (m->group >= l->groups)
		return; // the unused end
	used_bits(&m->check->used, m->group, used);
	for (unsigned w = 0; w < SPACE_GROUP_BLOCKS / 64; w++) {
		uint64_t differ = used[w] ^ m->taken[w];
		for (; differ; differ &= differ - 1) {
			block_t block = start + 64 * w + (unsigned)__builtin_ctzll(differ);
			if (block < l->blocks)
				run_add(m, used[w] >> block % 64 & 1 ? CHECK_BLOCK_FREE : CHECK_BLOCK_LEAKED, block);
		}
	}
	memset(m->taken, 0, sizeof m->taken);
}

static int add_taken(void *arg, block_t block, uint64_t count)
{
	struct compare *m = arg;

	m->count += count;
	for (; count; block++, count--) {
		while (block / SPACE_GROUP_BLOCKS != m->group) {
			if (check_cancelled(m->check->config))
				return -ECANCELED;
			compare_group(m);
			m->group++;
		}
		m->taken[block % SPACE_GROUP_BLOCKS / 64] |= UINT64_C(1) << block % 64;
	}
	return 0;
}

static int check_space(struct check *c)
{
	struct store *s = c->s;
	struct compare *m = calloc(1, sizeof *m);

	if (!m)
		return -ENOMEM;
	m->check = c;
	progress_begin(c, 0);
	check_progress(c, "free space", 0);
	int r = space_for_each_taken(s->space, add_taken, m);
	if (!r) {
		compare_group(m);
		run_end(m);
		if (m->lost)
			report(c, &(struct check_finding){ .kind = CHECK_BLOCK_UNKNOWN, .place = PLACE_BLOCK, .at = m->first_lost,
							   .found = m->lost });
		if (s->super.blocks - m->count != space_free_blocks(s->space))
			report(c, &(struct check_finding){ .kind = CHECK_SPACE_COUNT, .expected = s->super.blocks - m->count,
							   .found = space_free_blocks(s->space) });
	} else if (r != -ECANCELED && r != -ENOMEM) {
		run_end(m);
		report(c, &(struct check_finding){ .kind = CHECK_SPACE_DAMAGED, .found = (uint64_t)-r });
		r = 0;
	}
	free(m);
	return r;
}

// ---- all of it --------------------------------------------------------------------------------------------

int store_check(struct store *s, const struct check_config *config, struct check_result *ret_result)
{
	struct check c = { .s = s, .config = config, .result = ret_result, .used.layout = space_layout(s->super.blocks),
			   .twice.layout = space_layout(s->super.blocks) };
	uint64_t fixed = space_fixed_blocks(s->super.blocks), free_blocks = space_free_blocks(s->space);

	*ret_result = (struct check_result){ 0 };
	for (size_t i = 0; i < s->salvages; i++)
		report(&c, &s->salvage[i]);
	int r = s->rebuilt ? 0 : check_supers(&c); // not written yet
	if (!r)
		r = check_frames(&c);
	if (!r) {
		// With --quick only nodes are read, and how many those are nobody knows.
		progress_begin(&c, config->quick ? 0 : s->super.blocks - fixed - free_blocks);
		r = check_tree(&c, true, NULL);
	}
	ret_result->blocks_used = c.used.blocks;
	if (!r)
		r = check_space(&c);
	used_fini(&c.used);
	used_fini(&c.twice);
	return r;
}

int check_mark(struct check *c)
{
	const struct check_config *config = c->config;
	const struct check_config silent = { .quick = true, .progress = config->progress, .arg = config->arg,
					     .cancelled = config->cancelled };
	c->config = &silent;
	progress_begin(c, 0);
	int r = check_tree(c, true, NULL);
	c->config = config;
	return r;
}

int check_each_item(struct store *s, const struct check_config *config)
{
	struct check_result nothing = { 0 };
	struct check c = { .s = s, .config = config, .result = &nothing };
	return check_tree(&c, false, NULL);
}
