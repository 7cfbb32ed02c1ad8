#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# git clone and git fsck of real repositories, much larger than the tier.
. "$(dirname "$0")/lib.sh"
need git

export HOME=$DIR GIT_AUTHOR_NAME=e2e GIT_AUTHOR_EMAIL=e2e@localhost GIT_COMMITTER_NAME=e2e GIT_COMMITTER_EMAIL=e2e@localhost
git config --global safe.directory '*' # the tests may run as another user than the checkout's
git config --global init.defaultBranch main
git config --global gc.auto 0

make_repository() { # 20 commits, 2000 files, 120 MiB that do not compress
	local i
	git init -q "$1"
	for i in $(seq 20); do
		mkdir "$1/dir$i"
		(cd "$1/dir$i" && head -c 6M /dev/urandom | split -b 64K -a 3)
		(cd "$1" && git add . && git commit -q -m "commit $i")
	done
}

clone() { # SOURCE NAME
	git clone -q --no-hardlinks "$1" "$MNT/$2"
	git -C "$MNT/$2" fsck --full --strict --no-progress 2>"$DIR/git.log" || fail "git fsck: $(cat "$DIR/git.log")"
	equal "$(git -C "$MNT/$2" rev-parse HEAD)" "$(git -C "$1" rev-parse HEAD)" HEAD
	equal "$(git -C "$MNT/$2" status --porcelain)" '' "git status"
}

make_pair 32 1024
mount_fs
step "a generated repository"
make_repository "$DIR/large"
clone "$DIR/large" large
if git -C "$TOP" rev-parse --git-dir >/dev/null 2>&1; then
	step "the project's own"
	git clone -q --bare --no-hardlinks "$TOP" "$DIR/own" # a shallow checkout is cloned through its transport
	clone "$DIR/own" own
fi

step "work on it: branch, change, commit, repack"
(
	cd "$MNT/large"
	git checkout -q -b work HEAD~5
	git rm -q -r dir3
	git commit -q -m "remove a directory"
	git merge -q -m merge main
	git repack -q -a -d
	git fsck --full --no-progress
)
remount
git -C "$MNT/large" fsck --full --no-progress
equal "$(git -C "$MNT/large" status --porcelain)" '' "git status after a remount"
unmount_fs
fsck_fs
