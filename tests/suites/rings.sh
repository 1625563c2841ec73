#!/bin/bash
# rings.sh: the other suites once more, with requests through io_uring (-o transport=uring), in a short form. Skipped where
# the kernel has no FUSE over io_uring (before 6.14). As root the mount lets the kernel offer it; this puts that back.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
PARAMETER=/sys/module/fuse/parameters/enable_uring
[ -e "$PARAMETER" ] || modprobe fuse 2> /dev/null
[ -w "$PARAMETER" ] || { echo "skipped: no $PARAMETER, or not root: this kernel has no FUSE over io_uring"; echo "cases: 0 passed, 0 failed"; exit 0; }
before=$(cat "$PARAMETER")
trap 'echo "$before" > "$PARAMETER"' EXIT
# A mount turns it on itself.
echo N > "$PARAMETER"
export KMSFS_TRANSPORT=uring
rc=0
"$here/probe.sh" kmsfs || rc=1
# Otherwise everything above would have been about /dev/fuse.
if [ "$(cat "$PARAMETER")" = Y ]; then echo "cases: 1 passed, 0 failed"; else echo "FAILED the mount did not turn $PARAMETER on"; echo "cases: 0 passed, 1 failed"; rc=1; fi
if command -v pjdfstest > /dev/null; then "$here/pjdfstest.sh" kmsfs || rc=1; fi
if command -v fsx > /dev/null; then N=${N:-5000} SEEDS=${SEEDS:-1} "$here/fsx.sh" kmsfs || rc=1; fi
CASES=${CASES:-60} "$here/model.sh" kmsfs || rc=1
exit $rc
