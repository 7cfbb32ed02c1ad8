// SPDX-License-Identifier: GPL-2.0-or-later
// Poisons memory as a machine check does: whoever loads or stores there gets SIGBUS, the kernel EFAULT. By
// userfaultfd (Linux 6.6), for this process alone; until the page is mapped anew. System calls only, so that
// a signal handler may.
#ifndef TESTS_POISONER_H
#define TESTS_POISONER_H

#include <stdbool.h>

// The page at that address; what was in it is lost. False: the machine cannot.
bool poison_page(void *page);

#endif
