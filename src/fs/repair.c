// SPDX-License-Identifier: GPL-2.0-or-later
// Mending a file system in DRAM: what a check has noted is made, one by one, each upon what is there by
// then; and then it is checked again. So a mend does the one thing that it says. Counts that it makes wrong,
// names that it makes dangle, are found and mended by the next round. One that cannot be made now, as
// something else in its place is malformed, is noted again.
//
// What nothing names comes to lost+found in the root, which is made if need be.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include "fs_check.h"
#include "fs_impl.h"
#include "fs_mends.h"

#define ROUNDS_MAX 32u
#define LOST_NAME "lost+found"
#define NAMES_TRIED 100u

int fs_mends_new(bool drop_damaged, struct fs_mends **ret_mends)
{
	struct fs_mends *mends = calloc(1, sizeof *mends);
	if (!mends)
		return -ENOMEM;
	mends->drop_damaged = drop_damaged;
	*ret_mends = mends;
	return 0;
}

void fs_mends_free(struct fs_mends *mends)
{
	free(mends->mend);
	free(mends);
}

uint64_t fs_mends_brought(const struct fs_mends *mends)
{
	return mends->brought;
}

void mends_add(struct fs_mends *mends, const struct mend *mend)
{
	if (mends->count == mends->room) {
		size_t room = mends->room ? 2 * mends->room : 64;
		struct mend *more = realloc(mends->mend, room * sizeof *more);
		if (!more) {
			mends->failed = true;
			return;
		}
		mends->mend = more;
		mends->room = room;
	}
	mends->mend[mends->count++] = *mend;
}

struct repair {
	struct store *store;
	struct lane *lane;
	object_t lost;   // lost+found; 0: not known yet
	bool reformed; // an inode: what its pages hold has to be looked at again
};

// ---- as it is now ----------------------------------------------------------------------------------

struct value {
	int bytes;
	union {
		uint8_t raw[ITEM_VALUE_MAX];
		struct inode_disk inode;
		struct dirent_disk dirent;
		struct xattr_disk xattr;
	};
};

static int get(struct repair *p, struct item_key key, struct value *ret)
{
	int r = OP_RUN(p->lane, op_get(op, key, ret->raw, sizeof ret->raw));
	ret->bytes = r < 0 ? 0 : r;
	return r < 0 ? r : 0;
}

static int find(struct repair *p, object_t object, enum item_type type, const char *name, size_t bytes, struct chain *ret)
{
	struct op *op = op_begin(p->lane);
	int r;
	do
		r = chain_find(op, object, type, name, bytes, ret);
	while (op_again(op, &r));
	op_end(op);
	return r;
}

static int get_inode(struct repair *p, object_t object, struct value *ret)
{
	int r = get(p, item_key(object, ITEM_INODE, 0), ret);
	return r ? r : (size_t)ret->bytes >= sizeof ret->inode ? 0 : -EUCLEAN;
}

static int put(struct repair *p, struct item_key key, const struct value *value)
{
	return mend_item(p->store, key, value->raw, (size_t)value->bytes, false);
}

static int delete(struct repair *p, struct item_key key)
{
	return mend_item(p->store, key, NULL, 0, true);
}

// ---- inodes ------------------------------------------------------------------------------------------

static int set_inode(struct repair *p, const struct mend *m)
{
	const uint32_t flags = INODE_CAPABILITY | INODE_ACL | INODE_DEFAULT_ACL;
	struct value v;
	int r = get_inode(p, m->object, &v);

	if (r)
		return r;
	switch (m->kind) {
	case MEND_NLINK:
		v.inode.nlink = (uint32_t)m->value;
		break;
	case MEND_ENTRIES:
		v.inode.entries = m->value;
		break;
	case MEND_PARENT:
		v.inode.parent = m->value;
		break;
	case MEND_XATTRS:
		v.inode.xattrs = (uint32_t)m->value;
		break;
	case MEND_XATTR_FLAGS:
		v.inode.flags = (v.inode.flags & ~flags) | (uint32_t)m->value;
		break;
	default: // MEND_PAGES
		v.inode.pages = m->value;
		break;
	}
	return put(p, item_key(m->object, ITEM_INODE, 0), &v);
}

static void reform_time(struct time_disk *t)
{
	t->reserved = 0;
	if (t->nsec >= 1000000000)
		t->nsec = 0;
}

static bool type_good(uint32_t mode)
{
	unsigned type = IFTODT(mode);
	return type == DT_REG || type == DT_DIR || type == DT_LNK || type == DT_CHR || type == DT_BLK || type == DT_FIFO ||
	       type == DT_SOCK;
}

