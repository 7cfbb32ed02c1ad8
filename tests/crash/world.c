// SPDX-License-Identifier: GPL-2.0-or-later
#include "world.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "workload.h"

struct tally tally;

struct world {
	const struct settings *settings;
	const struct world *parent;
	struct store *store;
	struct adversary *adversary;
	struct driver driver[DRIVERS_MAX];
	uint64_t rng;
	unsigned depth, crash_every;
	bool armed; // under the adversary's lock
	bool lost_tier;
	uint64_t event; // that the image it was opened from was made at
	char how[128];
};

static void note_failure(const struct world *w, const char *what, const char *text)
{
	static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&once);
	if (!tally.failed) {
		size_t at = (size_t)snprintf(tally.text, sizeof tally.text, "%s: %s", what, text);
		for (; w && w->parent && at < sizeof tally.text; w = w->parent)
			at += (size_t)snprintf(tally.text + at, sizeof tally.text - at, "\n\tcrash at event %llu of depth %u: %s",
					       (unsigned long long)w->event, w->depth - 1, w->how);
		tally.failed = true;
	}
	pthread_mutex_unlock(&once);
}

// ---- opening ----------------------------------------------------------------------------------------

static void crash_here(void *arg, enum event event, uint64_t number);

static int world_open(struct world *w, struct image *i, bool watch, struct store_config config)
{
	struct media *m;
	struct backing *b;
	int r = image_open(i, config.read_only, &m, &b);
	if (r)
		return r;
	config.tiny = config.assume_persistent = true;
	config.format_blank = true;
	if (config.interval_ms == 0)
		config.interval_ms = 3600000;
	w->adversary = watch ? adversary_new(i, m, b, crash_here, w) : NULL;
	if (w->adversary && w->settings->broken >= 0)
		adversary_break(w->adversary, (enum order)w->settings->broken);
	for (unsigned n = 0; n < w->settings->drivers; n++)
		w->driver[n].adversary = w->adversary;
	r = store_open_on(&config, m, b, &w->store);
	if (r)
		w->store = NULL;
	else if (w->adversary)
		adversary_opened(w->adversary, &w->store->tier->table_lock);
	char text[256];
	if (!r && check_index(w->store, text, sizeof text))
		note_failure(w, "after opening", text);
	return r;
}

static int lanes_new(struct world *w)
{
	for (unsigned n = 0; n < w->settings->drivers; n++) {
		struct lane *lane;
		int r = lane_new(w->store, &lane);
		if (r)
			return r;
		if (w->adversary)
			adversary_lock(w->adversary);
		w->driver[n].store = w->store;
		w->driver[n].lane = lane;
		if (w->adversary)
			adversary_unlock(w->adversary);
	}
	return 0;
}

static void lanes_free(struct world *w)
{
	for (unsigned n = 0; n < w->settings->drivers; n++) {
		struct lane *lane = w->driver[n].lane;
		if (w->adversary)
			adversary_lock(w->adversary);
		w->driver[n].lane = NULL;
		if (w->adversary)
			adversary_unlock(w->adversary);
		if (lane)
			lane_free(lane);
	}
}

static void world_disarm(struct world *w)
{
	if (!w->adversary)
		return;
	adversary_lock(w->adversary);
	w->armed = false;
	adversary_unlock(w->adversary);
}

static int world_close(struct world *w, bool abandon)
{
	int r = 0;
	lanes_free(w);
	if (w->store && abandon)
		store_abandon(w->store);
	else if (w->store)
		r = store_close(w->store);
	w->store = NULL;
	if (w->adversary) {
		tally.broken += adversary_broken(w->adversary);
		adversary_free(w->adversary);
	}
	w->adversary = NULL;
	return r;
}

// ---- comparing ----------------------------------------------------------------------------------------

// Each driver's objects are what it was told, its transaction in flight there or not as a whole.
static int compare_all(struct world *w, bool verify)
{
	char text[256], other[256];
	for (unsigned n = 0; n < w->settings->drivers && !tally.failed; n++) {
		struct driver *d = &w->driver[n];
		struct model *after = NULL;
		if (d->inflight) {
			after = malloc(sizeof *after);
			*after = d->model;
			model_apply(after, d->inflight);
		}
		int differs = model_compare(&d->model, after, d->lane, verify, text, sizeof text);
		if (differs && after) {
			struct txn *t = d->inflight;
			differs = model_compare(after, &d->model, d->lane, verify, other, sizeof other);
			if (differs) {
				strncat(text, "; with the one in flight: ", sizeof text - strlen(text) - 1);
				strncat(text, other, sizeof text - strlen(text) - 1);
			} else {
				tally.in_flight++;
				if (w->adversary)
					adversary_lock(w->adversary);
				driver_acknowledge(d, t, d->inflight_lsn, false);
				if (t->lsn == 0)
					t->lsn = d->inflight_lsn;
				if (w->adversary)
					adversary_unlock(w->adversary);
			}
		}
		free(after);
		if (w->adversary)
			adversary_lock(w->adversary);
		d->inflight = NULL;
		if (w->adversary)
			adversary_unlock(w->adversary);
		if (differs) {
			note_failure(w, "state", text);
			return 1;
		}
	}
	return tally.failed;
}

