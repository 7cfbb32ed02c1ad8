// SPDX-License-Identifier: GPL-2.0-or-later
// What a check has found, in words.
#include "check.h"
#include <stdio.h>
#include <string.h>

enum shown { SHOW_NOTHING, SHOW_BOTH, SHOW_SUMS, SHOW_FOUND, SHOW_ERROR, SHOW_BLOCK_ERROR, SHOW_PAIR, SHOW_RANGE, SHOW_KEY };

static const struct {
	const char *text;
	enum shown shown;
} words[CHECK_KINDS] = {
	[CHECK_SUPER_DAMAGED] = { "copy of the superblock is damaged", SHOW_NOTHING },
	[CHECK_SUPER_DIFFERS] = { "copy of the superblock is of another epoch", SHOW_BOTH },
	[CHECK_FRAME_PLACES] = { "frames of the tier do not add up", SHOW_BOTH },
	[CHECK_FRAME_INDEX] = { "the index has another frame for the same page", SHOW_BOTH },
	[CHECK_FRAME_CONTENT] = { "content does not match its checksum", SHOW_SUMS },
	[CHECK_FRAME_STALE] = { "clean copy is not what the backing has", SHOW_SUMS },
	[CHECK_FRAME_NOTHING] = { "clean copy of a page that the backing does not have", SHOW_NOTHING },
	[CHECK_WORD_DAMAGED] = { "word of the tier is damaged, number", SHOW_FOUND },
	[CHECK_SLOT_DAMAGED] = { "slot of the frame table is damaged, of page", SHOW_FOUND },
	[CHECK_FRAME_CONFLICT] = { "said to hold another page, or one that both the log and the backing have", SHOW_NOTHING },
	[CHECK_RECORD_DAMAGED] = { "log record is damaged, ring and LSN", SHOW_PAIR },
	[CHECK_LOG_LOST] = { "all that was logged there is lost, and what it had replaced is back; ring and bytes", SHOW_PAIR },
	[CHECK_RECORD_ITEM] = { "was in a damaged log record", SHOW_NOTHING },
	[CHECK_NODE_UNREADABLE] = { "tree node cannot be read", SHOW_ERROR },
	[CHECK_NODE_CONTENT] = { "tree node does not match the checksum in its parent", SHOW_SUMS },
	[CHECK_NODE_MALFORMED] = { "tree node is malformed, level", SHOW_BOTH },
	[CHECK_NODE_ORDER] = { "tree node is out of order, object", SHOW_BOTH },
	[CHECK_RANGE_LOST] = { "cannot be read, nor what follows up to object, item", SHOW_KEY },
	[CHECK_ITEM_UNKNOWN] = { "item of an unknown type", SHOW_FOUND },
	[CHECK_ITEM_FUTURE] = { "item of an object born after the cut", SHOW_BOTH },
	[CHECK_EXTENT_MALFORMED] = { "extent is malformed", SHOW_NOTHING },
	[CHECK_EXTENT_BIRTH] = { "extent is younger than the tree", SHOW_BOTH },
	[CHECK_EXTENT_OVERLAP] = { "extents overlap, first page", SHOW_BOTH },
	[CHECK_PAGE_LOST] = { "content was lost and reads as an error, pages", SHOW_FOUND },
	[CHECK_DATA_UNREADABLE] = { "data cannot be read from block", SHOW_BLOCK_ERROR },
	[CHECK_DATA_CONTENT] = { "data does not match its checksum", SHOW_SUMS },
	[CHECK_BLOCK_RANGE] = { "used, but not a block for nodes or data; blocks", SHOW_FOUND },
	[CHECK_BLOCK_TWICE] = { "used more than once; blocks", SHOW_FOUND },
	[CHECK_BLOCK_FREE] = { "used, but free in the bitmap; blocks", SHOW_FOUND },
	[CHECK_BLOCK_LEAKED] = { "taken in the bitmap, but not used; blocks", SHOW_FOUND },
	[CHECK_BLOCK_UNKNOWN] = { "first of those that only a damaged part of the tree can be using; blocks", SHOW_FOUND },
	[CHECK_SPACE_DAMAGED] = { "a bitmap of free space is damaged", SHOW_ERROR },
	[CHECK_SPACE_COUNT] = { "free blocks, counted and noted", SHOW_BOTH },
	[CHECK_BYTES_LOST] = { "content was in a part of the tree that cannot be read, bytes", SHOW_RANGE },
	[CHECK_ROOT_MISSING] = { "there is no root directory", SHOW_NOTHING },
	[CHECK_INODE_MALFORMED] = { "inode is malformed", SHOW_NOTHING },
	[CHECK_INODE_MISSING] = { "there is no inode, but names or attributes", SHOW_FOUND },
	[CHECK_DIRENT_MALFORMED] = { "directory entry is malformed", SHOW_NOTHING },
	[CHECK_DIRENT_MISPLACED] = { "directory entry in what is no directory", SHOW_NOTHING },
	[CHECK_XATTR_MALFORMED] = { "extended attribute is malformed", SHOW_NOTHING },
	[CHECK_NAME_HASH] = { "name is under the wrong hash", SHOW_SUMS },
	[CHECK_NAME_TWICE] = { "name is there twice", SHOW_NOTHING },
	[CHECK_ENTRY_DANGLING] = { "entry of an object that does not exist", SHOW_FOUND },
	[CHECK_ENTRY_TYPE] = { "entry has the wrong type", SHOW_BOTH },
	[CHECK_LINKS] = { "link count", SHOW_BOTH },
	[CHECK_ENTRIES] = { "count of entries", SHOW_BOTH },
	[CHECK_PARENT] = { "parent", SHOW_BOTH },
	[CHECK_DIRECTORY_TWICE] = { "directory has more than one name", SHOW_FOUND },
	[CHECK_UNREACHABLE] = { "directory cannot be reached from the root", SHOW_NOTHING },
	[CHECK_ORPHAN_UNLISTED] = { "has no links, and is not listed as an orphan", SHOW_NOTHING },
	[CHECK_ORPHAN_LINKED] = { "is listed as an orphan, and has links", SHOW_FOUND },
	[CHECK_ORPHAN_MISSING] = { "is listed as an orphan, and does not exist", SHOW_NOTHING },
	[CHECK_XATTRS] = { "count of extended attributes", SHOW_BOTH },
	[CHECK_XATTR_FLAGS] = { "flag of file capabilities", SHOW_BOTH },
	[CHECK_SYMLINK] = { "target of the symlink, pages", SHOW_BOTH },
	[CHECK_PAGES] = { "number of pages", SHOW_BOTH },
	[CHECK_PAGES_MISPLACED] = { "pages of what has none", SHOW_FOUND },
	[CHECK_PAGES_PAST_END] = { "page past the end of the file, pages in all", SHOW_BOTH },
	[CHECK_BYTES_PAST_END] = { "bytes past the end of the file are not zero", SHOW_BOTH },
	[CHECK_HIDDEN_MISSING] = { "value of an extended attribute, pages", SHOW_BOTH },
	[CHECK_HIDDEN_TWICE] = { "value shared by extended attributes", SHOW_FOUND },
	[CHECK_HIDDEN_LEAKED] = { "belongs to nothing; pages", SHOW_FOUND },
};

