// SPDX-License-Identifier: GPL-2.0-or-later
// Offline check of the file system, in two passes over all items in key order.
//
//	pass 1   each object on its own: inode, attributes, names, pages. What is left of it is 16 bytes an
//	         object, a record a directory, and one for each hidden object and each reference to one.
//	pass 2   the entries: each points to an object of its type. Links, entries, parents are counted.
//	end      counts against inodes, orphans against links, every directory's way to the root, hidden
//	         objects against what refers to them.
//
// With each finding goes what would mend it, if that is asked for. It need not be all: who mends checks
// again, until nothing is found.
//
// All arrays are filled in ascending order of objects, as the items come, and searched by halving.
#include <dirent.h>
#include <stdlib.h>
#include "fs_check.h"
#include "fs_impl.h"
#include "fs_mends.h"

#define TYPE_SHIFT 60 // of known_object.object: above the 56 bits of an id; 0: the inode is malformed
#define CHAIN_BYTES (NAME_ORDINALS * (NAME_BYTES_MAX + 1u))

struct known_object {
	uint64_t object; // | DT_* << TYPE_SHIFT
	uint32_t nlink, names;
};
enum way { WAY_UNKNOWN, WAY_ASKED, WAY_ROOT, WAY_NONE };
struct known_dir {
	object_t object, parent;
	object_t holder;      // the directory with an entry of it; 0: none
	uint64_t entries;     // as the inode has it
	uint64_t found;       // entries
	uint32_t subdirs;     // among them
	uint32_t way;         // enum way
};
struct hidden { // an object that has pages and no inode; or a reference to one
	object_t object;
	object_t owner; // of the reference, and the rest of its key
	uint64_t sub;
	uint64_t pages, end;
};
struct lost_run { // of a file, pages that could not be read
	object_t object;
	page_t from, to;
	uint64_t size;   // of the file
	object_t parent; // of the first of an object: a directory with an entry of it, 0: none; and the name there
	char *name;
};
struct array {
	void *data;
	size_t count, room;
};

struct current { // the object whose items pass
	object_t object;
	bool has_inode, good; // good: well formed
	struct inode_disk inode;
	unsigned inode_bytes;
	uint64_t xattrs, entries, stray; // stray: items that need an inode, without one
	uint32_t flags; // as the names of xattrs want them
	uint64_t pages, end, misplaced; // end: page behind the last
	size_t lost; // how many runs were lost before it
	// Names of the hash that passes, to find one that is there twice.
	uint64_t hash;
	size_t chain_bytes;
};

struct fs_check {
	struct store *store;
	struct check_config config;
	const struct check_config *caller; // its config
	struct check_result *result;
	struct fs_mends *mends; // NULL: nobody asks
	struct current now;
	struct array objects, dirs, orphans, hidden, references, missing; // missing: objects whose inode is to be made up
	struct array lost;
	uint8_t chain[CHAIN_BYTES];
	char name[NAME_BYTES_MAX + 1];
};

static void *array_add(struct array *a, size_t bytes)
{
	if (a->count == a->room) {
		size_t room = a->room ? a->room + a->room / 2 : 256;
		void *more = realloc(a->data, room * bytes);
		if (!more)
			return NULL;
		a->data = more;
		a->room = room;
	}
	return memset((char *)a->data + a->count++ * bytes, 0, bytes);
}

static void mend(struct fs_check *c, enum mend_kind kind, object_t object, uint64_t value, uint64_t more)
{
	if (c->mends)
		mends_add(c->mends, &(struct mend){ .kind = kind, .object = object, .value = value, .more = more });
}

static void mend_key(struct fs_check *c, enum mend_kind kind, struct item_key key, uint64_t value)
{
	if (c->mends)
		mends_add(c->mends, &(struct mend){ .kind = kind, .object = key.object, .sub = key.sub, .value = value });
}

static void report(struct fs_check *c, enum check_kind kind, object_t object, uint64_t expected, uint64_t found)
{
	check_report(&c->config, c->result, &(struct check_finding){ .kind = kind, .object = object, .expected = expected,
								     .found = found });
}

