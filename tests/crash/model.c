// SPDX-License-Identifier: GPL-2.0-or-later
#include "model.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- content ------------------------------------------------------------------------------------

void page_fill(uint8_t *data, object_t id, page_t page, const struct model_page *p)
{
	uint64_t *word = (uint64_t *)data;
	for (unsigned s = 0; s < SECTORS; s++) {
		uint64_t base = hash_mix((uint64_t)p->stamp[s] << 8 | s, hash_mix(id, page));
		for (unsigned i = 0; i < 64; i++, base += UINT64_C(0x9e3779b97f4a7c15))
			*word++ = p->stamp[s] == 0 ? 0 : i == 0 ? p->stamp[s] : base;
	}
}

struct item_key model_key(object_t id, unsigned item)
{
	if (item == 0)
		return item_key(id, ITEM_INODE, 0);
	return item_key(id, item & 1 ? ITEM_DIRENT : ITEM_XATTR, hash_mix(item, 0) & ITEM_REST_MAX);
}

void item_fill(uint8_t *value, object_t id, unsigned item, struct model_item i)
{
	uint64_t base = hash_mix((uint64_t)i.stamp << 8 | item, id);
	for (unsigned at = 0; at < i.bytes; at++)
		value[at] = (uint8_t)(base >> (at % 8 * 8)) ^ (uint8_t)(at >> 3);
	memcpy(value, &i.stamp, sizeof i.stamp);
}

// ---- transactions -----------------------------------------------------------------------------------

struct change *txn_add(struct txn *t, enum change_kind kind, unsigned object)
{
	if (t->count == t->room) {
		t->room = t->room ? 2 * t->room : 8;
		t->change = realloc(t->change, t->room * sizeof *t->change);
		assert(t->change);
	}
	struct change *c = &t->change[t->count++];
	memset(c, 0, sizeof *c);
	c->kind = kind;
	c->object = object;
	return c;
}

void txn_free(struct txn *t)
{
	free(t->change);
	free(t);
}

void model_apply(struct model *m, const struct txn *t)
{
	for (unsigned i = 0; i < t->count; i++) {
		const struct change *c = &t->change[i];
		struct model_object *o = &m->object[c->object];
		switch (c->kind) {
		case CHANGE_CREATE:
			memset(o, 0, sizeof *o);
			o->id = c->id;
			break;
		case CHANGE_PAGE:
			o->page[c->at] = c->page;
			break;
		case CHANGE_ITEM:
			o->item[c->at] = c->item;
			break;
		case CHANGE_DROP:
			memset(&o->page[c->at], 0, (c->to - c->at) * sizeof o->page[0]);
			break;
		case CHANGE_DROP_OBJECT:
			m->gone[m->gones++ % MODEL_GONE] = o->id;
			memset(o, 0, sizeof *o);
			break;
		}
	}
}

// ---- comparison -----------------------------------------------------------------------------------

static int page_differs(const struct page_view *v, object_t id, page_t page, const struct model_page *p, char *text, size_t bytes)
{
	static const uint8_t zero[PAGE_BYTES];
	_Alignas(8) uint8_t want[PAGE_BYTES];
	const uint8_t *got = v->data ? v->data : zero;

	page_fill(want, id, page, p);
	if (memcmp(want, got, PAGE_BYTES) == 0)
		return 0;
	for (unsigned s = 0; s < SECTORS; s++) {
		uint64_t found;
		memcpy(&found, got + s * 512, sizeof found);
		if (memcmp(want + s * 512, got + s * 512, 512) == 0)
			continue;
		struct model_page of = { .stamp = { 0 } };
		for (unsigned k = 0; k < SECTORS; k++)
			of.stamp[k] = (uint32_t)found;
		uint8_t *scratch = malloc(PAGE_BYTES);
		page_fill(scratch, id, page, &of);
		bool whole = found <= UINT32_MAX && memcmp(scratch + s * 512, got + s * 512, 512) == 0;
		free(scratch);
		snprintf(text, bytes, "object %llu page %llu sector %u: expected stamp %u, found %s %llu%s", (unsigned long long)id,
			 (unsigned long long)page, s, p->stamp[s], whole ? "stamp" : "something else, first word",
			 (unsigned long long)found, v->data ? "" : " (a hole)");
		return 1;
	}
	return 0;
}

static int read_pages(struct lane *lane, object_t id, const struct model_page *page, unsigned first, unsigned count, bool verify,
		      char *text, size_t bytes)
{
	struct page_view view[MODEL_PAGES];
	struct op *op = op_begin(lane);
	int r, differs;
	do {
		differs = 0;
		r = op_watch(op, id);
		if (!r)
			r = op_read(op, id, first, count, verify, view);
		for (unsigned i = 0; !r && !differs && i < count; i++)
			differs = page_differs(&view[i], id, first + i, &page[i], text, bytes);
	} while (op_again(op, &r));
	op_end(op);
	if (!r)
		return differs;
	snprintf(text, bytes, "object %llu pages %u+%u: %s", (unsigned long long)id, first, count, strerror(-r));
	return 1;
}

int model_compare_pages(const struct model *m, unsigned object, unsigned first, unsigned count, struct lane *lane, bool verify,
			char *text, size_t bytes)
{
	const struct model_object *o = &m->object[object];
	return read_pages(lane, o->id, &o->page[first], first, count, verify, text, bytes);
}

