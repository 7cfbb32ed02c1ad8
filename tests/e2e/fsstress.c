// SPDX-License-Identifier: GPL-2.0-or-later
// Every call of a file system, at random, from many processes in one small tree.
//
//	fsstress DIR SECONDS PROCESSES SEED
//
// A byte of a file is zero or the one that belongs to its offset, whoever wrote it: so each read can be
// verified while others write, truncate, punch and copy. An error is one that the race for a name explains, or
// the end. Ends with 0; with 2 if the mount is gone; else with 1.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define GONE 2 // exit status: the mount is
#define SIZE_MAX_BYTES (4u << 20) // of a file
#define IO_MAX_BYTES (128u << 10)
#define OPEN_MAX 8u // files that a process keeps open

static uint64_t state; // of the random numbers of this process
static int held[OPEN_MAX]; // descriptors, -1 where there is none: unlinked files live on in them
static uint8_t buffer[IO_MAX_BYTES];
static const char *current; // name of the call
static sigjmp_buf truncated; // under a mapping

static uint32_t draw(uint32_t below)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((state >> 33) % below);
}

// ---- what is expected ---------------------------------------------------------------------------

static bool may_be(int error)
{
	static const int usual[] = { ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL, EPERM, ENODATA, ENXIO, ELOOP, EMLINK,
		ENOSPC, EXDEV, EOPNOTSUPP, ETXTBSY, ERANGE, EAGAIN, ESPIPE, EACCES, E2BIG, ENODEV, EBUSY,
		EBADF }; // of file(), where the path named none
	for (size_t i = 0; i < sizeof(usual) / sizeof(*usual); i++)
		if (usual[i] == error)
			return true;
	return false;
}

// Of every call: its result, or the end.
static ssize_t sane(ssize_t result)
{
	if (result >= 0 || may_be(errno))
		return result;
	if (errno == ENOTCONN || errno == ECONNABORTED)
		_exit(GONE);
	fprintf(stderr, "%s: %s\n", current, strerror(errno));
	_exit(1);
}

static uint8_t belongs(uint64_t offset) { return (uint8_t)((offset * 2654435761u >> 16) | 1); }

static void fill(uint8_t *data, size_t bytes, uint64_t offset)
{
	for (size_t i = 0; i < bytes; i++)
		data[i] = belongs(offset + i);
}

static void verify(const uint8_t *data, size_t bytes, uint64_t offset)
{
	for (size_t i = 0; i < bytes; i++)
		if (data[i] && data[i] != belongs(offset + i)) {
			fprintf(stderr, "%s: at %llu there is %#x, not 0 or %#x\n", current, (unsigned long long)(offset + i), data[i],
				belongs(offset + i));
			_exit(1);
		}
}

// ---- names and files ----------------------------------------------------------------------------

// Up to three components, of few names, so that processes meet. Valid until the fourth call after it.
static const char *path(void)
{
	static char paths[4][64];
	static unsigned next;
	char *p = paths[next++ % 4];
	size_t at = 0;
	for (uint32_t depth = draw(3); depth; depth--)
		at += (size_t)sprintf(p + at, "d%u/", draw(4));
	sprintf(p + at, "%c%u", "dfff"[draw(4)], draw(12));
	return p;
}

// A file that was kept open, or one just opened; -1 if the path has none. The process keeps it.
static int file(void)
{
	uint32_t i = draw(OPEN_MAX);
	if (held[i] >= 0 && draw(4))
		return held[i];
	if (held[i] >= 0)
		close(held[i]);
	static const int flags[] = { O_RDWR, O_RDWR, O_RDWR | O_CREAT, O_RDWR | O_CREAT, O_RDWR | O_CREAT | O_TRUNC,
		O_RDWR | O_CREAT | O_EXCL, O_RDWR | O_SYNC, O_RDWR | O_DIRECT };
	held[i] = (int)sane(open(path(), flags[draw(8)] | O_NOFOLLOW | O_NONBLOCK, 0644));
	struct stat st;
	if (held[i] >= 0 && (fstat(held[i], &st) || !S_ISREG(st.st_mode))) {
		close(held[i]);
		held[i] = -1;
	}
	return held[i];
}

struct span {
	off_t at;
	size_t bytes;
};

static struct span span(void)
{
	struct span s = { draw(SIZE_MAX_BYTES - IO_MAX_BYTES), 1 + draw(draw(2) ? 8192 : IO_MAX_BYTES) };
	if (draw(2)) { // whole pages
		s.at &= ~(off_t)4095;
		s.bytes = (s.bytes + 4095) & ~(size_t)4095;
	}
	return s;
}

