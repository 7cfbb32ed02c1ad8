// SPDX-License-Identifier: GPL-2.0-or-later
// Part of what tests load into a daemon by LD_PRELOAD: it is left the files and the privileges that they need
// there (src/base/confine.c asks for it by syscall(2)).
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

long syscall(long number, ...)
{
	long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	long a[6];
	va_list args;

	va_start(args, number);
	for (unsigned i = 0; i < sizeof a / sizeof *a; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_capset)
		return 0;
	if (number == SYS_landlock_create_ruleset) {
		errno = ENOSYS;
		return -1;
	}
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