struct scan {
	object_t id;
	const struct model_item *item;
	bool seen[MODEL_ITEMS];
	bool differs;
	struct item_key last;
	char *text;
	size_t bytes;
};

static int scan_one(void *arg, struct item_key key, const void *value, size_t bytes)
{
	struct scan *s = arg;
	uint8_t want[ITEM_VALUE_MAX];
	if (item_key_type(key) == ITEM_EXTENT || item_key_type(key) == ITEM_DROP)
		return 0;
	for (unsigned i = 0; i < MODEL_ITEMS; i++) {
		if (!item_key_equal(key, model_key(s->id, i)))
			continue;
		struct model_item m = s->item[i];
		item_fill(want, s->id, i, m);
		uint32_t stamp;
		memcpy(&stamp, value, sizeof stamp);
		if (m.stamp == 0 || bytes != m.bytes || memcmp(want, value, bytes) != 0 || s->seen[i]) {
			snprintf(s->text, s->bytes, "object %llu item %u: expected stamp %u of %u bytes, found %u of %zu%s",
				 (unsigned long long)s->id, i, m.stamp, m.bytes, stamp, bytes, s->seen[i] ? " (twice)" : "");
			s->differs = true;
		}
		s->seen[i] = true;
		return 0;
	}
	snprintf(s->text, s->bytes, "object %llu: foreign item %016llx", (unsigned long long)s->id, (unsigned long long)key.sub);
	s->differs = true;
	return 0;
}

static int read_items(struct lane *lane, object_t id, const struct model_item *item, char *text, size_t bytes)
{
	struct op *op = op_begin(lane);
	struct scan s;
	int r;
	do {
		uint8_t value[ITEM_VALUE_MAX];
		s = (struct scan){ .id = id, .item = item, .text = text, .bytes = bytes };
		r = op_watch(op, id);
		if (!r)
			r = op_scan(op, item_key(id, ITEM_INODE, 0), item_key(id, ITEM_ORPHAN, 0), scan_one, &s);
		for (unsigned i = 0; !r && !s.differs && i < MODEL_ITEMS; i++)
			if (item[i].stamp && !s.seen[i]) {
				snprintf(text, bytes, "object %llu item %u: expected stamp %u, found none in the scan", (unsigned long long)id, i,
					 item[i].stamp);
				s.differs = true;
			}
		for (unsigned i = 0; r == 0 && !s.differs && i < 3; i++) {
			int got = op_get(op, model_key(id, i), value, sizeof value);
			int want = item[i].stamp ? item[i].bytes : -ENOENT;
			if (got == -ERESTART) {
				r = got;
			} else if (got != want) {
				snprintf(text, bytes, "object %llu item %u: expected %d, op_get says %d", (unsigned long long)id, i, want, got);
				s.differs = true;
			}
		}
	} while (op_again(op, &r));
	op_end(op);
	if (!r)
		return s.differs;
	snprintf(text, bytes, "object %llu items: %s", (unsigned long long)id, strerror(-r));
	return 1;
}

int model_compare_items(const struct model *m, unsigned object, struct lane *lane, char *text, size_t bytes)
{
	return read_items(lane, m->object[object].id, m->object[object].item, text, bytes);
}

int model_compare_seek(const struct model *m, unsigned object, unsigned from, bool data, struct lane *lane, char *text,
		       size_t bytes)
{
	const struct model_object *o = &m->object[object];
	page_t want = from, found = 0;
	struct op *op = op_begin(lane);
	int r;
	while (want < MODEL_PAGES && o->page[want].there != data)
		want++;
	do {
		r = op_watch(op, o->id);
		if (!r)
			r = op_seek(op, o->id, from, MODEL_PAGES, data, &found);
	} while (op_again(op, &r));
	op_end(op);
	if (r == 0 && found == want)
		return 0;
	snprintf(text, bytes, "object %llu: %s from page %u expected at %llu, found at %llu (%s)", (unsigned long long)o->id,
		 data ? "data" : "hole", from, (unsigned long long)want, (unsigned long long)found, r ? strerror(-r) : "no error");
	return 1;
}

static int compare_empty(object_t id, struct lane *lane, char *text, size_t bytes)
{
	static const struct model_object empty;
	int r = read_pages(lane, id, empty.page, 0, MODEL_PAGES, false, text, bytes);
	return r ? r : read_items(lane, id, empty.item, text, bytes);
}

static bool has_object(const struct model *m, object_t id)
{
	for (unsigned i = 0; i < MODEL_OBJECTS; i++)
		if (m->object[i].id == id)
			return true;
	return false;
}

int model_compare(const struct model *m, const struct model *other, struct lane *lane, bool verify, char *text, size_t bytes)
{
	int r = 0;
	for (unsigned i = 0; !r && i < MODEL_OBJECTS; i++) {
		object_t id = m->object[i].id, theirs = other ? other->object[i].id : 0;
		if (id)
			r = model_compare_pages(m, i, 0, MODEL_PAGES, lane, verify, text, bytes);
		if (id && !r)
			r = model_compare_items(m, i, lane, text, bytes);
		if (!r && theirs && !has_object(m, theirs))
			r = compare_empty(theirs, lane, text, bytes);
	}
	for (unsigned i = 0; !r && i < MODEL_GONE && i < m->gones; i++)
		r = compare_empty(m->gone[i], lane, text, bytes);
	return r;
}
