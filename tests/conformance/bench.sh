#!/usr/bin/env bash
# bench.sh [SECONDS]: requests per second of kmsfs serve and of moto_server, one after the other on the same machine.
# Needs wrk. moto comes from PyPI into .venv. SECONDS (default 5) is the length of each measurement.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
command -v wrk > /dev/null || { echo "needs wrk: apt-get install wrk" >&2; exit 2; }
python=${KMS_PY:-$here/.venv/bin/python}
[ -x "$python" ] || { python3 -m venv "$here/.venv" && "$here/.venv/bin/pip" -q install -r "$here/requirements.txt"; } || exit 2
"$python" -c 'import moto.server' 2> /dev/null || "$python" -m pip -q install 'moto[server,kms]' || exit 2
MOTO_PID=
stop() { serve_stop; [ -z "$MOTO_PID" ] || kill "$MOTO_PID" 2> /dev/null; }
trap stop EXIT
serve_start || exit
echo "kmsfs serve: $KMSFS_BIN"
"$python" "$here/bench.py" "$ENDPOINT" "${1:-5}" || exit
echo "moto_server $("$python" -c 'import moto; print(moto.__version__)')"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$python" -m moto.server -H 127.0.0.1 -p "$port" > /dev/null 2>&1 &
MOTO_PID=$!
for _ in $(seq 100); do curl -s -o /dev/null "http://127.0.0.1:$port/" && break; sleep 0.2; done
"$python" "$here/bench.py" "http://127.0.0.1:$port" "${1:-5}"