// ---- the calls ----------------------------------------------------------------------------------

static void do_write(void)
{
	struct span s = span();
	fill(buffer, s.bytes, (uint64_t)s.at);
	sane(pwrite(file(), buffer, s.bytes, s.at));
}

static void do_writev(void)
{
	struct span s = span();
	fill(buffer, s.bytes, (uint64_t)s.at);
	size_t half = s.bytes / 2;
	struct iovec parts[] = { { buffer, half }, { buffer + half, s.bytes - half } };
	sane(pwritev2(file(), parts, 2, s.at, draw(2) ? RWF_DSYNC : 0));
}

static void do_read(void)
{
	struct span s = span();
	ssize_t got = sane(pread(file(), buffer, s.bytes, s.at));
	if (got > 0)
		verify(buffer, (size_t)got, (uint64_t)s.at);
}

static void do_map(void)
{
	int fd = file();
	struct span s = span();
	s.at &= ~(off_t)4095;
	uint8_t *map = mmap(NULL, s.bytes, PROT_READ | PROT_WRITE, draw(2) ? MAP_SHARED : MAP_PRIVATE, fd, s.at);
	if (map == MAP_FAILED)
		return;
	if (!sigsetjmp(truncated, 1)) {
		verify(map, s.bytes, (uint64_t)s.at);
		fill(map, s.bytes, (uint64_t)s.at);
		sane(msync(map, s.bytes, draw(2) ? MS_SYNC : MS_ASYNC));
	}
	munmap(map, s.bytes);
}

static void do_truncate(void)
{
	off_t size = draw(4) ? draw(SIZE_MAX_BYTES) : draw(8192);
	sane(draw(2) ? ftruncate(file(), size) : truncate(path(), size));
}

static void do_fallocate(void)
{
	static const int modes[] = { 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE };
	struct span s = span();
	sane(fallocate(file(), modes[draw(5)], s.at, (off_t)s.bytes));
}

static void do_copy(void) // to the same offset, where the bytes belong
{
	struct span s = span();
	off_t from = s.at, to = s.at;
	int in = file(), out = file();
	sane(copy_file_range(in, &from, out, &to, s.bytes, 0));
}

static void do_sendfile(void)
{
	struct span s = span();
	int in = file(), out = file();
	if (in != out && lseek(out, s.at, SEEK_SET) == s.at)
		sane(sendfile(out, in, &s.at, s.bytes));
}

static void do_seek(void) { sane(lseek(file(), draw(SIZE_MAX_BYTES), draw(2) ? SEEK_DATA : SEEK_HOLE)); }
static void do_sync(void) { sane(draw(2) ? fsync(file()) : fdatasync(file())); }
static void do_unlink(void) { sane(unlink(path())); }
static void do_mkdir(void) { sane(mkdir(path(), draw(2) ? 0755 : 02755)); }
static void do_rmdir(void) { sane(rmdir(path())); }
static void do_link(void) { sane(link(path(), path())); }
static void do_symlink(void) { sane(symlink(path(), path())); }
static void do_readlink(void) { sane(readlink(path(), (char *)buffer, 4096)); }
static void do_chmod(void) { sane(chmod(path(), 0600 | draw(0200) | draw(2) * S_ISUID)); }
static void do_chown(void) { sane(lchown(path(), draw(3), draw(3))); }

static void do_rename(void)
{
	static const unsigned flags[] = { 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, RENAME_WHITEOUT };
	sane(renameat2(AT_FDCWD, path(), AT_FDCWD, path(), flags[draw(7)]));
}

static void do_mknod(void)
{
	static const mode_t types[] = { S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR };
	sane(mknod(path(), types[draw(4)] | 0644, 0));
}

static void do_tmpfile(void)
{
	int fd = (int)sane(open(".", O_TMPFILE | O_RDWR, 0644));
	if (fd < 0)
		return;
	char name[32];
	sprintf(name, "/proc/self/fd/%d", fd);
	fill(buffer, 5000, 0);
	sane(write(fd, buffer, 5000));
	sane(linkat(AT_FDCWD, name, AT_FDCWD, path(), AT_SYMLINK_FOLLOW));
	close(fd);
}

static void do_stat(void)
{
	struct statx st;
	struct statvfs fs;
	sane(statx(AT_FDCWD, path(), AT_SYMLINK_NOFOLLOW, STATX_ALL, &st));
	sane(statvfs(".", &fs));
	sane(faccessat(AT_FDCWD, path(), R_OK, 0));
}