static void report_name(struct fs_check *c, enum check_kind kind, object_t object, const uint8_t *name, size_t bytes,
			uint64_t expected, uint64_t found)
{
	memcpy(c->name, name, bytes);
	c->name[bytes] = 0;
	check_report(&c->config, c->result, &(struct check_finding){ .kind = kind, .object = object, .place = PLACE_NAME,
								     .name = c->name, .expected = expected, .found = found });
}

static void report_key(struct fs_check *c, enum check_kind kind, struct item_key key)
{
	check_report(&c->config, c->result, &(struct check_finding){ .kind = kind, .object = key.object, .place = PLACE_KEY,
								     .at = key.sub, .found = item_key_type(key) });
}

static void report_page(struct fs_check *c, enum check_kind kind, object_t object, page_t page, uint64_t expected,
			uint64_t found)
{
	check_report(&c->config, c->result, &(struct check_finding){ .kind = kind, .object = object, .place = PLACE_PAGE,
								     .at = page, .expected = expected, .found = found });
}

// The first of an object in such an array, whose entries begin with it; NULL: there is none. What is above the id does not count.
static void *array_find(const struct array *a, size_t bytes, object_t object)
{
	char *data = a->data;
	size_t low = 0, high = a->count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if ((*(object_t *)(data + middle * bytes) & LSN_MAX) < object)
			low = middle + 1;
		else
			high = middle;
	}
	bool found = low < a->count && (*(object_t *)(data + low * bytes) & LSN_MAX) == object;
	return found ? data + low * bytes : NULL;
}

static struct known_object *find_object(const struct fs_check *c, object_t object)
{
	return array_find(&c->objects, sizeof(struct known_object), object);
}

static struct known_dir *find_dir(const struct fs_check *c, object_t object)
{
	return array_find(&c->dirs, sizeof(struct known_dir), object);
}

static unsigned type_of(const struct known_object *o)
{
	return (unsigned)(o->object >> TYPE_SHIFT);
}

// ---- pass 1: inodes -------------------------------------------------------------------------------

static bool time_good(const struct time_disk *t)
{
	return t->nsec < 1000000000 && !t->reserved;
}

bool inode_size_good(const struct inode_disk *i, size_t bytes)
{
	switch (i->mode & S_IFMT) {
	case S_IFREG:
		return bytes == sizeof *i && i->size <= FILE_BYTES_MAX;
	case S_IFLNK:
		return i->size && i->size <= SYMLINK_BYTES_MAX && (bytes == sizeof *i || bytes - sizeof *i == i->size);
	case S_IFDIR:
		return bytes == sizeof *i && !i->size;
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return bytes == sizeof *i && !i->size;
	default:
		return false;
	}
}

bool inode_end_good(const struct store *store, const struct inode_disk *i)
{
	return S_ISREG(i->mode) && inode_pages_end_good(i) && (!i->pages_end || store_incompat(store) & VEMS_INCOMPAT_PAST_END);
}

static bool inode_good(const struct fs_check *c, const struct inode_disk *i, size_t bytes)
{
	return inode_size_good(i, bytes) && !(i->mode & ~(S_IFMT | 07777u)) && !(i->flags & ~(uint32_t)INODE_FLAGS_KNOWN) &&
	       !i->reserved && (S_ISREG(i->mode) || !i->pages) && time_good(&i->atime) && time_good(&i->mtime) &&
	       time_good(&i->ctime) && time_good(&i->btime) && (S_ISDIR(i->mode) || !i->parent) &&
	       (S_ISDIR(i->mode) || !i->entries || inode_end_good(c->store, i));
}

