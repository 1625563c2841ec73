# shellcheck shell=bash
# Shared by the scripts: installing what is missing and finding the binary. Source it.
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"

say() { printf '%s\n' "$*"; }
die() { printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo > /dev/null; then sudo "$@"; else return 1; fi
}

# apt_need "COMMAND-OR-FILE PACKAGE" ...: installs the packages whose command (or absolute path, globs allowed) is missing.
APT_UPDATED=
apt_need() {
  local pair what missing=()
  for pair in "$@"; do
    what=${pair%% *}
    case $what in
      /*) compgen -G "$what" > /dev/null || missing+=("${pair#* }") ;;
      *) command -v "$what" > /dev/null || missing+=("${pair#* }") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get > /dev/null || { say "missing: ${missing[*]}; there is no apt-get here: install them by hand" >&2; return 1; }
  say "installing: ${missing[*]}"
  if [ -z "$APT_UPDATED" ]; then
    as_root apt-get update -qq || say "apt-get update failed, trying with the lists that are there" >&2
    APT_UPDATED=1
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null ||
    { say "could not install: ${missing[*]} (needs root or sudo)" >&2; return 1; }
}

need_build_tools() {
  apt_need "cc gcc" "/usr/include/stdio.h libc6-dev" || return 1
  if ! command -v cargo > /dev/null; then
    apt_need "curl curl" "/etc/ssl/certs/ca-certificates.crt ca-certificates" || return 1
    say "installing the Rust toolchain with rustup (https://sh.rustup.rs) into ${CARGO_HOME:-~/.cargo}"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal --default-toolchain none --no-modify-path > /dev/null ||
      die "rustup did not install; install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPO/Cargo.toml") or newer by hand: https://rustup.rs"
  fi
}

target_dir() { printf '%s' "${CARGO_TARGET_DIR:-$REPO/target}"; }
build_release() { (cd "$REPO" && cargo build --release --locked "$@"); }
release_binary() { printf '%s/release/kmsfs' "$(target_dir)"; }
