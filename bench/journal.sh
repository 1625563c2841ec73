#!/usr/bin/env bash
# journal.sh ROUNDS KMSFS...: transactions of SQLite on ext4 with a journal, on it alone and by each of these programs in turns, as root. A
# line for each: microseconds a transaction in the rounds, their median, and how often the journal was committed and the disk flushed
# in a transaction. DIR (default /tmp, on a real disk) is where the image of the filesystem is made, of 1 GB.
set -euo pipefail
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi
rounds=$1 each=500
shift
work=$(mktemp -d "${DIR:-/tmp}/kmsfs-journal.XXXXXX")
# A home of its own for each: an earlier program does not open that of a later one.
in_home() { export KMSFS_HOME=$work/kms-$1; }
mounted=
down() { "$mounted" umount "$work/mnt" > /dev/null; while [ -e "/proc/$daemon" ]; do sleep 0.01; done; mounted=; }
end() {
  [ -z "$mounted" ] || down || umount -l "$work/mnt"
  ! mountpoint -q "$work/disk" || umount "$work/disk"
  rm -rf --one-file-system "$work"
}
trap end EXIT
mkdir "$work/disk" "$work/mnt"
truncate -s 1G "$work/image"
mkfs.ext4 -q -F "$work/image"
mount -o loop "$work/image" "$work/disk"
device=$(findmnt -no SOURCE "$work/disk")
device=${device#/dev/}
counts() { echo "$(sed -n '1s/ .*//p' "/proc/fs/jbd2/$device-8/info") $(awk -v device="$device" '$3 == device { print $19 }' /proc/diskstats)"; }
# transactions DATABASE COUNT: as SQLite makes them by itself: with a rollback journal, all flushed. Says how long each took.
transactions() {
  python3 - "$@" << 'PYTHON'
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("create table t(id integer primary key, a text, b blob)")
count, began = int(sys.argv[2]), time.monotonic()
for i in range(count):
    db.execute("begin")
    db.execute("insert into t values(?, ?, ?)", (i, f"row {i}", b"x" * 200))
    db.execute("commit")
print(round((time.monotonic() - began) / count * 1e6))
PYTHON
}

declare -A times commits flushes
measure() { # SYSTEM DIRECTORY
  local before after
  rm -f "$2"/*.db
  transactions "$2/warm.db" 50 > /dev/null
  sync -f "$work/disk"
  before=$(counts)
  times[$1]+=" $(transactions "$2/measured.db" $each)"
  after=$(counts)
  commits[$1]=$((${commits[$1]:-0} + ${after% *} - ${before% *}))
  flushes[$1]=$((${flushes[$1]:-0} + ${after#* } - ${before#* }))
}
number=0
for program; do
  mkdir "$work/disk/$number"
  in_home $number
  "$program" init --keyfile "$work/disk/$number" > /dev/null 2>&1
  number=$((number + 1))
done
mkdir "$work/disk/plain"
for ((round = 0; round < rounds; round++)); do
  measure ext4 "$work/disk/plain"
  number=0
  for program; do
    in_home $number
    "$program" mount --daemon "$work/disk/$number" "$work/mnt" > /dev/null 2>&1
    mounted=$program daemon=$(sed -n 's/^pid=//p' "$work/disk/$number/.kmsfs/lock")
    measure "$number" "$work/mnt"
    down
    number=$((number + 1))
  done
done
show() { # SYSTEM NAME
  local median
  median=$(tr ' ' '\n' <<< "${times[$1]# }" | sort -n | sed -n "$(((rounds + 1) / 2))p")
  awk -v name="$2" -v median="$median" -v n=$((rounds * each)) -v commits="${commits[$1]}" -v flushes="${flushes[$1]}" -v all="${times[$1]}" '
    BEGIN { printf "%-30s median %5d us, %.1f commits, %.1f flushes:%s\n", name, median, commits / n, flushes / n, all }'
}
show ext4 "ext4 alone"
number=0
for program; do
  show $number "$program"
  number=$((number + 1))
done