static int take_inode(struct fs_check *c, struct item_key key, const void *value, size_t bytes)
{
	struct current *now = &c->now;
	struct known_object *o;
	struct known_dir *d;

	if (item_key_rest(key)) {
		report_key(c, CHECK_ITEM_UNKNOWN, key);
		mend_key(c, MEND_DELETE, key, 0);
		return 0;
	}
	now->has_inode = true;
	now->inode_bytes = (unsigned)bytes;
	if (bytes >= sizeof now->inode)
		memcpy(&now->inode, value, sizeof now->inode);
	now->good = bytes >= sizeof now->inode && inode_good(c, &now->inode, bytes);
	if (!now->good)
		report(c, CHECK_INODE_MALFORMED, key.object, 0, 0);
	o = array_add(&c->objects, sizeof *o);
	if (!o)
		return -ENOMEM;
	o->object = key.object;
	if (!now->good)
		return 0;
	o->object |= (uint64_t)IFTODT(now->inode.mode) << TYPE_SHIFT;
	o->nlink = now->inode.nlink;
	if (!S_ISDIR(now->inode.mode))
		return 0;
	d = array_add(&c->dirs, sizeof *d);
	if (!d)
		return -ENOMEM;
	d->object = key.object;
	d->parent = now->inode.parent;
	d->entries = now->inode.entries;
	return 0;
}

// ---- pass 1: names ----------------------------------------------------------------------------------

// The place of a name: its hash, and no other of the chain with the same bytes.
static void take_name(struct fs_check *c, struct item_key key, const uint8_t *name, uint8_t bytes)
{
	struct current *now = &c->now;
	uint64_t chain = key.sub / NAME_ORDINALS, hash = name_hash((const char *)name, bytes);

	if (item_key_rest(key) / NAME_ORDINALS != hash) {
		mend_key(c, MEND_NAME, key, 0);
		report_name(c, CHECK_NAME_HASH, key.object, name, bytes, hash, item_key_rest(key) / NAME_ORDINALS);
	}
	if (chain != now->hash)
		now->chain_bytes = 0;
	now->hash = chain;
	for (size_t i = 0; i < now->chain_bytes; i += 1u + c->chain[i])
		if (c->chain[i] == bytes && !memcmp(&c->chain[i + 1], name, bytes)) {
			report_name(c, CHECK_NAME_TWICE, key.object, name, bytes, 0, 0);
			mend_key(c, MEND_DELETE, key, 0);
			return;
		}
	c->chain[now->chain_bytes] = bytes;
	memcpy(&c->chain[now->chain_bytes + 1], name, bytes);
	now->chain_bytes += 1u + bytes;
}

static int take_xattr(struct fs_check *c, struct item_key key, const struct xattr_disk *x, size_t bytes)
{
	char name[NAME_BYTES_MAX + 1];
	struct hidden *h;

	c->now.xattrs++;
	if (!xattr_valid(x, bytes)) {
		report_key(c, CHECK_XATTR_MALFORMED, key);
		mend_key(c, MEND_DELETE, key, 0);
		return 0;
	}
	take_name(c, key, x->name, x->name_bytes);
	memcpy(name, x->name, x->name_bytes);
	name[x->name_bytes] = 0;
	c->now.flags |= xattr_flag(name);
	if (!x->object)
		return 0;
	h = array_add(&c->references, sizeof *h);
	if (!h)
		return -ENOMEM;
	h->object = x->object;
	h->owner = key.object;
	h->sub = key.sub;
	h->pages = (x->value_bytes + PAGE_BYTES - 1) / PAGE_BYTES;
	return 0;
}

static bool entry_good(const struct dirent_disk *e, size_t bytes)
{
	return dirent_valid(e, bytes) && !memchr(e->name, '/', e->name_bytes) &&
	       !(e->name[0] == '.' && (e->name_bytes == 1 || (e->name_bytes == 2 && e->name[1] == '.')));
}

static void take_dirent(struct fs_check *c, struct item_key key, const struct dirent_disk *e, size_t bytes)
{
	c->now.entries++;
	if (!entry_good(e, bytes)) {
		report_key(c, CHECK_DIRENT_MALFORMED, key);
		mend_key(c, MEND_DELETE, key, 0);
		return;
	}
	take_name(c, key, e->name, e->name_bytes);
	if (c->now.good && !S_ISDIR(c->now.inode.mode)) {
		report_name(c, CHECK_DIRENT_MISPLACED, key.object, e->name, e->name_bytes, 0, 0);
		mend_key(c, MEND_DELETE, key, 0);
	}
}

