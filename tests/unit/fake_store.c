// SPDX-License-Identifier: GPL-2.0-or-later
#include "fake_store.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "hash.h"

// As the store has them.
#define WATCHES_MAX 64u
#define ITEMS_MAX 80u
#define DROPS_MAX 8u
#define COUNT_AT_ONCE 3u

enum change_kind { CHANGE_PUT, CHANGE_DELETE, CHANGE_UPDATE };
struct change {
	enum change_kind kind;
	struct item_key key;
	unsigned bytes;
	_Alignas(8) uint8_t value[ITEM_VALUE_MAX];
	txn_merge_fn merge;
	void *arg;
};
struct new_page {
	object_t object;
	page_t page;
	bool has_base;
	uint32_t base;
	uint8_t data[PAGE_BYTES];
};
struct drop {
	object_t object;
	page_t from, to;
	bool whole;
};
struct held { // memory lent to the caller
	struct held *next;
	_Alignas(16) uint8_t data[];
};

struct op {
	struct store *store;
	bool running, scanning, broken, restart, committed, disturbed;
	object_t first_object; // store->next_object when the run began

	struct fake_version watch[WATCHES_MAX];
	struct change change[ITEMS_MAX];
	struct new_page *page[OP_PAGES_MAX];
	struct drop drop[DROPS_MAX];
	unsigned watches, changes, pages, drops;
	bool claimed;
	object_t claim_object;
	page_t claim_first, claim_other; // claim_other: of two, else the first
	unsigned claim_count;
	struct held *held;
	void *scratch[4];
};
struct lane {
	struct op op;
};

// ---- content ------------------------------------------------------------------------------------

struct store *fake_store_new(void)
{
	struct store *s = calloc(1, sizeof *s);

	assert(s);
	s->next_object = OBJECT_FIRST;
	s->available = 1u << 20;
	return s;
}

void fake_store_free(struct store *s)
{
	free(s->item);
	free(s->page);
	free(s->version);
	free(s);
}

static void *insert(void *array, unsigned *count, unsigned at, size_t bytes)
{
	uint8_t *p = realloc(array, (*count + 1) * bytes);

	assert(p);
	memmove(p + (at + 1) * bytes, p + at * bytes, (*count - at) * bytes);
	++*count;
	return p;
}

static void erase(void *array, unsigned *count, unsigned at, size_t bytes)
{
	uint8_t *p = array;

	--*count;
	memmove(p + at * bytes, p + (at + 1) * bytes, (*count - at) * bytes);
}

