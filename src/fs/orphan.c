// SPDX-License-Identifier: GPL-2.0-or-later
// Objects without a name: they live as long as someone has them open or the kernel knows them.
//
// 1. On the media an object with nlink 0 has an ORPHAN item, put by the commit that took its last
//    name away. Whatever is lost in DRAM, the next mount finds it there.
// 2. In DRAM there is one `struct known` for each object that is open or an orphan of this mount:
//
//	                 orphan_add                fs_forgotten
//	    open n times ----------> open, orphan -------------> open, orphan, forgotten
//	         | fs_released            | fs_released                | fs_released: n = 0
//	         v n = 0: freed           v n = 0: kept                v
//	                                             ready queue -> fs_next_orphan() -> fs_drop()
//
//    An orphan both closed and forgotten goes to the queue, in whatever order the two came. What cannot be
//    dropped, for want of memory or of the backing, goes there again, and is tried after a while.
// 3. The kernel says "forgotten" only after the reply to the unlink, thus after orphan_add().
//    An orphan by birth (O_TMPFILE) may be given a name as long as it is open: orphan_remove().
// 4. Without memory for a count, an open fails, unless it has made the file. Without memory for an orphan, it
//    waits for the next mount.
#include <stdlib.h>
#include "clock.h"
#include "fs_impl.h"
#include "hash.h"

struct known {
	object_t id;
	struct known *next; // of the bucket or of the ready queue
	unsigned opens;
	bool orphan, forgotten;
	bool linkable; // an orphan by birth
};

#define BUCKETS_MIN 64u
#define DROP_AGAIN_MS 1000u

void orphan_init(struct fs *fs)
{
	pthread_mutex_init(&fs->lock, NULL);
	fs->ready_end = &fs->ready;
}

static void free_list(struct known *k)
{
	while (k) {
		struct known *next = k->next;

		free(k);
		k = next;
	}
}

void orphan_fini(struct fs *fs)
{
	for (size_t i = 0; i < fs->buckets; i++)
		free_list(fs->bucket[i]);
	free_list(fs->ready);
	free_list(fs->dropping);
	free(fs->bucket);
	pthread_mutex_destroy(&fs->lock);
}

static struct known **bucket_locked(struct fs *fs, object_t id)
{
	return &fs->bucket[hash_mix(id, 0) & (fs->buckets - 1)];
}

// The pointer that leads to it, or NULL.
static struct known **find_locked(struct fs *fs, object_t id)
{
	struct known **link;

	if (!fs->buckets)
		return NULL;
	for (link = bucket_locked(fs, id); *link; link = &(*link)->next)
		if ((*link)->id == id)
			return link;
	return NULL;
}

// The table follows its use in both directions. Without memory it stays as it is, only slower.
static void resize_locked(struct fs *fs, size_t buckets)
{
	struct known **old = fs->bucket, **bucket = calloc(buckets, sizeof *bucket);
	size_t old_buckets = fs->buckets;

	if (!bucket)
		return;
	fs->bucket = bucket;
	fs->buckets = buckets;
	for (size_t i = 0; i < old_buckets; i++) {
		struct known *k = old[i];

		while (k) {
			struct known *next = k->next, **link = bucket_locked(fs, k->id);

			k->next = *link;
			*link = k;
			k = next;
		}
	}
	free(old);
}

static struct known *get_locked(struct fs *fs, object_t id)
{
	struct known **link = find_locked(fs, id), *k;

	if (link)
		return *link;
	if (fs->known >= fs->buckets)
		resize_locked(fs, fs->buckets ? fs->buckets * 2 : BUCKETS_MIN);
	k = fs->buckets ? calloc(1, sizeof *k) : NULL;
	if (!k)
		return NULL;
	k->id = id;
	link = bucket_locked(fs, id);
	k->next = *link;
	*link = k;
	fs->known++;
	return k;
}

static struct known *remove_locked(struct fs *fs, struct known **link)
{
	struct known *k = *link;

	*link = k->next;
	fs->known--;
	if (fs->buckets > BUCKETS_MIN && fs->known < fs->buckets / 8)
		resize_locked(fs, fs->buckets / 2);
	return k;
}

static void queue_locked(struct fs *fs, struct known *k)
{
	k->next = NULL;
	*fs->ready_end = k;
	fs->ready_end = &k->next;
	atomic_fetch_add(&fs->ready_count, 1);
}

// After a change of what *link points to.
static void settle_locked(struct fs *fs, struct known **link)
{
	struct known *k = *link;

	if (k->opens)
		return;
	if (!k->orphan) {
		free(remove_locked(fs, link));
	} else if (k->forgotten) {
		queue_locked(fs, remove_locked(fs, link));
		atomic_fetch_sub(&fs->orphans, 1);
	}
}

int fs_opened(struct fs *fs, object_t id)
{
	struct known *k;

	pthread_mutex_lock(&fs->lock);
	k = get_locked(fs, id);
	if (k)
		k->opens++;
	pthread_mutex_unlock(&fs->lock);
	return k ? 0 : -ENOMEM;
}

