# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced by every scenario: a pair of devices in private directories, a mount, and a trap that
# leaves nothing behind. A scenario ends with 0, with 77 and a reason where the machine cannot run
# it, or with anything else if a promise is broken.
# shellcheck disable=SC2034 # variables of the scenarios
#
# TIER, BACKING, MNT are the current pair; DIR (on disk) and FAST (tmpfs) are scratch space.
set -Eeuo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VEMSFUSE=${VEMSFUSE:-$TOP/build/vemsfuse}
MKFS=${VEMS_MKFS:-$TOP/build/mkfs.vemsfuse}
FSCK=${VEMS_FSCK:-$TOP/build/fsck.vemsfuse}
VEMSCTL=${VEMSCTL:-$TOP/build/vemsctl}
FAULTDISK=${FAULTDISK:-$TOP/build/tests/e2e/faultdisk}
VEMS_E2E_OPTIONS=${VEMS_E2E_OPTIONS-} # of every mount, such as --transport=dev

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*" >&2; exit 1; }
step() { echo "--- $*"; }

# ---- what is cleaned up, whatever happens --------------------------------------------------------

DIR='' FAST=''
MOUNTS=() # every mount point ever used
LOOPS=()
DISKS=()  # mount points of faultdisk
TIER='' BACKING='' DISK='' MNT='' PID=''

cleanup() {
	local rc=$? m pid
	trap - EXIT
	set +eE
	trap - ERR
	for m in "${DISKS[@]}"; do echo good >"$m/ctl"; done 2>/dev/null
	stop_jobs
	if [ "$rc" != 0 ] && [ "$rc" != 77 ] && [ -s "$DIR/said" ]; then
		echo "--- last words of vemsfuse:"
		tail -n 20 "$DIR/said"
	fi >&2
	for m in "${MOUNTS[@]}"; do
		pid=$(daemon_pid "$m")
		is_mounted "$m" && { fusermount3 -uz "$m" || umount -l "$m"; }
		[ -z "$pid" ] || wait_gone "$pid" 20 || kill -9 "$pid"
	done 2>/dev/null
	for m in "${LOOPS[@]}"; do losetup -d "$m"; done
	for m in "${DISKS[@]}"; do fusermount3 -uz "$m"; done 2>/dev/null
	at_end
	# Never into a mount that could not be undone.
	[ -z "$DIR" ] || rm -rf --one-file-system "$DIR"
	[ -z "$FAST" ] || rm -rf --one-file-system "$FAST"
	exit "$rc"
}
at_end() { :; } # a scenario may add to it
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'echo "FAILED: ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR

JOBS=() # background writers of a scenario
stop_jobs() {
	[ "${#JOBS[@]}" = 0 ] || kill "${JOBS[@]}" 2>/dev/null || :
	[ "${#JOBS[@]}" = 0 ] || wait "${JOBS[@]}" 2>/dev/null || :
	JOBS=()
}

# ---- what the machine must have ------------------------------------------------------------------

need() { # PROGRAM...
	local p
	for p; do command -v "$p" >/dev/null || skip "$p is not installed"; done
}
need_root() { [ "$(id -u)" = 0 ] || skip "only root can $*"; }
need_shm() { # MiB free on /dev/shm
	local free
	free=$(df -m --output=avail /dev/shm | tail -n 1)
	[ "$free" -ge "$1" ] || skip "/dev/shm has $free MiB free, $1 needed"
}
is_linux() { [ "$(printf '%s\n' "$1" "$(uname -r)" | sort -V | head -n 1)" = "$1" ]; } # VERSION: or later
can_map_shared() { is_linux 6.6; } # a file that bypasses the page cache
# Runs a command as an ordinary user.
as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent "$@"; }

# ---- a pair and its mount ------------------------------------------------------------------------

