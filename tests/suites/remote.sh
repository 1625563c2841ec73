#!/usr/bin/env bash
# remote.sh: a volume whose keys another key manager wraps, through kmsfs serve and a mount: everyday use, a key that is disabled, and
# a key manager that is killed and comes back. The last line is `cases: N passed, N failed`.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../conformance/lib.sh"
. "$here/../cases.sh"
work=$(mktemp -d "${TMPDIR:-/tmp}/kmsfs-remote.XXXXXX")
mkdir "$work/mnt"
OUT=$work/out
finish() {
  mountpoint -q "$work/mnt" && KMSFS_HOME=$work/client "$KMSFS_BIN" umount --lazy "$work/mnt"
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
export KMSFS_HOME=$work/client KMSFS_KMS_ENDPOINT=$ENDPOINT AWS_REGION=us-east-1
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
check "the key is disabled" server_key disable
check "disabled: a cold open is denied" fails_with "Permission denied" cat "$work/mnt/f3"
check "disabled: what was open goes on" grep -q 'content 1' "$work/mnt/f1"
check "the key is enabled" server_key enable
check "enabled: it opens" grep -q 'content 3' "$work/mnt/f3"
check "unmount" k umount "$work/mnt"
check "the remote audit log names the caller" bash -c "env -u KMSFS_KMS_ENDPOINT KMSFS_HOME='$server_home' '$KMSFS_BIN' audit show --event Decrypt --json | grep -q user/administrator"
cases_end
