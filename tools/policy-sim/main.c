// SPDX-License-Identifier: GPL-2.0-or-later
// A policy over a trace of page accesses: how many would have missed the tier.
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "hash.h"
#include "peers.h"

static const char usage_text[] =
"Usage: policy-sim --frames N [--policy NAME] [TRACE]\n"
"\n"
"Plays a trace of page accesses against a tier of N frames, by one of vemsfuse's own policies or one to\n"
"compare with, and prints accesses, misses and the pages that were written to make room.\n"
"\n"
"  --frames N     of the tier, 16 or more\n"
"  --policy NAME  a2q (default), clock, lru; arc, s3fifo, clock2qplus\n"
"  -h, --help     this text\n"
"\n"
"TRACE, or standard input, has lines of\n"
"  r OBJECT PAGE COUNT   pages read\n"
"  w OBJECT PAGE COUNT   pages written, as a whole\n"
"  d OBJECT PAGE COUNT   pages dropped: deleted, or cut off\n"
"Lines that begin with # are passed over.\n"
"\n"
"Exit status: 0; 1 if the trace cannot be read, with the reason; 2 if the command line is wrong.\n";

struct sim {
	struct policy policy;
	struct frame *frame;
	bool *dirty;
	frame_t frames, used; // frames below `used` were in use at some time
	frame_t *bucket, *chain; // by hash of the key
	frame_t free; // list through chain
	uint64_t accesses, misses, page_writes;
};

static frame_t *bucket_of(struct sim *s, object_t object, page_t page)
{
	return &s->bucket[hash_mix(object, page) % s->frames];
}

// Where the chain has the page, or ends.
static frame_t *find(struct sim *s, object_t object, page_t page)
{
	frame_t *at = bucket_of(s, object, page);
	while (*at != FRAME_NONE && (s->frame[*at].object != object || s->frame[*at].page != page))
		at = &s->chain[*at];
	return at;
}

static void unchain(struct sim *s, frame_t f)
{
	*find(s, s->frame[f].object, s->frame[f].page) = s->chain[f];
}

static bool take(void *arg, frame_t f)
{
	struct sim *s = arg;
	unchain(s, f);
	s->page_writes += s->dirty[f];
	return true;
}

static frame_t frame_get(struct sim *s)
{
	frame_t f = s->free;
	if (f != FRAME_NONE)
		s->free = s->chain[f];
	else
		f = s->used < s->frames ? s->used++ : policy_victim(&s->policy);
	return f;
}

static void access_page(struct sim *s, object_t object, page_t page, bool write)
{
	frame_t f = *find(s, object, page);
	s->accesses++;
	if (f != FRAME_NONE) {
		s->dirty[f] |= write;
		if (s->policy.ops->hit)
			s->policy.ops->hit(&s->policy, f);
		else
			frame_warm(&s->frame[f]);
		return;
	}
	s->misses++;
	if (s->policy.state)
		peer_expect(&s->policy, object, page);
	f = frame_get(s);
	s->frame[f].object = object;
	s->frame[f].page = page;
	s->dirty[f] = write;
	frame_t *bucket = bucket_of(s, object, page);
	s->chain[f] = *bucket;
	*bucket = f;
	policy_insert(&s->policy, f);
}

static void drop_frame(struct sim *s, frame_t f)
{
	policy_remove(&s->policy, f);
	unchain(s, f);
	s->frame[f] = (struct frame){ 0 };
	s->dirty[f] = false;
	s->chain[f] = s->free;
	s->free = f;
}

static void drop_pages(struct sim *s, object_t object, page_t page, uint64_t count)
{
	for (frame_t f = 0; count > s->frames && f < s->used; f++)
		if (s->frame[f].queue && s->frame[f].object == object && s->frame[f].page - page < count)
			drop_frame(s, f);
	for (uint64_t i = 0; count <= s->frames && i < count; i++) {
		frame_t f = *find(s, object, page + i);
		if (f != FRAME_NONE)
			drop_frame(s, f);
	}
}

