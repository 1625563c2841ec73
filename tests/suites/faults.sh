#!/usr/bin/env bash
# faults.sh: what surrounds a mount fails: a full disk under dirty pages, a disk that loses some, a ciphertext directory that vanishes, too few descriptors,
# a full disk below the key manager, a quota, files that become immutable while they are dirty, many open files in little memory, no memory at all,
# no more threads. Needs root (tmpfs, limits). The last line is `cases: N passed, N failed`.
# Environment: KMSFS_BIN, SUITE_WORK, MEMORY_MIB (most memory that the daemon may take under load, default 96).
. "$(dirname "$0")/lib.sh"
# What it mounts is nobody else's business.
[ -n "${PRIVATE:-}" ] || exec unshare --mount --propagation private env PRIVATE=1 bash "$0" "$@"
volume_suite python3 jq
mkdir "$C"
trap 'volume_cleanup "$C" "$WORK/keys" "$WORK/disk"' EXIT
mount_it() { "$K" mount --daemon "$@" "$C" "$M" > "$OUT" 2>&1 || { cat "$OUT"; echo "cases: 0 passed, 1 failed"; exit 1; }; }
daemon() { sed -n 's/^pid=//p' "$C/.kmsfs/lock"; }
py() { python3 "$HERE/faults.py" "$@"; }

# A full disk. tmpfs has no room to reserve; the pages of the mount are dirty when it fills.
mount -t tmpfs -o size=24m,mode=700 tmpfs "$C" || exit 2
check "init" "$K" init --keyfile "$C"
mount_it
check "full disk: fsync says so, what was durable is there, and it works again when there is room" py full "$M"
check "full disk: who was told reads what is stored" py truth "$M"
check "full disk: and writes it again when there is room" py truth-after "$M"
check "full disk: what could not be stored is not there for who opens the file later" py lost-pages "$M"
check "full disk: unmount" "$K" umount "$M"
check "full disk: verify finds nothing" "$K" verify "$C"
mount_it
check "full disk: after a new mount everything durable is there" py full-after "$M"
check "full disk: and nothing that was not there before" py lost-pages-after "$M"
check "unmount" "$K" umount "$M"
umount "$C"

# A disk that does not store what it took, and is well again later: a loop device in a tmpfs that is too small for it. Nobody
# fsyncs, so it is the flush of everything before a settling of the freshness record, every 30 seconds, that meets the error;
# the one at the unmount succeeds. With dioread_lock the disk's own notes of where the file lies do not change with what is lost.
DISK=$WORK/disk
mkdir "$DISK"
# Bitmaps and inodes, which lie at the front, have their room.
stored_notes() { dd if="$DISK/image" of="$DISK/image" bs=1M count=10 conv=notrunc status=none; }
# A loop device counts a write of several pages as done of which only the first ones found room, so a flush would succeed that stored nothing: one
# page at a time.
loop_on() { # DIRECTORY OPTIONS
  local disk
  mount -o "loop$2" "$DISK/image" "$1" && disk=$(findmnt -no SOURCE "$1") && echo 4 > "/sys/block/${disk##*/}/queue/max_sectors_kb"
}
mount -t tmpfs -o size=24m,mode=700 tmpfs "$DISK" || exit 2
truncate -s 128m "$DISK/image"
if mkfs.ext4 -q -b 4096 -O ^has_journal -E lazy_itable_init=0,nodiscard "$DISK/image" > "$OUT" 2>&1 && stored_notes && loop_on "$C" ,dioread_lock >> "$OUT" 2>&1; then
  rmdir "$C/lost+found"
  check "lost pages: init" "$K" init --freshness "$C"
  mount_it
  check "lost pages: what is written without fsync is taken" py unstored "$M"
  sleep 33
  mount -o remount,size=300m "$DISK"
  check "lost pages: unmount" "$K" umount "$M"
  echo 3 > /proc/sys/vm/drop_caches
  expect 0 "lost pages: what was lost is not reported as put back" "$K" verify "$C"
  mount_it
  check "lost pages: everything else is there, and what was lost is as old as it is" py unstored-after "$M"
  check "lost pages: unmount" "$K" umount "$M"
  umount "$C"
else
  echo "skipped: lost pages: no loop device with ext4: $(tail -n 1 "$OUT")"
fi
umount "$DISK"

