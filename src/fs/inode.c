// SPDX-License-Identifier: GPL-2.0-or-later
// Inodes: all of an object's attributes are in its one item, which every commit puts whole.
// Access times between two commits are atime.c's.
#include <fcntl.h>
#include <linux/fs.h>
#include <time.h>
#include "fs_impl.h"

struct time_disk time_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (struct time_disk){ .sec = now.tv_sec, .nsec = (uint32_t)now.tv_nsec };
}

static struct time_disk time_from(struct timespec t)
{
	return (struct time_disk){ .sec = t.tv_sec, .nsec = (uint32_t)t.tv_nsec };
}

static struct timespec time_to(struct time_disk t)
{
	return (struct timespec){ .tv_sec = t.sec, .tv_nsec = t.nsec };
}

static bool inode_valid(const struct inode_disk *disk, unsigned bytes)
{
	if (bytes < sizeof *disk || bytes > ITEM_VALUE_MAX)
		return false;
	switch (disk->mode & S_IFMT) {
	case S_IFREG:
		return bytes == sizeof *disk && disk->size <= FILE_BYTES_MAX && inode_pages_end_good(disk);
	case S_IFLNK:
		return disk->size <= SYMLINK_BYTES_MAX && (bytes == sizeof *disk || bytes - sizeof *disk == disk->size);
	case S_IFDIR:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return bytes == sizeof *disk;
	default:
		return false;
	}
}

int inode_get(struct op *op, object_t id, struct inode *ret_inode)
{
	int r = op_get(op, item_key(id, ITEM_INODE, 0), ret_inode->raw, sizeof ret_inode->raw);

	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	if (!inode_valid(&ret_inode->disk, (unsigned)r)) {
		log_error("object %llu: the inode is malformed (%d bytes)", (unsigned long long)id, r);
		return -EUCLEAN;
	}
	ret_inode->id = id;
	ret_inode->bytes = (unsigned)r;
	return 0;
}

int inode_watch_get(struct op *op, object_t id, struct inode *ret_inode)
{
	int r = op_watch(op, id);

	return r ? r : inode_get(op, id, ret_inode);
}

int inode_put(struct op *op, const struct inode *inode)
{
	return txn_put(op, item_key(inode->id, ITEM_INODE, 0), inode->raw, inode->bytes);
}

void inode_stat(struct fs *fs, const struct inode *inode, struct stat *ret_attr)
{
	const struct inode_disk *disk = &inode->disk;

	*ret_attr = (struct stat){
		.st_ino = inode->id,
		.st_mode = disk->mode,
		.st_nlink = disk->nlink,
		.st_uid = disk->uid,
		.st_gid = disk->gid,
		.st_rdev = disk->rdev,
		.st_size = (off_t)(S_ISDIR(disk->mode) ? disk->entries : disk->size),
		.st_blksize = PAGE_BYTES,
		.st_atim = time_to(atime_of(fs, inode)),
		.st_mtim = time_to(disk->mtime),
		.st_ctim = time_to(disk->ctime),
	};
	if (S_ISREG(disk->mode))
		ret_attr->st_blocks = disk->flags & INODE_PAGES_UNSURE ? FS_BLOCKS_UNKNOWN :
									 (blkcnt_t)(disk->pages * (PAGE_BYTES / 512));
	else if (S_ISLNK(disk->mode) && inode->bytes == sizeof *disk)
		ret_attr->st_blocks = PAGE_BYTES / 512;
}

// ---- pages that are no holes

#define COUNT_ATTEMPTS 3u // of a file that is written to meanwhile

page_t inode_pages_end(const struct inode_disk *disk)
{
	page_t pages = pages_of(disk->size);

	return disk->pages_end > pages ? disk->pages_end : pages;
}

void inode_set_pages_end(struct inode_disk *disk, page_t end)
{
	disk->pages_end = end > pages_of(disk->size) ? end : 0;
}

bool inode_pages_end_good(const struct inode_disk *disk)
{
	return !disk->pages_end || (disk->pages_end > pages_of(disk->size) && disk->pages_end <= pages_of(FILE_BYTES_MAX));
}

bool inode_is_dense(const struct inode_disk *disk)
{
	return !(disk->flags & INODE_PAGES_UNSURE) && disk->pages == inode_pages_end(disk);
}

void inode_count_written(struct op *op, object_t id, struct inode_disk *disk, page_t first, page_t last)
{
	page_t end = inode_pages_end(disk);
	uint64_t fresh = last < end ? 0 : last + 1 - (first > end ? first : end);

	if (disk->flags & INODE_PAGES_UNSURE)
		return;
	for (page_t page = first; page <= last && page < end && !inode_is_dense(disk); page++) {
		int known = op_page_known(op, id, page);

		if (known < 0) {
			disk->flags |= INODE_PAGES_UNSURE;
			return;
		}
		fresh += !known;
	}
	disk->pages += fresh;
}

