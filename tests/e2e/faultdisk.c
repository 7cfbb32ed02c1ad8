// SPDX-License-Identifier: GPL-2.0-or-later
// A disk that fails as it is told: a FUSE file system of three files. `disk` is the device, kept in an
// ordinary file and as large as that; `ctl` takes one command a write(2); `stat` tells what has happened.
//
//	delay MS             each I/O takes so long
//	read-error [N]       the next N reads fail, or all
//	write-error [N]      likewise
//	flush-error [N]      likewise; what was written since the last good flush is lost
//	nth N                the Nth I/O from now on fails, alone
//	range BLOCK COUNT    all that touches these blocks of 4 KiB fails
//	gone                 everything fails
//	hang                 nothing ends
//	good                 none of the above; what hangs goes on
//	cache                from now on what is written is kept in memory until a flush
//	drop                 and lost before it: as in a power cut
//
// Errors are EIO. As of a real disk, an error strikes when the I/O would have ended: what is under way
// when the disk is gone fails too. A write with O_DSYNC or RWF_DSYNC passes the cache by (FUA).
#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES 4096u
#define FOREVER UINT64_MAX
#define IN_FLIGHT_MAX 256u // as many threads: in main()

enum kind { READS, WRITES, FLUSHES, KINDS };

static struct {
	int fd;
	uint64_t bytes;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* all under lock: */
	uint64_t delay_ms;
	uint64_t fail[KINDS]; // so many of the next
	uint64_t nth; // I/Os until one fails; 0: none will
	uint64_t bad_from, bad_count; // blocks
	bool gone, hangs, caches;
	uint8_t **cache; // of each block, what is not on the file yet, or NULL
	uint64_t ended[KINDS], failed[KINDS], in_flight, cached, lost;
} disk = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

// ---- faults -------------------------------------------------------------------------------------

static bool strikes(enum kind kind, uint64_t block, uint64_t count)
{
	if (disk.gone || (count && block < disk.bad_from + disk.bad_count && disk.bad_from < block + count))
		return true;
	if (disk.nth && --disk.nth == 0)
		return true;
	if (!disk.fail[kind])
		return false;
	if (disk.fail[kind] != FOREVER)
		disk.fail[kind]--;
	return true;
}

