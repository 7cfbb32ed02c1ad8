// SPDX-License-Identifier: GPL-2.0-or-later
// A damaged place of either device, of every kind that there is, under a mount: what is read is right, or an
// error with a name; never other data, a crash or a hang.
//
//	test_damage [--repair] [--cases N] [--seed S] [--only CASE]
//
// Case c damages, by its number alone, one place of a pair that was killed or unmounted, or of an unmounted backing with a
// blank tier; opens it, reads everything, writes, syncs, and opens it once more; or looks at it read-only. Not covered, since it cannot be told from
// what a power cut may leave: older content of the tier, and damage that reaches the newest record of a log ring; the
// last commit of each ring here is of files that nobody looks at.
//
// With --repair, a case damages one to three places, tree nodes above all; half of them are mounted and used as they are. Then it is
// checked, repaired, checked again, mounted, read and used, as fsck -n, -y and -n would do: what is read is right, or an error, or
// the repair has told of it. It may tell of names and inodes that are gone; and of a part of the log or the table of the tier, so
// that what had been there before is back: an older version of the same page, never anything else.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "fs_check.h"
#include "fs.h"
#include "hash.h"
#include "log.h"
#include "node.h"
#include "store_impl.h"

#define TIER_BYTES (UINT64_C(4) << 20)
#define BACKING_BYTES (UINT64_C(16) << 20)
#define BLOCKS (BACKING_BYTES / PAGE_BYTES)
#define FILES 12u
#define PAGES 20u
#define GONE 6u
#define CASE_SECONDS 60u

static char path[2][40] = { "/dev/shm/test-damage-tier-XXXXXX", "/dev/shm/test-damage-XXXXXX" };
static uint8_t *device[2]; // tier, backing: the files
static const uint64_t device_bytes[2] = { TIER_BYTES, BACKING_BYTES };
enum pair_state { KILLED, UNMOUNTED, BLANK_TIER, PAIR_STATES };
static const char *const state_name[PAIR_STATES] = { "killed", "unmounted", "with a blank tier" };
static uint8_t *image[PAIR_STATES][2], *old_backing; // of the epoch before
static block_t node[PAIR_STATES][64]; // of the tree in force
static unsigned nodes[PAIR_STATES];

static struct store *store;
static struct fs *fs;
static struct lane *lane;
static unsigned version[FILES][PAGES]; // 0: a hole
static unsigned long now_case;
static uint64_t seed = 1;
static bool repairing; // --repair

static void fail(const char *what, long a, long b)
{
	fprintf(stderr, "case %lu: %s (%ld, %ld); again: test_damage%s --seed %llu --only %lu\n", now_case, what, a, b,
		repairing ? " --repair" : "", (unsigned long long)seed, now_case);
	exit(1);
}

static void on_alarm(int signal)
{
	static const char text[] = "test_damage: a case hangs\n";
	ssize_t n = write(2, text, sizeof text - 1);
	(void)n;
	abort();
}

#define RUN(body) OP_RUN(lane, body)

static void must(int r, const char *what)
{
	if (r < 0)
		fail(what, r, 0);
}

// ---- the file system ------------------------------------------------------------------------------

static void content(unsigned file, unsigned page, unsigned v, uint64_t *ret)
{
	for (unsigned i = 0; i < PAGE_BYTES / 8; i++)
		ret[i] = v ? hash_mix(hash_mix(file, page), hash_mix(v, i)) : 0;
}

static int lookup(const char *name, object_t *ret_id, off_t *ret_size)
{
	struct stat st;
	int r = RUN(fs_lookup(op, fs, OBJECT_ROOT, name, &st));
	if (!r) {
		*ret_id = st.st_ino;
		*ret_size = st.st_size;
	}
	return r;
}

static const char *file_name(unsigned file)
{
	static char name[16];
	snprintf(name, sizeof name, "file%u", file);
	return name;
}

static const char *gone_name(unsigned i)
{
	static char name[16];
	snprintf(name, sizeof name, "gone%u", i);
	return name;
}

static void make(const char *name)
{
	struct fs_cred cred = { 0 };
	struct stat st;
	must(RUN(fs_make(op, fs, &cred, OBJECT_ROOT, name, S_IFREG | 0644, 0, NULL, &st)), name);
}

static int write_page(object_t id, unsigned file, unsigned page, unsigned v)
{
	uint64_t data[PAGE_BYTES / 8];
	content(file, page, v, data);
	return RUN(fs_write(op, fs, id, data, PAGE_BYTES, (uint64_t)page * PAGE_BYTES, false));
}

