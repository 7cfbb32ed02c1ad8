// SPDX-License-Identifier: GPL-2.0-or-later
// Going to the background: the command returns when the daemon serves, or with its failure.
#ifndef CLI_DAEMON_H
#define CLI_DAEMON_H

#include <stdbool.h>

// Forks, before anything is opened. Returns in the child alone, which does all the work and still
// has the terminal. The parent waits: it exits with 0 once daemon_ready() was called and the mount
// point answers, else with what the child exits with, or exit_failed.
void daemon_fork(const char *mountpoint, int exit_failed);
// In the child: lets go of the terminal, the session and the working directory, then of the parent.
void daemon_ready(void);
// What is logged from now on goes to the terminal as well, if it was started from one that is still
// there: the user who unmounts wants to know what it waits for.
void daemon_ending(void);

#endif
