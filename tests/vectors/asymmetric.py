#!/usr/bin/env python3
"""Makes asymmetric.json: keys, signatures and ciphertexts of OpenSSL for src/crypto/asymmetric/tests.rs.

usage: python3 asymmetric.py [OLD] > asymmetric.json    (Python 3.9, package `cryptography` 48 with OpenSSL 4)

Every run makes other keys. ML-KEM keys are taken from OLD: kmsfs writes the expanded form, OpenSSL here only the seed;
OpenSSL encapsulates to them.
"""

import base64
import hashlib
import json
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa

MESSAGE = b"kmsfs known answer"
HASHES = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}


def b64(data):
    return base64.b64encode(data).decode()


def public(key):
    return key.public_key().public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)


def entry(kind, key, **more):
    private = key.private_bytes(form.Encoding.DER, form.PrivateFormat.PKCS8, form.NoEncryption())
    return {"kind": kind, "private": b64(private), "public": b64(public(key)), **more}


def rsa_pair(bits):
    key = rsa.generate_private_key(65537, bits)
    signatures, ciphertexts = {}, {}
    for name, sha in HASHES.items():
        pss = padding.PSS(padding.MGF1(sha()), sha.digest_size)
        signatures[f"PSS_{name}"] = b64(key.sign(MESSAGE, pss, sha()))
        signatures[f"PKCS1_{name}"] = b64(key.sign(MESSAGE, padding.PKCS1v15(), sha()))
    for name, sha in (("SHA_1", hashes.SHA1), ("SHA_256", hashes.SHA256)):
        oaep = padding.OAEP(padding.MGF1(sha()), sha(), None)
        ciphertexts[name] = b64(key.public_key().encrypt(MESSAGE, oaep))
    return entry(f"RSA_{bits}", key, signatures=signatures, ciphertexts=ciphertexts)


def ec_pair(kind, curve, name):
    key = ec.generate_private_key(curve)
    more = {"signatures": {f"ECDSA_{name}": b64(key.sign(MESSAGE, ec.ECDSA(HASHES[name]())))}}
    if kind != "P256K1":
        peer = ec.generate_private_key(curve)
        more |= {"peer": b64(public(peer)), "secret": b64(key.exchange(ec.ECDH(), peer.public_key()))}
    return entry(kind, key, **more)


def ml_dsa_pair(name):
    key = getattr(mldsa, f"MLDSA{name}PrivateKey").generate()
    raw = key.public_key().public_bytes_raw()
    mu = hashlib.shake_256(hashlib.shake_256(raw).digest(64) + b"\0\0" + MESSAGE).digest(64)
    return entry(f"ML_DSA_{name}", key, mu=b64(mu), signatures={"ML_DSA": b64(key.sign(MESSAGE))})


def ml_kem_pair(old):
    secret, ciphertext = form.load_der_public_key(base64.b64decode(old["public"])).encapsulate()
    return {**old, "secret": b64(secret), "ciphertext": b64(ciphertext)}


ed25519_key = ed25519.Ed25519PrivateKey.generate()
pairs = [rsa_pair(bits) for bits in (2048, 3072, 4096)]
pairs += [
    ec_pair("P256", ec.SECP256R1(), "256"),
    ec_pair("P384", ec.SECP384R1(), "384"),
    ec_pair("P521", ec.SECP521R1(), "512"),
    ec_pair("P256K1", ec.SECP256K1(), "256"),
    entry("ED25519", ed25519_key, signatures={"ED25519": b64(ed25519_key.sign(MESSAGE))}),
]
pairs += [ml_dsa_pair(name) for name in ("44", "65", "87")]
if len(sys.argv) > 1:
    with open(sys.argv[1]) as old:
        pairs += [ml_kem_pair(pair) for pair in json.load(old)["pairs"] if pair["kind"].startswith("ML_KEM")]
json.dump({"message": b64(MESSAGE), "pairs": pairs}, sys.stdout, indent=1)
print()