// ---- after a crash --------------------------------------------------------------------------------------

// Works on for a while, through evictions and epochs, and dies again or is closed.
static int exercise(struct world *w)
{
	char text[256] = "";
	unsigned steps = 1 + rng_below(&w->rng, 12);
	for (unsigned i = 0; i < steps && !tally.failed; i++)
		for (unsigned n = 0; n < w->settings->drivers && !tally.failed; n++)
			if (driver_step(&w->driver[n], text, sizeof text)) {
				note_failure(w, "going on after the crash", text);
				return 1;
			}
	if (rng_below(&w->rng, 2) == 0) {
		if (driver_sync(&w->driver[0], text, sizeof text)) {
			note_failure(w, "an epoch after the crash", text);
			return 1;
		}
		driver_evict(&w->driver[0], UINT32_MAX);
	}
	return compare_all(w, rng_below(&w->rng, 2));
}

// Nothing but the devices is left: read-only, it changes neither.
static void check_read_only(struct world *w, struct image *i)
{
	int r = world_open(w, i, true, (struct store_config){ .read_only = true, .lose_tier = w->lost_tier });
	tally.read_only++;
	if (!r)
		r = lanes_new(w);
	if (r)
		note_failure(w, "opening read-only", strerror(-r));
	else
		compare_all(w, false);
	if (w->adversary && adversary_writes(w->adversary))
		note_failure(w, "read-only", "wrote");
	world_close(w, true);
}

static void check_full(struct world *w, const struct image *i)
{
	char text[256];
	tally.checked++;
	if (image_check(i, w->lost_tier, store_check, NULL, NULL, text, sizeof text))
		note_failure(w, "the full check", text);
}

static void check_image(struct world *w, struct image *i)
{
	if (rng_below(&w->rng, 8) == 0)
		check_full(w, i);
	unsigned dice = rng_below(&w->rng, 100);
	bool deeper = w->depth <= w->settings->nested && dice < (w->depth == 1 ? 15 : 8);

	if (dice >= 97) {
		check_read_only(w, i);
		return;
	}
	w->armed = deeper;
	w->crash_every = 20;
	int r = world_open(w, i, deeper, (struct store_config){ .lose_tier = w->lost_tier });
	if (!r)
		r = lanes_new(w);
	if (r) {
		note_failure(w, "opening", strerror(-r));
	} else if (compare_all(w, rng_below(&w->rng, 2)) == 0 && (deeper || dice < 30)) {
		w->crash_every = 120;
		exercise(w);
	}
	if (tally.failed)
		world_disarm(w);
	bool clean = rng_below(&w->rng, 8) == 0 && !tally.failed && !w->settings->faults;
	r = world_close(w, !clean);
	if (r)
		note_failure(w, "closing", strerror(-r));
}

static void crash_once(struct world *parent, uint64_t event, uint64_t seed)
{
	uint64_t rng = seed;
	unsigned dice = rng_below(&rng, 100);
	struct world *w = calloc(1, sizeof *w);
	lsn_t cut = LSN_MAX;
	char policy[64];

	*w = (struct world){ .settings = parent->settings, .parent = parent, .depth = parent->depth + 1, .event = event };
	enum crash_kind kind = dice < 10 ? CRASH_KILL : CRASH_POWER;
	bool lose = dice >= 10 && dice < 30;
	struct image *i = adversary_crash(parent->adversary, kind, rng_next(&rng));
	uint64_t policy_seed = seed;
	rng_below(&policy_seed, 100);
	policy_seed = rng_next(&policy_seed);
	const struct super_disk *super = image_super(i);
	w->lost_tier = lose || parent->lost_tier;
	snprintf(w->how, sizeof w->how, "%s%s (%s)", kind == CRASH_KILL ? "killed" : "power cut", lose ? ", tier lost" : "",
		 kind == CRASH_KILL ? "all" : crash_policy(policy_seed, policy));
	if (lose) {
		// Missing, or a copy of it from before.
		if (!super || super->state != SUPER_ATTACHED || super->epoch < 3 || rng_below(&rng, 2) ||
		    image_age_tier(i, super->epoch - 1 - rng_below(&rng, 2)))
			image_blank_tier(i);
		cut = super ? super->cut : 0;
		tally.lost_tier++;
	}
	tally.states++;
	tally.killed += kind == CRASH_KILL;
	tally.nested += parent->depth > 0;
	for (unsigned n = 0; n < parent->settings->drivers; n++) {
		const struct driver *d = &parent->driver[n];
		driver_clone(&w->driver[n], d, cut);
		if (w->driver[n].txns < d->synced)
			note_failure(w, "tier lost", "the superblock in force is older than a finished store_sync()");
	}
	w->rng = rng_next(&rng);
	if (parent->settings->trace)
		fprintf(stderr, "event %llu depth %u: %s\n", (unsigned long long)event, parent->depth, w->how);
	struct image *saved = parent->settings->keep ? image_copy(i) : NULL;
	bool before = tally.failed;
	check_image(w, i);
	if (saved && tally.failed && !before) {
		image_save(saved, "failing");
		fprintf(stderr, "the image is in failing.tier and failing.backing\n");
	}
	image_free(saved);
	image_free(i);
	for (unsigned n = 0; n < parent->settings->drivers; n++)
		driver_fini(&w->driver[n]);
	free(w);
}

