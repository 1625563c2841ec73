#!/usr/bin/env bash
# serve.sh [pytest arguments]: kmsfs serve on a scratch home with two accounts, and the suite against it.
# The last line is `cases: N passed, N failed`. Exit status: pytest's.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
trap serve_stop EXIT
serve_start || exit
"$(dirname "$0")/run.sh" "$ENDPOINT" "$@" | tee "$SERVE_WORK/results"
rc=${PIPESTATUS[0]}
sed -n 's/^\([0-9]* passed, [0-9]* failed\).*/cases: \1/p' "$SERVE_WORK/results" | tail -n 1
exit "$rc"
