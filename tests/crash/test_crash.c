// SPDX-License-Identifier: GPL-2.0-or-later
// Random work on the store, cut off by power failures and kills; every state that is left must be what
// was acknowledged, with what was in flight wholly there or not at all.
//
//	test_crash [--runs N | --states N] [--seed N] [--drivers N] [--threads] [--faults] [--items] [--event N]
//		[--every N] [--steps N] [--nested N] [--tier MiB] [--break ORDER] [--trace] [--keep]
//
// --items: items rather than pages in each run, so that most slices of reclaim log many again.
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "clock.h"
#include "log.h"
#include "world.h"

static double seconds(void)
{
	return (double)now_ns() / 1e9;
}

static int usage(void)
{
	fprintf(stderr, "usage: test_crash [--runs N | --states N] [--seed N] [--drivers N] [--threads] [--faults] [--items]\n"
			"\t[--event N] [--every N] [--steps N] [--nested N] [--tier MiB] [--break ORDER] [--trace] [--keep]\norders:");
	for (int o = 0; o < ORDERS; o++)
		fprintf(stderr, " %s", order_name[o]);
	fprintf(stderr, "\n");
	return 2;
}

static int order_of(const char *name)
{
	for (int o = 0; o < ORDERS; o++)
		if (strcmp(name, order_name[o]) == 0)
			return o;
	exit(usage());
}

static void print_failure(const struct settings *s, const char *order)
{
	printf("FAILED: %s\n\treplay: test_crash --runs 1 --seed %llu --drivers %u --steps %u --every %u --nested %u --tier %u%s%s%s%s%s\n",
	       tally.text, (unsigned long long)s->seed, s->drivers, s->steps, s->crash_every, s->nested, s->tier_mib,
	       s->serial ? "" : " --threads", s->faults ? " --faults" : "", s->many_items ? " --items" : "",
	       order ? " --break " : "", order ? order : "");
}

static struct settings now;
static const char *order;

// An assertion of the store: say where, and count it as what it is.
static void on_abort(int signal)
{
	snprintf(tally.text, sizeof tally.text, "an assertion failed");
	print_failure(&now, order);
	if (order)
		printf("%s: caught\n", order);
	fflush(stdout);
	_exit(order ? 0 : 1);
}

// Of a long run, once a minute.
static void progress(double began)
{
	static double told;
	double took = seconds() - began;
	if (took < told + 60)
		return;
	told = took;
	fprintf(stderr, "%.0f s: %llu states, seed %llu\n", took, (unsigned long long)tally.states, (unsigned long long)now.seed);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "runs", required_argument, NULL, 'r' },    { "states", required_argument, NULL, 'S' },
		{ "seed", required_argument, NULL, 's' },    { "drivers", required_argument, NULL, 'd' },
		{ "threads", no_argument, NULL, 't' },       { "faults", no_argument, NULL, 'f' },
		{ "event", required_argument, NULL, 'e' },   { "every", required_argument, NULL, 'E' },
		{ "steps", required_argument, NULL, 'p' },   { "nested", required_argument, NULL, 'n' },
		{ "tier", required_argument, NULL, 'T' },    { "break", required_argument, NULL, 'b' },
		{ "trace", no_argument, NULL, 'v' },         { "keep", no_argument, NULL, 'k' },
		{ "items", no_argument, NULL, 'i' },
		{ NULL, 0, NULL, 0 } };
	struct settings base = { .seed = 1, .tier_mib = 2, .backing_mib = 12, .drivers = 1, .steps = 120, .serial = true,
				 .crash_every = 25, .nested = 2, .broken = -1 };
	uint64_t runs = UINT64_MAX, states = 10000;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c) {
		case 'r': runs = strtoull(optarg, NULL, 0); states = UINT64_MAX; break;
		case 'S': states = strtoull(optarg, NULL, 0); break;
		case 's': base.seed = strtoull(optarg, NULL, 0); break;
		case 'd': base.drivers = (unsigned)atoi(optarg); break;
		case 't': base.serial = false; break;
		case 'f': base.faults = true; break;
		case 'i': base.many_items = true; break;
		case 'e': base.only_event = strtoull(optarg, NULL, 0); break;
		case 'E': base.crash_every = (unsigned)atoi(optarg); break;
		case 'p': base.steps = (unsigned)atoi(optarg); break;
		case 'n': base.nested = (unsigned)atoi(optarg); break;
		case 'T': base.tier_mib = (unsigned)atoi(optarg); break;
		case 'b': order = optarg; base.broken = order_of(optarg); break;
		case 'v': base.trace = true; break;
		case 'k': base.keep = true; break;
		default: return usage();
		}
	if (optind != argc || base.drivers < 1 || base.drivers > DRIVERS_MAX || !base.crash_every)
		return usage();
	signal(SIGABRT, on_abort);
	log_init("test_crash");
	log_quiet(!base.trace);
	double began = seconds();
	for (uint64_t n = 0; n < runs && tally.states < states && !tally.failed; n++, base.seed++) {
		struct settings s = base;
		s.states_max = states;
		uint64_t rng = s.seed;
		// Small and hot, or more than the tier holds.
		s.objects = 1 + rng_below(&rng, MODEL_OBJECTS);
		s.pages = rng_below(&rng, 3) ? 4 + rng_below(&rng, 60) : MODEL_PAGES;
		s.many_items |= rng_below(&rng, 3) == 0;
		now = s;
		world_run(&s);
		progress(began);
	}
	base.seed--;
	if (tally.failed)
		print_failure(&base, order);
	printf("%llu states (%llu killed, %llu without the tier, %llu after another crash, %llu read-only, %llu with what was in "
	       "flight, %llu checked in full), %llu commits, %llu epochs, %llu events, %.1f s\n", (unsigned long long)tally.states,
	       (unsigned long long)tally.killed, (unsigned long long)tally.lost_tier, (unsigned long long)tally.nested,
	       (unsigned long long)tally.read_only, (unsigned long long)tally.in_flight, (unsigned long long)tally.checked,
	       (unsigned long long)tally.commits, (unsigned long long)tally.epochs, (unsigned long long)tally.events, seconds() - began);
	if (!order)
		return tally.failed;
	// A broken order must be caught.
	printf("%s: broken %llu times, %s\n", order, (unsigned long long)tally.broken, tally.failed ? "caught" : "NOT CAUGHT");
	return !tally.failed;
}
