#!/bin/bash
# packaging.sh: the mount helper of mount(8) with the options of /etc/fstab, remounts, installation, and the systemd units.
# Needs root. The helper is installed for the time of the test, in place of none: /sbin/mount.kmsfs must not be there
# already, or be this one. Environment: KMSFS_BIN, SUITE_WORK.
set -u
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$HERE/../.." && pwd)
export KMSFS_BIN=${KMSFS_BIN:-$REPO/target/release/kmsfs}
[ "$(id -u)" = 0 ] || { echo "packaging: needs root" >&2; exit 2; }
WORK=$(mktemp -d "${SUITE_WORK:-${TMPDIR:-/tmp}}/kmsfs-packaging.XXXXXX") || exit 2
C=$WORK/cipher M=$WORK/plain
mkdir -p "$C" "$M"
OUT=$WORK/out
. "$HERE/../cases.sh"
HELPERS=(/sbin/mount.kmsfs /sbin/mount.fuse.kmsfs)
placed=()
cleanup() {
  mountpoint -q "$M" && umount "$M"
  [ ${#placed[@]} = 0 ] || rm -f "${placed[@]}"
  if [ $failed = 0 ]; then rm -rf "$WORK"; else echo "left for inspection: $WORK"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM
has() { # OPTION TEXT: of the mount
  if findmnt -no OPTIONS "$M" | tr , '\n' | grep -qx "$1"; then pass "$2"; else fail "$2: $(findmnt -no OPTIONS "$M")"; fi
}

for helper in "${HELPERS[@]}"; do
  if [ -e "$helper" ] && ! cmp -s "$helper" "$REPO/packaging/mount.kmsfs"; then
    echo "packaging: $helper is another one; uninstall it first" >&2
    exit 2
  fi
  [ -e "$helper" ] || { install -m 755 "$REPO/packaging/mount.kmsfs" "$helper" && placed+=("$helper"); }
done
echo 'correct horse battery' > "$WORK/pass"
chmod 600 "$WORK/pass"
expect 0 "a volume whose key manager has a passphrase" env KMSFS_HOME="$WORK/kms" "$KMSFS_BIN" init --passphrase-file "$WORK/pass" "$C"
OPTIONS=kms-home=$WORK/kms,passphrase-file=$WORK/pass
unset KMSFS_HOME
# A line of /etc/fstab as mount(8) takes it, with what is for others than kmsfs.
printf '%s %s kmsfs noauto,nofail,user,x-systemd.automount,_netdev,noatime,nosuid,allow_other,%s 0 0\n' "$C" "$M" "$OPTIONS" > "$WORK/fstab"
expect 0 "mount of a line of fstab" mount -T "$WORK/fstab" "$M"
expect 0 "is a mount" mountpoint -q "$M"
[ "$(findmnt -no FSTYPE "$M")" = fuse.kmsfs ] && pass "of type fuse.kmsfs" || fail "type $(findmnt -no FSTYPE "$M")"
[ "$(findmnt -no SOURCE "$M")" = "$C" ] && pass "its source is the ciphertext directory" || fail "source $(findmnt -no SOURCE "$M")"
has nosuid "nosuid is there"
has allow_other "allow_other is there"
expect 0 "write" sh -c "echo content > '$M/file'"
expect 0 "remount,ro" mount -o remount,ro "$M"
has ro "it is read-only"
expect 1 "a write is refused" sh -c "LC_ALL=C touch '$M/new' 2>&1 | tee /dev/stderr | grep -q 'Read-only' && exit 1"
expect 0 "a read is not" grep -q content "$M/file"
expect 0 "remount,rw" mount -o remount,rw "$M"
has rw "it is writable again"
expect 0 "a write works again" sh -c "echo more >> '$M/file'"
expect 0 "umount" umount "$M"
# The daemon may still be writing when umount(8) returns: the helper waits for its lock as `kmsfs mount` does.
for _ in $(seq 50); do KMSFS_HOME=$WORK/kms "$KMSFS_BIN" --json info "$C" | grep -q '"in_use_by": null' && break; sleep 0.1; done
expect 0 "mount -t kmsfs -o ro" mount -t kmsfs -o "ro,$OPTIONS" "$C" "$M"
has ro "it is read-only"
expect 0 "umount" umount "$M"
expect 0 "mount -t fuse.kmsfs" mount -t fuse.kmsfs -o "$OPTIONS" "$C" "$M"
expect 0 "umount" umount "$M"
for _ in $(seq 50); do KMSFS_HOME=$WORK/kms "$KMSFS_BIN" --json info "$C" | grep -q '"in_use_by": null' && break; sleep 0.1; done
expect 32 "an option that nobody knows is refused" mount -t kmsfs -o "no-such-option,$OPTIONS" "$C" "$M"
grep -q no-such-option "$WORK/out" && pass "by its name" || fail "the option is not named"
expect 32 "a missing passphrase file is refused" mount -t kmsfs -o "kms-home=$WORK/kms,passphrase-file=$WORK/none" "$C" "$M"
expect 0 "a dry run mounts nothing" mount -f -t kmsfs -o "$OPTIONS" "$C" "$M"
expect 32 "nothing is mounted" mountpoint -q "$M"

expect 0 "install.sh" env DESTDIR="$WORK/root" PREFIX=/usr "$REPO/packaging/install.sh"
for file in usr/bin/kmsfs sbin/mount.kmsfs sbin/mount.fuse.kmsfs usr/lib/systemd/system/kmsfs@.service usr/share/man/man1/kmsfs.1 \
  usr/share/bash-completion/completions/kmsfs; do
  [ -s "$WORK/root/$file" ] && pass "installs $file" || fail "$file is not installed"
done
if command -v systemd-analyze > /dev/null; then
  mkdir "$WORK/units"
  for unit in "$REPO"/packaging/systemd/*; do
    # The programs that a unit names must be there.
    sed "s#/usr/local/bin/kmsfs#$KMSFS_BIN#" "$unit" > "$WORK/units/$(basename "$unit" | sed 's/@\.service$/@volume.service/')"
  done
  expect 0 "systemd takes the units" systemd-analyze verify --man=no --recursive-errors=no "$WORK"/units/*
  [ ! -s "$WORK/out" ] && pass "without a word" || fail "systemd has something to say"
else
  echo "skipped systemd-analyze is not installed"
fi
expect 0 "install.sh --uninstall" env DESTDIR="$WORK/root" PREFIX=/usr "$REPO/packaging/install.sh" --uninstall
[ -z "$(find "$WORK/root" ! -type d)" ] && pass "leaves nothing behind" || fail "left: $(find "$WORK/root" ! -type d | tr '\n' ' ')"
cases_end