// ---- pass 1: an object ends --------------------------------------------------------------------------

// Of pages [from, to), where nothing has passed, those that may have been lost.
static int take_gap(struct fs_check *c, page_t from, page_t to)
{
	const struct inode_disk *i = &c->now.inode;
	page_t end = pages_of(i->size) < to ? pages_of(i->size) : to, lost_end;

	if (!S_ISREG(i->mode) && !(S_ISLNK(i->mode) && c->now.inode_bytes == sizeof *i))
		return 0;
	for (; lost_end = end, check_lost_pages(c->store, c->now.object, &from, &lost_end); from = lost_end) {
		struct lost_run *lost = array_add(&c->lost, sizeof *lost);
		if (!lost)
			return -ENOMEM;
		*lost = (struct lost_run){ .object = c->now.object, .from = from, .to = lost_end, .size = i->size };
	}
	return 0;
}

// They count as pages from now on. If the inode knows of no others than have passed, they were holes.
static void end_gaps(struct fs_check *c)
{
	struct current *now = &c->now;
	const struct lost_run *lost = c->lost.data;
	bool counted = S_ISREG(now->inode.mode) && !(now->inode.flags & INODE_PAGES_UNSURE);

	if (counted && now->pages == now->inode.pages && !check_salvaged(c->store))
		c->lost.count = now->lost;
	for (size_t i = now->lost; i < c->lost.count; i++) {
		bool drop = c->mends && c->mends->drop_damaged;
		mend(c, drop ? MEND_DROP : MEND_POISON, now->object, lost[i].from, lost[i].to);
		now->pages += drop ? 0 : lost[i].to - lost[i].from;
	}
}

static void end_inode(struct fs_check *c)
{
	const struct current *now = &c->now;
	const struct inode_disk *i = &now->inode;
	uint32_t flags = i->flags & (INODE_CAPABILITY | INODE_ACL | INODE_DEFAULT_ACL);
	bool target_page = now->inode_bytes == sizeof *i;

	if (S_ISREG(i->mode) && !(i->flags & INODE_PAGES_UNSURE) && now->pages != i->pages) {
		report(c, CHECK_PAGES, now->object, now->pages, i->pages);
		mend(c, MEND_PAGES, now->object, now->pages, 0);
	}
	if (now->xattrs != i->xattrs) {
		report(c, CHECK_XATTRS, now->object, now->xattrs, i->xattrs);
		mend(c, MEND_XATTRS, now->object, now->xattrs, 0);
	}
	if (now->flags != flags) {
		report(c, CHECK_XATTR_FLAGS, now->object, now->flags, flags);
		mend(c, MEND_XATTR_FLAGS, now->object, now->flags, 0);
	}
	if (S_ISLNK(i->mode) && now->pages != target_page) {
		report(c, CHECK_SYMLINK, now->object, target_page, now->pages);
		mend(c, target_page && !now->pages ? MEND_DROP_OBJECT : MEND_DROP, now->object, target_page, now->end);
	}
	if (now->misplaced) {
		report(c, CHECK_PAGES_MISPLACED, now->object, 0, now->misplaced);
		mend(c, MEND_DROP, now->object, 0, now->end);
	}
}

static int note_missing(struct fs_check *c, object_t object)
{
	object_t *missing = array_add(&c->missing, sizeof *missing);
	if (!missing)
		return -ENOMEM;
	*missing = object;
	return 0;
}

static int end_object(struct fs_check *c)
{
	struct current *now = &c->now;
	bool missing = !now->has_inode && now->xattrs + now->entries;

	if (now->good) {
		int r = take_gap(c, now->end, PAGE_MAX + 1);
		if (!r)
			end_gaps(c);
		if (!r)
			end_inode(c);
		return r;
	}
	if (missing)
		report(c, CHECK_INODE_MISSING, now->object, 0, now->xattrs + now->entries);
	if (missing || now->has_inode)
		mend(c, MEND_INODE, now->object, now->entries ? DT_DIR : DT_REG, now->end);
	return missing ? note_missing(c, now->object) : 0;
}

