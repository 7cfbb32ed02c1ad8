// SPDX-License-Identifier: GPL-2.0-or-later
// A scene is a pair in use under an adversary: the workload, or the mount of what a crash in another scene has
// left. At an event that its visit chooses, the states of that moment become scenes of their own, one after
// another, inside the event; nothing of the outer scene goes on meanwhile.
//
// What a state must show: the tree after the last action that has returned, or the one after that which is under
// way. Which of the two it is, is found read-only, and must stay so whatever comes. Without the tier it is the
// tree at the cut of the superblock, alone.
#include "explorer.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "action.h"
#include "fs_check.h"

#define TIER_BYTES (UINT64_C(2) << 20)
#define BACKING_BYTES (UINT64_C(12) << 20)
#define FEW 64u         // states of a cut that are enumerated
#define SAMPLES 4u      // besides, if exhaustive
#define ACTIONS_MAX 8u
#define CHAIN_MAX 8u
#define TEXT_BYTES 512u

struct explorer_tally explored;

static struct explorer_settings settings;

struct step { // from a scene to one that a crash leaves
	uint64_t event;
	char kind; // x: one of few, by number; s: sampled, by seed; k: killed
	uint64_t number;
	bool lost; // the tier
};

struct point { // of a workload
	struct tree *tree;
	lsn_t lsn; // of the last commit up to it
};
struct history {
	struct point point[ACTIONS_MAX + 2];
	unsigned points, synced; // the tree of `synced` is on the backing, at least
};

enum visit { VISIT_NONE, VISIT_COUNT, VISIT_SOME, VISIT_ALL, VISIT_ONE };

struct scene {
	const struct scene *parent;
	const char *workload;
	struct step from; // its parent
	unsigned depth;
	struct mounted m;
	struct adversary *adversary;
	struct history *history; // of the outermost scene; NULL: formats
	bool formats;            // may be no file system, but not a wrong one
	bool lost_tier;
	bool discards_tier;      // which may be refused once the backing is CLEAN
	bool ends_checked; // offline
	uint64_t rng;
	// Under the adversary's lock:
	enum visit visit;
	bool open;               // the store is
	double chance;           // VISIT_SOME, of a workload: of a state, for each unit of weight
	double weight;           // VISIT_COUNT
	const struct step *path; // VISIT_ONE; those that follow are for the scenes within
	unsigned steps;
	const struct tree *now, *next; // next: NULL, or of the action under way
};

static struct image *base, *base_clean; // as a crash leaves it; unmounted
static struct history base_history;
static struct tree *empty;

// ---- failures -----------------------------------------------------------------------------------------

static size_t name_step(const struct scene *s, char *text, size_t bytes)
{
	if (!s->parent)
		return (size_t)snprintf(text, bytes, "%s", s->workload);
	size_t at = name_step(s->parent, text, bytes);
	at += (size_t)snprintf(text + at, bytes - at, "@%llu:%c", (unsigned long long)s->from.event, s->from.kind);
	if (s->from.kind != 'k')
		at += (size_t)snprintf(text + at, bytes - at, "%llu", (unsigned long long)s->from.number);
	return at + (size_t)snprintf(text + at, bytes - at, "%s", s->from.lost ? "-lost" : "");
}

static int fail(const struct scene *s, const char *what, const char *text)
{
	if (!explored.failed) {
		explored.failed = true;
		snprintf(explored.text, sizeof explored.text, "%s: %s", what, text);
		name_step(s, explored.name, sizeof explored.name);
	}
	return 1;
}

// ---- mounting -----------------------------------------------------------------------------------------

static void on_event(void *arg, enum event event, uint64_t number);

static void watch(struct scene *s, struct image *i, struct media *m, struct backing *b)
{
	s->adversary = adversary_new(i, m, b, on_event, s);
	if (settings.broken >= 0)
		adversary_break(s->adversary, (enum order)settings.broken);
}

