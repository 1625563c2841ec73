# shellcheck shell=bash
# Starts kmsfs serve on a scratch home with two accounts. Source it, call serve_start, and serve_stop in the end.
#
# Afterwards ENDPOINT is the URL, and KMS_AK, KMS_SK, KMS_AK2, KMS_SK2, KMS_ACCT2 are the administrators' credentials.
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
KMSFS_BIN=${KMSFS_BIN:-$REPO/target/release/kmsfs}
SERVE_PID='' SERVE_WORK=''

serve_stop() {
  [ -z "$SERVE_PID" ] || { kill "$SERVE_PID" 2> /dev/null; wait "$SERVE_PID" 2> /dev/null; }
  SERVE_PID=
  [ -z "$SERVE_WORK" ] || rm -rf "$SERVE_WORK"
  SERVE_WORK=
}

# access_key ACCOUNT: prints the id and the secret of a new access key of the account's administrator.
access_key() {
  "$KMSFS_BIN" --json iam create-access-key --account "$1" |
    python3 -c 'import json, sys; k = json.load(sys.stdin)["AccessKey"]; print(k["AccessKeyId"], k["SecretAccessKey"])'
}

serve_start() { # [serve options]
  [ -x "$KMSFS_BIN" ] || { echo "there is no $KMSFS_BIN; build it with: cargo build --release" >&2; return 2; }
  SERVE_WORK=$(mktemp -d "${TMPDIR:-/tmp}/kmsfs-serve.XXXXXX") || return 2
  export KMSFS_HOME=$SERVE_WORK/home
  unset KMSFS_KMS_ENDPOINT AWS_PROFILE AWS_SESSION_TOKEN AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
  "$KMSFS_BIN" init --keyfile --account 111122223333 > /dev/null 2>&1 || return 2
  read -r KMS_AK KMS_SK < <(access_key 111122223333) || return 2
  read -r KMS_AK2 KMS_SK2 < <(access_key 444455556666) || return 2
  KMS_ACCT2=444455556666
  export KMS_AK KMS_SK KMS_AK2 KMS_SK2 KMS_ACCT2
  "$KMSFS_BIN" --json serve --listen 127.0.0.1:0 "$@" > "$SERVE_WORK/out" 2> "$SERVE_WORK/log" &
  SERVE_PID=$!
  local _
  for _ in $(seq 300); do
    ENDPOINT=$(sed -n 's/.*"endpoint":"\([^"]*\)".*/\1/p' "$SERVE_WORK/out")
    [ -z "$ENDPOINT" ] || { export ENDPOINT; return 0; }
    kill -0 "$SERVE_PID" 2> /dev/null || break
    sleep 0.1
  done
  echo "kmsfs serve did not start:" >&2
  cat "$SERVE_WORK/log" >&2
  return 2
}