static int sim_init(struct sim *s, const struct policy_ops *ops, frame_t frames)
{
	*s = (struct sim){ .frames = frames, .free = FRAME_NONE };
	s->frame = calloc(frames, sizeof *s->frame);
	s->dirty = calloc(frames, sizeof *s->dirty);
	s->bucket = malloc(frames * sizeof *s->bucket);
	s->chain = malloc(frames * sizeof *s->chain);
	if (!s->frame || !s->dirty || !s->bucket || !s->chain)
		return -ENOMEM;
	memset(s->bucket, 0xff, frames * sizeof *s->bucket); // FRAME_NONE
	return policy_init(&s->policy, ops, s->frame, frames, take, s);
}

static void sim_fini(struct sim *s)
{
	policy_fini(&s->policy);
	free(s->frame);
	free(s->dirty);
	free(s->bucket);
	free(s->chain);
}

static int line_wrong(const char *path, unsigned long number)
{
	fprintf(stderr, "policy-sim: %s: line %lu: expected 'r|w|d OBJECT PAGE COUNT'\n", path, number);
	return 1;
}

static int play(struct sim *s, FILE *trace, const char *path)
{
	char line[256], what;
	unsigned long long object, page, count;

	for (unsigned long number = 1; fgets(line, sizeof line, trace); number++) {
		if (line[0] == '#' || line[0] == '\n')
			continue;
		if (sscanf(line, "%c %llu %llu %llu", &what, &object, &page, &count) != 4)
			return line_wrong(path, number);
		if (what == 'd')
			drop_pages(s, object, page, count);
		else if (what != 'r' && what != 'w')
			return line_wrong(path, number);
		else
			for (; count; count--)
				access_page(s, object, page++, what == 'w');
	}
	if (ferror(trace)) {
		fprintf(stderr, "policy-sim: %s: %s\n", path, strerror(errno));
		return 1;
	}
	return 0;
}

static const struct policy_ops *find_policy(const char *name)
{
	const struct policy_ops *const all[] = { &policy_a2q, &policy_clock, &policy_lru, &policy_arc, &policy_s3fifo,
						 &policy_clock2qplus };
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	return NULL;
}

static int usage(const char *what, const char *value)
{
	fprintf(stderr, "policy-sim: %s%s; see policy-sim --help\n", what, value);
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "frames", required_argument, NULL, 'f' }, { "policy", required_argument, NULL, 'p' },
						  { "help", no_argument, NULL, 'h' }, { 0 } };
	const char *name = "a2q", *path = "standard input";
	unsigned long frames = 0;
	struct sim sim;
	FILE *trace = stdin;

	for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
		if (c == 'f')
			frames = strtoul(optarg, NULL, 10);
		else if (c == 'p')
			name = optarg;
		else if (c == 'h')
			return fputs(usage_text, stdout) < 0;
		else
			return 2;
	}
	const struct policy_ops *ops = find_policy(name);
	if (!ops)
		return usage("there is no policy ", name);
	if (frames < 16 || frames >= FRAME_NONE)
		return usage("--frames has to be", " 16 or more");
	if (optind + 1 < argc)
		return usage("more than one trace: ", argv[optind + 1]);
	if (optind < argc) {
		path = argv[optind];
		trace = fopen(path, "r");
	}
	if (!trace) {
		fprintf(stderr, "policy-sim: %s: %s\n", path, strerror(errno));
		return 1;
	}
	int r = sim_init(&sim, ops, (frame_t)frames);
	if (r) {
		fprintf(stderr, "policy-sim: out of memory\n");
		return 1;
	}
	r = play(&sim, trace, path);
	if (!r)
		printf("accesses %llu\nmisses %llu\npage writes %llu\n", (unsigned long long)sim.accesses,
		       (unsigned long long)sim.misses, (unsigned long long)sim.page_writes);
	sim_fini(&sim);
	return r;
}
