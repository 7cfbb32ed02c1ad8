// SPDX-License-Identifier: GPL-2.0-or-later
// store.h in plain memory: sorted arrays of items and pages, one version for each object and page.
// It holds its caller to the contract (by assertion), hands out copies that are gone with the
// operation, and fails where it is told to.
#ifndef TESTS_FAKE_STORE_H
#define TESTS_FAKE_STORE_H

#include <stdio.h>
#include "store.h"

struct fake_item {
	struct item_key key;
	unsigned bytes;
	_Alignas(8) uint8_t value[ITEM_VALUE_MAX];
};
struct fake_page {
	object_t object;
	page_t page;
	uint32_t version;
	uint8_t data[PAGE_BYTES];
};
struct fake_version {
	object_t object;
	uint32_t version;
};

struct store {
	struct fake_item *item;
	struct fake_page *page;
	struct fake_version *version;
	unsigned items, pages, versions;
	uint32_t clock;
	object_t next_object;

	// Set by tests at will.
	bool read_only;
	uint64_t available; // blocks; 0: commits that may not use the reserve get -ENOSPC
	bool forgetful;     // op_page_known() knows nothing
	unsigned fail_at;   // the call on an op, from 1, that returns fail_error; 0: none
	int fail_error;
	void (*meanwhile)(void *arg); // what others do, once: before the next commit,
	void *meanwhile_arg;
	unsigned meanwhile_at; // or, if not 0, before this call on an op

	// To be looked at.
	unsigned calls, commits, restarts, scanned;
	uint64_t incompat; // what commits needed
};

struct store *fake_store_new(void);
void fake_store_free(struct store *store);
// All but the times of inodes, as text; the caller frees it.
char *fake_store_dump(const struct store *store);
const struct fake_item *fake_store_item(const struct store *store, struct item_key key); // NULL: none
const struct fake_page *fake_store_page(const struct store *store, object_t object, page_t page);

#endif
