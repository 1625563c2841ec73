#!/usr/bin/env bash
# hammer.sh: processes hammer one file at once (hammer.py), for SECONDS_EACH=4 on each transport that is there; then the file is compared
# again after a new mount. The last line is `cases: N passed, N failed`. Environment: KMSFS_BIN, SUITE_WORK, KMSFS_INIT_FLAGS.
. "$(dirname "$0")/lib.sh"
volume_suite python3
# shellcheck disable=SC2086
check "init" "$K" init --keyfile ${KMSFS_INIT_FLAGS:-} "$C"
for transport in dev uring fuser; do
  # Where there are no rings the mount takes the other one.
  check "$transport: mount" "$K" mount --daemon --transport $transport "$C" "$M"
  check "$transport: processes on one file" python3 "$HERE/hammer.py" "$M/file" "${SECONDS_EACH:-4}" ${SEED:-}
  cat "$OUT"
  digest=$(sed -n 's/^digest //p' "$OUT")
  check "$transport: unmount" "$K" umount "$M"
  check "$transport: verify finds nothing" "$K" verify "$C"
  check "$transport: mount" "$K" mount --daemon "$C" "$M"
  check "$transport: it is the same after a new mount" bash -c "echo '$digest  $M/file' | sha256sum -c"
  check "$transport: unmount" "$K" umount "$M"
done
cases_end
