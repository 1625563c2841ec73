#!/bin/bash
# rings.sh: the other suites once more, with requests through io_uring (-o transport=uring), in a short form, and what
# survives of a killed daemon (ROUNDS=20) and of a power cut (CUTS=1). Skipped where
# the kernel has no FUSE over io_uring (before 6.14). As root the mount lets the kernel offer it.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
PARAMETER=/sys/module/fuse/parameters/enable_uring
[ -e "$PARAMETER" ] || modprobe fuse 2> /dev/null
[ -w "$PARAMETER" ] || { echo "skipped: no $PARAMETER, or not root: this kernel has no FUSE over io_uring"; echo "cases: 0 passed, 0 failed"; exit 0; }
before=$(cat "$PARAMETER")
work=$(mktemp -d "${SUITE_WORK:-/tmp}/rings.XXXXXX") || exit
trap 'echo "$before" > "$PARAMETER"; "$K" umount "$work/mnt" > /dev/null 2>&1; rm -rf "$work"' EXIT
# A mount turns it on itself, and off again.
echo N > "$PARAMETER"
rc=0

OUT=$work/out
. "$here/../cases.sh"
K=$(realpath "${KMSFS_BIN:-$here/../../target/release/kmsfs}")
export KMSFS_HOME=$work/home
mkdir "$work/cipher" "$work/mnt"
# The threads of the mount that serve a ring, or (work) what takes longer, with the CPUs that each may use.
ring_threads() { grep -l "^kmsfs-${1:-ring}" /proc/"$pid"/task/*/comm 2> /dev/null | sed 's/comm$/status/' | xargs -r grep -h Cpus_allowed_list | cut -f2; }
mounted() { pid=$(pgrep -n -f "mount --daemon.* $work/cipher"); }
expect 0 "a volume" "$K" init --keyfile "$work/cipher"
expect 0 "mount" "$K" mount --daemon -o transport=uring "$work/cipher" "$work/mnt"
mounted
[ "$(ring_threads | wc -l)" -ge "$(nproc)" ] && pass "root's mount takes rings" || fail "no thread serves a ring"
[ "$(cat "$PARAMETER")" = N ] && pass "and leaves the machine's setting as it was" || fail "$PARAMETER stays $(cat "$PARAMETER")"
for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of="$work/mnt/$i" bs=1M count=8 oflag=direct status=none & done
wait
[ "$(nproc)" = 1 ] || { [ "$(ring_threads work | sort -u)" = "$(awk '/Cpus_allowed_list/ {print $2}' /proc/self/status)" ] \
  && pass "what takes longer is served on every CPU" || fail "threads are bound to a CPU: $(ring_threads work | tr '\n' ' ')"; }
[ "$(nproc)" = 1 ] || { [ "$(ring_threads | sort -u | wc -l)" -ge "$(nproc)" ] \
  && pass "a queue's thread stays on the queue's CPU" || fail "threads of queues: $(ring_threads | tr '\n' ' ')"; }
expect 0 "umount" "$K" umount "$work/mnt"
for offered in N Y; do
  echo $offered > "$PARAMETER"
  expect 0 "mount where the setting is $offered, nothing asked" "$K" mount --daemon "$work/cipher" "$work/mnt"
  mounted
  [ "$(ring_threads | wc -l)" -gt 0 ] && taken=Y || taken=N
  [ $taken = $offered ] && pass "takes what is offered" || fail "rings are taken: $taken"
  expect 0 "umount" "$K" umount "$work/mnt"
done
echo N > "$PARAMETER"
# With too few descriptors for all rings the mount takes none of them, or fails.
: > "$OUT"
fell_back=0
for limit in $(seq 16 2 40); do
  ( ulimit -n "$limit"; exec timeout 20 "$K" mount --daemon -o transport=uring --log-file "$work/log" "$work/cipher" "$work/mnt" ) 2> "$OUT"
  [ $? != 124 ] || { fail "a mount with $limit descriptors hangs"; break; }
  mountpoint -q "$work/mnt" || continue
  timeout 10 ls "$work/mnt" > "$OUT" 2>&1
  [ $? != 124 ] || { fail "a mount with $limit descriptors answers nothing"; mounted; kill -KILL "$pid"; break; }
  mounted
  [ "$(ring_threads | wc -l)" = 0 ] && fell_back=$limit
  "$K" umount "$work/mnt" > /dev/null 2>&1 || fail "a mount with $limit descriptors does not end"
done
[ $fell_back != 0 ] && pass "a mount that cannot have all rings takes none (with $fell_back descriptors)" || fail "no mount was without rings"
[ "$(cat "$PARAMETER")" = N ] && pass "and leaves the machine's setting as it was" || fail "$PARAMETER stays $(cat "$PARAMETER")"
cases_end || rc=1

unset KMSFS_HOME
export KMSFS_TRANSPORT=uring
"$here/probe.sh" kmsfs || rc=1
if command -v pjdfstest > /dev/null; then "$here/pjdfstest.sh" kmsfs || rc=1; fi
if command -v fsx > /dev/null; then N=${N:-5000} SEEDS=${SEEDS:-1} "$here/fsx.sh" kmsfs || rc=1; fi
CASES=${CASES:-60} "$here/model.sh" kmsfs || rc=1
ROUNDS=${ROUNDS:-20} "$here/killed.sh" || rc=1
if command -v mkfs.ext4 > /dev/null; then
  ROUNDS=${CUTS:-1} "$here/../torture/torture.py" kmsfs kill9_overwrite torn_overwrite torn_append power_replace kill9_namespace || rc=1
fi
exit $rc
