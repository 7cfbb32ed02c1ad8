// SPDX-License-Identifier: GPL-2.0-or-later
// In the place of the store: operations that are over at once, on nothing.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store.h"

struct op {
	char scratch; // an op is only ever a pointer
};
struct lane {
	struct op op;
};

bool store_is_persistent(const struct store *store)
{
	return true;
}

int store_sync(struct store *store)
{
	return 0;
}

int store_scrub(struct store *store)
{
	return 0;
}

void store_scrub_stop(struct store *store)
{
}

void store_stats(struct store *store, struct vems_stats *ret_stats)
{
	memset(ret_stats, 0, sizeof *ret_stats);
}

void store_space(struct store *store, struct store_space *ret_space)
{
	*ret_space = (struct store_space){ .total = 1u << 28, .free = 1u << 28, .available = 1u << 28,
					   .free_soon = 1u << 28, .available_soon = 1u << 28 };
}

int lane_new(struct store *store, struct lane **ret_lane)
{
	*ret_lane = calloc(1, sizeof **ret_lane);
	return *ret_lane ? 0 : -ENOMEM;
}

void lane_free(struct lane *lane)
{
	free(lane);
}

void lane_interrupt(struct lane *lane, bool interrupted)
{
}

struct op *op_begin(struct lane *lane)
{
	return &lane->op;
}

bool op_again(struct op *op, int *result)
{
	return false;
}

bool op_try(struct op *op, int *result)
{
	return false;
}

bool op_wait(struct op *op, void (*ready)(void *arg), void *arg)
{
	return false;
}

void op_resume(struct op *op)
{
}

void lane_poll(struct lane *lane)
{
}

int lane_fd(const struct lane *lane)
{
	return -1;
}

void op_end(struct op *op)
{
}

bool op_missed(const struct op *op)
{
	return false;
}

unsigned store_keeps(const struct store *store)
{
	return 0;
}

bool op_keep(struct op *op, unsigned pages)
{
	return false;
}

bool op_lend(struct op *op)
{
	return true;
}

void op_lend_end(struct op *op)
{
}