// The size, and what follows the inode in its item.
static void reform_size(struct value *v, uint64_t pages)
{
	struct inode_disk *i = &v->inode;
	size_t tail = (size_t)v->bytes - sizeof *i;

	if (inode_size_good(i, (size_t)v->bytes))
		return;
	if (S_ISLNK(i->mode) && tail) {
		i->size = tail;
		return;
	}
	if (S_ISLNK(i->mode)) // of a target that is nowhere to be had
		i->mode = S_IFREG | (i->mode & 0600);
	i->size = S_ISREG(i->mode) ? pages << PAGE_SHIFT : 0;
	v->bytes = sizeof *i;
}

static void reform(const struct repair *p, struct value *v, unsigned type, uint64_t pages)
{
	struct inode_disk *i = &v->inode;

	if (!type_good(i->mode))
		i->mode = DTTOIF(type) | (i->mode & 0700);
	i->mode &= S_IFMT | 07777u;
	i->flags &= INODE_FLAGS_KNOWN;
	i->reserved = 0;
	reform_time(&i->atime);
	reform_time(&i->mtime);
	reform_time(&i->ctime);
	reform_time(&i->btime);
	reform_size(v, pages);
	if (!S_ISREG(i->mode))
		i->pages = 0;
	if (!S_ISDIR(i->mode))
		i->parent = 0;
	if (!S_ISDIR(i->mode) && !inode_end_good(p->store, i))
		i->entries = 0;
}

static struct value new_inode(unsigned type, uint64_t pages)
{
	struct value v = { .bytes = sizeof v.inode };
	v.inode = (struct inode_disk){ .mode = DTTOIF(type) | (type == DT_DIR ? 0700 : 0600), .nlink = type == DT_DIR ? 2 : 1,
				       .parent = type == DT_DIR ? OBJECT_ROOT : 0 };
	v.inode.atime = v.inode.mtime = v.inode.ctime = v.inode.btime = time_now();
	v.inode.size = type == DT_REG ? pages << PAGE_SHIFT : 0;
	return v;
}

static int mend_inode(struct repair *p, const struct mend *m)
{
	struct value v;
	int r = get(p, item_key(m->object, ITEM_INODE, 0), &v);
	bool there = !r && (size_t)v.bytes >= sizeof v.inode;

	if (r && r != -ENOENT)
		return r;
	p->reformed = true;
	if (there && m->object == OBJECT_ROOT && !S_ISDIR(v.inode.mode))
		there = false;
	if (there)
		reform(p, &v, (unsigned)m->value, m->more);
	else
		v = new_inode((unsigned)m->value, m->more);
	return put(p, item_key(m->object, ITEM_INODE, 0), &v);
}

// ---- names --------------------------------------------------------------------------------------------

static int mend_name(struct repair *p, struct item_key key)
{
	struct value v;
	struct chain chain;
	int r = get(p, key, &v);
	if (r)
		return r;
	bool entry = item_key_type(key) == ITEM_DIRENT;
	const uint8_t *name = entry ? v.dirent.name : v.xattr.name;
	r = find(p, key.object, item_key_type(key), (const char *)name, entry ? v.dirent.name_bytes : v.xattr.name_bytes, &chain);
	if (r)
		return r;
	if (!chain.found && !chain.full) // else the name is there already, where it belongs
		r = put(p, chain.key, &v);
	return r ? r : delete(p, key);
}

static int mend_type(struct repair *p, struct item_key key, uint8_t type)
{
	struct value v;
	int r = get(p, key, &v);
	if (r)
		return r;
	v.dirent.type = type;
	return put(p, key, &v);
}

struct held {
	object_t object;
	struct item_key key;
};

static int match_object(void *arg, struct item_key key, const void *value, size_t bytes)
{
	struct held *held = arg;
	const struct dirent_disk *e = value;
	if (!dirent_valid(e, bytes) || e->object != held->object)
		return 0;
	held->key = key;
	return 1;
}

static int unhold(struct repair *p, object_t object, object_t holder)
{
	struct held held = { .object = object };
	struct op *op = op_begin(p->lane);
	int r;
	do
		r = op_scan(op, item_key(holder, ITEM_DIRENT, 0), item_key(holder, ITEM_DIRENT, ITEM_REST_MAX), match_object, &held);
	while (op_again(op, &r));
	op_end(op);
	return r == 1 ? delete(p, held.key) : r;
}

static int put_entry(struct repair *p, struct item_key key, const char *name, object_t object, unsigned type)
{
	struct value v;
	size_t bytes = strlen(name);
	v.dirent.object = object;
	v.dirent.type = (uint8_t)type;
	v.dirent.name_bytes = (uint8_t)bytes;
	memcpy(v.dirent.name, name, bytes);
	v.bytes = (int)(sizeof v.dirent + bytes);
	return put(p, key, &v);
}

