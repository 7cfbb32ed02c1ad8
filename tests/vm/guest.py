# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with a true /dev/dax0.0 and /dev/sdb: QEMU without KVM, from Debian's archive.

Nothing is installed. QEMU, a kernel and busybox are fetched by apt-get with sources of their own (the
machine's, and backports for QEMU 10, whose plugins may read registers), and unpacked into a cache.
"""
import glob
import lzma
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.environ.get("VEMS_VM_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vemsfuse-vm")
CACHE_VERSION = "1"  # another one if what is in the cache has to change
UNPACKED = f"{CACHE}/{CACHE_VERSION}"

MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "virtio_scsi", "sd_mod",
           "nfit", "nd_pmem", "device_dax", "dax_pmem", "fuse"]
MODULE_OPTIONS = {"scsi_mod": "scan=manual"}

NVDIMM_BASE = 0x100000000  # where q35 puts it with less than 2 GiB of memory


class Unavailable(Exception):
    """The machine cannot have such a guest."""


# ---- packages ----------------------------------------------------------------------------------------

def apt(work, command, *args, cwd=None):
    options = {"Dir::Etc::sourcelist": f"{work}/sources.list", "Dir::Etc::sourceparts": "/dev/null",
               "Dir::State::lists": f"{work}/lists", "Dir::Cache": f"{work}/cache", "APT::Get::Assume-Yes": "1", "Debug::NoLocking": "1",
               "Acquire::http::Timeout": "30", "APT::Sandbox::User": ""}
    words = [command, "-q", *("-o%s=%s" % option for option in options.items()), *args]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                          cwd=cwd)
    if done.returncode:
        raise Unavailable(f"{command} {args[0]}: " + " ".join(done.stdout.split("\n")[-3:]).strip())
    return done.stdout


def write_sources(path):
    """The machine's sources of its own release, and its backports."""
    with open("/etc/os-release") as f:
        codename = re.search(r"^VERSION_CODENAME=(\w+)", f.read(), re.M)
    if not codename:
        raise Unavailable("not a release of Debian")
    codename = codename.group(1)
    targets = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
                              "Created-By: Packages"], stdout=subprocess.PIPE, text=True).stdout
    found = [line.split() for line in targets.splitlines() if re.search(rf" {codename}(-\w+)? main$", line)]
    if not found:
        raise Unavailable(f"apt has no source of {codename}")
    found += [[uri, f"{codename}-backports", main] for uri, release, main in found if release == codename]
    with open(path, "w") as f:
        f.writelines(f"deb {uri} {release} {main}\n" for uri, release, main in found)
    return codename