static int begin_object(struct fs_check *c, object_t object)
{
	if (object == c->now.object)
		return 0;
	int r = end_object(c);
	c->now = (struct current){ .object = object, .lost = c->lost.count };
	return r;
}

static int take_item(void *arg, struct item_key key, const void *value, size_t bytes)
{
	struct fs_check *c = arg;
	object_t *orphan;
	int r;

	if (key.object == OBJECT_STORE) {
		if (item_key_type(key) != ITEM_ORPHAN)
			return 0;
		orphan = array_add(&c->orphans, sizeof *orphan);
		if (!orphan)
			return -ENOMEM;
		*orphan = item_key_rest(key);
		return 0;
	}
	r = begin_object(c, key.object);
	if (r)
		return r;
	switch (item_key_type(key)) {
	case ITEM_INODE:
		return take_inode(c, key, value, bytes);
	case ITEM_XATTR:
		return take_xattr(c, key, value, bytes);
	case ITEM_DIRENT:
		take_dirent(c, key, value, bytes);
		return 0;
	default:
		report_key(c, CHECK_ITEM_UNKNOWN, key);
		mend_key(c, MEND_DELETE, key, 0);
		return 0;
	}
}

// ---- pass 1: pages -------------------------------------------------------------------------------------

static int take_hidden(struct fs_check *c, page_t first, unsigned count)
{
	struct hidden *h = c->hidden.data;

	if (!c->hidden.count || h[c->hidden.count - 1].object != c->now.object) {
		h = array_add(&c->hidden, sizeof *h);
		if (!h)
			return -ENOMEM;
		h->object = c->now.object;
	} else {
		h += c->hidden.count - 1;
	}
	h->pages += count;
	if (first + count > h->end)
		h->end = first + count;
	return 0;
}

// Pages [first, end) of a file that has room for `pages`.
static void past_end(struct fs_check *c, object_t object, page_t first, page_t pages, page_t end)
{
	report_page(c, CHECK_PAGES_PAST_END, object, first, pages, end);
	mend(c, MEND_DROP, object, first, end);
}

static int take_pages(void *arg, object_t object, page_t first, unsigned count, uint64_t *ret_tag)
{
	struct fs_check *c = arg;
	struct current *now = &c->now;
	uint64_t pages;
	int r = begin_object(c, object);

	*ret_tag = UINT64_MAX; // no end is known of it
	if (r)
		return r;
	if (now->good)
		r = take_gap(c, now->end, first);
	if (r)
		return r;
	now->pages += count;
	now->end = first + count;
	if (!now->has_inode)
		return take_hidden(c, first, count);
	if (!now->good)
		return 0;
	if (!S_ISREG(now->inode.mode) && !S_ISLNK(now->inode.mode)) {
		now->misplaced += count;
		return 0;
	}
	pages = inode_pages_end(&now->inode);
	if (first + count > pages)
		past_end(c, object, first > pages ? first : pages, pages, first + count);
	*ret_tag = now->inode.size;
	return 0;
}

static int take_content(void *arg, object_t object, page_t page, const void *data, uint64_t size)
{
	const uint8_t *byte = data;
	unsigned i = page == size >> PAGE_SHIFT ? size % PAGE_BYTES : 0;

	if (page < size >> PAGE_SHIFT)
		return 0;
	while (i < PAGE_BYTES && !byte[i])
		i++;
	if (i == PAGE_BYTES)
		return 0;
	if (page >= pages_of(size)) { // one that was allocated there is zero
		past_end(arg, object, page, pages_of(size), page + 1);
		return 0;
	}
	report_page(arg, CHECK_BYTES_PAST_END, object, page, 0, byte[i]);
	mend(arg, MEND_TAIL, object, page, size % PAGE_BYTES);
	return 0;
}

// ---- pass 2: entries -------------------------------------------------------------------------------------

