// SPDX-License-Identifier: GPL-2.0-or-later
// What can be said of a mount before anything is opened.
#include <errno.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "frontend.h"
#include "log.h"

#define FUSE_CONF "/etc/fuse.conf"

static int check_device(void)
{
	if (!access("/dev/fuse", R_OK | W_OK))
		return 0;
	if (errno == EACCES) {
		log_error("/dev/fuse is closed to ordinary users here; root opens it with: chmod 0666 /dev/fuse");
		return -EACCES;
	}
	log_error("there is no /dev/fuse: %s; root loads it with: modprobe fuse", strerror(errno));
	return -ENODEV;
}

// ---- what fusermount3 would refuse ------------------------------------------------------------

// Whoever may mount by himself does not need fusermount3.
static bool may_mount(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data))
		return false;
	return data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN);
}

// The word stands on a line of its own; a comment may follow.
static bool line_is(char *line, const char *word)
{
	static const char space[] = " \t\r\n";

	line[strcspn(line, "#")] = 0;
	line += strspn(line, space);
	if (strncmp(line, word, strlen(word)) != 0)
		return false;
	line += strlen(word);
	return line[strspn(line, space)] == 0;
}

static bool others_allowed(void)
{
	FILE *conf = fopen(FUSE_CONF, "re");
	char line[256];
	bool allowed = false;

	while (conf && !allowed && fgets(line, sizeof line, conf))
		allowed = line_is(line, "user_allow_other");
	if (conf)
		fclose(conf);
	return allowed;
}

static bool has_word(const char *options, const char *word)
{
	size_t n = strlen(word);

	for (; options; options = strchr(options, ',')) {
		options += *options == ',';
		if (!strncmp(options, word, n) && (options[n] == ',' || !options[n]))
			return true;
	}
	return false;
}

static int check_others(const char *options)
{
	static const char *const words[] = { "allow_other", "allow_root" };

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (has_word(options, words[i]) && !others_allowed()) {
			log_error("-o %s is not for ordinary users here; root allows it with this line in " FUSE_CONF
				  ": user_allow_other", words[i]);
			return -EPERM;
		}
	return 0;
}

static int check_owner(const char *path, const struct stat *attr)
{
	if ((attr->st_mode & S_ISVTX) && attr->st_uid != getuid()) {
		log_error("mount point %s is sticky and belongs to another user: only its owner and root may mount there", path);
		return -EPERM;
	}
	if (access(path, W_OK)) {
		int r = -errno;

		log_error("mount point %s cannot be written to (%s): an ordinary user may not mount there", path, strerror(-r));
		return r;
	}
	return 0;
}

// ---- the check --------------------------------------------------------------------------------

int frontend_check_mountpoint(const char *path, const char *fuse_options)
{
	struct statfs asked;
	struct stat attr;
	int r;

	// The kernel may still know the attributes of a dead mount, but has to ask for its space.
	if (stat(path, &attr) || statfs(path, &asked)) {
		r = -errno;
		// ECONNABORTED: its connection was cut, by the administrator or the kernel. ECANCELED: its rings
		// are just going.
		if (r == -ENOTCONN || r == -ECONNABORTED || r == -ECANCELED)
			log_error("%s: a dead FUSE mount is in the way, its daemon is gone; clear it with: "
				  "fusermount3 -u %s", path, path);
		else
			log_error("mount point %s: %s", path, strerror(-r));
		return r;
	}
	if (!S_ISDIR(attr.st_mode)) {
		log_error("mount point %s is not a directory", path);
		return -ENOTDIR;
	}
	r = check_device();
	if (r || may_mount())
		return r;
	r = check_others(fuse_options);
	return r ? r : check_owner(path, &attr);
}

int frontend_remount(const char *path, unsigned long flags)
{
	struct statfs there;
	int r = 0;

	if (statfs(path, &there))
		r = -errno;
	else if (there.f_type != FUSE_SUPER_MAGIC)
		r = -EINVAL; // no vemsfuse
	else if (mount(NULL, path, NULL, MS_REMOUNT | flags, NULL))
		r = -errno;
	if (r)
		log_error("cannot remount %s: %s", path, strerror(-r));
	return r;
}
