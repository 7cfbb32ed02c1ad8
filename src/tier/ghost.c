// SPDX-License-Identifier: GPL-2.0-or-later
#include "ghost.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "hash.h"

#define WAYS 16u
#define STAMPS 256u // in the time that capacity pages take

// Stamps wrap after 2^16 steps: 256 times the capacity. Each set is written over long before.
static uint16_t stamp_now(const struct ghost *g)
{
	return (uint16_t)(g->added / g->step);
}

static uint16_t stamp_age(const struct ghost *g, uint32_t entry)
{
	return (uint16_t)(stamp_now(g) - (uint16_t)entry);
}

static uint32_t *set_of(const struct ghost *g, object_t object, page_t page, uint16_t *ret_print)
{
	uint64_t hash = hash_mix(page, object ^ UINT64_C(0x67686f7374));
	*ret_print = (uint16_t)hash ? (uint16_t)hash : 1;
	return g->entry + (hash >> 32) * g->sets / (UINT64_C(1) << 32) * WAYS;
}

int ghost_init(struct ghost *g, uint32_t capacity)
{
	// An eighth more than is to be remembered: sets fill unevenly.
	uint32_t sets = (uint32_t)((uint64_t)capacity * 9 / 8 / WAYS) + 1;
	*g = (struct ghost){ .sets = sets, .capacity = capacity, .step = capacity / STAMPS + 1 };
	g->entry = aligned_alloc(64, (size_t)sets * WAYS * sizeof *g->entry);
	if (!g->entry)
		return -ENOMEM;
	memset(g->entry, 0, (size_t)sets * WAYS * sizeof *g->entry);
	return 0;
}

void ghost_fini(struct ghost *g)
{
	free(g->entry);
	g->entry = NULL;
}

void ghost_add(struct ghost *g, object_t object, page_t page)
{
	uint16_t print;
	uint32_t *set = set_of(g, object, page, &print), *oldest = set;

	for (unsigned i = 0; i < WAYS; i++) {
		if (set[i] == 0 || set[i] >> 16 == print) {
			oldest = &set[i];
			break;
		}
		if (stamp_age(g, set[i]) > stamp_age(g, *oldest))
			oldest = &set[i];
	}
	*oldest = (uint32_t)print << 16 | stamp_now(g);
	g->added++;
}

bool ghost_take(struct ghost *g, object_t object, page_t page, uint64_t *ret_age)
{
	uint16_t print;
	uint32_t *set = set_of(g, object, page, &print);

	for (unsigned i = 0; i < WAYS; i++) {
		if (set[i] >> 16 != print)
			continue;
		uint64_t age = (uint64_t)stamp_age(g, set[i]) * g->step;
		set[i] = 0;
		if (age > g->capacity)
			return false;
		*ret_age = age;
		return true;
	}
	return false;
}
