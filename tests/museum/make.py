#!/usr/bin/env python3
"""Makes the museum's exhibit of one version of kmsfs, through its real binary and a real mount. Needs root.

    python3 tests/museum/make.py [--bin target/release/kmsfs] [--name NAME] [--only VOLUME,...] [--replace]

Writes tests/museum/VERSION/home.tar.gz (key manager), one tar.gz per volume, one recovery bundle, and manifest.json (what
must be found in them). Run it once for each released version, never again for an old one: an exhibit is what that version
wrote. --name: the directory, for what is made between two versions; --only: some of the volumes volume, unordered,
recorded, plain.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
UNIT = 4064
PAGE = 4096
PASSPHRASE = "museum passphrase"


def text(raw):
    """Bytes as a string of the characters 0 to 255, which JSON can hold."""
    return raw.decode("latin-1")


class Maker:
    def __init__(self, binary, work):
        self.binary, self.work = binary, work
        self.home = os.path.join(work, "home")
        self.mnt = os.path.join(work, "mnt").encode()
        self.passphrase = os.path.join(work, "passphrase")
        os.mkdir(self.mnt)
        with open(self.passphrase, "w") as f:
            f.write(PASSPHRASE + "\n")
        self.random = random.Random(1)

    def run(self, *args):
        env = {k: v for k, v in os.environ.items() if not k.startswith("KMSFS_")}
        done = subprocess.run([self.binary, "--json", "--kms-home", self.home, *args], env=env, check=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=self.work)
        return json.loads(done.stdout or b"{}")

    def mount(self, volume):
        # Not --json: the daemon's object would come through the pipe that it holds open.
        subprocess.run([self.binary, "--kms-home", self.home, "mount", "--daemon", volume, self.mnt], check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=self.work)

    def umount(self):
        self.run("umount", os.fsdecode(self.mnt))

    def path(self, name):
        return os.path.join(self.mnt, name if isinstance(name, bytes) else name.encode())

    def write(self, name, content=b"", mode=0o644):
        path = self.path(name)
        with open(path, "wb") as f:
            f.write(content)
        os.chmod(path, mode)
        return path

    def noise(self, length):
        return self.random.randbytes(length)

    def key(self, alias):
        return self.run("key", "create", "--alias", alias)["KeyMetadata"]["Arn"]

    # ---- the objects --------------------------------------------------------------------------------------------
    def sizes(self):
        os.mkdir(self.path("sizes"))
        for size in (0, 1, UNIT - 1, UNIT, UNIT + 1, 4096, 3 * UNIT, 3 * UNIT + 5):
            self.write(f"sizes/{size}", self.noise(size))
        path = self.write("sizes/cut", self.noise(2 * UNIT))
        os.truncate(path, UNIT + 7)
        os.truncate(self.write("sizes/cut to nothing", b"content"), 0)
        os.truncate(self.write("sizes/grown", b"short"), 3 * UNIT)

    def sparse(self):
        os.mkdir(self.path("sparse"))
        with open(self.path("sparse/holes"), "wb") as f:
            for at in (0, 10 * UNIT, 40 * UNIT + 100):
                f.seek(at)
                f.write(b"data")
            f.truncate(100 * UNIT)
        with open(self.path("sparse/beyond 4 GiB"), "wb") as f:
            f.seek(5 << 30)
            f.write(b"far")
        with open(self.path("sparse/reserved"), "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 5 * UNIT)
            f.write(b"first")
        path = self.write("sparse/punched", self.noise(8 * UNIT))
        subprocess.run(["fallocate", "-p", "-o", str(UNIT + 10), "-l", str(4 * UNIT), path], check=True)

    def names(self):
        os.mkdir(self.path("names"))
        for name in (b"a", b" ", b"-n", b"\n", "\u00e4\U0001f600".encode(), bytes(range(1, 47)) + bytes(range(48, 256)),
                     b".kmsfs", b"~Lx", b"n" * 175, b"n" * 176, b"n" * 177, b"n" * 255):
            self.write(b"names/" + name, b"called " + name)
        deep = b"names"
        for level in range(20):
            deep += b"/level %d" % level
            os.mkdir(self.path(deep))
        self.write(deep + b"/bottom", b"deep down")
        os.mkdir(self.path("names/" + "d" * 250))
        self.write("names/" + "d" * 250 + "/" + "f" * 250, b"both long")
        os.mkdir(self.path("names/empty directory"), 0o700)
        os.mkdir(self.path("names/many"))
        for number in range(40):
            self.write(f"names/many/{number}")

    def kinds(self):
        os.mkdir(self.path("kinds"))
        os.symlink("../sizes/1", self.path("kinds/symlink"))
        os.symlink(b"/nowhere/\xff" + b"x" * 3000, self.path("kinds/long symlink"))
        os.mkfifo(self.path("kinds/fifo"), 0o640)
        self.write("kinds/program", b"#!/bin/sh\n", 0o755)
        self.write("kinds/set user id", b"", 0o4711)
        path = self.write("kinds/linked", b"three names")
        os.link(path, self.path("kinds/second name"))
        os.mkdir(self.path("kinds/sub"))
        os.link(path, self.path("kinds/sub/" + "third name " * 20))
        path = self.write("kinds/times", b"old")
        os.utime(path, ns=(1, 981_173_106_123_456_789))

    def attributes(self):
        os.mkdir(self.path("attributes"))
        path = self.write("attributes/file", b"with attributes")
        os.setxattr(path, "user.comment", b"a comment")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, b"user." + b"long " * 30, self.noise(300))
        os.setxattr(self.write("attributes/empty file"), "user.comment", b"on an empty file")
        os.mkdir(self.path("attributes/dir"))
        os.setxattr(self.path("attributes/dir"), "user.comment", b"on a directory")
        subprocess.run(["setfacl", "-m", "u:4242:r", path], check=True)
        subprocess.run(["setfacl", "-d", "-m", "g:4242:rx", self.path("attributes/dir")], check=True)

    def keys(self, volume, first, second):
        """Files under every relation of a header to keys; the volume ends up under the second key."""
        top = os.path.join(self.work, volume)
        os.mkdir(self.path("not rewrapped"))
        self.write("not rewrapped/first material", self.noise(100))
        self.write("rewrapped", self.noise(UNIT + 1))
        held = self.entry(top, "not rewrapped")
        self.run("key", "rotate", first)
        self.write("not rewrapped/second material", self.noise(100))
        self.umount()
        # Comes back as from a backup of the time before the rewrap.
        os.rename(held, os.path.join(self.work, "held"))
        self.run("rewrap", volume, "--from", first, "--to", second)
        os.rename(os.path.join(self.work, "held"), held)
        self.mount(volume)
        self.write("before the rotation", self.noise(100))
        self.run("key", "rotate", second)
        self.write("after the rotation", self.noise(100))
        # Opened and changed under new material, its own wrapped key stays.
        with open(self.path("rewrapped"), "ab") as f:
            f.write(b"appended")

    def entry(self, top, name):
        ino = os.stat(self.path(name)).st_ino
        return next(e.path for e in os.scandir(top) if e.inode() == ino)

    # ---- what is recorded -----------------------------------------------------------------------------------------
    def describe(self, path):
        st = os.lstat(path)
        it = {"mode": stat.S_IMODE(st.st_mode), "mtime": st.st_mtime_ns}
        if stat.S_ISLNK(st.st_mode):
            return it | {"kind": "symlink", "target": text(os.readlink(path))}
        if stat.S_ISFIFO(st.st_mode):
            return it | {"kind": "fifo"}
        attributes = {text(os.fsencode(name)): os.getxattr(path, name).hex() for name in os.listxattr(path)}
        it["xattrs"] = {k: v for k, v in attributes.items() if not k.startswith("security.")}
        if stat.S_ISDIR(st.st_mode):
            return it | {"kind": "directory"}
        it |= {"kind": "file", "size": st.st_size, "nlink": st.st_nlink}
        # Over the pages that hold more than zeros, so that a file of many gigabytes of holes is quick, and what a
        # filesystem reports as a hole makes no difference.
        digest, at = hashlib.sha256(), 0
        with open(path, "rb", buffering=0) as f:
            while at < st.st_size:
                try:
                    at = os.lseek(f.fileno(), at, os.SEEK_DATA) // PAGE * PAGE
                except OSError:
                    break
                page = os.pread(f.fileno(), PAGE, at)
                if page.strip(b"\0"):
                    digest.update(struct.pack("<Q", at) + page)
                at += PAGE
        if st.st_size:
            slots = self.run("info", path)["slots"]
            it["slots"] = [[s["generation"], *(r["key_material_id"] for r in s["recipients"])] for s in slots]
        return it | {"sha256": digest.hexdigest()}

    def tree(self):
        found = {}
        for directory, dirs, files in os.walk(self.mnt):
            for name in dirs + files:
                path = os.path.join(directory, name)
                found[text(os.path.relpath(path, self.mnt))] = self.describe(path)
        return dict(sorted(found.items()))

    def small(self):
        """A little of everything: its units are random numbers, which no archive makes smaller."""
        self.write("one byte", b"1")
        self.write("two units", self.noise(UNIT + 1))
        self.write("empty")
        with open(self.path("hole"), "wb") as f:
            f.truncate(3 * UNIT)
            f.seek(2 * UNIT)
            f.write(b"behind it")
        os.mkdir(self.path("dir"))
        os.link(self.path("one byte"), self.path("dir/linked"))
        os.link(self.path("empty"), self.path("dir/empty too"))
        os.symlink("../one byte", self.path("dir/symlink"))
        os.mkfifo(self.path("fifo"), 0o640)
        path = self.write("dir/" + "long name " * 20, b"long", 0o600)
        os.setxattr(path, "user.comment", b"a comment")
        os.rename(self.write("before", b"written twice"), self.path("renamed"))
        with open(self.path("renamed"), "r+b") as f:
            f.write(b"WRITTEN")

    def escaped(self):
        """Names that do not stand as they are in a volume with plain names."""
        for name in (b".kmsfs", b"~Tx", b"~Lx", b"\xff", b"n" * 255):
            self.write(b"dir/" + name, b"called " + name)

    def volume(self, name, key, fill, *options):
        self.run("init", "--key", key, "--label", name, *options, name)
        self.mount(name)
        fill()
        self.umount()
        # Recorded by a mount that has nothing in its caches.
        self.mount(name)
        tree = self.tree()
        self.umount()
        self.run("verify", name)
        return {"label": name, "tree": tree}

    def bundle(self, volume):
        """The keys of a volume as `export-recovery` writes them, beside what opens them."""
        name = f"{volume}.bundle"
        made = self.run("export-recovery", volume, "--out", name)
        return {"file": name, "volume": volume, "recovery_key": made["recovery_key"]}

    def everything(self, only):
        self.run("init", "--keyfile", "--account", "111122223333", "--region", "eu-central-1")
        self.run("kms", "slots", "add", "passphrase", "--new-passphrase-file", self.passphrase)
        first, second = self.key("first"), self.key("second")

        def fill():
            for make in (self.sizes, self.sparse, self.names, self.kinds, self.attributes):
                make()
            self.keys("volume", first, second)

        volumes = {}
        if "volume" in only:
            volumes["volume"] = self.volume("volume", "alias/first", fill)
        if "recorded" in only:
            volumes["recorded"] = self.volume("recorded", "alias/first", self.small, "--freshness")
        if "plain" in only:
            volumes["plain"] = self.volume("plain", "alias/second", lambda: (self.small(), self.escaped()), "--plain-names")
        if "unordered" in only:
            volumes["unordered"] = self.unordered()
        bundles = [self.bundle(name) for name in ("volume", "plain") if name in only][:1]
        self.run("audit", "verify")
        return volumes, bundles

    def unordered(self):
        """Where a filesystem gives no order to its metadata, directory ids stand in files. Overlayfs is one."""
        lower, upper, inner = (os.path.join(self.work, d) for d in ("lower", "upper", "inner"))
        merged = os.path.join(self.work, "unordered")
        for d in (lower, upper, inner, merged):
            os.mkdir(d)
        layers = f"lowerdir={lower},upperdir={upper},workdir={inner}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, merged], check=True)
        try:
            made = self.volume("unordered", "alias/aws/kmsfs", lambda: (self.sizes(), self.names()))
            shutil.copytree(merged, os.path.join(self.work, "copy"), symlinks=True)
        finally:
            subprocess.run(["umount", merged], check=True)
        os.rmdir(merged)
        os.rename(os.path.join(self.work, "copy"), merged)
        return made


def pack(work, name, out):
    """Everything that a ciphertext directory holds, in an archive whose bytes depend on nothing else."""
    tar = subprocess.Popen(["tar", "--format=pax", "--xattrs", "--xattrs-include=user.*", "--acls", "-S", "--sort=name",
                            "--owner=0", "--group=0", "--numeric-owner", "-C", work, "-cf", "-", name],
                           stdout=subprocess.PIPE)
    with open(out, "wb") as f:
        subprocess.run(["gzip", "-9n"], stdin=tar.stdout, stdout=f, check=True)
    if tar.wait():
        sys.exit("tar failed")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bin", default=os.path.join(HERE, "../../target/release/kmsfs"))
    options.add_argument("--name", help="of the exhibit [default: the version]")
    options.add_argument("--only", default="volume,unordered,recorded,plain", help="volumes [default: %(default)s]")
    options.add_argument("--replace", action="store_true", help="of a version that is not released yet")
    options = options.parse_args()
    binary = os.path.abspath(options.bin)
    version = subprocess.run([binary, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()[1]
    label = options.name or version
    out = os.path.join(HERE, label)
    if os.path.exists(out) and not options.replace:
        sys.exit(f"{out} is there: an exhibit is never made again (--replace, before the release)")
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="kmsfs-museum.") as work:
        maker = Maker(binary, work)
        try:
            volumes, bundles = maker.everything(options.only.split(","))
        finally:
            if os.path.ismount(maker.mnt):
                subprocess.run([binary, "--kms-home", maker.home, "umount", maker.mnt], check=False)
        shutil.rmtree(os.path.join(maker.home, "log"), ignore_errors=True)
        shutil.rmtree(os.path.join(maker.home, "run"), ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        os.mkdir(out)
        for name in ("home", *volumes, *(bundle["file"] for bundle in bundles)):
            pack(work, name, os.path.join(out, name + ".tar.gz"))
        manifest = {"version": label, "made": int(time.time()), "passphrase": PASSPHRASE, "volumes": volumes, "bundles": bundles}
        with open(os.path.join(out, "manifest.json"), "w") as f:
            json.dump(manifest, f, indent=1, ensure_ascii=True)
            f.write("\n")
    size = sum(os.path.getsize(os.path.join(out, f)) for f in os.listdir(out))
    print(f"{out}: {size // 1024} KiB")


if __name__ == "__main__":
    main()
