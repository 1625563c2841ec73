# shellcheck shell=bash
# Shared by the suites here. There are two kinds.
#
# Suites of any file system begin with `suite_mount "$@"`: a fresh volume of file system $1, mounted through
# ../torture/fsdrv. They write one row per case to $RESULTS (result NAME ok|fail|skip [DETAIL]) and end with
# `suite_finish`, which judges the rows against expected/SUITE-FS.tsv: it exits 0 when every case that did not pass is
# listed as expected, with a reason, and 1 otherwise. A listed case that passes is a warning: take it off the list.
#
# Suites of kmsfs itself begin with `volume_suite [TOOL...]`: a directory $WORK, in which nothing but names is made, the
# binary $K, and the cases of ../cases.sh. They end with `cases_end`.
#
# A line `skipped: WHAT: REASON` tells of a part that could not run; scripts/test.sh collects them.
#
# Environment: KMSFS_BIN (default: target/release/kmsfs of this repository), SUITE_WORK (should lie on a real disk file
# system), TOOLS (where scripts/test.sh put pjdfstest and fsx).
set -u
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$HERE/../.." && pwd)
DRV=$REPO/tests/torture/fsdrv
SUITE=$(basename "$0" .sh)
export KMSFS_BIN=${KMSFS_BIN:-$REPO/target/release/kmsfs}
PATH=${TOOLS:-$REPO/target/tools/bin}:$PATH:/usr/sbin:/sbin
MOUNTED=

die() { echo "$SUITE: $*" >&2; exit 2; }
need() { command -v "$1" >/dev/null || die "needs $1: $2"; }

# volume_suite [TOOL...]: the directories and variables of a suite of kmsfs itself. Works as root and as an ordinary user.
# shellcheck disable=SC2034  # they are used by the suites
volume_suite() {
  local tool
  for tool in "$@"; do need "$tool" "apt-get install $tool"; done
  K=$KMSFS_BIN
  [ -x "$K" ] || die "no binary at $K (cargo build --release)"
  WORK=$(mktemp -d "${SUITE_WORK:-${TMPDIR:-/tmp}}/kmsfs-$SUITE.XXXXXX") || exit 2
  export KMSFS_HOME=$WORK/kms
  unset KMSFS_CONFIG KMSFS_KMS_ENDPOINT
  C=$WORK/cipher M=$WORK/plain OUT=$WORK/out
  mkdir "$M"
  . "$HERE/../cases.sh"
  trap volume_cleanup EXIT
  trap 'exit 130' INT TERM
}
# volume_cleanup [MOUNTPOINT...]: unmounts $M and these, and removes $WORK if no case failed.
volume_cleanup() {
  local m
  for m in "$M" "$@"; do
    ! mountpoint -q "$m" 2> /dev/null || "$K" umount "$m" > /dev/null 2>&1 || umount "$m" 2> /dev/null || fusermount3 -uz "$m"
  done
  if [ "$failed" = 0 ]; then rm -rf --one-file-system "$WORK"; else echo "left for inspection: $WORK"; fi
}

suite_cleanup() {
  [ -z "$MOUNTED" ] || "$DRV" "$FS" umount "$M" || true
  MOUNTED=
  rm -rf "$B"
}

# shellcheck disable=SC2034  # they are used by the suites
suite_mount() {
  FS=${1:?usage: $0 FS (ext4, kmsfs, gocryptfs, encfs, securefs, securefs-lite, cryfs)}
  W=${SUITE_WORK:-/tmp/kmsfs-suites}/$FS-$SUITE
  B=$W/cipher; M=$W/mnt; LOG=$W/logs; RESULTS=$LOG/results.tsv
  export FSDRV_STATE=$W/state
  [ "$(id -u)" = 0 ] || die "needs root (users, device nodes, remount)"
  ! mountpoint -q "$M" 2>/dev/null || "$DRV" "$FS" umount "$M"
  rm -rf "$B" "$LOG" "$FSDRV_STATE"
  mkdir -p "$B" "$M" "$LOG"
  chmod 755 "$W" "$W/.." 2>/dev/null
  : > "$RESULTS"
  trap suite_cleanup EXIT
  trap 'exit 130' INT TERM
  "$DRV" "$FS" init "$B" || die "cannot make a volume of $FS"
  ALLOW_OTHER=1 DEVSUID=1 "$DRV" "$FS" mount "$B" "$M" || die "cannot mount $FS"
  MOUNTED=1
  chmod 755 "$M"
}

result() { printf '%s\t%s\t%s\n' "$1" "$2" "${3:-}" >> "$RESULTS"; }

# Prints what matters, then "cases: N passed, N failed" (an expected miss counts as neither). The exit code says whether
# anything unexpected failed; a run without any case is a failure too.
suite_finish() {
  local rc=0 listed=$HERE/expected/$SUITE-$FS.tsv
  [ -f "$listed" ] || listed=/dev/null
  awk -F '\t' -v fs="$FS" -v suite="$SUITE" '
    FNR == NR && FILENAME != ARGV[2] { if ($0 !~ /^#/ && NF >= 2) why[$1] = $2; next }
    { total++ }
    $2 == "ok" { passed++; if ($1 in why) print "WARNING  passes now, take it off the list: " $1; next }
    $1 in why { expected++; print "expected " $1 "  [" $2 " " $3 "]  " why[$1]; next }
    $2 == "skip" { skipped++; print "skipped: " $1 ": " $3; next }
    { failed++; print "FAILED   " $1 "  " $3 }
    END {
      printf "%s %s: %d of %d ok, %d expected misses, %d skipped\n", fs, suite, passed, total, expected, skipped
      printf "cases: %d passed, %d failed\n", passed, failed
      exit !(total > 0 && failed == 0)
    }' "$listed" "$RESULTS" || rc=1
  trap - EXIT
  suite_cleanup
  exit $rc
}
