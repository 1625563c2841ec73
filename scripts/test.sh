#!/usr/bin/env bash
# test.sh [--quick | --long] [--no-install] [STEP...]: runs all tests, and installs what they need.
#
#   (default)   everything, bounded: about half an hour on two cores
#   --quick     no application suites, fewer operations
#   --long      fsx with 100,000 operations and many seeds, more rounds of everything, longer applications (hours)
#   --no-install   use what is there; steps whose tools are missing are skipped
#   STEP        run only these (a test needs the steps `build` before it)
#
# One line per step; the output of a step is in target/test-logs/STEP.log. The last line is `N passed, N failed`.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
cd "$REPO" || exit 1

# Nothing of the caller's own key manager is touched.
unset KMSFS_HOME KMSFS_CONFIG KMSFS_KMS_ENDPOINT
MODE=normal INSTALL=1 ONLY=()
for a in "$@"; do
  case $a in
    --quick) MODE=quick ;;
    --long) MODE=long ;;
    --no-install) INSTALL= ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) die "unknown option $a; see --help" ;;
    *) ONLY+=("$a") ;;
  esac
done
LOGS=$(target_dir)/test-logs
TOOLS_ROOT=$(target_dir)/tools
export TOOLS=$TOOLS_ROOT/bin
export PATH="$TOOLS:$PATH"
mkdir -p "$LOGS"
PJDFSTEST=0.2.2 FSX=0.3.2

