// SPDX-License-Identifier: GPL-2.0-or-later
// What a store must hold: objects with pages and items, each with the stamp that its content is made
// of, and the transactions that led there.
#ifndef CRASH_MODEL_H
#define CRASH_MODEL_H

#include "store_impl.h"

#define MODEL_OBJECTS 5u
#define MODEL_PAGES 256u
#define MODEL_ITEMS 34u
#define MODEL_GONE 6u
#define SECTORS 8u

struct model_page {
	uint32_t stamp[SECTORS]; // 0: zero bytes
	bool there;              // no hole
};
struct model_item {
	uint32_t stamp; // 0: none
	uint16_t bytes;
};
struct model_object {
	object_t id; // 0: none
	struct model_page page[MODEL_PAGES];
	struct model_item item[MODEL_ITEMS];
};
struct model {
	struct model_object object[MODEL_OBJECTS];
	object_t gone[MODEL_GONE]; // dropped, the latest ones
	unsigned gones;
};

enum change_kind { CHANGE_CREATE, CHANGE_PAGE, CHANGE_ITEM, CHANGE_DROP, CHANGE_DROP_OBJECT };
struct change {
	enum change_kind kind;
	unsigned object, at, to; // slot; page or item; end of a range
	object_t id;
	struct model_page page;
	struct model_item item;
};
struct txn {
	lsn_t lsn;
	unsigned count, room;
	struct change *change;
};

struct change *txn_add(struct txn *t, enum change_kind kind, unsigned object);
void txn_free(struct txn *t);
void model_apply(struct model *m, const struct txn *t);

void page_fill(uint8_t *data, object_t id, page_t page, const struct model_page *p);
struct item_key model_key(object_t id, unsigned item);
void item_fill(uint8_t *value, object_t id, unsigned item, struct model_item i);

// Reads all of it through the lane. 0, or 1 with what differs first in text. Objects of `other` that m
// does not have must be empty.
int model_compare(const struct model *m, const struct model *other, struct lane *lane, bool verify, char *text, size_t bytes);
int model_compare_pages(const struct model *m, unsigned object, unsigned first, unsigned count, struct lane *lane, bool verify,
			char *text, size_t bytes);
int model_compare_items(const struct model *m, unsigned object, struct lane *lane, char *text, size_t bytes);
int model_compare_seek(const struct model *m, unsigned object, unsigned from, bool data, struct lane *lane, char *text,
		       size_t bytes);

#endif
