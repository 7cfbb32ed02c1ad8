// SPDX-License-Identifier: GPL-2.0-or-later
#include "distinct.h"
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include "log.h"

static bool is_same(const struct stat *a, const struct stat *b)
{
	if (a->st_dev == b->st_dev && a->st_ino == b->st_ino)
		return true;
	if ((a->st_mode & S_IFMT) != (b->st_mode & S_IFMT) || a->st_rdev != b->st_rdev)
		return false;
	return S_ISBLK(a->st_mode) || S_ISCHR(a->st_mode);
}

int distinct_check(const char *tier, const char *backing)
{
	struct stat a, b;

	if (stat(tier, &a) || stat(backing, &b) || !is_same(&a, &b))
		return 0;
	if (!strcmp(tier, backing))
		log_error("--pmem and --backing are the same: %s", tier);
	else
		log_error("--pmem and --backing are the same: %s is %s", tier, backing);
	return -EINVAL;
}