uint64_t inode_count_dropped(struct inode_disk *disk, page_t first, page_t end)
{
	page_t pages_end = inode_pages_end(disk);
	uint64_t before = disk->pages;

	if (end > pages_end)
		end = pages_end;
	if (first >= end)
		return 0;
	if (first == 0 && end == pages_end) {
		bool unsure = disk->flags & INODE_PAGES_UNSURE;

		disk->flags &= ~(uint32_t)INODE_PAGES_UNSURE;
		disk->pages = 0;
		return unsure ? 0 : before;
	}
	if (inode_is_dense(disk))
		disk->pages -= end - first;
	else if (disk->flags & INODE_PAGES_UNSURE || disk->pages)
		disk->flags |= INODE_PAGES_UNSURE;
	return before - disk->pages;
}

// Every change of the pages changes the ctime.
static bool is_unchanged(const struct inode_disk *disk, const struct fs_count *since)
{
	return disk->ctime.sec == since->ctime_sec && disk->ctime.nsec == since->ctime_nsec;
}

int fs_count(struct op *op, struct fs *fs, object_t id, const struct fs_count *before, struct fs_count *ret_count)
{
	struct fs_count count = *before;
	struct inode inode;
	uint64_t pages;
	int r;

	r = inode_watch_get(op, id, &inode);
	if (r)
		return r;
	count.done = !(inode.disk.flags & INODE_PAGES_UNSURE);
	if (count.done) {
		count.pages = inode.disk.pages;
		*ret_count = count;
		return 0;
	}
	if (count.next && !is_unchanged(&inode.disk, &count))
		count = (struct fs_count){ .attempts = count.attempts + 1 };
	count.ctime_sec = inode.disk.ctime.sec;
	count.ctime_nsec = inode.disk.ctime.nsec;
	r = op_count(op, id, count.next, &pages, &count.next);
	if (r)
		return r;
	count.pages += pages;
	count.done = count.next > PAGE_MAX;
	// Nothing is gained by writing down what is about to change again.
	if (count.done && count.attempts < COUNT_ATTEMPTS && !store_read_only(fs->store)) {
		inode.disk.pages = count.pages;
		inode.disk.flags &= ~(uint32_t)INODE_PAGES_UNSURE;
		r = inode_put(op, &inode);
		if (!r)
			r = txn_commit(op, true);
	}
	if (!r)
		*ret_count = count;
	return r;
}

void inode_modified(struct inode *inode, struct time_disk now)
{
	inode->disk.mtime = inode->disk.ctime = now;
}

// As the kernel does it: S_ISGID without execution by the group meant mandatory locking once.
void inode_kill_suidgid(struct inode_disk *disk)
{
	if (S_ISDIR(disk->mode))
		return;
	disk->mode &= ~(uint32_t)S_ISUID;
	if (disk->mode & S_IXGRP)
		disk->mode &= ~(uint32_t)S_ISGID;
}

int fs_stat(struct op *op, struct fs *fs, object_t id, struct stat *ret_attr, struct timespec *ret_birth)
{
	struct inode inode;
	int r = inode_get(op, id, &inode);

	if (!r) {
		inode_stat(fs, &inode, ret_attr);
		if (ret_birth)
			*ret_birth = time_to(inode.disk.btime);
	}
	return r;
}

int fs_getattr(struct op *op, struct fs *fs, object_t id, struct stat *ret_attr)
{
	return fs_stat(op, fs, id, ret_attr, NULL);
}

// The rest of the page in which the file is to end becomes zero: bytes past the end are always zero on the
// media, so that growing needs to look at none.
static int cut_tail(struct op *op, const struct inode *inode, uint64_t size)
{
	page_t page = size >> PAGE_SHIFT;
	struct page_view view;
	void *tail;
	int r;

	r = txn_claim(op, inode->id, page, 1);
	if (!r)
		r = op_read(op, inode->id, page, 1, true, &view);
	if (r || !view.data)
		return r;
	tail = op_scratch(op, 0);
	memcpy(tail, view.data, size % PAGE_BYTES);
	return txn_page(op, inode->id, page, tail, &view);
}

// Pages past the new end become holes, those too that were allocated past the old one.
static int shrink(struct op *op, struct inode *inode, uint64_t size)
{
	page_t first = pages_of(size);
	int r = 0;

	if (size < inode->disk.size && size % PAGE_BYTES)
		r = cut_tail(op, inode, size);
	if (!r && first < inode_pages_end(&inode->disk))
		r = txn_drop(op, inode->id, first, PAGE_MAX + 1);
	if (r)
		return r;
	txn_gives_back(op, inode_count_dropped(&inode->disk, first, PAGE_MAX + 1));
	inode->disk.pages_end = 0;
	return 0;
}

static int set_size(struct op *op, struct inode *inode, uint64_t size)
{
	int r;

	if (!inode_is(inode, S_IFREG))
		return inode_is(inode, S_IFDIR) ? -EISDIR : -EINVAL;
	if (size > FILE_BYTES_MAX)
		return -EFBIG;
	r = size <= inode->disk.size ? shrink(op, inode, size) : 0;
	if (r)
		return r;
	inode->disk.size = size;
	inode_set_pages_end(&inode->disk, inode->disk.pages_end);
	return 0;
}

