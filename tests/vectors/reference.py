#!/usr/bin/env python3
"""KFS1 reference implementation: every construction of docs/FORMAT.md, written to be read, not to be fast.

    python3 reference.py vectors > kfs1.json     make the test vectors (deterministic output)
    python3 reference.py check kfs1.json         replay a vector file; exit status 1 on any difference

Needs Python >= 3.9 and the package `cryptography` (AES-GCM, AES-SIV, the AES block). Section numbers
(S1, S2 ...) are those of FORMAT.md. Every integer on disk is little-endian. Nonces and random ids are
parameters here; a real implementation draws them from the operating system's random generator.
"""
import base64, binascii, functools, hashlib, hmac, json, struct, sys
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV


class Kfs(Exception):
    """A named outcome of FORMAT.md S12. str(e) is the name."""


# S12: what the mount returns to the caller; None = refused mount, tool message, or success with an event (NeverSynced: n zeros).
ERRNO = {
    "NotKfs": "EIO", "UnknownFeature": "EOPNOTSUPP", "ForeignVolume": "EIO", "HeaderAuth": "EIO", "HeaderLost": "EIO",
    "NeverSynced": None, "NoRecipient": "EIO", "KeyForbidden": "EACCES", "KeyUnavailable": "EACCES", "KeyServiceTimeout": "ETIMEDOUT",
    "SlotOverflow": "E2BIG", "RecordAuth": "EIO", "Truncated": "EIO", "BadSize": "EIO", "UnitAuth": "EIO", "UnitZero": "EIO",
    "TooBig": "EFBIG", "NoDirId": "EIO", "BadDirId": "EIO", "WrongDirId": "EIO", "BadName": "ENOENT", "NameInvalid": "EINVAL", "NameTooLong": "ENAMETOOLONG",
    "SymlinkAuth": "EIO", "XattrNameRange": "ERANGE", "XattrAuth": "EIO", "DuplicateId": None, "Stale": "EIO", "Misplaced": "EIO", "Vanished": "EIO", "Unvouched": "EIO",
    "VolumeUnknown": None, "VolumeAuth": None, "VolumeRollback": None, "VolumeBusy": None,
}


def need(cond, outcome):
    if not cond:
        raise Kfs(outcome)


# ---------------------------------------------------------------- S2 primitives
def hkdf_extract(salt, ikm):                                    # RFC 5869, SHA-256
    return hmac.new(salt, ikm, hashlib.sha256).digest()


def hkdf_expand(prk, info, n):
    out, t, i = b"", b"", 1
    while len(out) < n:
        t = hmac.new(prk, t + info + bytes([i]), hashlib.sha256).digest()
        out, i = out + t, i + 1
    return out[:n]


def mac32(key, msg):
    return hmac.new(key, msg, hashlib.sha256).digest()


def mac16(key, msg):
    return mac32(key, msg)[:16]


def eq(a, b):                                                   # constant time
    return hmac.compare_digest(a, b)


def _aes(key, block):
    e = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return e.update(block) + e.finalize()


def xaes_subkey(key, n12):                                      # C2SP XAES-256-GCM: CMAC counter KDF
    l = int.from_bytes(_aes(key, bytes(16)), "big")
    k1 = (((l << 1) & ((1 << 128) - 1)) ^ (0x87 if l >> 127 else 0)).to_bytes(16, "big")
    x = lambda m: bytes(a ^ b for a, b in zip(m, k1))
    return _aes(key, x(b"\0\x01X\0" + n12)) + _aes(key, x(b"\0\x02X\0" + n12))


def xaes_seal(key, nonce24, pt, aad):
    return AESGCM(xaes_subkey(key, nonce24[:12])).encrypt(nonce24[12:], pt, aad)


def xaes_open(key, nonce24, ct, aad, outcome):
    try:
        return AESGCM(xaes_subkey(key, nonce24[:12])).decrypt(nonce24[12:], ct, aad)
    except InvalidTag:
        raise Kfs(outcome) from None


def siv_seal(key64, ad, pt):                                    # RFC 5297, one associated-data string
    return AESSIV(key64).encrypt(pt, [ad])


def siv_open(key64, ad, ct, outcome):
    try:
        return AESSIV(key64).decrypt(ct, [ad])
    except InvalidTag:
        raise Kfs(outcome) from None


_CRC = []
for _i in range(256):
    for _ in range(8):
        _i = (_i >> 1) ^ (0x82F63B78 if _i & 1 else 0)
    _CRC.append(_i)


def crc32c(data):                                               # Castagnoli, reflected, as in iSCSI
    c = 0xFFFFFFFF
    for b in data:
        c = _CRC[(c ^ b) & 255] ^ (c >> 8)
    return c ^ 0xFFFFFFFF


def b64(data):                                                  # base64url, no padding
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text, outcome):                                       # canonical form only
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Kfs(outcome) from None
    need("=" not in text and b64(raw) == text, outcome)         # rejects non-zero trailing bits too
    return raw


# ---------------------------------------------------------------- S3 keys
UNIT, DATA = 4096, 4064                                         # unit on disk, plaintext per unit
MAGIC = {c: b"\x89KFS" + c.encode() + b"\r\n\x1a" for c in "1V"}


def volume_keys(vrk, volume_id):
    prk = hkdf_extract(volume_id, vrk)
    k = {n: hkdf_expand(prk, b"KFS1 " + n.encode(), 64 if n == "names" else 32)
         for n in ("cfg", "names", "longname", "dir", "symlink", "xattr", "inject")}
    k["prk"] = prk
    return k


def file_keys(dek, st):                                         # st = header[0..48]
    prk = hkdf_extract(st[32:48] + st[16:32], dek)              # salt = volume_id | file_id
    return {n: hkdf_expand(prk, b"KFS1 " + n.encode() + st, 32) for n in ("content", "commit", "record")}


# ---------------------------------------------------------------- S5.1 recipient entries and slots
def recipient(rtype, key_id, blob, time=0, flags=0):
    key_id = key_id.encode()
    return struct.pack("<BBHHHQ", rtype, flags, len(key_id), len(blob), 0, time) + key_id + blob


def recipients_parse(buf, count):
    """-> (list, bytes used), or None when malformed."""
    out, p = [], 0
    for _ in range(count):
        if p + 16 > len(buf):
            return None
        rtype, flags, kl, bl, zero, time = struct.unpack_from("<BBHHHQ", buf, p)
        p += 16
        if zero or kl > 512 or not 1 <= bl <= 6144 or p + kl + bl > len(buf):
            return None
        try:
            key_id = buf[p:p + kl].decode()
        except UnicodeDecodeError:
            return None
        out.append(dict(type=rtype, flags=flags, key_id=key_id, blob=buf[p + kl:p + kl + bl], time=time))
        p += kl + bl
    return out, p


GEN_MAX = 1 << 63


def slot_len(pages):
    return (4096 * pages - 1120) // 2


def slot_build(gen, recips, pages):
    body = struct.pack("<QB7x", gen, len(recips)) + b"".join(recips)
    need(1 <= len(recips) <= 8 and 1 <= gen <= GEN_MAX and 8 + len(body) <= slot_len(pages), "SlotOverflow")
    body = body.ljust(slot_len(pages) - 8, b"\0")
    return b"KFR0" + struct.pack("<I", crc32c(body)) + body


def slot_parse(slot):
    """-> (generation, recipients) or None when the slot is not valid."""
    gen, count = struct.unpack_from("<QB", slot, 8)
    if slot[:4] != b"KFR0" or struct.unpack_from("<I", slot, 4)[0] != crc32c(slot[8:]):
        return None
    if not 1 <= gen <= GEN_MAX or not 1 <= count <= 8 or any(slot[17:24]):
        return None
    r = recipients_parse(slot[24:], count)
    if r is None or any(slot[24 + r[1]:]):
        return None
    return gen, r[0]


def slots_valid(header, pages):
    """-> [(name, generation, recipients)], the winner first: larger generation, slot A on a tie. Two = an unfinished re-wrap (S5.3)."""
    n, out = slot_len(pages), []
    for name, off in (("A", 96), ("B", 96 + n)):
        s = slot_parse(header[off:off + n])
        if s:
            out.append((name, s[0], s[1]))
    return sorted(out, key=lambda x: -x[1])                     # stable: A stays first on a tie


def slots_choose(header, pages):
    v = slots_valid(header, pages)
    need(v, "NoRecipient")
    return v[0]


def header_scan(header, pages):
    """S5.3: every key named by any valid slot. A key is unused only if no file lists it."""
    return [dict(slot=name, generation=gen, keys=[r["key_id"] for r in rs]) for name, gen, rs in slots_valid(header, pages)]


def rewrap_write(header, recips, pages):
    """S5.3 step 2: the new slot goes to the inactive place with generation + 1. -> header (old slot still there)"""
    name, gen, _ = slots_choose(header, pages)
    n = slot_len(pages)
    off = 96 + (n if name == "A" else 0)
    return header[:off] + slot_build(gen + 1, recips, pages) + header[off + n:]


def rewrap_finish(vol, header):
    """S5.3 steps 4, 5; also what the first writer does that finds two valid slots: verify the winner, then zero the other."""
    h, n = header_open(vol, header), slot_len(vol.pages)
    off = 96 + (n if h["slot"] == "A" else 0)
    return header[:off] + bytes(n) + header[off + n:]


# ---------------------------------------------------------------- S5.2 records
HAS_HOLES = 1
KNOWN_RECORD_FLAGS = HAS_HOLES


def record_build(k_rec, file_id, seq, floor, flags=0):
    b = b"KFR1" + struct.pack("<IQQ", flags, seq, floor) + bytes(24)
    return b + mac16(k_rec, file_id + b)


def record_parse(k_rec, file_id, rec, parity):
    """Slot A holds odd seq, slot B even. -> dict or None."""
    if rec[:4] != b"KFR1" or not eq(rec[48:64], mac16(k_rec, file_id + rec[:48])):
        return None
    flags, seq, floor = struct.unpack_from("<IQQ", rec, 4)
    if seq < 1 or seq % 2 != parity or any(rec[24:48]):
        return None
    return dict(flags=flags, seq=seq, floor=floor)


def records_choose(k_rec, file_id, header, pages):
    """The valid record with the larger seq; one is enough."""
    o = 4096 * pages
    a = record_parse(k_rec, file_id, header[o - 1024:o - 960], 1)
    b = record_parse(k_rec, file_id, header[o - 512:o - 448], 0)
    need(a or b, "RecordAuth")
    best = max((r for r in (a, b) if r), key=lambda r: r["seq"])
    need(best["flags"] & ~KNOWN_RECORD_FLAGS == 0, "UnknownFeature")
    return best


def record_next(k_rec, file_id, header, pages, floor, flags=0):
    """S5.2: the next record goes to the other slot; HAS_HOLES is sticky; no write when nothing changes. -> header"""
    best = records_choose(k_rec, file_id, header, pages)
    flags |= best["flags"]
    if (floor, flags) == (best["floor"], best["flags"]):
        return header
    seq, o = best["seq"] + 1, 4096 * pages - (512 if best["seq"] % 2 else 1024)
    return header[:o] + record_build(k_rec, file_id, seq, floor, flags) + header[o + 64:]


# ---------------------------------------------------------------- S5 file header
def static48(volume_id, file_id, pages=1, aead=1, unit_log2=12, flags=0, minor=0, major=1):
    return MAGIC["1"] + struct.pack("<BBBBBBH", major, minor, aead, unit_log2, pages, flags, 0) + file_id + volume_id


def header_build(st, dek, k_inject, recips, floor=0, flags=0):
    """A new file: slot A generation 1, slot B empty, record seq 1 with floor 0, second record empty."""
    pages = st[12]
    k = file_keys(dek, st)
    h = st + k["commit"]
    h += mac16(k_inject, h)
    h += slot_build(1, recips, pages) + bytes(slot_len(pages))
    h += record_build(k["record"], st[16:32], 1, floor, flags).ljust(512, b"\0") + bytes(512)
    assert len(h) == 4096 * pages
    return h


def context_file(volume_id, file_id):                           # S4.3 KMS encryption contexts
    return {"kmsfs:file": file_id.hex(), "kmsfs:fmt": "1", "kmsfs:volume": volume_id.hex()}


def context_vrk(volume_id):
    return {"kmsfs:fmt": "1", "kmsfs:purpose": "vrk", "kmsfs:volume": volume_id.hex()}


def context_branch(volume_id, branch_id, version):
    return {"kmsfs:branch": branch_id.hex(), "kmsfs:fmt": "1", "kmsfs:version": str(version), "kmsfs:volume": volume_id.hex()}


class Volume:
    """What a mount knows after it opened the volume."""
    def __init__(self, volume_id, vrk, allowed, pages=1, aead_allow=(1,), kms=None, branches=None, implemented=(1,)):
        """allowed: the effective allow-list, TLV 1 and pinned (S4.2). branches: (branch_id, version) -> (commit, entries) of the TLVs."""
        self.__dict__.update(volume_id=volume_id, keys=volume_keys(vrk, volume_id), allowed=set(allowed), pages=pages,
                             aead=set(aead_allow) & set(implemented), kms=kms, branches=branches or {}, opened={})


def unwrap(vol, st, r):
    """One recipient -> DEK; raises the outcome of this recipient alone."""
    if r["flags"]:
        raise Kfs("NoRecipient")
    if r["type"] == 1:
        need(r["key_id"] in vol.allowed, "KeyForbidden")
        dek = vol.kms.decrypt(r["key_id"], r["blob"], context_file(st[32:48], st[16:32]))
    elif r["type"] == 2:
        need(len(r["blob"]) == 92 and r["key_id"] == "", "HeaderAuth")
        bid, ver = r["blob"][:16], struct.unpack_from("<I", r["blob"], 16)[0]
        dek = branch_unwrap(branch_open(vol, bid, ver), st, r["blob"])
    else:
        raise Kfs("NoRecipient")                                # unknown type: skip
    need(len(dek) == 32, "HeaderAuth")
    return dek


