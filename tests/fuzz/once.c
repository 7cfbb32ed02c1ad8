// SPDX-License-Identifier: GPL-2.0-or-later
// In the place of libFuzzer: runs each file of the directories given, once.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define INPUT_BYTES_MAX 4096u

static void fail(const char *path)
{
	perror(path);
	exit(1);
}

// In memory of its own size: what reads past the end of it is seen by AddressSanitizer.
static void run_file(const char *path)
{
	static uint8_t buffer[INPUT_BYTES_MAX];
	FILE *file = fopen(path, "re");
	if (!file)
		fail(path);
	size_t bytes = fread(buffer, 1, sizeof buffer, file);
	uint8_t *data = malloc(bytes ? bytes : 1);
	if (!data || ferror(file))
		fail(path);
	fclose(file);
	for (size_t i = 0; i < bytes; i++)
		data[i] = buffer[i];
	LLVMFuzzerTestOneInput(data, bytes);
	free(data);
}

static int not_hidden(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

static void run_directory(const char *directory)
{
	struct dirent **entry;
	char path[4096];
	int count = scandir(directory, &entry, not_hidden, alphasort);
	if (count < 0)
		fail(directory);
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof path, "%s/%s", directory, entry[i]->d_name);
		fprintf(stderr, "%s\n", path); // the last one is the one that failed
		run_file(path);
		free(entry[i]);
	}
	free(entry);
	printf("%s: %d inputs\n", directory, count);
}

int main(int argc, char **argv)
{
	LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++)
		run_directory(argv[i]);
	return 0;
}