static void enter_directory(struct fs_check *c, struct item_key key, struct known_dir *parent, object_t object)
{
	struct known_dir *d = find_dir(c, object);

	if (parent)
		parent->subdirs++;
	if (object == OBJECT_ROOT || d->holder)
		mend_key(c, MEND_DELETE, key, 0);
	if (!d->holder)
		d->holder = key.object;
}

// Has it items or pages, and gets an inode for them?
static bool is_missing(const struct fs_check *c, object_t object)
{
	return array_find(&c->missing, sizeof(object_t), object) || array_find(&c->hidden, sizeof(struct hidden), object);
}

// Whoever has lost something is told by its name.
static int name_lost(struct fs_check *c, struct item_key key, const struct dirent_disk *e)
{
	struct lost_run *lost = array_find(&c->lost, sizeof *lost, e->object);

	if (!lost || lost->name)
		return 0;
	lost->name = strndup((const char *)e->name, e->name_bytes);
	lost->parent = key.object;
	return lost->name ? 0 : -ENOMEM;
}

static int take_entry(void *arg, struct item_key key, const void *value, size_t bytes)
{
	struct fs_check *c = arg;
	const struct dirent_disk *e = value;
	struct known_object *o;
	struct known_dir *d;

	if (key.object == OBJECT_STORE || item_key_type(key) != ITEM_DIRENT)
		return 0;
	d = find_dir(c, key.object);
	if (d)
		d->found++;
	if (!entry_good(e, bytes))
		return 0; // was reported
	o = find_object(c, e->object);
	if (!o) {
		report_name(c, CHECK_ENTRY_DANGLING, key.object, e->name, e->name_bytes, 0, e->object);
		if (!is_missing(c, e->object))
			mend_key(c, MEND_DELETE, key, 0);
		return 0;
	}
	o->names++;
	if (!type_of(o))
		return 0;
	if (name_lost(c, key, e))
		return -ENOMEM;
	if (type_of(o) != e->type) {
		report_name(c, CHECK_ENTRY_TYPE, key.object, e->name, e->name_bytes, type_of(o), e->type);
		mend_key(c, MEND_TYPE, key, type_of(o));
	}
	if (type_of(o) == DT_DIR)
		enter_directory(c, key, d, e->object);
	return 0;
}

// ---- the end -----------------------------------------------------------------------------------------------

// From the directory up: by what holds it, until something is known of the way.
static void find_way(struct fs_check *c, struct known_dir *d)
{
	struct known_dir *at = d, *next;
	enum way way;

	while (at && at->way == WAY_UNKNOWN) {
		at->way = WAY_ASKED;
		at = at->holder ? find_dir(c, at->holder) : NULL;
	}
	way = at && at->way == WAY_ROOT ? WAY_ROOT : WAY_NONE;
	if (at && at->way == WAY_ASKED) // back where we have asked: a cycle, to be opened here
		mend(c, MEND_UNHOLD, at->object, at->holder, 0);
	for (at = d; at && at->way == WAY_ASKED; at = next) {
		at->way = way;
		next = at->holder ? find_dir(c, at->holder) : NULL;
	}
}

static void check_directory(struct fs_check *c, const struct known_object *o)
{
	struct known_dir *d = find_dir(c, o->object & LSN_MAX);
	bool root = d->object == OBJECT_ROOT;

	if (d->entries != d->found) {
		report(c, CHECK_ENTRIES, d->object, d->found, d->entries);
		mend(c, MEND_ENTRIES, d->object, d->found, 0);
	}
	if (o->names > 1 || (root && o->names))
		report(c, CHECK_DIRECTORY_TWICE, d->object, 1, o->names + root);
	if (!o->nlink && !o->names)
		return; // an orphan
	if (o->nlink != 2 + d->subdirs) {
		report(c, CHECK_LINKS, d->object, 2 + (uint64_t)d->subdirs, o->nlink);
		mend(c, MEND_NLINK, d->object, 2 + (uint64_t)d->subdirs, 0);
	}
	if (root ? d->parent != OBJECT_ROOT : d->holder && d->parent != d->holder) {
		report(c, CHECK_PARENT, d->object, root ? OBJECT_ROOT : d->holder, d->parent);
		mend(c, MEND_PARENT, d->object, root ? OBJECT_ROOT : d->holder, 0);
	}
	find_way(c, d);
	if (d->way != WAY_ROOT) {
		report(c, CHECK_UNREACHABLE, d->object, 0, 0);
		if (!d->holder)
			mend(c, MEND_LOST, d->object, 0, 0);
	}
}