static int scene_mount(struct scene *s, struct image *i)
{
	const struct store_config config = { .lose_tier = s->lost_tier, .discard_tier = s->discards_tier, .format_blank = true,
					     .tiny = true, .assume_persistent = true, .on_demand = true, .interval_ms = 3600000 };
	char text[TEXT_BYTES];
	struct media *m;
	struct backing *b;
	struct store *store;
	int r = image_open(i, false, &m, &b);
	if (r)
		return r;
	if (!s->parent || s->visit != VISIT_NONE || s->ends_checked)
		watch(s, i, m, b);
	r = store_open_on(&config, m, b, &store);
	if (!r && check_index(store, text, sizeof text))
		return fail(s, "after opening", text), -EUCLEAN;
	if (r)
		return r;
	if (s->adversary)
		adversary_opened(s->adversary, &store->tier->table_lock);
	s->open = true; // nothing runs
	return mounted_start(&s->m, store);
}

static void scene_visit(struct scene *s, enum visit visit)
{
	if (!s->adversary)
		return;
	adversary_lock(s->adversary);
	s->visit = visit;
	adversary_unlock(s->adversary);
}

static int scene_finished(struct scene *s)
{
	if (!s->adversary || settings.broken >= 0)
		return 0;
	adversary_lock(s->adversary);
	const char *unfinished = adversary_unfinished(s->adversary);
	adversary_unlock(s->adversary);
	return unfinished ? fail(s, "finished", unfinished) : 0;
}

static int scene_unmount(struct scene *s)
{
	struct store *store = s->m.store;
	mounted_free(&s->m);
	int r = store_close(store);
	return r || !scene_finished(s) ? r : -EUCLEAN;
}

static void scene_end(struct scene *s)
{
	struct store *store = s->m.store;
	scene_visit(s, VISIT_NONE);
	if (store) {
		mounted_free(&s->m);
		store_abandon(store);
	}
	if (s->adversary) {
		explored.broken += adversary_broken(s->adversary);
		explored.events += adversary_events(s->adversary);
		adversary_free(s->adversary);
	}
	s->adversary = NULL;
}

// ---- a state --------------------------------------------------------------------------------------------

static int check_all(struct store *store, const struct check_config *config, struct check_result *ret_result)
{
	struct fs_check_result result;
	int r = fs_check(store, config, &result);
	*ret_result = result.store;
	return r;
}

// Which of the two it is: from here on it is that one.
static int settle_tree(struct scene *s, struct mounted *m, char *text, size_t bytes)
{
	char other[TEXT_BYTES];
	int r = mounted_compare(m, s->now, text, bytes);
	if (r && s->next) {
		r = mounted_compare(m, s->next, other, sizeof other);
		if (r) {
			size_t at = strlen(text);
			snprintf(text + at, bytes - at, "; with the action under way: %s", other);
		} else {
			s->now = s->next;
			explored.in_flight++;
		}
	}
	s->next = NULL;
	return r;
}

static int look(struct store *store, void *arg, char *text, size_t bytes)
{
	struct scene *s = arg;
	struct mounted m;
	int r = mounted_start(&m, store);
	if (r)
		snprintf(text, bytes, "mounting read-only: %s", strerror(-r));
	else
		r = settle_tree(s, &m, text, bytes);
	mounted_free(&m);
	return r;
}

static int check_now(struct scene *s, const char *what)
{
	char text[TEXT_BYTES];
	return mounted_compare(&s->m, s->now, text, sizeof text) ? fail(s, what, text) : 0;
}

// One action, which must do what it does to the model.
static int act(struct scene *s, const struct action *a, struct tree *next, unsigned stamp)
{
	char text[TEXT_BYTES];
	int expected = action_apply(a, next, stamp);
	if (expected == -EINVAL)
		return 0;
	int r = action_do(a, &s->m, stamp);
	if (r == expected)
		return 0;
	snprintf(text, sizeof text, "%d, expected %d", r, expected);
	return fail(s, a->name, text);
}

