// SPDX-License-Identifier: GPL-2.0-or-later
#include "cpus.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

// A list such as "0-3,8".
static int read_list(const char *path, cpu_set_t *ret_set)
{
	FILE *file = fopen(path, "re");
	unsigned first, last;
	char separator = ',';
	int r = file ? 0 : -ENOENT;

	CPU_ZERO(ret_set);
	while (!r && separator == ',' && fscanf(file, "%u", &first) == 1) {
		last = first;
		separator = 0;
		if (fscanf(file, "%c", &separator) == 1 && separator == '-' && fscanf(file, "%u%c", &last, &separator) < 1)
			last = first;
		if (last >= CPU_SETSIZE)
			r = -E2BIG;
		for (unsigned cpu = first; !r && cpu <= last; cpu++)
			CPU_SET(cpu, ret_set);
	}
	if (file)
		fclose(file);
	return r ? r : CPU_COUNT(ret_set) ? 0 : -ENOENT;
}

int cpus_get(struct cpus *ret_cpus)
{
	cpu_set_t possible;
	int r = read_list("/sys/devices/system/cpu/possible", &possible);

	if (r)
		return r;
	ret_cpus->possible = (unsigned)CPU_COUNT(&possible);
	if (read_list("/sys/devices/system/cpu/online", &ret_cpus->online))
		ret_cpus->online = possible;
	if (sched_getaffinity(0, sizeof ret_cpus->allowed, &ret_cpus->allowed))
		ret_cpus->allowed = ret_cpus->online;
	return 0;
}