static void check_file(struct fs_check *c, const struct known_object *o)
{
	object_t id = o->object & LSN_MAX;

	if (o->names == o->nlink)
		return;
	report(c, CHECK_LINKS, id, o->names, o->nlink);
	if (o->names)
		mend(c, MEND_NLINK, id, o->names, 0);
	else
		mend(c, MEND_LOST, id, 0, 0);
}

static void missing_orphan(struct fs_check *c, object_t id)
{
	report(c, CHECK_ORPHAN_MISSING, id, 0, 0);
	mend(c, MEND_ORPHAN, id, false, 0);
}

static void check_listed(struct fs_check *c, const struct known_object *o, bool listed)
{
	object_t id = o->object & LSN_MAX;

	if (listed && o->nlink) {
		report(c, CHECK_ORPHAN_LINKED, id, 0, o->nlink);
		mend(c, MEND_ORPHAN, id, false, 0);
	}
	if (!listed && !o->nlink) {
		report(c, CHECK_ORPHAN_UNLISTED, id, 0, 0);
		if (!o->names)
			mend(c, MEND_ORPHAN, id, true, 0);
	}
}

static void missing_root(struct fs_check *c)
{
	report(c, CHECK_ROOT_MISSING, OBJECT_ROOT, 0, 0);
	mend(c, MEND_INODE, OBJECT_ROOT, DT_DIR, 0);
}

static void check_objects(struct fs_check *c, struct fs_check_result *result)
{
	const struct known_object *o = c->objects.data;
	const object_t *orphan = c->orphans.data;
	struct known_dir *root = find_dir(c, OBJECT_ROOT);
	size_t next = 0;

	if (root)
		root->way = WAY_ROOT;
	else if (c->objects.count)
		missing_root(c);
	for (size_t i = 0; i < c->objects.count; i++) {
		object_t id = o[i].object & LSN_MAX;
		bool listed;
		for (; next < c->orphans.count && orphan[next] < id; next++)
			missing_orphan(c, orphan[next]);
		listed = next < c->orphans.count && orphan[next] == id;
		next += listed;
		if (!type_of(&o[i]))
			continue;
		result->directories += type_of(&o[i]) == DT_DIR;
		result->files += type_of(&o[i]) != DT_DIR;
		check_listed(c, &o[i], listed);
		if (type_of(&o[i]) == DT_DIR)
			check_directory(c, &o[i]);
		else
			check_file(c, &o[i]);
	}
	for (; next < c->orphans.count; next++)
		missing_orphan(c, orphan[next]);
}

static int hidden_order(const void *a, const void *b)
{
	const struct hidden *x = a, *y = b;
	return x->object < y->object ? -1 : x->object > y->object;
}

static void leaked(struct fs_check *c, const struct hidden *h)
{
	report(c, CHECK_HIDDEN_LEAKED, h->object, 0, h->pages);
	mend(c, MEND_INODE, h->object, DT_REG, h->end);
}

