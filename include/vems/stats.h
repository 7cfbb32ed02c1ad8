// SPDX-License-Identifier: GPL-2.0-or-later
// What the control interface reports: one flat list of counters, the source of vemsctl's text and
// JSON alike.
#ifndef VEMS_STATS_H
#define VEMS_STATS_H

#include <linux/ioctl.h>
#include <stdint.h>

// X(name, unit, what it is)
#define VEMS_STATS(X)                                                                       \
	X(read_hits, "pages", "read from the tier")                                         \
	X(read_misses, "pages", "read from the backing")                                    \
	X(read_holes, "pages", "read as zeroes: nothing was ever written there")            \
	X(write_hits, "pages", "written to the tier without waiting")                       \
	X(write_waits, "writes", "that waited for frames, log or space")                    \
	X(node_hits, "nodes", "of the tree found in the tier")                              \
	X(node_misses, "nodes", "of the tree read from the backing")                        \
	X(pages_filled, "pages", "copied into the tier after a miss")                       \
	X(pages_evicted, "pages", "clean copies that made room")                            \
	X(pages_written_back, "pages", "written to the backing by epochs")                  \
	X(pages_dropped, "pages", "deleted before they were written back")                  \
	X(backing_reads, "I/Os", "to the backing")                                          \
	X(backing_writes, "I/Os", "to the backing")                                         \
	X(backing_flushes, "I/Os", "to the backing")                                        \
	X(backing_read_bytes, "bytes", "")                                                  \
	X(backing_write_bytes, "bytes", "")                                                 \
	X(backing_errors, "I/Os", "that failed")                                            \
	X(frames_total, "frames", "of 4 KiB in the tier")                                   \
	X(frames_free, "frames", "")                                                        \
	X(frames_clean, "frames", "copies of what the backing holds")                       \
	X(frames_dirty, "frames", "not yet on the backing")                                 \
	X(epochs, "", "number of the superblock in force")                                  \
	X(epoch_age_ms, "ms", "since the cut of the epoch in force: what losing the tier would cost") \
	X(epoch_running, "", "1: one is being built")                                       \
	X(epoch_failures, "", "epochs given up in a row")                                   \
	X(log_bytes, "bytes", "of the log in use")                                          \
	X(log_bytes_total, "bytes", "")                                                     \
	X(overlay_items, "items", "not yet in the tree")                                    \
	X(overlay_bytes, "bytes", "")                                                       \
	X(overlay_bytes_max, "bytes", "")                                                   \
	X(commits, "", "since the mount")                                                   \
	X(restarts, "", "operations run again since the mount")                             \
	X(blocks_total, "blocks", "of 4 KiB on the backing")                                \
	X(blocks_free, "blocks", "")                                                        \
	X(recovery_ms, "ms", "that the last mount took to recover")                         \
	X(degraded, "", "0: well; 1: backing fails, new dirty pages refused; 2: read-only")          \
	X(transport, "", "0: requests come by /dev/fuse; 1: by io_uring")                   \
	X(transport_reason, "", "why so, as the summary says")                              \
	X(requests_waited, "requests", "by io_uring that waited for the backing, beside their thread") \
	X(requests_parked, "requests", "by io_uring that waited in another thread")         \
	X(queue_full, "times", "all entries of a core's queue were in use")                 \
	X(scrub_state, "", "0: none since the mount; 1: under way; 2: done; 3: stopped")    \
	X(scrub_end, "s", "since 1970, when the last one ended")                            \
	X(scrub_checked, "blocks", "that it has looked at, in tier and backing")            \
	X(scrub_total, "blocks", "that there were, about")                                  \
	X(scrub_errors, "", "that it found, each with a line in the log")                   \
	X(scrub_healed, "", "of them: the data is right again")

struct vems_stats {
#define X(name, unit, text) uint64_t name;
	VEMS_STATS(X)
#undef X
};

// X(name, what it is): the values of transport_reason, in order.
#define VEMS_TRANSPORT_REASONS(X)                             \
	X(ASKED_FOR, "as asked for")                          \
	X(OFFERED, "offered by the kernel")                   \
	X(NOT_OFFERED, "the kernel does not offer io_uring: before Linux 6.14, or switched off; see --uring=on") \
	X(FORBIDDEN, "io_uring is forbidden here")            \
	X(NO_RESOURCES, "no memory or descriptors for io_uring") \
	X(CPUS_UNKNOWN, "it is not known how many CPUs there can be") \
	X(REFUSED, "the kernel has refused a queue of io_uring")

enum vems_transport_reason {
#define X(name, text) VEMS_TRANSPORT_##name,
	VEMS_TRANSPORT_REASONS(X)
#undef X
	VEMS_TRANSPORT_REASON_COUNT,
};

// ioctl on the mount's root directory; the mount's owner and root only.
#define VEMS_IOC_STATS _IOR('V', 1, struct vems_stats)
#define VEMS_IOC_SYNC _IO('V', 2)
#define VEMS_IOC_SCRUB _IO('V', 3)      // starts one; EBUSY: one is under way. How it goes is in the counters
#define VEMS_IOC_SCRUB_STOP _IO('V', 4) // returns when it has

#endif
