// SPDX-License-Identifier: GPL-2.0-or-later
// Access times. A read changes nothing on the media: what it would change is noted in a bounded table in
// DRAM, shown by every stat, and written into the inodes' items in the background, when the table fills
// up and at the end of the mount. A crash loses it.
//
// 1. An entry is about an inode whose item has the access time `base`. Another time in the item makes the
//    entry void; so no commit has to know of the table, but for who sets the time to what it was.
// 2. A look takes no lock and does no atomic write: each set has a sequence, odd while it changes.
// 3. With relatime, the default, few reads ever get past the first comparison.
#include "fs_impl.h"
#include "hash.h"

#define FRESH_SEC 86400

void atime_init(struct fs *fs)
{
	for (unsigned i = 0; i < ATIME_SETS; i++)
		pthread_mutex_init(&fs->atime.set[i].lock, NULL);
}

void atime_fini(struct fs *fs)
{
	for (unsigned i = 0; i < ATIME_SETS; i++)
		pthread_mutex_destroy(&fs->atime.set[i].lock);
}

void fs_set_atime(struct fs *fs, enum fs_atime mode, bool directories)
{
	fs->atime.mode = mode;
	fs->atime.directories = directories;
}

static struct atime_set *set_of(struct fs *fs, object_t id)
{
	return &fs->atime.set[hash_mix(id, 0x6174696d) % ATIME_SETS];
}

static bool time_equal(struct time_disk a, struct time_disk b)
{
	return a.sec == b.sec && a.nsec == b.nsec;
}

static bool time_after(struct time_disk a, struct time_disk b)
{
	return a.sec != b.sec ? a.sec > b.sec : a.nsec > b.nsec;
}

struct time_disk atime_of(struct fs *fs, const struct inode *inode)
{
	struct atime_set *set = set_of(fs, inode->id);
	struct time_disk atime = inode->disk.atime;
	uint32_t sequence;

	if (!atomic_load_explicit(&fs->atime.count, memory_order_relaxed))
		return atime;
	do {
		sequence = atomic_load_explicit(&set->sequence, memory_order_acquire);
		atime = inode->disk.atime;
		for (unsigned i = 0; i < ATIME_WAYS; i++) {
			const struct atime_entry *e = &set->entry[i];

			if (__atomic_load_n(&e->id, __ATOMIC_RELAXED) != inode->id ||
			    __atomic_load_n(&e->base.sec, __ATOMIC_RELAXED) != inode->disk.atime.sec ||
			    __atomic_load_n(&e->base.nsec, __ATOMIC_RELAXED) != inode->disk.atime.nsec)
				continue;
			atime.sec = __atomic_load_n(&e->atime.sec, __ATOMIC_RELAXED);
			atime.nsec = __atomic_load_n(&e->atime.nsec, __ATOMIC_RELAXED);
		}
		atomic_thread_fence(memory_order_acquire);
	} while (sequence & 1 || atomic_load_explicit(&set->sequence, memory_order_relaxed) != sequence);
	return atime;
}

static void store_time(struct time_disk *to, struct time_disk time)
{
	__atomic_store_n(&to->sec, time.sec, __ATOMIC_RELAXED);
	__atomic_store_n(&to->nsec, time.nsec, __ATOMIC_RELAXED);
}

static void begin_locked(struct atime_set *set)
{
	atomic_fetch_add(&set->sequence, 1);
}

static void end_locked(struct atime_set *set)
{
	atomic_fetch_add(&set->sequence, 1);
}

static void note(struct fs *fs, const struct inode *inode, struct time_disk now)
{
	struct atime_set *set = set_of(fs, inode->id);
	struct atime_entry *place = NULL;

	pthread_mutex_lock(&set->lock);
	for (unsigned i = 0; i < ATIME_WAYS; i++) {
		struct atime_entry *e = &set->entry[i];

		if (e->id == inode->id) {
			place = e;
			break;
		}
		if (!e->id && !place)
			place = e;
	}
	if (place) { // else the next read may find room
		if (!place->id)
			atomic_fetch_add(&fs->atime.count, 1);
		begin_locked(set);
		__atomic_store_n(&place->id, inode->id, __ATOMIC_RELAXED);
		store_time(&place->base, inode->disk.atime);
		store_time(&place->atime, now);
		end_locked(set);
	}
	pthread_mutex_unlock(&set->lock);
}

