#!/usr/bin/env python3
"""Many files in one directory.

many.py make DIR COUNT    makes the directory and COUNT files, most of them empty, and tells the seconds
many.py check DIR COUNT   lists them exactly, looks some up and reads them, and names that are not there, and lists parts of the directory again
many.py remove DIR COUNT  renames some, removes all, half of them while it lists, and the directory
"""
import os
import random
import sys
import time

# Each of these has content, so a data key and a header.
FULL = 500


def name(number):
    return f"file-{number:06d}"


def content(number):
    return f"content of {number}".encode() if number % FULL == 0 else b""


def make(path, count):
    os.mkdir(path)
    folder = os.open(path, os.O_RDONLY)
    for number in range(count):
        file = os.open(name(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=folder)
        assert os.write(file, content(number)) == len(content(number))
        os.close(file)
    os.fsync(folder)


def check(path, count):
    names = os.listdir(path)
    assert len(names) == count, len(names)
    assert sorted(names) == [name(number) for number in range(count)]
    chosen = random.sample(range(count), 2000) + list(range(0, count, FULL))
    for number in chosen:
        file = os.path.join(path, name(number))
        assert os.stat(file).st_size == len(content(number)), file
        with open(file, "rb") as opened:
            assert opened.read() == content(number), file
    for number in range(count, count + 1000):
        assert not os.path.exists(os.path.join(path, name(number)))
    inodes = {entry.inode() for entry in os.scandir(path)}
    assert len(inodes) == count, len(inodes)


def remove(path, count):
    moved = range(0, count, 100)
    for number in moved:
        os.rename(os.path.join(path, name(number)), os.path.join(path, f"moved-{number}"))
    assert len(os.listdir(path)) == count
    for number in moved:
        os.unlink(os.path.join(path, f"moved-{number}"))
    removed = 0
    with os.scandir(path) as entries:
        # POSIX: what is not removed while it is listed is listed once; what is removed may be listed or not.
        for number, entry in enumerate(entries):
            if number % 2:
                os.unlink(entry.path)
                removed += 1
    rest = os.listdir(path)
    assert len(rest) == count - len(moved) - removed, (len(rest), removed)
    for entry in rest:
        os.unlink(os.path.join(path, entry))
    os.rmdir(path)


begun = time.monotonic()
{"make": make, "check": check, "remove": remove}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
print(f"{time.monotonic() - begun:.1f} s")