static int go_on(struct scene *s, struct tree *tree)
{
	unsigned count = 1 + rng_below(&s->rng, 3);
	for (unsigned i = 0; i < count; i++) {
		const struct action *a;
		do
			a = &actions[rng_below(&s->rng, action_count)];
		while (a->kind >= ACTION_FORMAT);
		if (act(s, a, tree, 200 + i))
			return 1;
	}
	s->now = tree;
	if (check_now(s, "going on"))
		return 1;
	if (rng_below(&s->rng, 2))
		return 0;
	int r = store_sync(s->m.store);
	if (r)
		return fail(s, "an epoch after the crash", strerror(-r));
	action_do(&actions[action_find("evict", 5)], &s->m, 0);
	return check_now(s, "going on, from the backing");
}

static struct image *image_at_end(struct scene *s)
{
	adversary_lock(s->adversary);
	struct image *i = adversary_crash(s->adversary, CRASH_KILL, 0);
	adversary_unlock(s->adversary);
	return i;
}

// What it is when it ends, once more offline.
static int check_end(struct scene *s, bool closed)
{
	char text[TEXT_BYTES];
	struct image *i = image_at_end(s);
	int r = image_check(i, false, check_all, look, s, text, sizeof text);
	image_free(i);
	return r ? fail(s, closed ? "after the unmount" : "after going on", text) : 0;
}

static int use_and_end(struct scene *s)
{
	struct tree *tree = tree_copy(s->now);
	bool closes = rng_below(&s->rng, 4) == 0;
	int r = go_on(s, tree);
	if (!r && closes) {
		r = scene_unmount(s);
		if (r)
			fail(s, "unmounting", strerror(-r));
	}
	if (!r && s->ends_checked)
		r = check_end(s, closes);
	tree_free(tree);
	return r;
}

// What is refused as no file system is made one.
static void check_refused(struct scene *s, struct image *i)
{
	const struct store_format_config config = { .force = true, .tiny = true };
	struct media *m;
	struct backing *b;
	explored.refused++;
	int r = image_open(i, false, &m, &b);
	assert(r == 0);
	r = store_format_on(&config, m, b);
	backing_close(b);
	i->media = m;
	s->now = empty;
	s->next = NULL;
	if (r)
		fail(s, "formatting what was refused", strerror(-r));
	else if ((r = scene_mount(s, i)))
		fail(s, "mounting what was formatted again", strerror(-r));
	else
		check_now(s, "formatted again");
}

static void choose_visit(struct scene *s)
{
	const struct scene *p = s->parent;
	if (p->visit == VISIT_ONE && p->steps > 1) {
		s->visit = VISIT_ONE;
		s->path = p->path + 1;
		s->steps = p->steps - 1;
	} else if (s->depth <= settings.nested && p->visit != VISIT_ONE) {
		s->visit = settings.exhaustive ? VISIT_ALL : rng_below(&s->rng, 8) == 0 ? VISIT_SOME : VISIT_NONE;
	}
}

static int mount_and_drop(struct scene *s, struct image *i, struct image *copy)
{
	char text[TEXT_BYTES];
	int r = scene_mount(s, i);
	if (r && s->formats) {
		scene_end(s);
		check_refused(s, copy);
	} else if (r) {
		fail(s, "mounting", strerror(-r));
	} else if (settle_tree(s, &s->m, text, sizeof text)) {
		fail(s, "mounted", text);
	} else if ((r = mounted_drop_orphans(&s->m))) {
		fail(s, "dropping orphans", strerror(-r));
	}
	return explored.failed;
}

