// SPDX-License-Identifier: GPL-2.0-or-later
// Owns the descriptor of the backing, its lock, and what is asked of a device before it is trusted.
//
// Why flock() on this very descriptor: the lock belongs to the open file description, and each
// io_uring request in flight holds a reference to that, as does a thread inside pwrite(). When the
// daemon is killed its descriptors are closed, but the description is released, and with it the
// lock, only when the last request has ended. So whoever gets the lock knows that no write
// of a predecessor can land any more. A lock on another descriptor or another file, or an fcntl()
// lock, which goes with the process, would not say so. For the same reason nothing here ever
// unlocks: the last close does.
#include "backing.h"
#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "clock.h"
#include "log.h"

#define LOCK_PATIENCE_MS 5000
#define LOCK_RETRY_MS 20
#define BLANK_BYTES (UINT64_C(1) << 20) // at either end

// O_EXCL keeps mounts, md, dm and the like off a block device (without O_CREAT it means that and
// nothing else); a killed predecessor has it as long as the lock.
static int open_once(const char *path, bool read_only)
{
	int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK, fd;
	struct stat st;

	if (stat(path, &st))
		return -errno;
	if (S_ISBLK(st.st_mode) && !read_only)
		flags |= O_EXCL;
	fd = open(path, flags);
	return fd < 0 ? -errno : fd;
}

static int lock_once(int fd, bool shared)
{
	while (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB)) {
		int err = errno;

		if (err != EINTR)
			return err == EWOULDBLOCK ? -EBUSY : -err;
	}
	return 0;
}

// A descriptor, locked, or a negative errno. Patient also because udev locks a device for the
// moment in which it looks at it.
static int open_and_lock(const char *path, bool read_only)
{
	uint64_t deadline_ms = now_ms() + LOCK_PATIENCE_MS;
	int fd, err;

	for (;;) {
		fd = open_once(path, read_only);
		err = fd < 0 ? fd : lock_once(fd, read_only);
		if (!err)
			return fd;
		if (fd >= 0)
			close(fd);
		if (err != -EBUSY || now_ms() >= deadline_ms)
			return err;
		nanosleep(&(struct timespec){ .tv_nsec = LOCK_RETRY_MS * 1000000 }, NULL);
	}
}