PASSED=0 FAILED=0 SKIPPED=() BROKEN=() PARTS=()
wanted() { local s; [ ${#ONLY[@]} = 0 ] && return 0; for s in "${ONLY[@]}"; do [ "$s" != "$1" ] || return 0; done; return 1; }
# skipped_parts LOG: what suites and tests say that they left out, each once.
skipped_parts() {
  sed -nE 's/^skipped: *//p; s/^[0-9]+ passed, [0-9]+ failed, ([0-9]+) skipped.*/\1 cases/p
    s/^test result: ok\. .* ([1-9][0-9]*) ignored;.*/\1 ignored tests/p' "$1" | awk '!seen[$0]++'
}
# step NAME COMMAND...: counts the cases that the command reports, or itself as one.
step() {
  local name=$1 start=$SECONDS rc p=0 f=0 log part parts
  shift
  wanted "$name" || return 0
  log=$LOGS/$name.log
  "$@" > "$log" 2>&1 < /dev/null
  rc=$?
  # shellcheck disable=SC2046
  set -- $(awk '
    /^test result: / { for (i = 1; i <= NF; i++) { if ($i == "passed;") p += $(i-1); if ($i == "failed;") f += $(i-1) } }
    /^cases: [0-9]+ passed, [0-9]+ failed/ { p += $2; f += $4 }
    END { print p + 0, f + 0 }' "$log")
  p=$1 f=$2
  mapfile -t parts < <(skipped_parts "$log")
  if [ $rc = 0 ]; then
    # Nothing of it ran, and it said so.
    [ $((p + f)) -gt 0 ] || [ ${#parts[@]} -gt 0 ] || p=1
    printf 'ok      %-14s %5d s  %s\n' "$name" $((SECONDS - start)) "$p passed"
  else
    [ "$f" -gt 0 ] || f=1
    BROKEN+=("$name")
    printf 'FAILED  %-14s %5d s  exit status %d, %s\n' "$name" $((SECONDS - start)) $rc "$log"
    { grep -E '^(FAILED|error|test .* FAILED|thread .* panicked)' "$log" | head -n 15; echo ...; tail -n 12 "$log"; } | sed 's/^/        | /'
  fi
  # An ok that left something out says so, here and at the end.
  for part in "${parts[@]}"; do
    PARTS+=("$name: $part")
    printf '        | skipped: %s\n' "$part"
  done
  PASSED=$((PASSED + p)) FAILED=$((FAILED + f))
}
# beside NAME COMMAND...: runs it in what the steps that follow leave of the processors, which is half of them: the compiler's first
# half, and suites that wait. `collect NAME` is its step, and waits for its end.
declare -A BESIDE=()
beside() {
  local name=$1
  shift
  chrt --idle 0 "$@" > "$LOGS/$name-beside.log" 2>&1 < /dev/null &
  BESIDE[$name]=$!
}
collect() {
  local rc
  wait "${BESIDE[$1]}"
  rc=$?
  unset "BESIDE[$1]"
  cat "$LOGS/$1-beside.log"
  return $rc
}
skip() { # NAME REASON
  wanted "$1" || return 0
  SKIPPED+=("$1")
  printf 'SKIPPED %-14s          %s\n' "$1" "$2"
}

# ---- what the tests need ----------------------------------------------------------------------------------------
install_tools() {
  need_build_tools || return 1
  apt_need "fusermount3 fuse3" "jq jq" "python3 python3" "setfacl acl" "setfattr attr" "setcap libcap2-bin" "mkfs.ext4 e2fsprogs" \
    "losetup mount" "findmnt util-linux" "fio fio" || return 1
  # The conformance suite and the clients of the endpoint.
  apt_need "/usr/lib/python3*/ensurepip python3-venv" "npm npm" || true
  # What the POSIX and application suites use. Without them those suites skip or say what is missing.
  apt_need "/usr/include/sys/acl.h libacl1-dev" || true
  # The PKCS#11 token of the tests of custom key stores, which are skipped without it.
  apt_need "softhsm2-util softhsm2" || true
  # A filesystem whose quotas hold for root, for one case of faults.sh.
  apt_need "mkfs.btrfs btrfs-progs" || true
  # Counts the instructions of requests; without it that test is skipped.
  apt_need "valgrind valgrind" || true
  [ "$MODE" = quick ] || apt_need "sqlite3 sqlite3" "git git" "rsync rsync" "dbench dbench" "stress-ng stress-ng" "pgrep procps" \
    "/usr/lib/postgresql/*/bin/initdb postgresql" || true
}
# Licences, banned and duplicate crates, sources; advisories too, where their database can be fetched.
cargo_deny() {
  local manifest checks="licenses bans sources"
  if cargo deny fetch db; then checks="advisories $checks"; else echo "skipped: advisories: their database cannot be fetched"; fi
  for manifest in Cargo.toml fuzz/Cargo.toml; do
    # shellcheck disable=SC2086
    cargo deny --manifest-path "$manifest" --config deny.toml check --hide-inclusion-graph $checks || return 1
  done
}
# A minute in all: libFuzzer from the committed corpus, where it is installed (it needs the nightly toolchain).
fuzz_smoke() {
  local target
  for target in $(cargo +nightly fuzz list); do
    mkdir -p "fuzz/work/$target"
    cargo +nightly fuzz run -s none -O "$target" "fuzz/work/$target" "fuzz/corpus/$target" -- -max_len=8192 -max_total_time="${FUZZ_SECONDS:-5}" || return 1
  done
}
if [ -n "$INSTALL" ]; then
  step tools install_tools
  # Unoptimised: they wait for the filesystem, and compiling them takes longer than anything they do. What is installed stays.
  ! wanted suites || beside suites cargo install --locked --debug --root "$TOOLS_ROOT" --target-dir "$TOOLS_ROOT/build" "pjdfstest@$PJDFSTEST" "fsx@$FSX"
fi

# ---- the code -----------------------------------------------------------------------------------------------------
# One profile for everything, so that the dependencies are built once.
if cargo fmt --version > /dev/null 2>&1; then step fmt cargo fmt --all --check; else skip fmt "rustfmt is not installed (rustup component add rustfmt)"; fi
# With the integration tests: what only tests need turns on features of crates that both need, and alone everything above those would
# be compiled a second time.
step build build_release --bin kmsfs --test integration
if cargo clippy --version > /dev/null 2>&1; then
  step clippy cargo clippy --release --locked --all-targets -- -D warnings
  # The scheduler of the concurrency tests takes the place of every lock.
  [ "$MODE" != long ] || step clippy-shuttle cargo clippy --release --locked --lib --tests --features shuttle -- -D warnings
else
  skip clippy "clippy is not installed (rustup component add clippy)"
fi
if cargo deny --version > /dev/null 2>&1; then
  step deny cargo_deny
else
  skip deny "cargo-deny is not installed (cargo install --locked cargo-deny)"
fi
# The unit tests unoptimised, the crates beneath as above: to optimise them takes minutes, to run them as they are half of one more.
step unit-tests cargo test --release --locked --lib --config profile.release.package.kmsfs.opt-level=0
step integration cargo test --release --locked --test integration
step doc-tests cargo test --release --locked --doc
if [ "$MODE" = long ]; then
  # Power cuts, with what is drawn at random drawn anew: the logs say from which seeds.
  step cuts env PROPTEST_CASES=2000 KMSFS_TEST_CUTS=10 cargo test --release --locked --test integration -- crash::
  step cuts-kms env KMSFS_TEST_CUTS="20:$RANDOM" cargo test --release --locked --lib --config profile.release.package.kmsfs.opt-level=0 -- power_cut
  # Random changes of the corpora, others in each run.
  step mutations env KMSFS_TEST_FUZZ=20 cargo test --release --locked --test integration -- fuzz::mutations
  if cargo +nightly fuzz --version > /dev/null 2>&1; then
    step fuzz fuzz_smoke
  else
    skip fuzz "cargo-fuzz and a nightly toolchain are not installed (see fuzz/README.md)"
  fi
fi

# ---- through real mounts -----------------------------------------------------------------------------------------
KMSFS_BIN=$(release_binary)
export KMSFS_BIN
export SUITE_WORK=${SUITE_WORK:-${TMPDIR:-/tmp}/kmsfs-suites.$$}
mkdir -p "$SUITE_WORK"
trap 'rm -rf --one-file-system "$SUITE_WORK"; [ ${#BESIDE[@]} = 0 ] || kill "${BESIDE[@]}" 2> /dev/null' EXIT
S=tests/suites
no_mount=
[ -x "$KMSFS_BIN" ] || no_mount="no binary at $KMSFS_BIN"
[ -e /dev/fuse ] || no_mount="no /dev/fuse here (modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
command -v fusermount3 > /dev/null || no_mount="fuse3 is not installed"
no_root=$no_mount
[ "$(id -u)" = 0 ] || no_root="needs root: run it with sudo -E, or as root"
[ "$(id -u)" = 0 ] || [ -w /dev/fuse ] || no_mount="you may not open /dev/fuse"
mounted() { # NAME COMMAND...
  if [ -n "$no_mount" ]; then skip "$1" "$no_mount"; else step "$@"; fi
}
root_mounted() { # NAME TOOL COMMAND...
  local name=$1 tool=$2
  shift 2
  if [ -n "$no_root" ]; then skip "$name" "$no_root"
  elif ! command -v "$tool" > /dev/null; then skip "$name" "$tool is not installed"
  else step "$name" "$@"; fi
}
seeds() { # N: numbers from the clock, printed in the log, so that every run looks elsewhere
  local i
  for ((i = 0; i < $1; i++)); do printf '%d ' $((RANDOM * 32768 + RANDOM)); done
}

[ -z "${BESIDE[suites]:-}" ] || step suites collect suites
# The Rust SDK's client takes two minutes to compile.
if [ "$MODE" != quick ] && wanted sdk; then
  beside sdk cargo build --locked --manifest-path tests/sdk/rust/Cargo.toml --target-dir "$(target_dir)/sdk"
fi
# The targets of fuzz/ compile, but for libFuzzer itself, which takes a C++ compiler.
if [ "$MODE" != quick ] && wanted fuzz-targets; then
  beside fuzz-targets env CUSTOM_LIBFUZZER_PATH=/nonexistent/libfuzzer.a \
    cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir "$(target_dir)/fuzz"
fi
# Interleavings of threads: its own build, in which a scheduler takes the place of every lock, as the unit tests are built. The suites
# run meanwhile; the one that asks cargo comes long after it was compiled.
if [ "$MODE" != quick ] && wanted shuttle; then
  times=1
  [ "$MODE" != long ] || times=20
  beside shuttle env KMSFS_TEST_INTERLEAVINGS=$times cargo test --release --locked --lib --features shuttle \
    --config profile.release.package.kmsfs.opt-level=0 shuttle_tests
fi
mounted cli $S/cli.sh
mounted interrupted $S/interrupted.sh
mounted freshness $S/freshness.sh
mounted recovery $S/recovery.sh
mounted strict $S/strict.sh
mounted held $S/held.sh
root_mounted alone python3 $S/alone.sh
root_mounted secrets openssl $S/secrets.py
mounted unprivileged $S/unprivileged.sh
mounted remote $S/remote.sh
case $MODE in
  quick) mounted killed env ROUNDS=10 $S/killed.sh ;;
  normal) mounted killed env ROUNDS=30 $S/killed.sh
    mounted killed-fresh env ROUNDS=20 KMSFS_INIT_FLAGS=--freshness $S/killed.sh
    mounted killed-fuser env ROUNDS=20 KMSFS_TRANSPORT=fuser $S/killed.sh ;;
  long) mounted killed env ROUNDS=500 $S/killed.sh
    mounted killed-fresh env ROUNDS=500 KMSFS_INIT_FLAGS=--freshness $S/killed.sh
    mounted killed-fuser env ROUNDS=200 KMSFS_TRANSPORT=fuser $S/killed.sh ;;
esac
case $MODE in
  long) mounted hammer env SECONDS_EACH=60 $S/hammer.sh ;;
  *) mounted hammer $S/hammer.sh ;;
esac
root_mounted faults python3 $S/faults.sh
root_mounted pjdfstest pjdfstest $S/pjdfstest.sh kmsfs
mounted corners $S/corners.sh
root_mounted packaging mount $S/packaging.sh
root_mounted probe python3 $S/probe.sh kmsfs
root_mounted many python3 $S/many.sh kmsfs
case $MODE in
  quick) root_mounted model cargo env CASES=40 $S/model.sh kmsfs ;;
  normal) root_mounted model cargo env CASES=300 $S/model.sh kmsfs ;;
  long) root_mounted model cargo env CASES=5000 $S/model.sh kmsfs ;;
