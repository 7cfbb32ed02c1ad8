// SPDX-License-Identifier: GPL-2.0-or-later
// Not a filter of system calls as well: operations of io_uring pass that by, and Landlock not.
#include "confine.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Of <linux/landlock.h>, which may be older than the kernel: by version, what can be asked for.
#define ACCESS_TRUNCATE (UINT64_C(1) << 14)
#define ACCESS_IOCTL_DEVICE (UINT64_C(1) << 15)
#define ACCESS_NET_TCP UINT64_C(3)
#define SCOPE_SIGNAL_AND_ABSTRACT_SOCKET UINT64_C(3)
struct ruleset {
	uint64_t files, net, scoped;
};

static struct ruleset all_of(long version, size_t *ret_bytes)
{
	struct ruleset all = { .files = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1 };

	*ret_bytes = version < 4 ? sizeof all.files : version < 6 ? 2 * sizeof all.files : sizeof all;
	if (version >= 2)
		all.files |= LANDLOCK_ACCESS_FS_REFER;
	if (version >= 3)
		all.files |= ACCESS_TRUNCATE;
	if (version >= 4)
		all.net = ACCESS_NET_TCP;
	if (version >= 5)
		all.files |= ACCESS_IOCTL_DEVICE;
	if (version >= 6)
		all.scoped = SCOPE_SIGNAL_AND_ABSTRACT_SOCKET;
	return all;
}

// A path that is not there needs no rule.
static int allow(int rules, const struct confine_path *allowed, uint64_t handled)
{
	uint64_t access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
	struct landlock_path_beneath_attr rule = { .parent_fd = open(allowed->path, O_PATH | O_CLOEXEC) };
	struct stat attr;
	int r = 0;

	if (rule.parent_fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (allowed->write)
		access |= LANDLOCK_ACCESS_FS_WRITE_FILE | ACCESS_IOCTL_DEVICE;
	if (fstat(rule.parent_fd, &attr))
		r = -errno;
	else if (!S_ISDIR(attr.st_mode))
		access &= ~(uint64_t)LANDLOCK_ACCESS_FS_READ_DIR;
	rule.allowed_access = access & handled;
	if (!r && syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0))
		r = -errno;
	close(rule.parent_fd);
	return r;
}

static int restrict_files(const struct confine_path *allowed)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct ruleset all;
	size_t bytes;
	int rules, r = 0;

	if (version < 1)
		return 0; // before Linux 5.13, or switched off
	all = all_of(version, &bytes);
	rules = (int)syscall(SYS_landlock_create_ruleset, &all, bytes, 0);
	if (rules < 0)
		return -errno;
	for (; !r && allowed->path; allowed++)
		r = allow(rules, allowed, all.files);
	if (!r && syscall(SYS_landlock_restrict_self, rules, 0))
		r = -errno;
	close(rules);
	return r;
}

int confine(const struct confine_path *allowed)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_capset, &header, none))
		return -errno;
	return restrict_files(allowed);
}