// A name that is free in the directory: `stem`, or with a number.
static int free_name(struct repair *p, object_t dir, const char *stem, char *name, size_t room, struct chain *ret_chain)
{
	for (unsigned i = 0; i < NAMES_TRIED; i++) {
		snprintf(name, room, i ? "%s.%u" : "%s", stem, i);
		int r = find(p, dir, ITEM_DIRENT, name, strlen(name), ret_chain);
		if (r || (!ret_chain->found && !ret_chain->full))
			return r;
	}
	return -EEXIST;
}

static int make_lost_and_found(struct repair *p)
{
	char name[NAME_BYTES_MAX + 1];
	struct value v;
	struct chain chain;
	int r = find(p, OBJECT_ROOT, ITEM_DIRENT, LOST_NAME, sizeof LOST_NAME - 1, &chain);

	if (!r && chain.found && !get_inode(p, chain.dirent.object, &v) && S_ISDIR(v.inode.mode)) {
		p->lost = chain.dirent.object;
		return 0;
	}
	if (!r)
		r = free_name(p, OBJECT_ROOT, LOST_NAME, name, sizeof name, &chain);
	if (r)
		return r;
	object_t id = store_new_object(p->store);
	v = new_inode(DT_DIR, 0);
	r = put(p, item_key(id, ITEM_INODE, 0), &v);
	if (!r)
		r = put_entry(p, chain.key, name, id, DT_DIR);
	if (!r)
		p->lost = id;
	return r;
}

static int bring_to_lost(struct repair *p, object_t object)
{
	char stem[32], name[64];
	struct value v, root;
	struct chain chain;
	int r = get_inode(p, object, &v);

	if (!r)
		r = get_inode(p, OBJECT_ROOT, &root);
	if (!r && !S_ISDIR(root.inode.mode))
		r = -ENOENT; // it is made first
	if (!r && !p->lost)
		r = make_lost_and_found(p);
	if (r)
		return r;
	snprintf(stem, sizeof stem, "#%llu", (unsigned long long)object);
	r = free_name(p, p->lost, stem, name, sizeof name, &chain);
	return r ? r : put_entry(p, chain.key, name, object, IFTODT(v.inode.mode));
}

// ---- all of them --------------------------------------------------------------------------------------

static int mend_orphan(struct repair *p, object_t object, bool listed)
{
	return mend_item(p->store, item_key(OBJECT_STORE, ITEM_ORPHAN, object), NULL, 0, !listed);
}

static int make(struct repair *p, const struct mend *m)
{
	struct item_key key = { m->object, m->sub };

	switch (m->kind) {
	case MEND_DELETE:
		return delete(p, key);
	case MEND_NAME:
		return mend_name(p, key);
	case MEND_TYPE:
		return mend_type(p, key, (uint8_t)m->value);
	case MEND_INODE:
		return mend_inode(p, m);
	case MEND_ORPHAN:
		return mend_orphan(p, m->object, m->value);
	case MEND_LOST:
		return bring_to_lost(p, m->object);
	case MEND_UNHOLD:
		return unhold(p, m->object, m->value);
	case MEND_DROP:
		return mend_drop(p->store, m->object, m->value, m->more);
	case MEND_DROP_OBJECT:
		return mend_drop_object(p->store, m->object);
	case MEND_POISON:
		return mend_poison(p->store, m->object, m->value, m->more);
	case MEND_TAIL:
		return mend_tail(p->store, m->object, m->value, (unsigned)m->more);
	default:
		return set_inode(p, m);
	}
}

static int make_all(struct store *store, struct fs_mends *mends, bool *ret_reformed)
{
	struct repair p = { .store = store };
	int r = lane_new(store, &p.lane);

	for (size_t i = 0; !r && i < mends->count; i++) {
		r = make(&p, &mends->mend[i]);
		mends->brought += !r && mends->mend[i].kind == MEND_LOST;
		if (r == -EUCLEAN || r == -ENOENT || r == -EEXIST)
			r = 0; // not now
	}
	if (p.lane)
		lane_free(p.lane);
	mends->count = 0;
	*ret_reformed = p.reformed;
	return r;
}

// Of what comes up while mending, only what is lost by it is news.
static void report_later(void *arg, const struct check_finding *f)
{
	const struct check_config *caller = arg;

	if (f->kind >= CHECK_ROOT_MISSING && check_mend(f) != MEND_SAFE && caller->report)
		caller->report(caller->arg, f);
}

int fs_mend(struct store *store, const struct check_config *config, struct fs_mends *mends)
{
	struct check_config later = { .report = report_later, .arg = (void *)config, .cancelled = config->cancelled };
	struct fs_check_result result;
	bool reformed;
	int r = 0;

	mends->damage_noted = true;
	for (unsigned round = 0; !r && mends->count; round++) {
		if (round == ROUNDS_MAX)
			return -EUCLEAN;
		r = make_all(store, mends, &reformed);
		later.quick = config->quick || !reformed;
		if (!r)
			r = fs_check_noting(store, &later, mends, &result);
	}
	return r;
}
