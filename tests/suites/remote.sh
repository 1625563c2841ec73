#!/usr/bin/env bash
# remote.sh: a volume whose keys another key manager wraps, through kmsfs serve and a mount: everyday use, a key that is disabled, a
# key manager that is killed and comes back, and one that is slow, throttles, fails, hangs or talks nonsense (kms_proxy.py stands
# between both). The last line is `cases: N passed, N failed`.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../conformance/lib.sh"
. "$here/../cases.sh"
. "$here/proxy.sh"
work=$(mktemp -d "${TMPDIR:-/tmp}/kmsfs-remote.XXXXXX")
mkdir "$work/mnt"
OUT=$work/out
finish() {
  mountpoint -q "$work/mnt" && KMSFS_HOME=$work/client "$KMSFS_BIN" umount --lazy "$work/mnt"
  proxy_stop
  serve_stop
  rm -rf --one-file-system "$work"
}
trap finish EXIT
fails_with() { # ERROR COMMAND...: the system's words for the error, in the C locale
  local error=$1
  shift
  ! LC_ALL=C "$@" 2> "$work/error" > /dev/null && { grep -q "$error" "$work/error" || { cat "$work/error"; false; }; }
}

serve_start || exit
server_home=$KMSFS_HOME
key=$(KMSFS_HOME=$server_home "$KMSFS_BIN" --json key create --alias remote | sed -n 's/.*"KeyId": *"\([^"]*\)".*/\1/p' | head -n 1)
proxy_start "$work"
export KMSFS_HOME=$work/client
k() { AWS_ACCESS_KEY_ID=$KMS_AK AWS_SECRET_ACCESS_KEY=$KMS_SK "$KMSFS_BIN" "$@"; }
server_key() { env -u KMSFS_KMS_ENDPOINT KMSFS_HOME="$server_home" "$KMSFS_BIN" key "$1" "$key"; }

check "a volume under a remote key" k init --keyfile --key alias/remote "$work/cipher"
check "its key is the remote one" bash -c "'$KMSFS_BIN' info '$work/cipher' | grep -q '$key'"
check "mount" k mount --daemon --log-file "$work/log" "$work/cipher" "$work/mnt"
check "write and read" bash -c "for i in 1 2 3 4; do echo content \$i > '$work/mnt/f'\$i; done; sync; grep -q 'content 3' '$work/mnt/f3'"
check "rewrap" k rewrap "$work/cipher"
check "commands for local keys refuse to guess" fails_with "local key manager" k key list
check "any operation on the remote key manager" bash -c "AWS_ACCESS_KEY_ID=$KMS_AK AWS_SECRET_ACCESS_KEY=$KMS_SK '$KMSFS_BIN' kms DescribeKey --cli-input-json '{\"KeyId\":\"alias/remote\"}' | grep -q '$key'"
check "unmount" k umount "$work/mnt"
check "without credentials there is no mount" fails_with "credentials" env -u AWS_ACCESS_KEY_ID HOME="$work" "$KMSFS_BIN" mount "$work/cipher" "$work/mnt"
check "mount again" k mount --daemon --log-file "$work/log" "$work/cipher" "$work/mnt"
check "a file's key is fetched" grep -q 'content 1' "$work/mnt/f1"

kill -9 "$SERVE_PID"
wait "$SERVE_PID" 2> /dev/null
check "killed: what was open goes on" grep -q 'content 1' "$work/mnt/f1"
check "killed: a cold open times out" fails_with "Connection timed out" cat "$work/mnt/f2"
check "killed: names are there" test -e "$work/mnt/f3"
env -u KMSFS_KMS_ENDPOINT KMSFS_HOME="$server_home" "$KMSFS_BIN" --json serve --listen "${ENDPOINT#http://}" > "$SERVE_WORK/out" 2> "$SERVE_WORK/log" &
SERVE_PID=$!
for _ in $(seq 100); do grep -q endpoint "$SERVE_WORK/out" && break; sleep 0.1; done
sleep 1.2
check "back again: a cold open works" grep -q 'content 2' "$work/mnt/f2"
check "back again: new files" bash -c "echo new > '$work/mnt/new' && sync && grep -q new '$work/mnt/new'"