enum check_mend check_mend(const struct check_finding *f)
{
	if (f->copied)
		return MEND_SAFE;
	switch (f->kind) {
	case CHECK_SUPER_DAMAGED:
	case CHECK_SUPER_DIFFERS:
	case CHECK_FRAME_PLACES:
	case CHECK_FRAME_INDEX:
	case CHECK_FRAME_STALE:
	case CHECK_FRAME_NOTHING:
	case CHECK_EXTENT_BIRTH:
	case CHECK_BLOCK_FREE:
	case CHECK_BLOCK_LEAKED:
	case CHECK_BLOCK_UNKNOWN:
	case CHECK_SPACE_DAMAGED:
	case CHECK_SPACE_COUNT:
	case CHECK_ENTRY_TYPE:
	case CHECK_ENTRIES:
	case CHECK_PARENT:
	case CHECK_ORPHAN_UNLISTED:
	case CHECK_ORPHAN_MISSING:
	case CHECK_XATTRS:
	case CHECK_XATTR_FLAGS:
	case CHECK_PAGES:
	case CHECK_BYTES_PAST_END:
		return MEND_SAFE;
	case CHECK_LINKS:
		return f->expected ? MEND_SAFE : MEND_LOSES; // none: it comes to lost+found
	case CHECK_FRAME_CONTENT:
		return f->warning ? MEND_SAFE : MEND_NOT;
	case CHECK_PAGE_LOST:
	case CHECK_DATA_UNREADABLE:
	case CHECK_DATA_CONTENT:
	case CHECK_BYTES_LOST:
		return MEND_NOT;
	default:
		return MEND_LOSES;
	}
}

