# shellcheck shell=bash
# Puts kms_proxy.py before the key manager that serve_start (../conformance/lib.sh) has started.
PROXY='' PROXY_DIR=''

# proxy_start DIR: DIR is for its files. From then on clients talk to it: KMSFS_KMS_ENDPOINT, AWS_REGION.
proxy_start() {
  PROXY_DIR=$1
  behave pass
  python3 "$(dirname "${BASH_SOURCE[0]}")/kms_proxy.py" "${ENDPOINT##*:}" "$PROXY_DIR/mode" > "$PROXY_DIR/proxy" &
  PROXY=$!
  local _
  for _ in $(seq 100); do [ ! -s "$PROXY_DIR/proxy" ] || break; sleep 0.1; done
  export KMSFS_KMS_ENDPOINT=http://127.0.0.1:$(cat "$PROXY_DIR/proxy") AWS_REGION=us-east-1
}
proxy_stop() { [ -z "$PROXY" ] || kill "$PROXY" 2> /dev/null; }

# behave MODE...: what it does with requests from now on, see kms_proxy.py.
behave() { echo "$*" > "$PROXY_DIR/mode.new" && mv "$PROXY_DIR/mode.new" "$PROXY_DIR/mode"; }