void atime_touch(struct fs *fs, const struct inode *inode)
{
	struct timespec now;
	struct time_disk atime;

	if (fs->atime.mode == FS_ATIME_NEVER || inode->disk.flags & INODE_NOATIME || store_read_only(fs->store) ||
	    (inode_is(inode, S_IFDIR) && !fs->atime.directories))
		return;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	if (fs->atime.mode == FS_ATIME_RELATIVE) {
		atime = inode->disk.atime;
		if (time_after(atime, inode->disk.mtime) && time_after(atime, inode->disk.ctime) &&
		    now.tv_sec - atime.sec < FRESH_SEC)
			return;
		atime = atime_of(fs, inode);
		if (time_after(atime, inode->disk.mtime) && time_after(atime, inode->disk.ctime) &&
		    now.tv_sec - atime.sec < FRESH_SEC)
			return;
	}
	note(fs, inode, time_now());
}

// ---- writing down

bool fs_has_atimes(const struct fs *fs)
{
	return atomic_load_explicit(&fs->atime.count, memory_order_relaxed) > ATIME_PLENTY;
}

static bool take(struct fs *fs, bool all, struct atime_entry *ret_entry)
{
	bool found = false;

	if (atomic_load(&fs->atime.count) <= (all ? 0 : ATIME_PLENTY))
		return false;
	for (unsigned i = 0; i < ATIME_SETS && !found; i++) {
		struct atime_set *set = &fs->atime.set[atomic_fetch_add(&fs->atime.hand, 1) % ATIME_SETS];

		pthread_mutex_lock(&set->lock);
		for (unsigned k = 0; k < ATIME_WAYS && !found; k++) {
			*ret_entry = set->entry[k];
			found = ret_entry->id;
		}
		pthread_mutex_unlock(&set->lock);
	}
	return found;
}

// With `written` only if it was not noted again meanwhile.
static void forget(struct fs *fs, object_t id, const struct atime_entry *written)
{
	struct atime_set *set = set_of(fs, id);

	pthread_mutex_lock(&set->lock);
	for (unsigned i = 0; i < ATIME_WAYS; i++) {
		struct atime_entry *e = &set->entry[i];

		if (e->id != id || (written && (!time_equal(e->base, written->base) || !time_equal(e->atime, written->atime))))
			continue;
		begin_locked(set);
		__atomic_store_n(&e->id, 0, __ATOMIC_RELAXED);
		end_locked(set);
		atomic_fetch_sub(&fs->atime.count, 1);
	}
	pthread_mutex_unlock(&set->lock);
}

void atime_forget(struct fs *fs, object_t id)
{
	if (atomic_load(&fs->atime.count))
		forget(fs, id, NULL);
}

static int write_entry(struct op *op, const struct atime_entry *entry)
{
	struct inode inode;
	int r = inode_watch_get(op, entry->id, &inode);

	if (r)
		return r;
	if (!time_equal(inode.disk.atime, entry->base))
		return 0; // it was set
	inode.disk.atime = entry->atime;
	r = inode_put(op, &inode);
	return r ? r : txn_commit(op, true);
}

bool fs_write_atime(struct fs *fs, struct lane *lane, bool all)
{
	struct atime_entry entry;
	struct op *op;
	int r;

	if (!take(fs, all, &entry))
		return false;
	op = op_begin(lane);
	do
		r = write_entry(op, &entry);
	while (all ? op_again(op, &r) : op_try(op, &r));
	op_end(op);
	if (r == -EAGAIN)
		return false;
	forget(fs, entry.id, &entry); // what cannot be written is given up
	return true;
}
