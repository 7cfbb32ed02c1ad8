// SPDX-License-Identifier: GPL-2.0-or-later
// Log rings. A record lies at a logical offset that only grows; its checksum is seeded with attach
// id, ring and offset, so that what an earlier lap left behind is never taken for a record.
#include "tier.h"
#include <assert.h>
#include <errno.h>
#include <string.h>
#include "hash.h"

bool ring_claim(struct ring *r, uint64_t bytes)
{
	pthread_mutex_lock(&r->lock);
	bool room = r->head + r->claimed + bytes <= atomic_load_explicit(&r->durable_tail, memory_order_acquire) + r->bytes;
	if (room)
		r->claimed += bytes;
	pthread_mutex_unlock(&r->lock);
	return room;
}

void ring_unclaim(struct ring *r, uint64_t bytes)
{
	pthread_mutex_lock(&r->lock);
	r->claimed -= bytes;
	pthread_mutex_unlock(&r->lock);
}

uint64_t ring_used(struct ring *r)
{
	return atomic_load_explicit(&r->visible_head, memory_order_relaxed) -
	       atomic_load_explicit(&r->durable_tail, memory_order_relaxed);
}

static uint64_t record_check(const struct tier *t, const struct ring *r, uint64_t offset, const struct record_disk *record)
{
	uint64_t seed = hash_mix(hash_mix(t->attach, r->number), offset);
	return hash_seeded((const uint8_t *)record + sizeof record->check, record->bytes - sizeof record->check, seed);
}

void ring_append(struct tier *t, struct ring *r, struct record_disk *record, uint64_t claimed)
{
	uint64_t at = r->head % r->bytes, first = record->bytes;

	assert(record->bytes % RECORD_ALIGN == 0 && record->bytes <= claimed);
	record->check = record_check(t, r, r->head, record);
	if (at + first > r->bytes)
		first = r->bytes - at;
	media_copy(t->media, r->base + at, record, first);
	if (first < record->bytes)
		media_copy(t->media, r->base, (uint8_t *)record + first, record->bytes - first);
	r->head += record->bytes;
	r->claimed -= claimed;
}

void ring_appended(struct ring *r)
{
	atomic_store_explicit(&r->visible_head, r->head, memory_order_release);
}

bool ring_holds(const struct tier *t, const struct ring *r, uint64_t offset, uint64_t bytes)
{
	uint64_t at = offset % r->bytes, first = at + bytes > r->bytes ? r->bytes - at : bytes;
	return media_holds(t->media, r->base + at, first) && (first == bytes || media_holds(t->media, r->base, bytes - first));
}

void ring_copy(const struct ring *r, uint64_t offset, void *buffer, uint64_t bytes)
{
	uint64_t at = offset % r->bytes, first = at + bytes > r->bytes ? r->bytes - at : bytes;
	memcpy(buffer, r->base + at, first);
	memcpy((uint8_t *)buffer + first, r->base, bytes - first);
}

int ring_read(const struct tier *t, const struct ring *r, uint64_t offset, void *buffer)
{
	uint64_t at = offset % r->bytes;
	const struct record_disk *in_place = (const void *)(r->base + at); // headers never wrap: all is 64-byte aligned
	struct record_disk *record = buffer;
	uint32_t bytes = in_place->bytes;

	if (bytes < sizeof *record || bytes % RECORD_ALIGN || bytes > RECORD_BYTES_MAX)
		return -ENODATA;
	ring_copy(r, offset, buffer, bytes);
	if (record->bytes != bytes || record->check != record_check(t, r, offset, record))
		return -ENODATA;
	return 0;
}

bool ring_search(const struct tier *t, const struct ring *r, uint64_t offset, lsn_t above, void *buffer,
		 uint64_t *ret_offset)
{
	for (uint64_t at = offset; at < offset + r->bytes; at += RECORD_ALIGN) {
		const struct record_disk *in_place = (const void *)(r->base + at % r->bytes);
		if (in_place->lsn <= above || in_place->lsn > LSN_MAX)
			continue;
		if (ring_read(t, r, at, buffer) == 0) {
			*ret_offset = at;
			return true;
		}
	}
	return false;
}

const struct switch_disk *record_switches(const struct record_disk *r)
{
	uint64_t need = sizeof *r + (uint64_t)r->switches * sizeof(struct switch_disk);
	return need <= r->bytes && r->switches <= RECORD_SWITCHES_MAX ? (const struct switch_disk *)(r + 1) : NULL;
}

// The caller counts to r->items.
const struct item_disk *record_item(const struct record_disk *r, const struct item_disk *previous)
{
	const uint8_t *end = (const uint8_t *)r + r->bytes, *at;
	if (previous) {
		at = (const uint8_t *)previous + ITEM_RECORD_BYTES(previous->bytes);
	} else {
		const struct switch_disk *s = record_switches(r);
		if (!s)
			return NULL;
		at = (const uint8_t *)(s + r->switches);
	}
	if (at + sizeof(struct item_disk) > end)
		return NULL;
	const struct item_disk *item = (const void *)at;
	return item->bytes <= ITEM_VALUE_MAX && at + ITEM_RECORD_BYTES(item->bytes) <= end ? item : NULL;
}