// Takes as long as the I/O is to take. Returns with the lock held, 0 or -EIO.
static int suffer(enum kind kind, uint64_t offset, uint64_t bytes)
{
	pthread_mutex_lock(&disk.lock);
	struct timespec delay = { .tv_sec = (time_t)(disk.delay_ms / 1000), .tv_nsec = (long)(disk.delay_ms % 1000) * 1000000 };
	disk.in_flight++;
	pthread_mutex_unlock(&disk.lock);
	nanosleep(&delay, NULL);
	pthread_mutex_lock(&disk.lock);
	while (disk.hangs)
		pthread_cond_wait(&disk.changed, &disk.lock);
	disk.in_flight--;
	bool fails = strikes(kind, offset / BLOCK_BYTES, (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES);
	(fails ? disk.failed : disk.ended)[kind]++;
	return fails ? -EIO : 0;
}

// ---- the volatile cache ---------------------------------------------------------------------------

static void cache_forget(uint64_t block)
{
	if (!disk.cache[block])
		return;
	free(disk.cache[block]);
	disk.cache[block] = NULL;
	disk.cached--;
}

static void cache_lose(void)
{
	disk.lost += disk.cached;
	for (uint64_t block = 0; disk.cached; block++)
		cache_forget(block);
}

static int to_file(const void *data, size_t bytes, uint64_t offset)
{
	return pwrite(disk.fd, data, bytes, (off_t)offset) == (ssize_t)bytes ? 0 : -EIO;
}

static int cache_flush(void)
{
	int r = 0;
	for (uint64_t block = 0; disk.cached && !r; block++) {
		if (!disk.cache[block])
			continue;
		r = to_file(disk.cache[block], BLOCK_BYTES, block * BLOCK_BYTES);
		cache_forget(block);
	}
	return r;
}

static int cache_put(const uint8_t *data, uint64_t block)
{
	if (!disk.cache[block]) {
		disk.cache[block] = malloc(BLOCK_BYTES);
		if (!disk.cache[block])
			return -ENOMEM;
		disk.cached++;
	}
	memcpy(disk.cache[block], data, BLOCK_BYTES);
	return 0;
}

// ---- the disk -------------------------------------------------------------------------------------

static int disk_read(char *buffer, size_t bytes, uint64_t offset)
{
	ssize_t got = pread(disk.fd, buffer, bytes, (off_t)offset);
	if (got < 0)
		return -EIO;
	for (uint64_t at = offset; disk.cached && at < offset + (uint64_t)got;) {
		uint64_t within = at % BLOCK_BYTES, length = BLOCK_BYTES - within;
		if (length > offset + (uint64_t)got - at)
			length = offset + (uint64_t)got - at;
		const uint8_t *cached = disk.cache[at / BLOCK_BYTES];
		if (cached)
			memcpy(buffer + (at - offset), cached + within, length);
		at += length;
	}
	return (int)got;
}

static int disk_write(const char *data, size_t bytes, uint64_t offset, bool through)
{
	uint64_t first = offset / BLOCK_BYTES, count = bytes / BLOCK_BYTES;
	int r = 0;

	if (offset % BLOCK_BYTES || bytes % BLOCK_BYTES || offset + bytes > disk.bytes)
		return -EINVAL;
	if (through || !disk.caches) {
		r = to_file(data, bytes, offset);
		for (uint64_t i = 0; i < count; i++)
			cache_forget(first + i);
	}
	for (uint64_t i = 0; i < count && !through && disk.caches && !r; i++)
		r = cache_put((const uint8_t *)data + i * BLOCK_BYTES, first + i);
	return r ? r : (int)bytes;
}

// ---- commands -------------------------------------------------------------------------------------

static void all_good(void)
{
	disk.delay_ms = disk.nth = disk.bad_count = 0;
	memset(disk.fail, 0, sizeof disk.fail);
	disk.gone = disk.hangs = false;
	pthread_cond_broadcast(&disk.changed);
}

static int command(const char *line)
{
	static const char *const errors[KINDS] = { "read-error", "write-error", "flush-error" };
	unsigned long long one = 0, two = 0;
	char name[16] = "";
	int found = sscanf(line, "%15s %llu %llu", name, &one, &two);

	for (enum kind kind = READS; kind < KINDS; kind++)
		if (!strcmp(name, errors[kind])) {
			disk.fail[kind] = found == 1 ? FOREVER : one;
			return 0;
		}
	if (!strcmp(name, "delay") && found == 2)
		disk.delay_ms = one;
	else if (!strcmp(name, "nth") && found == 2)
		disk.nth = one;
	else if (!strcmp(name, "range") && found == 3)
		disk.bad_from = one, disk.bad_count = two;
	else if (!strcmp(name, "gone"))
		disk.gone = true;
	else if (!strcmp(name, "hang"))
		disk.hangs = true;
	else if (!strcmp(name, "good"))
		all_good();
	else if (!strcmp(name, "cache"))
		disk.caches = true;
	else if (!strcmp(name, "drop"))
		cache_lose();
	else
		return -EINVAL;
	return 0;
}

static int print_stat(char *buffer, size_t bytes)
{
	return snprintf(buffer, bytes,
			"reads %llu\nwrites %llu\nflushes %llu\nfailed_reads %llu\nfailed_writes %llu\nfailed_flushes %llu\n"
			"in_flight %llu\nuntil_nth %llu\ncached %llu\nlost %llu\n",
			(unsigned long long)disk.ended[READS], (unsigned long long)disk.ended[WRITES],
			(unsigned long long)disk.ended[FLUSHES], (unsigned long long)disk.failed[READS],
			(unsigned long long)disk.failed[WRITES], (unsigned long long)disk.failed[FLUSHES],
			(unsigned long long)disk.in_flight, (unsigned long long)disk.nth, (unsigned long long)disk.cached, (unsigned long long)disk.lost);
}

// ---- the file system --------------------------------------------------------------------------------

enum file { FILE_NONE, FILE_ROOT, FILE_DISK, FILE_CTL, FILE_STAT, FILES };
static const char *const names[FILES] = { [FILE_NONE] = "", "/", "/disk", "/ctl", "/stat" };

static enum file file_of(const char *path)
{
	enum file file = FILES - 1;
	while (file && strcmp(path, names[file]))
		file--;
	return file;
}

static void *serve_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
	connection->max_background = IN_FLIGHT_MAX;
	config->direct_io = 1;
	return NULL;
}