static void check_state(struct scene *s, struct image *i)
{
	struct image *copy = s->formats ? image_copy(i) : NULL;
	char text[TEXT_BYTES];
	s->rng = hash_bytes(explored.name, strlen(explored.name));
	s->ends_checked = s->formats || rng_below(&s->rng, 3) == 0;
	choose_visit(s);
	if (!s->formats && !s->discards_tier && image_check(i, s->lost_tier, check_all, look, s, text, sizeof text))
		fail(s, "read-only", text);
	else if (!mount_and_drop(s, i, copy)) {
		scene_visit(s, VISIT_NONE);
		if (!check_now(s, "without its orphans"))
			use_and_end(s);
	}
	scene_end(s);
	image_free(copy);
}

// The tree that the backing alone has, by its cut.
static int tree_of_cut(struct scene *s, const struct image *i)
{
	const struct history *h = s->history;
	const struct super_disk *super = image_super(i);
	unsigned at = h->points;
	while (super && at > 0 && h->point[at - 1].lsn > super->cut)
		at--;
	s->next = NULL;
	if (!super || at == 0)
		return fail(s, "tier lost", "no superblock, or one from before the workload");
	if (at - 1 < h->synced)
		return fail(s, "tier lost", "the superblock is older than a sync that has returned");
	s->now = h->point[at - 1].tree;
	return 0;
}

static struct image *image_of(const struct scene *s, const struct step *step)
{
	if (step->kind == 'x')
		return adversary_state(s->adversary, !step->lost, FEW, step->number);
	return adversary_crash(s->adversary, step->kind == 'k' ? CRASH_KILL : CRASH_POWER, step->number);
}

static void visit_state(struct scene *parent, struct step step)
{
	struct scene s = { .parent = parent, .workload = parent->workload, .from = step, .depth = parent->depth + 1,
			   .history = parent->history, .formats = parent->formats, .discards_tier = parent->discards_tier,
			   .lost_tier = parent->lost_tier || step.lost, .now = parent->now, .next = parent->next };
	struct image *i = image_of(parent, &step);
	char outer[sizeof explored.name];
	strcpy(outer, explored.name);
	name_step(&s, explored.name, sizeof explored.name);
	explored.states++;
	explored.enumerated += step.kind == 'x';
	explored.killed += step.kind == 'k';
	explored.lost_tier += step.lost;
	explored.nested += parent->depth > 0;
	if (step.lost)
		image_blank_tier(i);
	if (!step.lost || parent->lost_tier || !tree_of_cut(&s, i))
		check_state(&s, i);
	image_free(i);
	if (!explored.failed)
		strcpy(explored.name, outer);
}

// ---- cuts -----------------------------------------------------------------------------------------------

static void visit_all(struct scene *s, uint64_t event)
{
	for (int lost = 0; lost <= !s->formats && !explored.failed; lost++) {
		uint64_t states = adversary_states(s->adversary, !lost, FEW);
		for (uint64_t n = 0; n < states && !explored.failed; n++)
			visit_state(s, (struct step){ event, 'x', n, lost });
		for (unsigned n = 0; n < SAMPLES && states != 1 && !explored.failed; n++) // words of a line in any order, too
			visit_state(s, (struct step){ event, 's', hash_mix(event, n) >> 40, lost });
	}
}

// Most of the stores are content of pages, or slots of a new table.
static double weight_of(enum event event)
{
	return event == EVENT_STORE ? 1 : 3;
}

// How many states, on average. A recovery has a dozen events, attaching and filling have hundreds.
static double states_at(const struct scene *s, enum event event, uint64_t number)
{
	if (s->depth == 0)
		return weight_of(event) * s->chance;
	if (s->open)
		return 0.001;
	return event == EVENT_STORE && number > 12 ? 0.01 : 0.2;
}