def fetch(work, root):
    """Unpacks into root a kernel, busybox, QEMU, and the libraries that this machine lacks for it."""
    archives = f"{work}/cache/archives"
    os.makedirs(f"{work}/lists/partial")
    os.makedirs(f"{archives}/partial")
    os.makedirs(root)
    codename = write_sources(f"{work}/sources.list")
    apt(work, "apt-get", "update")
    # With --reinstall, what is installed here already is fetched, too.
    apt(work, "apt-get", "install", "--download-only", "--reinstall", "--no-install-recommends",
        "-t", f"{codename}-backports", "qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
    # The kernel alone: what it depends on belongs to a machine that boots it.
    kernel = re.search(r"Depends: (linux-image-\S+)", apt(work, "apt-cache", "depends", "linux-image-amd64"))
    if not kernel:
        raise Unavailable("linux-image-amd64 depends on no kernel")
    apt(work, "apt-get", "download", "busybox-static", kernel.group(1), cwd=archives)
    for package in glob.glob(f"{archives}/*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)


# ---- kernel and initramfs ------------------------------------------------------------------------------

def unpack_kernel(vmlinuz, vmlinux):
    """The ELF file within a bzImage: for the guest to unpack it would take seconds at each boot."""
    with open(vmlinuz, "rb") as f:
        image = f.read()
    offset, length = struct.unpack_from("<II", image, 0x248)  # boot protocol 2.08: payload_offset, payload_length
    offset += (image[0x1f1] + 1) * 512
    with open(vmlinux, "wb") as f:
        f.write(lzma.LZMADecompressor().decompress(image[offset:offset + length]))


def with_dependencies(names, tree):
    """Paths of modules, each behind those that it depends on."""
    paths = {os.path.basename(p)[:-3].replace("-", "_"): p for p in glob.glob(f"{tree}/**/*.ko", recursive=True)}
    order = []

    def add(name):
        path = paths.get(name.replace("-", "_"))
        if not path or path in order:
            return  # built in, or there already
        with open(path, "rb") as f:
            depends = re.search(rb"\0depends=([^\0]*)\0", f.read())
        for other in filter(None, depends.group(1).decode().split(",")) if depends else ():
            add(other)
        order.append(path)

    for name in names:
        add(name)
    return order


def cpio_entry(number, name, mode, data=b"", device=(0, 0)):
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write_cpio(path, entries):
    with open(path, "wb") as f:
        for number, (name, mode, *rest) in enumerate(entries):
            f.write(cpio_entry(number + 1, name, mode, *rest))
        f.write(cpio_entry(0, "TRAILER!!!", 0))


def write_initramfs(path, root):
    """All but /init, which is the tree's own."""
    modules = with_dependencies(MODULES, glob.glob(f"{root}/lib/modules/*")[0])
    order = "".join("%s %s\n" % (name, MODULE_OPTIONS.get(name, ""))
                    for name in (os.path.basename(m)[:-3] for m in modules))
    entries = [(d, 0o40755) for d in ("bin", "modules", "dev")]
    entries += [("dev/console", 0o20600, b"", (5, 1)), ("bin/busybox", 0o100755, read(f"{root}/bin/busybox")),
                ("modules/order", 0o100644, order.encode())]
    entries += [("modules/" + os.path.basename(m), 0o100644, read(m)) for m in modules]
    write_cpio(path, entries)


def prepare():
    """Fills the cache, once. Raises Unavailable where it cannot be had."""
    if os.path.exists(UNPACKED):
        return
    os.makedirs(CACHE, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        root = f"{work}/new/root"
        fetch(work, root)
        unpack_kernel(glob.glob(f"{root}/boot/vmlinuz-*")[0], f"{work}/new/vmlinux")
        write_initramfs(f"{work}/new/initramfs", root)
        for unused in "boot", "lib/modules", "usr/share/doc":
            shutil.rmtree(f"{root}/{unused}", ignore_errors=True)
        os.rename(f"{work}/new", UNPACKED)


# ---- a running guest -----------------------------------------------------------------------------------

class PowerLost(Exception):
    """The guest was cut off while something was waited for."""


class Guest:
    """One boot. `on_line` is given what background jobs print."""

    def __init__(self, work, tier, disk, plugin, on_line):
        self.work, self.on_line, self.buffer = work, on_line, b""
        self.unasked = []  # lines of background jobs that on_line did not want
        write_cpio(f"{work}/init", [("init", 0o100755, read(f"{HERE}/init"))])
        with open(f"{work}/initramfs", "wb") as f:  # two archives in a row are one
            f.write(read(f"{UNPACKED}/initramfs") + read(f"{work}/init"))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{work}/channel")
        listener.listen(1)
        listener.settimeout(20)
        self.qemu = subprocess.Popen(self.command(tier, disk, plugin), env=self.environment(), stdin=subprocess.DEVNULL,
                                     stdout=open(f"{work}/qemu", "w"), stderr=subprocess.STDOUT)
        try:
            self.channel = listener.accept()[0]
        except TimeoutError:
            self.cut()
            raise Unavailable("QEMU does not start: " + read(f"{work}/qemu").decode(errors="replace").strip()) from None
        listener.close()
        os.unlink(f"{work}/channel")

    @staticmethod
    def environment():
        libraries = ":".join(f"{UNPACKED}/root/{d}/x86_64-linux-gnu" for d in ("usr/lib", "lib"))
        return dict(os.environ, LD_LIBRARY_PATH=libraries)

    def command(self, tier, disk, plugin):
        share = f"{UNPACKED}/root/usr/share"
        words = f"""
            setpriv --pdeathsig KILL {UNPACKED}/root/usr/bin/qemu-system-x86_64 -L {share}/qemu -L {share}/seabios
            -nodefaults -no-user-config -display none -no-reboot
            -machine q35,nvdimm=on,nvdimm-persistence=mem-ctrl -accel tcg,thread=multi,tb-size=256 -cpu max -smp 2
            -m 1024M,slots=1,maxmem={1024 + tier.mib}M
            -kernel {UNPACKED}/vmlinux -initrd {self.work}/initramfs -serial file:{self.work}/console
            -object memory-backend-file,id=tier,share=on,mem-path={tier.live},size={tier.mib}M
            -device nvdimm,memdev=tier
            -device virtio-scsi-pci,id=scsi
            -blockdev driver=null-co,node-name=dummy,size=1048576 -device scsi-hd,bus=scsi.0,scsi-id=0,drive=dummy
            -blockdev driver=nbd,node-name=disk,server.type=unix,server.path={disk.socket}
            -device scsi-hd,bus=scsi.0,scsi-id=1,drive=disk,write-cache=on,dpofua=on
            -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap
            -device virtio-9p-pci,fsdev=host,mount_tag=host
            -device virtio-serial-pci -chardev socket,id=channel,path={self.work}/channel
            -device virtserialport,chardev=channel,name=channel""".split()
        if plugin:
            words += ["-plugin", f"{plugin},base={NVDIMM_BASE},size={tier.mib << 20},"
                                 f"live={tier.live},durable={tier.durable}"]
        return words + ["-append", "console=ttyS0 quiet panic=-1 mitigations=off nopti nokaslr"]

    def line(self, deadline):
        while b"\n" not in self.buffer:
            self.channel.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.channel.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                raise PowerLost
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def wait_ready(self, seconds=180):
        deadline = time.monotonic() + seconds
        try:
            while self.line(deadline) != "@ready":
                pass
        except (PowerLost, TimeoutError):
            raise Unavailable("the guest does not boot") from None

    def run(self, command, seconds=400):
        """Runs one line of shell; its status, and what it printed. TimeoutError if that has no end."""
        printed = []
        try:
            self.channel.sendall(command.encode() + b"\n")
        except ConnectionError:
            raise PowerLost from None
        while True:
            line = self.line(time.monotonic() + seconds)
            if line.startswith("@status "):
                return int(line.split()[1]), "\n".join(printed)
            if not self.on_line(line):
                printed.append(line)

    def hear(self, deadline):
        line = self.line(deadline)
        if not self.on_line(line):
            self.unasked.append(line)

    def listen(self, seconds, enough):
        """Lets background jobs go on, until enough() or the time is up."""
        deadline = time.monotonic() + seconds
        try:
            while not enough():
                self.hear(deadline)
        except TimeoutError:
            pass

    def cut(self):
        """Takes the power away, whatever runs."""
        self.qemu.send_signal(signal.SIGKILL)
        self.qemu.wait()

    def last_words(self):
        """What had been said before the cut."""
        try:
            while True:
                self.hear(time.monotonic() + 5)
        except PowerLost:
            self.channel.close()