// Most events are stores of pages, all much the same.
static bool crash_now(const struct world *w, enum event event, uint64_t number)
{
	if (w->depth == 0 && w->settings->only_event)
		return number == w->settings->only_event;
	uint64_t rng = hash_mix(w->settings->seed + w->depth, number ^ w->rng);
	unsigned every = event == EVENT_STORE ? 3 * w->crash_every : w->crash_every;
	return rng_below(&rng, every) == 0;
}

static void crash_here(void *arg, enum event event, uint64_t number)
{
	struct world *w = arg;
	if (!tally.failed && adversary_disorder(w->adversary))
		note_failure(w, "order", adversary_disorder(w->adversary));
	if (!w->armed || tally.failed || tally.states >= w->settings->states_max || !crash_now(w, event, number))
		return;
	uint64_t rng = hash_mix(w->settings->seed, number * 31 + w->depth);
	unsigned states = w->depth ? 1 : 1 + rng_below(&rng, 4);
	for (unsigned i = 0; i < states && !tally.failed; i++)
		crash_once(w, number, rng_next(&rng));
}

// ---- the whole run ------------------------------------------------------------------------------------

struct worker {
	struct world *w;
	struct driver *driver;
	unsigned steps;
	pthread_t thread;
};

static void *work(void *arg)
{
	struct worker *k = arg;
	char text[256];
	for (unsigned i = 0; i < k->steps && !tally.failed; i++)
		if (driver_step(k->driver, text, sizeof text))
			note_failure(k->w, "at work", text);
	return NULL;
}

static void work_all(struct world *w, unsigned steps)
{
	struct worker worker[DRIVERS_MAX];
	for (unsigned n = 0; n < w->settings->drivers; n++) {
		worker[n] = (struct worker){ w, &w->driver[n], steps, 0 };
		if (w->settings->drivers == 1)
			work(&worker[n]);
		else if (pthread_create(&worker[n].thread, NULL, work, &worker[n]))
			abort();
	}
	for (unsigned n = 0; w->settings->drivers > 1 && n < w->settings->drivers; n++)
		pthread_join(worker[n].thread, NULL);
}

static void arm(struct world *w, unsigned every)
{
	if (w->adversary)
		adversary_lock(w->adversary);
	w->armed = true;
	w->crash_every = every;
	if (w->adversary)
		adversary_unlock(w->adversary);
}

// Formatted and closed, then opened again with its tier, or with a blank one; crashes all along.
void world_run(const struct settings *settings)
{
	struct world *w = calloc(1, sizeof *w);
	struct image *i = image_new((uint64_t)settings->tier_mib << 20, (uint64_t)settings->backing_mib << 20), *next;
	struct store_config config = { .interval_ms = settings->serial ? 0 : 20 };

	*w = (struct world){ .settings = settings, .rng = settings->seed };
	for (unsigned n = 0; n < settings->drivers; n++)
		driver_init(&w->driver[n], settings, settings->seed * 1000 + n);
	for (unsigned life = 0; life < 3 && !tally.failed; life++) {
		if (life)
			arm(w, 10);
		int r = world_open(w, i, true, config);
		if (!r)
			r = lanes_new(w);
		if (r) {
			note_failure(w, "opening", strerror(-r));
			break;
		}
		arm(w, settings->crash_every);
		work_all(w, life == 0 ? settings->steps / 8 : settings->steps / 2);
		if (!tally.failed)
			compare_all(w, true);
		char text[256];
		if (!tally.failed && check_index(w->store, text, sizeof text))
			note_failure(w, "at rest", text);
		if (life == 2 && rng_below(&w->rng, 2))
			break;
		lanes_free(w);
		arm(w, 10);
		if (tally.failed)
			break;
		r = store_close(w->store);
		w->store = NULL;
		if (r && !(settings->faults && r == -EIO)) {
			note_failure(w, "closing", strerror(-r));
			break;
		}
		// The next life is of what is durable now.
		adversary_lock(w->adversary);
		const char *unfinished = r || w->settings->broken >= 0 ? NULL : adversary_unfinished(w->adversary);
		if (unfinished)
			note_failure(w, "closing", unfinished);
		next = adversary_crash(w->adversary, CRASH_KILL, 0);
		adversary_unlock(w->adversary);
		if (!r && rng_below(&w->rng, 2))
			image_blank_tier(next);
		tally.events += adversary_events(w->adversary);
		world_close(w, true);
		image_free(i);
		i = next;
	}
	world_disarm(w);
	if (w->adversary)
		tally.events += adversary_events(w->adversary);
	world_close(w, true);
	image_free(i);
	for (unsigned n = 0; n < settings->drivers; n++)
		driver_fini(&w->driver[n]);
	free(w);
}
