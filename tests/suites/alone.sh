#!/usr/bin/env bash
# alone.sh: one caller's requests, one after the other: one thread serves them, where the caller is, and gives its place up when others want the
# CPU or have requests too. Needs root, and two CPUs that have some time for it. Takes half a minute at most. Environment: KMSFS_BIN, SUITE_WORK.
. "$(dirname "$0")/lib.sh"
volume_suite python3
trap 'volume_cleanup' EXIT

if ! python3 "$HERE/alone.py" possible; then
  echo "skipped: alone: no thread may leave the idle class here (CAP_SYS_NICE)"
  cases_end
  exit
fi
check "init" "$K" init "$C" --keyfile
check "mount" "$K" mount --daemon --transport=dev "$C" "$M"
pid=$(sed -n 's/^pid=//p' "$C/.kmsfs/lock")
most=$(awk '/^Max open files/ { print $5 }' "/proc/$pid/limits")
check "its table of descriptors is large from the beginning" \
  test "$(awk '/^FDSize:/ { print $2 }' "/proc/$pid/status")" -ge $((most < 8192 ? most : 8192))
for case in one follows idle busy many; do
  if [ $case = follows ] && ! python3 "$HERE/alone.py" spare; then
    echo "skipped: alone: follows: no CPU is to spare"
    continue
  fi
  check "$(python3 "$HERE/alone.py" name $case)" python3 "$HERE/alone.py" $case "$M" "$pid"
done
check "unmount" "$K" umount "$M"
cases_end