esac
case $MODE in
  quick) root_mounted fsx fsx env N=3000 SEEDS=1 $S/fsx.sh kmsfs ;;
  normal) root_mounted fsx fsx env N=12000 SEEDS="$(seeds 1)" $S/fsx.sh kmsfs ;;
  long) root_mounted fsx fsx env N=100000 SEEDS="1 2 $(seeds 6)" LIMIT=3600 $S/fsx.sh kmsfs ;;
esac
case $MODE in
  quick) skip rings "left out by --quick" ;;
  normal) root_mounted rings python3 $S/rings.sh ;;
  long) root_mounted rings python3 env N=100000 SEEDS="$(seeds 2)" LIMIT=3600 CASES=2000 ROUNDS=500 CUTS=8 $S/rings.sh ;;
esac
case $MODE in
  quick) skip apps "left out by --quick" ;;
  normal) root_mounted apps python3 $S/apps.sh kmsfs ;;
  long) root_mounted apps python3 env LIMIT=900 DBENCH_SECONDS=60 PG_SECONDS=60 STRESS_SECONDS=10 $S/apps.sh kmsfs ;;
esac
case $MODE in
  quick) skip torture "left out by --quick" ;;
  normal) root_mounted torture mkfs.ext4 env ROUNDS=2 python3 tests/torture/torture.py kmsfs ;;
  long) root_mounted torture mkfs.ext4 env ROUNDS=8 python3 tests/torture/torture.py kmsfs ;;
