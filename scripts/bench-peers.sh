#!/usr/bin/env bash
# bench-peers.sh: compare encrypting filesystems on one machine.
#
#   bench-peers.sh [--quick] [--only NAME[,NAME...]] [--json OUT] [more options: --help]
#
# Every system is a small drop-in in bench/systems/NAME.sh (see the README there), every workload a function in
# bench/peerbench.py. This wrapper finds the binary and fixes locale and umask, so that two runs are comparable.
# Needs fio and root (to drop the page cache); peers that are not installed are left out, and said so.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export LC_ALL=C.UTF-8 TZ=UTC
export KMSFS_BIN=${KMSFS_BIN:-$(release_binary)}
umask 022
ulimit -n 65536 2> /dev/null || true   # CryFS and rclone keep many files open
for tool in fio python3 git; do command -v $tool > /dev/null || die "needs $tool"; done
exec python3 "$REPO/bench/peerbench.py" "$@"
