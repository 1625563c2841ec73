#!/usr/bin/env bash
# flame.sh OUT [KMSFS]: where the daemon's time goes, as flame graphs: OUT/flame-streams.svg (1 MiB writes with fsync, 1 MiB reads past the
# page cache) and OUT/flame-small.svg (extracting and removing a tree of 1,500 small files), with the folded stacks beside them, and a line for
# each with the shares of what it did. As root; needs perf and `cargo install
# --locked inferno`. KMSFS (default: target/release/kmsfs) needs its symbols, not stripped. DIR (default /dev/shm) is where the volume is made;
# ROUNDS (default 8) is how often a load is repeated.
set -euo pipefail
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then sed -n '2,6s/^# //p' "$0" >&2; exit 2; fi
out=$1 K=${2:-${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/release/kmsfs} rounds=${ROUNDS:-8}
export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
for tool in perf inferno-collapse-perf inferno-flamegraph; do
  command -v $tool > /dev/null || { echo "flame.sh: needs $tool" >&2; exit 2; }
done
mkdir -p "$out"
work=$(mktemp -d "${DIR:-/dev/shm}/kmsfs-flame.XXXXXX")
export KMSFS_HOME=$work/kms
end() { ! mountpoint -q "$work/mnt" || "$K" umount "$work/mnt" > /dev/null || umount -l "$work/mnt"; rm -rf --one-file-system "$work"; }
trap end EXIT
mkdir "$work/mnt" "$work/tree"
"$K" init --keyfile "$work/cipher" > /dev/null 2>&1
"$K" mount --daemon "$work/cipher" "$work/mnt" > /dev/null 2>&1
daemon=$(sed -n 's/^pid=//p' "$work/cipher/.kmsfs/lock")
python3 - "$work/tree" << 'PYTHON'
import os, random, sys
source = random.Random(7)
for i in range(100):
    os.mkdir(f"{sys.argv[1]}/d{i}")
    for k in range(15):
        with open(f"{sys.argv[1]}/d{i}/file{k}.c", "wb") as file:
            file.write(source.randbytes(int(min(50_000, source.lognormvariate(8.3, 1.3)))))
PYTHON
tar -cf "$work/tree.tar" -C "$work" tree

streams() {
  dd if=/dev/zero of="$work/mnt/stream" bs=1M count=128 conv=fsync status=none
  dd if="$work/mnt/stream" of=/dev/null bs=1M iflag=direct status=none
}
small() {
  tar -xf "$work/tree.tar" -C "$work/mnt"
  rm -rf "$work/mnt/tree"
}
# parts FOLDED: percent of the time by what it is for; what is counted in one part is not in a later one.
parts() {
  awk '
    # Two looks at the clock and the counters, where a request is handed out.
    BEGIN { counting = "Statistics::count|Dispatcher<B>::handle;<std::(time|sys::pal::unix::time)::" }
    { all += $NF }
    $0 ~ counting { part["counting for kmsfs stats"] += $NF; next }
    /fuse_dev_do_read/ { part["waiting for requests and taking them"] += $NF; next }
    /fuse_dev_do_write/ { part["answering"] += $NF; next }
    /entry_SYSCALL|do_syscall/ { part["other system calls"] += $NF; next }
    /aes_|aes::|aead|gcm|sha256|hmac/ { part["ciphers and hashes"] += $NF; next }
    { part["the rest"] += $NF }
    END {
      printf "%.1f s of processor time", all / 1e9
      for (name in part) printf "; %s %.2f %%", name, 100 * part[name] / all
      print ""
    }' "$1"
}
picture() { # LOAD TITLE
  local n recorder folded=$out/flame-$1.folded
  "$1" # What is kept is there then.
  perf record -q -e cpu-clock -F 1999 --call-graph dwarf,16384 -p "$daemon" -o "$work/perf.data" > /dev/null 2>&1 &
  recorder=$!
  sleep 1
  for ((n = 0; n < rounds; n++)); do "$1"; done
  kill -INT $recorder
  wait $recorder || true
  # Threads that do the same are one; how a thread begins, and hashes of symbols, say nothing.
  perf script --no-inline -i "$work/perf.data" 2> /dev/null | inferno-collapse-perf 2> /dev/null |
    sed -E 's/^kmsfs-(fuse|ring)-[0-9]+/kmsfs-\1/; s/::h[0-9a-f]{16}//g; s/;clone3;.*__rust_begin_short_backtrace;/;/' | LC_ALL=C sort > "$folded"
  inferno-flamegraph --title "$2" --minwidth 0.3 --deterministic < "$folded" > "$out/flame-$1.svg"
  echo "$1: $(parts "$folded")"
}
picture streams "kmsfs: 128 MiB written and synced, and read with O_DIRECT"
picture small "kmsfs: a tree of 1,500 small files extracted and removed"
