#!/usr/bin/env python3
"""Looks for keys in the memory of a mount's daemon and in its logs. Needs root and openssl. Environment: KMSFS_BIN, SUITE_WORK.

The daemon runs without memfd_secret(2), which would hide its key memory from this program: what is found there is in memory that is
locked and left out of core dumps, what is found elsewhere is a leak. What is looked for: the data key of a file, the keys that follow
from it (FORMAT 3.1), the sub-keys of its units (which begin their expanded AES keys, too), the volume's root key and what follows from it, the key
manager's root key, its domain key and what follows from them, the passphrase and the recovery key.
"""
import base64
import ctypes
import hashlib
import hmac
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

BIN = os.environ.get("KMSFS_BIN") or os.path.join(os.path.dirname(__file__), "../../target/release/kmsfs")
BOUND = 5
CACHE = 2
SWEEP = 5
PASSPHRASE = b"correct horse battery staple 4711"


def without_memfd_secret():
    """As a preexec_fn: memfd_secret(2) answers ENOSYS (x86-64 and arm64: 447)."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 447), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.create_string_buffer(header), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def expand(prk, info):
    return hmac.new(prk, info + b"\1", hashlib.sha256).digest()


def cmac(key, message):
    command = ["openssl", "mac", "-cipher", "AES-256-CBC", "-macopt", "hexkey:" + key.hex(), "-binary", "CMAC"]
    return subprocess.run(command, input=message, stdout=subprocess.PIPE, check=True).stdout


def hkdf(secret, salt, info):
    return expand(hmac.new(salt, secret, hashlib.sha256).digest(), info)


def gcm_siv_decrypt(key, sealed):
    """AES-256-GCM-SIV (RFC 8452), the decryption alone: whether it is right shows when the result is found in key memory."""
    def blocks(key, data):
        command = ["openssl", "enc", "-aes-256-ecb", "-nopad", "-K", key.hex()]
        return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout
    nonce, body, tag = sealed[:12], sealed[12:-16], sealed[-16:]
    derived = blocks(key, b"".join(struct.pack("<I", i) + nonce for i in range(6)))
    encryption = b"".join(derived[16 * i:16 * i + 8] for i in range(2, 6))
    start, rest = struct.unpack("<I", tag[:4])[0], tag[4:15] + bytes([tag[15] | 0x80])
    counters = b"".join(struct.pack("<I", (start + i) & 0xFFFFFFFF) + rest for i in range(-(-len(body) // 16)))
    return bytes(a ^ b for a, b in zip(body, blocks(encryption, counters)))


class Suite:
    def __init__(self, work):
        self.home, self.cipher, self.mnt = (os.path.join(work, name) for name in ("kms", "cipher", "plain"))
        self.log, self.secret = os.path.join(work, "log"), os.path.join(work, "passphrase")
        os.mkdir(self.mnt)
        with open(self.secret, "wb") as file:
            file.write(PASSPHRASE)
        self.environment = {**os.environ, "KMSFS_HOME": self.home}
        for name in ("KMSFS_CONFIG", "KMSFS_KMS_ENDPOINT"):
            self.environment.pop(name, None)
        self.daemon, self.passed = None, 0

    def ok(self, text):
        self.passed += 1
        print(f"ok      {text}", flush=True)

    def fail(self, text):
        sys.exit(f"FAILED  {text}")

    def kmsfs(self, *args):
        command = [BIN, "--json", "--passphrase-file", self.secret, *args]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode:
            self.fail(f"{' '.join(args)}: {done.stderr.decode()}")
        return json.JSONDecoder().raw_decode(done.stdout.decode())[0] if done.stdout else None

    def mount(self, options):
        command = [BIN, "--passphrase-file", self.secret, "--log-level", "trace", "mount", "-o", options, self.cipher, self.mnt]
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, preexec_fn=without_memfd_secret)
        end = time.time() + 30
        while not os.path.ismount(self.mnt):
            if self.daemon.poll() is not None or time.time() > end:
                self.fail("the mount: " + open(self.log).read()[-2000:])
            time.sleep(0.1)

    def unmount(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(60)

    def needles(self, plain):
        """The keys of the only file of so many bytes, by their names."""
        sizes = {os.path.getsize(os.path.join(dir, name)): os.path.join(dir, name)
                 for dir, _, names in os.walk(self.cipher) for name in names if not os.path.islink(os.path.join(dir, name))}
        stored = next(path for size, path in sizes.items() if size > plain)
        with open(stored, "rb") as file:
            data = file.read()
        fixed, pages = data[:48], data[12]
        slot = data[96:96 + (4096 * pages - 1120) // 2]
        key_len, blob_len = struct.unpack_from("<HH", slot, 24 + 2)
        key = slot[40:40 + key_len].decode()
        blob = slot[40 + key_len:40 + key_len + blob_len]
        context = {"kmsfs:file": fixed[16:32].hex(), "kmsfs:fmt": "1", "kmsfs:volume": fixed[32:48].hex()}
        request = {"KeyId": key, "CiphertextBlob": base64.b64encode(blob).decode(), "EncryptionContext": context}
        answer = self.kmsfs("kms", "Decrypt", "--cli-input-json", json.dumps(request))
        dek = base64.b64decode(answer["Plaintext"])
        prk = hmac.new(fixed[32:48] + fixed[16:32], dek, hashlib.sha256).digest()
        found = {"data key": dek, "extracted data key": prk}
        found["content key"], found["record key"] = (expand(prk, label + fixed) for label in (b"KFS1 content", b"KFS1 record"))
        if hmac.compare_digest(expand(prk, b"KFS1 commit" + fixed), data[48:80]) is False:
            self.fail("the keys of this program are not the file's")
        for number, epoch in enumerate({data[at:at + 12] for at in range(4096 * pages, len(data) - 4095, 4096)} - {bytes(12)}):
            sub = b"".join(cmac(found["content key"], bytes((0, half, 0x58, 0)) + epoch) for half in (1, 2))
            found[f"sub-key {number}"] = sub
        return found

    def manager_needles(self, recovery):
        """Keys of the key manager, which a mount holds from its beginning to its end."""
        with open(os.path.join(self.home, "root.json")) as file:
            body = json.load(file)["body"]
        slot = next(slot for slot in body["slots"] if slot["kind"] == "recovery")
        secret = base64.b32decode(recovery.replace(b"-", b"") + b"=" * (-len(recovery.replace(b"-", b"")) % 8))[:32]
        root = gcm_siv_decrypt(hkdf(secret, bytes.fromhex(slot["salt"]), b"kmsfs recovery slot v1"), bytes.fromhex(slot["wrapped"]))
        home = body["home_id"].encode()
        wrap = hkdf(root, home, b"kmsfs domain wrap v1")
        domain = gcm_siv_decrypt(wrap, bytes.fromhex(body["domains"][-1]["wrapped"]))
        return {"root key": root, "key that wraps the domain key": wrap, "domain key": domain, **{
            info: hkdf(domain, home, info.encode()) for info in ("kmsfs column v1", "kmsfs row mac v1", "kmsfs digest v1")}}

    def volume_needles(self):
        """The volume's root key, which nobody needs once the others are made of it, and those others (FORMAT 3.1, 4.2)."""
        with open(os.path.join(self.cipher, ".kmsfs", "volume"), "rb") as file:
            data = file.read()
        volume, at, recipient = data[16:32], 104, None
        while at < len(data) - 32:
            kind, _, length = struct.unpack_from("<HHI", data, at)
            recipient = data[at + 8:at + 8 + length] if kind == 2 else recipient
            at += 8 + length
        key_len, blob_len = struct.unpack_from("<HH", recipient, 2)
        context = {"kmsfs:volume": volume.hex(), "kmsfs:purpose": "vrk", "kmsfs:fmt": "1"}
        request = {"KeyId": recipient[16:16 + key_len].decode(), "EncryptionContext": context,
                   "CiphertextBlob": base64.b64encode(recipient[16 + key_len:16 + key_len + blob_len]).decode()}
        root = base64.b64decode(self.kmsfs("kms", "Decrypt", "--cli-input-json", json.dumps(request))["Plaintext"])
        prk = hmac.new(volume, root, hashlib.sha256).digest()
        if not hmac.compare_digest(expand(prk, b"KFS1 vrk commit" + data[:12] + data[16:64]), data[64:96]):
            self.fail("the keys of this program are not the volume's")
        labels = ("cfg", "names", "longname", "dir", "symlink", "xattr", "inject")
        found = {"extracted root key of the volume": prk, **{f"{label} key": expand(prk, b"KFS1 " + label.encode()) for label in labels}}
        found["second names key"] = hmac.new(prk, found["names key"] + b"KFS1 names\2", hashlib.sha256).digest()
        return {"root key of the volume": root}, found

    def use_names(self):
        """Everything that the volume's own keys are for."""
        place = os.path.join(self.mnt, "names")
        os.mkdir(place)
        for name in ("a", "b" * 100, "c" * 250):
            path = os.path.join(place, name)
            os.mkdir(path)  # a file would need the KMS key
            os.setxattr(path, "user.attribute", b"value")
            os.getxattr(path, "user.attribute")
            os.rename(path, path[:-1] + "x")
        os.symlink("target", os.path.join(place, "link"))
        os.readlink(os.path.join(place, "link"))
        os.listdir(place)
        shutil.rmtree(place)

    def search(self, needles):
        """Where each needle is in the daemon's memory: (name, address, kind of memory)."""
        found, mapping, flags = [], None, {}
        for line in open(f"/proc/{self.daemon.pid}/smaps"):
            start = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)", line)
            if start:
                mapping = (int(start[1], 16), int(start[2], 16), start[3], start[4].strip())
            elif line.startswith("VmFlags:"):
                flags[mapping] = line.split()[1:]
        searched = 0
        with open(f"/proc/{self.daemon.pid}/mem", "rb", buffering=0) as memory:
            for (first, last, rights, name), bits in flags.items():
                if "r" not in rights or name in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                    continue
                try:
                    memory.seek(first)
                    data = memory.read(last - first)
                except OSError:
                    self.fail(f"the memory of {name or hex(first)} cannot be read")
                searched += len(data)
                for what, needle in needles.items():
                    at = data.find(needle)
                    while at >= 0:
                        kind = "key memory" if {"lo", "dd"} <= set(bits) else name or "anonymous memory"
                        found.append((what, first + at, kind))
                        at = data.find(needle, at + 1)
        if searched < 1 << 20:
            self.fail("there was nothing to search")
        return found

    def nowhere(self, text, needles):
        found = self.search(needles)
        if found:
            self.fail(text + ": " + ", ".join(f"{what} in {kind} at {at:#x}" for what, at, kind in found))
        self.ok(text)

    def only_in_key_memory(self, text, needles):
        found = self.search(needles)
        leaks = [f"{what} in {kind} at {at:#x}" for what, at, kind in found if kind != "key memory"]
        if leaks:
            self.fail(text + ": " + ", ".join(leaks))
        if not found:
            self.fail(text + ": the search finds nothing at all")
        self.ok(text)
        return {what for what, _, _ in found}

    def run(self):
        recovery = self.kmsfs("init", self.cipher)["recovery_key"].encode()
        key = self.kmsfs("key", "create", "--alias", "own")["KeyMetadata"]["KeyId"]
        self.kmsfs("rewrap", self.cipher, "--to", key)
        self.mount(f"key-state=strict,key-cache={CACHE}")
        limits = open(f"/proc/{self.daemon.pid}/limits").read()
        if not re.search(r"Max core file size +0 +0 ", limits):
            self.fail("core dumps are not off")
        self.ok("core dumps are off")
        spoken = {"passphrase": PASSPHRASE, "recovery key": recovery}
        self.nowhere("the passphrase is not in memory", spoken)

        manager = self.manager_needles(recovery)
        seen = self.only_in_key_memory("the key manager's keys are in locked memory only", manager)
        if not {"root key", "key that wraps the domain key", "kmsfs column v1"} <= seen:
            self.fail(f"of the key manager's keys only these were found: {seen}")

        root, volume = self.volume_needles()
        self.use_names()
        self.nowhere("the root key of the volume is not in memory when it is mounted", root)
        seen = self.only_in_key_memory("the volume's other keys are in locked memory only", volume)
        if not {"extracted root key of the volume", "names key", "second names key", "inject key"} <= seen:
            self.fail(f"of the volume's keys only these were found: {seen}")
        self.kmsfs("rewrap", self.cipher, "--to", key)
        self.kmsfs("key", "rotate", key)
        if not self.kmsfs("rewrap", self.cipher)["root_key_rewrapped"]:
            self.fail("the root key of the volume was not wrapped anew")
        self.nowhere("wrapped anew by the mount: the root key of the volume is not in memory", root)

        size = 1_000_000
        path = os.path.join(self.mnt, "file")
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(file, os.urandom(size), 0)
        os.fsync(file)
        needles = self.needles(size)
        os.pread(file, 4096, 0)
        lasting = {what: needle for what, needle in needles.items() if not what.startswith("sub-key")}
        self.only_in_key_memory("open: the file's keys are in locked memory only", lasting)
        os.close(file)
        time.sleep(CACHE + SWEEP + 1)
        self.nowhere("closed, and its time is over: no key of the file is in memory", needles)

        for _ in range(50):  # other requests have other threads
            with open(path, "rb") as again:
                again.read()
        time.sleep(CACHE + SWEEP + 1)
        self.nowhere("read by many threads, and closed: no key of the file is in memory", needles)

        file = os.open(path, os.O_RDWR)
        os.pwrite(file, b"new", 5000)
        os.fsync(file)
        needles.update(self.needles(size))
        self.only_in_key_memory("open again", lasting)
        self.kmsfs("key", "disable", key)
        time.sleep(BOUND)
        self.nowhere("the KMS key is disabled: no key of the open file is in memory, nor the root key of the volume", {**needles, **root})
        self.use_names()
        self.only_in_key_memory("names go on, with keys in locked memory only", volume)
        self.kmsfs("key", "enable", key)
        time.sleep(BOUND)
        if os.pread(file, 3, 5000) != b"new":
            self.fail("the content")
        self.only_in_key_memory("enabled: the same", {**lasting, **manager})
        os.close(file)
        self.only_in_key_memory("before the end: what a core dump would have of keys is nothing", {**lasting, **manager, **volume})
        self.nowhere("nor the root key of the volume", root)
        # Locked memory is left out of core dumps ("dd"); and there is none, whatever the limit.
        try:
            resource.prlimit(self.daemon.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except PermissionError:
            print("skipped: secrets: a core dump without the limit: root may not raise it here", flush=True)
        self.daemon.send_signal(signal.SIGABRT)
        _, status = os.waitpid(self.daemon.pid, 0)
        self.daemon = None
        if not os.WIFSIGNALED(status) or os.WCOREDUMP(status):
            self.fail(f"a core was dumped, or the daemon did not abort: status {status:#x}")
        self.ok("no core is dumped")
        subprocess.run(["umount", "-l", self.mnt], check=True)
        self.mount("key-state=strict")
        self.nowhere("mounted again: the root key of the volume is not in memory", root)
        self.unmount()

        logs = [self.log] + [os.path.join(dir, name) for dir, _, names in os.walk(self.home) for name in names]
        total = 0
        for log in logs:
            text = open(log, "rb").read()
            total += len(text)
            for what, needle in {**needles, **manager, **volume, **root, **spoken}.items():
                forms = [needle, needle.hex().encode(), base64.b64encode(needle).rstrip(b"="), repr(list(needle)).encode()[1:-1],
                         base64.urlsafe_b64encode(needle).rstrip(b"=")]
                if any(form in text or form.upper() in text for form in forms):
                    self.fail(f"{what} in {log}")
        if os.path.getsize(self.log) < 1000:
            self.fail("a log at trace level is longer")
        self.ok(f"nothing of it is in the logs or in the home ({total} bytes)")
        print(f"cases: {self.passed} passed, 0 failed")


if os.geteuid() or not shutil.which("openssl"):
    sys.exit("secrets: needs root and openssl")
work = tempfile.mkdtemp(prefix="kmsfs-secrets.", dir=os.environ.get("SUITE_WORK"))
suite = Suite(work)
try:
    suite.run()
finally:
    suite.unmount()
    shutil.rmtree(work)
