#!/usr/bin/env bash
# interrupted.sh: SIGINT and SIGTERM in the middle of rewrap, of a volume that is mounted and of one that is not, and of verify: the
# job ends with status 130 and says how to go on, nothing is harmed, and the same command does the rest. What is far enough to be
# interrupted is seen by its progress, JSON lines. A slow key manager (kms_proxy.py) makes every file take its time.
# Works as root and as an ordinary user. Environment: KMSFS_BIN, SUITE_WORK.
. "$(dirname "$0")/lib.sh"
volume_suite jq python3
. "$HERE/../conformance/lib.sh"
. "$HERE/proxy.sh"
finish() {
  volume_cleanup
  proxy_stop
  serve_stop
}
trap finish EXIT
FILES=80
serve_start || exit 2
first=$("$K" --json key create --alias first | jq -r .KeyMetadata.Arn)
second=$("$K" --json key create --alias second | jq -r .KeyMetadata.Arn)
proxy_start "$WORK"
export KMSFS_HOME=$WORK/kms
export AWS_ACCESS_KEY_ID=$KMS_AK AWS_SECRET_ACCESS_KEY=$KMS_SK

check "init" "$K" init --keyfile --key alias/first "$C"
check "mount" "$K" mount --daemon "$C" "$M"
for i in $(seq $FILES); do echo "content of $i" > "$M/f$i"; done
mkdir "$M/sub" && mv "$M"/f1? "$M/sub"
(cd "$M" && find . -type f -exec sha256sum {} +) > "$WORK/sums"
check "unmount" "$K" umount "$M"

same_content() { [ "$(wc -l < "$WORK/sums")" = $FILES ] && (cd "$M" && sha256sum --quiet -c "$WORK/sums"); }
# under KEY: how many files are.
under() {
  find "$C" -path "$C/.kmsfs" -prune -o -type f ! -name '.kmsfs*' -exec "$K" --json info {} \; |
    jq -r '.slots[0].recipients[0].key' | grep -cxF "$1"
}
# start COMMAND...: the job $job at the slow key manager, until it tells of some progress. It says $OUT.data and $OUT.
start() {
  behave slow 0.05
  "$K" --json "$@" > "$OUT.data" 2> "$OUT" < /dev/null &
  job=$!
  for _ in $(seq 300); do
    ! jq -e 'select(.message_type == "progress") | .files > 0' "$OUT" 2> /dev/null | grep -q true || return 0
    kill -0 $job 2> /dev/null || break
    sleep 0.1
  done
  fail "$1 shows no progress before its end"
}
# interrupted TEXT SIGNAL RESUME: the job ends well after the signal, and names the command that resumes it.
interrupted() {
  local rc begun=$SECONDS
  kill -"$2" $job
  wait $job
  rc=$?
  cp "$OUT" "$WORK/said"
  cp "$OUT.data" "$WORK/report"
  if [ $rc = 130 ] && [ $((SECONDS - begun)) -le 5 ]; then pass "$1: SIG$2 ends it with status 130"; else fail "$1: SIG$2 ends it with status $rc after $((SECONDS - begun)) s"; fi
  behave pass
  check "$1: progress is told in JSON lines that go forward" jq -es --arg job "${1%%,*}" --argjson files $FILES '
    map(select(.message_type == "progress"))
    | length > 0 and all(.job == $job and .files <= .total_files and .total_files <= $files and .bytes <= .total_bytes
        and (.bytes_per_second | type) == "number" and has("seconds_left"))
      and ([.[].files] | . == sort)' "$WORK/said"
  check "$1: the last line says how to go on" jq -es --arg hint "resume with: $3" '
    last | .message_type == "error" and .code == "Interrupted" and .exit_code == 130 and .hint == $hint' "$WORK/said"
  check "$1: the report says that a part is left" jq -e '.complete == false and (.findings | length) == 0' "$WORK/report"
}
# rest TEXT BEFORE TO: what a rewrap to TO left, of which it did BEFORE.
rest() {
  local text=$1 done_before=$2 to=$3
  if [ "$done_before" -gt 0 ] && [ "$done_before" -lt $FILES ]; then pass "$text: it was in the middle"; else fail "$text: $done_before of $FILES files were done"; fi
  check "$text: as many files are under the new key as it says" [ "$(under "$to")" = "$done_before" ]
  check "$text: verify finds nothing" "$K" verify "$C"
  check "$text: the same command goes on" "$K" --json rewrap "$C" --to "$to"
  check "$text: with the rest" jq -e --argjson left $((FILES - done_before)) '.complete and .rewrapped == $left' "$OUT.data"
  check "$text: every file is under the new key" [ "$(under "$to")" = $FILES ]
}

to=$second
for signal in INT TERM; do
  text="rewrap, $signal"
  start rewrap "$C" --to "$to"
  interrupted "$text" $signal "kmsfs rewrap $C --to $to"
  check "$text: nobody holds the volume" bash -c "'$K' --json info '$C' | jq -e '.in_use_by == null'"
  check "$text: mount" "$K" mount --daemon "$C" "$M"
  check "$text: every file has its content" same_content
  check "$text: unmount" "$K" umount "$M"
  rest "$text" "$(jq .rewrapped "$WORK/report")" "$to"
  if [ "$to" = "$first" ]; then to=$second; else to=$first; fi
done

check "mount" "$K" mount --daemon "$C" "$M"
text="rewrap, mounted"
start rewrap "$C" --to "$to"
interrupted "$text" INT "kmsfs rewrap $C --to $to"
check "$text: every file has its content" same_content
check "$text: the mount goes on" bash -c "echo more > '$M/more' && sync '$M/more' && rm '$M/more'"
for _ in $(seq 50); do "$K" --json status | jq -e 'all(.mounts[]; .rewrapping | not)' > /dev/null && break; sleep 0.1; done
rest "$text" "$(jq .rewrapped "$WORK/report")" "$to"
check "$text: every file has its content afterwards" same_content
check "unmount" "$K" umount "$M"

for signal in INT TERM; do
  text="verify, $signal"
  start verify "$C" --resume "$WORK/notes"
  interrupted "$text" $signal "kmsfs verify $C --resume $WORK/notes"
  check "$text: it was in the middle" jq -e --argjson files $FILES '.files > 0 and .files < $files' "$WORK/report"
  check "$text: it noted what is sound" test -s "$WORK/notes"
  check "$text: the same command goes on" "$K" --json verify "$C" --resume "$WORK/notes"
  check "$text: with nothing found" jq -e '.complete and (.findings | length) == 0' "$OUT.data"
  check "$text: the notes are gone" test ! -e "$WORK/notes"
done

# A call that gets no answer is waited for, up to its deadline; whoever is in a hurry sends a second signal.
behave hang
"$K" --json verify "$C" > "$OUT.data" 2> "$OUT" < /dev/null &
job=$!
sleep 1
kill -INT $job
sleep 1
check "verify waits for the call under way" kill -0 $job
begun=$SECONDS
kill -INT $job
wait $job
rc=$?
if [ $rc = 130 ] && [ $((SECONDS - begun)) -le 3 ]; then pass "a second signal ends it at once"; else fail "a second signal: status $rc after $((SECONDS - begun)) s"; fi
behave pass
check "and harms nothing" "$K" verify "$C"
cases_end
