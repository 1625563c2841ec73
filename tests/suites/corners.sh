#!/usr/bin/env bash
# corners.sh: corners.py on a mount by each transport, and what it left once more after a new mount. The last line is
# `cases: N passed, N failed`. Environment: KMSFS_BIN, SUITE_WORK.
. "$(dirname "$0")/lib.sh"
volume_suite python3
check "init" "$K" init --keyfile "$C"
for transport in dev uring fuser; do
  check "$transport: mount" "$K" mount --daemon --transport $transport "$C" "$M"
  check "$transport: corners of POSIX" bash -c "mkdir '$M/$transport' && python3 '$HERE/corners.py' '$M/$transport'"
  check "$transport: unmount" "$K" umount "$M"
  check "$transport: mount" "$K" mount --daemon "$C" "$M"
  for mode in 4755 2755 6711; do
    check "$transport: mode $mode is stored" test "$(stat -c %a "$M/$transport/$mode")" = $mode
  done
  check "$transport: unmount" "$K" umount "$M"
done
check "verify finds nothing" "$K" verify "$C"
cases_end
