#!/usr/bin/env bash
# held.sh: a process is stopped while it holds the lock of the audit log: who only looks is not kept from it, others are told whom they wait for
# and go on when it goes on, and no record is lost. Takes half a minute. Environment: KMSFS_BIN, SUITE_WORK.
. "$(dirname "$0")/lib.sh"
volume_suite jq python3
holder=
trap '[ -z "$holder" ] || kill -KILL $holder 2> /dev/null; volume_cleanup' EXIT
records() { "$K" --json audit show --event "$1" | grep -c "\"eventName\":\"$1\""; }

check "init" "$K" init "$C" --keyfile
created=$(records CreateKey)
check "a process is stopped while it holds the log" python3 "$HERE/held.py" "$K" "$KMSFS_HOME"
read -r holder made < <(tail -n 1 "$OUT.data")
began=$SECONDS
check "status" "$K" status
check "status waits once, for two seconds, and no more" [ $((SECONDS - began)) -le 5 ]
"$K" --json key create > "$WORK/created" 2> "$WORK/words" & waiting=$!
sleep 12
check "who waits goes on waiting" kill -0 $waiting
cp "$WORK/words" "$OUT"
said "waiting for .*audit/lock, which process $holder \([^)]*\) has held.*kill -CONT $holder" "and says for whom, and what to do"
kill -CONT "$holder"
holder=
check "it goes on when the other does" wait $waiting
check "its key is there" "$K" key describe "$(jq -r .KeyMetadata.KeyId "$WORK/created")"
check "the log is whole" "$K" audit verify
sleep 1
now=$(records CreateKey)
echo "$now records, $created before, $made keys by processes that were stopped" > "$OUT"
check "every key has its record" [ "$now" = $((created + made + 1)) ]
cases_end
