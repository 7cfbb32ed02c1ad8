// SPDX-License-Identifier: GPL-2.0-or-later
#include "poisoner.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096

#ifndef UFFDIO_POISON // headers before 6.6
struct uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#define UFFD_FEATURE_POISON (1 << 14)
#endif

// For write protection, which nobody asks for: missing pages are not waited for.
static int watch(const struct uffdio_range *range)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_POISON | UFFD_FEATURE_WP_HUGETLBFS_SHMEM };
	struct uffdio_register reg = { .range = *range, .mode = UFFDIO_REGISTER_MODE_WP };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0)
		return -1;
	if (!ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &reg))
		return fd; // and stays: closing it would heal the page
	close(fd);
	return -1;
}

bool poison_page(void *page)
{
	struct uffdio_poison poison = { .range = { .start = (uintptr_t)page, .len = PAGE } };
	int fd = watch(&poison.range);

	return fd >= 0 && !madvise(page, PAGE, MADV_DONTNEED) && !ioctl(fd, UFFDIO_POISON, &poison);
}
