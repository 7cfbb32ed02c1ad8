// SPDX-License-Identifier: GPL-2.0-or-later
// Items found by name: directory entries and extended attributes.
#include "fs_impl.h"
#include "hash.h"

uint64_t name_hash_mask = UINT64_MAX;

// The seed is the same everywhere, so that images can be compared and checked without knowing the
// file system. Names of equal hash can be made on purpose then; they fill one chain of one directory
// of one's own, and lookups look at no more than a chain.
uint64_t name_hash(const char *name, size_t bytes)
{
	return hash_seeded(name, bytes, NAME_HASH_SEED) >> 16 & name_hash_mask;
}

int name_check(const char *name)
{
	size_t bytes = strlen(name);

	if (bytes > NAME_BYTES_MAX)
		return -ENAMETOOLONG;
	if (!bytes || !strcmp(name, ".") || !strcmp(name, "..") || strchr(name, '/'))
		return -EINVAL;
	return 0;
}

bool dirent_valid(const struct dirent_disk *dirent, size_t bytes)
{
	return bytes > sizeof *dirent && bytes == sizeof *dirent + dirent->name_bytes && dirent->object &&
	       !memchr(dirent->name, 0, dirent->name_bytes);
}

bool xattr_valid(const struct xattr_disk *xattr, size_t bytes)
{
	return bytes > sizeof *xattr && xattr->name_bytes && xattr->value_bytes <= XATTR_BYTES_MAX &&
	       bytes == sizeof *xattr + xattr->name_bytes + (xattr->object ? 0 : xattr->value_bytes) &&
	       !memchr(xattr->name, 0, xattr->name_bytes);
}

void name_report_damage(struct item_key key)
{
	log_error("object %llu: %s %llx is malformed", (unsigned long long)key.object,
		  item_key_type(key) == ITEM_DIRENT ? "directory entry" : "extended attribute",
		  (unsigned long long)item_key_rest(key));
}

struct chain_search {
	struct chain *chain;
	const char *name;
	size_t name_bytes;
	unsigned free; // the first ordinal not seen
};

static int chain_visit(void *arg, struct item_key key, const void *value, size_t bytes)
{
	struct chain_search *s = arg;
	const uint8_t *name;
	size_t name_bytes;
	bool valid;

	if (item_key_type(key) == ITEM_DIRENT) {
		const struct dirent_disk *dirent = value;

		valid = dirent_valid(dirent, bytes);
		name = dirent->name;
		name_bytes = valid ? dirent->name_bytes : 0;
	} else {
		const struct xattr_disk *xattr = value;

		valid = xattr_valid(xattr, bytes);
		name = xattr->name;
		name_bytes = valid ? xattr->name_bytes : 0;
	}
	if (!valid || bytes > ITEM_VALUE_MAX) {
		name_report_damage(key);
		return -EUCLEAN;
	}
	if (item_key_rest(key) % NAME_ORDINALS == s->free)
		s->free++;
	if (name_bytes != s->name_bytes || memcmp(name, s->name, name_bytes))
		return 0;
	s->chain->found = true;
	s->chain->key = key;
	s->chain->bytes = bytes;
	memcpy(s->chain->value, value, bytes);
	return 1;
}

int chain_find(struct op *op, object_t object, enum item_type type, const char *name, size_t name_bytes,
	       struct chain *ret_chain)
{
	uint64_t first = name_hash(name, name_bytes) * NAME_ORDINALS;
	struct chain_search search = { ret_chain, name, name_bytes, 0 };
	int r;

	ret_chain->found = ret_chain->full = false;
	r = op_scan(op, item_key(object, type, first), item_key(object, type, first + NAME_ORDINALS - 1), chain_visit,
		    &search);
	if (r < 0)
		return r;
	if (ret_chain->found)
		return 0;
	ret_chain->full = search.free == NAME_ORDINALS;
	ret_chain->key = item_key(object, type, first + search.free);
	return 0;
}