void fs_released(struct fs *fs, object_t id)
{
	struct known **link;

	pthread_mutex_lock(&fs->lock);
	link = find_locked(fs, id);
	if (link && (*link)->opens) {
		(*link)->opens--;
		settle_locked(fs, link);
	}
	pthread_mutex_unlock(&fs->lock);
}

void fs_forgotten(struct fs *fs, object_t id)
{
	struct known **link;

	if (!atomic_load(&fs->orphans))
		return;
	pthread_mutex_lock(&fs->lock);
	link = find_locked(fs, id);
	if (link && (*link)->orphan) {
		(*link)->forgotten = true;
		settle_locked(fs, link);
	}
	pthread_mutex_unlock(&fs->lock);
}

// Without memory the object waits for the next mount, here and below.
static void add(struct fs *fs, object_t id, bool linkable)
{
	struct known *k;

	pthread_mutex_lock(&fs->lock);
	k = get_locked(fs, id);
	if (k && !k->orphan) {
		k->orphan = true;
		k->linkable = linkable;
		atomic_fetch_add(&fs->orphans, 1);
	}
	pthread_mutex_unlock(&fs->lock);
}

void orphan_add(struct fs *fs, object_t id)
{
	add(fs, id, false);
}

void orphan_add_linkable(struct fs *fs, object_t id)
{
	add(fs, id, true);
}

bool orphan_is_linkable(struct fs *fs, object_t id)
{
	struct known **link;
	bool linkable;

	pthread_mutex_lock(&fs->lock);
	link = find_locked(fs, id);
	linkable = link && (*link)->linkable;
	pthread_mutex_unlock(&fs->lock);
	return linkable;
}

void orphan_remove(struct fs *fs, object_t id)
{
	struct known **link;

	pthread_mutex_lock(&fs->lock);
	link = find_locked(fs, id);
	if (link && (*link)->orphan) {
		(*link)->orphan = (*link)->linkable = (*link)->forgotten = false;
		atomic_fetch_sub(&fs->orphans, 1);
		settle_locked(fs, link);
	}
	pthread_mutex_unlock(&fs->lock);
}

int orphan_add_ready(struct fs *fs, object_t id)
{
	struct known *k = calloc(1, sizeof *k);

	if (!k)
		return -ENOMEM;
	k->id = id;
	pthread_mutex_lock(&fs->lock);
	queue_locked(fs, k);
	pthread_mutex_unlock(&fs->lock);
	return 0;
}

bool fs_has_orphans(struct fs *fs)
{
	return atomic_load(&fs->ready_count) && now_ms() >= atomic_load(&fs->drop_again_ms);
}

object_t fs_next_orphan(struct fs *fs)
{
	struct known *k;
	object_t id = 0;

	if (!fs_has_orphans(fs))
		return 0;
	pthread_mutex_lock(&fs->lock);
	k = fs->ready;
	if (k) {
		fs->ready = k->next;
		if (!fs->ready)
			fs->ready_end = &fs->ready;
		atomic_fetch_sub(&fs->ready_count, 1);
		id = k->id;
		k->next = fs->dropping;
		fs->dropping = k;
	}
	pthread_mutex_unlock(&fs->lock);
	return id;
}

void fs_dropped(struct fs *fs, object_t id, int result)
{
	struct known **link, *k;

	pthread_mutex_lock(&fs->lock);
	for (link = &fs->dropping; (*link)->id != id;)
		link = &(*link)->next;
	k = *link;
	*link = k->next;
	if (!result || result == -EUCLEAN) {
		free(k);
	} else {
		atomic_store(&fs->drop_again_ms, now_ms() + DROP_AGAIN_MS);
		queue_locked(fs, k);
	}
	pthread_mutex_unlock(&fs->lock);
}

static int drop_whole(struct op *op, struct inode *inode)
{
	txn_gives_back(op, inode_count_dropped(&inode->disk, 0, PAGE_MAX + 1));
	return txn_drop_object(op, inode->id);
}

// Hidden objects are named by items of the object, and would be lost with them: so they go with it
// in one transaction or, if there are more than fit a record, in some before it.
int fs_drop(struct op *op, struct fs *fs, object_t id)
{
	struct inode inode;
	bool more = false;
	int r;

	r = inode_watch_get(op, id, &inode);
	if (r && r != -ESTALE)
		return r;
	if (!r) {
		if (inode.disk.nlink) {
			log_error("object %llu has %u links, but is listed as unlinked", (unsigned long long)id,
				  inode.disk.nlink);
			return -EUCLEAN;
		}
		r = xattr_drop_hidden(op, &inode, &more);
		if (!r)
			r = more ? inode_put(op, &inode) : drop_whole(op, &inode);
		if (r)
			return r;
	}
	if (!more) {
		r = txn_delete(op, item_key(OBJECT_STORE, ITEM_ORPHAN, id));
		if (r)
			return r;
	}
	r = txn_commit(op, true);
	return r ? r : more;
}