static unsigned item_at(const struct store *s, struct item_key key) // the first >= key
{
	unsigned low = 0, high = s->items;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (item_key_compare(s->item[middle].key, key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct fake_item *fake_store_item(const struct store *s, struct item_key key)
{
	unsigned at = item_at(s, key);

	return at < s->items && item_key_equal(s->item[at].key, key) ? &s->item[at] : NULL;
}

static unsigned page_at(const struct store *s, object_t object, page_t page)
{
	unsigned at = 0;

	while (at < s->pages &&
	       (s->page[at].object < object || (s->page[at].object == object && s->page[at].page < page)))
		at++;
	return at;
}

const struct fake_page *fake_store_page(const struct store *s, object_t object, page_t page)
{
	unsigned at = page_at(s, object, page);

	return at < s->pages && s->page[at].object == object && s->page[at].page == page ? &s->page[at] : NULL;
}

static uint32_t *object_version(struct store *s, object_t object)
{
	for (unsigned i = 0; i < s->versions; i++)
		if (s->version[i].object == object)
			return &s->version[i].version;
	s->version = insert(s->version, &s->versions, s->versions, sizeof *s->version);
	s->version[s->versions - 1] = (struct fake_version){ object, 0 };
	return &s->version[s->versions - 1].version;
}

char *fake_store_dump(const struct store *s)
{
	char *text;
	size_t bytes;
	FILE *f = open_memstream(&text, &bytes);

	assert(f);
	for (unsigned i = 0; i < s->items; i++) {
		struct fake_item item = s->item[i];

		if (item_key_type(item.key) == ITEM_INODE)
			memset(item.value + offsetof(struct inode_disk, atime), 0, 4 * sizeof(struct time_disk));
		fprintf(f, "%" PRIu64 " %016" PRIx64 ":", item.key.object, item.key.sub);
		for (unsigned b = 0; b < item.bytes; b++)
			fprintf(f, " %02x", item.value[b]);
		fprintf(f, "\n");
	}
	for (unsigned i = 0; i < s->pages; i++)
		fprintf(f, "%" PRIu64 " page %" PRIu64 ": %016" PRIx64 "\n", s->page[i].object, s->page[i].page,
			hash_bytes(s->page[i].data, PAGE_BYTES));
	fclose(f);
	return text;
}

// ---- the store ----------------------------------------------------------------------------------

bool store_read_only(const struct store *s)
{
	return s->read_only;
}

void store_space(struct store *s, struct store_space *ret_space)
{
	*ret_space = (struct store_space){ .total = 1u << 20, .free = s->available + 1024, .available = s->available };
}

object_t store_new_object(struct store *s)
{
	return s->next_object++;
}

int lane_new(struct store *s, struct lane **ret_lane)
{
	struct lane *lane = calloc(1, sizeof *lane);

	assert(lane);
	lane->op.store = s;
	*ret_lane = lane;
	return 0;
}

void lane_free(struct lane *lane)
{
	assert(!lane->op.running);
	free(lane);
}

void lane_be_impatient(struct lane *lane)
{
}

// ---- operations ---------------------------------------------------------------------------------

static void *hold(struct op *op, size_t bytes)
{
	struct held *held = calloc(1, sizeof *held + bytes);

	assert(held);
	held->next = op->held;
	op->held = held;
	return held->data;
}

static void reset(struct op *op)
{
	struct store *s = op->store;

	while (op->held) {
		struct held *next = op->held->next;

		free(op->held);
		op->held = next;
	}
	*op = (struct op){ .store = s, .running = true, .first_object = s->next_object };
}

struct op *op_begin(struct lane *lane)
{
	assert(!lane->op.running);
	reset(&lane->op);
	return &lane->op;
}

void op_end(struct op *op)
{
	assert(op->running);
	reset(op);
	op->running = false;
}

static bool stale(struct op *op)
{
	for (unsigned i = 0; i < op->watches; i++)
		if (*object_version(op->store, op->watch[i].object) != op->watch[i].version)
			return true;
	return false;
}

bool op_again(struct op *op, int *result)
{
	struct store *s = op->store;

	assert(op->running && (*result != -ERESTART || op->restart));
	if (op->committed) {
		assert(*result >= 0);
		return false;
	}
	if (*result != -ERESTART && !stale(op))
		return false;
	s->restarts++;
	if (!op->disturbed)
		s->next_object = op->first_object; // so that the ids are those of a run without restarts
	reset(op);
	return true;
}

bool op_try(struct op *op, int *result)
{
	return op_again(op, result);
}

static void run_others(struct op *op)
{
	struct store *s = op->store;
	void (*others)(void *arg) = s->meanwhile;

	s->meanwhile = NULL;
	s->meanwhile_at = 0;
	if (others) {
		op->disturbed = true;
		others(s->meanwhile_arg);
	}
}

// After an error nothing more is asked of an op, and nothing after its commit.
static int enter_reading(struct op *op)
{
	struct store *s = op->store;

	assert(op->running && !op->broken && !op->committed);
	if (s->meanwhile_at && s->calls + 1 == s->meanwhile_at)
		run_others(op);
	if (++s->calls != s->fail_at)
		return 0;
	op->broken = true;
	op->restart = s->fail_error == -ERESTART;
	return s->fail_error;
}

static int enter(struct op *op)
{
	assert(!op->scanning);
	return enter_reading(op);
}

static int restart(struct op *op)
{
	op->broken = op->restart = true;
	return -ERESTART;
}

int op_watch(struct op *op, object_t object)
{
	int r = enter(op);

	assert(op->watches < WATCHES_MAX);
	if (!r)
		op->watch[op->watches++] = (struct fake_version){ object, *object_version(op->store, object) };
	return r;
}

int op_get(struct op *op, struct item_key key, void *value, size_t cap)
{
	const struct fake_item *item;
	int r = enter_reading(op);

	if (r)
		return r;
	item = fake_store_item(op->store, key);
	if (!item)
		return -ENOENT;
	memcpy(value, item->value, item->bytes < cap ? item->bytes : cap);
	return (int)item->bytes;
}

int op_scan(struct op *op, struct item_key from, struct item_key last, op_scan_fn fn, void *arg)
{
	struct store *s = op->store;
	int r = enter(op);

	assert(from.object == last.object && item_key_compare(from, last) <= 0);
	op->scanning = true;
	for (unsigned i; !r && (i = item_at(s, from)) < s->items && item_key_compare(s->item[i].key, last) <= 0;) {
		void *copy = malloc(s->item[i].bytes);

		memcpy(copy, s->item[i].value, s->item[i].bytes);
		s->scanned++;
		from = (struct item_key){ s->item[i].key.object, s->item[i].key.sub + 1 };
		r = fn(arg, s->item[i].key, copy, s->item[i].bytes);
		free(copy);
	}
	op->scanning = false;
	return r;
}

int op_read(struct op *op, object_t object, page_t first, unsigned count, bool verify, struct page_view *ret_views)
{
	int r = enter(op);

	assert(count && count <= OP_PAGES_MAX && first + count - 1 <= PAGE_MAX);
	for (unsigned i = 0; !r && i < count; i++) {
		const struct fake_page *page = fake_store_page(op->store, object, first + i);

		ret_views[i] = (struct page_view){ .version = page ? page->version : 0 };
		if (page)
			ret_views[i].data = memcpy(hold(op, PAGE_BYTES), page->data, PAGE_BYTES);
	}
	return r;
}

int op_seek(struct op *op, object_t object, page_t from, page_t limit, bool data, page_t *ret_page)
{
	int r = enter(op);

	assert(from <= limit);
	if (r)
		return r;
	while (from < limit && !!fake_store_page(op->store, object, from) != data)
		from++;
	*ret_page = from;
	return 0;
}

int op_page_known(struct op *op, object_t object, page_t page)
{
	return op->store->forgetful ? -EAGAIN : !!fake_store_page(op->store, object, page);
}

int op_count(struct op *op, object_t object, page_t from, uint64_t *ret_pages, page_t *ret_next)
{
	unsigned at = page_at(op->store, object, from), end = page_at(op->store, object, PAGE_MAX + 1);
	int r = enter(op);

	if (r)
		return r;
	*ret_next = PAGE_MAX + 1;
	if (end - at > COUNT_AT_ONCE) {
		end = at + COUNT_AT_ONCE;
		*ret_next = op->store->page[end].page;
	}
	*ret_pages = end - at;
	return 0;
}

void *op_scratch(struct op *op, unsigned i)
{
	assert(i < 4);
	if (!op->scratch[i])
		op->scratch[i] = hold(op, PAGE_BYTES);
	return op->scratch[i];
}

// ---- transactions -------------------------------------------------------------------------------

int txn_claim(struct op *op, object_t object, page_t first, unsigned count)
{
	assert(!op->claimed && !op->changes && !op->pages && !op->drops && count && count <= OP_PAGES_MAX);
	op->claimed = true;
	op->claim_object = object;
	op->claim_first = op->claim_other = first;
	op->claim_count = count;
	return enter(op);
}

int txn_claim_two(struct op *op, object_t object, page_t one, page_t other)
{
	int r = txn_claim(op, object, one, 1);

	op->claim_other = other;
	return r;
}

int txn_page(struct op *op, object_t object, page_t page, const void *data, const struct page_view *base)
{
	struct new_page *p;

	assert(op->claimed && object == op->claim_object && op->pages < OP_PAGES_MAX &&
	       (page == op->claim_other || (page >= op->claim_first && page - op->claim_first < op->claim_count)));
	for (unsigned i = 0; i < op->pages; i++)
		assert(op->page[i]->page != page);
	p = op->page[op->pages++] = hold(op, sizeof *p);
	p->object = object;
	p->page = page;
	p->has_base = base;
	p->base = base ? base->version : 0;
	memcpy(p->data, data, PAGE_BYTES);
	return enter(op);
}

static int add_change(struct op *op, enum change_kind kind, struct item_key key, const void *value, size_t bytes,
		      txn_merge_fn merge, void *arg)
{
	struct change *c = &op->change[op->changes++];

	assert(op->changes <= ITEMS_MAX && bytes <= ITEM_VALUE_MAX);
	for (unsigned i = 0; i + 1 < op->changes; i++)
		assert(!item_key_equal(op->change[i].key, key));
	*c = (struct change){ .kind = kind, .key = key, .bytes = (unsigned)bytes, .merge = merge, .arg = arg };
	memcpy(c->value, value, bytes);
	return enter(op);
}

int txn_put(struct op *op, struct item_key key, const void *value, size_t bytes)
{
	return add_change(op, CHANGE_PUT, key, value, bytes, NULL, NULL);
}

int txn_delete(struct op *op, struct item_key key)
{
	return add_change(op, CHANGE_DELETE, key, "", 0, NULL, NULL);
}

int txn_update(struct op *op, struct item_key key, const void *seen, size_t bytes, txn_merge_fn merge, void *arg)
{
	return add_change(op, CHANGE_UPDATE, key, seen, bytes, merge, arg);
}

static int add_drop(struct op *op, struct drop drop)
{
	assert(op->drops < DROPS_MAX && drop.from < drop.to);
	for (unsigned i = 0; i < op->pages; i++)
		assert(op->page[i]->object != drop.object || op->page[i]->page < drop.from ||
		       op->page[i]->page >= drop.to);
	op->drop[op->drops++] = drop;
	return enter(op);
}

int txn_room(struct op *op, uint64_t pages)
{
	return pages > op->store->available ? -ENOSPC : enter(op);
}

int txn_needs_format(struct op *op, uint64_t incompat)
{
	int r = enter(op);

	if (!r)
		op->store->incompat |= incompat;
	return r;
}

void txn_gives_back(struct op *op, uint64_t pages)
{
	(void)op, (void)pages;
}

int txn_drop(struct op *op, object_t object, page_t from, page_t to)
{
	return add_drop(op, (struct drop){ object, from, to, false });
}

int txn_drop_object(struct op *op, object_t object)
{
	return add_drop(op, (struct drop){ object, 0, PAGE_MAX + 1, true });
}

static void apply_drop(struct store *s, const struct drop *d)
{
	unsigned at = page_at(s, d->object, d->from);

	while (at < s->pages && s->page[at].object == d->object && s->page[at].page < d->to)
		erase(s->page, &s->pages, at, sizeof *s->page);
	at = item_at(s, item_key(d->object, 0, 0));
	while (d->whole && at < s->items && s->item[at].key.object == d->object)
		erase(s->item, &s->items, at, sizeof *s->item);
	*object_version(s, d->object) = s->clock;
}

static void apply_page(struct store *s, const struct new_page *p)
{
	unsigned at = page_at(s, p->object, p->page);

	if (!fake_store_page(s, p->object, p->page)) {
		s->page = insert(s->page, &s->pages, at, sizeof *s->page);
		s->page[at].object = p->object;
		s->page[at].page = p->page;
	}
	s->page[at].version = s->clock;
	memcpy(s->page[at].data, p->data, PAGE_BYTES);
	*object_version(s, p->object) = s->clock;
}

static void apply_change(struct store *s, const struct change *c)
{
	unsigned at = item_at(s, c->key);
	bool there = fake_store_item(s, c->key);

	*object_version(s, c->key.object) = s->clock;
	if (c->kind == CHANGE_DELETE) {
		assert(there);
		erase(s->item, &s->items, at, sizeof *s->item);
		return;
	}
	if (!there) {
		s->item = insert(s->item, &s->items, at, sizeof *s->item);
		s->item[at].key = c->key;
	}
	s->item[at].bytes = c->bytes;
	memcpy(s->item[at].value, c->value, c->bytes);
}

static bool bases_hold(struct op *op)
{
	for (unsigned i = 0; i < op->pages; i++) {
		const struct new_page *p = op->page[i];
		const struct fake_page *now = fake_store_page(op->store, p->object, p->page);

		if (p->has_base && p->base != (now ? now->version : 0))
			return false;
	}
	return true;
}

int txn_commit(struct op *op, bool may_use_reserve)
{
	struct store *s = op->store;
	int r = enter(op);

	if (r)
		return r;
	if (!s->meanwhile_at)
		run_others(op);
	if (stale(op) || !bases_hold(op))
		return restart(op);
	for (unsigned i = 0; i < op->changes; i++)
		if (op->change[i].kind == CHANGE_UPDATE && !fake_store_item(s, op->change[i].key))
			r = -ESTALE;
	if (s->read_only)
		r = -EROFS;
	else if (!s->available && !may_use_reserve)
		r = -ENOSPC;
	if (r) {
		op->broken = true;
		return r;
	}
	s->clock++;
	s->commits++;
	for (unsigned i = 0; i < op->changes; i++) // before the pages are switched
		if (op->change[i].kind == CHANGE_UPDATE) {
			op->change[i].merge(s->item[item_at(s, op->change[i].key)].value, op->change[i].arg);
			*object_version(s, op->change[i].key.object) = s->clock;
		}
	for (unsigned i = 0; i < op->drops; i++)
		apply_drop(s, &op->drop[i]);
	for (unsigned i = 0; i < op->pages; i++)
		apply_page(s, op->page[i]);
	for (unsigned i = 0; i < op->changes; i++)
		if (op->change[i].kind != CHANGE_UPDATE)
			apply_change(s, &op->change[i]);
	op->committed = true;
	return 0;
}
