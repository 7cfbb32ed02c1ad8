// SPDX-License-Identifier: GPL-2.0-or-later
#include "class.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "log.h"

// A device-DAX is a character device whose sysfs entry belongs to the subsystem (or, on kernels
// before 5.1, the class) "dax".
static bool is_dax_device(dev_t device)
{
	char link[64], target[PATH_MAX];
	ssize_t length;

	snprintf(link, sizeof link, "/sys/dev/char/%u:%u/subsystem", major(device), minor(device));
	length = readlink(link, target, sizeof target - 1);
	if (length < 0)
		return false;
	target[length] = 0;
	return length >= 4 && !strcmp(target + length - 4, "/dax");
}

// st_size of a character device is 0: the size is in sysfs alone.
static int dax_device_size(dev_t device, uint64_t *ret_bytes)
{
	char path[64];
	uint64_t bytes;
	FILE *file;
	int matched;

	snprintf(path, sizeof path, "/sys/dev/char/%u:%u/size", major(device), minor(device));
	file = fopen(path, "re");
	if (!file)
		return -errno;
	matched = fscanf(file, "%" SCNu64, &bytes);
	fclose(file);
	if (matched != 1)
		return -EIO;
	*ret_bytes = bytes;
	return 0;
}

static int recognise_device(const struct stat *st, const char *path, uint64_t *ret_size_bytes)
{
	uint64_t bytes = 0;
	int err;

	if (!is_dax_device(st->st_rdev)) {
		log_error("%s: is a character device, but not device-DAX", path);
		return -EINVAL;
	}
	err = dax_device_size(st->st_rdev, &bytes);
	if (err) {
		log_error("%s: cannot learn the size of the device: %s", path, strerror(-err));
		return err;
	}
	if (!bytes || bytes % DEVDAX_ALIGN_BYTES) {
		log_error("%s: a size of %" PRIu64 " bytes is not a multiple of 2 MiB", path, bytes);
		return -EINVAL;
	}
	*ret_size_bytes = bytes;
	return 0;
}

static int recognise_file(int fd, const struct stat *st, const char *path, enum media_class *ret_class,
			  uint64_t *ret_size_bytes)
{
	struct statfs fs;
	int err;

	if (st->st_size < (off_t)PAGE_BYTES) {
		log_error("%s: is smaller than one page of %u bytes; give it its size (truncate -s)", path, PAGE_BYTES);
		return -EINVAL;
	}
	if (fstatfs(fd, &fs)) {
		err = -errno;
		log_error("%s: %s", path, strerror(-err));
		return err;
	}
	// By the file system and not by libpmem, which calls tmpfs pmem only if it is forced to, and
	// then everything else too. ramfs is here because to call it durable would be untrue.
	*ret_class = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC ? MEDIA_TMPFS : MEDIA_FILE;
	*ret_size_bytes = (uint64_t)st->st_size & ~(uint64_t)(PAGE_BYTES - 1);
	return 0;
}

int class_recognise(int fd, const char *path, enum media_class *ret_class, uint64_t *ret_size_bytes)
{
	struct stat st;
	int err;

	if (fstat(fd, &st)) {
		err = -errno;
		log_error("%s: %s", path, strerror(-err));
		return err;
	}
	if (S_ISREG(st.st_mode))
		return recognise_file(fd, &st, path, ret_class, ret_size_bytes);
	if (S_ISCHR(st.st_mode)) {
		err = recognise_device(&st, path, ret_size_bytes);
		if (!err)
			*ret_class = MEDIA_DEVDAX;
		return err;
	}
	if (S_ISBLK(st.st_mode))
		log_error("%s: is a block device; give a file on a DAX file system on it, or a device-DAX", path);
	else
		log_error("%s: is neither device-DAX nor a regular file", path);
	return -EINVAL;
}

bool media_is_persistent(const struct media *m)
{
	return m->class == MEDIA_DEVDAX || m->class == MEDIA_FSDAX || m->class == MEDIA_FILE;
}

const char *media_class_name(enum media_class class)
{
	switch (class) {
	case MEDIA_DEVDAX: return "device-DAX";
	case MEDIA_FSDAX: return "file on a DAX file system";
	case MEDIA_TMPFS: return "file in memory (tmpfs)";
	case MEDIA_FILE: return "ordinary file";
	case MEDIA_DRAM: return "anonymous memory";
	}
	return "unknown";
}
