#!/bin/bash
# pjdfstest.sh FS: POSIX semantics, 398 cases, about 10 s. Needs root; the erofs_* cases remount through the mount
# helper packaging/mount.kmsfs, which the script installs as /sbin/mount.fuse.kmsfs for its own run when none is there.
. "$(dirname "$0")/lib.sh"
need pjdfstest "cargo install --locked pjdfstest (and apt: libacl1-dev acl), or run scripts/test.sh"
getent group tests >/dev/null || groupadd tests
id tests >/dev/null 2>&1 || useradd -M -g tests -s /usr/sbin/nologin tests

HELPER=
suite_mount "$@"
SEC=$W/second
mkdir -p "$M/t" "$SEC"
chmod 777 "$M" "$M/t"
mountpoint -q "$SEC" || mount -t tmpfs -o size=200m,mode=1777 tmpfs "$SEC"    # a second file system, for EXDEV
finish() {
  umount "$SEC" 2>/dev/null
  [ -z "$HELPER" ] || rm -f "$HELPER"
  suite_cleanup
}
trap finish EXIT
if [ "$FS" = kmsfs ] && [ ! -e /sbin/mount.fuse.kmsfs ]; then
  HELPER=/sbin/mount.fuse.kmsfs
  install -m 755 "$REPO/packaging/mount.kmsfs" "$HELPER"
fi

# The erofs_* cases remount read-only, which no file system allows while a file is open for writing. An earlier case of
# the suite leaks such a descriptor (on tmpfs as well), so they run in a process of their own, and the others after it.
run() { timeout 590 pjdfstest -c "$HERE/pjdfstest.toml" -s "$SEC" -p "$M/t" "$@" 2>&1; }
rows() { # LOG: one row per case
  grep -aE '^[a-z0-9_]+::' "$1" | awk '{ print $1 "\t" ($NF == "ok" ? "ok" : $NF == "skipped" ? "skip" : "fail") "\t" }'
}
run erofs > "$LOG/erofs.log"
run > "$LOG/pjdfstest.log"
{ rows "$LOG/erofs.log"; rows "$LOG/pjdfstest.log" | grep -v '::erofs_'; } > "$RESULTS"
for log in erofs pjdfstest; do
  grep -aq '^Summary' "$LOG/$log.log" || result "$log: run to the end" fail "see $LOG/$log.log"
done
umount "$SEC"
[ -z "$HELPER" ] || rm -f "$HELPER"
suite_finish
