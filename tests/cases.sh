# shellcheck shell=bash
# Cases of a shell suite. Source it, set OUT to a file for what the last command said, and end with `cases_end`.
passed=0 failed=0
pass() { passed=$((passed + 1)); echo "ok      $1"; }
fail() { failed=$((failed + 1)); echo "FAILED  $1"; [ ! -s "$OUT" ] || tail -n 20 "$OUT" | sed 's/^/        /'; }
# What a command says is in $OUT, its standard output alone in $OUT.data: afterwards, so that it can read what the last one said.
cases_run() {
  local rc
  "$@" > "$OUT.stdout" 2> "$OUT.stderr" < /dev/null
  rc=$?
  cat "$OUT.stdout" "$OUT.stderr" > "$OUT"
  mv "$OUT.stdout" "$OUT.data"
  return $rc
}
# expect EXIT-STATUS TEXT COMMAND...
expect() {
  local want=$1 text=$2 rc
  shift 2
  cases_run "$@"
  rc=$?
  if [ $rc = "$want" ]; then pass "$text"; else fail "$text: exit status $rc, not $want ($*)"; fi
}
# check TEXT COMMAND...: it succeeds
check() { expect 0 "$@"; }
# fails TEXT COMMAND...: any failure will do, except that the command is not there
fails() {
  local text=$1 rc
  shift
  cases_run "$@"
  rc=$?
  case $rc in
    0) fail "$text: succeeded ($*)" ;;
    126 | 127) fail "$text: the command cannot be run ($*)" ;;
    *) pass "$text" ;;
  esac
}
# said PATTERN TEXT: the last command said it
said() { if grep -qiE -- "$1" "$OUT"; then pass "$2"; else fail "$2: no /$1/ in its output"; fi; }
# unsaid PATTERN TEXT: the last command did not say it
unsaid() { if grep -qiE -- "$1" "$OUT"; then fail "$2: it said /$1/"; else pass "$2"; fi; }
# skipped WHAT REASON: a part that cannot run here
skipped() { echo "skipped: $1: $2"; }
# The last line of the suite, which scripts/test.sh reads; fails if a case did.
cases_end() {
  echo "cases: $passed passed, $failed failed"
  [ "$failed" = 0 ]
}