# The same where somebody asks whether it is stored.
mount -t tmpfs -o size=24m,mode=700 tmpfs "$DISK" || exit 2
truncate -s 128m "$DISK/image"
if mkfs.ext4 -q -b 4096 -O ^has_journal -E lazy_itable_init=0,nodiscard "$DISK/image" > "$OUT" 2>&1 && stored_notes && loop_on "$C" "" >> "$OUT" 2>&1; then
  rmdir "$C/lost+found"
  check "failing disk: init" "$K" init "$C"
  mount_it
  check "failing disk: who was told reads what is stored" py truth "$M"
  cat "$OUT"
  mount -o remount,size=300m "$DISK"
  check "failing disk: and writes it again when the disk is well" py truth-after "$M"
  check "failing disk: unmount" "$K" umount "$M"
  check "failing disk: verify finds nothing" "$K" verify "$C"
  umount "$C"
else
  echo "skipped: failing disk: no loop device with ext4: $(tail -n 1 "$OUT")"
fi
umount "$DISK"

# The same below a key manager. The root file knows the database that is there, wherever a commit failed and whatever could be read of it.
mount -t tmpfs -o size=24m,mode=700 tmpfs "$DISK" || exit 2
truncate -s 128m "$DISK/image"
mkdir "$WORK/keys"
if mkfs.ext4 -q -b 4096 -O ^has_journal -E lazy_itable_init=0,nodiscard "$DISK/image" > "$OUT" 2>&1 && stored_notes && loop_on "$WORK/keys" ,dioread_lock >> "$OUT" 2>&1; then
  export KMSFS_HOME=$WORK/keys/kms
  check "lost commits: init" "$K" init --keyfile "$WORK/other"
  sync
  dd if=/dev/zero of="$DISK/filler" bs=4096 2> /dev/null
  refused=0
  : > "$WORK/acknowledged"
  for _ in $(seq 60); do
    # Room for a little more, so that it is another write each time that has none.
    truncate -s -8192 "$DISK/filler"
    if "$K" --json key create > "$OUT" 2>&1; then
      grep -o 'arn:aws:kms:[^"]*' "$OUT" | head -n 1 >> "$WORK/acknowledged"
    else
      refused=$((refused + 1))
    fi
  done
  echo "$(wc -l < "$WORK/acknowledged") acknowledged, $refused refused" > "$OUT"
  check "lost commits: some changes fail" [ $refused -gt 0 ]
  rm "$DISK/filler"
  mount -o remount,size=300m "$DISK"
  echo 3 > /proc/sys/vm/drop_caches
  check "lost commits: the key manager works again" "$K" key create
  check "lost commits: the audit log is whole" "$K" audit verify
  lost=0
  while read -r key; do "$K" key describe "$key" > "$OUT" 2>&1 || lost=$((lost + 1)); done < "$WORK/acknowledged"
  # What one process commits behind a commit of its own that failed can still be lost, see ADR 15.
  check "lost commits: every key is there that was acknowledged, but for the last" [ $lost -le 1 ]
  export KMSFS_HOME=$WORK/kms
  umount "$WORK/keys"
else
  echo "skipped: lost commits: no loop device with ext4: $(tail -n 1 "$OUT")"
fi
umount "$DISK"

# The disk of the key manager is full. The record of a volume that has one lies there.
mount -t tmpfs -o size=3m,mode=700 tmpfs "$DISK" || exit 2
export KMSFS_HOME=$DISK/kms
check "full home: init" "$K" init --keyfile --freshness "$WORK/fresh"
check "full home: mount" "$K" mount --daemon "$WORK/fresh" "$M"
check "full home: what cannot be recorded is refused, and what was there is there" py home-full "$M" "$DISK"
cat "$OUT"
expect 14 "full home: no key can be made" "$K" key create
said "No space left on device" "full home: it says why"
said "hint: make room" "full home: and what to do"
expect 14 "full home: no second key manager either" "$K" --kms-home "$DISK/second" init --keyfile "$WORK/second"
said "No space left on device" "full home: it says why, too"
rm "$DISK/filler"
check "full home: it works again when there is room" py home-full-after "$M"
check "full home: a key can be made" "$K" key create
check "full home: unmount" "$K" umount "$M"
check "full home: nothing is reported" "$K" verify "$WORK/fresh"
check "full home: the audit log is whole" "$K" audit verify
rm -rf "$WORK/fresh"
export KMSFS_HOME=$WORK/kms
umount "$DISK"

