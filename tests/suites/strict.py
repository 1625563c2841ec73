#!/usr/bin/env python3
"""Programs that use files of a mount with key-state=strict while strict.sh takes their key away.

strict.py write FILE NOTES   writes and fsyncs block after block; notes what is durable, and every error
strict.py map FILE NOTES     writes through a shared mapping, without msync; notes what was written
strict.py check FILE NOTES   compares FILE with what `write` or `map` noted
"""
import errno
import mmap
import os
import sys
import time

BLOCK = 4096


def note(notes, text):
    os.write(notes, (text + "\n").encode())


def block(number):
    return number.to_bytes(8, "little") * (BLOCK // 8)


def write(path, notes):
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    number = 0
    while True:
        try:
            os.pwrite(file, block(number + 1), number * BLOCK)
            os.fsync(file)
            assert os.pread(file, 8, number * BLOCK) == block(number + 1)[:8]
            number += 1
            note(notes, f"durable {number} {time.time()}")
        except OSError as error:
            note(notes, f"error {errno.errorcode[error.errno]} {time.time()}")
            time.sleep(0.05)


def map_(path, notes):
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, BLOCK)
    memory = mmap.mmap(file, BLOCK)
    number = 0
    while True:  # until the mapping fails with SIGBUS
        number += 1
        memory[:8] = number.to_bytes(8, "little")
        note(notes, f"mapped {number} {time.time()}")
        time.sleep(0.001)


def check(path, notes):
    lines = [line.split() for line in open(notes)]
    durable = [int(number) for what, number, *_ in lines if what == "durable"]
    mapped = [int(number) for what, number, *_ in lines if what == "mapped"]
    errors = {name for what, name, *_ in lines if what == "error"}
    assert errors <= {"EACCES"}, errors
    assert durable or mapped
    data = open(path, "rb").read()
    for number in range(1, max(durable, default=0) + 1):
        assert data[(number - 1) * BLOCK:number * BLOCK] == block(number), number
    if mapped:
        found = int.from_bytes(data[:8], "little")
        # The last note may be missing: the signal can come between the two.
        assert found >= mapped[-1], (found, mapped[-1])
    print(f"{len(durable)} durable blocks, {len(mapped)} mapped writes, {sum(what == 'error' for what, *_ in lines)} refusals")


path, notes = sys.argv[2:4]
if sys.argv[1] == "check":
    check(path, notes)
else:
    notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    {"write": write, "map": map_}[sys.argv[1]](path, notes)