static void check_hidden(struct fs_check *c)
{
	const struct hidden *h = c->hidden.data, *r = c->references.data;
	size_t next = 0;

	if (c->references.count)
		qsort(c->references.data, c->references.count, sizeof *r, hidden_order);
	for (size_t i = 0; i < c->references.count; i++) {
		if (i && r[i].object == r[i - 1].object) {
			report(c, CHECK_HIDDEN_TWICE, r[i].owner, 0, r[i].object);
			mend_key(c, MEND_DELETE, (struct item_key){ r[i].owner, r[i].sub }, 0);
			continue;
		}
		for (; next < c->hidden.count && h[next].object < r[i].object; next++)
			leaked(c, &h[next]);
		bool there = next < c->hidden.count && h[next].object == r[i].object;
		if (!there || h[next].pages != r[i].pages || h[next].end != r[i].pages) {
			report(c, CHECK_HIDDEN_MISSING, r[i].owner, r[i].pages, there ? h[next].pages : 0);
			mend_key(c, MEND_DELETE, (struct item_key){ r[i].owner, r[i].sub }, 0);
		}
		next += there;
	}
	for (; next < c->hidden.count; next++)
		leaked(c, &h[next]);
}

static void report_lost(struct fs_check *c)
{
	struct lost_run *lost = c->lost.data;
	const struct lost_run *named = lost;

	for (size_t i = 0; i < c->lost.count; i++) {
		struct check_finding f = { .kind = CHECK_BYTES_LOST, .object = lost[i].object, .expected = lost[i].from << PAGE_SHIFT };
		uint64_t end = lost[i].to << PAGE_SHIFT;
		if (lost[i].object != named->object)
			named = &lost[i];
		f.found = (end < lost[i].size ? end : lost[i].size) - 1;
		f.name = named->name;
		f.parent = named->parent;
		check_report(&c->config, c->result, &f);
	}
}

static void free_lost(struct array *lost)
{
	const struct lost_run *run = lost->data;
	for (size_t i = 0; i < lost->count; i++)
		free(run[i].name);
	free(lost->data);
}

// What the store finds of pages that read as errors.
static void note_damage(struct fs_check *c, const struct check_finding *f)
{
	if (!c->mends->drop_damaged || c->mends->damage_noted || f->kind >= CHECK_ROOT_MISSING)
		return;
	if (f->object == OBJECT_STORE || check_mend(f) != MEND_NOT)
		return;
	page_t page = f->place == PLACE_FRAME ? f->page : f->at;
	mend(c, MEND_DROP, f->object, page, page + (f->kind == CHECK_PAGE_LOST ? f->found : 1));
}

static void found_below(void *arg, const struct check_finding *f)
{
	struct fs_check *c = arg;

	if (c->mends)
		note_damage(c, f);
	if (c->caller->report)
		c->caller->report(c->caller->arg, f);
}

static void progress_below(void *arg, const char *what, uint64_t done, uint64_t total)
{
	const struct fs_check *c = arg;

	if (c->caller->progress)
		c->caller->progress(c->caller->arg, what, done, total);
}

int fs_check(struct store *store, const struct check_config *config, struct fs_check_result *ret_result)
{
	return fs_check_noting(store, config, NULL, ret_result);
}

int fs_check_noting(struct store *store, const struct check_config *config, struct fs_mends *mends,
		    struct fs_check_result *ret_result)
{
	static const struct check_visitor objects = { take_item, take_pages, take_content };
	static const struct check_visitor entries = { .item = take_entry };
	struct fs_check *c = calloc(1, sizeof *c);
	int r;

	*ret_result = (struct fs_check_result){ 0 };
	if (!c)
		return -ENOMEM;
	c->store = store;
	c->caller = config;
	c->mends = mends;
	c->config = *config;
	c->config.report = found_below;
	c->config.progress = progress_below;
	c->config.arg = c->config.visitor_arg = c;
	c->config.visitor = &objects;
	c->result = &ret_result->store;
	r = store_check(store, &c->config, &ret_result->store);
	if (!r)
		r = end_object(c);
	if (!r) {
		c->config.visitor = &entries;
		r = check_each_item(store, &c->config);
	}
	if (!r) {
		check_objects(c, ret_result);
		check_hidden(c);
		report_lost(c);
	}
	free(c->objects.data);
	free(c->dirs.data);
	free(c->orphans.data);
	free(c->hidden.data);
	free(c->references.data);
	free(c->missing.data);
	free_lost(&c->lost);
	free(c);
	return r || !mends || !mends->failed ? r : -ENOMEM;
}