# A quota. That of btrfs holds for root too, and needs no module.
truncate -s 600m "$WORK/image"
if mkfs.btrfs -q "$WORK/image" > "$OUT" 2>&1 && mount -o loop "$WORK/image" "$DISK" >> "$OUT" 2>&1; then
  if btrfs quota enable "$DISK" >> "$OUT" 2>&1 && btrfs subvolume create "$DISK/limited" >> "$OUT" 2>&1 && btrfs qgroup limit 40M "$DISK/limited" >> "$OUT" 2>&1; then
    check "quota: init" "$K" init --keyfile "$DISK/limited/volume"
    check "quota: mount" "$K" mount --daemon "$DISK/limited/volume" "$M"
    check "quota: fsync says so, and what was durable is there" py quota "$M"
    btrfs filesystem sync "$DISK"
    check "quota: it works again when there is room" py quota-after "$M"
    check "quota: unmount" "$K" umount "$M"
    check "quota: verify finds nothing" "$K" verify "$DISK/limited/volume"
  else
    echo "skipped: quota: $(tail -n 1 "$OUT")"
  fi
  umount "$DISK"
else
  echo "skipped: quota: no loop device with btrfs: $(tail -n 1 "$OUT")"
fi
rm -f "$WORK/image"

# Few descriptors, which is what a hard limit leaves.
check "init" "$K" init --keyfile "$C"
# shellcheck disable=SC2016
check "mount with 96 descriptors" bash -c 'ulimit -Sn 96; ulimit -Hn 96; exec "$0" mount --daemon "$1" "$2"' "$K" "$C" "$M"
check "few descriptors: unmount" "$K" umount "$M"
lacking=0
for limit in $(seq 4 40); do
  # shellcheck disable=SC2016
  if bash -c 'ulimit -Sn $3; ulimit -Hn $3; exec "$0" mount --daemon "$1" "$2"' "$K" "$C" "$M" $limit > "$OUT" 2>&1; then
    "$K" umount "$M" > /dev/null 2>&1
  else
    lacking=$((lacking + 1))
    # With next to none the system's loader gives up, before kmsfs begins.
    if [ $limit -gt 8 ] && { grep -qi damage "$OUT" || ! grep -q "Too many open files" "$OUT" || ! grep -q "ulimit -n" "$OUT"; }; then
      fail "few descriptors: what a mount with $limit says"
      break
    fi
  fi
done
check "few descriptors: a mount that lacks them says so, and what to do" [ $lacking -gt 5 ]
# shellcheck disable=SC2016
check "mount with 96 descriptors" bash -c 'ulimit -Sn 96; ulimit -Hn 96; exec "$0" mount --daemon "$1" "$2"' "$K" "$C" "$M"
check "few descriptors: EMFILE or ENFILE, what is open goes on, and it works again when some are closed" py descriptors "$M"
check "few descriptors: any number of directories, one after the other" py many-directories "$M"
check "few descriptors: unmount" "$K" umount "$M"
check "few descriptors: verify finds nothing" "$K" verify "$C"
# shellcheck disable=SC2016
check "few descriptors: verify with as few finds nothing" bash -c 'ulimit -Sn 96; ulimit -Hn 96; exec "$0" verify "$1"' "$K" "$C"
# shellcheck disable=SC2016
check "few descriptors: salvage with as few loses nothing" bash -c 'ulimit -Sn 96; ulimit -Hn 96; exec "$0" verify --salvage "$2" "$1"' "$K" "$C" "$WORK/salvaged"
check "few descriptors: and has every directory" bash -c 'test "$(find "$1" -type f | wc -l)" -ge 300' - "$WORK/salvaged"
rm -rf "$WORK/salvaged"

# Files that become immutable while they are dirty, where the disk has such files.
touch "$C/probe"
if chattr +i "$C/probe" 2> /dev/null && chattr -i "$C/probe"; then
  rm "$C/probe"
  mount_it
  check "immutable: what was written before is stored, what is written later is refused" py immutable "$M"
  check "immutable: unmount" "$K" umount "$M"
  check "immutable: verify finds nothing" "$K" verify "$C"
  mount_it
  check "immutable: everything is there after a new mount" py immutable-after "$M"
  check "immutable: unmount" "$K" umount "$M"