static int describe_place(const struct check_finding *f, char *line, size_t bytes)
{
	unsigned long long object = f->object, at = f->at;

	switch (f->place) {
	case PLACE_BLOCK:
		if (f->object == OBJECT_STORE)
			return snprintf(line, bytes, "block %llu: ", at);
		return snprintf(line, bytes, "object %llu, block %llu: ", object, at);
	case PLACE_FRAME:
		if (f->object == OBJECT_STORE)
			return snprintf(line, bytes, "frame %llu, copy of a tree node: ", at);
		return snprintf(line, bytes, "object %llu, page %llu, frame %llu: ", object, (unsigned long long)f->page, at);
	case PLACE_PAGE:
		return snprintf(line, bytes, "object %llu, page %llu: ", object, at);
	case PLACE_KEY:
		return snprintf(line, bytes, "object %llu, item %016llx: ", object, at);
	case PLACE_NAME:
		return snprintf(line, bytes, "object %llu, name '%s': ", object, f->name);
	case PLACE_NONE:
		break;
	}
	return f->object ? snprintf(line, bytes, "object %llu: ", object) : 0;
}

void check_describe(const struct check_finding *f, char *line, size_t bytes)
{
	unsigned long long expected = f->expected, found = f->found;
	int used = describe_place(f, line, bytes);
	size_t at = used < 0 ? 0 : (size_t)used < bytes ? (size_t)used : bytes - 1;
	const char *text = words[f->kind].text;

	switch (words[f->kind].shown) {
	case SHOW_NOTHING:
		snprintf(line + at, bytes - at, "%s", text);
		break;
	case SHOW_BOTH:
		snprintf(line + at, bytes - at, "%s: expected %llu, found %llu", text, expected, found);
		break;
	case SHOW_SUMS:
		snprintf(line + at, bytes - at, "%s: expected %016llx, found %016llx", text, expected, found);
		break;
	case SHOW_FOUND:
		snprintf(line + at, bytes - at, "%s: %llu", text, found);
		break;
	case SHOW_PAIR:
		snprintf(line + at, bytes - at, "%s: %llu, %llu", text, expected, found);
		break;
	case SHOW_RANGE:
		snprintf(line + at, bytes - at, "%s: %llu to %llu", text, expected, found);
		break;
	case SHOW_KEY:
		snprintf(line + at, bytes - at, "%s: %llu, %016llx", text, expected, found);
		break;
	case SHOW_ERROR:
		snprintf(line + at, bytes - at, "%s: %s", text, strerror((int)f->found));
		break;
	case SHOW_BLOCK_ERROR:
		snprintf(line + at, bytes - at, "%s %llu: %s", text, expected, strerror((int)f->found));
		break;
	}
	if (f->copied)
		strncat(line, "; the tier has a copy", bytes - 1 - strlen(line));
}
