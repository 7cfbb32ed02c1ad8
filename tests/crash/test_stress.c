// SPDX-License-Identifier: GPL-2.0-or-later
// Many lanes on a tier that holds less than they use, with epochs all the time. Each has objects of its
// own, checked against its model; and they share some, in which an item of the object says of each page
// which version it must have, so that a torn, stale or mixed read is seen, whoever wrote meanwhile.
//
//	test_stress [--seconds N] [--threads N] [--tier MiB] [--seed N] [--interval ms]
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "log.h"
#include "workload.h"

#define SHARED 6u  // objects
#define PAGES 64u  // of each
#define PAIRS 2u   // objects 2 i and 2 i + 1 share a count
#define THREADS_MAX 32u

struct shared_item { // the object's inode, so to speak
	uint64_t sequence; // of commits to the object
	uint64_t pair;     // the same in both of a pair
	uint64_t version[PAGES];
};
struct shared {
	_Atomic object_t id;
	_Atomic uint64_t acknowledged; // a commit with that sequence has returned; on top, 16 bits of the id
};
struct worker {
	pthread_t thread;
	unsigned number;
	struct driver driver;
	struct lane *lane;
	uint64_t rng, reads, writes, pairs, drops, recreated;
};

struct tally tally;
static struct settings settings = { .drivers = 1, .objects = MODEL_OBJECTS, .pages = MODEL_PAGES, .broken = -1 };
static struct store *store;
static struct shared shared[SHARED + 2 * PAIRS];
static _Atomic uint64_t versions = 1;
static _Atomic bool stop;

static void fail(const char *what, const char *text)
{
	static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&once);
	if (!tally.failed)
		snprintf(tally.text, sizeof tally.text, "%s: %s", what, text);
	tally.failed = true;
	pthread_mutex_unlock(&once);
	stop = true;
}

// ---- shared objects -----------------------------------------------------------------------------------

static void shared_fill(uint64_t *word, object_t id, page_t page, uint64_t version)
{
	uint64_t base = hash_mix(version, hash_mix(id, page));
	word[0] = version;
	for (unsigned i = 1; i < 512; i++)
		word[i] = base += UINT64_C(0x9e3779b97f4a7c15);
}

static bool shared_holds(const void *data, object_t id, page_t page, uint64_t version, char *text, size_t bytes)
{
	_Alignas(8) uint64_t want[512];
	uint64_t found = 0;
	if (!data && !version)
		return true;
	if (version)
		shared_fill(want, id, page, version);
	else
		memset(want, 0, sizeof want);
	if (data && memcmp(want, data, PAGE_BYTES) == 0)
		return true;
	unsigned at = 0;
	if (data) {
		memcpy(&found, data, 8);
		while (at < 512 && memcmp(&want[at], (const char *)data + 8 * at, 8) == 0)
			at++;
	}
	snprintf(text, bytes, "shared object %llu page %llu: expected version %llu, found %s %llu (differs from word %u)",
		 (unsigned long long)id, (unsigned long long)page, (unsigned long long)version, data ? "version" : "a hole",
		 (unsigned long long)found, at);
	return false;
}

static int get_item(struct op *op, object_t id, struct shared_item *item)
{
	int r = op_get(op, item_key(id, ITEM_INODE, 0), item, sizeof *item);
	return r < 0 ? r : r == sizeof *item ? 0 : -EBADMSG;
}

struct snapshot {
	struct shared_item item;
	bool there, bad;
	char text[200];
};

// Item and pages are of one moment: each page is what the item says, and all are holes if there is none.
static int read_body(struct op *op, object_t id, unsigned first, unsigned count, bool verify, struct snapshot *s)
{
	struct page_view view[PAGES];
	s->bad = s->there = false;
	memset(&s->item, 0, sizeof s->item);
	int r = op_watch(op, id);
	if (!r)
		r = get_item(op, id, &s->item);
	s->there = r == 0;
	if (r == -ENOENT)
		r = 0;
	if (!r)
		r = op_read(op, id, first, count, verify, view);
	for (unsigned i = 0; !r && !s->bad && i < count; i++)
		s->bad = !shared_holds(view[i].data, id, first + i, s->item.version[first + i], s->text, sizeof s->text);
	return r;
}