else
  rm "$C/probe"
fi

# Memory under load.
mount_it
pid=$(daemon)
check "3,000 open files and streams: all is well" py load "$M"
peak=$(sed -n 's/^VmHWM:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/$pid/status")
echo "the daemon took $((peak / 1024)) MiB at most" > "$OUT"
cat "$OUT"
check "memory stayed below ${MEMORY_MIB:-96} MiB" [ "$peak" -lt $((${MEMORY_MIB:-96} * 1024)) ]
echo 3 > /proc/sys/vm/drop_caches
sleep 1
check "no descriptor is left open" bash -c "sleep 2; [ \$(ls /proc/$pid/fd | wc -l) -lt 64 ]"

check "unmount" "$K" umount "$M"

# No more memory.
mount_it
pid=$(daemon)
check "no memory: requests fail, what was durable is there, and it works again when there is some" py memory "$M" "$pid"
check "no memory: the daemon lives" kill -0 "$pid"
check "no memory: unmount" "$K" umount "$M"
check "no memory: verify finds nothing" "$K" verify "$C"
# shellcheck disable=SC2016
check "no memory for threads: a mount that cannot be served is no mount" \
  bash -c 'ulimit -v 500000; "$0" mount --daemon --threads 250 "$1" "$2"; [ $? = 20 ] && ls "$2" && ! mountpoint -q "$2"' "$K" "$C" "$M"
# From too little for the reserve to enough for everything, in steps smaller than a thread: each may be the one that lacks memory.
scarce() {
  local kib rc served=0
  for kib in $(seq 12000 1100 120000); do
    rc=0
    (ulimit -d "$kib"; RUST_BACKTRACE=0 exec timeout 30 "$K" mount --daemon --threads 8 "$C" "$M") || rc=$?
    case $rc in
      0) served=$((served + 1)); "$K" umount "$M" || return 1 ;;
      20) ! mountpoint -q "$M" || return 1 ;;
      *) echo "with $kib KiB: exit code $rc"; return 1 ;;
    esac
  done
  [ "$served" -gt 0 ]
}
check "scarce memory: a mount is served, or says why it is not" scarce