RANK = ["NoRecipient", "KeyForbidden", "KeyUnavailable", "KeyServiceTimeout", "HeaderAuth"]   # worst last


def header_open(vol, header):
    """S5.4, the normative order of checks. -> dict(dek, keys, slot, generation, valid_slots, record)"""
    need(any(header), "HeaderLost")                             # NeverSynced: see file_read
    need(header[:8] == MAGIC["1"], "NotKfs")
    major, minor, aead, ulog, pages, flags, zero = struct.unpack_from("<BBBBBBH", header, 8)
    need(major == 1 and aead in vol.aead and ulog == 12 and pages == vol.pages and not flags and not zero, "UnknownFeature")
    st, file_id = header[:48], header[16:32]
    need(any(file_id), "HeaderAuth")
    need(header[32:48] == vol.volume_id, "ForeignVolume")
    need(eq(header[80:96], mac16(vol.keys["inject"], header[:80])), "HeaderAuth")      # before any KMS call
    slot, gen, recips = slots_choose(header, pages)
    nvalid = len(slots_valid(header, pages))
    worst = "NoRecipient"
    for r in recips:
        try:
            dek = unwrap(vol, st, r)
            k = file_keys(dek, st)
            need(eq(k["commit"], header[48:80]), "HeaderAuth")
        except Kfs as e:
            worst = max(worst, str(e), key=RANK.index)
            continue
        record = records_choose(k["record"], file_id, header, pages)
        return dict(dek=dek, keys=k, slot=slot, generation=gen, valid_slots=nvalid, record=record)
    raise Kfs(worst)


# ---------------------------------------------------------------- S4.4 branch keys
def branch_prk(volume_id, branch_id, version, branch_key):
    return hkdf_extract(volume_id + branch_id + struct.pack("<I", version), branch_key)


def branch_wrap(prk, branch_id, version, st, dek, nonce24):
    head = branch_id + struct.pack("<I", version)
    key = hkdf_expand(prk, b"KFS1 wrap" + st[32:48] + st[16:32], 32)
    return head + nonce24 + xaes_seal(key, nonce24, dek, st + head)


def branch_unwrap(prk, st, blob):
    key = hkdf_expand(prk, b"KFS1 wrap" + st[32:48] + st[16:32], 32)
    return xaes_open(key, blob[20:44], blob[44:], st + blob[:20], "HeaderAuth")


def branch_commit(prk, volume_id, branch_id, version):
    return hkdf_expand(prk, b"KFS1 branch commit" + volume_id + branch_id + struct.pack("<I", version), 32)


def branch_tlv_value(volume_id, branch_id, version, branch_key, recips):
    """Value of a TLV of type 4."""
    c = branch_commit(branch_prk(volume_id, branch_id, version, branch_key), volume_id, branch_id, version)
    return branch_id + struct.pack("<I", version) + c + b"".join(recips)


def branch_tlv_parse(v):
    """-> ((branch_id, version), (commit, entries)); malformed: VolumeAuth."""
    need(len(v) > 52 and any(v[16:20]), "VolumeAuth")
    ents, p = [], 52
    while p < len(v):
        e = recipients_parse(v[p:], 1)
        need(e and e[0][0]["type"] == 1, "VolumeAuth")
        ents, p = ents + e[0], p + e[1]
    need(len(ents) <= 8, "VolumeAuth")
    return (v[:16], struct.unpack_from("<I", v, 16)[0]), (v[20:52], ents)


def branch_open(vol, bid, ver):
    """First use of a branch version -> PRK_B, kept for the cache time (vol.opened)."""
    if (bid, ver) in vol.opened:
        return vol.opened[bid, ver]
    need((bid, ver) in vol.branches, "KeyUnavailable")
    commit, ents = vol.branches[bid, ver]
    worst = "NoRecipient"
    for e in ents:
        try:
            need(not e["flags"], "NoRecipient")
            need(e["key_id"] in vol.allowed, "KeyForbidden")
            key = vol.kms.decrypt(e["key_id"], e["blob"], context_branch(vol.volume_id, bid, ver))
            prk = branch_prk(vol.volume_id, bid, ver, key)
            need(len(key) == 32 and eq(branch_commit(prk, vol.volume_id, bid, ver), commit), "HeaderAuth")
            vol.opened[bid, ver] = prk
            return prk
        except Kfs as x:
            worst = max(worst, str(x), key=RANK.index)
    raise Kfs(worst)


# ---------------------------------------------------------------- S6 units
def unit_aad(u):
    return struct.pack("<QI", u, 12) + b"KFU1"


def unit_seal(k_content, u, epoch, ctr, pt):
    assert len(epoch) == 12 and any(epoch) and 1 <= ctr < 1 << 32 and 1 <= len(pt) <= DATA
    nonce = epoch + struct.pack("<QI", u, ctr)
    return epoch + struct.pack("<I", ctr) + xaes_seal(k_content, nonce, pt.ljust(DATA, b"\0"), unit_aad(u))


