// SPDX-License-Identifier: GPL-2.0-or-later
#include "hash.h"
#if HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h> // AVX2 and wider where the processor has it: of 4 KiB, 2.5 times as fast
#else
#include <xxhash.h>
#endif

uint64_t hash_bytes(const void *data, size_t bytes)
{
	return XXH3_64bits(data, bytes);
}

uint64_t hash_seeded(const void *data, size_t bytes, uint64_t seed)
{
	return XXH3_64bits_withSeed(data, bytes, seed);
}

uint8_t crc8(const void *data, size_t bytes)
{
	const uint8_t *p = data;
	uint8_t crc = 0;
	while (bytes--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = (uint8_t)(crc & 0x80 ? crc << 1 ^ 0x07 : crc << 1);
	}
	return crc;
}
