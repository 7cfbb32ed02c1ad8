// SPDX-License-Identifier: GPL-2.0-or-later
// Content of regular files. Bytes past the end of a file are zero on the media, in pages allocated there as well.
#include "fs_impl.h"

static const char zero_page[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

static int check_regular(const struct inode *inode)
{
	if (inode_is(inode, S_IFREG))
		return 0;
	return inode_is(inode, S_IFDIR) ? -EISDIR : -EINVAL;
}

// ---- reading

// Bytes [skip, skip + bytes) of the views; what lies together is one entry.
static int views_to_iovecs(const struct page_view *view, size_t skip, size_t bytes, struct iovec *ret_iov)
{
	int n = 0;

	for (; bytes; view++) {
		const char *data = (const char *)(view->data ? view->data : zero_page) + skip;
		size_t part = PAGE_BYTES - skip < bytes ? PAGE_BYTES - skip : bytes;

		if (n && data == (const char *)ret_iov[n - 1].iov_base + ret_iov[n - 1].iov_len)
			ret_iov[n - 1].iov_len += part;
		else
			ret_iov[n++] = (struct iovec){ (void *)data, part };
		bytes -= part;
		skip = 0;
	}
	return n;
}

ssize_t fs_read(struct op *op, struct fs *fs, object_t id, uint64_t offset, size_t bytes, bool touch,
		struct iovec *ret_iov, int *ret_iovcnt)
{
	struct page_view view[OP_PAGES_MAX];
	size_t skip = offset % PAGE_BYTES;
	struct inode inode;
	unsigned count;
	int r;

	r = inode_watch_get(op, id, &inode);
	if (!r)
		r = check_regular(&inode);
	if (r)
		return r;
	if (offset >= inode.disk.size)
		bytes = 0;
	else if (bytes > inode.disk.size - offset)
		bytes = inode.disk.size - offset;
	if (bytes > OP_PAGES_MAX * PAGE_BYTES - skip)
		bytes = OP_PAGES_MAX * PAGE_BYTES - skip;
	count = (unsigned)((skip + bytes + PAGE_BYTES - 1) / PAGE_BYTES);
	if (bytes) {
		r = op_read(op, id, offset >> PAGE_SHIFT, count, false, view);
		if (r)
			return r;
	}
	if (touch)
		atime_touch(fs, &inode);
	*ret_iovcnt = views_to_iovecs(view, skip, bytes, ret_iov);
	return (ssize_t)bytes;
}

int fs_seek(struct op *op, struct fs *fs, object_t id, uint64_t offset, bool data, uint64_t *ret_offset)
{
	struct inode inode;
	page_t page, limit;
	uint64_t found;
	int r;

	r = inode_watch_get(op, id, &inode);
	if (!r)
		r = check_regular(&inode);
	if (!r && offset >= inode.disk.size)
		r = -ENXIO;
	if (r)
		return r;
	limit = pages_of(inode.disk.size);
	if (inode_is_dense(&inode.disk))
		page = data ? offset >> PAGE_SHIFT : limit;
	else if (!inode.disk.pages && !(inode.disk.flags & INODE_PAGES_UNSURE))
		page = data ? limit : offset >> PAGE_SHIFT;
	else
		r = op_seek(op, id, offset >> PAGE_SHIFT, limit, data, &page);
	if (r)
		return r;
	if (data && page == limit)
		return -ENXIO;
	found = page << PAGE_SHIFT;
	if (found < offset)
		found = offset;
	*ret_offset = found < inode.disk.size ? found : inode.disk.size;
	return 0;
}

// ---- writing

struct write {
	object_t id;
	const char *data;
	uint64_t offset, end; // bytes [offset, end) of the file
	page_t first, last;
	unsigned scratch; // the next to use
};

// With less than this to be had, a write is asked whether it needs new blocks at all; more than any
// commit claims.
#define BLOCKS_AMPLE 4096u

// Overwriting never fails for want of space; what fills a hole may.
static int is_overwrite(struct op *op, struct fs *fs, const struct write *w, bool *ret_overwrite)
{
	struct store_space space;
	page_t hole;
	int r;

	*ret_overwrite = false;
	store_space(fs->store, &space);
	if (space.available >= BLOCKS_AMPLE)
		return 0;
	r = op_seek(op, w->id, w->first, w->last + 1, false, &hole);
	if (!r)
		*ret_overwrite = hole == w->last + 1;
	return r;
}

// A page of which only a part is written is built on the one that is there.
static int write_partial(struct op *op, struct write *w, page_t page)
{
	uint64_t start = page << PAGE_SHIFT;
	size_t from = start < w->offset ? w->offset - start : 0;
	size_t to = w->end - start < PAGE_BYTES ? w->end - start : PAGE_BYTES;
	struct page_view base;
	char *buffer;
	int r;

	r = op_read(op, w->id, page, 1, true, &base);
	if (r)
		return r;
	buffer = op_scratch(op, w->scratch++);
	if (base.data)
		memcpy(buffer, base.data, PAGE_BYTES);
	memcpy(buffer + from, w->data + (start + from - w->offset), to - from);
	return txn_page(op, w->id, page, buffer, &base);
}

static int write_pages(struct op *op, struct write *w)
{
	int r = 0;

	for (page_t page = w->first; !r && page <= w->last; page++) {
		uint64_t start = page << PAGE_SHIFT;

		if (start < w->offset || w->end - start < PAGE_BYTES)
			r = write_partial(op, w, page);
		else
			r = txn_page(op, w->id, page, w->data + (start - w->offset), NULL);
	}
	return r;
}

struct written {
	struct op *op;
	object_t id;
	page_t first, last;
	uint64_t end;
	struct time_disk now;
	bool kill_suidgid;
};

static void merge_written(void *value, void *arg)
{
	const struct written *written = arg;
	struct inode_disk *disk = value;

	inode_count_written(written->op, written->id, disk, written->first, written->last);
	if (disk->size < written->end)
		disk->size = written->end;
	inode_set_pages_end(disk, disk->pages_end);
	disk->mtime = disk->ctime = written->now;
	if (written->kill_suidgid)
		inode_kill_suidgid(disk);
}

// The inode is not watched: writers to one file do not make each other start again, and what they
// do to it is joined under the commit's lock. Taking capabilities away is rare, and is done plainly.
static int write_inode(struct op *op, struct inode *inode, struct written *written)
{
	int r;

	if (!(inode->disk.flags & INODE_CAPABILITY))
		return txn_update(op, item_key(inode->id, ITEM_INODE, 0), inode->raw, inode->bytes, merge_written, written);
	r = inode_watch_get(op, inode->id, inode);
	if (!r)
		r = xattr_drop_capability(op, inode);
	if (r)
		return r;
	merge_written(&inode->disk, written);
	return inode_put(op, inode);
}

ssize_t fs_write(struct op *op, struct fs *fs, object_t id, const void *data, size_t bytes, uint64_t offset,
		 bool kill_suidgid)
{
	struct write w = { id, data, offset, offset + bytes, .first = offset >> PAGE_SHIFT };
	struct written written = { op, id, .first = w.first, .end = w.end, .now = time_now(), .kill_suidgid = kill_suidgid };
	struct inode inode;
	bool overwrite;
	int r;

	if (bytes > WRITE_BYTES_MAX)
		return -EINVAL;
	if (offset > FILE_BYTES_MAX || bytes > FILE_BYTES_MAX - offset)
		return -EFBIG;
	r = inode_get(op, id, &inode);
	if (!r)
		r = check_regular(&inode);
	if (!r)
		r = inode_may_add(&inode); // open(2) has seen to APPEND
	if (r || !bytes)
		return r;
	w.last = written.last = (w.end - 1) >> PAGE_SHIFT;
	r = is_overwrite(op, fs, &w, &overwrite);
	if (!r)
		r = txn_claim(op, id, w.first, (unsigned)(w.last - w.first + 1));
	if (!r)
		r = write_pages(op, &w);
	if (!r)
		r = write_inode(op, &inode, &written);
	if (!r)
		r = txn_commit(op, overwrite);
	return r ? r : (ssize_t)bytes;
}

// ---- copying

ssize_t fs_copy(struct op *op, struct fs *fs, object_t from, uint64_t offset, object_t to, uint64_t to_offset,
		size_t bytes, void *buffer)
{
	struct iovec iov[OP_PAGES_MAX];
	ssize_t r;
	char *at = buffer;
	int count;

	if (bytes > WRITE_BYTES_MAX)
		bytes = WRITE_BYTES_MAX;
	r = fs_read(op, fs, from, offset, bytes, true, iov, &count);
	if (r <= 0)
		return r;
	for (int i = 0; i < count; i++)
		at = (char *)memcpy(at, iov[i].iov_base, iov[i].iov_len) + iov[i].iov_len;
	return fs_write(op, fs, to, buffer, (size_t)r, to_offset, true);
}