def unit_open(k_content, u, unit, floor, flags):
    """-> 4064 bytes of plaintext (zeros for a hole). The caller cuts the last unit at the file's size."""
    assert len(unit) == UNIT
    if not any(unit):
        below = u < -(-floor // DATA)
        need(flags & HAS_HOLES or not below, "UnitZero")
        return bytes(DATA)
    need(any(unit[:12]) and any(unit[12:16]), "UnitAuth")
    nonce = unit[:12] + struct.pack("<Q", u) + unit[12:16]
    return xaes_open(k_content, nonce, unit[16:], unit_aad(u), "UnitAuth")


# ---------------------------------------------------------------- S7 size arithmetic
def n_max(pages):
    return DATA * (2 ** 51 - pages - 1)


def size_to_disk(n, pages=1):
    need(0 <= n <= n_max(pages), "TooBig")
    if n == 0:
        return 0
    units = -(-n // DATA)
    return 4096 * pages + UNIT * units + (n - DATA * (units - 1))


def size_from_disk(st_size, pages=1):
    if st_size == 0:
        return 0
    need(st_size > 4096 * pages, "BadSize")
    units, r = divmod(st_size - 4096 * pages, UNIT)
    need(units >= 1 and 1 <= r <= DATA, "BadSize")
    return DATA * (units - 1) + r


def size_shown(st_size, pages=1):
    """What getattr reports: never an error; clamps a malformed size."""
    if st_size <= 4096 * pages:
        return 0
    units, r = divmod(st_size - 4096 * pages, UNIT)
    return DATA * (units - 1) + min(r, DATA) if units else 0


def file_build(vol, st, dek, recips, plaintext, epoch, holes=(), synced=True):
    """synced: a flush returned and the floor was raised (record seq 2); otherwise the file as first written (seq 1, floor 0)."""
    k = file_keys(dek, st)
    n = len(plaintext)
    out = header_build(st, dek, vol.keys["inject"], recips)
    if synced:
        out = record_next(k["record"], st[16:32], out, st[12], n, HAS_HOLES if holes else 0)
    for u in range(-(-n // DATA)):
        out += bytes(UNIT) if u in holes else unit_seal(k["content"], u, epoch, u + 1, plaintext[DATA * u:DATA * (u + 1)])
    return out.ljust(size_to_disk(n, st[12]), b"\0")            # the trailing area is a hole


def file_read(vol, data, whole_hole=False):
    """whole_hole: SEEK_DATA from offset 0 of the backing file gives ENXIO. -> (plaintext, header or None, event or None)"""
    n = size_from_disk(len(data), vol.pages)
    if n == 0:
        return b"", None, None
    if not any(data[:4096 * vol.pages]) and whole_hole:
        return bytes(n), None, "NeverSynced"
    h = header_open(vol, data[:4096 * vol.pages])
    floor = h["record"]["floor"]
    need(n >= floor, "Truncated")
    out = b""
    for u in range(-(-n // DATA)):
        o = 4096 * vol.pages + UNIT * u
        out += unit_open(h["keys"]["content"], u, data[o:o + UNIT], floor, h["record"]["flags"])
    return out[:n], h, None


# ---------------------------------------------------------------- S8 directories, names, symlinks, xattrs
XATTR_NAME_AD = b"KFS1 xattr name"


DIR_PREFIX = "kfs1:"


def dirlink_build(k_dir, dir_id):
    """Target of the symlink .kmsfs.dir, or content of the regular file: 48 characters."""
    return DIR_PREFIX + b64(dir_id + mac16(k_dir, DIR_PREFIX.encode() + dir_id))


def dirlink_open(k_dir, text, form="symlink"):
    """form: file type found at .kmsfs.dir; readers accept both forms."""
    need(text is not None, "NoDirId")                           # nothing there
    need(form in ("symlink", "file"), "BadDirId")
    need(len(text) == 48 and text.startswith(DIR_PREFIX), "BadDirId")
    raw = unb64(text[5:], "BadDirId")
    need(len(raw) == 32 and any(raw[:16]) and eq(raw[16:], mac16(k_dir, DIR_PREFIX.encode() + raw[:16])), "BadDirId")
    return raw[:16]


def siv_blob(entry, side, plain=False):
    """SIV blob of an entry, or None when there is none (plain name, stray file, long name without side entry)."""
    if plain and not entry.startswith("~L"):
        return None
    try:
        raw = unb64(entry if not entry.startswith("~L") else side or "", "BadName")
    except Kfs:
        return None
    return raw if len(raw) >= 32 else None


def dirid_check(vk, dir_id, entries, plain=False):
    """entries: (entry, side) pairs. WrongDirId: there are SIV blobs and none verifies under dir_id."""
    good = blobs = 0
    for entry, side in entries:
        raw = siv_blob(entry, side, plain)
        if raw:
            blobs += 1
            try:
                siv_open(vk["names"], dir_id, raw, "BadName")
                good += 1
            except Kfs:
                pass
    need(good or not blobs, "WrongDirId")
    return good


def _aes_inv(key, block):
    d = Cipher(algorithms.AES(key), modes.ECB()).decryptor()
    return d.update(block) + d.finalize()


def dirid_recover(vk, raw):
    """S8.5: dir_id from one SIV blob whose plaintext is a multiple of 16 bytes -> (dir_id, padded name).
    SIV decrypts without its associated data, and S2V (RFC 5297) over whole blocks can be run backwards by whoever has the key."""
    need(len(raw) >= 32 and len(raw) % 16 == 0, "BadName")
    k1, k2 = vk["names"][:32], vk["names"][32:]
    x = lambda *bs: bytes(functools.reduce(lambda a, b: a ^ b, t) for t in zip(*bs))
    dbl = lambda b: (((int.from_bytes(b, "big") << 1) & ((1 << 128) - 1)) ^ (0x87 if b[0] >> 7 else 0)).to_bytes(16, "big")
    v, q = raw[:16], bytearray(raw[:16])
    q[8] &= 0x7F; q[12] &= 0x7F
    e = Cipher(algorithms.AES(k2), modes.CTR(bytes(q))).encryptor()
    padded = e.update(raw[16:]) + e.finalize()
    sub = dbl(_aes(k1, bytes(16)))                              # CMAC subkey for whole blocks
    c = bytes(16)
    for i in range(0, len(padded) - 16, 16):
        c = _aes(k1, x(c, padded[i:i + 16]))
    d = x(_aes_inv(k1, v), c, sub, padded[-16:])                # D of S2V, after the associated data
    cmac_ad = x(d, dbl(_aes(k1, sub)))                          # CMAC(zero block) = AES(0 ^ sub)
    return x(_aes_inv(k1, cmac_ad), sub), padded


def _pad16(name, cap):
    return name.ljust(min(cap, -(-len(name) // 16) * 16), b"\0")


def name_check(name):
    need(name not in (b"", b".", b"..") and b"\0" not in name and b"/" not in name, "NameInvalid")
    need(len(name) <= 255, "NameTooLong")


def _unpad(padded, cap):
    name = padded.rstrip(b"\0")
    need(name and b"\0" not in name and b"/" not in name and name not in (b".", b"..") and _pad16(name, cap) == padded, "BadName")
    return name


def fits_entry(name, short_max, plain):
    """With plain names, an entry holds what is UTF-8 and does not begin as an entry of kmsfs' own."""
    if plain:
        try:
            name.decode("utf-8")
        except UnicodeDecodeError:
            return False
        if name.startswith((b".kmsfs", b"~T", b"~L")):
            return False
    return len(name) <= short_max


def name_encode(vk, dir_id, name, short_max=175, plain=False):
    """-> (directory entry, text of the side entry or None)"""
    name_check(name)
    if fits_entry(name, short_max, plain):
        if plain:
            return name.decode("utf-8"), None
        return b64(siv_seal(vk["names"], dir_id, _pad16(name, short_max))), None
    entry = "~L" + b64(mac32(vk["longname"], dir_id + name))
    return entry, b64(siv_seal(vk["names"], dir_id, _pad16(name, 256)))


def name_decode(vk, dir_id, entry, side=None, short_max=175, plain=False):
    if entry.startswith("~L"):
        need(side is not None and 43 <= len(side) <= 363, "BadName")
        name = _unpad(siv_open(vk["names"], dir_id, unb64(side, "BadName"), "BadName"), 256)
        need(len(name) <= 255 and eq(entry[2:].encode(), b64(mac32(vk["longname"], dir_id + name)).encode()), "BadName")
        need(not fits_entry(name, short_max, plain), "BadName")
        return name
    if plain:
        name = entry.encode("utf-8")
        try:
            name_check(name)
        except Kfs:
            raise Kfs("BadName") from None
    else:
        raw = unb64(entry, "BadName")
        need(len(raw) >= 17, "BadName")
        name = _unpad(siv_open(vk["names"], dir_id, raw, "BadName"), short_max)
    need(fits_entry(name, short_max, plain), "BadName")
    return name


def symlink_seal(vk, target, nonce24):
    need(1 <= len(target) <= 3031 and b"\0" not in target, "NameTooLong")
    return b64(nonce24 + xaes_seal(vk["symlink"], nonce24, target, b"KFS1 symlink"))


def symlink_open(vk, text):
    raw = unb64(text, "SymlinkAuth")
    need(len(raw) > 40, "SymlinkAuth")
    return xaes_open(vk["symlink"], raw[:24], raw[24:], b"KFS1 symlink", "SymlinkAuth")


def symlink_size(disk_size):                                    # getattr: arithmetic only
    return max(0, disk_size * 3 // 4 - 40)


def xattr_name_seal(vk, name):                                  # name: the full name, e.g. b"user.comment"
    need(name.startswith(b"user.") and 5 < len(name) <= 255 and b"\0" not in name, "XattrNameRange")
    if len(name) > 167:
        return "user.kmsfs.~" + b64(mac32(vk["longname"], XATTR_NAME_AD + name))
    return "user.kmsfs." + b64(siv_seal(vk["names"], XATTR_NAME_AD, _pad16(name, 167)))


def xattr_name_open(vk, disk_name):
    need(disk_name.startswith("user.kmsfs."), "BadName")
    raw = unb64(disk_name[11:], "BadName")
    need(len(raw) >= 17, "BadName")
    padded = siv_open(vk["names"], XATTR_NAME_AD, raw, "BadName")
    name = padded.rstrip(b"\0")
    need(name.startswith(b"user.") and 5 < len(name) <= 167 and b"\0" not in name and _pad16(name, 167) == padded, "BadName")
    return name


def xattr_value_seal(vk, name, value, nonce24):
    if len(name) > 167:
        return nonce24 + xaes_seal(vk["xattr"], nonce24, bytes([len(name)]) + name + value, b"KFS1 long xattr" + xattr_name_seal(vk, name).encode())
    return nonce24 + xaes_seal(vk["xattr"], nonce24, value, name)


def xattr_long_open(vk, disk_name, data):                       # -> (full name, value)
    need(len(data) >= 40, "XattrAuth")
    text = xaes_open(vk["xattr"], data[:24], data[24:], b"KFS1 long xattr" + disk_name.encode(), "XattrAuth")
    need(len(text) > 0 and 167 < text[0] < len(text), "XattrAuth")
    name = text[1:1 + text[0]]
    need(name.startswith(b"user.") and b"\0" not in name and eq(xattr_name_seal(vk, name).encode(), disk_name.encode()), "XattrAuth")
    return name, text[1 + text[0]:]


def xattr_value_open(vk, name, data):
    if len(name) > 167:
        found, value = xattr_long_open(vk, xattr_name_seal(vk, name), data)
        need(found == name, "XattrAuth")
        return value
    need(len(data) >= 40, "XattrAuth")
    return xaes_open(vk["xattr"], data[:24], data[24:], name, "XattrAuth")


# ---------------------------------------------------------------- S4.2 volume file
PLAIN_NAMES, FRESHNESS, DIR_META_FILE = 1, 1 << 0, 1 << 1
KNOWN_INCOMPAT = PLAIN_NAMES
KNOWN_RO_COMPAT = DIR_META_FILE | FRESHNESS


def tlv(t, value):
    return struct.pack("<HHI", t, 0, len(value)) + value


def vrk_commit(prk, data):
    return hkdf_expand(prk, b"KFS1 vrk commit" + data[:12] + data[16:64], 32)


def volume_build(volume_id, vrk, tlvs, pages=1, incompat=0, ro_compat=0, compat=0, short_max=175, aead_allow=2, minor=0, major=1, config_seq=1):
    body = b"".join(tlvs)
    h = MAGIC["V"] + struct.pack("<BBHI", major, minor, 0, 104 + len(body) + 32) + volume_id
    h += struct.pack("<QQQBBBBHH", incompat, ro_compat, compat, 12, pages, 1, 1, short_max, aead_allow)
    k = volume_keys(vrk, volume_id)
    h += vrk_commit(k["prk"], h) + struct.pack("<Q", config_seq) + body
    return h + mac32(k["cfg"], h)


def volume_open(data, kms, registry):
    """-> dict. registry: volume_id -> dict(commit, pinned, config_seq), the trust anchor in the KMS home. Order of S4.2."""
    need(136 <= len(data) <= 65536, "VolumeAuth")
    need(data[:8] == MAGIC["V"], "NotKfs")
    major, minor, zero, total = struct.unpack_from("<BBHI", data, 8)
    need(major == 1, "UnknownFeature")
    need(total == len(data) and zero == 0, "VolumeAuth")
    vid = data[16:32]
    inc, ro, compat, ulog, pages, aead, nmode, smax, allow = struct.unpack_from("<QQQBBBBHH", data, 32)
    config_seq = struct.unpack_from("<Q", data, 96)[0]
    need(inc & ~KNOWN_INCOMPAT == 0 and ulog == 12 and pages in (1, 4) and nmode == 1 and aead == 1 and allow >> aead & 1, "UnknownFeature")
    need(16 <= smax <= (255 if inc & PLAIN_NAMES else 175) and any(vid) and config_seq, "VolumeAuth")
    p, end, arns, recips, branches, default = 104, len(data) - 32, [], [], {}, []
    while p < end:
        need(p + 8 <= end, "VolumeAuth")
        t, f, n = struct.unpack_from("<HHI", data, p)
        v, p = data[p + 8:p + 8 + n], p + 8 + n
        need(p <= end and f == 0, "VolumeAuth")
        if t == 1:
            need(1 <= n <= 512, "VolumeAuth")
            arns.append(v.decode("ascii", "replace"))
        elif t == 2:
            r = recipients_parse(v, 1)
            need(r and r[1] == n and r[0][0]["type"] == 1, "VolumeAuth")
            recips.append(r[0][0])
        elif t == 3:
            need(n >= 2 and v[0] in (1, 2), "UnknownFeature")
            need(v[1] == 0 and (n == 22 if v[0] == 2 else n > 2), "VolumeAuth")
            default.append(dict(mode="direct", key=v[2:].decode("ascii", "replace")) if v[0] == 1 else
                           dict(mode="branch", branch_id=v[2:18].hex(), version=struct.unpack_from("<I", v, 18)[0]))
        elif t == 4:
            key, val = branch_tlv_parse(v)
            need(key not in branches, "VolumeAuth")
            branches[key] = val
        else:
            need(t & 0x8000, "UnknownFeature")                  # bit 15: may be ignored
    need(1 <= len(recips) <= 8 and len(default) == 1, "VolumeAuth")
    # the registry, before any KMS call
    need(vid in registry, "VolumeUnknown")
    row = registry[vid]
    need(eq(data[64:96], row["commit"]), "VolumeAuth")
    need(config_seq >= row["config_seq"], "VolumeRollback")
    worst, vrk = "NoRecipient", None
    for r in recips:
        try:
            need(not r["flags"], "NoRecipient")
            need(r["key_id"] in row["pinned"], "KeyForbidden")
            vrk = kms.decrypt(r["key_id"], r["blob"], context_vrk(vid))
            k = volume_keys(vrk, vid)
            need(len(vrk) == 32 and eq(vrk_commit(k["prk"], data), data[64:96]), "HeaderAuth")
            break
        except Kfs as e:
            worst, vrk = max(worst, str(e), key=RANK.index), None
    need(vrk is not None, "VolumeAuth" if worst == "HeaderAuth" else worst)
    need(eq(data[-32:], mac32(k["cfg"], data[:-32])), "VolumeAuth")
    allowed = [a for a in arns if a in row["pinned"]]           # effective allow-list
    need(default[0]["mode"] == "branch" or default[0]["key"] in allowed, "KeyForbidden")
    return dict(volume_id=vid.hex(), pages=pages, allowed=allowed, short_max=smax, read_only=bool(ro & ~KNOWN_RO_COMPAT), config_seq=config_seq,
                dir_meta_file=bool(ro & DIR_META_FILE), plain_names=bool(inc & PLAIN_NAMES), default=default[0], branches=[[b.hex(), ver] for b, ver in branches], _b=branches)


def default_prk(vol, default):
    """Branch default wrap: key for new files. A version that is missing or does not open: KeyUnavailable."""
    try:
        return branch_open(vol, bytes.fromhex(default["branch_id"]), default["version"])
    except Kfs:
        raise Kfs("KeyUnavailable") from None


# ================================================================ test vectors
class ToyKms:
    """TEST ONLY stand-in for a KMS: XAES-256-GCM under a fixed key per ARN, encryption context as AAD."""
    def __init__(self, keys, disabled=(), forced=None, silent=()):
        self.keys, self.disabled, self.forced, self.silent, self.calls = keys, set(disabled), forced, set(silent), 0

    @staticmethod
    def _aad(ctx):
        return json.dumps(ctx, sort_keys=True, separators=(",", ":")).encode()

    def encrypt(self, arn, pt, ctx, nonce24):
        return b"TOY1" + nonce24 + xaes_seal(self.keys[arn], nonce24, pt, self._aad(ctx))

    def decrypt(self, arn, blob, ctx):
        self.calls += 1
        need(arn not in self.silent, "KeyServiceTimeout")
        need(arn not in self.disabled and arn in self.keys, "KeyUnavailable")
        if self.forced is not None:
            return self.forced
        need(blob[:4] == b"TOY1" and len(blob) >= 44, "HeaderAuth")
        return xaes_open(self.keys[arn], blob[4:28], blob[28:], self._aad(ctx), "HeaderAuth")


seq = lambda start, n=16: bytes((start + i) & 255 for i in range(n))
ARN1 = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-4000-8000-000000000001"
ARN2 = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-4000-8000-000000000002"
EVIL = "arn:aws:kms:eu-central-1:999999999999:key/00000000-0000-4000-8000-0000000000ee"
KMS_KEYS = {ARN1: seq(0xC0, 32), ARN2: seq(0xD0, 32), EVIL: seq(0xE0, 32)}
DEK, DEK2, FID, FID2, VID, VRK = seq(0, 32), seq(0x20, 32), seq(0x40), seq(0x50), seq(0x60), seq(0x80, 32)
BID, BKEY, EPOCH, DID, DID2 = seq(0x30), seq(0x70, 32), seq(0xA0, 12), seq(0x10), seq(0x11)


def branch_value(key=BKEY, version=3, arns=(ARN1,), nonce=9):
    toy = ToyKms(KMS_KEYS)
    return branch_tlv_value(VID, BID, version, BKEY, [recipient(1, a, toy.encrypt(a, key, context_branch(VID, BID, version), seq(nonce, 24)), 1767225600) for a in arns])


def mkregistry(rows):
    return {bytes.fromhex(r["volume_id"]): dict(commit=bytes.fromhex(r["commit"]), pinned=set(r["pinned"]), config_seq=r["config_seq"]) for r in rows}


def mkvol(c):
    kms = ToyKms(KMS_KEYS, c.get("kms_disabled", ()), bytes.fromhex(c["kms_returns"]) if "kms_returns" in c else None, c.get("kms_silent", ()))
    br = {} if c.get("no_branch") else dict([branch_tlv_parse(branch_value())])
    v = Volume(bytes.fromhex(c.get("volume_id", VID.hex())), bytes.fromhex(c.get("vrk", VRK.hex())), c.get("allowed", [ARN1, ARN2]),
                  c.get("pages", 1), c.get("aead_allow", [1]), kms, br, c.get("implemented", [1]))
    if br and not c.get("branch_cold"):
        v.opened[BID, 3] = branch_prk(VID, BID, 3, BKEY)        # used before, still in the cache
    return v


def edit(blobs, spec):
    """{'blob': name, 'edits': [[op, ...]]} -> bytes"""
    b = bytearray(bytes.fromhex(blobs[spec["blob"]]))
    for op, *a in spec.get("edits", []):
        if op == "xor":
            for i, x in enumerate(bytes.fromhex(a[1])):
                b[a[0] + i] ^= x
        elif op == "set":
            v = bytes.fromhex(a[1]); b[a[0]:a[0] + len(v)] = v
        elif op == "zero":
            b[a[0]:a[0] + a[1]] = bytes(a[1])
        elif op == "swap":
            x, y, n = a; b[x:x + n], b[y:y + n] = b[y:y + n], b[x:x + n]
        elif op == "put":                                       # dst, blob, src, len
            d, name, s, n = a; b[d:d + n] = bytes.fromhex(blobs[name])[s:s + n]
        elif op == "size":                                      # cut, or extend by zeros
            b = b[:a[0]].ljust(a[0], b"\0")
        elif op == "remac":                                     # header by somebody who has the VRK but not the DEK
            b[80:96] = mac16(volume_keys(VRK, VID)["inject"], bytes(b[:80]))
        else:
            raise ValueError(op)
    return bytes(b)


def op_file_read(bl, i):
    vol = mkvol(i.get("volume", {}))
    pt, h, event = file_read(vol, edit(bl, i), i.get("whole_hole", False))
    out = dict(size=len(pt), sha256=hashlib.sha256(pt).hexdigest(), event=event)
    if h:
        out.update(slot=h["slot"], generation=h["generation"], valid_slots=h["valid_slots"], **{k: h["record"][k] for k in ("seq", "floor", "flags")})
    return out


def op_volume_open(bl, i):
    kms = ToyKms(KMS_KEYS, i.get("kms_disabled", ()))
    try:
        out = volume_open(edit(bl, i), kms, mkregistry(i["registry"]))
    except Kfs as e:
        return dict(error=str(e), kms_calls=kms.calls)
    b = out.pop("_b")
    if out["default"]["mode"] == "branch":                      # what creating a file gives
        vol = Volume(bytes.fromhex(out["volume_id"]), VRK, out["allowed"], out["pages"], kms=kms, branches=b)
        try:
            out["create"] = default_prk(vol, out["default"]).hex()
        except Kfs as e:
            out["create"] = str(e)
    return dict(out, kms_calls=kms.calls)


def op_rewrap(bl, i):
    """One whole re-wrap (or the finishing of one): which slots are valid after the write and after the zeroing."""
    vol, h = mkvol(i.get("volume", {})), edit(bl, i)[:4096]
    out = {}
    if "new" in i:
        h = rewrap_write(h, [bytes.fromhex(i["new"])], 1)
        out["written"] = header_scan(h, 1)
    return dict(out, finished=header_scan(rewrap_finish(vol, h), 1))


def op_torn_slot(bl, i):
    """New slot content cut after k bytes over the old content, for every k: which generation is read?"""
    h, new, off = edit(bl, i), bytes.fromhex(bl[i["new"]]), i["offset"]
    runs = []
    for k in range(len(new) + 1):
        t = h[:off] + new[:k] + h[off + k:]
        try:
            g = slots_choose(t, i["pages"])[1]
        except Kfs as e:
            g = str(e)
        if not runs or runs[-1][1] != g:
            runs.append([k, g])
    return dict(runs=runs)                                      # [first k, generation] ...


X = bytes.fromhex
OPS = {
    "hkdf": lambda bl, i: dict(okm=hkdf_expand(hkdf_extract(X(i["salt"]), X(i["ikm"])), X(i["info"]), i["len"]).hex()),
    "xaes": lambda bl, i: dict(ct=xaes_seal(X(i["key"]), X(i["nonce"]), X(i["pt"]), X(i["aad"])).hex()),
    "siv": lambda bl, i: dict(ct=AESSIV(X(i["key"])).encrypt(X(i["pt"]), [X(a) for a in i["ad"]]).hex()),
    "crc32c": lambda bl, i: dict(crc="%08x" % crc32c(X(i["data"]))),
    "volume_keys": lambda bl, i: {k: v.hex() for k, v in volume_keys(X(i["vrk"]), X(i["volume_id"])).items()},
    "file_keys": lambda bl, i: {k: v.hex() for k, v in file_keys(X(i["dek"]), X(i["header48"])).items()},
    "contexts": lambda bl, i: dict(file=context_file(X(i["volume_id"]), X(i["file_id"])), vrk=context_vrk(X(i["volume_id"])),
                                   branch=context_branch(X(i["volume_id"]), X(i["branch_id"]), i["version"])),
    "slot_len": lambda bl, i: dict(len=slot_len(i["pages"]), a=96, b=96 + slot_len(i["pages"]), record_a=4096 * i["pages"] - 1024,
                                   record_b=4096 * i["pages"] - 512, entries=slot_len(i["pages"]) - 24),
    "record": lambda bl, i: dict(record=record_build(X(i["k_record"]), X(i["file_id"]), i["seq"], i["floor"], i["flags"]).hex()),
    "unit_seal": lambda bl, i: (lambda u: dict(first32=u[:32].hex(), tag=u[-16:].hex(), sha256=hashlib.sha256(u).hexdigest()))(
        unit_seal(X(i["k_content"]), i["u"], X(i["epoch"]), i["ctr"], X(i["pt"]))),
    "unit_open": lambda bl, i: dict(sha256=hashlib.sha256(unit_open(X(i["k_content"]), i["u"], edit(bl, i), i["floor"], i["flags"])).hexdigest()),
    "size": lambda bl, i: dict(disk=size_to_disk(i["n"], i["pages"])),
    "size_back": lambda bl, i: dict(n=size_from_disk(i["disk"], i["pages"])),
    "size_shown": lambda bl, i: dict(n=size_shown(i["disk"], i["pages"])),
    "file_read": op_file_read,
    "torn_slot": op_torn_slot,
    "branch_wrap": lambda bl, i: dict(blob=branch_wrap(branch_prk(X(i["volume_id"]), X(i["branch_id"]), i["version"], X(i["branch_key"])), X(i["branch_id"]), i["version"],
                                                       X(i["header48"]), X(i["dek"]), X(i["nonce"])).hex()),
    "branch_tlv": lambda bl, i: dict(value=branch_tlv_value(X(i["volume_id"]), X(i["branch_id"]), i["version"], X(i["branch_key"]), [X(e) for e in i["entries"]]).hex()),
    "branch_open": lambda bl, i: (lambda k, v: dict(branch_id=k[0].hex(), version=k[1], entries=len(v[1]),
                                                    prk=branch_open(Volume(VID, VRK, i.get("allowed", [ARN1, ARN2]), kms=ToyKms(KMS_KEYS, i.get("kms_disabled", ())), branches={k: v}), *k).hex()))(
        *branch_tlv_parse(edit(bl, i))),
    "rewrap": op_rewrap,
    "header_scan": lambda bl, i: dict(slots=header_scan(edit(bl, i)[:4096], 1)),
    "record_next": lambda bl, i: (lambda h, g: dict(changed=[[o, g[o:o + 64].hex()] for o in (3072, 3584) if h[o:o + 64] != g[o:o + 64]], same_elsewhere=h[:3072] == g[:3072]))(
        edit(bl, i)[:4096], record_next(X(i["k_record"]), edit(bl, i)[16:32], edit(bl, i)[:4096], 1, i["floor"], i["flags"])),
    "unit_span": lambda bl, i: dict(first=i["off"] // DATA, last=(i["off"] + i["len"] - 1) // DATA),
    "dir_seal": lambda bl, i: (lambda t: dict(text=t, chars=len(t)))(dirlink_build(volume_keys(VRK, VID)["dir"], X(i["dir_id"]))),
    "dir_open": lambda bl, i: dict(dir_id=dirlink_open(volume_keys(VRK, VID)["dir"], i["text"], i.get("form", "symlink")).hex()),
    "dir_check": lambda bl, i: dict(verified=dirid_check(volume_keys(VRK, VID), X(i["dir_id"]), i["entries"], i.get("plain_names", False))),
    "dir_recover": lambda bl, i: (lambda r: dict(dir_id=r[0].hex(), padded=r[1].hex()))(
        dirid_recover(volume_keys(VRK, VID), siv_blob(i["entry"], i.get("side"), i.get("plain_names", False)) or b"")),
    "name_encode": lambda bl, i: (lambda r: dict(entry=r[0], chars=len(r[0].encode()), side=r[1], side_chars=len(r[1] or "")))(
        name_encode(volume_keys(VRK, VID), X(i["dir_id"]), X(i["name"]), *name_form(i))),
    "name_decode": lambda bl, i: dict(name=name_decode(volume_keys(VRK, VID), X(i["dir_id"]), i["entry"], i.get("side"), *name_form(i)).hex()),
    "symlink_seal": lambda bl, i: (lambda t: dict(text=t, chars=len(t), size=symlink_size(len(t))))(symlink_seal(volume_keys(VRK, VID), X(i["target"]), X(i["nonce"]))),
    "symlink_open": lambda bl, i: dict(target=symlink_open(volume_keys(VRK, VID), i["text"]).hex()),
    "xattr_name": lambda bl, i: (lambda t: dict(disk=t, chars=len(t)))(xattr_name_seal(volume_keys(VRK, VID), X(i["name"]))),
    "xattr_name_open": lambda bl, i: dict(name=xattr_name_open(volume_keys(VRK, VID), i["disk"]).hex()),
    "xattr_long_open": lambda bl, i: (lambda nv: dict(name=nv[0].hex(), value=nv[1].hex()))(xattr_long_open(volume_keys(VRK, VID), i["disk"], X(i["data"]))),
    "xattr_value": lambda bl, i: dict(data=xattr_value_seal(volume_keys(VRK, VID), X(i["name"]), X(i["value"]), X(i["nonce"])).hex()),
    "xattr_value_open": lambda bl, i: dict(value=xattr_value_open(volume_keys(VRK, VID), X(i["name"]), X(i["data"])).hex()),
    "volume_open": op_volume_open,
}


def op_slot_fits(bl, i):
    r = [recipient(1, "k" * k, bytes([1]) * b) for k, b in i["entries"]]
    slot_build(1, r, i["pages"])
    return dict(used=24 + sum(map(len, r)))


OPS["slot_fits"] = op_slot_fits


def name_form(i):
    plain = i.get("plain_names", False)
    return i.get("short_max", 255 if plain else 175), plain


def run(blobs, v):
    try:
        return OPS[v["op"]](blobs, v["in"])
    except Kfs as e:
        return dict(error=str(e))


def make():
    blobs, vecs = {}, []

    def add(ident, op, expect=None, **i):
        """expect: a name = that outcome; a dict = these fields must come out (known answers, not our own); None = must succeed."""
        v = dict(id=ident, op=op, **{"in": i})
        out = run(blobs, v)
        if isinstance(expect, str):
            assert out.get("error") == expect, (ident, expect, out)
        else:
            assert "error" not in out, (ident, out)
            for k, x in (expect or {}).items():
                assert out[k] == x, (ident, k, x, out[k])
        v["out"] = out
        vecs.append(v)
        return out

    # --- published known answers
    add("hkdf/rfc5869-1", "hkdf", dict(okm="3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
        ikm="0b" * 22, salt=seq(0, 13).hex(), info=seq(0xF0, 10).hex(), len=42)
    n24 = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    add("xaes/c2sp-1", "xaes", dict(ct="ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"), key="01" * 32, nonce=n24.hex(), pt=b"XAES-256-GCM".hex(), aad="")
    add("xaes/c2sp-2", "xaes", dict(ct="986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"), key="03" * 32, nonce=n24.hex(), pt=b"XAES-256-GCM".hex(),
        aad=b"c2sp.org/XAES-256-GCM".hex())
    add("siv/rfc5297-A1", "siv", dict(ct="85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"),
        key="fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", ad=["101112131415161718191a1b1c1d1e1f2021222324252627"], pt="112233445566778899aabbccddee")
    add("crc32c/check", "crc32c", dict(crc="e3069283"), data=b"123456789".hex())

    # --- keys, contexts, geometry
    st = static48(VID, FID)
    assert st.hex() == "894b4653310d0a1a0100010c01000000" + FID.hex() + VID.hex()
    vk = volume_keys(VRK, VID)
    add("keys/volume", "volume_keys", vrk=VRK.hex(), volume_id=VID.hex())
    fk = add("keys/file", "file_keys", dict(content="ea3782f939d367b3d4fdbce23019c3b017f406c6c45df43b14db22869e1f483c",
                                            commit="421895472d86ff6e52096575644194b4989731dfea83abb553525fe7c1c454c3",
                                            record="ee0003724ef99ad3863647768089fb8160d69362f60568978f91fcce5948cecd"), dek=DEK.hex(), header48=st.hex())
    add("keys/file-P4", "file_keys", dek=DEK.hex(), header48=static48(VID, FID, 4).hex())
    add("kms/contexts", "contexts", volume_id=VID.hex(), file_id=FID.hex(), branch_id=BID.hex(), version=3)
    add("slot/len-P1", "slot_len", dict(len=1488, a=96, b=1584, record_a=3072, record_b=3584, entries=1464), pages=1)
    add("slot/len-P4", "slot_len", dict(len=7632, a=96, b=7728, record_a=15360, record_b=15872, entries=7608), pages=4)
    add("slot/fits-P1-max", "slot_fits", dict(used=1488), pages=1, entries=[[78, 1370]])
    add("slot/fits-P1-over", "slot_fits", "SlotOverflow", pages=1, entries=[[78, 1371]])
    add("slot/fits-P1-five", "slot_fits", dict(used=1414), pages=1, entries=[[78, 184]] * 5)
    add("slot/fits-P1-six", "slot_fits", "SlotOverflow", pages=1, entries=[[78, 184]] * 6)
    add("slot/fits-P4-largest-entry", "slot_fits", dict(used=6696), pages=4, entries=[[512, 6144]])
    add("slot/fits-P4-nine", "slot_fits", "SlotOverflow", pages=4, entries=[[78, 184]] * 9)
    assert slot_parse(slot_build(GEN_MAX, [recipient(1, ARN1, b"x")], 1))[0] == 1 << 63

    # --- records
    add("record/seq7", "record", dict(record="4b4652310000000007000000000000000d00000000000000" + "00" * 24 + "44fa31baab5b334822654e79f7539dde"),
        k_record=fk["record"], file_id=FID.hex(), seq=7, floor=13, flags=0)
    add("record/holes", "record", k_record=fk["record"], file_id=FID.hex(), seq=8, floor=1 << 40, flags=HAS_HOLES)

    # --- units
    pt5 = bytes(range(256)) * 15 + bytes(224)
    add("unit/u0-hello", "unit_seal", dict(first32="a0a1a2a3a4a5a6a7a8a9aaab01000000006e5c399882983d4cdaf4df84073e87",
                                           tag="589f5be23a85521107f37634a1058d17", sha256="e7bedb1049225cd6a0c6b8e97bb83ef16a3443bf8604b1888d4709b691dc5491"),
        k_content=fk["content"], u=0, epoch=EPOCH.hex(), ctr=1, pt=b"hello, world\n".hex())
    add("unit/u5-full", "unit_seal", dict(tag="86717590f3cfa27c1d9ddfdeab985ec1", sha256="9acaf2ed5f7b9bb6956c94bc8ea3e933065e1d81ad7e8992e76947244ab8ac59"),
        k_content=fk["content"], u=5, epoch=EPOCH.hex(), ctr=0x01020304, pt=pt5.hex())
    for u, c, n in ((0, 1, 1), (1, 2, 4063), (2, 0xFFFFFFFF, 4064), ((1 << 32) + 1, 9, 100), ((1 << 51) - 3, 1, 4064)):
        add("unit/u%d-ctr%d-len%d" % (u, c, n), "unit_seal", k_content=fk["content"], u=u, epoch=EPOCH.hex(), ctr=c, pt=(seq(7, 256) * 16)[:n].hex())
    blobs["U5"] = unit_seal(X(fk["content"]), 5, EPOCH, 0x01020304, pt5).hex()
    blobs["Z"] = bytes(UNIT).hex()
    uo = lambda ident, exp, **k: add("unit-open/" + ident, "unit_open", exp, **dict(dict(blob="U5", k_content=fk["content"], u=5, floor=1 << 30, flags=0), **k))
    uo("good", dict(sha256=hashlib.sha256(pt5).hexdigest()))
    uo("wrong-index", "UnitAuth", u=6)
    uo("wrong-key", "UnitAuth", k_content=fk["commit"])
    for name, off in (("epoch", 0), ("epoch-end", 11), ("ctr", 12), ("ct-first", 16), ("ct-last", 4079), ("tag", 4080), ("tag-last", 4095)):
        uo("flip-" + name, "UnitAuth", edits=[["xor", off, "01"]])
    uo("epoch-zero", "UnitAuth", edits=[["zero", 0, 12]])
    uo("ctr-zero", "UnitAuth", edits=[["zero", 12, 4]])
    uo("half-torn", "UnitAuth", edits=[["zero", 2048, 2048]])
    zeros = dict(sha256=hashlib.sha256(bytes(DATA)).hexdigest())
    uo("zero-below-floor", "UnitZero", blob="Z")
    uo("zero-has-holes", zeros, blob="Z", flags=HAS_HOLES)
    uo("zero-floor-0", zeros, blob="Z", u=0, floor=0)
    uo("zero-unit-0-floor-1", "UnitZero", blob="Z", u=0, floor=1)
    uo("zero-floor-ends-before", zeros, blob="Z", floor=5 * DATA)
    uo("zero-floor-one-byte-in", "UnitZero", blob="Z", floor=5 * DATA + 1)
    uo("zero-but-one-bit", "UnitAuth", blob="Z", flags=HAS_HOLES, edits=[["xor", 4000, "01"]])

    # --- a 4096-aligned 4096-byte write: exactly two units (the offset in the unit is 32 (k mod 127) <= 4032, and 4032 + 4096 = 2 * 4064)
    for k in (0, 1, 63, 126, 127, 1 << 30):
        a = 4096 * k // DATA
        add("span/aligned-%d" % k, "unit_span", dict(first=a, last=a + 1), off=4096 * k, len=4096)
    assert all((4096 * k + 4095) // DATA == 4096 * k // DATA + 1 for k in range(127))
    add("span/unaligned-three", "unit_span", dict(first=0, last=2), off=4063, len=4096)

    # --- sizes
    for n, d in ((0, 0), (1, 8193), (13, 8205), (4063, 12255), (4064, 12256), (4065, 12289), (8128, 16352), (8129, 16385), (1 << 20, 1065024), (10 ** 12, None), (n_max(1), 2 ** 63 - 32)):
        o = add("size/P1-%d" % n, "size", dict(disk=d) if d is not None else None, n=n, pages=1)
        add("size/P1-back-%d" % o["disk"], "size_back", dict(n=n), disk=o["disk"], pages=1)
    for n in (0, 1, 4064, 4065, n_max(4)):
        o = add("size/P4-%d" % n, "size", n=n, pages=4)
        add("size/P4-back-%d" % o["disk"], "size_back", dict(n=n), disk=o["disk"], pages=4)
    add("size/too-big", "size", "TooBig", n=n_max(1) + 1, pages=1)
    for d in (1, 4095, 4096, 4097, 8191, 8192, 12257, 12287, 12288, 16353):
        add("size/bad-%d" % d, "size_back", "BadSize", disk=d, pages=1)
        add("size/shown-%d" % d, "size_shown", dict(n={12257: 4064, 12287: 4064, 12288: 4064, 16353: 8128}.get(d, 0)), disk=d, pages=1)

    # --- whole files. F: 3 units, direct wrap, fsynced (records seq 1 and 2). FU: the same, never fsynced (seq 1, floor 0). G: same volume, other file. V2: other volume. H: hole. P4, B: branch.
    toy, vol, vol4 = ToyKms(KMS_KEYS), mkvol({}), mkvol(dict(pages=4))
    pt = (b"The quick brown fox. " * 500)[:10000]
    st2, st4 = static48(VID, FID2), static48(VID, FID, 4)
    rec = lambda s, dek, arn, no: recipient(1, arn, toy.encrypt(arn, dek, context_file(s[32:48], s[16:32]), seq(no, 24)), 1767225600)
    brec = lambda s, dek: recipient(2, "", branch_wrap(branch_prk(VID, BID, 3, BKEY), BID, 3, s, dek, seq(0x77, 24)), 1767225600)
    blobs["F"] = file_build(vol, st, DEK, [rec(st, DEK, ARN1, 1)], pt, EPOCH).hex()
    blobs["G"] = file_build(vol, st2, DEK2, [rec(st2, DEK2, ARN1, 2)], pt[::-1], EPOCH).hex()
    blobs["H"] = file_build(vol, st, DEK, [rec(st, DEK, ARN1, 1)], b"A" * DATA + bytes(DATA) + b"B" * 10, EPOCH, holes=(1,)).hex()
    blobs["P4"] = file_build(vol4, st4, DEK, [rec(st4, DEK, ARN1, 3)], b"hello, world\n", EPOCH).hex()
    blobs["BR"] = file_build(vol, st, DEK, [brec(st, DEK)], b"hello, world\n", EPOCH).hex()
    blobs["M"] = file_build(vol, st, DEK, [rec(st, DEK, ARN1, 1), rec(st, DEK, ARN2, 4), brec(st, DEK)], b"hello, world\n", EPOCH).hex()
    blobs["FU"] = file_build(vol, st, DEK, [rec(st, DEK, ARN1, 1)], pt, EPOCH, synced=False).hex()
    blobs["EV"] = file_build(vol, st, DEK, [rec(st, DEK, EVIL, 5)], b"hello, world\n", EPOCH).hex()
    F = X(blobs["F"])
    fr = lambda ident, exp, blob="F", **k: add("file/" + ident, "file_read", exp, blob=blob, **k)
    good = dict(size=10000, sha256=hashlib.sha256(pt).hexdigest())
    fr("direct", dict(good, slot="A", generation=1, valid_slots=1, seq=2, floor=10000, flags=0, event=None))
    fr("never-synced-floor-0", dict(good, seq=1, floor=0), "FU")
    fr("second-file", dict(size=10000), "G")
    fr("hole", dict(size=2 * DATA + 10, flags=HAS_HOLES), "H")
    fr("header-4-pages", dict(size=13), "P4", volume=dict(pages=4))
    fr("branch", dict(size=13), "BR")
    fr("three-recipients", dict(size=13), "M")
    fr("three-recipients-first-key-disabled", dict(size=13), "M", volume=dict(kms_disabled=[ARN1]))
    fr("three-recipients-only-branch-left", dict(size=13), "M", volume=dict(kms_disabled=[ARN1, ARN2]))
    fr("empty", dict(size=0), edits=[["size", 0]])
    fr("trailing-area-not-zero-is-ignored", good, edits=[["set", len(F) - 100, "ff" * 100]])
    # header fields, one bit each
    for name, off, out in (("magic", 0, "NotKfs"), ("major", 8, "UnknownFeature"), ("minor", 9, "HeaderAuth"), ("aead", 10, "UnknownFeature"),
                           ("unit-log2", 11, "UnknownFeature"), ("pages", 12, "UnknownFeature"), ("static-flags", 13, "UnknownFeature"), ("zero-14", 14, "UnknownFeature"),
                           ("zero-15", 15, "UnknownFeature"), ("file-id", 16, "HeaderAuth"), ("file-id-end", 31, "HeaderAuth"), ("volume-id", 32, "ForeignVolume"),
                           ("commit", 48, "HeaderAuth"), ("commit-end", 79, "HeaderAuth"), ("volume-mac", 80, "HeaderAuth"), ("volume-mac-end", 95, "HeaderAuth"),
                           ("slot-magic", 96, "NoRecipient"), ("slot-crc", 100, "NoRecipient"), ("slot-generation", 104, "NoRecipient"), ("slot-count", 112, "NoRecipient"),
                           ("entry-type", 120, "NoRecipient"), ("key-arn", 136, "NoRecipient"), ("blob", 220, "NoRecipient"), ("slot-padding", 1500, "NoRecipient"),
                           ("slot-b-not-empty", 1584, None)):
        fr("flip-" + name, out, edits=[["xor", off, "02" if name == "major" else "01"]])
    # records, one bit each: the only record of FU; the newer one of F, after which the older one counts
    for name, off in (("magic", 0), ("flags", 4), ("seq", 8), ("floor", 16), ("zero-first", 24), ("zero-last", 47), ("mac", 48), ("mac-end", 63)):
        fr("flip-only-record-" + name, "RecordAuth", "FU", edits=[["xor", 3072 + off, "01"]])
        fr("flip-newer-record-" + name, dict(good, seq=1, floor=0), edits=[["xor", 3584 + off, "01"]])
    fr("flip-older-record", dict(good, seq=2, floor=10000), edits=[["xor", 3072 + 48, "01"]])
    fr("record-area-beyond-64-ignored", dict(good, seq=2), edits=[["set", 3648, "ff" * 16], ["set", 3136, "ff" * 16]])
    fr("file-id-zero", "HeaderAuth", edits=[["zero", 16, 16]])
    fr("downgrade-aead-allowed", "HeaderAuth", edits=[["set", 10, "02"]], volume=dict(aead_allow=[1, 2], implemented=[1, 2]))
    fr("downgrade-aead-with-volume-key", "HeaderAuth", edits=[["set", 10, "02"], ["remac"]], volume=dict(aead_allow=[1, 2], implemented=[1, 2]))
    fr("aead-allowed-not-implemented", "UnknownFeature", edits=[["set", 10, "03"]], volume=dict(aead_allow=[1, 3]))
    fr("minor-with-volume-key", "HeaderAuth", edits=[["set", 9, "01"], ["remac"]])
    fr("commit-with-volume-key", "HeaderAuth", edits=[["xor", 48, "01"], ["remac"]])
    fr("foreign-volume", "ForeignVolume", volume=dict(volume_id=seq(0x61).hex()))
    fr("foreign-volume-key", "HeaderAuth", volume=dict(vrk=seq(0x81, 32).hex()))
    fr("kms-returns-other-dek", "HeaderAuth", volume=dict(kms_returns=DEK2.hex()))
    fr("kms-returns-short-dek", "HeaderAuth", volume=dict(kms_returns=DEK2[:16].hex()))
    fr("key-not-in-allow-list", "KeyForbidden", "EV")
    fr("key-disabled", "KeyUnavailable", volume=dict(kms_disabled=[ARN1]))
    fr("kms-silent", "KeyServiceTimeout", volume=dict(kms_silent=[ARN1]))
    fr("one-key-disabled-other-silent-no-branch", "KeyServiceTimeout", "M", volume=dict(kms_disabled=[ARN1], kms_silent=[ARN2], no_branch=True))
    fr("one-key-silent-other-good", dict(size=13), "M", volume=dict(kms_silent=[ARN1], no_branch=True))
    fr("branch-version-missing", "KeyUnavailable", "BR", volume=dict(no_branch=True))
    fr("branch-cold", dict(size=13), "BR", volume=dict(branch_cold=True))
    fr("branch-cold-key-disabled", "KeyUnavailable", "BR", volume=dict(branch_cold=True, kms_disabled=[ARN1]))
    fr("branch-cold-key-not-allowed", "KeyForbidden", "BR", volume=dict(branch_cold=True, allowed=[ARN2]))
    fr("recipient-of-other-file", "HeaderAuth", edits=[["put", 96, "G", 96, 1488]])
    fr("header-of-other-file", "UnitAuth", edits=[["put", 0, "G", 0, 4096]])
    # all-zero header: NeverSynced only if the whole backing file is a hole
    n0 = dict(size=10000, sha256=hashlib.sha256(bytes(10000)).hexdigest(), event="NeverSynced")
    hole = lambda n: [["size", 0], ["size", size_to_disk(n)]]
    fr("never-synced", n0, edits=hole(10000), whole_hole=True)
    fr("never-synced-1-byte", dict(size=1, event="NeverSynced"), edits=hole(1), whole_hole=True)
    fr("never-synced-malformed-size", "BadSize", edits=[["size", 0], ["size", 8192]], whole_hole=True)
    fr("header-lost", "HeaderLost", edits=[["zero", 0, 4096]])
    fr("header-lost-zero-bytes-but-not-a-hole", "HeaderLost", edits=hole(10000), whole_hole=False)
    fr("header-lost-never-synced-file", "HeaderLost", "FU", edits=[["zero", 0, 4096]])
    fr("header-present-rest-a-hole", "UnitZero", edits=[["size", 4096], ["size", len(F)]])
    fr("header-present-rest-a-hole-floor-0", dict(size=10000, sha256=n0["sha256"], event=None), "FU", edits=[["size", 4096], ["size", len(F)]])
    fr("header-pages-mismatch", "UnknownFeature", "P4", edits=[["size", 12256]], volume=dict(pages=1))
    # entries an attacker can write: the CRC is right, the content is not
    def slot_edit(*entries):
        return [["set", 96, slot_build(1, list(entries), 1).hex()]]
    r1 = rec(st, DEK, ARN1, 1)
    fr("recipient-type-unknown", "NoRecipient", edits=slot_edit(recipient(9, "x", b"y")))
    fr("recipient-type-unknown-then-good", good, edits=slot_edit(recipient(9, "x", b"y"), r1))
    fr("recipient-flags-unknown", "NoRecipient", edits=slot_edit(r1[:1] + b"\x01" + r1[2:]))
    fr("recipient-other-dek-right-context", "HeaderAuth", edits=slot_edit(recipient(1, ARN1, toy.encrypt(ARN1, DEK2, context_file(VID, FID), seq(7, 24)))))
    fr("recipient-other-dek-then-good", good, edits=slot_edit(recipient(1, ARN1, toy.encrypt(ARN1, DEK2, context_file(VID, FID), seq(7, 24))), r1))
    fr("recipient-evil-key-right-context", "KeyForbidden", edits=slot_edit(recipient(1, EVIL, toy.encrypt(EVIL, DEK, context_file(VID, FID), seq(7, 24)))))
    fr("recipient-length-beyond-slot", "NoRecipient", edits=slot_edit(r1[:4] + struct.pack("<H", 6144) + r1[6:]))
    fr("recipient-key-id-513", "NoRecipient", edits=slot_edit(recipient(1, "k" * 513, b"y")))
    fr("recipient-blob-empty", "NoRecipient", edits=slot_edit(recipient(1, ARN1, b"")))
    fr("generation-tie-takes-A", dict(good, slot="A", generation=1), edits=[["put", 1584, "F", 96, 1488]])
    # sizes against the floor
    cut1 = size_to_disk(2 * DATA)
    fr("cut-one-unit", "Truncated", edits=[["size", cut1]])
    fr("cut-one-byte", "Truncated", edits=[["size", len(F) - 1]])
    fr("cut-to-one-byte", "Truncated", edits=[["size", size_to_disk(1)]])
    fr("cut-one-unit-never-synced", dict(size=2 * DATA, floor=0), "FU", edits=[["size", cut1]])
    fr("cut-one-unit-newer-record-removed", dict(size=2 * DATA, floor=0, seq=1), edits=[["size", cut1], ["zero", 3584, 512]])
    fr("cut-malformed", "BadSize", edits=[["size", 4096 + 2 * UNIT]])
    fr("cut-to-header", "BadSize", edits=[["size", 4096]])
    fr("extended-within-tail-unit", dict(size=10001), edits=[["size", len(F) + 1]])
    fr("extended-by-hole-above-floor", dict(size=4 * DATA), edits=[["size", len(F) - 1872], ["size", size_to_disk(4 * DATA)]])
    # units
    fr("units-swapped", "UnitAuth", edits=[["swap", 4096, 8192, 4096]])
    fr("unit-of-other-file", "UnitAuth", edits=[["put", 4096, "G", 4096, 4096]])
    fr("unit-zeroed", "UnitZero", edits=[["zero", 8192, 4096]])
    fr("unit-zeroed-last", "UnitZero", edits=[["zero", 4096 + 2 * UNIT, 4096]])
    fr("unit-zeroed-never-synced", dict(size=10000, floor=0), "FU", edits=[["zero", 8192, 4096]])
    fr("unit-zeroed-in-sparse-file", dict(size=2 * DATA + 10), "H", edits=[["zero", 4096, 4096]])
    # re-wrap: slot B generation 2, old slot zeroed, torn writes at every byte
    blobs["S2"] = slot_build(2, [rec(st, DEK, ARN2, 6)], 1).hex()
    blobs["S3"] = slot_build(3, [rec(st, DEK, ARN1, 8)], 1).hex()
    fr("rewrapped-both-slots", dict(good, slot="B", generation=2, valid_slots=2), edits=[["put", 1584, "S2", 0, 1488]])
    fr("rewrapped-old-slot-zeroed", dict(good, slot="B", generation=2, valid_slots=1), edits=[["put", 1584, "S2", 0, 1488], ["zero", 96, 1488]])
    fr("rewrapped-third-time", dict(good, slot="A", generation=3), edits=[["put", 1584, "S2", 0, 1488], ["put", 96, "S3", 0, 1488]])
    fr("rewrapped-old-key-disabled", dict(good, generation=2), edits=[["put", 1584, "S2", 0, 1488]], volume=dict(kms_disabled=[ARN1]))
    fr("both-slots-torn", "NoRecipient", edits=[["put", 1584, "S2", 0, 700], ["zero", 96, 1488], ["xor", 1700, "01"]])
    blobs["FH"] = F[:4096].hex()
    used = len(X(blobs["S2"]).rstrip(b"\0"))
    add("slot/torn-B-over-empty", "torn_slot", dict(runs=[[0, 1], [used, 2]]), blob="FH", new="S2", offset=1584, pages=1)
    used3 = max(i for i in range(1488) if X(blobs["S3"])[i] != F[96 + i]) + 1
    add("slot/torn-A-over-older", "torn_slot", dict(runs=[[0, 2], [used3, 3]]), blob="FH", edits=[["put", 1584, "S2", 0, 1488]], new="S3", offset=96, pages=1)
    blobs["Z1488"] = bytes(1488).hex()
    add("slot/torn-zeroing-of-A", "torn_slot", dict(runs=[[0, 2]]), blob="FH", edits=[["put", 1584, "S2", 0, 1488]], new="Z1488", offset=96, pages=1)
    # two valid slots, scans, generation bound
    two = [["put", 1584, "S2", 0, 1488]]
    S = lambda slot, gen, *keys: dict(slot=slot, generation=gen, keys=list(keys))
    add("slot/scan-one", "header_scan", dict(slots=[S("A", 1, ARN1)]), blob="F")
    add("slot/scan-two-lists-both", "header_scan", dict(slots=[S("B", 2, ARN2), S("A", 1, ARN1)]), blob="F", edits=two)
    add("slot/rewrap", "rewrap", dict(written=[S("B", 2, ARN2), S("A", 1, ARN1)], finished=[S("B", 2, ARN2)]), blob="F", new=rec(st, DEK, ARN2, 6).hex())
    add("slot/two-valid-first-writer-finishes", "rewrap", dict(finished=[S("B", 2, ARN2)]), blob="F", edits=two)
    add("slot/two-valid-winner-does-not-verify", "rewrap", "HeaderAuth", blob="F", edits=[["set", 1584, slot_build(2, [rec(st, DEK2, ARN2, 6)], 1).hex()]])
    add("slot/two-valid-winner-key-disabled", "rewrap", "KeyUnavailable", blob="F", edits=two, volume=dict(kms_disabled=[ARN2]))
    genslot = lambda g: (lambda b: (b"KFR0" + struct.pack("<I", crc32c(b)) + b).hex())(struct.pack("<Q", g) + slot_build(1, [rec(st, DEK, ARN2, 6)], 1)[16:])
    assert genslot(5) == slot_build(5, [rec(st, DEK, ARN2, 6)], 1).hex()
    fr("generation-2^63", dict(good, slot="B", generation=1 << 63, valid_slots=2), edits=[["set", 1584, genslot(1 << 63)]])
    fr("generation-beyond-2^63-is-no-slot", dict(good, slot="A", generation=1, valid_slots=1), edits=[["set", 1584, genslot((1 << 63) + 1)]])
    fr("generation-2^64-1-is-no-slot", dict(good, slot="A", generation=1, valid_slots=1), edits=[["set", 1584, genslot((1 << 64) - 1)]])
    fr("generation-0-is-no-slot", dict(good, slot="A", generation=1, valid_slots=1), edits=[["set", 1584, genslot(0)]])
    add("slot/rewrap-at-generation-2^63", "rewrap", "SlotOverflow", blob="F", edits=[["set", 1584, genslot(1 << 63)]], new=rec(st, DEK, ARN1, 8).hex())
    # records
    K = X(fk["record"])
    rb = lambda *a: record_build(K, FID, *a).hex()
    fr("record-pair", dict(good, seq=2, floor=9000), edits=[["set", 3584, rb(2, 9000)]])
    fr("record-pair-odd-newer", dict(good, seq=3, floor=9000), edits=[["set", 3072, rb(3, 9000)]])
    fr("record-one-valid-is-enough", dict(good, seq=3, floor=10000), edits=[["set", 3072, rb(3, 10000)], ["zero", 3584, 512]])
    fr("record-gap-is-legal", dict(good, seq=6, floor=9000), edits=[["set", 3072, rb(3, 10000)], ["set", 3584, rb(6, 9000)]])
    fr("record-wrong-parity", "RecordAuth", "FU", edits=[["set", 3072, rb(2, 10000)]])
    fr("record-torn-newer-previous-counts", dict(good, seq=3, floor=9000), edits=[["set", 3072, rb(3, 9000)], ["set", 3584, rb(4, 10000)], ["zero", 3616, 32]])
    fr("record-both-gone", "RecordAuth", edits=[["zero", 3072, 1024]])
    fr("record-unknown-flag", "UnknownFeature", edits=[["set", 3584, rb(2, 10000, 4)]])
    fr("record-of-other-file", "RecordAuth", edits=[["put", 3072, "G", 3072, 1024]])
    b = b"KFR1" + struct.pack("<IQQQ", 0, 2, 10000, 1) + bytes(16)
    fr("record-zero-field-set-right-mac", "RecordAuth", edits=[["zero", 3072, 512], ["set", 3584, (b + mac16(K, FID + b)).hex()]])
    fr("floor-above-size-right-mac", "Truncated", edits=[["set", 3584, rb(2, 10001)]])
    fr("floor-lowered-before-shrink", dict(size=2 * DATA, seq=3, floor=DATA), edits=[["set", 3072, rb(3, DATA)], ["size", cut1]])
    fr("floor-lowered-unit-beyond-is-hole", dict(size=10000, seq=3), edits=[["set", 3072, rb(3, DATA)], ["zero", 8192, 4096]])
    fr("floor-lowered-unit-below", "UnitZero", edits=[["set", 3072, rb(3, DATA + 1)], ["zero", 8192, 4096]])
    rn = lambda ident, floor, flags, changed, **k: add("record/next-" + ident, "record_next", dict(changed=changed, same_elsewhere=True), **dict(dict(blob="F", k_record=fk["record"], floor=floor, flags=flags), **k))
    rn("first-raise", 10000, 0, [[3584, rb(2, 10000)]], blob="FU")
    rn("raise", 12000, 0, [[3072, rb(3, 12000)]])
    rn("nothing-changes", 10000, 0, [])
    rn("holes-set", 10000, HAS_HOLES, [[3072, rb(3, 10000, HAS_HOLES)]])
    rn("holes-are-sticky", 5000, 0, [[3072, record_build(K, FID, 3, 5000, HAS_HOLES).hex()]], blob="H")
    rn("after-torn-newer", 12000, 0, [[3584, rb(2, 12000)]], edits=[["zero", 3584, 64]])

    # --- branch
    add("branch/wrap", "branch_wrap", volume_id=VID.hex(), branch_id=BID.hex(), version=3, branch_key=BKEY.hex(), header48=st.hex(), dek=DEK.hex(), nonce=seq(0x77, 24).hex())
    bent = [recipient(1, ARN1, toy.encrypt(ARN1, BKEY, context_branch(VID, BID, 3), seq(9, 24)), 1767225600)]
    blobs["BT"] = add("branch/tlv", "branch_tlv", volume_id=VID.hex(), branch_id=BID.hex(), version=3, branch_key=BKEY.hex(), entries=[e.hex() for e in bent])["value"]
    assert X(blobs["BT"]) == branch_value()
    bo = lambda ident, exp, **k: add("branch/open-" + ident, "branch_open", exp, **dict(dict(blob="BT"), **k))
    bo("good", dict(branch_id=BID.hex(), version=3, entries=1))
    bo("key-disabled", "KeyUnavailable", kms_disabled=[ARN1])
    bo("key-not-in-effective-allow-list", "KeyForbidden", allowed=[ARN2])
    for name, off in (("id", 0), ("version", 16), ("commit", 20), ("blob", 52 + 16 + len(ARN1) + 40)):
        bo("flip-" + name, "HeaderAuth", edits=[["xor", off, "01"]])
    bo("version-0", "VolumeAuth", edits=[["zero", 16, 4]])
    bo("no-entry", "VolumeAuth", edits=[["size", 52]])
    bo("entry-cut", "VolumeAuth", edits=[["size", len(X(blobs["BT"])) - 1]])
    bo("byte-after-entry", "VolumeAuth", edits=[["size", len(X(blobs["BT"])) + 1]])
    bo("entry-type-2", "VolumeAuth", edits=[["set", 52, "02"]])
    blobs["BT2"] = branch_value(arns=(EVIL, ARN2)).hex()
    bo("two-entries-second-opens", dict(version=3, entries=2), blob="BT2")
    blobs["BTX"] = branch_value(key=DEK2).hex()
    bo("kms-wraps-other-key", "HeaderAuth", blob="BTX")
    blobs["BT9"] = (X(blobs["BT"]) + bent[0] * 8).hex()
    bo("nine-entries", "VolumeAuth", blob="BT9")
    B = X(blobs["BR"])
    def branch_edit(off):                                       # change the wrapped blob and repair the slot's CRC, as an attacker would
        s = bytearray(B[96:1584]); s[24 + 16 + off] ^= 1
        s[4:8] = struct.pack("<I", crc32c(bytes(s[8:])))
        return [["set", 96, bytes(s[:160]).hex()]]
    for name, off, out in (("id", 0, "KeyUnavailable"), ("version", 16, "KeyUnavailable"), ("nonce", 20, "HeaderAuth"), ("ct", 44, "HeaderAuth"), ("tag", 91, "HeaderAuth")):
        fr("branch-blob-flip-%s-crc-repaired" % name, out, "BR", edits=branch_edit(off))

    # --- directories and names
    d1, d2 = dirlink_build(vk["dir"], DID), dirlink_build(vk["dir"], DID2)
    alt = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    flip = lambda t, i, by=1: t[:i] + alt[alt.index(t[i]) ^ by] + t[i + 1:]
    assert d1 == "kfs1:" + b64(DID + hmac.new(vk["dir"], b"kfs1:" + DID, hashlib.sha256).digest()[:16]) and len(d1) == 48
    do = lambda ident, exp, text: add("dir/" + ident, "dir_open", exp, text=text)
    add("dir/seal", "dir_seal", dict(text=d1, chars=48), dir_id=DID.hex())
    do("good", dict(dir_id=DID.hex()), d1)
    do("good-second", dict(dir_id=DID2.hex()), d2)
    do("missing", "NoDirId", None)
    df = lambda ident, exp, text, form: add("dir/" + ident, "dir_open", exp, text=text, form=form)
    df("form-symlink", dict(dir_id=DID.hex()), d1, "symlink")
    df("form-regular-file", dict(dir_id=DID.hex()), d1, "file")
    df("form-regular-file-newline", "BadDirId", d1 + "\n", "file")
    df("form-regular-file-empty", "BadDirId", "", "file")
    df("form-regular-file-cut", "BadDirId", d1[:47], "file")
    for f in ("directory", "fifo", "socket", "device"):
        df("form-" + f, "BadDirId", "", f)
    do("empty", "BadDirId", "")
    for name, i in (("id-first", 5), ("id-last", 25), ("mac-first", 27), ("mac-last", 46)):
        do("flip-" + name, "BadDirId", flip(d1, i))
    do("trailing-bits", "BadDirId", flip(d1, 47))
    do("id-of-other-mac-kept", "BadDirId", d2[:26] + d1[26:])
    do("no-prefix", "BadDirId", d1[5:])
    do("other-version", "BadDirId", "kfs2:" + d1[5:])
    do("prefix-upper-case", "BadDirId", "KFS1:" + d1[5:])
    do("newline", "BadDirId", d1 + "\n")
    do("padding-sign", "BadDirId", d1 + "=")
    do("cut", "BadDirId", d1[:47])
    do("longer", "BadDirId", d1 + "A")
    do("standard-base64-alphabet", "BadDirId", d1[:6] + "+" + d1[7:])
    do("path", "BadDirId", "../x/.kmsfs.dir")
    do("id-zero", "BadDirId", dirlink_build(vk["dir"], bytes(16)))
    do("mac-of-other-volume", "BadDirId", dirlink_build(volume_keys(VRK, seq(0x61))["dir"], DID))
    do("mac-without-prefix", "BadDirId", "kfs1:" + b64(DID + mac16(vk["dir"], DID)))
    do("user-symlink-target", "BadDirId", symlink_seal(vk, b"x", seq(0x33, 24)))
    ents = [list(name_encode(vk, DID, n)) for n in (b"a", b"hello.txt", b"x" * 200)]
    dc = lambda ident, exp, d, e: add("dir/check-" + ident, "dir_check", exp, dir_id=d.hex(), entries=e)
    dc("right", dict(verified=3), DID, ents)
    dc("id-of-other-directory", "WrongDirId", DID2, ents)
    dc("one-moved-in", dict(verified=3), DID, ents + [list(name_encode(vk, DID2, b"b"))])
    dc("empty-directory", dict(verified=0), DID2, [])
    dc("only-strays", dict(verified=0), DID2, [["README.md", None], ["lost+found", None], [ents[2][0], None]])
    for n in (1, 16, 17, 160, 176, 255):
        e, sd = name_encode(vk, DID, b"n" * n)
        add("dir/recover-%d" % n, "dir_recover", dict(dir_id=DID.hex(), padded=_pad16(b"n" * n, 256).hex()), entry=e, side=sd)
    add("dir/recover-capped-bucket", "dir_recover", "BadName", entry=name_encode(vk, DID, b"n" * 175)[0], side=None)
    add("dir/recover-no-side", "dir_recover", "BadName", entry=ents[2][0], side=None)
    chars = {1: 43, 16: 43, 17: 64, 160: 235, 161: 255, 175: 255, 176: 45, 255: 45}
    for n in (1, 9, 15, 16, 17, 32, 96, 160, 161, 175, 176, 200, 240, 241, 255):
        nm = (b"hello.txt" if n == 9 else b"name-" * 51)[:n]
        side_chars = {176: 256, 255: 363}.get(n)
        o = add("name/len-%d" % n, "name_encode", dict(dict(chars=chars[n]) if n in chars else {}, **(dict(side_chars=side_chars) if side_chars else {})), dir_id=DID.hex(), name=nm.hex())
        add("name/back-%d" % n, "name_decode", dict(name=nm.hex()), dir_id=DID.hex(), entry=o["entry"], side=o["side"])
        add("name/other-dir-%d" % n, "name_decode", "BadName", dir_id=DID2.hex(), entry=o["entry"], side=o["side"])
    u8 = "Grüße-日本.txt".encode()
    o = add("name/utf8", "name_encode", dir_id=DID.hex(), name=u8.hex())
    add("name/not-utf8", "name_encode", dir_id=DID.hex(), name="fffe80")
    add("name/flip-char", "name_decode", "BadName", dir_id=DID.hex(), entry=("A" if o["entry"][0] != "A" else "B") + o["entry"][1:])
    add("name/not-base64", "name_decode", "BadName", dir_id=DID.hex(), entry="README.md")
    add("name/padding-sign", "name_decode", "BadName", dir_id=DID.hex(), entry=o["entry"] + "=")
    e1 = name_encode(vk, DID, b"a")[0]
    add("name/trailing-bits", "name_decode", "BadName", dir_id=DID.hex(), entry=e1[:-1] + alt[alt.index(e1[-1]) ^ 1])
    add("name/not-canonical-padding", "name_decode", "BadName", dir_id=DID.hex(), entry=b64(siv_seal(vk["names"], DID, b"a".ljust(32, b"\0"))))
    add("name/dot-inside", "name_decode", "BadName", dir_id=DID.hex(), entry=b64(siv_seal(vk["names"], DID, b"..".ljust(16, b"\0"))))
    add("name/slash-inside", "name_decode", "BadName", dir_id=DID.hex(), entry=b64(siv_seal(vk["names"], DID, b"a/b".ljust(16, b"\0"))))
    long1, long2 = name_encode(vk, DID, b"x" * 200), name_encode(vk, DID, b"y" * 200)
    add("name/long-no-side-entry", "name_decode", "BadName", dir_id=DID.hex(), entry=long1[0])
    add("name/long-side-of-other-entry", "name_decode", "BadName", dir_id=DID.hex(), entry=long1[0], side=long2[1])
    ls = lambda ident, side: add("name/long-side-" + ident, "name_decode", "BadName", dir_id=DID.hex(), entry=long1[0], side=side)
    ls("empty", "")
    ls("flip", flip(long1[1], 100))
    ls("cut", long1[1][:-4])
    ls("newline", long1[1] + "\n")
    ls("padding-sign", long1[1] + "=")
    ls("trailing-bits", flip(long1[1], len(long1[1]) - 1))
    ls("364-characters", long1[1].ljust(364, "A"))
    ls("is-a-directory-id", d1)
    ls("not-canonical-padding", b64(siv_seal(vk["names"], DID, (b"x" * 200).ljust(224, b"\0"))))
    o = add("name/long-short-max-16", "name_encode", dict(chars=45, side_chars=64), dir_id=DID.hex(), name=(b"x" * 17).hex(), short_max=16)
    add("name/long-short-max-16-back", "name_decode", dict(name="78" * 17), dir_id=DID.hex(), entry=o["entry"], side=o["side"], short_max=16)
    add("name/short-name-in-long-form", "name_decode", "BadName", dir_id=DID.hex(), entry="~L" + b64(mac32(vk["longname"], DID + b"a")), side=b64(siv_seal(vk["names"], DID, b"a".ljust(48, b"\0"))))
    for nm in (b"", b".", b"..", b"a/b", b"a\0b"):
        add("name/invalid-%s" % nm.hex(), "name_encode", "NameInvalid", dir_id=DID.hex(), name=nm.hex())
    add("name/256", "name_encode", "NameTooLong", dir_id=DID.hex(), name=(b"x" * 256).hex())
    add("name/short-max-143", "name_encode", dict(chars=45), dir_id=DID.hex(), name=(b"x" * 144).hex(), short_max=143)

    # --- plain names (incompat bit 0): all but what cannot stand in an entry
    pn = lambda ident, exp, nm, **k: add("plain-name/" + ident, "name_encode", exp, **dict(dict(dir_id=DID.hex(), name=nm.hex(), plain_names=True), **k))
    pd = lambda ident, exp, entry, side=None, **k: add("plain-name/" + ident, "name_decode", exp, **dict(dict(dir_id=DID.hex(), entry=entry, side=side, plain_names=True), **k))
    for ident, nm in (("one-byte", b"a"), ("utf8", u8), ("space", b" "), ("tilde", b"~"), ("backup", b"README.md~"), ("dot-kms", b".kms"),
                      ("like-an-encrypted-one", e1.encode()), ("255", b"x" * 255)):
        pn(ident, dict(entry=nm.decode(), side=None), nm)
        pd(ident + "-back", dict(name=nm.hex()), nm.decode())
    pd("other-dir", dict(name=b"a".hex()), "a", dir_id=DID2.hex())
    for ident, nm in (("kmsfs", b".kmsfs"), ("dir", b".kmsfs.dir"), ("kmsfs-and-more", b".kmsfsx"), ("temporary", b"~T"), ("long", b"~L"), ("not-utf8", b"\xff\xfe\x80"), ("not-utf8-255", b"\xe4" * 255)):
        o = pn("escaped-" + ident, dict(chars=45, side_chars=363 if len(nm) == 255 else 43), nm)
        pd("escaped-" + ident + "-back", dict(name=nm.hex()), o["entry"], o["side"])
        pd("escaped-" + ident + "-other-dir", "BadName", o["entry"], o["side"], dir_id=DID2.hex())
        pd("escaped-" + ident + "-no-side", "BadName", o["entry"])
    for nm in (".kmsfs", ".kmsfsx", "~Tree", ".", "..", "a\0b", "x" * 256):
        pd("not-escaped-" + (nm.encode().hex() if len(nm) < 9 else "256"), "BadName", nm)
    pd("escaped-without-need", "BadName", "~L" + b64(mac32(vk["longname"], DID + b"a")), b64(siv_seal(vk["names"], DID, _pad16(b"a", 256))))
    pn("short-max-143", dict(entry="x" * 143, side=None), b"x" * 143, short_max=143)
    o = pn("longer-than-short-max", dict(chars=45), b"x" * 144, short_max=143)
    pd("longer-than-short-max-back", dict(name=(b"x" * 144).hex()), o["entry"], o["side"], short_max=143)
    pd("longer-than-short-max-as-it-is", "BadName", "x" * 144, short_max=143)
    for nm in (b"", b".", b"..", b"a/b", b"a\0b"):
        pn("invalid-%s" % nm.hex(), "NameInvalid", nm)
    pn("256", "NameTooLong", b"x" * 256)
    pc = lambda ident, exp, d, e: add("plain-name/check-" + ident, "dir_check", exp, dir_id=d.hex(), entries=e, plain_names=True)
    esc = list(name_encode(vk, DID, b"~Tree", 255, True))
    pc("nothing-bound", dict(verified=0), DID2, [["a", None], [e1, None], ["x" * 64, None]])
    pc("right", dict(verified=1), DID, [["a", None], esc])
    pc("id-of-other-directory", "WrongDirId", DID2, [["a", None], esc])
    add("plain-name/recover", "dir_recover", dict(dir_id=DID.hex()), entry=esc[0], side=esc[1], plain_names=True)
    add("plain-name/recover-from-a-plain-one", "dir_recover", "BadName", entry=e1, side=None, plain_names=True)

    # --- symlinks
    for t in (b"a", b"../lib/libc.so.6", b"x" * 3031):
        o = add("symlink/len-%d" % len(t), "symlink_seal", dict(size=len(t)), target=t.hex(), nonce=seq(0x33, 24).hex())
        add("symlink/back-%d" % len(t), "symlink_open", dict(target=t.hex()), text=o["text"])
    assert o["chars"] == 4095
    add("symlink/too-long", "symlink_seal", "NameTooLong", target=("78" * 3032), nonce=seq(0x33, 24).hex())
    s = symlink_seal(vk, b"../lib/libc.so.6", seq(0x33, 24))
    add("symlink/flip", "symlink_open", "SymlinkAuth", text=s[:40] + ("A" if s[40] != "A" else "B") + s[41:])
    add("symlink/plain", "symlink_open", "SymlinkAuth", text="/etc/passwd")
    add("symlink/cut", "symlink_open", "SymlinkAuth", text=s[:40])

    # --- xattrs
    for nm in (b"user.a", b"user.comment", b"user." + b"n" * 155, b"user." + b"n" * 162):
        o = add("xattr/name-%d" % len(nm), "xattr_name", name=nm.hex())
        add("xattr/name-back-%d" % len(nm), "xattr_name_open", dict(name=nm.hex()), disk=o["disk"])
    assert o["chars"] == 255
    add("xattr/name-256", "xattr_name", "XattrNameRange", name=(b"user." + b"n" * 251).hex())
    for nm in (b"user." + b"n" * 163, b"user." + b"m" * 250):
        d = add("xattr/long-%d" % len(nm), "xattr_name", name=nm.hex())["disk"]
        assert len(d) == 55
        add("xattr/long-name-only-%d" % len(nm), "xattr_name_open", "BadName", disk=d)
        for val in (b"", b"value " * 100):
            o = add("xattr/long-value-%d-%d" % (len(nm), len(val)), "xattr_value", name=nm.hex(), value=val.hex(), nonce=seq(0x45, 24).hex())
            add("xattr/long-back-%d-%d" % (len(nm), len(val)), "xattr_long_open", dict(name=nm.hex(), value=val.hex()), disk=d, data=o["data"])
            add("xattr/long-value-back-%d-%d" % (len(nm), len(val)), "xattr_value_open", dict(value=val.hex()), name=nm.hex(), data=o["data"])
    add("xattr/long-flip", "xattr_long_open", "XattrAuth", disk=d, data=o["data"][:-2] + "%02x" % (int(o["data"][-2:], 16) ^ 1))
    add("xattr/long-short", "xattr_long_open", "XattrAuth", disk=d, data="00" * 39)
    add("xattr/long-other-name", "xattr_value_open", "XattrAuth", name=(b"user." + b"x" * 250).hex(), data=o["data"])
    n45 = seq(0x45, 24)
    def long_text(text):
        return (n45 + xaes_seal(vk["xattr"], n45, text, b"KFS1 long xattr" + d.encode())).hex()
    for what, text in (("empty", b""), ("cut", bytes([255]) + nm[:200]), ("of-another", bytes([255]) + b"user." + b"x" * 250), ("name-short", bytes([6]) + b"user.a")):
        add("xattr/long-" + what, "xattr_long_open", "XattrAuth", disk=d, data=long_text(text))
    add("xattr/long-planted", "xattr_long_open", "XattrAuth", disk=d, data=xattr_value_seal(vk, d.encode(), bytes([255]) + nm + b"v", n45).hex())
    add("xattr/name-no-namespace", "xattr_name", "XattrNameRange", name=b"trusted.a".hex())
    add("xattr/name-is-a-file-name", "xattr_name_open", "BadName", disk="user.kmsfs." + e1)
    add("xattr/name-plain", "xattr_name_open", "BadName", disk="user.comment")
    for val in (b"", b"v", b"value " * 100):
        o = add("xattr/value-%d" % len(val), "xattr_value", name=b"user.comment".hex(), value=val.hex(), nonce=seq(0x44, 24).hex())
        add("xattr/value-back-%d" % len(val), "xattr_value_open", dict(value=val.hex()), name=b"user.comment".hex(), data=o["data"])
    add("xattr/value-under-other-name", "xattr_value_open", "XattrAuth", name=b"user.other".hex(), data=o["data"])
    add("xattr/value-flip", "xattr_value_open", "XattrAuth", name=b"user.comment".hex(), data=o["data"][:-2] + "%02x" % (int(o["data"][-2:], 16) ^ 1))
    add("xattr/value-short", "xattr_value_open", "XattrAuth", name=b"user.comment".hex(), data="00" * 39)

    # --- volume and registry
    vrec = recipient(1, ARN1, toy.encrypt(ARN1, VRK, context_vrk(VID), seq(0x55, 24)), 1767225600)
    arns = [tlv(1, ARN1.encode()), tlv(1, ARN2.encode())]
    t2, t3, t4 = tlv(2, vrec), tlv(3, b"\x01\0" + ARN1.encode()), tlv(4, X(blobs["BT"]))
    tl = arns + [t2, t3, tlv(0x8004, b"demo")]
    blobs["V"] = volume_build(VID, VRK, tl, config_seq=7).hex()
    pin = vrk_commit(vk["prk"], X(blobs["V"])).hex()
    row = lambda **k: [dict(dict(volume_id=VID.hex(), commit=pin, pinned=[ARN1, ARN2], config_seq=7), **k)]
    commit_of = lambda b: X(blobs[b])[64:96].hex()              # what init wrote into the registry
    def vo(ident, exp, blob="V", calls=None, **k):
        o = add("volume/" + ident, "volume_open", exp, **dict(dict(blob=blob, registry=row()), **k))
        assert calls is None or o["kms_calls"] == calls, (ident, o)
    vo("good", dict(volume_id=VID.hex(), pages=1, allowed=[ARN1, ARN2], short_max=175, read_only=False, dir_meta_file=False, plain_names=False, config_seq=7, default=dict(mode="direct", key=ARN1), branches=[]), calls=1)
    for name, off, out in (("magic", 1, "NotKfs"), ("major", 8, "UnknownFeature"), ("minor", 9, "VolumeAuth"), ("length", 12, "VolumeAuth"), ("id", 16, "VolumeUnknown"),
                           ("plain-names", 32, "VolumeAuth"), ("incompat", 33, "UnknownFeature"), ("ro-compat", 40, "VolumeAuth"), ("compat", 48, "VolumeAuth"), ("unit-log2", 56, "UnknownFeature"),
                           ("pages", 57, "UnknownFeature"), ("aead", 58, "UnknownFeature"), ("name-mode", 59, "UnknownFeature"), ("short-max", 60, "VolumeAuth"),
                           ("aead-allow", 62, "VolumeAuth"), ("commit", 64, "VolumeAuth"), ("config-seq-end", 103, "VolumeAuth"), ("arn", 118, "VolumeAuth"), ("mac", len(X(blobs["V"])) - 1, "VolumeAuth")):
        vo("flip-" + name, out, edits=[["xor", off, "04" if name in ("aead-allow",) else "01"]])
    vo("cut", "VolumeAuth", edits=[["size", 300]], calls=0)
    vo("tlv-overflow", "VolumeAuth", edits=[["set", 108, "ffffff7f"]], calls=0)
    vo("key-disabled", "KeyUnavailable", kms_disabled=[ARN1], calls=1)
    # the registry, all before any KMS call
    vo("unknown", "VolumeUnknown", registry=[], calls=0)
    vo("unknown-other-row", "VolumeUnknown", registry=row(volume_id=seq(0x61).hex()), calls=0)
    vo("commit-pin-mismatch", "VolumeAuth", registry=row(commit=seq(1, 32).hex()), calls=0)
    VRK2 = seq(0x81, 32)
    forged = recipient(1, ARN1, toy.encrypt(ARN1, VRK2, context_vrk(VID), seq(0x56, 24)), 1767225600)
    blobs["Vforged"] = volume_build(VID, VRK2, arns + [tlv(2, forged), t3], config_seq=9).hex()
    vo("forged-whole-file-other-vrk", "VolumeAuth", "Vforged", calls=0)
    vo("forged-whole-file-accepted-if-trusted", dict(config_seq=9), "Vforged", registry=row(commit=commit_of("Vforged")))
    vo("forged-keeps-pinned-commit", "VolumeAuth", "Vforged", edits=[["put", 64, "V", 64, 32]], calls=1)
    vo("key-not-pinned", "KeyForbidden", registry=row(pinned=[ARN2]), calls=0)
    vo("rollback", "VolumeRollback", registry=row(config_seq=8), calls=0)
    vo("config-seq-equal", dict(config_seq=7), registry=row(config_seq=7))
    vo("config-seq-newer", dict(config_seq=7), registry=row(config_seq=6))
    vo("config-seq-raised-without-key", "VolumeAuth", edits=[["xor", 96, "08"]], calls=1)
    vo("config-seq-zero", "VolumeAuth", edits=[["zero", 96, 8]], calls=0)
    vo("effective-allow-list", dict(allowed=[ARN1]), registry=row(pinned=[ARN1, EVIL]))
    blobs["Vdef"] = volume_build(VID, VRK, arns + [t2, tlv(3, b"\x01\0" + EVIL.encode())], config_seq=7).hex()
    vo("default-wrap-not-in-tlv-1", "KeyForbidden", "Vdef", registry=row(pinned=[ARN1, EVIL]))
    blobs["Vdef2"] = volume_build(VID, VRK, arns + [t2, tlv(3, b"\x01\0" + ARN2.encode())], config_seq=7).hex()
    vo("default-wrap-not-pinned", "KeyForbidden", "Vdef2", registry=row(pinned=[ARN1]))
    blobs["V8"] = volume_build(VID, VRK, arns + [t2] * 8 + [t3]).hex()
    vo("eight-recipients", dict(config_seq=1), "V8", registry=row(config_seq=1))
    blobs["V9"] = volume_build(VID, VRK, arns + [t2] * 9 + [t3]).hex()
    vo("nine-recipients", "VolumeAuth", "V9", registry=row(config_seq=1), calls=0)
    blobs["Vno2"] = volume_build(VID, VRK, arns + [t3]).hex()
    vo("no-recipient", "VolumeAuth", "Vno2", registry=row(config_seq=1), calls=0)
    blobs["Vno3"] = volume_build(VID, VRK, arns + [t2]).hex()
    vo("no-default-wrap", "VolumeAuth", "Vno3", registry=row(config_seq=1), calls=0)
    # branch TLVs
    b3 = lambda ver: tlv(3, b"\x02\0" + BID + struct.pack("<I", ver))
    bopen = branch_prk(VID, BID, 3, BKEY).hex()
    blobs["Vbr"] = volume_build(VID, VRK, arns + [t2, b3(3), t4], config_seq=7).hex()
    vo("branch", dict(branches=[[BID.hex(), 3]], default=dict(mode="branch", branch_id=BID.hex(), version=3), create=bopen), "Vbr", calls=2)
    vo("branch-flip-commit", "VolumeAuth", "Vbr", edits=[["xor", X(blobs["Vbr"]).index(BID + struct.pack("<I", 3) + X(blobs["BT"])[20:24]) + 20, "01"]])
    blobs["Vbr4"] = volume_build(VID, VRK, arns + [t2, b3(4), t4], config_seq=7).hex()
    vo("branch-current-version-missing", dict(create="KeyUnavailable"), "Vbr4")
    blobs["Vbr34"] = volume_build(VID, VRK, arns + [t2, b3(4), t4, tlv(4, branch_value(version=4))], config_seq=7).hex()
    vo("branch-two-versions", dict(branches=[[BID.hex(), 3], [BID.hex(), 4]], create=branch_prk(VID, BID, 4, BKEY).hex()), "Vbr34")
    blobs["Vbrd"] = volume_build(VID, VRK, arns + [t2, b3(3), t4, t4], config_seq=7).hex()
    vo("branch-version-twice", "VolumeAuth", "Vbrd", calls=0)
    blobs["Vbrs"] = volume_build(VID, VRK, arns + [t2, tlv(3, b"\x02\0" + BID), t4], config_seq=7).hex()
    vo("branch-default-without-version", "VolumeAuth", "Vbrs", calls=0)
    # features
    blobs["Vro"] = volume_build(VID, VRK, tl, ro_compat=1 << 40).hex()
    vo("unknown-ro-compat", dict(read_only=True), "Vro", registry=row(commit=commit_of("Vro"), config_seq=1))
    vo("feature-bit-changes-commit", "VolumeAuth", "Vro", registry=row(config_seq=1), calls=0)
    blobs["Vfresh"] = volume_build(VID, VRK, tl, ro_compat=FRESHNESS).hex()
    vo("freshness", dict(read_only=False), "Vfresh", registry=row(commit=commit_of("Vfresh"), config_seq=1))
    blobs["Vdmf"] = volume_build(VID, VRK, tl, ro_compat=DIR_META_FILE).hex()
    vo("dir-meta-file", dict(read_only=False, dir_meta_file=True), "Vdmf", registry=row(commit=commit_of("Vdmf"), config_seq=1))
    blobs["Vinc"] = volume_build(VID, VRK, tl, incompat=1 << 40).hex()
    vo("unknown-incompat", "UnknownFeature", "Vinc", calls=0)
    blobs["Vplain"] = volume_build(VID, VRK, tl, incompat=PLAIN_NAMES, short_max=255).hex()
    vo("plain-names", dict(plain_names=True, short_max=255), "Vplain", registry=row(commit=commit_of("Vplain"), config_seq=1))
    vo("plain-names-bit-cleared", "VolumeAuth", "Vplain", registry=row(commit=commit_of("Vplain"), config_seq=1), edits=[["zero", 32, 8]], calls=0)
    blobs["Vplain256"] = volume_build(VID, VRK, tl, incompat=PLAIN_NAMES, short_max=256).hex()
    vo("plain-names-short-max", "VolumeAuth", "Vplain256", calls=0)
    for bit in (1, 2, 3, 4, 63):
        blobs["Vinc%d" % bit] = volume_build(VID, VRK, tl, incompat=1 << bit).hex()
        vo("unknown-incompat-%d" % bit, "UnknownFeature", "Vinc%d" % bit, calls=0)
    blobs["Vtlv"] = volume_build(VID, VRK, tl + [tlv(0x77, b"x")]).hex()
    vo("unknown-required-tlv", "UnknownFeature", "Vtlv", calls=0)

    assert len({v["id"] for v in vecs}) == len(vecs)
    assert all(v["out"].get("error", "NotKfs") in ERRNO for v in vecs)
    test = dict(DEK=DEK.hex(), DEK2=DEK2.hex(), file_id=FID.hex(), file_id2=FID2.hex(), volume_id=VID.hex(), VRK=VRK.hex(), branch_id=BID.hex(), branch_version=3,
                branch_key=BKEY.hex(), dir_id=DID.hex(), toy_kms_keys={a: k.hex() for a, k in KMS_KEYS.items()},
                toy_kms="blob = 'TOY1' | nonce24 | XAES-256-GCM(key, nonce24, DEK, AAD = JSON of the context, sorted keys, no spaces)",
                defaults="a vector without 'volume' uses volume_id, VRK, allowed = the first two ARNs, pages 1, aead_allow [1], branch version 3 (blob BT) already opened unless branch_cold")
    return dict(format="KFS1 test vectors", version="1.0", test_values=test, errno=ERRNO, blobs=blobs, vectors=vecs)


def main(argv):
    if argv[1:] == ["vectors"]:
        d = make()
        print('{\n"format": %s,\n"version": %s,\n"test_values": %s,\n"errno": %s,\n"blobs": {'
              % tuple(json.dumps(d[k]) for k in ("format", "version", "test_values", "errno")))
        print(",\n".join("%s: %s" % (json.dumps(k), json.dumps(v)) for k, v in d["blobs"].items()))
        print('},\n"vectors": [')
        print(",\n".join(json.dumps(v) for v in d["vectors"]))
        print("]}")
        return 0
    if len(argv) == 3 and argv[1] == "check":
        with open(argv[2]) as f:
            d = json.load(f)
        bad = 0
        for v in d["vectors"]:
            got = run(d["blobs"], v)
            if got != v["out"]:
                bad += 1
                print("DIFFERS %s: expected %s, got %s" % (v["id"], v["out"], got))
        neg = sum("error" in v["out"] for v in d["vectors"])
        print("%d vectors (%d positive, %d negative), %d differ" % (len(d["vectors"]), len(d["vectors"]) - neg, neg, bad))
        return 1 if bad or not d["vectors"] else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
