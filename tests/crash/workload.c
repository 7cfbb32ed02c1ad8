// SPDX-License-Identifier: GPL-2.0-or-later
#include "workload.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TXN_BYTES_MAX 22000u

static uint32_t below(struct driver *d, uint32_t n)
{
	return rng_below(&d->rng, n);
}

static void lock(struct driver *d)
{
	if (d->adversary)
		adversary_lock(d->adversary);
}

static void unlock(struct driver *d)
{
	if (d->adversary)
		adversary_unlock(d->adversary);
}

// ---- life -----------------------------------------------------------------------------------------

void driver_init(struct driver *d, const struct settings *settings, uint64_t seed)
{
	memset(d, 0, sizeof *d);
	d->settings = settings;
	d->rng = seed;
}

static void journal_add(struct driver *d, struct txn *t)
{
	if (d->txns == d->room) {
		d->room = d->room ? 2 * d->room : 64;
		d->journal = realloc(d->journal, d->room * sizeof *d->journal);
		assert(d->journal);
	}
	d->journal[d->txns++] = t;
}

// Looks at what another thread may be changing, where the old value will do as well as the new: not for
// ThreadSanitizer.
#define PEEKS __attribute__((no_sanitize("thread")))

PEEKS void driver_clone(struct driver *d, const struct driver *from, lsn_t cut)
{
	driver_init(d, from->settings, from->rng);
	d->stamp = from->stamp + 1000000;
	for (size_t i = 0; i < from->txns && from->journal[i]->lsn <= cut; i++) {
		journal_add(d, from->journal[i]);
		if (cut != LSN_MAX)
			model_apply(&d->model, from->journal[i]);
	}
	if (cut == LSN_MAX)
		d->model = from->model;
	d->own_from = d->txns;
	d->synced = from->synced < d->txns ? from->synced : d->txns;
	if (from->inflight) {
		lsn_t lsn = driver_inflight_lsn(from);
		if (cut == LSN_MAX || (lsn && lsn <= cut)) {
			d->inflight = from->inflight;
			d->inflight_lsn = lsn;
		}
	}
}

void driver_fini(struct driver *d)
{
	for (size_t i = d->own_from; i < d->txns; i++)
		txn_free(d->journal[i]);
	free(d->journal);
}

void driver_acknowledge(struct driver *d, struct txn *t, lsn_t lsn, bool own)
{
	model_apply(&d->model, t);
	if (own)
		t->lsn = lsn;
	journal_add(d, t);
	if (!own)
		d->own_from = d->txns;
	d->inflight = NULL;
}

// The record is built in the lane's buffer before the first byte of it is stored.
PEEKS lsn_t driver_inflight_lsn(const struct driver *d)
{
	lsn_t last = d->txns ? d->journal[d->txns - 1]->lsn : 0;
	if (d->inflight_lsn || !d->lane)
		return d->inflight_lsn;
	lsn_t lsn = __atomic_load_n(&d->lane->record->lsn, __ATOMIC_RELAXED);
	return lsn > last ? lsn : last + 1;
}

// ---- planning a transaction -------------------------------------------------------------------------

struct plan {
	struct driver *d;
	struct txn *txn;
	uint8_t *partial; // bit per change: built on what is there
	bool watch;
	uint64_t bytes;   // of the record, about
	char *text;
	size_t text_bytes;
	bool differs;
};

static uint32_t next_stamp(struct driver *d)
{
	return ++d->stamp;
}

static unsigned pick_object(struct driver *d, bool live)
{
	unsigned n = d->settings->objects;
	unsigned first = below(d, n);
	for (unsigned i = 0; i < n; i++)
		if (!live || d->model.object[(first + i) % n].id)
			return (first + i) % n;
	return first;
}

static unsigned pick_count(struct driver *d, unsigned most)
{
	unsigned dice = below(d, 100), n;
	if (dice < 60)
		n = 1 + below(d, 3);
	else if (dice < 85)
		n = 1 + below(d, 16);
	else if (dice < 96)
		n = 1 + below(d, 64);
	else
		n = 1 + below(d, MODEL_PAGES);
	return n < most ? n : most;
}

