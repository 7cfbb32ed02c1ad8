// SPDX-License-Identifier: GPL-2.0-or-later
// What a run would spend most of its time in, and does not test, is replaced by something quicker (ld --wrap).
#ifndef FUZZ_QUICK_H
#define FUZZ_QUICK_H

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#define CHECK(condition)                                                            \
	do {                                                                        \
		if (!(condition)) {                                                 \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			_exit(99);                                                  \
		}                                                                   \
	} while (0)

// The memory that I/O to the backing goes to.
void quick_backing(uint8_t *base, uint64_t bytes);
// Memory that stays mapped when it is unmapped, and faults from then on.
void quick_tier(uint8_t *base);

// AddressSanitizer's options: freed memory is soon used again.
#define QUICK_ASAN "quarantine_size_mb=8:thread_local_quarantine_size_kb=256:malloc_context_size=8"

#endif
