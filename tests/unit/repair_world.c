// SPDX-License-Identifier: GPL-2.0-or-later
#include "repair_world.h"
#include <errno.h>
#include <stdlib.h>

// ---- as fsck does -----------------------------------------------------------------------------------

unsigned stay;

void note_all(void *arg, const struct check_finding *f)
{
	note(arg, f);
	stay += !f->warning && check_mend(f) == MEND_NOT;
}

int open_for(bool repair, struct store **ret_store)
{
	struct store_config c = config;
	c.read_only = c.salvage = true;
	c.repair = repair;
	c.format_blank = false;
	return store_open(&c, ret_store);
}

int writes_left = -1;
int reads_left = -1;
bool reads_go_on;
static bool rebuilding;
bool dropping;

static int count_reads(void)
{
	if (!rebuilding || reads_left < 0 || (reads_left == 0 && reads_go_on))
		return 0;
	if (reads_left > 1)
		return reads_left--, 0;
	reads_left = reads_go_on ? 0 : 1;
	return -EIO;
}

static int count_ios(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	if (kind == 'r')
		return count_reads();
	if (writes_left < 0)
		return 0;
	if (writes_left == 0)
		return -EIO; // as is every one after it
	writes_left--;
	return 0;
}

int rebuild(struct store *s, const struct check_config *check)
{
	rebuilding = true;
	int r = store_rebuild(s, check, result.store.nodes_lost);
	rebuilding = false;
	return r;
}

int run_repair(bool drop_damaged)
{
	static const struct backing_hook hook = { count_ios, NULL };
	struct check_config check = { .report = note_all };
	struct fs_mends *mends;
	struct store *s;
	int r = open_for(true, &s);

	if (r)
		return r;
	s->backing->hook = &hook;
	founds = stay = 0;
	dropping = drop_damaged;
	assert_int_equal(fs_mends_new(drop_damaged, &mends), 0);
	r = fs_check_noting(s, &check, mends, &result);
	bool wanted = !r && result.store.errors > (drop_damaged ? 0 : stay);
	if (wanted) {
		r = fs_mend(s, &check, mends);
		if (!r)
			r = rebuild(s, &check);
		if (!r)
			r = store_put_in_force(s);
	}
	fs_mends_free(mends);
	store_close(s);
	return r ? r : wanted;
}

int check_again(void)
{
	struct check_config check = { .report = note_all };
	struct store *s;
	int r = open_for(false, &s);
	if (r)
		return r;
	founds = stay = 0;
	r = fs_check(s, &check, &result);
	store_close(s);
	return r;
}

void assert_only_stays(const char *name)
{
	int r = check_again();
	if (r)
		fail_msg("%s: cannot be checked once repaired: %d", name, r);
	for (unsigned i = 0; i < founds; i++) {
		char line[1024];
		if (found[i].warning || check_mend(&found[i]) == MEND_NOT)
			continue;
		check_describe(&found[i], line, sizeof line);
		fail_msg("%s: found after the repair: %s", name, line);
	}
}

void put_case(void)
{
	image_write(tier_path, tier, TIER_BYTES);
	image_write(backing_path, backing, BACKING_BYTES);
}

void assert_works(const char *name)
{
	open_fs();
	object_t id = make(OBJECT_ROOT, "made after the repair", S_IFREG | 0644, NULL);
	write_file(id, 0, 3 * PAGE_BYTES);
	close_fs(false);
	assert_only_stays(name);
}

// ---- what is there ------------------------------------------------------------------------------------

static void view_add(struct view *v, struct item_key key, uint64_t hash, uint64_t size)
{
	if (v->count == v->room) {
		v->room = v->room ? 2 * v->room : 1024;
		v->seen = realloc(v->seen, v->room * sizeof *v->seen);
		assert_non_null(v->seen);
	}
	v->seen[v->count++] = (struct seen){ key, hash, size };
}