static void plan_pages(struct plan *p, unsigned object, unsigned first, unsigned count)
{
	struct driver *d = p->d;
	unsigned whole = below(d, 3); // 0: none, 1: all, 2: the inner ones
	for (unsigned i = 0; i < count; i++) {
		struct change *c = txn_add(p->txn, CHANGE_PAGE, object);
		c->at = first + i;
		c->page = d->model.object[object].page[c->at];
		c->page.there = true;
		bool all = whole == 1 || (whole == 2 && i && i + 1 < count);
		uint32_t stamp = next_stamp(d);
		unsigned from = all ? 0 : below(d, SECTORS), to = all ? SECTORS : from + 1 + below(d, SECTORS - from);
		for (unsigned s = from; s < to; s++)
			c->page.stamp[s] = below(d, 8) ? stamp : 0;
		if (!all)
			c->id = 1; // built on what is there
	}
	p->bytes += count * sizeof(struct switch_disk);
}

static void plan_items(struct plan *p, unsigned object, unsigned count)
{
	struct driver *d = p->d;
	unsigned first = below(d, MODEL_ITEMS), limit = below(d, 4) ? 120 : ITEM_VALUE_MAX - 8;
	for (unsigned i = 0; i < count && i < MODEL_ITEMS; i++) {
		unsigned at = (first + i) % MODEL_ITEMS;
		struct model_item was = d->model.object[object].item[at];
		struct model_item now = { next_stamp(d), (uint16_t)(8 + below(d, limit)) };
		unsigned dice = below(d, 10);
		if (dice < 3)
			now = (struct model_item){ 0 };
		else if (dice < 6 && was.stamp)
			now.bytes = was.bytes;
		if (p->bytes + ITEM_RECORD_BYTES(now.bytes) > TXN_BYTES_MAX)
			return;
		struct change *c = txn_add(p->txn, CHANGE_ITEM, object);
		c->at = at;
		c->item = now;
		c->id = now.stamp && now.bytes == was.bytes; // by txn_update()
		p->bytes += ITEM_RECORD_BYTES(now.bytes);
	}
}

static void plan_create(struct plan *p, unsigned object)
{
	struct driver *d = p->d;
	struct change *c = txn_add(p->txn, CHANGE_CREATE, object);
	c->id = store_new_object(d->store);
	c = txn_add(p->txn, CHANGE_ITEM, object);
	c->at = 0;
	c->item = (struct model_item){ next_stamp(d), 128 };
	p->bytes += 160;
}

// Truncate, punch: a range dies; a page beside it may be written in the same transaction.
static void plan_drop(struct plan *p, unsigned object)
{
	struct driver *d = p->d;
	unsigned pages = d->settings->pages, from = below(d, pages);
	unsigned to = below(d, 2) ? pages : from + 1 + below(d, pages - from);
	struct change *c = txn_add(p->txn, CHANGE_DROP, object);
	c->at = from;
	c->to = to;
	p->bytes += 64;
	if (from && below(d, 2))
		plan_pages(p, object, from - 1, 1);
}

static void plan(struct plan *p)
{
	struct driver *d = p->d;
	unsigned object = pick_object(d, false), dice = below(d, 100), pages = d->settings->pages;
	if (!d->model.object[object].id) {
		plan_create(p, object);
		return;
	}
	if (d->settings->many_items && below(d, 2)) {
		plan_items(p, object, MODEL_ITEMS);
	} else if (dice < 55) {
		unsigned first = below(d, pages);
		if (below(d, 3) == 0)
			first = first / 16 * 16;
		plan_pages(p, object, first, pick_count(d, pages - first));
		if (below(d, 2))
			plan_items(p, object, 1 + below(d, 3));
	} else if (dice < 75) {
		plan_items(p, object, 1 + (below(d, 4) ? below(d, 4) : below(d, MODEL_ITEMS)));
		unsigned other = pick_object(d, true);
		if (other != object && d->model.object[other].id && below(d, 2))
			plan_items(p, other, 1 + below(d, 4));
	} else if (dice < 90) {
		plan_drop(p, object);
		if (below(d, 3) == 0)
			plan_items(p, object, 1);
	} else if (dice < 96) {
		txn_add(p->txn, CHANGE_DROP_OBJECT, object);
		unsigned other = pick_object(d, true);
		if (other != object && below(d, 2))
			plan_items(p, other, 1 + below(d, 2));
	} else {
		plan_items(p, object, MODEL_ITEMS);
	}
}

