// SPDX-License-Identifier: GPL-2.0-or-later
// Which CPUs there can be, are, and may be used.
#ifndef FRONTEND_CPUS_H
#define FRONTEND_CPUS_H

#include <sched.h>

struct cpus {
	unsigned possible; // how many there can ever be, as the kernel counts them
	cpu_set_t online;
	cpu_set_t allowed; // to this process, by taskset or a cgroup
};

// -ENOENT: the kernel does not tell how many are possible; -E2BIG: more than fit.
int cpus_get(struct cpus *ret_cpus);

#endif