static void write_some(unsigned from, unsigned to, unsigned step, unsigned v)
{
	object_t id;
	off_t size;
	for (unsigned f = from; f < to; f++) {
		must(lookup(file_name(f), &id, &size), "lookup");
		for (unsigned p = 0; p < PAGES; p++)
			if ((f + p) % step == 0) {
				must(write_page(id, f, p, v), "write");
				version[f][p] = v;
			}
	}
}

static int open_pair(bool read_only)
{
	struct store_config config = { .tier_path = path[0], .backing_path = path[1], .format_blank = true, .tiny = true,
				       .assume_persistent = true, .interval_ms = 600000, .read_only = read_only };
	int r = store_open(&config, &store);
	if (r)
		return r;
	must(fs_new(store, &fs), "fs");
	r = fs_start(fs, 0, 0);
	if (r) {
		fs_free(fs);
		store_abandon(store);
		return r;
	}
	must(lane_new(store, &lane), "lane");
	return 0;
}

static int close_pair(bool kill)
{
	lane_free(lane);
	fs_free(fs);
	if (!kill)
		return store_close(store);
	store_abandon(store);
	return 0;
}

// ---- places -----------------------------------------------------------------------------------------

struct place {
	const char *name;
	int device;
	uint64_t offset, bytes;
};
static struct place place[2000];
static unsigned places;
static struct { uint64_t from, to; } newest[TIER_RINGS_MAX + 1]; // records, as byte ranges of the tier
static unsigned newests;
static struct { const char *name; unsigned count; } sort[32]; // of places
static unsigned sorts;

static void add(const char *name, int dev, uint64_t offset, uint64_t bytes)
{
	unsigned i = 0;
	if (places == sizeof place / sizeof *place)
		fail("too many places", places, 0);
	place[places++] = (struct place){ name, dev, offset, bytes };
	while (i < sorts && sort[i].name != name)
		i++;
	if (i == sorts)
		sort[sorts++].name = name;
	sort[i].count++;
}

static void add_ring(const struct ring *r, const char *name)
{
	static uint8_t buffer[RECORD_BYTES_MAX];
	const struct record_disk *record = (const void *)buffer;
	uint64_t base = (uint64_t)(r->base - store->media->base), at = r->tail, last = at;
	for (; ring_read(store->tier, r, at, buffer) == 0 && at < r->head; at += record->bytes) {
		last = at;
		add(name, 0, base + at % r->bytes, record->bytes < 256 ? record->bytes : 256);
	}
	if (at == r->tail)
		return;
	places--; // the newest
	for (unsigned i = 0; i < sorts; i++)
		sort[i].count -= sort[i].name == name;
	newest[newests].from = base + last % r->bytes;
	newest[newests++].to = base + last % r->bytes + (at - last);
}

static void add_tier(void)
{
	const struct tier_geometry *g = &store->tier->geometry;
	add("header A", 0, 0, PAGE_BYTES);
	add("header B", 0, PAGE_BYTES, PAGE_BYTES);
	for (unsigned w = 0; w <= WORD_RING_TAIL + g->rings; w++)
		add("word", 0, TIER_WORDS_OFFSET + w * TIER_WORD_STRIDE, 8);
	for (unsigned i = 0; i < g->rings; i++)
		add_ring(&store->tier->ring[i], "log record");
	add_ring(tier_item_ring(store->tier), "item record");
	unsigned free_ones = 0;
	for (frame_t f = 0; f < g->frames; f++) {
		const struct frame *fr = &store->tier->frame[f];
		bool used = frame_place(frame_state(fr)) == FRAME_INDEXED, dirty = frame_state(fr) & FRAME_DIRTY;
		if (!used && free_ones++ > 40)
			continue;
		add(!used ? "slot of a free frame" : dirty ? "slot of a dirty frame" : "slot of a clean frame", 0,
		    g->table_offset + f * sizeof(struct slot_disk), sizeof(struct slot_disk));
		add(!used ? "free frame" : dirty ? "dirty frame" : fr->object ? "clean frame" : "frame of a node", 0,
		    g->frames_offset + (uint64_t)f * PAGE_BYTES, PAGE_BYTES);
	}
}

