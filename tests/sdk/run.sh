#!/usr/bin/env bash
# run.sh [aws|boto3|js|rust]...: round trips of AWS's own clients against kmsfs serve.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../conformance/lib.sh"
. "$here/../cases.sh"
trap serve_stop EXIT
[ $# -gt 0 ] || set -- aws boto3 js rust
serve_start || exit
OUT=$SERVE_WORK/said
export AWS_ACCESS_KEY_ID=$KMS_AK AWS_SECRET_ACCESS_KEY=$KMS_SK AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1 AWS_PAGER=
export AWS_ENDPOINT_URL_KMS=$ENDPOINT AWS_ENDPOINT_URL_STS=$ENDPOINT AWS_EC2_METADATA_DISABLED=true
export AWS_CONFIG_FILE=$SERVE_WORK/none AWS_SHARED_CREDENTIALS_FILE=$SERVE_WORK/none
venv() { # an interpreter with boto3 and the aws CLI in $PY
  PY=${KMS_PY:-$here/../conformance/.venv/bin/python}
  [ -x "$PY" ] || { python3 -m venv "$here/../conformance/.venv" && "$PY" -m pip -q install -r "$here/../conformance/requirements.txt"; } > /dev/null 2>&1
}
for client in "$@"; do
  case $client in
    aws)
      if venv && "$PY" -m awscli --version > /dev/null 2>&1; then check aws env AWS="$PY -m awscli" bash "$here/aws.sh"
      elif command -v aws > /dev/null; then check aws env AWS=aws bash "$here/aws.sh"
      else skipped aws "the aws CLI cannot be installed from PyPI"; fi ;;
    boto3)
      if venv; then check boto3 "$PY" "$here/roundtrip.py"; else skipped boto3 "boto3 cannot be installed from PyPI"; fi ;;
    js)
      if ! command -v npm > /dev/null; then skipped js "npm is not installed (apt-get install npm)"
      elif ! (cd "$here/js" && npm ci --silent --no-audit --no-fund) > "$SERVE_WORK/npm.log" 2>&1; then skipped js "npm ci failed: $(tail -n 1 "$SERVE_WORK/npm.log")"
      else check js node "$here/js/roundtrip.mjs"; fi ;;
    rust)
      target=${CARGO_TARGET_DIR:-$REPO/target}/sdk
      if ! command -v cargo > /dev/null; then skipped rust "cargo is not installed"
      elif ! cargo fetch --locked --manifest-path "$here/rust/Cargo.toml" > "$SERVE_WORK/cargo.log" 2>&1; then skipped rust "the SDK cannot be fetched: $(tail -n 1 "$SERVE_WORK/cargo.log")"
      else check rust cargo run --quiet --locked --manifest-path "$here/rust/Cargo.toml" --target-dir "$target"; fi ;;
    *) echo "unknown client $client" >&2; exit 2 ;;
  esac
done
cases_end