static void shared_read(struct worker *k, struct shared *sh)
{
	object_t id = sh->id;
	uint64_t before = atomic_load(&sh->acknowledged);
	unsigned first = rng_below(&k->rng, PAGES), count = 1 + rng_below(&k->rng, PAGES - first);
	bool verify = rng_below(&k->rng, 4) == 0;
	struct snapshot s;
	struct op *op = op_begin(k->lane);
	int r;
	do
		r = read_body(op, id, first, count, verify, &s);
	while (op_again(op, &r));
	op_end(op);
	k->reads++;
	if (r) {
		fail("shared read", strerror(-r));
	} else if (s.bad) {
		fail(s.there ? "shared read" : "read of a dropped object", s.text);
	} else if (s.there && before >> 48 == (id & 0xffff) && s.item.sequence < (before & ((UINT64_C(1) << 48) - 1))) {
		snprintf(s.text, sizeof s.text, "object %llu: sequence %llu, but %llu was acknowledged before", (unsigned long long)id,
			 (unsigned long long)s.item.sequence, (unsigned long long)(before << 16 >> 16));
		fail("stale", s.text);
	}
}

struct write {
	unsigned first, count;
	uint64_t version; // 0: a drop
	uint64_t sequence;
};

static void merge_write(void *value, void *arg)
{
	struct shared_item *item = value;
	struct write *w = arg;
	w->sequence = ++item->sequence;
	for (unsigned i = 0; i < w->count; i++)
		item->version[w->first + i] = w->version;
}

// Whole pages, blindly, or built on what is there; or a range becomes holes.
static int write_body(struct op *op, object_t id, struct write *w, bool watch, bool built)
{
	_Alignas(64) uint64_t data[512];
	struct page_view view[PAGES];
	struct shared_item item;
	int r = watch ? op_watch(op, id) : 0;
	if (!r)
		r = get_item(op, id, &item);
	if (!r && w->version && built)
		r = op_read(op, id, w->first, w->count, true, view);
	if (!r && w->version)
		r = txn_claim(op, id, w->first, w->count);
	for (unsigned i = 0; !r && w->version && i < w->count; i++) {
		shared_fill(data, id, w->first + i, w->version);
		r = txn_page(op, id, w->first + i, data, built ? &view[i] : NULL);
	}
	if (!r && !w->version)
		r = txn_drop(op, id, w->first, w->first + w->count);
	if (!r)
		r = txn_update(op, item_key(id, ITEM_INODE, 0), &item, sizeof item, merge_write, w);
	return r ? r : txn_commit(op, true);
}

static void acknowledge(struct shared *sh, object_t id, uint64_t sequence)
{
	uint64_t was = atomic_load(&sh->acknowledged);
	sequence |= id << 48;
	while (was >> 48 == (id & 0xffff) && was < sequence && !atomic_compare_exchange_weak(&sh->acknowledged, &was, sequence))
		;
}

static void shared_write(struct worker *k, struct shared *sh, bool drop)
{
	object_t id = sh->id;
	struct write w = { .first = rng_below(&k->rng, PAGES) };
	w.count = 1 + rng_below(&k->rng, rng_below(&k->rng, 4) ? 4 : PAGES);
	if (w.count > PAGES - w.first || (drop && rng_below(&k->rng, 2)))
		w.count = PAGES - w.first;
	bool watch = rng_below(&k->rng, 2), built = rng_below(&k->rng, 2);
	w.version = drop ? 0 : atomic_fetch_add(&versions, 1);
	struct op *op = op_begin(k->lane);
	int r;
	do
		r = write_body(op, id, &w, watch, built);
	while (op_again(op, &r));
	op_end(op);
	if (r == 0)
		acknowledge(sh, id, w.sequence);
	else if (r != -ENOENT && r != -ESTALE) // dropped meanwhile
		fail("shared write", strerror(-r));
	k->writes += !drop;
	k->drops += drop;
}