# Blank files: TIER_MIB on tmpfs, BACKING_MIB sparse on disk. May be called again for another pair.
make_pair() {
	local n=${#MOUNTS[@]}
	need_shm $(($1 + 16))
	TIER=$FAST/tier$n BACKING=$DIR/backing$n MNT=$DIR/mnt$n
	truncate -s "$1M" "$TIER"
	truncate -s "$2M" "$BACKING"
	mkdir "$MNT"
	MOUNTS+=("$MNT")
}
# A pair whose backing is a disk that fails as it is told: commands and counters are in faultdisk.c.
make_fault_pair() { # TIER_MIB BACKING_MIB
	make_pair "$1" "$2"
	DISK=$DIR/disk${#DISKS[@]}
	mkdir "$DISK"
	"$FAULTDISK" "$BACKING" "$DISK" || fail "cannot mount the disk"
	DISKS+=("$DISK")
	BACKING=$DISK/disk
}
disk() { echo "$*" >"$DISK/ctl"; }
disk_stat() { awk -v name="$1" '$1 == name { print $2 }' "$DISK/stat"; }
disk_has() { [ "$(disk_stat "$1")" -ge "$2" ]; } # COUNTER AT_LEAST
blank_tier() { # a new tier file instead of the one there was
	local bytes
	bytes=$(stat -c %s "$TIER")
	rm -f "$TIER"
	truncate -s "$bytes" "$TIER"
}
# Of the pair: both devices, holes and all.
sums() { b2sum <"$TIER" && b2sum <"$BACKING"; }

is_mounted() { awk -v m="${1:-$MNT}" '$2 == m { found = 1 } END { exit !found }' /proc/self/mounts; }
# The process that serves a mount: told by its arguments, both of which are private paths.
daemon_pid() {
	local file
	{ grep -lzxF -- "${1:-$MNT}" /proc/[0-9]*/cmdline || :; } 2>/dev/null | while read -r file; do
		! grep -qz -- "^--pmem=$FAST/" "$file" 2>/dev/null || basename "${file%/cmdline}"
	done
}
wait_gone() { # PID SECONDS: a zombie is gone
	local i state
	for ((i = 0; i < $2 * 20; i++)); do
		state=$(awk '$1 == "State:" { print $2 }' "/proc/$1/status" 2>/dev/null) || :
		case $state in '' | Z | X) return 0 ;; esac
		sleep 0.05
	done
	return 1
}

# What the last mount command printed is in $DIR/said. Files, not pipes: the daemon may keep them.
try_mount() {
	# shellcheck disable=SC2086 # several options
	"$VEMSFUSE" --assume-persistent --pmem="$TIER" --backing="$BACKING" $VEMS_E2E_OPTIONS "$@" "$MNT" \
		>"$DIR/said" 2>&1 </dev/null
}
# shellcheck disable=SC2120
mount_fs() { # [OPTION...]
	try_mount "$@" || fail "cannot mount: $(cat "$DIR/said")"
	is_mounted || fail "vemsfuse returned 0 and nothing is mounted"
	PID=$(daemon_pid)
	[[ $PID =~ ^[0-9]+$ ]] || fail "one process should serve the mount, found: '${PID//$'\n'/ }'"
}
said() { grep -Eiq -- "$1" "$DIR/said" || fail "vemsfuse should say /$1/, said: $(cat "$DIR/said")"; }
not_said() { ! grep -Eiq -- "$1" "$DIR/said" || fail "vemsfuse should not say /$1/, said: $(cat "$DIR/said")"; }

# refuse PATTERN [OPTION...]: the mount is refused with a reason, and nothing is changed.
refuse() {
	local pattern=$1 before
	shift
	before=$(sums)
	! try_mount "$@" || fail "should have been refused: $pattern"
	! is_mounted || fail "refused, but mounted: $pattern"
	said "$pattern"
	[ "$(sums)" = "$before" ] || fail "refused, but a device was changed: $pattern"
}

# A process that has just left the mount may still hold it for a moment.
unmount() { # DIRECTORY
	local i
	for i in 1 2 3 4 5; do
		fusermount3 -u "$1" && return
		sleep 0.3
	done
	fail "cannot unmount $1"
}
unmount_fs() {
	unmount "$MNT"
	wait_gone "$PID" 60 || fail "the daemon is still there a minute after the unmount"
}
remount() { unmount_fs && mount_fs; }

kill9() { # the daemon dies, the dead mount is cleared
	kill -9 "$PID"
	wait_gone "$PID" 20 || fail "cannot kill the daemon"
	fusermount3 -uz "$MNT"
}

# until_true SECONDS COMMAND...: it succeeds in time.
until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.05
	done
}

# ---- looking at it -------------------------------------------------------------------------------

counter() { "$VEMSCTL" stats --json "$MNT" | jq -er ".$1"; }
sync_fs() { "$VEMSCTL" sync "$MNT"; }
fsck_fs() { "$FSCK" --pmem="$TIER" --backing="$BACKING" >"$DIR/fsck" 2>&1 || fail "fsck: $(tail -n 20 "$DIR/fsck")"; }
# Anonymous memory of the daemon in KiB: the mapped tier does not count.
daemon_kib() { awk '$1 == "RssAnon:" { print $2 }' "/proc/$PID/status"; }

random_file() { head -c "$2M" /dev/urandom >"$1"; } # PATH MIB
same() { cmp -- "$1" "$2" || fail "$1 and $2 differ"; }
same_large() { dd if="$2" bs=1M status=none | cmp -- "$1" - || fail "$1 and $2 differ"; } # cmp(1) reads 4 KiB at a time
equal() { [ "$1" = "$2" ] || fail "${3:-values}: expected '$2', found '$1'"; }

# ---- start ---------------------------------------------------------------------------------------

[ -x "$VEMSFUSE" ] || fail "$VEMSFUSE is not built"
need fusermount3 jq
[ -e /dev/fuse ] || skip "there is no /dev/fuse (modprobe fuse)"
[[ -r /dev/fuse && -w /dev/fuse ]] || skip "/dev/fuse is not open to this user (root: chmod 666 /dev/fuse)"
DIR=$(mktemp -d "${TMPDIR:-/var/tmp}/vems-e2e.XXXXXX")
FAST=$(mktemp -d /dev/shm/vems-e2e.XXXXXX)
chmod 755 "$DIR" "$FAST" # other users may look in