esac
root_mounted demo-volume losetup scripts/demo-volume.sh

# ---- the key manager's endpoint ---------------------------------------------------------------------------------------
no_python=
[ -x "$KMSFS_BIN" ] || no_python="no binary at $KMSFS_BIN"
if [ -z "$no_python" ] && [ -z "${KMS_PY:-}" ]; then
  venv=tests/conformance/.venv
  if [ -n "$INSTALL" ] && ! [ -x $venv/bin/pytest ]; then
    { python3 -m venv $venv && $venv/bin/pip -q install -r tests/conformance/requirements.txt; } > "$LOGS/venv.log" 2>&1
  fi
  [ -x $venv/bin/pytest ] || no_python="its Python packages are not there and cannot be installed ($LOGS/venv.log)"
fi
if [ -n "$no_python" ]; then skip conformance "$no_python"; else step conformance tests/conformance/serve.sh; fi
if [ "$MODE" = quick ]; then skip sdk "left out by --quick"
elif [ -n "$no_python" ]; then skip sdk "$no_python"
else
  # What failed there fails again, and says why.
  [ -z "${BESIDE[sdk]:-}" ] || collect sdk > /dev/null
  step sdk tests/sdk/run.sh
fi

[ -z "${BESIDE[fuzz-targets]:-}" ] || step fuzz-targets collect fuzz-targets
if [ "$MODE" = quick ]; then skip shuttle "left out by --quick"
elif wanted shuttle; then step shuttle collect shuttle; fi

# ---- the end ------------------------------------------------------------------------------------------------------
[ ${#SKIPPED[@]} = 0 ] || printf 'skipped steps (%d): %s\n' ${#SKIPPED[@]} "${SKIPPED[*]}"
if [ ${#PARTS[@]} -gt 0 ]; then
  printf 'skipped in steps that ran (%d):\n' ${#PARTS[@]}
  printf '  %s\n' "${PARTS[@]}"
fi
[ ${#BROKEN[@]} = 0 ] || printf 'failed steps: %s (logs in %s)\n' "${BROKEN[*]}" "$LOGS"
printf 'time: %d min %02d s\n' $((SECONDS / 60)) $((SECONDS % 60))
printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
[ "$FAILED" = 0 ] && [ ${#BROKEN[@]} = 0 ]
