#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations without any fsync, each one system call: made in the guest, foretold on the host.

    workload.py run DIRECTORY SEED    one after the other, for ever; "ack NAME NUMBER" when one has returned
    workload.py show DIRECTORY        what is there, one line for each name

Operation n is a function of the seed and of what the first n have made. So whoever knows how many were
acknowledged knows what has to be there.
"""
import hashlib
import os
import random
import sys

FILES_MAX, DIRECTORIES_MAX, FILE_MAX_BYTES, WRITE_MAX_BYTES = 40, 6, 512 << 10, 64 << 10


class File:
    def __init__(self):
        self.content, self.links, self.attribute = bytearray(), 1, ""


class Model:
    """The directory after `done` operations: relative path -> File, or None for a directory."""

    def __init__(self, seed):
        self.seed, self.done, self.names, self.upcoming = seed, 0, {}, None

    def next(self):
        """The next operation: its name and arguments."""
        self.upcoming = self.upcoming or self._choose()
        return self.upcoming

    def _choose(self):
        rng = random.Random(f"{self.seed}.{self.done}")
        files = sorted(n for n, f in self.names.items() if f)
        directories = sorted(n for n, f in self.names.items() if f is None)
        empty = [d for d in directories if not any(n.startswith(d + "/") for n in self.names)]

        def new_name():
            return os.path.join(rng.choice([""] + directories), f"f{self.done}")

        choices = []
        if len(files) < FILES_MAX:
            choices += [("create", new_name())] * 4
        if len(directories) < DIRECTORIES_MAX:
            choices += [("mkdir", f"d{self.done}")]
        if empty:
            choices += [("rmdir", rng.choice(empty))]
        if directories:
            choices += [("rename", rng.choice(directories), f"d{self.done}")]
        if files:
            name = rng.choice(files)
            size = len(self.names[name].content)
            at = rng.choice([0, size, rng.randint(0, size), rng.randint(0, FILE_MAX_BYTES - WRITE_MAX_BYTES)])
            at = min(at, FILE_MAX_BYTES - WRITE_MAX_BYTES)
            count = rng.choice([1, 100, 4096, rng.randint(1, WRITE_MAX_BYTES)])
            choices += [("write", name, at, count)] * 12
            choices += [("truncate", name, rng.choice([0, rng.randint(0, size), rng.randint(0, FILE_MAX_BYTES)]))] * 2
            choices += [("rename", name, new_name())] + [("rename", name, rng.choice(files))]
            choices += [("setxattr", name, f"v{self.done}")] + [("unlink", name)] * 2
            if len(files) < FILES_MAX:
                choices += [("link", name, new_name())]
        return rng.choice(choices)

    def data(self, count):
        """What the next operation writes."""
        return random.Random(f"{self.seed}.{self.done}.data").randbytes(count)

    def step(self):
        name, *arguments = self.next()
        getattr(self, "_" + name)(*arguments)
        self.done += 1
        self.upcoming = None

    def _create(self, name):
        self.names[name] = File()

    def _mkdir(self, name):
        self.names[name] = None

    def _rmdir(self, name):
        del self.names[name]

    def _write(self, name, at, count):
        content = self.names[name].content
        content.extend(bytes(max(0, at - len(content))))
        content[at:at + count] = self.data(count)

    def _truncate(self, name, size):
        content = self.names[name].content
        content.extend(bytes(max(0, size - len(content))))
        del content[size:]

    def _setxattr(self, name, value):
        self.names[name].attribute = value

    def _unlink(self, name):
        self.names.pop(name).links -= 1

    def _link(self, name, new):
        self.names[new] = self.names[name]
        self.names[name].links += 1

    def _rename(self, name, new):
        if self.names.get(new, self) is self.names[name]:
            return  # two names of one file: rename(2) does nothing
        if new in self.names:
            self._unlink(new)
        for old in [n for n in self.names if n == name or n.startswith(name + "/")]:
            self.names[new + old[len(name):]] = self.names.pop(old)

    def show(self):
        return sorted(describe(n, f and bytes(f.content), f and f.links, f and f.attribute)
                      for n, f in self.names.items())


def describe(name, content, links, attribute):
    if content is None:
        return f"{name}/"
    return f"{name} {len(content)} {hashlib.sha1(content).hexdigest()} {links} {attribute}"


def show(root):
    for path, directories, files in os.walk(root):
        for name in directories:
            yield describe(os.path.relpath(os.path.join(path, name), root), None, 0, "")
        for name in files:
            full = os.path.join(path, name)
            with open(full, "rb") as f:
                content = f.read()
            attribute = os.getxattr(full, "user.n").decode() if os.listxattr(full) else ""
            yield describe(os.path.relpath(full, root), content, os.stat(full).st_nlink, attribute)


def perform(root, model):
    """The next operation, as one system call that changes something."""
    name, path, *rest = model.next()
    path = os.path.join(root, path)
    if name == "create":
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    elif name == "write":
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, model.data(rest[1]), rest[0])
        os.close(fd)
    elif name == "setxattr":
        os.setxattr(path, "user.n", rest[0].encode())
    elif name in ("rename", "link"):
        getattr(os, name)(path, os.path.join(root, rest[0]))
    else:
        getattr(os, name)(path, *rest)


def run(root, seed):
    model = Model(seed)
    os.mkdir(root)
    while True:
        perform(root, model)
        model.step()
        os.write(1, f"ack {os.path.basename(root)} {model.done}\n".encode())


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(*sys.argv[2:])
    else:
        print("\n".join(sorted(show(sys.argv[2]))))