static void visit_some(struct scene *s, uint64_t event, double expected)
{
	uint64_t rng = hash_mix(settings.seed + s->depth, event) ^ hash_bytes(explored.name, strlen(explored.name));
	unsigned count = (unsigned)expected;
	count += rng_below(&rng, 1 << 20) < (expected - count) * (1 << 20);
	explored.cuts += count > 0;
	for (; count && !explored.failed; count--) {
		struct step step = { .event = event, .kind = rng_below(&rng, 12) ? 's' : 'k' };
		step.lost = !s->formats && step.kind == 's' && rng_below(&rng, 5) == 0;
		uint64_t states = adversary_states(s->adversary, !step.lost, FEW);
		if (step.kind == 's' && states && rng_below(&rng, 4)) // else words of a line in any order, too
			step.kind = 'x';
		step.number = step.kind == 'x' ? rng_below(&rng, (uint32_t)states) : step.kind == 's' ? rng_next(&rng) >> 40 : 0;
		visit_state(s, step);
	}
}

static void on_event(void *arg, enum event event, uint64_t number)
{
	struct scene *s = arg;
	if (!explored.failed && adversary_disorder(s->adversary))
		fail(s, "order", adversary_disorder(s->adversary));
	if (explored.failed || explored.states >= settings.states)
		return;
	if (s->visit == VISIT_COUNT)
		s->weight += weight_of(event);
	else if (s->visit == VISIT_SOME || (s->visit == VISIT_ALL && s->depth && s->open))
		visit_some(s, number, states_at(s, event, number));
	else if (s->visit == VISIT_ALL)
		visit_all(s, number);
	else if (s->visit == VISIT_ONE && number == s->path[0].event)
		visit_state(s, s->path[0]);
}

// When nothing more happens, one more.
static void last_event(struct scene *s)
{
	adversary_lock(s->adversary);
	on_event(s, EVENT_DRAIN, adversary_events(s->adversary) + 1);
	adversary_unlock(s->adversary);
}

// ---- workloads ------------------------------------------------------------------------------------------

static void expect(struct scene *s, const struct tree *now, const struct tree *next)
{
	adversary_lock(s->adversary);
	s->now = now;
	s->next = next;
	adversary_unlock(s->adversary);
}

static void history_add(struct scene *s, struct tree *tree, bool synced)
{
	struct history *h = s->history;
	adversary_lock(s->adversary);
	assert(h->points < sizeof h->point / sizeof h->point[0]);
	lsn_t before = h->points ? h->point[h->points - 1].lsn : 0, lsn = s->m.lane ? s->m.lane->record->lsn : 0;
	h->point[h->points++] = (struct point){ tree, lsn > before ? lsn : before };
	if (synced)
		h->synced = h->points - 1;
	s->now = tree;
	s->next = NULL;
	adversary_unlock(s->adversary);
}

static void learn(struct scene *s, struct tree *tree)
{
	char text[TEXT_BYTES];
	if (mounted_compare_and_learn(&s->m, tree, text, sizeof text))
		fail(s, "at work", text);
}

static int run_action(struct scene *s, const struct action *a, unsigned stamp)
{
	struct tree *now = s->history->point[s->history->points - 1].tree, *next = tree_copy(now);
	int r = 0;
	if (a->kind == ACTION_UNMOUNT) {
		r = scene_unmount(s);
		if (r)
			fail(s, a->name, strerror(-r));
	} else {
		struct tree *expected = tree_copy(now);
		bool valid = action_apply(a, expected, stamp) == 0;
		expect(s, now, valid ? expected : NULL);
		r = act(s, a, next, stamp);
		expect(s, valid ? next : now, NULL);
		tree_free(expected);
	}
	history_add(s, next, a->kind == ACTION_SYNC || a->kind == ACTION_UNMOUNT);
	if (!r && s->m.lane)
		learn(s, next);
	return r;
}

