// SPDX-License-Identifier: GPL-2.0-or-later
// The engine alone, without FUSE: time per 4 KiB hit and per create, on a fake tier in memory.
//
//	bench-engine [--dir=DIR] [--seconds=S] [--only=TEXT]
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "clock.h"
#include "fs.h"
#include "log.h"

#define TIER_BYTES (512l << 20)
#define FILE_PAGES 16384u

static double seconds = 1.0;
static const char *only = ""; // part of a name
static struct store *store;
static struct fs *fs;
static struct lane *lane;

static double now(void)
{
	return (double)now_ns() / 1e9;
}

static void must(int r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "engine: %s: %s\n", what, strerror(-r));
		exit(1);
	}
}

#define RUN(body) OP_RUN(lane, body)

static void report(const char *what, unsigned long n, double took)
{
	printf("%-28s %8.3f us  %10.0f /s\n", what, took / (double)n * 1e6, (double)n / took);
}

// A cheap generator: pages in no order.
static uint32_t next_random(void)
{
	static uint32_t x = 2463534242u;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

static object_t make_file(const char *name)
{
	struct fs_cred cred = { 0 };
	struct stat st;
	must(RUN(fs_make(op, fs, &cred, OBJECT_ROOT, name, S_IFREG | 0644, 0, NULL, &st)), "create");
	return st.st_ino;
}

static void bench_write(object_t id, size_t bytes, const char *what)
{
	static uint8_t data[1 << 20];
	unsigned long n = 0;
	double began = now();
	for (; now() - began < seconds; n += 64 * (1 << 20) / bytes / 256 + 1)
		for (unsigned long i = 0; i < 64 * (1 << 20) / bytes / 256 + 1; i++) {
			uint64_t at = next_random() % (FILE_PAGES * 4096ull / bytes) * bytes;
			memset(data, (int)n, 8);
			must(RUN(fs_write(op, fs, id, data, bytes, at, false)), "write");
		}
	report(what, n, now() - began);
}

static void bench_read(object_t id, size_t bytes, const char *what)
{
	static uint8_t buffer[1 << 20];
	struct iovec iov[OP_PAGES_MAX];
	unsigned long n = 0;
	double began = now();
	for (; now() - began < seconds; n += 64)
		for (int i = 0; i < 64; i++) {
			uint64_t at = next_random() % (FILE_PAGES * 4096ull / bytes) * bytes;
			int count;
			struct op *op = op_begin(lane);
			int r;
			do
				r = (int)fs_read(op, fs, id, at, bytes, true, iov, &count);
			while (op_again(op, &r));
			must(r, "read");
			uint8_t *to = buffer;
			for (int k = 0; k < count; k++) { // what a reply copies
				memcpy(to, iov[k].iov_base, iov[k].iov_len);
				to += iov[k].iov_len;
			}
			op_end(op);
		}
	report(what, n, now() - began);
}

static void bench_create(object_t id, size_t bytes, const char *what)
{
	struct fs_cred cred = { 0 };
	struct stat st;
	char name[32];
	unsigned long n = 0;
	must(RUN(fs_make(op, fs, &cred, OBJECT_ROOT, "d", S_IFDIR | 0755, 0, NULL, &st)), "mkdir");
	object_t dir = st.st_ino;
	double began = now();
	for (; now() - began < seconds; n++) {
		snprintf(name, sizeof name, "file%lu", n);
		must(RUN(fs_make(op, fs, &cred, dir, name, S_IFREG | 0644, 0, NULL, &st)), "create");
	}
	report("create", n, now() - began);
	unsigned long found = 0;
	began = now();
	for (; found < n && now() - began < seconds; found++) {
		snprintf(name, sizeof name, "file%lu", found);
		must(RUN(fs_lookup(op, fs, dir, name, &st)), "lookup");
	}
	report("lookup", found, now() - began);
}

int main(int argc, char **argv)
{
	char dir[4096] = "/dev/shm", path[2][4200];
	static const struct option options[] = { { "dir", 1, NULL, 'd' }, { "seconds", 1, NULL, 's' },
						  { "only", 1, NULL, 'o' }, { 0 } };
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == 'd')
			snprintf(dir, sizeof dir, "%s", optarg);
		else if (c == 's')
			seconds = atof(optarg);
		else if (c == 'o')
			only = optarg;
		else
			return 2;
	}
	strncat(dir, "/vems-engine-XXXXXX", sizeof dir - strlen(dir) - 1);
	if (!mkdtemp(dir))
		must(-errno, dir);
	for (int i = 0; i < 2; i++) {
		snprintf(path[i], sizeof path[i], "%s/%s", dir, i ? "backing" : "tier");
		int fd = open(path[i], O_CREAT | O_RDWR, 0600);
		must(fd < 0 ? -errno : ftruncate(fd, i ? 8 * TIER_BYTES : TIER_BYTES), path[i]);
		close(fd);
	}
	struct store_config config = { .tier_path = path[0], .backing_path = path[1], .format_blank = true, .assume_persistent = true };
	must(store_open(&config, &store), "open");
	must(fs_new(store, &fs), "fs");
	must(fs_start(fs, 0, 0), "start");
	must(lane_new(store, &lane), "lane");
	log_quiet(1);

	object_t id = make_file("file");
	static uint8_t data[1 << 20];
	for (unsigned i = 0; i < FILE_PAGES / 256; i++)
		must(RUN(fs_write(op, fs, id, data, sizeof data, i * sizeof data, false)), "fill");
	static const struct {
		void (*run)(object_t id, size_t bytes, const char *what);
		size_t bytes;
		const char *name;
	} bench[] = {
		{ bench_read, 4096, "read 4 KiB, hit" },       { bench_write, 4096, "write 4 KiB, hit" },
		{ bench_write, 512, "write 512 B, hit" },      { bench_read, 1 << 20, "read 1 MiB, hit" },
		{ bench_write, 1 << 20, "write 1 MiB, hit" },  { bench_create, 0, "create, lookup" },
	};
	for (size_t i = 0; i < sizeof bench / sizeof bench[0]; i++)
		if (strstr(bench[i].name, only))
			bench[i].run(id, bench[i].bytes, bench[i].name);

	lane_free(lane);
	fs_free(fs);
	store_close(store);
	for (int i = 0; i < 2; i++)
		unlink(path[i]);
	rmdir(dir);
	return 0;
}
