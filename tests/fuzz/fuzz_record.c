// SPDX-License-Identifier: GPL-2.0-or-later
// Arbitrary bytes as log records, under a right checksum, at the head of a ring of a pair that a crash
// has left; then recovery. Now and then the pair is used, too.
#include <string.h>
#include "pair.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum how { HOW_ITEM_RING = 1, HOW_RAW_LSN = 2, HOW_RAW_BYTES = 4, HOW_LAST = 8 };

static struct fuzz_pair clean, dirty;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_pair_make(&clean, &dirty);
	return 0;
}

// A small number is more often right than a large one.
static void append(struct fuzz_pair *p, struct input *in)
{
	static _Alignas(64) uint8_t buffer[RECORD_BYTES_MAX];
	struct record_disk *r = (struct record_disk *)buffer;
	unsigned how = (unsigned)input_take(in, 1);
	size_t bytes = how & HOW_LAST ? in->left : 8 * input_take(in, 1);
	memset(buffer, 0, bytes + 64 < sizeof buffer ? bytes + 64 : sizeof buffer);
	bytes = input_bytes(in, (uint8_t *)&r->lsn, bytes < sizeof buffer - 8 ? bytes : sizeof buffer - 8) + 8;
	if (!(how & HOW_RAW_LSN))
		r->lsn = 0;
	if (!(how & HOW_RAW_BYTES) || r->bytes > RECORD_BYTES_MAX || r->bytes < sizeof *r)
		r->bytes = (uint32_t)((bytes + 63) & ~(size_t)63);
	fuzz_append_record(p, how & HOW_ITEM_RING ? p->geometry.rings : 0, r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct input in = { data, bytes };
	unsigned use = (unsigned)input_take(&in, 1);
	struct fuzz_pair *p = &dirty, saved;
	struct store_config config = { .read_only = use & 1 };
	struct store *s;
	memcpy(&saved, p, sizeof saved);
	while (in.left)
		append(p, &in);
	if (use % 32 >= 30)
		fuzz_use(p, &config, true, true);
	else if (fuzz_pair_open(p, &config, &s) == 0)
		store_abandon(s);
	memcpy(p, &saved, sizeof saved);
	fuzz_pair_restore(p);
	return 0;
}