static void run_on_base(struct scene *s, const int *action, unsigned count)
{
	struct history history = base_history;
	enum action_kind kind = actions[action[0]].kind;
	bool mounts = kind == ACTION_MOUNT || kind == ACTION_REMOUNT || kind == ACTION_ATTACH;
	struct image *i = image_copy(mounts && kind != ACTION_MOUNT ? base_clean : base);
	enum visit visit = s->visit;
	unsigned own = history.points;

	s->history = &history;
	s->now = history.point[own - 1].tree;
	if (kind == ACTION_ATTACH)
		image_blank_tier(i);
	if (kind == ACTION_REMOUNT)
		image_tear_header_b(i);
	if (kind == ACTION_MOUNT) // as a crash behind the superblocks leaves it
		image_age_tier(i, (image_super(i)->epoch - 1) | TIER_EPOCH_NEXT);
	if (!mounts)
		s->visit = VISIT_NONE;
	int r = scene_mount(s, i);
	if (r)
		fail(s, "mounting", strerror(-r));
	else
		scene_visit(s, visit);
	for (unsigned n = mounts; n < count && !explored.failed; n++)
		run_action(s, &actions[action[n]], 100 + n);
	if (!explored.failed)
		last_event(s);
	scene_end(s);
	image_free(i);
	for (unsigned n = own; n < history.points; n++)
		tree_free(history.point[n].tree);
}

static int repair(const struct check_config *config, struct media *m, struct backing *b)
{
	const struct store_config open = { .read_only = true, .salvage = true, .repair = true, .tiny = true, .assume_persistent = true };
	struct store *store;
	int r = store_open_on(&open, m, b, &store);
	if (r)
		return r;
	r = store_rebuild(store, config, 0);
	if (!r)
		r = store_put_in_force(store);
	int closed = store_close(store);
	return r ? r : closed;
}

// Nothing is damaged, and so it shows the same tree all along.
static void run_repair(struct scene *s, enum action_kind kind)
{
	struct image *i = image_copy(kind == ACTION_REPAIR ? base : base_clean);
	struct media *m;
	struct backing *b;
	s->history = &base_history;
	s->now = base_history.point[base_history.points - 1].tree;
	s->discards_tier = true;
	if (kind == ACTION_REPAIR) { // as a crash between the superblocks leaves it
		image_age_tier(i, (image_super(i)->epoch - 1) | TIER_EPOCH_NEXT);
		image_tear_super_b(i);
	} else {
		image_tear_header_b(i);
	}
	int r = image_open(i, false, &m, &b);
	assert(r == 0);
	watch(s, i, m, b);
	r = repair(&(struct check_config){ 0 }, m, b);
	if (r)
		fail(s, s->workload, strerror(-r));
	else if (!scene_finished(s))
		last_event(s);
	scene_end(s);
	image_free(i);
}

static void run_format(struct scene *s, enum action_kind kind)
{
	const struct store_format_config config = { .force = kind == ACTION_REFORMAT, .tiny = true };
	struct image *i = kind == ACTION_REFORMAT ? image_copy(base) : image_new(TIER_BYTES, BACKING_BYTES);
	struct media *m;
	struct backing *b;
	int r;

	s->formats = true;
	s->now = empty;
	s->next = kind == ACTION_REFORMAT ? base_history.point[base_history.points - 1].tree : NULL;
	i->blank_rest = kind != ACTION_REFORMAT;
	if (kind == ACTION_FORMAT_MOUNT) {
		r = scene_mount(s, i);
	} else {
		r = image_open(i, false, &m, &b);
		assert(r == 0);
		watch(s, i, m, b);
		r = store_format_on(&config, m, b);
		if (!r)
			scene_finished(s);
		expect(s, empty, NULL);
		last_event(s);
		backing_close(b);
		media_close(m);
	}
	if (r)
		fail(s, s->workload, strerror(-r));
	scene_end(s);
	image_free(i);
}

// 0: not a workload.
static unsigned parse_workload(const char *text, int action[ACTIONS_MAX])
{
	unsigned count = 0;
	for (; count < ACTIONS_MAX; text++) {
		size_t bytes = strcspn(text, ",");
		action[count] = action_find(text, bytes);
		if (action[count++] < 0)
			return 0;
		text += bytes;
		if (!*text)
			return count;
	}
	return 0;
}

