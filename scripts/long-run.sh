#!/usr/bin/env bash
# long-run.sh [MINUTES=60]: stress-ng's filesystem class, dbench and fsx at once on one mount, as root. Samples descriptors and memory
# of the daemon every few seconds, and says at the end whether something failed, leaked, or is damaged. Not part of any test run.
#
# Environment: KMSFS_BIN (default: the release build), SUITE_WORK (default /tmp, on a real disk; needs 6 GB), KMSFS_INIT_FLAGS.
# FSX is the program (default: where scripts/test.sh installs it).
set -uo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0; }
minutes=${1:-60}
[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "MINUTES is a number from 1 on; see --help"
[ "$(id -u)" = 0 ] || die "needs root: many of stress-ng's filesystem stressors do"
bin=${KMSFS_BIN:-$(release_binary)}
[ -x "$bin" ] || die "no binary at $bin (cargo build --release)"
fsx=${FSX:-$(target_dir)/tools/bin/fsx}
[ -x "$fsx" ] || fsx=$(command -v fsx) || die "fsx is not installed: cargo install --locked fsx, or run scripts/test.sh"
for tool in stress-ng dbench; do command -v $tool > /dev/null || die "$tool is not installed"; done

# Those that work on other places than the directory that they are given.
elsewhere="bind-mount binderfs fanotify procfs"
# After so many idle seconds the daemon is as it will stay.
SETTLE=8
work=$(mktemp -d "${SUITE_WORK:-${TMPDIR:-/tmp}}/kmsfs-long.XXXXXX")
export KMSFS_HOME=$work/kms
unset KMSFS_CONFIG KMSFS_KMS_ENDPOINT
mnt=$work/mnt
mkdir "$mnt" "$work/logs"
failed=0 jobs=()
finish() {
  local job
  for job in "${jobs[@]}"; do kill "$job" 2> /dev/null; done
  wait
  ! mountpoint -q "$mnt" || "$bin" umount "$mnt" > /dev/null 2>&1 || fusermount3 -uz "$mnt"
  # stress-ng leaves files that nobody may remove.
  [ "$failed" != 0 ] || chattr -R -f -i "$work" 2> /dev/null
  if [ "$failed" = 0 ]; then rm -rf --one-file-system "$work"; else say "left for inspection: $work"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM
row() { printf '%-34s %s\n' "$1" "$2"; }
bad() { failed=$((failed + 1)); row "$1" "FAILED: $2"; }

# shellcheck disable=SC2086
"$bin" init --keyfile ${KMSFS_INIT_FLAGS:-} "$work/cipher" > /dev/null || die "no volume"
"$bin" mount --daemon -o allow_other --log-file "$work/logs/daemon" "$work/cipher" "$mnt" > /dev/null || die "no mount"
pid=$(sed -n 's/^pid=//p' "$work/cipher/.kmsfs/lock")
mkdir "$mnt/stress" "$mnt/dbench" "$mnt/fsx"
chmod 1777 "$mnt/stress"

field() { sed -n "s/^$1:[[:space:]]*\([0-9]*\).*/\1/p" "/proc/$pid/status"; }
sample() { printf '%d\t%d\t%d\t%d\n' $SECONDS "$(find "/proc/$pid/fd" -mindepth 1 2> /dev/null | wc -l)" "$(field VmRSS)" "$(field Threads)"; }
# Nothing is in use: the kernel forgets inodes, the daemon closes what it kept open.
idle() {
  # Where stress-ng made a file immutable that was still dirty, this tells of it.
  sync -f "$mnt" 2>> "$work/logs/sync"
  echo 3 > /proc/sys/vm/drop_caches
  sleep $SETTLE
  sample
}

# A short run first: caches fill and threads start once.
(cd "$mnt/dbench" && dbench -t 5 -c /usr/share/dbench/client.txt 4) > "$work/logs/warm" 2>&1 || die "dbench fails: $(tail -n 1 "$work/logs/warm")"
read -r _ fds_before rss_before _ < <(idle)

seconds=$((minutes * 60)) end=$((SECONDS + minutes * 60))
count=$(stress-ng --class 'filesystem?' 2>&1 | sed -n "s/^class 'filesystem' stressors: //p" | wc -w)
each=$((seconds / (count - $(wc -w <<< "$elsewhere")) ))
(cd "$mnt/stress" && stress-ng --temp-path "$mnt/stress" --class filesystem --sequential 1 --exclude "${elsewhere// /,}" --verify \
  --timeout "$((each > 0 ? each : 1))" --metrics-brief --hdd-bytes 64M --iomix-bytes 32M --fallocate-bytes 64M --copy-file-bytes 128M) \
  > "$work/logs/stress-ng" 2>&1 &
stress=$!
(cd "$mnt/dbench" && dbench -t "$seconds" -c /usr/share/dbench/client.txt 4) > "$work/logs/dbench" 2>&1 &
dbench=$!
(
  seed=$$ runs=0
  while [ $SECONDS -lt $end ]; do
    seed=$((seed + 1)) runs=$((runs + 1))
    timeout 600 "$fsx" -N 5000 -S $seed -P "$work/logs" "$mnt/fsx/file" > "$work/logs/fsx-$seed" 2>&1 || exit 1
    rm -f "$work/logs/fsx-$seed" "$mnt/fsx/file"
    echo $runs > "$work/logs/fsx-runs"
  done
) &
fsx_job=$!
jobs=("$stress" "$dbench" "$fsx_job")
# While they run.
while kill -0 "${jobs[@]}" 2> /dev/null && [ -d "/proc/$pid" ]; do
  sample >> "$work/logs/samples"
  sleep 5
done
ended() { # NAME JOB WHAT-IT-SAYS
  local rc=0
  wait "$2" || rc=$?
  if [ $rc = 0 ]; then row "$1" "$3"; else bad "$1" "exit status $rc; $work/logs/$1*"; fi
}
ended dbench "$dbench" "$(grep -o 'Throughput [0-9.]* [^ ]*' "$work/logs/dbench" || true)"
ended fsx "$fsx_job" "$(cat "$work/logs/fsx-runs" 2> /dev/null || echo 0) runs of 5000 operations"
ended stress-ng "$stress" "$(grep -c 'stress-ng: metrc:.*[0-9]$' "$work/logs/stress-ng") lines of metrics"
jobs=()
if [ ! -d "/proc/$pid" ]; then
  bad daemon "it is gone"
else
  read -r _ fds_after rss_after _ < <(idle)
  peak=$(field VmHWM)
  # The first quarter is for growing into the load; what grows on is a leak.
  read -r samples fds_most early late < <(awk -v samples="$(wc -l < "$work/logs/samples")" '
    { if ($2 > most) most = $2
      if (NR > samples / 4 && NR <= samples / 2) { early += $3; e++ }
      if (NR > samples * 3 / 4) { late += $3; l++ } }
    END { print samples, most, int(early / (e ? e : 1)), int(late / (l ? l : 1)) }' "$work/logs/samples")
  row "descriptors idle, before and after" "$fds_before, $fds_after (at most $fds_most under load)"
  [ "$fds_after" -le $((fds_before + 16)) ] || bad descriptors "$((fds_after - fds_before)) more than before"
  row "memory idle, before and after" "$((rss_before / 1024)), $((rss_after / 1024)) MiB"
  row "memory, second and last quarter" "$((early / 1024)), $((late / 1024)) MiB on average, at most $((peak / 1024)) MiB ($samples samples)"
  [ "$late" -le $((early + early / 4 + 32 * 1024)) ] || bad memory "it grows"
  if "$bin" umount "$mnt" > "$work/logs/umount" 2>&1; then row umount ok; else bad umount "$(tail -n 1 "$work/logs/umount")"; fi
fi
grep -E ' (ERROR|WARN) |panicked' "$work/logs/daemon" > "$work/logs/warnings" 2> /dev/null
row "warnings in the daemon's log" "$(wc -l < "$work/logs/warnings")"
if "$bin" verify "$work/cipher" > "$work/logs/verify" 2>&1; then row verify "$(tail -n 1 "$work/logs/verify")"
else bad verify "$(tail -n 1 "$work/logs/verify")"; fi
row "minutes" "$minutes"
[ "$failed" = 0 ]