static int serve_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
	enum file file = file_of(path);

	if (file == FILE_NONE)
		return -ENOENT;
	st->st_mode = file == FILE_ROOT ? S_IFDIR | 0755 : S_IFREG | 0600;
	st->st_nlink = 1;
	st->st_size = file == FILE_DISK ? (off_t)disk.bytes : 0;
	return 0;
}

static int serve_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *info,
			 enum fuse_readdir_flags flags)
{
	for (enum file file = FILE_DISK; file < FILES; file++)
		fill(buffer, names[file] + 1, NULL, 0, 0);
	return 0;
}

static int serve_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
	return file_of(path) == FILE_CTL ? 0 : -EPERM; // of echo > ctl
}

static int read_stat(char *buffer, size_t bytes, off_t offset)
{
	char text[512];

	pthread_mutex_lock(&disk.lock);
	size_t length = (size_t)print_stat(text, sizeof text);
	pthread_mutex_unlock(&disk.lock);
	if ((size_t)offset >= length)
		return 0;
	if (bytes > length - (size_t)offset)
		bytes = length - (size_t)offset;
	memcpy(buffer, text + offset, bytes);
	return (int)bytes;
}

static int serve_read(const char *path, char *buffer, size_t bytes, off_t offset, struct fuse_file_info *info)
{
	if (file_of(path) != FILE_DISK)
		return file_of(path) == FILE_STAT ? read_stat(buffer, bytes, offset) : -EINVAL;
	int r = suffer(READS, (uint64_t)offset, bytes);
	if (!r)
		r = disk_read(buffer, bytes, (uint64_t)offset);
	pthread_mutex_unlock(&disk.lock);
	return r;
}

static int write_ctl(const char *data, size_t bytes)
{
	char line[64];

	snprintf(line, sizeof line, "%.*s", (int)bytes, data);
	pthread_mutex_lock(&disk.lock);
	int r = command(line);
	pthread_mutex_unlock(&disk.lock);
	return r ? r : (int)bytes;
}

static int serve_write(const char *path, const char *data, size_t bytes, off_t offset, struct fuse_file_info *info)
{
	if (file_of(path) != FILE_DISK)
		return file_of(path) == FILE_CTL ? write_ctl(data, bytes) : -EINVAL;
	int r = suffer(WRITES, (uint64_t)offset, bytes);
	if (!r)
		r = disk_write(data, bytes, (uint64_t)offset, info->flags & O_DSYNC);
	pthread_mutex_unlock(&disk.lock);
	return r;
}

static int serve_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
	int r = suffer(FLUSHES, 0, 0);
	if (!r)
		r = cache_flush();
	else
		cache_lose();
	pthread_mutex_unlock(&disk.lock);
	return r;
}

static const struct fuse_operations operations = {
	.init = serve_init,
	.getattr = serve_getattr,
	.readdir = serve_readdir,
	.truncate = serve_truncate,
	.read = serve_read,
	.write = serve_write,
	.fsync = serve_fsync,
};

int main(int argc, char **argv)
{
	char options[] = "-osubtype=faultdisk,max_threads=256,max_idle_threads=256";
	struct stat st;

	if (argc != 3) {
		fprintf(stderr, "Usage: faultdisk FILE MOUNTPOINT\n");
		return 2;
	}
	disk.fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (disk.fd < 0 || fstat(disk.fd, &st)) {
		perror(argv[1]);
		return 1;
	}
	disk.bytes = (uint64_t)st.st_size;
	disk.cache = calloc(disk.bytes / BLOCK_BYTES, sizeof *disk.cache);
	if (!disk.cache)
		return 1;
	return fuse_main(3, ((char *[]){ argv[0], options, argv[2], NULL }), &operations, NULL);
}
