# kmsfs with requests through io_uring, which root's mount makes the kernel offer.
. "${BASH_SOURCE[0]%/*}/kmsfs.sh"
sys_title()     { echo "kmsfs --transport=uring"; }
sys_available() { command -v "$BIN" >/dev/null && [ -w /sys/module/fuse/parameters/enable_uring ] || { echo "no $BIN, or no FUSE over io_uring" >&2; return 1; }; }
sys_mount()     { KMSFS_HOME=$STATE/kms "$BIN" mount --daemon -o allow_other,transport=uring "$1" "$2"; }