# No more threads: a control group whose processes and threads are counted, by either version of control groups.
pids_group() {
  local base=/sys/fs/cgroup
  if [ -d $base/pids ]; then base=$base/pids
  elif ! grep -qw pids $base/cgroup.controllers 2> /dev/null; then echo "no controller of pids"; return 1
  elif ! echo +pids > $base/cgroup.subtree_control 2> /dev/null; then echo "may not be used here"; return 1
  fi
  mkdir "$base/kmsfs-faults.$$" 2> /dev/null || { echo "none may be made"; return 1; }
  echo "$base/kmsfs-faults.$$"
}
# within N COMMAND...: with N processes and threads at most.
within() {
  local most=$1
  shift
  # shellcheck disable=SC2016
  bash -c 'echo max > "$1/pids.max" && echo $$ > "$1/cgroup.procs" && echo "$2" > "$1/pids.max" && shift 2 && exec "$@"' - "$GROUP" "$most" "$@"
}
AS=()
# few_threads OPTION...: from none to enough, each mount is served or says why not, and is no mount then.
few_threads() {
  local most rc lacking=0
  for most in $(seq 2 60); do
    rc=0
    within "$most" timeout 30 "${AS[@]}" "$K" mount --daemon --threads 4 "$@" "$C" "$M" > "$WORK/few" 2>&1 || rc=$?
    [ $rc != 0 ] || { cat "$WORK/few"; [ $lacking -gt 5 ] && "${AS[@]}" ls "$M"; return; }
    lacking=$((lacking + 1))
    # With so few the command itself cannot begin its daemon; what the one before left may count for a moment longer.
    [ $most -gt 3 ] && ! grep -q "cannot start the daemon" "$WORK/few" || continue
    # 14: it was the key manager's thread.
    { [[ $rc =~ ^(14|20)$ ]] && grep -q "hint: .*TasksMax" "$WORK/few" && ls "$M" && ! grep -qF " $M " /proc/mounts; } || { echo "with $most: exit code $rc"; cat "$WORK/few"; return 1; }
  done
  return 1
}
# few_threads_of_a_user OPTION...: the same for an ordinary user, whose mounts another program makes and takes away.
few_threads_of_a_user() (
  user=$(mktemp -d "${TMPDIR:-/tmp}/kmsfs-user.XXXXXX")
  trap 'umount -l "$user/m" 2> /dev/null; rm -rf --one-file-system "$user"' EXIT
  # shellcheck disable=SC2030
  AS=(setpriv --reuid nobody --regid nogroup --clear-groups env "HOME=$user" "KMSFS_HOME=$user/kms")
  install -m 755 "$K" "$user/kmsfs" && chmod 755 "$user" && install -d -o nobody -g nogroup "$user"/{c,m,kms} || return
  chmod 700 "$user/kms"
  K=$user/kmsfs C=$user/c M=$user/m
  "${AS[@]}" "$K" init --keyfile "$C" > /dev/null 2>&1 && few_threads "$@" && "${AS[@]}" "$K" umount "$M"
)
no_more_threads() { cat "$GROUP/pids.current" > "$GROUP/pids.max"; }
members() { cat "$GROUP/cgroup.procs"; }
# few_for_serve: the same of the endpoint, which is left running.
few_for_serve() {
  local most rc lacking=0 waiting
  # 32 of its threads are for requests that wait.
  for most in 1 2 3 4 5 6 7 8 20 $(seq 34 200); do
    rm -f "$WORK/socket"
    within "$most" "$K" serve --unix "$WORK/socket" > "$WORK/few" 2>&1 &
    waiting=$!
    for _ in $(seq 200); do
      ! grep -q ^Serving "$WORK/few" || { cat "$WORK/few"; [ $lacking -gt 2 ]; return; }
      kill -0 $waiting 2> /dev/null || break
      sleep 0.05
    done
    # Neither served nor ended.
    ! kill -0 $waiting 2> /dev/null || { members | xargs -r kill -9; echo "with $most: it hangs"; cat "$WORK/few"; return 1; }
    rc=0
    wait $waiting || rc=$?
    lacking=$((lacking + 1))
    { [[ $rc =~ ^(1|14)$ ]] && grep -q "hint: .*TasksMax" "$WORK/few"; } || { echo "with $most: exit code $rc"; cat "$WORK/few"; return 1; }
  done
  return 1
}
if GROUP=$(pids_group); then
  check "no threads: a mount is served, or says why it is not and is no mount" few_threads
  no_more_threads
  mkdir "$M/busy"
  check "no threads: a mount that has its own goes on under load without another" py load "$M/busy"
  check "no threads: and is asked for its state" timeout 30 "$K" stats "$M"
  check "no threads: unmount" "$K" umount "$M"
  check "no threads: the same through fuser" few_threads --transport=fuser
  check "no threads: unmount of fuser" "$K" umount "$M"
  # Where /dev/fuse is closed to users, this suite has one of its own.
  if ! setpriv --reuid nobody --regid nogroup --clear-groups test -w /dev/fuse; then
    # shellcheck disable=SC2188
    mknod -m 666 "$WORK/fuse" c 10 229 && (<> "$WORK/fuse") 2> /dev/null && mount --bind "$WORK/fuse" /dev/fuse
  fi
  if setpriv --reuid nobody --regid nogroup --clear-groups test -w /dev/fuse; then
    check "no threads: the same for an ordinary user" few_threads_of_a_user
    check "no threads: the same for an ordinary user through fuser" few_threads_of_a_user --transport=fuser
  else
    echo "skipped: no threads: an ordinary user: /dev/fuse is not open to users here"
  fi
  check "no threads: verify finds nothing" "$K" verify "$C"
  check "no threads: an endpoint is served, or says why it is not" few_for_serve
  no_more_threads
  check "no threads: an endpoint that has its own goes on under load without another" py keys "$WORK/socket"
  # shellcheck disable=SC2016
  check "no threads: and ends on a signal" bash -c 'read -r pid < "$1" && kill "$pid" && timeout 20 tail --pid="$pid" -f /dev/null' - "$GROUP/cgroup.procs"
  members | xargs -r kill -9
  wait
  rmdir "$GROUP"
else
  echo "skipped: no threads: control groups: $GROUP"
fi

# The ciphertext directory vanishes under the mount.
mount_it
pid=$(daemon)
check "vanished: errors, no hang, no wrong data" py vanish "$M" "$C"
check "vanished: the daemon lives" kill -0 "$pid"
check "vanished: unmount" "$K" umount "$M"
cases_end