// ---- carrying it out ----------------------------------------------------------------------------------

static object_t id_of(const struct plan *p, const struct change *c)
{
	for (unsigned i = 0; i < p->txn->count; i++)
		if (p->txn->change[i].kind == CHANGE_CREATE && p->txn->change[i].object == c->object)
			return p->txn->change[i].id;
	return p->d->model.object[c->object].id;
}

static int do_pages(struct op *op, struct plan *p)
{
	struct page_view *view = NULL;
	unsigned first = 0, count = 0;
	bool partial = false;
	_Alignas(64) uint8_t data[PAGE_BYTES];

	for (unsigned i = 0; i < p->txn->count; i++)
		if (p->txn->change[i].kind == CHANGE_PAGE) {
			if (count++ == 0)
				first = i;
			partial |= p->txn->change[i].id;
		}
	if (count == 0)
		return 0;
	struct change *c = &p->txn->change[first];
	object_t id = id_of(p, c);
	int r = 0;
	if (partial) {
		view = calloc(count, sizeof *view);
		r = op_read(op, id, c->at, count, true, view);
	}
	if (!r)
		r = txn_claim(op, id, c->at, count);
	for (unsigned i = 0; !r && i < count; i++, c++) {
		page_fill(data, id, c->at, &c->page);
		if (c->id && p->d->model.object[c->object].id) { // what is not written now comes from what was read
			uint8_t got[PAGE_BYTES];
			const struct model_page *was = &p->d->model.object[c->object].page[c->at];
			memset(got, 0, sizeof got);
			if (view[i].data)
				memcpy(got, view[i].data, PAGE_BYTES);
			for (unsigned s = 0; s < SECTORS; s++)
				if (was->stamp[s] == c->page.stamp[s])
					memcpy(data + s * 512, got + s * 512, 512);
		}
		r = txn_page(op, id, c->at, data, c->id ? &view[i] : NULL);
	}
	free(view);
	return r;
}

struct merge {
	object_t id;
	unsigned at;
	struct model_item item;
};

static void merge_item(void *value, void *arg)
{
	const struct merge *m = arg;
	item_fill(value, m->id, m->at, m->item);
}

static int do_item(struct op *op, struct plan *p, const struct change *c, struct merge *merge)
{
	uint8_t value[ITEM_VALUE_MAX];
	object_t id = id_of(p, c);
	struct item_key key = model_key(id, c->at);

	if (c->item.stamp == 0)
		return txn_delete(op, key);
	if (!c->id) {
		item_fill(value, id, c->at, c->item);
		return txn_put(op, key, value, c->item.bytes);
	}
	int r = op_get(op, key, value, sizeof value);
	if (r < 0)
		return r;
	if (r != c->item.bytes)
		return -EBADMSG;
	*merge = (struct merge){ id, c->at, c->item };
	return txn_update(op, key, value, c->item.bytes, merge_item, merge);
}

static int body(struct op *op, struct plan *p)
{
	struct merge merge[2 * MODEL_ITEMS];
	int r = 0;
	for (unsigned i = 0; !r && p->watch && i < p->txn->count; i++)
		r = op_watch(op, id_of(p, &p->txn->change[i]));
	if (!r)
		r = do_pages(op, p);
	for (unsigned i = 0, m = 0; !r && i < p->txn->count; i++) {
		const struct change *c = &p->txn->change[i];
		switch (c->kind) {
		case CHANGE_ITEM:
			r = do_item(op, p, c, &merge[m++]);
			break;
		case CHANGE_DROP:
			r = txn_drop(op, id_of(p, c), c->at, c->to);
			break;
		case CHANGE_DROP_OBJECT:
			r = txn_drop_object(op, id_of(p, c));
			break;
		default:
			break;
		}
	}
	return r ? r : txn_commit(op, true);
}

