// SPDX-License-Identifier: GPL-2.0-or-later
// Loaded into a daemon by LD_PRELOAD: on SIGUSR2 the pages of the file $POISON_TIER, in the memory of this process,
// that $POISON_LIST names (byte offsets, one a line) are poisoned; then the list is removed, or renamed to
// $POISON_LIST.failed.
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "../unit/poisoner.h"

static char tier[256], list[256], failed[300];

static bool read_text(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t bytes = 0;
	ssize_t n;

	if (fd < 0)
		return false;
	while (bytes < room - 1 && (n = read(fd, text + bytes, room - 1 - bytes)) > 0)
		bytes += (size_t)n;
	text[bytes] = 0;
	close(fd);
	return true;
}

// Lines of maps: start-end flags offset device inode path
static void *find(char *maps, uint64_t offset)
{
	for (char *line = maps, *end; *line; line = end + 1) {
		end = line + strcspn(line, "\n");
		size_t length = (size_t)(end - line), path = strlen(tier);
		char *at = line;

		if (length > path && !memcmp(end - path, tier, path)) {
			uint64_t from = strtoull(at, &at, 16), to = strtoull(at + 1, &at, 16);
			uint64_t first = strtoull(at + strlen(" rw-s "), &at, 16);

			if (offset >= first && offset < first + (to - from))
				return (void *)(uintptr_t)(from + (offset - first));
		}
		if (!*end)
			break;
	}
	return NULL;
}

static void on_signal(int signal)
{
	static char maps[1 << 16], offsets[1 << 16];
	bool done = read_text(list, offsets, sizeof offsets);

	for (char *at = offsets, *next; done; at = next) {
		uint64_t offset = strtoull(at, &next, 10);

		if (next == at)
			break;
		void *page = read_text("/proc/self/maps", maps, sizeof maps) ? find(maps, offset) : NULL;

		done = page && poison_page((void *)((uintptr_t)page & ~(uintptr_t)4095));
	}
	if (done)
		unlink(list);
	else
		rename(list, failed);
}

__attribute__((constructor)) static void start(void)
{
	const char *t = getenv("POISON_TIER"), *l = getenv("POISON_LIST");

	if (!t || !l)
		return;
	snprintf(tier, sizeof tier, "%s", t);
	snprintf(list, sizeof list, "%s", l);
	snprintf(failed, sizeof failed, "%s.failed", l);
	signal(SIGUSR2, on_signal);
}