// Of an inode what is not counted.
static int view_item(void *arg, struct item_key key, const void *value, size_t bytes)
{
	const struct inode_disk *i = value;
	if (key.object == OBJECT_STORE)
		return 0;
	if (item_key_type(key) == ITEM_INODE && bytes >= sizeof *i) {
		const uint64_t kept[] = { i->mode, i->uid, i->gid, i->size, (uint64_t)i->mtime.sec, i->rdev };
		view_add(arg, key, hash_bytes(kept, sizeof kept) ^ hash_bytes(i + 1, bytes - sizeof *i), i->size);
	} else {
		view_add(arg, key, hash_bytes(value, bytes), 0);
	}
	return 0;
}

static int view_pages(void *arg, object_t object, page_t first, unsigned count, uint64_t *ret_tag)
{
	struct view *v = arg;
	v->pages = realloc(v->pages, (v->page_runs + 1) * sizeof *v->pages);
	assert_non_null(v->pages);
	v->pages[v->page_runs++] = (struct pages){ object, first, first + count };
	return 0;
}

static int view_page(void *arg, object_t object, page_t page, const void *data, uint64_t tag)
{
	view_add(arg, item_key(object, ITEM_EXTENT, page), hash_bytes(data, PAGE_BYTES), 0);
	return 0;
}

static int seen_order(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;
	return item_key_compare(x->key, y->key);
}

struct view view_now(void)
{
	static const struct check_visitor visitor = { view_item, view_pages, view_page };
	struct view v = { 0 };
	struct check_config check = { .visitor = &visitor, .visitor_arg = &v };
	struct check_result looked_at;
	struct store *s;

	assert_int_equal(open_for(false, &s), 0);
	assert_int_equal(store_check(s, &check, &looked_at), 0);
	v.incomplete = looked_at.nodes_lost;
	store_close(s);
	if (!v.seen) // nothing is there
		v.seen = calloc(1, sizeof *v.seen);
	assert_non_null(v.seen);
	qsort(v.seen, v.count, sizeof *v.seen, seen_order);
	return v;
}

static bool told(struct item_key key)
{
	for (unsigned i = 0; i < founds; i++) {
		const struct check_finding *f = &found[i];
		struct item_key from = { f->object, f->at }, to = { f->expected, f->found };
		if (f->copied)
			continue;
		if (f->object == key.object)
			return true;
		if (f->kind == CHECK_RANGE_LOST && item_key_compare(key, from) >= 0 && item_key_compare(key, to) < 0)
			return true;
	}
	return founds == FINDINGS_MAX;
}

const struct seen *seen_at(const struct view *v, struct item_key key)
{
	const struct seen wanted = { .key = key };
	return bsearch(&wanted, v->seen, v->count, sizeof wanted, seen_order);
}

// Does it read as zeroes now?
static bool is_hole(const struct view *v, struct item_key key)
{
	const struct seen *inode = seen_at(v, item_key(key.object, ITEM_INODE, 0));
	page_t page = item_key_rest(key);
	if (v->incomplete || item_key_type(key) != ITEM_EXTENT || !inode || inode->size <= page << PAGE_SHIFT)
		return false;
	for (size_t i = 0; i < v->page_runs; i++)
		if (v->pages[i].object == key.object && page >= v->pages[i].from && page < v->pages[i].to)
			return false;
	return true;
}

void view_free(struct view *v)
{
	free(v->seen);
	free(v->pages);
}

void assert_kept(const char *name, const struct view *before)
{
	struct view now = view_now();
	for (size_t i = 0; i < before->count; i++) {
		const struct seen *b = &before->seen[i];
		const struct seen *a = seen_at(&now, b->key);
		if (!a && !dropping && is_hole(&now, b->key))
			fail_msg("%s: object %llu, page %llu reads as zeroes", name, (unsigned long long)b->key.object,
				 (unsigned long long)item_key_rest(b->key));
		if ((!a || a->hash != b->hash) && !told(b->key))
			fail_msg("%s: object %llu, item %016llx is %s, and was not told", name, (unsigned long long)b->key.object,
				 (unsigned long long)b->key.sub, a ? "changed" : "gone");
	}
	view_free(&now);
}
