// SPDX-License-Identifier: GPL-2.0-or-later
// Small workloads on a file system, cut off at every kind of event: all pairs of actions, and triples at random.
//
//	test_fscrash [--states N] [--triples N] [--seed N] [--nested N] [--exhaustive] [--only ACTIONS] [--break ORDER]
//	test_fscrash --replay STATE
//
//	--states N      about so many, spread over all pairs, then over triples (their number: as many states as pairs
//	                get, at least); 5000
//	--triples N     so many of them, from --seed
//	--exhaustive    every state of every cut of the workloads, where they are few
//	--only ACTIONS  this workload alone, such as write-cold,sync
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "action.h"
#include "explorer.h"
#include "clock.h"
#include "log.h"

static struct explorer_settings settings = { .seed = 1, .states = 5000, .nested = 2, .broken = -1 };
static uint64_t triples = 600;
static const char *order, *only, *replay;
static double began, told;

static double seconds(void)
{
	return (double)now_ns() / 1e9;
}

static int usage(void)
{
	fprintf(stderr, "usage: test_fscrash [--states N] [--triples N] [--seed N] [--nested N] [--exhaustive] [--only ACTIONS]\n"
			"\t[--break ORDER]\n       test_fscrash --replay STATE [--break ORDER]\nactions:");
	for (unsigned i = 0; i < action_count; i++)
		fprintf(stderr, " %s", actions[i].name);
	fprintf(stderr, "\norders:");
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

static void print_failure(void)
{
	printf("FAILED: %s\n\treplay: test_fscrash --replay %s%s%s\n", explored.text, explored.name, order ? " --break " : "",
	       order ? order : "");
}

// An assertion: of the state at hand.
static void on_abort(int signal)
{
	snprintf(explored.text, sizeof explored.text, "an assertion failed");
	print_failure();
	if (order)
		printf("%s: caught\n", order);
	fflush(stdout);
	_exit(order ? 0 : 1);
}

static bool over(void)
{
	return explored.failed || explored.states >= settings.states;
}

static void run(const char *workload, double quota)
{
	explorer_run(workload, quota);
	if (seconds() < told + 60)
		return;
	told = seconds();
	fprintf(stderr, "%.0f s: %llu states of %llu workloads, now %s\n", told - began, (unsigned long long)explored.states,
		(unsigned long long)explored.workloads, workload);
}

// Actions that stand beside others.
static bool is_first(const struct action *a)
{
	return a->kind < ACTION_FORMAT;
}

static bool is_second(const struct action *a)
{
	return is_first(a) || a->kind == ACTION_UNMOUNT;
}

static void run_alone(double quota)
{
	for (unsigned i = 0; i < action_count && !over(); i++)
		if (!is_second(&actions[i]))
			run(actions[i].name, 10 * quota);
}

static void run_pairs(double quota)
{
	char workload[128];
	for (unsigned a = 0; a < action_count; a++)
		for (unsigned b = 0; b < action_count && !over(); b++) {
			if (!is_first(&actions[a]) || !is_second(&actions[b]))
				continue;
			snprintf(workload, sizeof workload, "%s,%s", actions[a].name, actions[b].name);
			run(workload, quota);
		}
}

static const char *pick(uint64_t *rng, bool (*fits)(const struct action *a))
{
	unsigned i;
	do
		i = rng_below(rng, action_count);
	while (!fits(&actions[i]));
	return actions[i].name;
}

static void run_triples(double quota)
{
	char workload[128];
	uint64_t rng = settings.seed;
	for (uint64_t n = 0; n < triples && !over(); n++) {
		const char *one = pick(&rng, is_first), *two = pick(&rng, is_first), *three = pick(&rng, is_second);
		snprintf(workload, sizeof workload, "%s,%s,%s", one, two, three);
		run(workload, quota);
	}
}

static uint64_t count_pairs(void)
{
	uint64_t first = 0, second = 0;
	for (unsigned i = 0; i < action_count; i++) {
		first += is_first(&actions[i]);
		second += is_second(&actions[i]);
	}
	return first * second;
}

static void run_all(void)
{
	double quota = (double)settings.states / (double)(count_pairs() + triples + 80) * 0.6; // likewise
	run_alone(quota);
	run_pairs(quota);
	run_triples(quota);
}

static int parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "states", required_argument, NULL, 'S' }, { "triples", required_argument, NULL, 't' },
		{ "seed", required_argument, NULL, 's' },   { "nested", required_argument, NULL, 'n' },
		{ "exhaustive", no_argument, NULL, 'x' },   { "only", required_argument, NULL, 'o' },
		{ "break", required_argument, NULL, 'b' },  { "replay", required_argument, NULL, 'r' },
		{ NULL, 0, NULL, 0 } };
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c) {
		case 'S': settings.states = strtoull(optarg, NULL, 0); break;
		case 't': triples = strtoull(optarg, NULL, 0); break;
		case 's': settings.seed = strtoull(optarg, NULL, 0); break;
		case 'n': settings.nested = (unsigned)atoi(optarg); break;
		case 'x': settings.exhaustive = true; break;
		case 'o': only = optarg; break;
		case 'b': order = optarg; settings.broken = order_of(optarg); break;
		case 'r': replay = optarg; settings.states = UINT64_MAX; break;
		default: return -1;
		}
	return optind == argc ? 0 : -1;
}

int main(int argc, char **argv)
{
	if (parse(argc, argv))
		return usage();
	signal(SIGABRT, on_abort);
	log_init("test_fscrash");
	log_quiet(1);
	began = told = seconds();
	explorer_start(&settings);
	if (replay && explorer_replay(replay))
		return usage();
	if (only)
		run(only, (double)settings.states / 2); // crashes in crashes come on top
	else if (!replay)
		run_all();
	explorer_end();
	if (explored.failed)
		print_failure();
	printf("%llu states (%llu of few at their cut, %llu killed, %llu without the tier, %llu after another crash, %llu with what was "
	       "under way, %llu refused) of %llu workloads, %llu events, %.1f s\n", (unsigned long long)explored.states,
	       (unsigned long long)explored.enumerated, (unsigned long long)explored.killed, (unsigned long long)explored.lost_tier,
	       (unsigned long long)explored.nested, (unsigned long long)explored.in_flight, (unsigned long long)explored.refused,
	       (unsigned long long)explored.workloads, (unsigned long long)explored.events, seconds() - began);
	if (!order)
		return explored.failed;
	printf("%s: broken %llu times, %s\n", order, (unsigned long long)explored.broken, explored.failed ? "caught" : "NOT CAUGHT");
	return !explored.failed;
}