static int create_body(struct op *op, object_t id)
{
	struct shared_item item = { .sequence = 1 };
	int r = txn_put(op, item_key(id, ITEM_INODE, 0), &item, sizeof item);
	return r ? r : txn_commit(op, true);
}

static void shared_create(struct lane *lane, struct shared *sh)
{
	object_t id = store_new_object(store);
	struct op *op = op_begin(lane);
	int r;
	do
		r = create_body(op, id);
	while (op_again(op, &r));
	op_end(op);
	if (r)
		fail("create", strerror(-r));
	sh->acknowledged = id << 48;
	sh->id = id;
}

static int destroy_body(struct op *op, object_t id)
{
	struct shared_item item;
	int r = op_watch(op, id);
	if (!r)
		r = get_item(op, id, &item);
	if (!r)
		r = txn_drop_object(op, id);
	return r ? r : txn_commit(op, true);
}

static void shared_recreate(struct worker *k, struct shared *sh)
{
	object_t id = sh->id;
	struct op *op = op_begin(k->lane);
	int r;
	do
		r = destroy_body(op, id);
	while (op_again(op, &r));
	op_end(op);
	if (r == -ENOENT || r == -ESTALE)
		return; // another did, and makes the new one
	if (r)
		fail("drop of an object", strerror(-r));
	shared_create(k->lane, sh);
	k->recreated++;
}

// ---- pairs: one transaction over two objects --------------------------------------------------------------

static int pair_body(struct op *op, const struct shared *a, const struct shared *b, struct write *w, uint64_t *ret_pair, bool *ret_same)
{
	_Alignas(64) uint64_t data[512];
	struct shared_item one, two;
	int r = op_watch(op, a->id);
	if (!r)
		r = op_watch(op, b->id);
	if (!r)
		r = get_item(op, a->id, &one);
	if (!r)
		r = get_item(op, b->id, &two);
	if (r)
		return r;
	*ret_same = one.pair == two.pair;
	*ret_pair = one.pair;
	if (!w)
		return 0;
	r = txn_claim(op, a->id, w->first, 1);
	shared_fill(data, a->id, w->first, w->version);
	if (!r)
		r = txn_page(op, a->id, w->first, data, NULL);
	one.pair++;
	two.pair++;
	one.sequence++;
	two.sequence++;
	one.version[w->first] = w->version;
	if (!r)
		r = txn_put(op, item_key(a->id, ITEM_INODE, 0), &one, sizeof one);
	if (!r)
		r = txn_put(op, item_key(b->id, ITEM_INODE, 0), &two, sizeof two);
	return r ? r : txn_commit(op, true);
}

static void pair_step(struct worker *k, unsigned pair, bool write)
{
	struct shared *a = &shared[SHARED + 2 * pair], *b = a + 1;
	struct write w = { .first = rng_below(&k->rng, PAGES), .version = atomic_fetch_add(&versions, 1) };
	uint64_t count = 0;
	bool same = true;
	if (rng_below(&k->rng, 2)) {
		struct shared *swap = a;
		a = b;
		b = swap;
	}
	struct op *op = op_begin(k->lane);
	int r;
	do
		r = pair_body(op, a, b, write ? &w : NULL, &count, &same);
	while (op_again(op, &r));
	op_end(op);
	k->pairs++;
	if (r)
		fail("pair", strerror(-r));
	else if (!same)
		fail("pair", "the two objects have different counts");
}

// ---- threads ---------------------------------------------------------------------------------------------