static void add_backing(void)
{
	uint64_t data[PAGE_BYTES / 8];
	add("superblock A", 1, 0, PAGE_BYTES);
	add("superblock B", 1, (BLOCKS - 1) * PAGE_BYTES, PAGE_BYTES);
	add("bitmap", 1, 1 * PAGE_BYTES, PAGE_BYTES);
	add("bitmap", 1, 2 * PAGE_BYTES, PAGE_BYTES);
	for (block_t b = 3; b < BLOCKS - 1; b++) {
		const struct node_disk *n = (const void *)(device[1] + b * PAGE_BYTES);
		if (n->magic == VEMS_NODE_MAGIC)
			add("tree node", 1, b * PAGE_BYTES, PAGE_BYTES);
		for (unsigned i = 0; i < FILES * PAGES * 3; i++) {
			content(i / 3 / PAGES, i / 3 % PAGES, 1 + i % 3, data);
			if (*(const uint64_t *)n == data[0]) {
				add("data block", 1, b * PAGE_BYTES, PAGE_BYTES);
				break;
			}
		}
	}
}

// ---- the images ---------------------------------------------------------------------------------------

static uint8_t *copy_of(const uint8_t *from, uint64_t bytes)
{
	uint8_t *copy = malloc(bytes);
	return copy ? memcpy(copy, from, bytes) : NULL;
}

static void list_nodes(enum pair_state state, block_t block)
{
	const struct node_disk *n = (const void *)(device[1] + block * PAGE_BYTES);
	if (nodes[state] == sizeof node[state] / sizeof *node[state])
		fail("too many nodes", nodes[state], 0);
	node[state][nodes[state]++] = block;
	for (unsigned i = 0; n->level > 0 && i < node_count(n); i++)
		list_nodes(state, node_child(n, i).block);
}

static void keep_images(enum pair_state state)
{
	list_nodes(state, ((const struct super_disk *)(const void *)device[1])->root_block);
	for (int d = 0; d < 2; d++)
		image[state][d] = copy_of(device[d], device_bytes[d]);
}

static void put_images(enum pair_state state)
{
	for (int d = 0; d < 2; d++)
		memcpy(device[d], image[state][d], device_bytes[d]);
}

static void reclaim_all(void)
{
	while (reclaim_slice(store, true))
		;
}

static void two_epochs(void)
{
	for (unsigned f = 0; f < 8; f++)
		make(file_name(f));
	for (unsigned i = 0; i < GONE; i++)
		make(gone_name(i));
	write_some(0, 8, 1, 1);
	must(store_sync(store), "sync");
	old_backing = copy_of(device[1], BACKING_BYTES);
	make(file_name(8));
	make(file_name(9));
	write_some(0, 10, 2, 2);
	for (unsigned i = 0; i < GONE / 2; i++)
		must(RUN(fs_unlink(op, fs, OBJECT_ROOT, gone_name(i))), "unlink");
	must(store_sync(store), "sync");
}

static void build(void)
{
	must(open_pair(false), "format");
	two_epochs();
	write_some(0, 10, 3, 3);
	make(file_name(10));
	reclaim_all(); // slots, and items logged again
	for (unsigned i = GONE / 2; i < GONE; i++)
		must(RUN(fs_unlink(op, fs, OBJECT_ROOT, gone_name(i))), "unlink");
	write_some(10, 11, 2, 3);
	reclaim_all();
	make("newest of the item ring");
	reclaim_all();
	make(file_name(11));
	write_some(0, 12, 5, 4); // in the log alone
	make("newest of its ring");
	add_tier();
	add_backing();
	close_pair(true);
	keep_images(KILLED);
	must(open_pair(false), "open");
	must(close_pair(false), "unmount");
	keep_images(UNMOUNTED);
	memset(device[0], 0, TIER_BYTES);
	keep_images(BLANK_TIER);
}

// ---- damage -----------------------------------------------------------------------------------------------

static uint64_t random_state;
static uint64_t draw(uint64_t below)
{
	random_state = hash_mix(random_state, 0x64616d61);
	return random_state % below;
}

enum kind { FLIP, FLIP_TWO, ZERO_LINE, ZERO_PAGE, STALE, MISDIRECTED, SWAPPED, KINDS };
static const char *const kind_name[KINDS] = { "a flipped bit", "two flipped bits", "a zeroed line", "a zeroed page", "a stale block",
					      "a misdirected block", "two blocks swapped" };

static bool reaches_newest(const struct place *p, enum kind kind)
{
	uint64_t from = p->offset, to = from + p->bytes;
	if (kind == ZERO_PAGE) {
		from &= ~(uint64_t)(PAGE_BYTES - 1);
		to = from + PAGE_BYTES;
	}
	for (unsigned i = 0; p->device == 0 && i < newests; i++)
		if (from < newest[i].to && newest[i].from < to)
			return true;
	return false;
}

