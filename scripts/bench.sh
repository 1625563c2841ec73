#!/usr/bin/env bash
# bench.sh [--quick] [OUT]: every measurement that docs/PERFORMANCE.md shows, into the directory OUT (default ./bench-results).
#
#   OUT/peers.json                      all values of all rounds against the peers, on tmpfs and on the disk
#   OUT/peers-light.svg, -dark.svg      the same as pictures
#   OUT/applications.json               PostgreSQL and cargo on a mount, beside the disk itself
#   OUT/limits-tmpfs.json, -disk.json   kmsfs beside the same mount without encryption, and the filesystem below
#   OUT/ciphers.json                    the ciphers alone
#   OUT/costs.md                        what grows with files, their sizes and time: times, memory, processor time, mounting
#   OUT/verify.md                       verify beside cat of the ciphertext, on the disk, with nothing in memory
#   OUT/freshness.md                    what a freshness record costs, on the disk
#   OUT/latency.md                      how long one small request takes, by where both sides run
#   OUT/report.md                       all of it as tables, with machine and versions
#
# --quick: one short round of each. Otherwise five rounds, an hour or more. Needs root, for cold caches. Installs fio and the
# peers that the distribution has. Environment: ROUNDS, ONLY (systems), DISK_DIR (default OUT).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
quick=
case ${1:-} in
  -h | --help) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --quick) quick=1; shift ;;
esac
[ $# -le 1 ] || die "usage: $0 [--quick] [OUT]"
[ "$(id -u)" = 0 ] || die "needs root, to drop the page cache"
out=$(realpath -m "${1:-bench-results}")
mkdir -p "$out"
disk=$(realpath "${DISK_DIR:-$out}")
need_build_tools || die "the build tools are missing, see above"
apt_need "fio fio" "python3 python3" "git git" "fusermount3 fuse3" || die "tools are missing, see above"
for peer in gocryptfs securefs cryfs encfs; do
  apt_need "$peer $peer" || say "without $peer"
done
build_release
export KMSFS_BIN
KMSFS_BIN=$(release_binary)
if [ -n "$quick" ]; then
  rounds=${ROUNDS:-1}
  peers=(--quick) limits=(--size 64 --files 500 --seconds 1) files=1000 volume=64 operations=200
else
  rounds=${ROUNDS:-5}
  peers=() limits=(--size 512 --files 20000 --seconds 4) files=100000 volume=1024 operations=5000
fi
[ -z "${ONLY:-}" ] || peers+=(--only "$ONLY")

say "== against peers"
rm -f "$out/peers.json"
for round in $(seq 0 $((rounds - 1))); do
  "$REPO/scripts/bench-peers.sh" "${peers[@]}" --backing both --disk-dir "$disk" --rounds 1 --first-round "$round" --merge --json "$out/peers.json" > /dev/null
done
python3 "$REPO/bench/plot.py" "$out/peers.json" "$out/peers"

say "== applications"
rm -f "$out/applications.json"
if apt_need "/usr/lib/postgresql/*/bin/initdb postgresql"; then
  for round in $(seq 0 $((rounds - 1))); do
    "$REPO/scripts/bench-peers.sh" --only plain,kmsfs,kmsfs-uring --workloads pgbench,cargo --backing ext4 --disk-dir "$disk" \
      --no-overhead --rounds 1 --first-round "$round" --merge --json "$out/applications.json" > /dev/null
  done
else
  say "without PostgreSQL"
fi
say "== against the limits"
"$KMSFS_BIN" bench --json --limits --rounds "$rounds" "${limits[@]}" /dev/shm > "$out/limits-tmpfs.json"
"$KMSFS_BIN" bench --json --limits --rounds "$rounds" "${limits[@]}" "$disk" > "$out/limits-disk.json"
"$KMSFS_BIN" speed --json > "$out/ciphers.json"
say "== what grows"
python3 "$REPO/bench/costs.py" "$KMSFS_BIN" /dev/shm "$files" > "$out/costs.md"
say "== verify"
"$REPO/bench/verify.sh" "$KMSFS_BIN" "$disk" "$rounds" "$volume" > "$out/verify.md"
say "== freshness"
python3 "$REPO/bench/freshness.py" "$KMSFS_BIN" "$disk" "$rounds" "$operations" > "$out/freshness.md"
python3 "$REPO/bench/latency.py" "$KMSFS_BIN" /dev/shm "$rounds" > "$out/latency.md"
python3 "$REPO/bench/report.py" "$out" > "$out/report.md"
say "see $out/report.md"
