// SPDX-License-Identifier: GPL-2.0-or-later
// fallocate(2). What was allocated can be written without ENOSPC, as all that is there can: so pages that
// are holes become pages of zeroes, which is as dear as writing them. They may lie past the end of the file, up
// to the inode's pages_end. Punching makes holes again, in one commit whatever the range is.
#include <fcntl.h>
#include "fs_impl.h"

#define ALLOCATE_PAGES 256u // by one commit
#define LOOK_PAGES 65536u   // passed over by one operation

static const char zero_page[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

static int get_file(struct op *op, object_t id, struct inode *ret_inode)
{
	int r = inode_watch_get(op, id, ret_inode);

	if (!r && !inode_is(ret_inode, S_IFREG))
		r = inode_is(ret_inode, S_IFDIR) ? -EISDIR : -ENODEV;
	if (!r)
		r = inode_may_add(ret_inode);
	return r;
}

static int check_range(uint64_t offset, uint64_t end)
{
	return end > FILE_BYTES_MAX || offset >= end ? -EFBIG : 0;
}

// Of setuid the kernel has spoken before, if the caller may not keep it.
static int put_changed(struct op *op, struct inode *inode)
{
	int r = xattr_drop_capability(op, inode);

	inode_modified(inode, time_now());
	return r ? r : inode_put(op, inode);
}

// The first run of holes in [from, limit): [*ret_first, *ret_end), empty if there is none as far as
// *ret_end.
static int find_holes(struct op *op, const struct inode *inode, page_t from, page_t limit, page_t *ret_first,
		      page_t *ret_end)
{
	page_t pages_end = inode_pages_end(&inode->disk), first = from, end;
	page_t there = limit < pages_end ? limit : pages_end;
	int r = 0;

	if (there > from && !inode_is_dense(&inode->disk)) {
		page_t look = there - from < LOOK_PAGES ? there : from + LOOK_PAGES;

		r = op_seek(op, inode->id, from, look, false, &first);
		if (r || (first == look && look < there)) {
			*ret_first = *ret_end = look;
			return r;
		}
	} else if (there > from) {
		first = there;
	}
	end = limit - first < ALLOCATE_PAGES ? limit : first + ALLOCATE_PAGES;
	if (first < there)
		r = op_seek(op, inode->id, first, end < there ? end : there, true, &end);
	*ret_first = first;
	*ret_end = end;
	return r;
}

// Where there is nothing yet the space has to be free; what is inside is found out as it comes.
static int check_space(struct op *op, const struct inode *inode, page_t first, page_t end)
{
	page_t pages_end = inode_pages_end(&inode->disk);

	if (first < pages_end)
		first = pages_end;
	return first < end ? txn_room(op, end - first) : 0;
}

static int write_zeroes(struct op *op, object_t id, page_t first, page_t end)
{
	int r = txn_claim(op, id, first, (unsigned)(end - first));

	for (page_t page = first; !r && page < end; page++)
		r = txn_page(op, id, page, zero_page, NULL);
	return r;
}

// Pages [first, end), which were holes, are there.
static void count_allocated(struct inode_disk *disk, page_t first, page_t end, uint64_t size)
{
	page_t pages_end = inode_pages_end(disk);

	if (!(disk->flags & INODE_PAGES_UNSURE))
		disk->pages += end - first;
	if (disk->size < size)
		disk->size = size;
	inode_set_pages_end(disk, pages_end < end ? end : pages_end);
}

int fs_allocate(struct op *op, struct fs *fs, object_t id, const struct fs_allocation *before,
		struct fs_allocation *ret_allocation)
{
	struct fs_allocation a = *before;
	struct inode inode;
	page_t first, last;
	int r = check_range(a.next, a.end);

	if (!r)
		r = get_file(op, id, &inode);
	if (!r)
		r = check_space(op, &inode, a.next >> PAGE_SHIFT, pages_of(a.end));
	if (!r)
		r = find_holes(op, &inode, a.next >> PAGE_SHIFT, pages_of(a.end), &first, &last);
	if (r)
		return r;
	if (!a.begun) {
		a.begun = true;
		a.size_before = inode.disk.size;
		a.pages_end_before = inode_pages_end(&inode.disk);
	}
	a.next = last << PAGE_SHIFT < a.end ? last << PAGE_SHIFT : a.end;
	if (first == last && a.next < a.end) {
		*ret_allocation = a;
		return 0;
	}
	if (a.keep_size && last > inode_pages_end(&inode.disk))
		r = txn_needs_format(op, VEMS_INCOMPAT_PAST_END);
	if (!r && first < last)
		r = write_zeroes(op, id, first, last);
	if (r)
		return r;
	count_allocated(&inode.disk, first, last, a.keep_size ? 0 : a.next);
	r = put_changed(op, &inode);
	if (!r)
		r = txn_commit(op, first == last);
	if (!r)
		*ret_allocation = a;
	return r;
}

int fs_allocate_undo(struct op *op, struct fs *fs, object_t id, const struct fs_allocation *a)
{
	struct inode inode;
	int r;

	if (!a->begun)
		return 0;
	r = get_file(op, id, &inode);
	if (r || (inode.disk.size == a->size_before && inode_pages_end(&inode.disk) == a->pages_end_before))
		return r;
	if (a->pages_end_before < inode_pages_end(&inode.disk))
		r = txn_drop(op, id, a->pages_end_before, PAGE_MAX + 1);
	if (r)
		return r;
	txn_gives_back(op, inode_count_dropped(&inode.disk, a->pages_end_before, PAGE_MAX + 1));
	inode.disk.size = a->size_before;
	inode_set_pages_end(&inode.disk, a->pages_end_before);
	r = put_changed(op, &inode);
	return r ? r : txn_commit(op, true);
}

// ---- holes

// Zeroes of a page of which a part stays.
struct cut {
	page_t page;
	unsigned from, to;
};

// [offset, end) within the file: what is cut, and the pages between, that go whole.
static unsigned cuts_of(uint64_t offset, uint64_t end, struct cut *ret_cut, page_t *ret_first, page_t *ret_last)
{
	page_t head = offset >> PAGE_SHIFT, tail = end >> PAGE_SHIFT;
	unsigned count = 0;

	*ret_first = pages_of(offset);
	*ret_last = tail;
	if (offset % PAGE_BYTES)
		ret_cut[count++] = (struct cut){ head, offset % PAGE_BYTES, head == tail ? end % PAGE_BYTES : PAGE_BYTES };
	if (end % PAGE_BYTES && (head != tail || !count))
		ret_cut[count++] = (struct cut){ tail, 0, end % PAGE_BYTES };
	return count;
}

static int cut_page(struct op *op, object_t id, const struct cut *cut, unsigned scratch)
{
	struct page_view base;
	char *page;
	int r = op_read(op, id, cut->page, 1, true, &base);

	if (r || !base.data)
		return r;
	page = op_scratch(op, scratch);
	memcpy(page, base.data, PAGE_BYTES);
	memset(page + cut->from, 0, cut->to - cut->from);
	return txn_page(op, id, cut->page, page, &base);
}

int fs_punch(struct op *op, struct fs *fs, object_t id, uint64_t offset, uint64_t end, bool keep_size)
{
	struct inode inode;
	struct cut cut[2];
	page_t first, last;
	uint64_t stop;
	unsigned cuts;
	int r = check_range(offset, end);

	if (!r)
		r = get_file(op, id, &inode);
	if (!r)
		r = inode_may_change(&inode);
	if (r)
		return r;
	// The last page goes whole if nothing of it stays.
	stop = end < inode.disk.size ? end : pages_of(inode.disk.size) << PAGE_SHIFT;
	if (offset < stop) {
		cuts = cuts_of(offset, stop, cut, &first, &last);
		if (cuts)
			r = txn_claim_two(op, id, cut[0].page, cut[cuts - 1].page);
		for (unsigned i = 0; !r && i < cuts; i++)
			r = cut_page(op, id, &cut[i], i);
		if (!r && first < last)
			r = txn_drop(op, id, first, last);
		if (r)
			return r;
		txn_gives_back(op, inode_count_dropped(&inode.disk, first, last));
	}
	if (!keep_size && inode.disk.size < end)
		inode.disk.size = end;
	inode_set_pages_end(&inode.disk, inode.disk.pages_end);
	r = put_changed(op, &inode);
	return r ? r : txn_commit(op, true);
}
