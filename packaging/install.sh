#!/bin/sh
# install.sh [--uninstall]: installs a built kmsfs under PREFIX (default /usr/local): binary, mount helper, man pages,
# shell completions, systemd units. DESTDIR is put before every path, for packagers.
#
# The mount helpers always go to /sbin, the only place where mount(8) looks for them.
set -eu
repo=$(cd "$(dirname "$0")/.." && pwd)
prefix=${PREFIX:-/usr/local}
dest=${DESTDIR:-}
bin=${KMSFS_BIN:-${CARGO_TARGET_DIR:-$repo/target}/release/kmsfs}
units=$prefix/lib/systemd/system
[ "$prefix" = /usr/local ] && units=/etc/systemd/system

if [ "${1:-}" = --uninstall ]; then
  rm -f "$dest$prefix/bin/kmsfs" "$dest/sbin/mount.kmsfs" "$dest/sbin/mount.fuse.kmsfs" "$dest$units/kmsfs@.service" "$dest$units/kmsfs-serve.service" \
    "$dest$prefix/share/man/man1"/kmsfs*.1 "$dest$prefix/share/bash-completion/completions/kmsfs" \
    "$dest$prefix/share/zsh/site-functions/_kmsfs" "$dest$prefix/share/fish/vendor_completions.d/kmsfs.fish"
  echo "removed; volumes and the key manager's home are untouched"
  exit 0
fi
[ $# = 0 ] || { echo "usage: $0 [--uninstall]" >&2; exit 2; }
[ -x "$bin" ] || { echo "$0: no binary at $bin: cargo build --release, or set KMSFS_BIN" >&2; exit 1; }

install -D -m 755 "$bin" "$dest$prefix/bin/kmsfs"
install -D -m 755 "$repo/packaging/mount.kmsfs" "$dest/sbin/mount.kmsfs"
ln -sf mount.kmsfs "$dest/sbin/mount.fuse.kmsfs"
for unit in kmsfs@.service kmsfs-serve.service; do
  install -D -m 644 "$repo/packaging/systemd/$unit" "$dest$units/$unit"
done

man=$dest$prefix/share/man/man1
mkdir -p "$man"
"$bin" man --dir "$man" > /dev/null
completion() { # SHELL FILE
  mkdir -p "$(dirname "$dest$prefix/share/$2")"
  "$bin" completions "$1" > "$dest$prefix/share/$2"
}
completion bash bash-completion/completions/kmsfs
completion zsh zsh/site-functions/_kmsfs
completion fish fish/vendor_completions.d/kmsfs.fish
echo "installed in $dest$prefix; mount helpers in $dest/sbin; units in $dest$units"