static void flip(const struct place *p)
{
	device[p->device][p->offset + draw(p->bytes)] ^= (uint8_t)(1u << draw(8));
}

// False: there is no such damage there.
static bool damage(const struct place *p, enum kind kind)
{
	uint8_t *page = device[p->device] + (p->offset & ~(uint64_t)(PAGE_BYTES - 1)), *other, kept[PAGE_BYTES];
	block_t block = p->offset / PAGE_BYTES;
	if ((kind > ZERO_PAGE && p->device == 0) || reaches_newest(p, kind))
		return false;
	switch (kind) {
	case FLIP_TWO:
		flip(p);
		// fall through
	case FLIP:
		flip(p);
		return true;
	case ZERO_LINE:
		memset(device[p->device] + ((p->offset + draw(p->bytes)) & ~UINT64_C(63)), 0, 64);
		return true;
	case ZERO_PAGE:
		memset(page, 0, PAGE_BYTES);
		return true;
	case STALE:
		if (!memcmp(page, old_backing + block * PAGE_BYTES, PAGE_BYTES) || block == 0 || block == BLOCKS - 1)
			return false; // both superblocks of an older epoch are a whole older backing: tests/e2e/pairing.sh
		memcpy(page, old_backing + block * PAGE_BYTES, PAGE_BYTES);
		return true;
	case SWAPPED:
		other = device[1] + draw(BLOCKS) * PAGE_BYTES;
		memcpy(kept, other, PAGE_BYTES);
		memcpy(other, page, PAGE_BYTES);
		memcpy(page, kept, PAGE_BYTES);
		return true;
	default:
		memcpy(page, device[1] + draw(BLOCKS) * PAGE_BYTES, PAGE_BYTES);
		return true;
	}
}

// ---- repair -------------------------------------------------------------------------------------------------

static struct told { // by the last
	unsigned findings, stay; // stay: of those, pages that read as errors
	bool loses, older;       // something is gone; something older is back
	object_t object[1000];   // of which something is gone
	unsigned objects;
} told;

static void tell(void *arg, const struct check_finding *f)
{
	char line[1024];
	check_describe(f, line, sizeof line);
	log_warning("%s", line);
	if (f->warning)
		return;
	told.findings++;
	told.stay += check_mend(f) == MEND_NOT;
	if (check_mend(f) != MEND_LOSES)
		return;
	told.loses = true;
	told.older |= f->kind >= CHECK_SLOT_DAMAGED && f->kind <= CHECK_RECORD_ITEM;
	if (told.objects < sizeof told.object / sizeof *told.object)
		told.object[told.objects++] = f->object;
}

static bool told_of(object_t id)
{
	for (unsigned i = 0; i < told.objects; i++)
		if (told.object[i] == id)
			return true;
	return told.objects == sizeof told.object / sizeof *told.object;
}

// What fsck has the exit status for, or why the pair was refused.
static int mend(struct fs_mends *mends, const struct check_config *check)
{
	struct fs_check_result result;
	int r = fs_check_noting(store, check, mends, &result);
	if (r || !mends || result.store.errors == told.stay)
		return r ? r : told.findings ? 4 : 0;
	r = fs_mend(store, check, mends);
	if (!r)
		r = store_rebuild(store, check, result.store.nodes_lost);
	if (!r)
		r = store_put_in_force(store);
	return r ? r : 1;
}

static int fsck(bool repair)
{
	struct store_config config = { .tier_path = path[0], .backing_path = path[1], .tiny = true, .assume_persistent = true,
				       .read_only = true, .salvage = true, .repair = repair };
	const struct check_config check = { .report = tell };
	struct fs_mends *mends = NULL;
	int r = store_open(&config, &store);
	if (r)
		return r;
	memset(&told, 0, sizeof told);
	if (repair)
		must(fs_mends_new(false, &mends), "mends");
	r = mend(mends, &check);
	if (mends)
		fs_mends_free(mends);
	store_close(store);
	return r;
}

// Of a file of which an older version may be back: is it one that there has been?
static bool is_older(unsigned file, unsigned page, const uint64_t *found)
{
	static const unsigned versions[] = { 0, 1, 2, 3, 4, 9 };
	uint64_t expected[PAGE_BYTES / 8];
	for (unsigned i = 0; told.older && i < sizeof versions / sizeof *versions; i++) {
		content(file, page, versions[i], expected);
		if (!memcmp(found, expected, PAGE_BYTES))
			return true;
	}
	return false;
}

