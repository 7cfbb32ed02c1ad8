// SPDX-License-Identifier: GPL-2.0-or-later
// One script of work on file system and store, over and over, with one failure more each time: of the
// Nth allocation, or of the Nth I/O of a kind, once or some in a row. After each failure everything is as
// before the call or as after it, the call can be made again, and in the end nothing has leaked: neither
// memory, nor frames, nor space.
//
//	test_nth [--long] [--io] [--from N] [--to N] [--verbose]
//
// In short, the first calls of each place that allocates, and some of all; --long, every call.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs.h"
#include "fs_check.h"
#include "fs_impl.h"
#include "log.h"
#include "nth.h"
#include "store_impl.h"

#define TIER_BYTES (UINT64_C(2) << 20)
#define BACKING_BYTES (UINT64_C(16) << 20)
#define FILES 8u
#define FILE_BYTES (UINT64_C(96) * PAGE_BYTES)
#define ENTRIES 120u // of the large directory
#define XATTR_BYTES 5000u // more than an item holds
#define TRIES 200u
#define STUCK_S 60u
#define ROW 40u // failures in a row

// ---- failing ------------------------------------------------------------------------------------------

static char folder[] = "/dev/shm/test-nth-XXXXXX", tier_path[64], backing_path[64];
static char now[256];  // what is failed in this run
static const char *step = "start";
static bool verbose;

static void remove_files(void)
{
	unlink(tier_path);
	unlink(backing_path);
	rmdir(folder);
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
	va_list args;

	printf("FAILED: %s: %s: ", now, step);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	remove_files();
	_exit(1);
}

static void on_signal(int signal)
{
	fail("%s", signal == SIGALRM ? "stuck" : "an assertion failed");
}

// Of the sanitizer, if there is one.
__attribute__((weak)) int __lsan_do_recoverable_leak_check(void);

// ---- the model ------------------------------------------------------------------------------------------

struct file {
	bool there, has_xattr;
	object_t id;
	uint64_t bytes;
	uint8_t xattr;  // what its value consists of
	uint8_t data[FILE_BYTES];
};
static struct file model[FILES];
static object_t directory;
static bool entry[ENTRIES];
static uint8_t buffer[FILE_BYTES];

// ---- the file system ----------------------------------------------------------------------------------

static const struct fs_cred cred = { 0, 0, 022 };
static struct store *store;
static struct fs *fs;
static struct lane *lane;
static int injected; // what a failure is reported as