static int fail_commit(struct driver *d, const struct txn *t, int r, char *text, size_t bytes)
{
	if (d->settings->faults && r == -EIO)
		return 0;
	snprintf(text, bytes, "a transaction of %u changes failed: %s", t->count, strerror(-r));
	return 1;
}

static int step_commit(struct driver *d, char *text, size_t bytes)
{
	struct txn *t = calloc(1, sizeof *t);
	struct plan p = { .d = d, .txn = t, .watch = below(d, 2), .bytes = 64, .text = text, .text_bytes = bytes };
	int r;

	plan(&p);
	lock(d);
	d->inflight = t;
	unlock(d);
	struct op *op = op_begin(d->lane);
	do
		r = body(op, &p);
	while (op_again(op, &r));
	lsn_t lsn = d->lane->record->lsn;
	lock(d);
	if (r == 0)
		driver_acknowledge(d, t, lsn, true);
	d->inflight = NULL;
	unlock(d);
	op_end(op);
	if (r == 0) {
		tally.commits++;
		return 0;
	}
	int failed = fail_commit(d, t, r, text, bytes);
	txn_free(t);
	return failed;
}

// ---- other steps --------------------------------------------------------------------------------------

static int step_read(struct driver *d, char *text, size_t bytes)
{
	unsigned object = pick_object(d, true), dice = below(d, 10), pages = d->settings->pages;
	if (!d->model.object[object].id)
		return 0;
	tally.reads++;
	if (dice < 6) {
		unsigned first = below(d, pages), count = pick_count(d, pages - first);
		return model_compare_pages(&d->model, object, first, count, d->lane, below(d, 2), text, bytes);
	}
	if (dice < 8)
		return model_compare_items(&d->model, object, d->lane, text, bytes);
	return model_compare_seek(&d->model, object, below(d, pages), below(d, 2), d->lane, text, bytes);
}

int driver_sync(struct driver *d, char *text, size_t bytes)
{
	size_t before = d->txns;
	if (d->settings->faults && d->adversary && below(d, 3) == 0)
		adversary_fail(d->adversary, below(d, 3) ? 'w' : 'f', 1 + below(d, 3));
	int r = store_sync(d->store);
	if (d->settings->faults && r == -EIO)
		return 0;
	if (r) {
		snprintf(text, bytes, "store_sync: %s", strerror(-r));
		return 1;
	}
	tally.epochs++;
	lock(d);
	d->synced = before;
	unlock(d);
	return 0;
}

void driver_evict(struct driver *d, unsigned frames)
{
	struct store *s = d->store;
	grace_enter(&s->grace, d->lane->reader);
	evict_some(s, frames, true);
	grace_leave(d->lane->reader);
	frames_poll(s->tier);
}

void driver_reclaim(struct driver *d)
{
	struct store *s = d->store;
	grace_enter(&s->grace, d->lane->reader);
	reclaim_slice(s, true);
	grace_leave(d->lane->reader);
	frames_poll(s->tier);
}

// The threads of the store have nothing more to do, or soon will not.
static void settle(struct driver *d)
{
	struct store *s = d->store;
	for (unsigned i = 0; i < 200; i++) {
		pthread_mutex_lock(&s->epoch_lock);
		bool busy = s->attempts_wanted > s->attempts_finished;
		pthread_mutex_unlock(&s->epoch_lock);
		busy |= atomic_load(&s->chores_kicked) || ring_used(&s->tier->ring[0]) > s->tier->ring[0].bytes / 2;
		if (!busy && frames_free_count(s->tier) >= frames_low(s))
			return;
		usleep(50);
	}
}

int driver_step(struct driver *d, char *text, size_t bytes)
{
	unsigned dice = below(d, 100);
	int r = 0;
	if (dice < 66)
		r = step_commit(d, text, bytes);
	else if (dice < 84)
		r = step_read(d, text, bytes);
	else if (dice < 89)
		r = driver_sync(d, text, bytes);
	else if (dice < 95)
		driver_evict(d, 1 + below(d, 200));
	else
		driver_reclaim(d);
	if (d->settings->serial)
		settle(d);
	return r;
}