// ---- a case -------------------------------------------------------------------------------------------------

static unsigned long refused, healed, errors; // cases

static bool is_error(int r)
{
	return r == -EUCLEAN || r == -EIO;
}

// Pages that read as an error; what cannot be found is an error of all of its pages.
static unsigned check_file(unsigned file, const char *when)
{
	static uint64_t expected[PAGE_BYTES / 8], found[PAGE_BYTES / 8];
	struct iovec iov[OP_PAGES_MAX];
	unsigned bad = 0, pages = 0;
	object_t id;
	off_t size;
	int r = lookup(file_name(file), &id, &size);

	if (is_error(r) || (r == -ENOENT && told.loses))
		return PAGES;
	if (r)
		fail(when, r, file);
	for (unsigned p = 0; p < PAGES; p++)
		if (version[file][p])
			pages = p + 1;
	if (size != (off_t)pages * PAGE_BYTES) {
		if (!told.older && !told_of(id))
			fail("size", size, pages);
		bad += pages;
		pages = (unsigned)(size / PAGE_BYTES) < pages ? (unsigned)(size / PAGE_BYTES) : pages;
	}
	for (unsigned p = 0; p < pages; p++) {
		struct op *op = op_begin(lane);
		int count;
		do {
			r = (int)fs_read(op, fs, id, (uint64_t)p * PAGE_BYTES, PAGE_BYTES, false, iov, &count);
			uint8_t *to = (uint8_t *)found;
			for (int i = 0; r > 0 && i < count; i++)
				to = (uint8_t *)memcpy(to, iov[i].iov_base, iov[i].iov_len) + iov[i].iov_len;
		} while (op_again(op, &r));
		op_end(op);
		content(file, p, version[file][p], expected);
		if (r == PAGE_BYTES && memcmp(found, expected, PAGE_BYTES) && !is_older(file, p, found))
			fail("other data", file, p);
		if (r != PAGE_BYTES && !is_error(r))
			fail("neither data nor an error", r, p);
		bad += r < 0;
	}
	return bad;
}

static unsigned check_all(const char *when)
{
	unsigned bad = 0;
	object_t id;
	off_t size;
	for (unsigned f = 0; f < FILES; f++)
		bad += check_file(f, when);
	for (unsigned i = 0; i < GONE; i++) {
		int r = lookup(gone_name(i), &id, &size);
		if (r != -ENOENT && !is_error(r) && !told.older)
			fail("what was deleted is there", r, i);
		bad += is_error(r);
	}
	return bad;
}

static bool refused_rightly(int r)
{
	bool foreign = repairing && r == -EINVAL; // neither superblock is one any more
	if (r && !is_error(r) && r != -ESTALE && !foreign)
		fail("refused without a name", r, 0);
	return r != 0;
}

// New work: it succeeds and stays, or is refused.
static void work(void)
{
	object_t id;
	off_t size;
	unsigned f = (unsigned)draw(FILES), p = (unsigned)draw(PAGES / 2);
	int r = lookup(file_name(f), &id, &size);
	if (!r)
		r = write_page(id, f, p, 9);
	if (r >= 0)
		version[f][p] = 9;
	else if (!is_error(r) && r != -EROFS && !(r == -ENOENT && told.loses))
		fail("write", r, f);
	r = store_sync(store);
	if (r && !is_error(r))
		fail("sync", r, 0);
}

// Each sort of place as often as the others, however many there are of it.
static const struct place *some_place(void)
{
	unsigned s = (unsigned)draw(sorts), n = (unsigned)draw(sort[s].count);
	for (const struct place *p = place;; p++)
		if (p->name == sort[s].name && n-- == 0)
			return p;
}

static void run_case(unsigned long number)
{
	static unsigned kept[FILES][PAGES];
	const struct place *p;
	enum kind kind;
	now_case = number;
	random_state = hash_mix(seed, number);
	enum pair_state state = draw(2) ? KILLED : draw(2) ? UNMOUNTED : BLANK_TIER;
	bool read_only = draw(4) == 0;
	put_images(state);
	do {
		p = some_place();
		kind = (enum kind)draw(KINDS);
	} while ((state == BLANK_TIER && p->device == 0) || !damage(p, kind));
	if (getenv("VEMS_DAMAGE_VERBOSE"))
		fprintf(stderr, "case %lu: %s at %llu of the %s, %s%s\n", number, kind_name[kind], (unsigned long long)p->offset, p->name,
			state_name[state], read_only ? ", read-only" : "");
	alarm(CASE_SECONDS);
	if (refused_rightly(open_pair(read_only))) {
		refused++;
		return;
	}
	memcpy(kept, version, sizeof version);
	unsigned bad = check_all("a name is not there");
	if (!read_only) {
		work();
		check_all("a name is not there after new work");
	}
	close_pair(draw(2));
	if (!refused_rightly(open_pair(false))) {
		bad += check_all("a name is not there after another mount");
		close_pair(true);
	}
	memcpy(version, kept, sizeof version);
	bad ? errors++ : healed++;
}