# Files that are written and read cold, one for each kind of trouble.
check "files for what follows" bash -c "for i in 1 2 3 4 5 6 7 8 9; do echo content \$i > '$work/mnt/c'\$i; done; sync -f '$work/mnt'"
check "unmount" k umount "$work/mnt"
check "mount" k mount --daemon --log-file "$work/log" "$work/cipher" "$work/mnt"
check "a file that stays open" bash -c "cat '$work/mnt/f1' > /dev/null"
took() { # MIN MAX COMMAND...: seconds
  local min=$1 max=$2 start=$SECONDS
  shift 2
  "$@" && [ $((SECONDS - start)) -ge "$min" ] && [ $((SECONDS - start)) -le "$max" ] || { echo "after $((SECONDS - start)) s"; false; }
}
behave slow 1.5
check "slow: a cold open waits" took 1 5 grep -q 'content 1' "$work/mnt/c1"
behave slow 0.2
check "slow: twenty new files" took 2 30 bash -c "for i in \$(seq 20); do echo new > '$work/mnt/slow'\$i || exit; done; sync -f '$work/mnt'"
behave throttle 3 a
check "throttled three times: a cold open works" took 0 5 grep -q 'content 2' "$work/mnt/c2"
behave throttle 3 b
check "throttled three times: a new file" took 0 5 bash -c "echo new > '$work/mnt/throttled' && sync '$work/mnt/throttled'"
behave error 2
check "two passing failures: a cold open works" took 0 5 grep -q 'content 3' "$work/mnt/c3"
behave throttle 1000
check "throttled without end: a cold open times out" took 0 12 fails_with "Connection timed out" cat "$work/mnt/c4"
check "throttled without end: a new file is refused" took 0 12 fails_with "timed out" dd if=/dev/zero of="$work/mnt/never" bs=1k count=1 conv=fsync
behave garbage
check "nonsense: a cold open fails at once" took 0 3 fails_with "." cat "$work/mnt/c5"
behave close
check "no answer: a cold open times out" took 0 12 fails_with "Connection timed out" cat "$work/mnt/c6"
behave hang
cat "$work/mnt/c7" > /dev/null 2> "$work/hanging" &
hanging=$!
sleep 0.5
check "hanging: what was open goes on" took 0 3 grep -q 'content 1' "$work/mnt/f1"
check "hanging: names and attributes" took 0 3 ls -l "$work/mnt"
check "hanging: a cold open ends" took 5 13 bash -c "while kill -0 $hanging 2> /dev/null; do sleep 0.1; done; grep -q 'timed out' '$work/hanging'"
behave pass
sleep 1.2
check "after all that: every file is there" bash -c "for i in 1 2 3 4 5 6 7 8 9; do grep -q content.\$i '$work/mnt/c'\$i || exit; done; grep -q new '$work/mnt/slow20' '$work/mnt/throttled'"
check "after all that: a new file" bash -c "echo new > '$work/mnt/never' && sync '$work/mnt/never'"
check "the key is disabled" server_key disable
check "disabled: a cold open is denied" fails_with "Permission denied" cat "$work/mnt/f3"
check "disabled: what was open goes on" grep -q 'content 1' "$work/mnt/f1"
check "the key is enabled" server_key enable
check "enabled: it opens" grep -q 'content 3' "$work/mnt/f3"
check "unmount" k umount "$work/mnt"

# key-state=strict: other clients of the key manager take the key away and give it back, under load.
within() { # SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do [ $SECONDS -lt $end ] || { echo "not within the time"; return 1; }; sleep 0.1; done
}
client() { k kms "$1" --cli-input-json "{\"KeyId\": \"$key\"}"; } # an operation by a client on the network
open_file() { dd bs=1 count=1 of=/dev/null <&7; }
no_open_file() { ! LC_ALL=C open_file 2> "$work/error" && grep -q "Permission denied" "$work/error"; }
ended() { case $(ps -o stat= -p "$1") in "" | Z*) ;; *) false ;; esac; }
notes_grow() { [ "$(grep -c durable "$work/notes")" -gt $(($1 + 5)) ]; }
check "strict: mount" k mount --daemon -o key-state=strict --log-file "$work/log" "$work/cipher" "$work/mnt"
head -c 1000000 /dev/zero > "$work/mnt/open"
exec 7< "$work/mnt/open"
python3 "$here/strict.py" write "$work/mnt/written" "$work/notes" &
writer=$!
python3 "$here/strict.py" map "$work/mnt/mapped" "$work/mapped" 2> /dev/null &
mapper=$!
check "strict: programs are at work" within 20 grep -q "durable 20 " "$work/notes"
check "strict: another client disables the key" client DisableKey
check "strict: writes are denied within 10 s" within 10 grep -q "error EACCES" "$work/notes"
check "strict: an open file is denied, whatever the page cache held" within 10 no_open_file
check "strict: the mapping is gone" within 10 ended $mapper
wait $mapper 2> /dev/null
check "strict: a cold open is denied" fails_with "Permission denied" cat "$work/mnt/f2"
behave close
check "strict: the key is enabled while the key manager cannot be reached" server_key enable
sleep 8
check "strict, no answer: that gives nothing back" no_open_file
behave pass
check "strict: within 10 s of an answer the open file works again" within 10 open_file
lines=$(grep -c durable "$work/notes")
check "strict: the writer goes on" within 10 notes_grow "$lines"
behave hang
check "strict: the key is disabled while the key manager hangs" server_key disable
lines=$(grep -c durable "$work/notes")
sleep 8
check "strict, no answer: that takes nothing away" notes_grow "$lines"
check "strict, no answer: what was open goes on" open_file
behave pass
# The call that hangs ends first, after 10 s.
check "strict: it is denied when there are answers again" within 20 no_open_file
check "strict: another client enables the key" client EnableKey
check "strict: within 10 s the open file works again" within 10 open_file
kill $writer
wait $writer 2> /dev/null
check "strict: nothing was lost, and nothing but EACCES was seen" python3 "$here/strict.py" check "$work/mnt/written" "$work/notes"
check "strict: what was written by way of a mapping is there" python3 "$here/strict.py" check "$work/mnt/mapped" "$work/mapped"
exec 7<&-
check "strict: unmount" k umount "$work/mnt"
check "the remote audit log names the caller" bash -c "env -u KMSFS_KMS_ENDPOINT KMSFS_HOME='$server_home' '$KMSFS_BIN' audit show --event Decrypt --json | grep -q user/administrator"
cases_end