static void set_attributes(struct inode_disk *disk, const struct stat *attr, unsigned set)
{
	struct time_disk now = time_now();

	if (set & FS_KILL_SUIDGID)
		inode_kill_suidgid(disk);
	if (set & FS_SET_MODE)
		disk->mode = (disk->mode & S_IFMT) | (attr->st_mode & 07777);
	if (set & FS_SET_UID)
		disk->uid = attr->st_uid;
	if (set & FS_SET_GID)
		disk->gid = attr->st_gid;
	if (set & FS_SET_ATIME_NOW)
		disk->atime = now;
	else if (set & FS_SET_ATIME)
		disk->atime = time_from(attr->st_atim);
	if (set & FS_SET_MTIME && !(set & FS_SET_MTIME_NOW))
		disk->mtime = time_from(attr->st_mtim);
	else if (set & (FS_SET_MTIME_NOW | FS_SET_SIZE))
		disk->mtime = now;
	disk->ctime = set & FS_SET_CTIME ? time_from(attr->st_ctim) : now;
}

// As notify_change() has it.
static int may_set(const struct inode *inode, unsigned set)
{
	const unsigned much = FS_SET_MODE | FS_SET_UID | FS_SET_GID | FS_SET_SIZE;
	bool times = (set & FS_SET_ATIME && !(set & FS_SET_ATIME_NOW)) || (set & FS_SET_MTIME && !(set & FS_SET_MTIME_NOW));

	return set & much || times ? inode_may_change(inode) : inode_may_add(inode);
}

int fs_setattr(struct op *op, struct fs *fs, object_t id, const struct stat *attr, unsigned set, struct stat *ret_attr)
{
	struct inode inode;
	int r;

	if (!set)
		return fs_getattr(op, fs, id, ret_attr);
	r = inode_watch_get(op, id, &inode);
	if (!r)
		r = may_set(&inode, set);
	if (r)
		return r;
	if (set & FS_SET_SIZE) {
		r = set_size(op, &inode, (uint64_t)attr->st_size);
		if (r)
			return r;
	}
	if (set & (FS_SET_SIZE | FS_SET_UID | FS_SET_GID)) {
		r = xattr_drop_capability(op, &inode);
		if (r)
			return r;
	}
	set_attributes(&inode.disk, attr, set);
	r = set & FS_SET_MODE ? acl_chmod(op, &inode) : 0;
	if (!r)
		r = inode_put(op, &inode);
	if (!r)
		r = txn_commit(op, true);
	if (r)
		return r;
	if (set & (FS_SET_ATIME | FS_SET_ATIME_NOW))
		atime_forget(fs, id);
	inode_stat(fs, &inode, ret_attr);
	return 0;
}

// ---- chattr(1)

static const struct {
	unsigned flag, inode_flag;
} attribute_flags[] = {
	{ FS_IMMUTABLE_FL, INODE_IMMUTABLE },
	{ FS_APPEND_FL, INODE_APPEND },
	{ FS_NODUMP_FL, INODE_NODUMP },
	{ FS_NOATIME_FL, INODE_NOATIME },
};
#define ATTRIBUTE_FLAGS (sizeof attribute_flags / sizeof *attribute_flags)

int fs_getflags(struct op *op, struct fs *fs, object_t id, unsigned *ret_flags)
{
	struct inode inode;
	unsigned flags = 0;
	int r = inode_get(op, id, &inode);

	if (r)
		return r;
	for (size_t i = 0; i < ATTRIBUTE_FLAGS; i++)
		if (inode.disk.flags & attribute_flags[i].inode_flag)
			flags |= attribute_flags[i].flag;
	*ret_flags = flags;
	return 0;
}

int fs_setflags(struct op *op, struct fs *fs, object_t id, unsigned flags)
{
	struct inode inode;
	int r = inode_watch_get(op, id, &inode);

	if (r)
		return r;
	for (size_t i = 0; i < ATTRIBUTE_FLAGS; i++) {
		inode.disk.flags &= ~attribute_flags[i].inode_flag;
		if (flags & attribute_flags[i].flag)
			inode.disk.flags |= attribute_flags[i].inode_flag;
		flags &= ~attribute_flags[i].flag;
	}
	if (flags)
		return -EOPNOTSUPP;
	inode.disk.ctime = time_now();
	r = inode_put(op, &inode);
	return r ? r : txn_commit(op, true);
}

int fs_may_open(struct op *op, struct fs *fs, object_t id, int flags)
{
	struct inode inode;
	int r = inode_get(op, id, &inode);

	if (!r && (flags & O_ACCMODE) != O_RDONLY)
		r = inode_may_add(&inode);
	if (!r && inode.disk.flags & INODE_APPEND &&
	    (((flags & O_ACCMODE) != O_RDONLY && !(flags & O_APPEND)) || flags & O_TRUNC))
		r = -EPERM;
	return r;
}