static int learn_size(struct backing *b)
{
	struct stat st;
	int err;

	if (fstat(b->fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		b->is_device = true;
		if (ioctl(b->fd, BLKGETSIZE64, &b->size_bytes)) {
			err = -errno;
			log_error("%s: cannot learn the size of the device: %s", b->path, strerror(-err));
			return err;
		}
	} else if (S_ISREG(st.st_mode)) {
		b->size_bytes = (uint64_t)st.st_size;
	} else {
		log_error("%s: is neither a block device nor a regular file", b->path);
		return -EINVAL;
	}
	b->blocks = b->size_bytes >> PAGE_SHIFT;
	b->size_bytes = b->blocks << PAGE_SHIFT;
	if (!b->blocks) {
		log_error("%s: is smaller than one block of %u bytes", b->path, PAGE_BYTES);
		return -EINVAL;
	}
	return 0;
}

// Sets O_DIRECT if the file system takes it, and takes it with the alignment we promise: there are
// some (and sectors larger than a block) that refuse only the I/O.
static int try_direct(int fd)
{
	int flags = fcntl(fd, F_GETFL), err;
	uint8_t *memory;
	ssize_t got;

	if (flags < 0)
		return -errno;
	if (fcntl(fd, F_SETFL, flags | O_DIRECT))
		return 0;
	memory = aligned_alloc(PAGE_BYTES, 2 * PAGE_BYTES);
	if (!memory)
		return -ENOMEM;
	do {
		got = pread(fd, memory + 512, PAGE_BYTES, 0);
		err = got < 0 ? errno : 0;
	} while (err == EINTR);
	free(memory);
	// Other errors are for whoever reads that block in earnest.
	if (err == EINVAL && fcntl(fd, F_SETFL, flags))
		return -errno;
	return 0;
}

int backing_open(const char *path, bool read_only, struct backing **ret_backing)
{
	struct backing *b;
	int err;

	if (strlen(path) >= sizeof b->path) {
		log_error("%s: path too long", path);
		return -ENAMETOOLONG;
	}
	b = calloc(1, sizeof *b);
	if (!b)
		return -ENOMEM;
	strcpy(b->path, path);
	b->read_only = read_only;
	b->fd = open_and_lock(path, read_only);
	if (b->fd < 0) {
		err = b->fd;
		log_error("%s: %s", path, err == -EBUSY ? "is in use by another process" : strerror(-err));
		free(b);
		return err;
	}
	err = learn_size(b);
	if (!err)
		err = try_direct(b->fd);
	if (err) {
		backing_close(b);
		return err;
	}
	*ret_backing = b;
	return 0;
}

void backing_close(struct backing *b)
{
	if (!b)
		return;
	close(b->fd);
	free(b);
}

// ---- what is there already ---------------------------------------------------------------------

static void name_foreign(blkid_probe probe, char *ret_name, size_t name_bytes)
{
	const char *value;

	if (!blkid_probe_lookup_value(probe, "TYPE", &value, NULL))
		snprintf(ret_name, name_bytes, "%s", value);
	else if (!blkid_probe_lookup_value(probe, "PTTYPE", &value, NULL))
		snprintf(ret_name, name_bytes, "%s partition table", value);
	else
		snprintf(ret_name, name_bytes, "unknown signature");
}

static int probe_signatures(blkid_probe probe, int fd, char *ret_name, size_t name_bytes)
{
	int found;

	errno = 0;
	if (blkid_probe_set_device(probe, fd, 0, 0))
		return errno ? -errno : -EIO;
	// A signature whose checksum is wrong is a damaged file system: somebody's all the more.
	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_BADCSUM);
	blkid_probe_enable_partitions(probe, 1);
	blkid_probe_set_partitions_flags(probe, BLKID_PARTS_FORCE_GPT);
	errno = 0;
	found = blkid_do_safeprobe(probe);
	if (found == 1)
		return 0;
	if (found == 0)
		name_foreign(probe, ret_name, name_bytes);
	else if (found == -2)
		snprintf(ret_name, name_bytes, "several signatures");
	else
		return errno ? -errno : -EIO;
	return 1;
}

int backing_probe_foreign(int fd, char *ret_name, size_t name_bytes)
{
	int flags = fcntl(fd, F_GETFL), result;
	blkid_probe probe;
	struct stat st;

	if (flags < 0 || fstat(fd, &st))
		return -errno;
	if (S_ISCHR(st.st_mode)) // a device-DAX can only be mapped
		return 0;
	probe = blkid_new_probe();
	if (!probe)
		return -ENOMEM;
	// libblkid reads to unaligned memory.
	if ((flags & O_DIRECT) && fcntl(fd, F_SETFL, flags & ~O_DIRECT))
		result = -errno;
	else
		result = probe_signatures(probe, fd, ret_name, name_bytes);
	blkid_free_probe(probe);
	if ((flags & O_DIRECT) && fcntl(fd, F_SETFL, flags))
		return -errno;
	return result;
}

static int is_zero_at(const struct backing *b, uint8_t *memory, uint64_t offset, size_t bytes)
{
	size_t have = 0;

	while (have < bytes) {
		ssize_t got = pread(b->fd, memory + have, bytes - have, (off_t)(offset + have));

		if (got < 0) {
			int err = errno;

			if (err != EINTR)
				return -err;
		} else if (!got) {
			return -EIO;
		} else {
			have += (size_t)got;
		}
	}
	return !memory[0] && !memcmp(memory, memory + 1, bytes - 1);
}

int backing_is_blank(struct backing *b)
{
	size_t bytes = (size_t)(b->size_bytes < BLANK_BYTES ? b->size_bytes : BLANK_BYTES);
	uint8_t *memory = aligned_alloc(PAGE_BYTES, bytes);
	int result;

	if (!memory)
		return -ENOMEM;
	result = is_zero_at(b, memory, 0, bytes);
	if (result == 1)
		result = is_zero_at(b, memory, b->size_bytes - bytes, bytes);
	free(memory);
	return result;
}
