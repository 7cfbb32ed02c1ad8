// SPDX-License-Identifier: GPL-2.0-or-later
// Calls on many small files, timed from C: prints one "NAME OPERATIONS-PER-SECOND" a line.
//
//	bench-names DIRECTORY FILES          create, stat, readdir, rename, unlink
//	bench-names --mail DIRECTORY FILES   a file of 4 KiB, written and synced, each
//	bench-names --fill DIRECTORY FROM TO       so many files, which stay
//	bench-names --lookup DIRECTORY FILES N     stat of N of these, far from each other
//	bench-names --create DIRECTORY FILES N     N more, which are removed again
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void must(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "bench-names: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static const char *name_of(unsigned long i, const char *prefix)
{
	static char name[64];
	snprintf(name, sizeof name, "%s%lu", prefix, i);
	return name;
}

static void create_one(unsigned long i)
{
	int fd = open(name_of(i, "f"), O_CREAT | O_EXCL | O_WRONLY, 0644);
	must(fd, "create");
	close(fd);
}

static void mail_one(unsigned long i)
{
	static char data[4096];
	int fd = open(name_of(i, "m"), O_CREAT | O_EXCL | O_WRONLY, 0644);
	must(fd, "create");
	must(write(fd, data, sizeof data) == sizeof data ? 0 : -1, "write");
	must(fsync(fd), "fsync");
	close(fd);
}

static void stat_one(unsigned long i)
{
	struct stat st;
	must(stat(name_of(i, "f"), &st), "stat");
}

static void rename_one(unsigned long i)
{
	char from[64];
	strcpy(from, name_of(i, "f"));
	must(rename(from, name_of(i, "g")), "rename");
}

static void unlink_one(unsigned long i)
{
	must(unlink(name_of(i, "g")), "unlink");
}

static void unlink_mail(unsigned long i)
{
	must(unlink(name_of(i, "m")), "unlink");
}

static void run(const char *what, void (*one)(unsigned long i), unsigned long files)
{
	double began = now();
	for (unsigned long i = 0; i < files; i++)
		one(i);
	printf("%s %.0f\n", what, (double)files / (now() - began));
}

static void list(unsigned long files)
{
	unsigned long found = 0;
	double began = now();
	DIR *dir = opendir(".");
	must(dir ? 0 : -1, "opendir");
	for (struct dirent *e; (e = readdir(dir));)
		found += e->d_name[0] == 'f';
	closedir(dir);
	if (found != files) {
		fprintf(stderr, "bench-names: readdir has %lu of %lu files\n", found, files);
		exit(1);
	}
	printf("readdir %.0f\n", (double)files / (now() - began));
}

// A directory that has files 0 .. FILES - 1 already.
static unsigned long stride, among;

static void lookup_one(unsigned long i)
{
	stat_one((unsigned long)((unsigned __int128)i * stride % among));
}

static unsigned long divisor(unsigned long a, unsigned long b)
{
	return b ? divisor(b, a % b) : a;
}

static void lookup(unsigned long files, unsigned long n)
{
	among = files;
	for (stride = files / 3 * 2 + 1; divisor(stride, files) != 1;) // so that no name comes twice before all have come
		stride++;
	run("lookup", lookup_one, n < files ? n : files);
}

static unsigned long first;

static void create_more(unsigned long i)
{
	create_one(first + i);
}

static void unlink_more(unsigned long i)
{
	must(unlink(name_of(first + i, "f")), "unlink");
}

static void create(unsigned long files, unsigned long n)
{
	first = files;
	run("create", create_more, n);
	for (unsigned long i = 0; i < n; i++)
		unlink_more(i);
}

static void fill(unsigned long from, unsigned long to)
{
	first = from;
	run("fill", create_more, to - from);
}

static void all(unsigned long files)
{
	run("create", create_one, files);
	run("stat", stat_one, files);
	list(files);
	run("rename", rename_one, files);
	run("unlink", unlink_one, files);
}

static void mail(unsigned long files)
{
	run("mail", mail_one, files);
	for (unsigned long i = 0; i < files; i++)
		unlink_mail(i);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 && argv[1][0] == '-' ? argv[1] : "";
	int skip = *what != 0;
	bool pair = skip && strcmp(what, "--mail") != 0;
	if (argc != 3 + skip + pair) {
		fprintf(stderr, "usage: bench-names [--mail] DIRECTORY FILES, or --fill|--lookup|--create DIRECTORY FILES N\n");
		return 2;
	}
	unsigned long files = strtoul(argv[2 + skip], NULL, 10);
	unsigned long n = pair ? strtoul(argv[4], NULL, 10) : 0;
	must(chdir(argv[1 + skip]), argv[1 + skip]);
	if (!skip)
		all(files);
	else if (!pair)
		mail(files);
	else if (!strcmp(what, "--fill"))
		fill(files, n);
	else if (!strcmp(what, "--lookup"))
		lookup(files, n);
	else
		create(files, n);
	return 0;
}