static unsigned long repaired, left;

static const struct place *some_node(enum pair_state state)
{
	static struct place found = { "tree node in force", 1, 0, PAGE_BYTES };
	found.offset = node[state][draw(nodes[state])] * PAGE_BYTES;
	return &found;
}

static void damage_some(enum pair_state state)
{
	for (unsigned n = 1 + (unsigned)draw(3); n;) {
		const struct place *p = draw(2) ? some_node(state) : some_place();
		enum kind kind = (enum kind)draw(KINDS);
		if ((state == BLANK_TIER && p->device == 0) || !damage(p, kind))
			continue;
		log_warning("%s at %llu of the %s, %s", kind_name[kind], (unsigned long long)p->offset, p->name, state_name[state]);
		n--;
	}
}

static void use_damaged(void)
{
	bool read_only = draw(4) == 0;
	if (refused_rightly(open_pair(read_only)))
		return;
	check_all("a name is not there");
	if (!read_only)
		work();
	close_pair(draw(2));
}

static void run_repair_case(unsigned long number)
{
	static unsigned kept[FILES][PAGES];
	enum pair_state state = (enum pair_state)(hash_mix(seed, number) % PAIR_STATES);

	now_case = number;
	random_state = hash_mix(seed, number);
	memset(&told, 0, sizeof told);
	memcpy(kept, version, sizeof version);
	put_images(state);
	damage_some(state);
	alarm(CASE_SECONDS);
	if (draw(2))
		use_damaged();
	int r = fsck(false), found = r;
	if (r >= 0)
		r = fsck(true);
	if (r < 0 && !refused_rightly(r))
		fail("repair", r, 0);
	if (r < 0) {
		refused++;
	} else {
		struct told by_repair = told;
		if ((r != 0) != (found != 0))
			fail("not the same found by two checks", found, r);
		if (fsck(false) < 0 || told.findings != told.stay || (r == 0 && told.stay))
			fail("found after the repair", told.findings, told.stay);
		told = by_repair;
		must(open_pair(false), "open after the repair");
		unsigned bad = check_all("a name is not there after the repair");
		if (bad && r == 0)
			fail("clean, and yet not all right", bad, 0);
		work();
		check_all("a name is not there after new work");
		must(close_pair(false), "unmount after the repair");
		repaired += r == 1;
		left += bad != 0;
	}
	memcpy(version, kept, sizeof version);
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "cases", 1, NULL, 'c' }, { "seed", 1, NULL, 's' }, { "only", 1, NULL, 'o' }, { "repair", 0, NULL, 'r' },
						{ 0 } };
	unsigned long cases = 300, only = 0;
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == 'c')
			cases = strtoul(optarg, NULL, 10);
		else if (c == 's')
			seed = strtoull(optarg, NULL, 10);
		else if (c == 'o')
			only = strtoul(optarg, NULL, 10);
		else if (c == 'r')
			repairing = true;
		else
			return 2;
	}
	log_quiet(!getenv("VEMS_DAMAGE_VERBOSE"));
	signal(SIGALRM, on_alarm);
	for (int d = 0; d < 2; d++) {
		int fd = mkstemp(path[d]);
		if (fd < 0 || ftruncate(fd, (off_t)device_bytes[d]))
			fail(path[d], errno, 0);
		device[d] = mmap(NULL, device_bytes[d], PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	}
	build();
	for (unsigned long c = only ? only : 1; c <= (only ? only : cases); c++)
		repairing ? run_repair_case(c) : run_case(c);
	for (int d = 0; d < 2; d++)
		unlink(path[d]);
	if (repairing)
		printf("%lu cases: %lu repaired, %lu refused; %lu with something lost, each told\n", only ? 1 : cases, repaired, refused, left);
	else
		printf("%lu cases of %u places: %lu right all the same, %lu with errors that have a name, %lu refused\n", only ? 1 : cases, places,
	       healed, errors, refused);
	return 0;
}
