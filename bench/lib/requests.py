# SPDX-License-Identifier: GPL-2.0-or-later
"""How many requests the kernel sends to a FUSE server, by operation: from its own tracepoints (Linux 6.11), in a buffer
that nobody else sees. FORGET is not counted: it has no reply."""
import collections
import contextlib
import glob
import os
import re

from .subjects import Unavailable, need_root, run, unmount

SENT = re.compile(r"fuse_request_send: connection \d+ req \d+ opcode \d+ \((?:FUSE_)?(\w+)\)")
EVENT = "events/fuse/fuse_request_send"
BUFFER_KB = 64 << 10 # for each CPU; a request takes 100 bytes


@contextlib.contextmanager
def tracing(bench):
    place = "/sys/kernel/tracing"
    if os.path.isdir(os.path.join(place, "instances")):
        yield place
        return
    place = os.path.join(bench.disk, "tracing")
    os.makedirs(place, exist_ok=True)
    try:
        run("mount", "-t", "tracefs", "tracefs", place)
    except Exception as error:
        raise Unavailable("no tracefs in this kernel") from error
    try:
        yield place
    finally:
        unmount(place, "umount")


@contextlib.contextmanager
def counted(bench, subject):
    """Yields a Counter that is filled when the block is over."""
    need_root("counting requests")
    with tracing(bench) as place, contextlib.ExitStack() as undo:
        if not os.path.isdir(os.path.join(place, EVENT)):
            raise Unavailable("this kernel does not tell of FUSE's requests (Linux 6.11)")
        mine = os.path.join(place, "instances", f"vems-bench-{os.getpid()}")

        def write(name, value):
            with open(os.path.join(mine, name), "w") as f:
                f.write(str(value))
        os.mkdir(mine)
        undo.callback(os.rmdir, mine)
        write("buffer_size_kb", BUFFER_KB)
        write(f"{EVENT}/filter", f"connection == {os.minor(os.stat(subject.dir).st_dev)}")
        write(f"{EVENT}/enable", 1)
        counts = collections.Counter()
        yield counts
        write(f"{EVENT}/enable", 0)
        for path in glob.glob(os.path.join(mine, "per_cpu/cpu*/stats")):
            with open(path) as stats:
                if re.search(r"^overrun: [1-9]", stats.read(), re.M):
                    raise Unavailable("more requests than the kernel's buffer holds")
        with open(os.path.join(mine, "trace")) as trace:
            counts.update(said[1] for line in trace if (said := SENT.search(line)))