// Made again until no failure is in the way of it: each time it must be reported as what it is.
#define RETRY(call)                                                             \
	({                                                                      \
		int r_;                                                         \
		for (unsigned tries_ = 0; (r_ = (int)(call)) == injected;)      \
			if (++tries_ == TRIES)                                  \
				fail(#call ": fails for good");                 \
		r_;                                                             \
	})
#define OPERATION(body)                         \
	({                                      \
		struct op *op = op_begin(lane); \
		int o_;                         \
		do                              \
			o_ = (int)(body);       \
		while (op_again(op, &o_));      \
		op_end(op);                     \
		o_;                             \
	})
#define RUN(body) RETRY(OPERATION(body))
#define MUST(body)                                            \
	do {                                                  \
		int m_ = RUN(body);                           \
		if (m_)                                       \
			fail(#body ": %s", strerror(-m_));    \
	} while (0)

static int open_devices(struct media **ret_media, struct backing **ret_backing, bool read_only)
{
	int r = media_open(tier_path, read_only, ret_media);

	if (r)
		return r;
	r = backing_open(backing_path, read_only, ret_backing);
	if (r)
		media_close(*ret_media);
	else
		(*ret_backing)->hook = &nth_hook;
	return r;
}

static int open_store(void)
{
	const struct store_config config = { .tiny = true, .assume_persistent = true, .format_blank = true, .interval_ms = 3600000 };
	struct media *m;
	struct backing *b;
	int r = open_devices(&m, &b, false);

	return r ? r : store_open_on(&config, m, b, &store);
}

static int open_all(void)
{
	int r = open_store();

	if (r)
		return r == -EAGAIN ? injected : r; // of a thread
	r = fs_new(store, &fs);
	if (!r && (r = fs_start(fs, 0, 0)))
		fs_free(fs);
	if (!r && (r = lane_new(store, &lane)))
		fs_free(fs);
	if (r)
		store_abandon(store);
	return r;
}

// As the frontend does it, but does not wait for a second.
static void drop_orphans(void)
{
	for (object_t id; (id = fs_next_orphan(fs)); atomic_store(&fs->drop_again_ms, 0)) {
		int r;

		do
			r = OPERATION(fs_drop(op, fs, id));
		while (r > 0);
		if (r && r != injected)
			fail("dropping what was deleted: %s", strerror(-r));
		fs_dropped(fs, id, r);
	}
}

static void close_fs(void)
{
	drop_orphans();
	lane_free(lane);
	fs_stop(fs);
	fs_free(fs);
}

static void reopen(void)
{
	int r = RETRY(open_all());

	if (r)
		fail("cannot be opened: %s", strerror(-r));
}

static void evict_all(void)
{
	grace_enter(&store->grace, lane->reader);
	evict_some(store, UINT32_MAX, true);
	grace_leave(lane->reader);
	frames_poll(store->tier);
}

static void reclaim(void)
{
	grace_enter(&store->grace, lane->reader);
	reclaim_slice(store, true);
	grace_leave(lane->reader);
	frames_poll(store->tier);
}

// ---- comparing ----------------------------------------------------------------------------------------

static const char *name_of(unsigned file)
{
	static char names[FILES][8];

	snprintf(names[file], sizeof names[file], "file%u", file);
	return names[file];
}

static int read_file(struct op *op, object_t id, size_t *ret_bytes)
{
	struct iovec iov[OP_PAGES_MAX];
	ssize_t n;
	int count;

	n = fs_read(op, fs, id, 0, sizeof buffer, true, iov, &count);
	*ret_bytes = 0;
	for (int i = 0; n > 0 && i < count; *ret_bytes += iov[i++].iov_len)
		memcpy(buffer + *ret_bytes, iov[i].iov_base, iov[i].iov_len);
	return n < 0 ? (int)n : 0;
}

static void compare_xattr(const struct file *f)
{
	static uint8_t value[XATTR_BYTES];
	int r = RUN(fs_getxattr(op, fs, f->id, "user.large", value, sizeof value));

	if (f->has_xattr ? r != XATTR_BYTES || value[0] != f->xattr || memcmp(value, value + 1, sizeof value - 1) : r != -ENODATA)
		fail("attribute of %s: %d", name_of((unsigned)(f - model)), r);
}

static void compare_file(unsigned n)
{
	const struct file *f = &model[n];
	struct stat attr;
	size_t bytes;
	int r = RUN(fs_lookup(op, fs, OBJECT_ROOT, name_of(n), &attr));

	if (!f->there) {
		if (r != -ENOENT)
			fail("%s: should not be there: %d", name_of(n), r);
		return;
	}
	if (r || attr.st_ino != f->id || (uint64_t)attr.st_size != f->bytes)
		fail("%s: %d, object %llu of %llu bytes; expected object %llu of %llu", name_of(n), r, (unsigned long long)attr.st_ino,
		     (unsigned long long)attr.st_size, (unsigned long long)f->id, (unsigned long long)f->bytes);
	MUST(read_file(op, f->id, &bytes));
	if (bytes != f->bytes || memcmp(buffer, f->data, bytes))
		fail("%s: wrong content", name_of(n));
	compare_xattr(f);
}

struct seen {
	bool entry[ENTRIES];
	unsigned count;
	uint64_t cookie;
};

static int see_entry(void *arg, const char *name, const struct stat *attr, uint64_t cookie)
{
	struct seen *seen = arg;
	unsigned n;

	seen->cookie = cookie;
	if (*name == '.')
		return 0;
	if (sscanf(name, "entry of the large directory, number %u", &n) != 1 || n >= ENTRIES || seen->entry[n])
		fail("a strange entry: %s", name);
	seen->entry[n] = true;
	seen->count++;
	return 0;
}

static int list(struct op *op, struct seen *ret_seen)
{
	*ret_seen = (struct seen){ 0 };
	return fs_readdir(op, fs, directory, 0, true, see_entry, ret_seen);
}

static void compare_directory(void)
{
	struct seen seen;

	if (!directory)
		return;
	MUST(list(op, &seen));
	if (memcmp(seen.entry, entry, sizeof entry))
		fail("the large directory has not the entries that it should have");
}

static void compare(void)
{
	for (unsigned n = 0; n < FILES; n++)
		compare_file(n);
	compare_directory();
}

// ---- the steps ------------------------------------------------------------------------------------------

// A change that fails has changed nothing: so all is compared before it is tried again.
#define CHANGE(body)                                          \
	do {                                                  \
		int c_ = OPERATION(body);                     \
		if (c_ == injected) {                         \
			compare();                            \
			c_ = RUN(body);                       \
		}                                             \
		if (c_)                                       \
			fail(#body ": %s", strerror(-c_));    \
	} while (0)

static void create(unsigned n)
{
	struct stat attr;

	CHANGE(fs_make(op, fs, &cred, OBJECT_ROOT, name_of(n), S_IFREG | 0644, 0, NULL, &attr));
	memset(&model[n], 0, sizeof model[n]);
	model[n].there = true;
	model[n].id = attr.st_ino;
}

static int write_all(struct op *op, object_t id, const uint8_t *data, size_t bytes, uint64_t offset)
{
	ssize_t n = fs_write(op, fs, id, data, bytes, offset, true);

	return n < 0 ? (int)n : n == (ssize_t)bytes ? 0 : -EMSGSIZE;
}

static void write_file(unsigned n, uint64_t offset, size_t bytes, uint8_t stamp)
{
	static uint8_t data[FILE_BYTES];
	struct file *f = &model[n];

	for (size_t i = 0; i < bytes; i++)
		data[i] = (uint8_t)(stamp + (offset + i) / 512 + n);
	CHANGE(write_all(op, f->id, data, bytes, offset));
	memcpy(f->data + offset, data, bytes);
	if (offset + bytes > f->bytes)
		f->bytes = offset + bytes;
}

static void truncate_file(unsigned n, uint64_t bytes)
{
	struct stat attr = { .st_size = (off_t)bytes };
	struct file *f = &model[n];

	CHANGE(fs_setattr(op, fs, f->id, &attr, FS_SET_SIZE, &attr));
	if (bytes < f->bytes)
		memset(f->data + bytes, 0, f->bytes - bytes);
	f->bytes = bytes;
}

static void punch(unsigned n, uint64_t from, uint64_t to)
{
	CHANGE(fs_punch(op, fs, model[n].id, from, to, true));
	memset(model[n].data + from, 0, to - from);
}

// Past the end of the file: nothing is to be seen of it.
static void allocate(unsigned n, uint64_t from, uint64_t end)
{
	const struct fs_allocation before = { .next = from, .end = end, .keep_size = true };
	struct fs_allocation after;

	CHANGE(fs_allocate(op, fs, model[n].id, &before, &after));
}

static void move(unsigned from, unsigned to)
{
	CHANGE(fs_rename(op, fs, &cred, OBJECT_ROOT, name_of(from), OBJECT_ROOT, name_of(to), 0));
	if (model[to].there)
		fs_forgotten(fs, model[to].id);
	model[to] = model[from];
	model[from].there = false;
	drop_orphans();
}

static void remove_file(unsigned n)
{
	CHANGE(fs_unlink(op, fs, OBJECT_ROOT, name_of(n)));
	fs_forgotten(fs, model[n].id);
	model[n].there = false;
	drop_orphans();
}

static void set_xattr(unsigned n, uint8_t stamp)
{
	uint8_t value[XATTR_BYTES];

	memset(value, stamp, sizeof value);
	CHANGE(fs_setxattr(op, fs, model[n].id, "user.large", value, sizeof value, 0));
	model[n].has_xattr = true;
	model[n].xattr = stamp;
}

static void remove_xattr(unsigned n)
{
	CHANGE(fs_removexattr(op, fs, model[n].id, "user.large"));
	model[n].has_xattr = false;
}

static void entry_name(unsigned n, char *name, size_t bytes)
{
	snprintf(name, bytes, "entry of the large directory, number %u", n);
}

static void make_directory(void)
{
	struct stat attr;

	CHANGE(fs_make(op, fs, &cred, OBJECT_ROOT, "directory", S_IFDIR | 0755, 0, NULL, &attr));
	directory = attr.st_ino;
}

static void make_entry(unsigned n)
{
	char name[64];
	struct stat attr;

	entry_name(n, name, sizeof name);
	CHANGE(fs_make(op, fs, &cred, directory, name, S_IFREG | 0644, 0, NULL, &attr));
	entry[n] = true;
}

static void remove_entry(unsigned n)
{
	char name[64];
	struct stat attr;

	entry_name(n, name, sizeof name);
	MUST(fs_lookup(op, fs, directory, name, &attr));
	RETRY(fs_opened(fs, attr.st_ino));
	CHANGE(fs_unlink(op, fs, directory, name));
	entry[n] = false;
	fs_forgotten(fs, attr.st_ino);
	fs_released(fs, attr.st_ino);
	drop_orphans();
}

static void epoch(void)
{
	int r = RETRY(store_sync(store));

	if (r)
		fail("store_sync: %s", strerror(-r));
}

// The tier keeps what a failed last epoch could not write: either way the next mount has all.
static void unmount_and_mount(void)
{
	int r;

	close_fs();
	r = store_close(store);
	if (r && r != injected)
		fail("closing: %s", strerror(-r));
	reopen();
}

static void crash_and_mount(void)
{
	lane_free(lane);
	fs_free(fs);
	store_abandon(store);
	reopen();
}

static void write_script(void)
{
	step = "writing";
	create(0);
	write_file(0, 0, 64 * PAGE_BYTES, 1);
	create(1);
	write_file(1, 100, 3 * PAGE_BYTES, 2);
	write_file(1, 2 * PAGE_BYTES + 7, 5, 3);
	create(2);
	write_file(2, 80 * PAGE_BYTES, 9 * PAGE_BYTES, 4);
	set_xattr(1, 'a');
	epoch();
	step = "reading from the backing";
	evict_all();
	compare();
	step = "writing over what is on the backing";
	evict_all();
	write_file(0, 5 * PAGE_BYTES + 1, PAGE_BYTES, 5);
	set_xattr(1, 'b');
	write_file(2, 0, 40 * PAGE_BYTES, 6);
	reclaim();
}

static void change_script(void)
{
	step = "truncating";
	truncate_file(0, 10 * PAGE_BYTES + 100);
	truncate_file(0, 30 * PAGE_BYTES);
	punch(2, 3 * PAGE_BYTES + 9, 20 * PAGE_BYTES);
	step = "allocating past the end";
	allocate(0, 35 * PAGE_BYTES, 50 * PAGE_BYTES);
	allocate(1, 0, 20 * PAGE_BYTES);
	write_file(0, 30 * PAGE_BYTES, 8 * PAGE_BYTES, 1);
	truncate_file(1, 5 * PAGE_BYTES);
	step = "renaming and unlinking";
	create(3);
	write_file(3, 0, 2 * PAGE_BYTES, 7);
	move(3, 2);
	remove_xattr(1);
	set_xattr(2, 'c');
	remove_file(2);
	create(4);
	write_file(4, 0, FILE_BYTES, 8);
	epoch();
	evict_all();
	reclaim();
}

static void directory_script(void)
{
	step = "filling a directory";
	make_directory();
	for (unsigned n = 0; n < ENTRIES; n++)
		make_entry(n);
	epoch();
	step = "listing it from the backing";
	evict_all();
	compare_directory();
	step = "emptying it";
	for (unsigned n = 0; n < ENTRIES; n += 2)
		remove_entry(n);
}

static void script(void)
{
	write_script();
	change_script();
	step = "mounting again";
	unmount_and_mount();
	compare();
	directory_script();
	step = "recovering";
	write_file(4, 0, 50 * PAGE_BYTES, 9);
	crash_and_mount();
	compare();
	step = "going on";
	for (uint8_t i = 0; i < 4; i++) { // more than the tier has frames
		write_file(4, 0, FILE_BYTES, (uint8_t)(10 + i));
		write_file(0, 0, 90 * PAGE_BYTES, (uint8_t)(20 + i));
	}
	epoch();
}

// ---- after it -------------------------------------------------------------------------------------------

// Of all frames, those that are neither free nor in the index.
static unsigned frames_elsewhere(void)
{
	struct tier *t = store->tier;
	unsigned elsewhere = 0;

	frames_poll(t);
	for (frame_t f = 0; f < t->frames; f++) {
		unsigned place = frame_place(frame_state(&t->frame[f]));
		elsewhere += place != FRAME_FREE && place != FRAME_INDEXED;
	}
	return elsewhere;
}

// Nothing is under way: every frame is free or in the index, no promise is left.
static void check_nothing_leaked(void)
{
	struct store *s = store;
	unsigned elsewhere;

	step = "counting frames and promises";
	epoch();
	for (unsigned i = 0; (elsewhere = frames_elsewhere()) && i < 2000; i++)
		usleep(1000);
	if (elsewhere)
		fail("%u frames are neither free nor in the index", elsewhere);
	if (frames_dirty_count(s->tier) || s->claims || s->dirty_claimed || s->overlay.items || s->overlay.claimed || s->waiters)
		fail("%u frames are dirty, promised are %llu blocks and %llu dirty frames; the overlay has %llu items and promises of %llu "
		     "bytes; %u wait", frames_dirty_count(s->tier), (unsigned long long)s->claims, (unsigned long long)s->dirty_claimed,
		     (unsigned long long)s->overlay.items, (unsigned long long)s->overlay.claimed, s->waiters);
}

static void report(void *arg, const struct check_finding *finding)
{
	char line[512];

	check_describe(finding, line, sizeof line);
	fail("%s", line);
}

static void check_offline(void)
{
	const struct store_config config = { .tier_path = tier_path, .backing_path = backing_path, .read_only = true,
					     .assume_persistent = true, .tiny = true };
	const struct check_config check = { .report = report };
	struct fs_check_result result;
	int r;

	step = "the check";
	r = store_open(&config, &store);
	if (!r)
		r = fs_check(store, &check, &result);
	if (r)
		fail("%s", strerror(-r));
	store_abandon(store);
}

static void blank(const char *path, uint64_t bytes)
{
	if (truncate(path, 0) || truncate(path, (off_t)bytes))
		fail("%s: %s", path, strerror(errno));
}

// One run with what is armed; true if it had a failure.
static bool run(void)
{
	alarm(STUCK_S);
	blank(tier_path, TIER_BYTES);
	blank(backing_path, BACKING_BYTES);
	memset(model, 0, sizeof model);
	memset(entry, 0, sizeof entry);
	directory = 0;
	step = "the first mount";
	reopen();
	script();
	nth_disarm();
	step = "comparing at the end";
	compare();
	check_nothing_leaked();
	unmount_and_mount(); // drops what had no memory to be counted
	compare();
	drop_orphans();
	close_fs();
	step = "closing";
	if (store_close(store))
		fail("cannot be closed");
	check_offline();
	if (&__lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check())
		fail("memory has leaked");
	alarm(0);
	return nth_failures();
}

// ---- the loops --------------------------------------------------------------------------------------------

static unsigned runs;

static bool alloc_run(const void *place, uint64_t first, uint64_t count)
{
	extern const char __executable_start;

	if (place)
		snprintf(now, sizeof now, "call %llu of the allocation at 0x%lx", (unsigned long long)first,
			 (unsigned long)((const char *)place - &__executable_start));
	else
		snprintf(now, sizeof now, "allocation %llu, %llu in a row", (unsigned long long)first, (unsigned long long)count);
	if (verbose)
		fprintf(stderr, "%s\n", now);
	runs++;
	injected = -ENOMEM;
	nth_arm_alloc(place, first, count);
	return run();
}

static bool io_run(char kind, uint64_t first, uint64_t count)
{
	snprintf(now, sizeof now, "I/O %llu of kind %c, %llu in a row", (unsigned long long)first, kind, (unsigned long long)count);
	if (verbose)
		fprintf(stderr, "%s\n", now);
	runs++;
	injected = -EIO;
	nth_arm_io(kind, first, count);
	return run();
}

// The first calls of each place, and one in the middle.
static void each_place(void)
{
	static struct nth_site site[NTH_SITES_MAX];
	unsigned sites;

	alloc_run(NULL, UINT64_MAX, 1);
	sites = nth_sites(site);
	for (unsigned i = 0; i < sites; i++) {
		for (uint64_t call = 1; call <= 3 && call <= site[i].calls; call++)
			alloc_run(site[i].place, call, 1);
		if (site[i].calls > 6)
			alloc_run(site[i].place, site[i].calls / 2, 1);
	}
	printf("%u places that allocate\n", sites);
}

static void each_call(uint64_t from, uint64_t to, uint64_t stride, uint64_t count)
{
	for (uint64_t n = from; n <= to && alloc_run(NULL, n, count); n += stride)
		;
}

static void each_io(uint64_t stride)
{
	for (const char *kind = "rwWf"; *kind; kind++) {
		uint64_t n = 1;

		for (; io_run(*kind, n, 1); n += stride)
			if (stride == 1 || n % 3 == 1)
				io_run(*kind, n, 3);
		if (n == 1)
			fail("no such I/O");
	}
}

static void fill_paths(void)
{
	if (!mkdtemp(folder))
		fail("%s: %s", folder, strerror(errno));
	snprintf(tier_path, sizeof tier_path, "%s/tier", folder);
	snprintf(backing_path, sizeof backing_path, "%s/backing", folder);
	close(open(tier_path, O_WRONLY | O_CREAT, 0600));
	close(open(backing_path, O_WRONLY | O_CREAT, 0600));
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "long", no_argument, NULL, 'l' }, { "io", no_argument, NULL, 'i' }, { "from", required_argument, NULL, 'f' },
		{ "to", required_argument, NULL, 't' }, { "verbose", no_argument, NULL, 'v' }, { NULL, 0, NULL, 0 } };
	bool all = false, io = false;
	uint64_t from = 1, to = UINT64_MAX;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c) {
		case 'l': all = true; break;
		case 'i': io = true; break;
		case 'f': from = strtoull(optarg, NULL, 0); break;
		case 't': to = strtoull(optarg, NULL, 0); break;
		case 'v': verbose = true; break;
		default: return 2;
		}
	log_init("test_nth");
	log_quiet(!verbose);
	signal(SIGALRM, on_signal);
	signal(SIGABRT, on_signal);
	fill_paths();
	if (io) {
		each_io(all ? 1 : 7);
	} else if (all) {
		each_call(from, to, 1, 1);
		each_call(from, to, ROW / 2, ROW);
	} else {
		each_place();
		each_call(1, UINT64_MAX, 499, ROW);
	}
	remove_files();
	printf("%u runs\n", runs);
	return 0;
}