static void do_times(void)
{
	struct timespec times[2] = { { draw(1u << 31), draw(1000000000) }, { 0, draw(2) ? UTIME_NOW : UTIME_OMIT } };
	sane(utimensat(AT_FDCWD, path(), times, AT_SYMLINK_NOFOLLOW));
}

static void do_setxattr(void)
{
	char name[16];
	sprintf(name, draw(2) ? "user.%u" : "trusted.%u", draw(4));
	size_t bytes = draw(4) ? draw(100) : draw(64u << 10);
	fill(buffer, bytes, 0);
	const char *p = path();
	sane(draw(4) ? lsetxattr(p, name, buffer, bytes, (int)draw(3)) : lremovexattr(p, name));
}

static void do_getxattr(void)
{
	const char *p = path();
	ssize_t bytes = sane(llistxattr(p, (char *)buffer, sizeof(buffer)));
	if (bytes <= 0)
		return;
	bytes = sane(lgetxattr(p, (char *)buffer, buffer + 4096, sizeof(buffer) - 4096));
	if (bytes > 0 && strncmp((char *)buffer, "security.", 9) != 0 && strncmp((char *)buffer, "system.", 7) != 0)
		verify(buffer + 4096, (size_t)bytes, 0);
}

static void do_list(void)
{
	DIR *dir = opendir(draw(3) ? path() : ".");
	if (!dir) {
		sane(-1);
		return;
	}
	long middle = 0;
	unsigned n = 0;
	errno = 0;
	for (; readdir(dir); n++)
		if (n == 5)
			middle = telldir(dir);
	sane(errno ? -1 : 0);
	if (middle) {
		seekdir(dir, middle);
		errno = 0;
		readdir(dir);
		sane(errno ? -1 : 0);
	}
	closedir(dir);
}

static void do_flags(void) // nodump alone: what is immutable would soon be all
{
	int fd = file();
	long flags = 0;
	if (sane(ioctl(fd, FS_IOC_GETFLAGS, &flags)))
		return;
	flags ^= FS_NODUMP_FL;
	sane(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

static void do_lock(void)
{
	int fd = file();
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)draw(100), .l_len = 10 };
	sane(fcntl(fd, draw(2) ? F_SETLK : F_OFD_SETLK, &lock));
	if (!sane(flock(fd, LOCK_EX | LOCK_NB)))
		sane(flock(fd, LOCK_UN));
}

static const struct {
	const char *name;
	void (*run)(void);
} calls[] = {
	{ "write", do_write }, { "write", do_write }, { "writev", do_writev }, { "read", do_read }, { "read", do_read }, { "mmap", do_map },
	{ "truncate", do_truncate }, { "fallocate", do_fallocate }, { "copy_file_range", do_copy }, { "sendfile", do_sendfile },
	{ "lseek", do_seek }, { "fsync", do_sync }, { "unlink", do_unlink }, { "mkdir", do_mkdir }, { "mkdir", do_mkdir },
	{ "rmdir", do_rmdir }, { "link", do_link }, { "symlink", do_symlink }, { "readlink", do_readlink },
	{ "chmod", do_chmod }, { "chown", do_chown }, { "rename", do_rename }, { "mknod", do_mknod }, { "tmpfile", do_tmpfile },
	{ "stat", do_stat }, { "utimensat", do_times }, { "setxattr", do_setxattr }, { "getxattr", do_getxattr },
	{ "readdir", do_list }, { "chattr", do_flags }, { "lock", do_lock },
};

// ---- processes ----------------------------------------------------------------------------------

static void on_bus(int signal)
{
	(void)signal;
	siglongjmp(truncated, 1);
}

static _Noreturn void work(time_t until)
{
	signal(SIGBUS, on_bus);
	memset(held, -1, sizeof(held));
	while (time(NULL) < until) {
		uint32_t i = draw(sizeof(calls) / sizeof(*calls));
		current = calls[i].name;
		calls[i].run();
	}
	exit(0);
}

int main(int argc, char **argv)
{
	if (argc != 5 || chdir(argv[1]) != 0) {
		fprintf(stderr, "usage: fsstress DIR SECONDS PROCESSES SEED\n");
		return 1;
	}
	time_t until = time(NULL) + atol(argv[2]);
	int worst = 0;
	long processes = atol(argv[3]);
	for (long n = 0; n < processes; n++) {
		pid_t pid = fork();
		if (pid == 0) {
			state = strtoull(argv[4], NULL, 10) * 1000 + (uint64_t)n;
			work(until);
		}
		if (pid < 0)
			return 1;
	}
	for (int status; wait(&status) > 0;) {
		int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
		if (code == 1 || worst == 0)
			worst = code;
	}
	return worst;
}
