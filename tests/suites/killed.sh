#!/usr/bin/env bash
# killed.sh: the daemon is killed with SIGKILL at random moments under load, ROUNDS=30 times; what was acknowledged is there, and the
# next mount works at once (killed.py). SEED repeats a run. Environment: KMSFS_BIN, SUITE_WORK, KMSFS_INIT_FLAGS.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
K=${KMSFS_BIN:-$here/../../target/release/kmsfs}
[ -x "$K" ] || { echo "killed: no binary at $K (cargo build --release)" >&2; exit 2; }
work=$(mktemp -d "${SUITE_WORK:-${TMPDIR:-/tmp}}/kmsfs-killed.XXXXXX") || exit 2
export KMSFS_HOME=$work/kms
unset KMSFS_CONFIG KMSFS_KMS_ENDPOINT
mkdir "$work/mnt"
failed=1
cleanup() {
  ! mountpoint -q "$work/mnt" || "$K" umount "$work/mnt" > /dev/null 2>&1 || fusermount3 -uz "$work/mnt"
  if [ $failed = 0 ]; then rm -rf --one-file-system "$work"; else echo "left for inspection: $work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM
# shellcheck disable=SC2086
"$K" init --keyfile ${KMSFS_INIT_FLAGS:-} "$work/cipher" > /dev/null || exit
# shellcheck disable=SC2086
python3 "$here/killed.py" "$K" "$work/cipher" "$work/mnt" "${ROUNDS:-30}" ${SEED:-}
failed=$?
exit $failed