static void run(struct scene *s)
{
	int action[ACTIONS_MAX];
	unsigned count = parse_workload(s->workload, action);
	enum action_kind kind = actions[action[0]].kind;
	assert(count);
	snprintf(explored.name, sizeof explored.name, "%s", s->workload);
	if (kind >= ACTION_FORMAT && kind <= ACTION_FORMAT_MOUNT)
		run_format(s, kind);
	else if (kind == ACTION_REPAIR || kind == ACTION_REPAIR_CLEAN)
		run_repair(s, kind);
	else
		run_on_base(s, action, count);
}

void explorer_run(const char *workload, double quota)
{
	struct scene count = { .workload = workload, .visit = VISIT_COUNT };
	struct scene s = { .workload = workload, .visit = VISIT_ALL };
	explored.workloads++;
	if (!settings.exhaustive) {
		run(&count);
		s.visit = VISIT_SOME;
		s.chance = count.weight > 0 ? quota / count.weight : 0;
	}
	if (!explored.failed)
		run(&s);
}

static bool parse_step(const char *text, size_t bytes, struct step *ret_step)
{
	char copy[64], suffix[8] = "";
	unsigned long long event, number = 0;
	*ret_step = (struct step){ 0 };
	if (bytes >= sizeof copy)
		return false;
	memcpy(copy, text, bytes);
	copy[bytes] = 0;
	int got = sscanf(copy, "%llu:%c%llu%7s", &event, &ret_step->kind, &number, suffix);
	if (got < 2 || !strchr("xsk", ret_step->kind) || (got < 3) != (ret_step->kind == 'k'))
		return false;
	ret_step->event = event;
	ret_step->number = number;
	ret_step->lost = strcmp(suffix, "-lost") == 0;
	return true;
}

int explorer_replay(const char *name)
{
	struct step path[CHAIN_MAX];
	char workload[256];
	int action[ACTIONS_MAX];
	struct scene s = { .workload = workload, .visit = VISIT_ONE, .path = path };
	size_t bytes = strcspn(name, "@");
	snprintf(workload, sizeof workload, "%.*s", (int)bytes, name);
	for (name += bytes; *name == '@' && s.steps < CHAIN_MAX; name += bytes) {
		name++;
		bytes = strcspn(name, "@");
		if (!parse_step(name, bytes, &path[s.steps++]))
			return -1;
	}
	if (*name || s.steps == 0 || !parse_workload(workload, action))
		return -1;
	run(&s);
	return 0;
}

// ---- what workloads start from --------------------------------------------------------------------------

static struct tree *prepare(struct scene *s, const struct tree *before, const struct action *list, unsigned count)
{
	struct tree *tree = tree_copy(before);
	for (unsigned i = 0; i < count && !explored.failed; i++)
		if (act(s, &list[i], tree, i))
			break;
	learn(s, tree);
	return tree;
}

void explorer_start(const struct explorer_settings *wanted)
{
	struct scene s = { .workload = "preparation", .history = &base_history };
	struct image *i = image_new(TIER_BYTES, BACKING_BYTES);
	settings = *wanted;
	settings.broken = -1;
	empty = tree_new();
	if (scene_mount(&s, i))
		abort();
	history_add(&s, prepare(&s, empty, actions_cold, actions_cold_count), true);
	history_add(&s, prepare(&s, base_history.point[0].tree, actions_dirty, actions_dirty_count), false);
	base = image_at_end(&s);
	if (mounted_drop_orphans(&s.m) || scene_unmount(&s))
		abort();
	base_clean = image_at_end(&s);
	scene_end(&s);
	image_free(i);
	settings.broken = wanted->broken;
}

void explorer_end(void)
{
	for (unsigned i = 0; i < base_history.points; i++)
		tree_free(base_history.point[i].tree);
	tree_free(empty);
	image_free(base);
	image_free(base_clean);
}
