// SPDX-License-Identifier: GPL-2.0-or-later
// Checksums and hashes: XXH3-64 throughout.
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_bytes(const void *data, size_t bytes);
uint64_t hash_seeded(const void *data, size_t bytes, uint64_t seed);

// A well mixed 64-bit value of two (the finalizer of MurmurHash3 over a combination).
static inline uint64_t hash_mix(uint64_t a, uint64_t b)
{
	uint64_t h = a * UINT64_C(0x9e3779b97f4a7c15) ^ (b + UINT64_C(0x632be59bd9b4e019));
	h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
	h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
	return h ^ h >> 33;
}

// Of a page, block or node under its key; seed is of the file system (hash_bytes of its id).
static inline uint64_t checksum_page(uint64_t seed, uint64_t object, uint64_t page, const void *data)
{
	return hash_bytes(data, 4096) ^ hash_mix(hash_mix(seed, object), page);
}

uint8_t crc8(const void *data, size_t bytes); // polynomial 0x07

#endif
