// SPDX-License-Identifier: GPL-2.0-or-later
// What can be said of a mount before anything is opened.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "frontend.h"
#include "log.h"

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

int frontend_check_mountpoint(const char *path)
{
	struct stat attr;
	int r;

	if (stat(path, &attr)) {
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
	return check_device();
}
