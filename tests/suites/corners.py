#!/usr/bin/env python3
"""corners.py DIR: corners of POSIX that kmsfs once had wrong, in a directory of any filesystem; ext4 passes all of them but that of labels.

A line a case, `ok` or `FAILED`; the exit status is 1 if one failed. As an ordinary user only the cases that need no privilege run.
"""
import ctypes
import errno
import mmap
import os
import stat
import sys
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
NOREPLACE, WHITEOUT = 1, 4
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
CASES = []


def case(text, root=False):
    def note(function):
        if not root or os.getuid() == 0:
            CASES.append((text, function))
        return function
    return note


def errno_of(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "none"


def rename(old, new, flags):
    if LIBC.renameat2(-100, old.encode(), -100, new.encode(), flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def filled(name, mode=0o644):
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    os.write(fd, b"x" * 100_000)
    return fd


@case("a symlink that was removed is read through a descriptor")
def _():
    for target in ("target", "t" * 3000):
        os.symlink(target, "link")
        fd = os.open("link", os.O_PATH | os.O_NOFOLLOW)
        os.unlink("link")
        assert os.readlink("", dir_fd=fd) == target
        os.close(fd)


@case("attributes without a name of their own", root=True)
def _():
    os.close(filled("bare"))
    for name in ("user.", "trusted.", "security."):
        assert errno_of(os.setxattr, "bare", name, b"v") == "EINVAL", name
        assert errno_of(os.getxattr, "bare", name) == "EINVAL", name
        assert errno_of(os.removexattr, "bare", name) == "EINVAL", name


@case("SELinux's labels, where the kernel has no SELinux", root=True)
def _():
    label, nobody_labels = "security.selinux", not os.path.exists("/sys/fs/selinux/enforce")
    os.close(filled("labelled"))
    # What makes ls(1) ask once and not for each file.
    assert errno_of(os.getxattr, "labelled", label) == ("ENOTSUP" if nobody_labels else "ENODATA")
    assert errno_of(os.getxattr, "labelled", "security.other") == "ENODATA"
    if nobody_labels:
        os.setxattr("labelled", label, b"kept\0")
        assert os.getxattr("labelled", label) == b"kept\0" and os.listxattr("labelled") == [label]
        os.removexattr("labelled", label)


@case("a handle of a removed file opens no other one that has its number", root=True)
def _():
    class Handle(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]

    mount = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    for attempt in range(100):
        os.close(filled("removed"))
        handle, mount_id = Handle(128), ctypes.c_int()
        assert LIBC.name_to_handle_at(mount, b"removed", ctypes.byref(handle), ctypes.byref(mount_id), 0) == 0
        fd = LIBC.open_by_handle_at(mount, ctypes.byref(handle), os.O_RDONLY)
        assert fd >= 0, "while it is there it opens"
        os.close(fd)
        number = os.stat("removed").st_ino
        os.unlink("removed")
        os.close(filled("another"))
        again = os.stat("another").st_ino == number
        fd = LIBC.open_by_handle_at(mount, ctypes.byref(handle), os.O_WRONLY)
        assert fd == -1 and ctypes.get_errno() == errno.ESTALE, "it opened another file"
        os.unlink("another")
        if again:
            break
    os.close(mount)


@case("a whiteout is left only by a rename that takes place", root=True)
def _():
    os.close(filled("old"))
    os.close(filled("taken"))
    assert errno_of(rename, "old", "taken", NOREPLACE | WHITEOUT) == "EEXIST"
    assert stat.S_ISREG(os.stat("old").st_mode)
    rename("old", "new", NOREPLACE | WHITEOUT)
    left = os.lstat("old")
    assert stat.S_ISCHR(left.st_mode) and left.st_rdev == 0
    assert os.stat("new").st_size == 100_000


@case("a capability that is set before what was written is stored", root=True)
def _():
    for store in (os.fsync, lambda _: os.sync(), lambda _: None):
        fd = filled("program", 0o755)
        os.setxattr(fd, "security.capability", CAPABILITY)
        store(fd)
        os.close(fd)
        assert os.getxattr("program", "security.capability") == CAPABILITY
        with open("program", "ab") as again:
            again.write(b"x")
        assert errno_of(os.getxattr, "program", "security.capability") == "ENODATA", "who writes takes it away"
        os.unlink("program")
    fd = filled("mapped", 0o755)
    with mmap.mmap(fd, 100_000) as memory:
        memory[:4] = b"abcd"
        os.setxattr(fd, "security.capability", CAPABILITY)
    os.close(fd)
    assert os.getxattr("mapped", "security.capability") == CAPABILITY


@case("setuid and setgid that are set before what was written is stored")
def _():
    for mode in (0o4755, 0o2755, 0o6711):
        for store in (os.fsync, lambda _: os.sync(), lambda _: None):
            fd = filled("program", 0o755)
            os.fchmod(fd, mode)
            store(fd)
            assert stat.S_IMODE(os.fstat(fd).st_mode) == mode
            os.close(fd)
            assert stat.S_IMODE(os.stat("program").st_mode) == mode
            os.rename("program", f"{mode:o}")


@case("setuid and setgid that are set before a mapped page is written to")
def _():
    fd = filled("6755", 0o755)
    with mmap.mmap(fd, 4096) as memory:
        os.fchmod(fd, 0o6755)
        memory[:4] = b"abcd"
        memory.flush()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.fsync(fd)
    os.close(fd)
    assert stat.S_IMODE(os.stat("6755").st_mode) == 0o6755


def main():
    os.chdir(sys.argv[1])
    failed = 0
    for text, function in CASES:
        try:
            function()
            print("ok", text)
        except (AssertionError, OSError):
            failed += 1
            print("FAILED", text)
            traceback.print_exc(file=sys.stdout)
    return 1 if failed else 0


sys.exit(main())