static void *work(void *arg)
{
	struct worker *k = arg;
	char text[256];
	while (!stop) {
		unsigned dice = rng_below(&k->rng, 100);
		struct shared *sh = &shared[rng_below(&k->rng, SHARED)];
		if (dice < 40) {
			if (driver_step(&k->driver, text, sizeof text))
				fail("own objects", text);
		} else if (dice < 65) {
			shared_read(k, sh);
		} else if (dice < 80) {
			shared_write(k, sh, false);
		} else if (dice < 85) {
			shared_write(k, sh, true);
		} else if (dice < 86) {
			shared_recreate(k, sh);
		} else {
			pair_step(k, rng_below(&k->rng, PAIRS), dice < 93);
		}
	}
	return NULL;
}

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

// Counters and space are asked for all along.
static void *look_on(void *arg)
{
	struct vems_stats st;
	struct store_space space;
	for (; !stop; pause_ms(1)) {
		store_stats(store, &st);
		store_space(store, &space);
		if (space.free > space.total)
			fail("space", "more is free than there is");
	}
	return NULL;
}

static void *come_and_go(void *arg)
{
	for (; !stop; pause_ms(1)) {
		struct lane *lane;
		if (lane_new(store, &lane))
			fail("a lane", "no more of them");
		else
			lane_free(lane);
	}
	return NULL;
}

static void check_all(struct worker *worker, unsigned threads)
{
	char text[256];
	for (unsigned n = 0; n < threads; n++)
		if (model_compare(&worker[n].driver.model, NULL, worker[n].lane, true, text, sizeof text))
			fail("in the end", text);
	for (unsigned i = 0; i < SHARED + 2 * PAIRS; i++)
		shared_read(&worker[0], &shared[i]);
}

static void lanes(struct worker *worker, unsigned threads, bool make)
{
	for (unsigned n = 0; n < threads; n++) {
		if (!make)
			lane_free(worker[n].lane);
		else if (lane_new(store, &worker[n].lane))
			exit(99);
		worker[n].driver.lane = worker[n].lane;
		worker[n].driver.store = store;
	}
}

static int open_image(struct image *i, unsigned interval_ms)
{
	struct store_config config = { .tiny = true, .assume_persistent = true, .format_blank = true, .interval_ms = interval_ms };
	struct media *m;
	struct backing *b;
	int r = image_open(i, false, &m, &b);
	return r ? r : store_open_on(&config, m, b, &store);
}

static void summarise(const struct worker *worker, unsigned threads, const struct vems_stats *st)
{
	uint64_t reads = 0, writes = 0, pairs = 0, drops = 0, recreated = 0;
	for (unsigned n = 0; n < threads; n++) {
		reads += worker[n].reads;
		writes += worker[n].writes;
		pairs += worker[n].pairs;
		drops += worker[n].drops;
		recreated += worker[n].recreated;
	}
	printf("%llu shared reads, %llu writes, %llu drops, %llu objects made anew, %llu pairs; %llu commits, %llu restarts, %llu epochs, "
	       "%llu evicted, %llu filled, %llu dropped\n", (unsigned long long)reads, (unsigned long long)writes,
	       (unsigned long long)drops, (unsigned long long)recreated, (unsigned long long)pairs, (unsigned long long)st->commits,
	       (unsigned long long)st->restarts, (unsigned long long)st->epochs, (unsigned long long)st->pages_evicted,
	       (unsigned long long)st->pages_filled, (unsigned long long)st->pages_dropped);
}

// A new tier: all of it is there.
static void check_backing_alone(struct worker *worker, unsigned threads, struct image *i, struct media *blank, unsigned interval_ms)
{
	i->media = blank;
	int r = open_image(i, interval_ms);
	if (r) {
		fail("opening again", strerror(-r));
		return;
	}
	lanes(worker, threads, true);
	check_all(worker, threads);
	lanes(worker, threads, false);
	store_abandon(store);
}

// One scrub after the other; nothing is damaged.
static void scrub_again(void)
{
	struct vems_stats st;
	store_stats(store, &st);
	if (st.scrub_errors)
		fail("a scrub", "has found damage where there is none");
	int r = store_scrub(store);
	if (r && r != -EBUSY)
		fail("a scrub", strerror(-r));
}

