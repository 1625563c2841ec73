# shellcheck shell=bash
# Cases of a shell suite. Source it, set OUT to a file for what the last command said, and end with `cases_end`.
passed=0 failed=0
pass() { passed=$((passed + 1)); echo "ok      $1"; }
fail() { failed=$((failed + 1)); echo "FAILED  $1"; [ ! -s "$OUT" ] || tail -n 20 "$OUT" | sed 's/^/        /'; }
# expect EXIT-STATUS TEXT COMMAND...
expect() {
  local want=$1 text=$2 rc
  shift 2
  "$@" > "$OUT" 2> "$OUT.err" < /dev/null
  rc=$?
  cat "$OUT.err" >> "$OUT"
  if [ $rc = "$want" ]; then pass "$text"; else fail "$text: exit status $rc, not $want ($*)"; fi
}
# check TEXT COMMAND...: it succeeds
check() { expect 0 "$@"; }
# The last line of the suite, which scripts/test.sh reads; fails if a case did.
cases_end() {
  echo "cases: $passed passed, $failed failed"
  [ "$failed" = 0 ]
}
