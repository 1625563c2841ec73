#!/usr/bin/env bash
# killed.sh: the daemon is killed with SIGKILL at random moments under load, ROUNDS=30 times; what was acknowledged is there, and the
# next mount works at once (killed.py). SEED repeats a run. Environment: KMSFS_BIN, SUITE_WORK, KMSFS_INIT_FLAGS, KMSFS_TRANSPORT.
. "$(dirname "$0")/lib.sh"
volume_suite python3
# shellcheck disable=SC2086
"$K" init --keyfile ${KMSFS_INIT_FLAGS:-} "$C" > /dev/null || die "no volume"
# shellcheck disable=SC2086
python3 "$HERE/killed.py" "$K" "$C" "$M" "${ROUNDS:-30}" ${SEED:-}
failed=$?
exit $failed