static unsigned seconds = 20, threads = 6, tier_mib = 8, interval_ms = 30;

static int parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seconds", required_argument, NULL, 's' }, { "threads", required_argument, NULL, 't' },
		{ "tier", required_argument, NULL, 'T' },    { "seed", required_argument, NULL, 'S' },
		{ "interval", required_argument, NULL, 'i' }, { NULL, 0, NULL, 0 } };
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c) {
		case 's': seconds = (unsigned)atoi(optarg); break;
		case 't': threads = (unsigned)atoi(optarg); break;
		case 'T': tier_mib = (unsigned)atoi(optarg); break;
		case 'S': settings.seed = strtoull(optarg, NULL, 0); break;
		case 'i': interval_ms = (unsigned)atoi(optarg); break;
		default: return -1;
		}
	return threads < 1 || threads > THREADS_MAX ? -1 : 0;
}

static void begin(struct worker *worker)
{
	for (unsigned n = 0; n < threads; n++) {
		worker[n].number = n;
		worker[n].rng = settings.seed * 100 + n;
		driver_init(&worker[n].driver, &settings, settings.seed * 1000 + n);
	}
	lanes(worker, threads, true);
	for (unsigned n = 0; n < SHARED + 2 * PAIRS; n++)
		shared_create(worker[0].lane, &shared[n]);
}

static void start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	if (pthread_create(thread, NULL, fn, arg))
		exit(99);
}

static void run_all(struct worker *worker)
{
	pthread_t guest[2];
	for (unsigned n = 0; n < threads; n++)
		start(&worker[n].thread, work, &worker[n]);
	start(&guest[0], look_on, NULL);
	start(&guest[1], come_and_go, NULL);
	for (unsigned n = 0; n < 10 * seconds && !stop; n++) {
		scrub_again();
		pause_ms(100);
	}
	store_scrub_stop(store);
	stop = true;
	for (unsigned n = 0; n < 2; n++)
		pthread_join(guest[n], NULL);
	for (unsigned n = 0; n < threads; n++)
		pthread_join(worker[n].thread, NULL);
}

// All that the workers know is there: as they left it, from the backing, and from the backing alone.
static void look_at_all(struct worker *worker, struct image *i)
{
	char text[256];
	struct media *blank;
	if (!tally.failed)
		check_all(worker, threads);
	if (!tally.failed && (store_sync(store) || store_sync(store)))
		fail("the last epoch", "failed");
	if (!tally.failed && check_index(store, text, sizeof text))
		fail("in the end", text);
	driver_evict(&worker[0].driver, UINT32_MAX);
	if (!tally.failed)
		check_all(worker, threads);
	lanes(worker, threads, false);
	if (media_open_dram((uint64_t)tier_mib << 20, &blank))
		exit(99);
	if (!tally.failed && store_close(store))
		fail("closing", "failed");
	if (!tally.failed)
		check_backing_alone(worker, threads, i, blank, interval_ms);
}

int main(int argc, char **argv)
{
	settings.seed = 1;
	if (parse(argc, argv))
		return 2;
	log_init("test_stress");
	struct worker *worker = calloc(threads, sizeof *worker);
	struct image *i = image_new((uint64_t)tier_mib << 20, UINT64_C(128) << 20);
	struct vems_stats st;
	int r = open_image(i, interval_ms);
	if (r) {
		printf("FAILED: opening: %s\n", strerror(-r));
		return 1;
	}
	begin(worker);
	run_all(worker);
	store_stats(store, &st);
	look_at_all(worker, i);
	if (tally.failed)
		printf("FAILED: %s\n\treplay: test_stress --seconds %u --threads %u --tier %u --interval %u --seed %llu\n", tally.text, seconds,
		       threads, tier_mib, interval_ms, (unsigned long long)settings.seed);
	summarise(worker, threads, &st);
	for (unsigned n = 0; n < threads; n++)
		driver_fini(&worker[n].driver);
	free(worker);
	image_free(i);
	return tally.failed;
}
