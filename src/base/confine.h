// SPDX-License-Identifier: GPL-2.0-or-later
// Giving up what a process has no more use for, once it has opened what it works on.
#ifndef BASE_CONFINE_H
#define BASE_CONFINE_H

#include <stdbool.h>
#include <stddef.h>

struct confine_path { // a file, or a directory and all below
	const char *path; // NULL: the end of a list
	bool write;
};
// For good, of the calling thread and of those that it starts: all capabilities; to gain privileges by
// execve(2); with Landlock, as far as the kernel has it, to open, make or remove any file but those
// `allowed`, to mount, to trace or signal other processes, and to use TCP. What is open stays so. 0 or a
// negative errno, which is not for want of Landlock.
int confine(const struct confine_path *allowed);

#endif
