"""Behavioural checks of the kmsfs key manager through the AWS KMS wire protocol.

Every expectation comes from the AWS KMS API reference, the developer guide or error responses recorded
from AWS. Where AWS documents no exact code, a check accepts a set of codes.
"""

import base64, json, os, datetime, hashlib, subprocess, sys, time, uuid
import boto3, pytest, requests
from cryptography.hazmat.primitives import hashes, hmac as chmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, ed25519
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from conftest import Err, REGION, REGION2, CFG

CTX = {"fs": "vol-1", "path": "/a"}
der = serialization.load_der_public_key


def rec(kms, keyid, want, timeout=5):
    for _ in range(timeout * 10):
        s = kms.describe_key(KeyId=keyid)["KeyMetadata"]["KeyState"]
        if s == want:
            return s
        time.sleep(0.1)
    return s


class TestKeyMetadata:
    def test_defaults(self, sym):
        assert sym["KeyState"] == "Enabled" and sym["Enabled"] is True and sym["KeyManager"] == "CUSTOMER"
        assert (
            sym["KeyUsage"] == "ENCRYPT_DECRYPT"
            and sym["KeySpec"] == sym["CustomerMasterKeySpec"] == "SYMMETRIC_DEFAULT"
        )
        assert (
            sym["Origin"] == "AWS_KMS"
            and sym["MultiRegion"] is False
            and sym["EncryptionAlgorithms"] == ["SYMMETRIC_DEFAULT"]
        )

    def test_id_is_uuid_and_arn(self, sym):
        uuid.UUID(sym["KeyId"])
        assert sym["Arn"] == f"arn:aws:kms:{REGION}:{sym['AWSAccountId']}:key/{sym['KeyId']}"

    def test_current_key_material_id(self, sym):
        assert len(sym["CurrentKeyMaterialId"]) == 64

    def test_describe_by_all_id_forms(self, kms, fresh, alias):
        kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])
        for i in (fresh["KeyId"], fresh["Arn"], alias, fresh["Arn"].rsplit(":", 1)[0] + ":" + alias):
            assert kms.describe_key(KeyId=i)["KeyMetadata"]["Arn"] == fresh["Arn"]

    def test_description_update(self, kms, fresh):
        kms.update_key_description(KeyId=fresh["KeyId"], Description="d2")
        assert kms.describe_key(KeyId=fresh["KeyId"])["KeyMetadata"]["Description"] == "d2"

    def test_description_too_long(self, kms):
        with Err("ValidationException"):
            kms.create_key(Description="x" * 8193)

    def test_unknown_key(self, kms):
        with Err("NotFoundException"):
            kms.describe_key(KeyId=str(uuid.uuid4()))

    def test_malformed_key_id(self, kms):
        with Err("NotFoundException"):
            kms.describe_key(KeyId="not-a-key")

    def test_malformed_arn(self, kms):
        with Err("InvalidArnException", "NotFoundException"):
            kms.describe_key(KeyId="arn:aws:kms:bogus")

    def test_both_keyspecs(self, kms):
        with Err("ValidationException"):
            kms.create_key(KeySpec="RSA_2048", CustomerMasterKeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")

    def test_bad_spec_enum(self, kms):
        with Err("ValidationException"):
            kms.create_key(KeySpec="AES_999")

    def test_sym_cannot_sign(self, kms):
        with Err("ValidationException"):
            kms.create_key(KeySpec="SYMMETRIC_DEFAULT", KeyUsage="SIGN_VERIFY")

    def test_hmac_needs_usage(self, kms):
        with Err("ValidationException"):
            kms.create_key(KeySpec="HMAC_256")

    def test_list_keys_pagination(self, kms, sym, fresh):
        r = kms.list_keys(Limit=1)
        assert len(r["Keys"]) == 1 and r["Truncated"] is True and r["NextMarker"]
        ids = {
            k["KeyId"]
            for p in kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 7})
            for k in p["Keys"]
        }
        assert {sym["KeyId"], fresh["KeyId"]} <= ids

    @pytest.mark.parametrize("limit", [0, 1001])
    def test_list_limit_range(self, endpoint, limit):
        code, b, _ = raw(endpoint, "ListKeys", {"Limit": limit})
        assert code == 400 and "ValidationException" in b["__type"]

    def test_bad_marker(self, kms):
        with Err("InvalidMarkerException"):
            kms.list_keys(Marker="garbage!!")

    def test_bypass_flag_accepted(self, kms):
        kms.create_key(BypassPolicyLockoutSafetyCheck=True)


class TestEncryptDecrypt:
    def test_roundtrip(self, kms, sym):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"hello")
        assert c["KeyId"] == sym["Arn"] and c["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
        d = kms.decrypt(CiphertextBlob=c["CiphertextBlob"])
        assert d["Plaintext"] == b"hello" and d["KeyId"] == sym["Arn"]

    def test_randomised(self, kms, sym):
        assert (
            kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"x")["CiphertextBlob"]
            != kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"x")["CiphertextBlob"]
        )

    def test_4096_ok(self, kms, sym):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"z" * 4096)["CiphertextBlob"]
        assert len(c) <= 6144
        assert kms.decrypt(CiphertextBlob=c)["Plaintext"] == b"z" * 4096

    def test_4097_rejected(self, kms, sym):
        with Err("ValidationException"):
            kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"z" * 4097)

    def test_empty_rejected(self, kms, sym):
        with Err("ValidationException"):
            kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"")

    def test_context_roundtrip_order_free(self, kms, sym):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p", EncryptionContext=CTX)["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=c, EncryptionContext=dict(reversed(list(CTX.items()))))["Plaintext"] == b"p"

    @pytest.mark.parametrize(
        "bad",
        [
            {},
            {"fs": "vol-2", "path": "/a"},
            {"fs": "vol-1"},
            {"fs": "vol-1", "path": "/A"},
            {"FS": "vol-1", "path": "/a"},
            {"f": "svol-1", "path": "/a"},
        ],
    )
    def test_context_mismatch(self, kms, sym, bad):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p", EncryptionContext=CTX)["CiphertextBlob"]
        with Err("InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=c, EncryptionContext=bad)

    def test_tamper_every_byte(self, kms, sym):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"secret")["CiphertextBlob"]
        for i in range(len(c)):
            with Err(
                "InvalidCiphertextException", "AccessDeniedException", "NotFoundException", "IncorrectKeyException"
            ):
                kms.decrypt(CiphertextBlob=c[:i] + bytes([c[i] ^ 1]) + c[i + 1 :])

    def test_truncated(self, kms, sym):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"secret")["CiphertextBlob"]
        with Err("InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=c[:-1])

    def test_garbage(self, kms):
        with Err("InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=b"garbage")

    def test_wrong_key_id(self, kms, sym, fresh):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p")["CiphertextBlob"]
        with Err("IncorrectKeyException"):
            kms.decrypt(CiphertextBlob=c, KeyId=fresh["KeyId"])

    def test_other_region_cannot_decrypt(self, kms, kms2, sym):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p")["CiphertextBlob"]
        with Err("InvalidCiphertextException", "AccessDeniedException", "NotFoundException", "IncorrectKeyException"):
            kms2.decrypt(CiphertextBlob=c)

    def test_reencrypt(self, kms, sym, fresh):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p", EncryptionContext=CTX)["CiphertextBlob"]
        r = kms.re_encrypt(
            CiphertextBlob=c,
            SourceEncryptionContext=CTX,
            DestinationKeyId=fresh["KeyId"],
            DestinationEncryptionContext={"n": "1"},
        )
        assert r["SourceKeyId"] == sym["Arn"] and r["KeyId"] == fresh["Arn"]
        assert r["SourceEncryptionAlgorithm"] == r["DestinationEncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
        assert kms.decrypt(CiphertextBlob=r["CiphertextBlob"], EncryptionContext={"n": "1"})["Plaintext"] == b"p"

    def test_reencrypt_wrong_source(self, kms, sym, fresh):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p")["CiphertextBlob"]
        with Err("IncorrectKeyException"):
            kms.re_encrypt(CiphertextBlob=c, SourceKeyId=fresh["KeyId"], DestinationKeyId=fresh["KeyId"])

    def test_reencrypt_bad_context(self, kms, sym, fresh):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p", EncryptionContext=CTX)["CiphertextBlob"]
        with Err("InvalidCiphertextException"):
            kms.re_encrypt(CiphertextBlob=c, DestinationKeyId=fresh["KeyId"])

    def test_reencrypt_material_ids(self, kms, sym, fresh):
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p")["CiphertextBlob"]
        r = kms.re_encrypt(CiphertextBlob=c, DestinationKeyId=fresh["KeyId"])
        assert len(r["SourceKeyMaterialId"]) == 64 == len(r["DestinationKeyMaterialId"])

    @pytest.mark.parametrize("n", [1, 32, 1024])
    def test_random(self, kms, n):
        assert len(kms.generate_random(NumberOfBytes=n)["Plaintext"]) == n

    @pytest.mark.parametrize("n", [0, 1025])
    def test_random_range(self, endpoint, n):
        code, b, _ = raw(endpoint, "GenerateRandom", {"NumberOfBytes": n})
        assert code == 400 and "ValidationException" in b["__type"]

    def test_dryrun(self, kms, sym):
        with Err("DryRunOperationException"):
            kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p", DryRun=True)


class TestDataKeys:
    @pytest.mark.parametrize(
        "kw,n",
        [
            ({"KeySpec": "AES_256"}, 32),
            ({"KeySpec": "AES_128"}, 16),
            ({"NumberOfBytes": 64}, 64),
            ({"NumberOfBytes": 1}, 1),
            ({"NumberOfBytes": 1024}, 1024),
        ],
    )
    def test_generate(self, kms, sym, kw, n):
        r = kms.generate_data_key(KeyId=sym["KeyId"], EncryptionContext=CTX, **kw)
        assert len(r["Plaintext"]) == n and r["KeyId"] == sym["Arn"]
        assert kms.decrypt(CiphertextBlob=r["CiphertextBlob"], EncryptionContext=CTX)["Plaintext"] == r["Plaintext"]

    def test_unique(self, kms, sym):
        assert len({kms.generate_data_key(KeyId=sym["KeyId"], KeySpec="AES_256")["Plaintext"] for _ in range(8)}) == 8

    def test_key_material_id(self, kms, sym):
        assert (
            kms.generate_data_key(KeyId=sym["KeyId"], KeySpec="AES_256")["KeyMaterialId"]
            == sym["CurrentKeyMaterialId"]
        )

    def test_without_plaintext(self, kms, sym):
        r = kms.generate_data_key_without_plaintext(KeyId=sym["KeyId"], KeySpec="AES_256")
        assert "Plaintext" not in r
        assert len(kms.decrypt(CiphertextBlob=r["CiphertextBlob"])["Plaintext"]) == 32

    @pytest.mark.parametrize(
        "kw", [{}, {"KeySpec": "AES_256", "NumberOfBytes": 32}, {"NumberOfBytes": 1025}, {"KeySpec": "AES_512"}]
    )
    def test_bad_size(self, kms, sym, kw):
        with Err("ValidationException"):
            kms.generate_data_key(KeyId=sym["KeyId"], **kw)

    def test_needs_symmetric_key(self, kms, newkey):
        k = newkey(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
        with Err("InvalidKeyUsageException", "UnsupportedOperationException"):
            kms.generate_data_key(KeyId=k["KeyId"], KeySpec="AES_256")

    @pytest.mark.parametrize(
        "spec", ["RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"]
    )
    def test_pair(self, kms, sym, spec):
        r = kms.generate_data_key_pair(KeyId=sym["KeyId"], KeyPairSpec=spec, EncryptionContext=CTX)
        assert (
            kms.decrypt(CiphertextBlob=r["PrivateKeyCiphertextBlob"], EncryptionContext=CTX)["Plaintext"]
            == r["PrivateKeyPlaintext"]
        )
        priv = serialization.load_der_private_key(r["PrivateKeyPlaintext"], None)
        assert (
            priv.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            == r["PublicKey"]
        )

    def test_pair_without_plaintext(self, kms, sym):
        r = kms.generate_data_key_pair_without_plaintext(KeyId=sym["KeyId"], KeyPairSpec="ECC_NIST_P256")
        assert "PrivateKeyPlaintext" not in r
        serialization.load_der_private_key(
            kms.decrypt(CiphertextBlob=r["PrivateKeyCiphertextBlob"])["Plaintext"], None
        )


class TestAliases:
    def test_alias_crypto(self, kms, fresh, alias):
        kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])
        c = kms.encrypt(KeyId=alias, Plaintext=b"p")
        assert c["KeyId"] == fresh["Arn"]
        assert kms.decrypt(CiphertextBlob=c["CiphertextBlob"], KeyId=alias)["Plaintext"] == b"p"

    def test_duplicate(self, kms, fresh, alias):
        kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])
        with Err("AlreadyExistsException"):
            kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])

    def test_same_name_other_region(self, kms, kms2, newkey, fresh, alias):
        kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])
        k2 = newkey(client=kms2)
        kms2.create_alias(AliasName=alias, TargetKeyId=k2["KeyId"])
        assert kms2.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"] == k2["KeyId"]

    @pytest.mark.parametrize("name", ["noprefix", "alias/", "alias/bad name", "alias/" + "x" * 251])
    def test_bad_names(self, kms, fresh, name):
        with Err("ValidationException", "InvalidAliasNameException"):
            kms.create_alias(AliasName=name, TargetKeyId=fresh["KeyId"])

    def test_reserved_aws_prefix(self, kms, fresh):
        with Err("NotAuthorizedException", "InvalidAliasNameException", "ValidationException"):
            kms.create_alias(AliasName="alias/aws/mine", TargetKeyId=fresh["KeyId"])

    def test_update_is_manual_rotation(self, kms, newkey, fresh, alias):
        k2 = newkey()
        kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])
        c = kms.encrypt(KeyId=alias, Plaintext=b"old")["CiphertextBlob"]
        kms.update_alias(AliasName=alias, TargetKeyId=k2["KeyId"])
        assert kms.encrypt(KeyId=alias, Plaintext=b"n")["KeyId"] == k2["Arn"]
        assert kms.decrypt(CiphertextBlob=c)["Plaintext"] == b"old"

    def test_update_type_mismatch(self, kms, newkey, fresh, alias):
        kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])
        k = newkey(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
        with Err(
            "ValidationException",
            "InvalidKeyUsageException",
            "UnsupportedOperationException",
            "KMSInvalidStateException",
        ):
            kms.update_alias(AliasName=alias, TargetKeyId=k["KeyId"])

    def test_update_missing(self, kms, fresh, alias):
        with Err("NotFoundException"):
            kms.update_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])

    def test_delete(self, kms, fresh, alias):
        kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])
        kms.delete_alias(AliasName=alias)
        with Err("NotFoundException"):
            kms.describe_key(KeyId=alias)

    def test_list_by_key(self, kms, fresh, alias):
        kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])
        a = kms.list_aliases(KeyId=fresh["KeyId"])["Aliases"]
        assert (
            [x["AliasName"] for x in a] == [alias] and a[0]["TargetKeyId"] == fresh["KeyId"] and a[0]["CreationDate"]
        )

    def test_control_ops_reject_alias(self, kms, fresh, alias):
        kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])
        with Err("NotFoundException", "InvalidArnException", "ValidationException"):
            kms.disable_key(KeyId=alias)


class TestAwsManagedKeys:
    def test_describe_creates(self, kms):
        m = kms.describe_key(KeyId="alias/aws/ebs")["KeyMetadata"]
        assert m["KeyManager"] == "AWS" and m["KeyState"] == "Enabled"

    @pytest.mark.parametrize(
        "op",
        [
            "disable_key",
            "schedule_key_deletion",
            "disable_key_rotation",
            "rotate_key_on_demand",
            "enable_key_rotation",
        ],
    )
    def test_immutable(self, kms, op):
        i = kms.describe_key(KeyId="alias/aws/ebs")["KeyMetadata"]["KeyId"]
        with Err():
            getattr(kms, op)(KeyId=i)

    def test_rotation_always_on(self, kms):
        i = kms.describe_key(KeyId="alias/aws/ebs")["KeyMetadata"]["KeyId"]
        assert kms.get_key_rotation_status(KeyId=i)["KeyRotationEnabled"] is True

    def test_policy_readonly(self, kms):
        i = kms.describe_key(KeyId="alias/aws/ebs")["KeyMetadata"]["KeyId"]
        p = kms.get_key_policy(KeyId=i)["Policy"]
        assert "kms:ViaService" in p
        with Err():
            kms.put_key_policy(KeyId=i, Policy=p)


class TestStates:
    def test_disable_enable(self, kms, fresh):
        c = kms.encrypt(KeyId=fresh["KeyId"], Plaintext=b"p")["CiphertextBlob"]
        kms.disable_key(KeyId=fresh["KeyId"])
        assert kms.describe_key(KeyId=fresh["KeyId"])["KeyMetadata"]["KeyState"] == "Disabled"
        for f in (
            lambda: kms.encrypt(KeyId=fresh["KeyId"], Plaintext=b"p"),
            lambda: kms.decrypt(CiphertextBlob=c),
            lambda: kms.generate_data_key(KeyId=fresh["KeyId"], KeySpec="AES_256"),
        ):
            with Err("DisabledException"):
                f()
        kms.enable_key(KeyId=fresh["KeyId"])
        assert kms.decrypt(CiphertextBlob=c)["Plaintext"] == b"p"

    @pytest.mark.parametrize("d", [None, 7, 30])
    def test_schedule(self, kms, fresh, d):
        r = kms.schedule_key_deletion(KeyId=fresh["KeyId"], **({"PendingWindowInDays": d} if d else {}))
        assert (
            r["KeyState"] == "PendingDeletion" and r["PendingWindowInDays"] == (d or 30) and r["KeyId"] == fresh["Arn"]
        )
        left = r["DeletionDate"] - datetime.datetime.now(datetime.timezone.utc)
        assert abs(left.total_seconds() - (d or 30) * 86400) < 90000

    @pytest.mark.parametrize("d", [1, 6, 31])
    def test_window_range(self, kms, fresh, d):
        with Err("ValidationException"):
            kms.schedule_key_deletion(KeyId=fresh["KeyId"], PendingWindowInDays=d)

    def test_pending_blocks_crypto_and_cancel(self, kms, fresh):
        i = fresh["KeyId"]
        c = kms.encrypt(KeyId=i, Plaintext=b"p")["CiphertextBlob"]
        kms.schedule_key_deletion(KeyId=i, PendingWindowInDays=7)
        for f in (
            lambda: kms.encrypt(KeyId=i, Plaintext=b"p"),
            lambda: kms.decrypt(CiphertextBlob=c),
            lambda: kms.enable_key(KeyId=i),
            lambda: kms.disable_key(KeyId=i),
            lambda: kms.schedule_key_deletion(KeyId=i),
            lambda: kms.update_key_description(KeyId=i, Description="x"),
            lambda: kms.tag_resource(KeyId=i, Tags=[{"TagKey": "a", "TagValue": "b"}]),
        ):
            with Err("KMSInvalidStateException"):
                f()
        m = kms.describe_key(KeyId=i)["KeyMetadata"]
        assert m["KeyState"] == "PendingDeletion" and m["DeletionDate"] and m["Enabled"] is False
        kms.cancel_key_deletion(KeyId=i)
        m = kms.describe_key(KeyId=i)["KeyMetadata"]
        assert m["KeyState"] == "Disabled" and "DeletionDate" not in m
        with Err("DisabledException"):
            kms.decrypt(CiphertextBlob=c)
        kms.enable_key(KeyId=i)
        assert kms.decrypt(CiphertextBlob=c)["Plaintext"] == b"p"

    def test_cancel_not_pending(self, kms, fresh):
        with Err("KMSInvalidStateException"):
            kms.cancel_key_deletion(KeyId=fresh["KeyId"])

    def test_alias_to_pending(self, kms, fresh, alias):
        kms.schedule_key_deletion(KeyId=fresh["KeyId"])
        with Err("KMSInvalidStateException"):
            kms.create_alias(AliasName=alias, TargetKeyId=fresh["KeyId"])

    def test_readonly_ops_while_pending(self, kms, fresh):
        kms.schedule_key_deletion(KeyId=fresh["KeyId"])
        i = fresh["KeyId"]
        kms.get_key_policy(KeyId=i)
        kms.list_grants(KeyId=i)
        kms.list_resource_tags(KeyId=i)
        assert kms.get_key_rotation_status(KeyId=i)["KeyRotationEnabled"] is False

    def test_rotation_ops_on_disabled(self, kms, fresh):
        kms.disable_key(KeyId=fresh["KeyId"])
        for f in (kms.enable_key_rotation, kms.rotate_key_on_demand):
            with Err("DisabledException"):
                f(KeyId=fresh["KeyId"])

    def test_grant_on_disabled(self, kms, fresh):
        kms.disable_key(KeyId=fresh["KeyId"])
        with Err("DisabledException"):
            kms.create_grant(
                KeyId=fresh["KeyId"],
                GranteePrincipal=f"arn:aws:iam::{fresh['AWSAccountId']}:root",
                Operations=["Decrypt"],
            )

    def test_last_usage(self, kms, fresh):
        r = kms.get_key_last_usage(KeyId=fresh["KeyId"])
        assert not r.get("KeyLastUsage")
        kms.encrypt(KeyId=fresh["KeyId"], Plaintext=b"p")
        r = kms.get_key_last_usage(KeyId=fresh["KeyId"])
        assert r["KeyLastUsage"]["Operation"] == "Encrypt"


class TestRotation:
    def test_default_off(self, kms, fresh):
        assert kms.get_key_rotation_status(KeyId=fresh["KeyId"])["KeyRotationEnabled"] is False

    def test_enable_default_365(self, kms, fresh):
        kms.enable_key_rotation(KeyId=fresh["KeyId"])
        r = kms.get_key_rotation_status(KeyId=fresh["KeyId"])
        assert r["KeyRotationEnabled"] is True and r["RotationPeriodInDays"] == 365 and r["NextRotationDate"]
        kms.disable_key_rotation(KeyId=fresh["KeyId"])
        assert kms.get_key_rotation_status(KeyId=fresh["KeyId"])["KeyRotationEnabled"] is False

    @pytest.mark.parametrize("d", [90, 2560])
    def test_period_ok(self, kms, fresh, d):
        kms.enable_key_rotation(KeyId=fresh["KeyId"], RotationPeriodInDays=d)
        assert kms.get_key_rotation_status(KeyId=fresh["KeyId"])["RotationPeriodInDays"] == d

    @pytest.mark.parametrize("d", [89, 2561])
    def test_period_bad(self, kms, fresh, d):
        with Err("ValidationException"):
            kms.enable_key_rotation(KeyId=fresh["KeyId"], RotationPeriodInDays=d)

    def test_on_demand_keeps_old_material(self, kms, fresh):
        i = fresh["KeyId"]
        c = kms.generate_data_key(KeyId=i, KeySpec="AES_256", EncryptionContext=CTX)
        m0 = fresh.get("CurrentKeyMaterialId")
        assert kms.rotate_key_on_demand(KeyId=i)["KeyId"] in (i, fresh["Arn"])
        for _ in range(50):
            m1 = kms.describe_key(KeyId=i)["KeyMetadata"].get("CurrentKeyMaterialId")
            if m1 and m1 != m0:
                break
            time.sleep(0.1)
        assert m1 and m1 != m0
        d = kms.decrypt(CiphertextBlob=c["CiphertextBlob"], EncryptionContext=CTX)
        assert d["Plaintext"] == c["Plaintext"] and d["KeyMaterialId"] == m0
        assert kms.generate_data_key(KeyId=i, KeySpec="AES_256")["KeyMaterialId"] == m1

    def test_history(self, kms, fresh):
        i = fresh["KeyId"]
        kms.rotate_key_on_demand(KeyId=i)
        time.sleep(0.3)
        kms.rotate_key_on_demand(KeyId=i)
        time.sleep(0.3)
        r = kms.list_key_rotations(KeyId=i)["Rotations"]
        assert len(r) == 2 and all(x["RotationType"] == "ON_DEMAND" and x["RotationDate"] for x in r)

    def test_history_all_material(self, kms, fresh):
        i = fresh["KeyId"]
        kms.rotate_key_on_demand(KeyId=i)
        time.sleep(0.3)
        r = kms.list_key_rotations(KeyId=i, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
        assert len(r) == 2 and sorted(x["KeyMaterialState"] for x in r) == ["CURRENT", "NON_CURRENT"]

    def test_on_demand_limit_25(self, kms, fresh):
        for _ in range(25):
            kms.rotate_key_on_demand(KeyId=fresh["KeyId"])
        with Err("LimitExceededException"):
            kms.rotate_key_on_demand(KeyId=fresh["KeyId"])

    def test_on_demand_keeps_schedule(self, kms, fresh):
        i = fresh["KeyId"]
        kms.enable_key_rotation(KeyId=i, RotationPeriodInDays=100)
        n = kms.get_key_rotation_status(KeyId=i)["NextRotationDate"]
        kms.rotate_key_on_demand(KeyId=i)
        assert kms.get_key_rotation_status(KeyId=i)["NextRotationDate"] == n

    @pytest.mark.parametrize(
        "spec,usage",
        [("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")],
    )
    def test_unsupported_types(self, kms, newkey, spec, usage):
        k = newkey(KeySpec=spec, KeyUsage=usage)
        for f in (kms.enable_key_rotation, kms.rotate_key_on_demand, kms.disable_key_rotation):
            with Err("UnsupportedOperationException"):
                f(KeyId=k["KeyId"])

    def test_external_no_auto(self, kms, newkey):
        with Err("UnsupportedOperationException"):
            kms.enable_key_rotation(KeyId=newkey(Origin="EXTERNAL")["KeyId"])


def wrap(pub, material, alg="RSAES_OAEP_SHA_256"):
    h = hashes.SHA1 if alg.endswith("SHA_1") else hashes.SHA256
    oaep = padding.OAEP(mgf=padding.MGF1(h()), algorithm=h(), label=None)
    p = der(pub)
    if alg.startswith("RSA_AES"):
        a = os.urandom(32)
        return p.encrypt(a, oaep) + aes_key_wrap_with_padding(a, material)
    return p.encrypt(material, oaep)


def imp(kms, keyid, material, alg="RSAES_OAEP_SHA_256", spec="RSA_2048", **kw):
    g = kms.get_parameters_for_import(KeyId=keyid, WrappingAlgorithm=alg, WrappingKeySpec=spec)
    kw.setdefault("ExpirationModel", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    return kms.import_key_material(
        KeyId=keyid, ImportToken=g["ImportToken"], EncryptedKeyMaterial=wrap(g["PublicKey"], material, alg), **kw
    )


class TestImport:
    def test_pending_import_state(self, kms, newkey):
        k = newkey(Origin="EXTERNAL")
        assert k["KeyState"] == "PendingImport" and k["Origin"] == "EXTERNAL" and k["Enabled"] is False
        with Err("KMSInvalidStateException"):
            kms.encrypt(KeyId=k["KeyId"], Plaintext=b"p")

    @pytest.mark.parametrize(
        "alg,spec",
        [("RSAES_OAEP_SHA_256", "RSA_2048"), ("RSAES_OAEP_SHA_1", "RSA_3072"), ("RSAES_OAEP_SHA_256", "RSA_4096")],
    )
    def test_import_symmetric(self, kms, newkey, alg, spec):
        k = newkey(Origin="EXTERNAL")
        imp(kms, k["KeyId"], os.urandom(32), alg, spec)
        m = kms.describe_key(KeyId=k["KeyId"])["KeyMetadata"]
        assert m["KeyState"] == "Enabled" and m["ExpirationModel"] == "KEY_MATERIAL_DOES_NOT_EXPIRE"
        c = kms.encrypt(KeyId=k["KeyId"], Plaintext=b"p")["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=c)["Plaintext"] == b"p"

    def test_delete_and_reimport(self, kms, newkey):
        k = newkey(Origin="EXTERNAL")["KeyId"]
        mat = os.urandom(32)
        imp(kms, k, mat)
        c = kms.encrypt(KeyId=k, Plaintext=b"p")["CiphertextBlob"]
        kms.delete_imported_key_material(KeyId=k)
        assert kms.describe_key(KeyId=k)["KeyMetadata"]["KeyState"] == "PendingImport"
        with Err("KMSInvalidStateException"):
            kms.decrypt(CiphertextBlob=c)
        with Err("IncorrectKeyMaterialException"):
            imp(kms, k, os.urandom(32))
        imp(kms, k, mat)
        assert kms.decrypt(CiphertextBlob=c)["Plaintext"] == b"p"

    def test_foreign_token(self, kms, newkey):
        a, b = newkey(Origin="EXTERNAL")["KeyId"], newkey(Origin="EXTERNAL")["KeyId"]
        g = kms.get_parameters_for_import(KeyId=a, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048")
        with Err("InvalidImportTokenException"):
            kms.import_key_material(
                KeyId=b,
                ImportToken=g["ImportToken"],
                EncryptedKeyMaterial=wrap(g["PublicKey"], os.urandom(32)),
                ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
            )

    def test_bad_ciphertext(self, kms, newkey):
        a = newkey(Origin="EXTERNAL")["KeyId"]
        g = kms.get_parameters_for_import(KeyId=a, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048")
        with Err("InvalidCiphertextException"):
            kms.import_key_material(
                KeyId=a,
                ImportToken=g["ImportToken"],
                EncryptedKeyMaterial=os.urandom(256),
                ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
            )

    def test_wrong_length(self, kms, newkey):
        with Err("IncorrectKeyMaterialException", "ValidationException"):
            imp(kms, newkey(Origin="EXTERNAL")["KeyId"], os.urandom(16))

    def test_expiry_required(self, kms, newkey):
        with Err("ValidationException"):
            imp(kms, newkey(Origin="EXTERNAL")["KeyId"], os.urandom(32), ExpirationModel="KEY_MATERIAL_EXPIRES")

    def test_expires_to_pending(self, kms, newkey):
        k = newkey(Origin="EXTERNAL")["KeyId"]
        imp(
            kms,
            k,
            os.urandom(32),
            ExpirationModel="KEY_MATERIAL_EXPIRES",
            ValidTo=datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2),
        )
        assert kms.describe_key(KeyId=k)["KeyMetadata"]["ValidTo"]
        time.sleep(2.5)
        assert rec(kms, k, "PendingImport") == "PendingImport"

    def test_pkcs1_refused(self, kms, newkey):
        with Err("ValidationException", "UnsupportedOperationException"):
            kms.get_parameters_for_import(
                KeyId=newkey(Origin="EXTERNAL")["KeyId"],
                WrappingAlgorithm="RSAES_PKCS1_V1_5",
                WrappingKeySpec="RSA_2048",
            )

    def test_not_external(self, kms, sym):
        with Err("UnsupportedOperationException"):
            kms.get_parameters_for_import(
                KeyId=sym["KeyId"], WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"
            )

    def test_import_ec_private(self, kms, newkey):
        k = newkey(Origin="EXTERNAL", KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyId"]
        p = ec.generate_private_key(ec.SECP256R1())
        imp(
            kms,
            k,
            p.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        s = kms.sign(KeyId=k, Message=b"m", SigningAlgorithm="ECDSA_SHA_256")["Signature"]
        p.public_key().verify(s, b"m", ec.ECDSA(hashes.SHA256()))

    def test_import_rsa_private_keywrap(self, kms, newkey):
        k = newkey(Origin="EXTERNAL", KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyId"]
        p = rsa.generate_private_key(65537, 2048)
        imp(
            kms,
            k,
            p.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            "RSA_AES_KEY_WRAP_SHA_256",
            "RSA_4096",
        )
        s = kms.sign(KeyId=k, Message=b"m", SigningAlgorithm="RSASSA_PKCS1_V1_5_SHA_256")["Signature"]
        p.public_key().verify(s, b"m", padding.PKCS1v15(), hashes.SHA256())

    def test_import_hmac(self, kms, newkey):
        k = newkey(Origin="EXTERNAL", KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyId"]
        m = os.urandom(32)
        imp(kms, k, m)
        h = chmac.HMAC(m, hashes.SHA256())
        h.update(b"msg")
        assert kms.generate_mac(KeyId=k, Message=b"msg", MacAlgorithm="HMAC_SHA_256")["Mac"] == h.finalize()

    def test_multi_material_rotation(self, kms, newkey):
        k = newkey(Origin="EXTERNAL")["KeyId"]
        imp(kms, k, os.urandom(32))
        c = kms.encrypt(KeyId=k, Plaintext=b"old")["CiphertextBlob"]
        m2 = imp(kms, k, os.urandom(32), ImportType="NEW_KEY_MATERIAL")["KeyMaterialId"]
        st = {
            r["KeyMaterialId"]: r["KeyMaterialState"]
            for r in kms.list_key_rotations(KeyId=k, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
        }
        assert st[m2] == "PENDING_ROTATION"
        kms.rotate_key_on_demand(KeyId=k)
        time.sleep(0.3)
        assert (
            kms.describe_key(KeyId=k)["KeyMetadata"]["CurrentKeyMaterialId"] == m2
            and kms.decrypt(CiphertextBlob=c)["Plaintext"] == b"old"
        )


ASYM = [
    ("RSA_2048", "RSASSA_PSS_SHA_256"),
    ("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_512"),
    ("ECC_NIST_P256", "ECDSA_SHA_256"),
    ("ECC_NIST_P384", "ECDSA_SHA_384"),
    ("ECC_NIST_P521", "ECDSA_SHA_512"),
    ("ECC_SECG_P256K1", "ECDSA_SHA_256"),
    ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512"),
    ("ML_DSA_44", "ML_DSA_SHAKE_256"),
    ("ML_DSA_65", "ML_DSA_SHAKE_256"),
    ("ML_DSA_87", "ML_DSA_SHAKE_256"),
]


class TestAsymmetric:
    @pytest.mark.parametrize("spec,alg", ASYM)
    def test_sign_verify(self, kms, newkey, spec, alg):
        k = newkey(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyId"]
        s = kms.sign(KeyId=k, Message=b"msg", SigningAlgorithm=alg)
        assert s["SigningAlgorithm"] == alg
        assert (
            kms.verify(KeyId=k, Message=b"msg", Signature=s["Signature"], SigningAlgorithm=alg)["SignatureValid"]
            is True
        )

    @pytest.mark.parametrize("spec,alg", [ASYM[0], ASYM[2], ASYM[6], ASYM[8]])
    def test_bad_signature(self, kms, newkey, spec, alg):
        k = newkey(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyId"]
        s = kms.sign(KeyId=k, Message=b"msg", SigningAlgorithm=alg)["Signature"]
        with Err("KMSInvalidSignatureException"):
            kms.verify(KeyId=k, Message=b"msG", Signature=s, SigningAlgorithm=alg)

    @pytest.mark.parametrize(
        "spec,alg",
        [
            ("RSA_2048", "RSASSA_PSS_SHA_256"),
            ("ECC_NIST_P256", "ECDSA_SHA_256"),
            ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512"),
        ],
    )
    def test_verify_outside(self, kms, newkey, spec, alg):
        k = newkey(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyId"]
        s = kms.sign(KeyId=k, Message=b"msg", SigningAlgorithm=alg)["Signature"]
        g = kms.get_public_key(KeyId=k)
        p = der(g["PublicKey"])
        assert alg in g["SigningAlgorithms"]
        if "RSA" in alg:
            p.verify(s, b"msg", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        elif "ECDSA" in alg:
            p.verify(s, b"msg", ec.ECDSA(hashes.SHA256()))
        else:
            p.verify(s, b"msg")

    def test_digest_mode(self, kms, newkey):
        k = newkey(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyId"]
        d = hashlib.sha256(b"m").digest()
        s = kms.sign(KeyId=k, Message=d, MessageType="DIGEST", SigningAlgorithm="ECDSA_SHA_256")["Signature"]
        assert kms.verify(KeyId=k, Message=b"m", Signature=s, SigningAlgorithm="ECDSA_SHA_256")["SignatureValid"]
        with Err("ValidationException"):
            kms.sign(KeyId=k, Message=b"short", MessageType="DIGEST", SigningAlgorithm="ECDSA_SHA_256")

    def test_alg_mismatch(self, kms, newkey):
        k = newkey(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyId"]
        with Err("InvalidKeyUsageException", "ValidationException"):
            kms.sign(KeyId=k, Message=b"m", SigningAlgorithm="ECDSA_SHA_384")

    @pytest.mark.parametrize("alg", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])
    def test_rsa_encrypt(self, kms, newkey, alg):
        k = newkey(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyId"]
        h = hashes.SHA1 if alg.endswith("_1") else hashes.SHA256
        c = der(kms.get_public_key(KeyId=k)["PublicKey"]).encrypt(
            b"outside", padding.OAEP(padding.MGF1(h()), h(), None)
        )
        assert kms.decrypt(KeyId=k, CiphertextBlob=c, EncryptionAlgorithm=alg)["Plaintext"] == b"outside"
        c = kms.encrypt(KeyId=k, Plaintext=b"in", EncryptionAlgorithm=alg)["CiphertextBlob"]
        assert kms.decrypt(KeyId=k, CiphertextBlob=c, EncryptionAlgorithm=alg)["Plaintext"] == b"in"

    def test_rsa_too_long(self, kms, newkey):
        with Err("ValidationException"):
            kms.encrypt(
                KeyId=newkey(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyId"],
                Plaintext=b"x" * 191,
                EncryptionAlgorithm="RSAES_OAEP_SHA_256",
            )

    def test_usage_enforced(self, kms, newkey, sym):
        k = newkey(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyId"]
        with Err("InvalidKeyUsageException"):
            kms.encrypt(KeyId=k, Plaintext=b"p", EncryptionAlgorithm="RSAES_OAEP_SHA_256")
        with Err("InvalidKeyUsageException", "UnsupportedOperationException"):
            kms.sign(KeyId=sym["KeyId"], Message=b"m", SigningAlgorithm="ECDSA_SHA_256")

    def test_no_public_key_for_symmetric(self, kms, sym):
        with Err("UnsupportedOperationException"):
            kms.get_public_key(KeyId=sym["KeyId"])

    @pytest.mark.parametrize("n", [224, 256, 384, 512])
    def test_hmac(self, kms, newkey, n):
        k = newkey(KeySpec=f"HMAC_{n}", KeyUsage="GENERATE_VERIFY_MAC")
        a = f"HMAC_SHA_{n}"
        m = kms.generate_mac(KeyId=k["KeyId"], Message=b"m", MacAlgorithm=a)["Mac"]
        assert len(m) == n // 8
        assert kms.verify_mac(KeyId=k["KeyId"], Message=b"m", Mac=m, MacAlgorithm=a)["MacValid"] is True
        with Err("KMSInvalidMacException"):
            kms.verify_mac(KeyId=k["KeyId"], Message=b"M", Mac=m, MacAlgorithm=a)

    def test_algorithm_lists(self, kms, newkey):
        assert newkey(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["MacAlgorithms"] == ["HMAC_SHA_256"]
        assert set(newkey(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["EncryptionAlgorithms"]) == {
            "RSAES_OAEP_SHA_1",
            "RSAES_OAEP_SHA_256",
        }
        assert newkey(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")["KeyAgreementAlgorithms"] == ["ECDH"]

    def test_ecdh(self, kms, newkey):
        a, b = (newkey(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")["KeyId"] for _ in "ab")
        pa, pb = (kms.get_public_key(KeyId=x)["PublicKey"] for x in (a, b))
        s = kms.derive_shared_secret(KeyId=a, KeyAgreementAlgorithm="ECDH", PublicKey=pb)["SharedSecret"]
        assert (
            len(s) == 32
            and s == kms.derive_shared_secret(KeyId=b, KeyAgreementAlgorithm="ECDH", PublicKey=pa)["SharedSecret"]
        )

    @pytest.mark.parametrize("spec", ["ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"])
    def test_ml_kem(self, kms, newkey, spec):
        k = newkey(KeySpec=spec, KeyUsage="ENCAPSULATE_DECAPSULATE")["KeyId"]
        e = kms.encapsulate(KeyId=k, EncapsulationAlgorithm="ML_KEM")
        assert len(e["SharedSecret"]) == 32
        assert (
            kms.decapsulate(
                KeyId=k, EncapsulationAlgorithm="ML_KEM", SharedSecretCiphertextBlob=e["SharedSecretCiphertextBlob"]
            )["SharedSecret"]
            == e["SharedSecret"]
        )
        bad = bytes([e["SharedSecretCiphertextBlob"][0] ^ 1]) + e["SharedSecretCiphertextBlob"][1:]
        assert (
            kms.decapsulate(KeyId=k, EncapsulationAlgorithm="ML_KEM", SharedSecretCiphertextBlob=bad)["SharedSecret"]
            != e["SharedSecret"]
        )
        with Err("InvalidCiphertextException"):
            kms.decapsulate(KeyId=k, EncapsulationAlgorithm="ML_KEM", SharedSecretCiphertextBlob=b"short")


def pol(acct, *stmts):
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "root",
                    "Effect": "Allow",
                    "Principal": {"AWS": f"arn:aws:iam::{acct}:root"},
                    "Action": "kms:*",
                    "Resource": "*",
                },
                *stmts,
            ],
        }
    )


class TestPolicy:
    def test_default_policy(self, kms, sym):
        r = kms.get_key_policy(PolicyName="default", KeyId=sym["KeyId"])
        st = json.loads(r["Policy"])["Statement"][0]
        assert r["PolicyName"] == "default"
        assert (
            st["Effect"] == "Allow"
            and st["Action"] == "kms:*"
            and st["Principal"]["AWS"] == f"arn:aws:iam::{sym['AWSAccountId']}:root"
            and st["Sid"] == "Enable IAM User Permissions"
        )

    def test_policy_name_optional(self, kms, fresh):
        p = kms.get_key_policy(KeyId=fresh["KeyId"])["Policy"]
        kms.put_key_policy(KeyId=fresh["KeyId"], Policy=p)

    def test_list_policies(self, kms, sym):
        assert kms.list_key_policies(KeyId=sym["KeyId"])["PolicyNames"] == ["default"]

    def test_put_get(self, kms, fresh):
        p = pol(fresh["AWSAccountId"])
        kms.put_key_policy(PolicyName="default", KeyId=fresh["KeyId"], Policy=p)
        assert json.loads(kms.get_key_policy(PolicyName="default", KeyId=fresh["KeyId"])["Policy"]) == json.loads(p)

    def test_malformed_json(self, kms, fresh):
        with Err("MalformedPolicyDocumentException"):
            kms.put_key_policy(PolicyName="default", KeyId=fresh["KeyId"], Policy="{not json")

    def test_malformed_create(self, kms):
        with Err("MalformedPolicyDocumentException"):
            kms.create_key(Policy='{"Version":"2012-10-17","Statement":[{"Effect":"Maybe"}]}')

    def test_too_long(self, kms, fresh):
        with Err("LimitExceededException", "ValidationException", "MalformedPolicyDocumentException"):
            kms.put_key_policy(
                PolicyName="default",
                KeyId=fresh["KeyId"],
                Policy=pol(
                    fresh["AWSAccountId"],
                    *(
                        {"Sid": f"s{i}", "Effect": "Deny", "Principal": "*", "Action": "kms:Sign", "Resource": "*"}
                        for i in range(500)
                    ),
                ),
            )

    def test_other_name(self, kms, fresh):
        with Err("NotFoundException", "ValidationException"):
            kms.get_key_policy(KeyId=fresh["KeyId"], PolicyName="other")

    def test_lockout_check(self, kms, fresh):
        p = json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": {"AWS": f"arn:aws:iam::{fresh['AWSAccountId']}:root"},
                        "Action": "kms:Decrypt",
                        "Resource": "*",
                    }
                ],
            }
        )
        with Err("MalformedPolicyDocumentException"):
            kms.put_key_policy(PolicyName="default", KeyId=fresh["KeyId"], Policy=p)

    @pytest.mark.parametrize("action", ["kms:Encrypt", "kms:En*", ["kms:Sign", "kms:Encrypt"]])
    def test_deny_enforced(self, kms, fresh, action):
        kms.put_key_policy(
            PolicyName="default",
            KeyId=fresh["KeyId"],
            Policy=pol(fresh["AWSAccountId"], {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": "*"}),
        )
        with Err("AccessDeniedException"):
            kms.encrypt(KeyId=fresh["KeyId"], Plaintext=b"p")
        kms.generate_random(NumberOfBytes=1)
        kms.describe_key(KeyId=fresh["KeyId"])

    def test_not_action(self, kms, fresh):
        kms.put_key_policy(
            PolicyName="default",
            KeyId=fresh["KeyId"],
            Policy=pol(
                fresh["AWSAccountId"],
                {
                    "Effect": "Deny",
                    "Principal": "*",
                    "NotAction": ["kms:Encrypt", "kms:PutKeyPolicy"],
                    "Resource": "*",
                },
            ),
        )
        c = kms.encrypt(KeyId=fresh["KeyId"], Plaintext=b"p")["CiphertextBlob"]
        with Err("AccessDeniedException"):
            kms.decrypt(CiphertextBlob=c)

    def test_encryption_context_condition(self, kms, fresh):
        kms.put_key_policy(
            PolicyName="default",
            KeyId=fresh["KeyId"],
            Policy=pol(
                fresh["AWSAccountId"],
                {
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "kms:Encrypt",
                    "Resource": "*",
                    "Condition": {"StringNotEquals": {"kms:EncryptionContext:fs": "vol-1"}},
                },
            ),
        )
        kms.encrypt(KeyId=fresh["KeyId"], Plaintext=b"p", EncryptionContext={"fs": "vol-1"})
        with Err("AccessDeniedException"):
            kms.encrypt(KeyId=fresh["KeyId"], Plaintext=b"p", EncryptionContext={"fs": "vol-2"})

    def test_via_service_condition(self, kms, fresh):
        kms.put_key_policy(
            PolicyName="default",
            KeyId=fresh["KeyId"],
            Policy=pol(
                fresh["AWSAccountId"],
                {
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "kms:Decrypt",
                    "Resource": "*",
                    "Condition": {"StringNotEquals": {"kms:ViaService": f"ec2.{REGION}.amazonaws.com"}},
                },
            ),
        )
        c = kms.encrypt(KeyId=fresh["KeyId"], Plaintext=b"p")["CiphertextBlob"]
        with Err("AccessDeniedException"):
            kms.decrypt(CiphertextBlob=c)

    def test_window_condition(self, kms, fresh):
        kms.put_key_policy(
            PolicyName="default",
            KeyId=fresh["KeyId"],
            Policy=pol(
                fresh["AWSAccountId"],
                {
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "kms:ScheduleKeyDeletion",
                    "Resource": "*",
                    "Condition": {"NumericLessThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": "14"}},
                },
            ),
        )
        with Err("AccessDeniedException"):
            kms.schedule_key_deletion(KeyId=fresh["KeyId"], PendingWindowInDays=7)
        kms.schedule_key_deletion(KeyId=fresh["KeyId"], PendingWindowInDays=20)

    def test_reencrypt_two_permissions(self, kms, sym, fresh):
        kms.put_key_policy(
            PolicyName="default",
            KeyId=fresh["KeyId"],
            Policy=pol(
                fresh["AWSAccountId"],
                {"Effect": "Deny", "Principal": "*", "Action": "kms:ReEncryptTo", "Resource": "*"},
            ),
        )
        c = kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p")["CiphertextBlob"]
        with Err("AccessDeniedException"):
            kms.re_encrypt(CiphertextBlob=c, DestinationKeyId=fresh["KeyId"])


class TestGrants:
    def g(self, kms, k, **kw):
        return kms.create_grant(
            **{
                "KeyId": k["KeyId"],
                "GranteePrincipal": f"arn:aws:iam::{k['AWSAccountId']}:root",
                "Operations": ["Encrypt", "Decrypt"],
                **kw,
            }
        )

    def test_create_list(self, kms, fresh):
        r = self.g(kms, fresh, Name="n1", Constraints={"EncryptionContextSubset": {"fs": "v"}})
        assert len(r["GrantId"]) == 64 and r["GrantToken"]
        l = kms.list_grants(KeyId=fresh["KeyId"])["Grants"]
        assert (
            len(l) == 1
            and l[0]["GrantId"] == r["GrantId"]
            and l[0]["Name"] == "n1"
            and l[0]["Constraints"] == {"EncryptionContextSubset": {"fs": "v"}}
            and set(l[0]["Operations"]) == {"Encrypt", "Decrypt"}
            and l[0]["KeyId"] == fresh["Arn"]
        )

    def test_idempotent_name(self, kms, fresh):
        a, b = self.g(kms, fresh, Name="same"), self.g(kms, fresh, Name="same")
        assert a["GrantId"] == b["GrantId"] and len(kms.list_grants(KeyId=fresh["KeyId"])["Grants"]) == 1

    def test_no_name_not_idempotent(self, kms, fresh):
        assert self.g(kms, fresh)["GrantId"] != self.g(kms, fresh)["GrantId"]

    def test_revoke(self, kms, fresh):
        i = self.g(kms, fresh)["GrantId"]
        kms.revoke_grant(KeyId=fresh["KeyId"], GrantId=i)
        assert kms.list_grants(KeyId=fresh["KeyId"])["Grants"] == []
        with Err("NotFoundException", "InvalidGrantIdException"):
            kms.revoke_grant(KeyId=fresh["KeyId"], GrantId=i)

    def test_retire_by_token(self, kms, fresh):
        kms.retire_grant(GrantToken=self.g(kms, fresh)["GrantToken"])
        assert kms.list_grants(KeyId=fresh["KeyId"])["Grants"] == []

    def test_list_retirable(self, kms, fresh):
        p = f"arn:aws:iam::{fresh['AWSAccountId']}:role/{uuid.uuid4().hex}"
        i = self.g(kms, fresh, RetiringPrincipal=p)["GrantId"]
        assert [x["GrantId"] for x in kms.list_retirable_grants(RetiringPrincipal=p)["Grants"]] == [i]

    def test_filter_by_id(self, kms, fresh):
        i = self.g(kms, fresh)["GrantId"]
        self.g(kms, fresh)
        assert [x["GrantId"] for x in kms.list_grants(KeyId=fresh["KeyId"], GrantId=i)["Grants"]] == [i]

    def test_bad_operation(self, kms, fresh):
        with Err("ValidationException"):
            self.g(kms, fresh, Operations=["Nope"])

    def test_op_incompatible_with_key(self, kms, fresh):
        with Err("ValidationException"):
            self.g(kms, fresh, Operations=["Sign"])

    def test_bad_token(self, kms, sym):
        with Err("InvalidGrantTokenException"):
            kms.encrypt(KeyId=sym["KeyId"], Plaintext=b"p", GrantTokens=["bm90LWEtdG9rZW4="])

    def test_dryrun(self, kms, fresh):
        with Err("DryRunOperationException"):
            self.g(kms, fresh, DryRun=True)
        assert kms.list_grants(KeyId=fresh["KeyId"])["Grants"] == []


@pytest.mark.skipif(
    not os.environ.get("KMS_AK2"), reason="needs a second account's credentials in KMS_AK2/KMS_SK2 (and KMS_ACCT2)"
)
class TestCrossAccount:
    @pytest.fixture()
    def other(self, mk):
        return mk(aws_access_key_id=os.environ["KMS_AK2"], aws_secret_access_key=os.environ["KMS_SK2"])

    def test_denied_by_default(self, other, sym):
        with Err("AccessDeniedException"):
            other.encrypt(KeyId=sym["Arn"], Plaintext=b"p")

    def test_plain_id_is_own_account(self, other, sym):
        with Err("NotFoundException"):
            other.describe_key(KeyId=sym["KeyId"])

    def test_key_policy_allows(self, kms, other, fresh):
        kms.put_key_policy(
            KeyId=fresh["KeyId"],
            PolicyName="default",
            Policy=pol(
                fresh["AWSAccountId"],
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": f"arn:aws:iam::{os.environ['KMS_ACCT2']}:root"},
                    "Action": ["kms:Encrypt", "kms:Decrypt"],
                    "Resource": "*",
                },
            ),
        )
        c = other.encrypt(KeyId=fresh["Arn"], Plaintext=b"p")["CiphertextBlob"]
        assert other.decrypt(CiphertextBlob=c)["Plaintext"] == b"p"
        with Err("AccessDeniedException"):
            other.generate_data_key(KeyId=fresh["Arn"], KeySpec="AES_256")

    def test_grant_allows_then_revoked(self, kms, other, fresh):
        g = kms.create_grant(
            KeyId=fresh["KeyId"],
            GranteePrincipal=f"arn:aws:iam::{os.environ['KMS_ACCT2']}:root",
            Operations=["Encrypt"],
            Constraints={"EncryptionContextSubset": {"fs": "v"}},
        )
        other.encrypt(
            KeyId=fresh["Arn"], Plaintext=b"p", EncryptionContext={"fs": "v", "x": "1"}, GrantTokens=[g["GrantToken"]]
        )
        with Err("AccessDeniedException"):
            other.encrypt(
                KeyId=fresh["Arn"], Plaintext=b"p", EncryptionContext={"fs": "w"}, GrantTokens=[g["GrantToken"]]
            )
        kms.revoke_grant(KeyId=fresh["KeyId"], GrantId=g["GrantId"])
        with Err("AccessDeniedException"):
            other.encrypt(KeyId=fresh["Arn"], Plaintext=b"p", EncryptionContext={"fs": "v"})

    def test_management_never_cross_account(self, kms, other, fresh):
        kms.put_key_policy(
            KeyId=fresh["KeyId"],
            PolicyName="default",
            Policy=pol(
                fresh["AWSAccountId"],
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": f"arn:aws:iam::{os.environ['KMS_ACCT2']}:root"},
                    "Action": "kms:*",
                    "Resource": "*",
                },
            ),
        )
        with Err("AccessDeniedException", "NotFoundException"):
            other.schedule_key_deletion(KeyId=fresh["Arn"])


class TestTags:
    def test_roundtrip(self, kms, newkey):
        k = newkey(Tags=[{"TagKey": "a", "TagValue": "1"}])["KeyId"]
        kms.tag_resource(KeyId=k, Tags=[{"TagKey": "a", "TagValue": "2"}, {"TagKey": "b", "TagValue": ""}])
        t = {x["TagKey"]: x["TagValue"] for x in kms.list_resource_tags(KeyId=k)["Tags"]}
        assert t == {"a": "2", "b": ""}
        kms.untag_resource(KeyId=k, TagKeys=["a"])
        assert [x["TagKey"] for x in kms.list_resource_tags(KeyId=k)["Tags"]] == ["b"]

    def test_aws_prefix(self, kms, fresh):
        with Err("TagException", "ValidationException"):
            kms.tag_resource(KeyId=fresh["KeyId"], Tags=[{"TagKey": "aws:x", "TagValue": "1"}])

    def test_over_50(self, kms, fresh):
        with Err("TagException", "LimitExceededException"):
            kms.tag_resource(KeyId=fresh["KeyId"], Tags=[{"TagKey": f"k{i}", "TagValue": "v"} for i in range(51)])

    def test_duplicate_keys(self, kms, fresh):
        with Err("TagException"):
            kms.tag_resource(
                KeyId=fresh["KeyId"], Tags=[{"TagKey": "d", "TagValue": "1"}, {"TagKey": "d", "TagValue": "2"}]
            )


class TestMultiRegion:
    @pytest.fixture()
    def mrk(self, newkey):
        return newkey(MultiRegion=True)

    def test_primary(self, mrk):
        assert (
            mrk["KeyId"].startswith("mrk-")
            and mrk["MultiRegion"]
            and mrk["MultiRegionConfiguration"]["MultiRegionKeyType"] == "PRIMARY"
            and mrk["MultiRegionConfiguration"]["PrimaryKey"]["Region"] == REGION
        )

    def test_replicate_and_decrypt(self, kms, kms2, mrk):
        r = kms.replicate_key(KeyId=mrk["KeyId"], ReplicaRegion=REGION2)["ReplicaKeyMetadata"]
        assert (
            r["KeyId"] == mrk["KeyId"]
            and f":{REGION2}:" in r["Arn"]
            and r["MultiRegionConfiguration"]["MultiRegionKeyType"] == "REPLICA"
        )
        rec(kms2, mrk["KeyId"], "Enabled")
        c = kms.encrypt(KeyId=mrk["KeyId"], Plaintext=b"p", EncryptionContext=CTX)["CiphertextBlob"]
        assert kms2.decrypt(CiphertextBlob=c, EncryptionContext=CTX)["Plaintext"] == b"p"
        assert [
            x["Region"]
            for x in kms.describe_key(KeyId=mrk["KeyId"])["KeyMetadata"]["MultiRegionConfiguration"]["ReplicaKeys"]
        ] == [REGION2]

    def test_twice(self, kms, mrk):
        kms.replicate_key(KeyId=mrk["KeyId"], ReplicaRegion=REGION2)
        with Err("AlreadyExistsException"):
            kms.replicate_key(KeyId=mrk["KeyId"], ReplicaRegion=REGION2)

    def test_single_region_refused(self, kms, fresh):
        with Err("UnsupportedOperationException"):
            kms.replicate_key(KeyId=fresh["KeyId"], ReplicaRegion=REGION2)

    def test_independent_state(self, kms, kms2, mrk):
        kms.replicate_key(KeyId=mrk["KeyId"], ReplicaRegion=REGION2)
        rec(kms2, mrk["KeyId"], "Enabled")
        kms2.disable_key(KeyId=mrk["KeyId"])
        assert kms.describe_key(KeyId=mrk["KeyId"])["KeyMetadata"]["KeyState"] == "Enabled"

    def test_shared_rotation(self, kms, kms2, mrk):
        kms.replicate_key(KeyId=mrk["KeyId"], ReplicaRegion=REGION2)
        rec(kms2, mrk["KeyId"], "Enabled")
        kms.enable_key_rotation(KeyId=mrk["KeyId"])
        assert kms2.get_key_rotation_status(KeyId=mrk["KeyId"])["KeyRotationEnabled"] is True
        with Err("UnsupportedOperationException"):
            kms2.disable_key_rotation(KeyId=mrk["KeyId"])

    def test_delete_primary_with_replica(self, kms, kms2, mrk):
        kms.replicate_key(KeyId=mrk["KeyId"], ReplicaRegion=REGION2)
        rec(kms2, mrk["KeyId"], "Enabled")
        assert (
            kms.schedule_key_deletion(KeyId=mrk["KeyId"], PendingWindowInDays=7)["KeyState"]
            == "PendingReplicaDeletion"
        )

    def test_update_primary(self, kms, kms2, mrk):
        kms.replicate_key(KeyId=mrk["KeyId"], ReplicaRegion=REGION2)
        rec(kms2, mrk["KeyId"], "Enabled")
        kms.update_primary_region(KeyId=mrk["KeyId"], PrimaryRegion=REGION2)
        rec(kms2, mrk["KeyId"], "Enabled")
        assert (
            kms2.describe_key(KeyId=mrk["KeyId"])["KeyMetadata"]["MultiRegionConfiguration"]["MultiRegionKeyType"]
            == "PRIMARY"
        )


class TestCustomKeyStore:
    def test_describe_empty_ok(self, kms):
        assert "CustomKeyStores" in kms.describe_custom_key_stores()

    def test_unknown_store(self, kms):
        with Err("CustomKeyStoreNotFoundException"):
            kms.describe_custom_key_stores(CustomKeyStoreId="cks-0000000000000000")

    def test_create_key_unknown_store(self, kms):
        with Err("CustomKeyStoreNotFoundException"):
            kms.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId="cks-0000000000000000")

    def test_store_requires_origin(self, kms):
        with Err("ValidationException", "UnsupportedOperationException"):
            kms.create_key(Origin="AWS_CLOUDHSM")


def raw(endpoint, op, body, sign=True, target="TrentService.", secret=None, hdr=None):
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    h = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target + op, **(hdr or {})}
    r = AWSRequest("POST", endpoint + "/", data=data, headers=h)
    if sign:
        SigV4Auth(
            Credentials(
                os.environ["AWS_ACCESS_KEY_ID"],
                secret or os.environ["AWS_SECRET_ACCESS_KEY"],
                os.environ.get("AWS_SESSION_TOKEN"),
            ),
            "kms",
            REGION,
        ).add_auth(r)
    x = requests.post(endpoint + "/", data=data, headers=dict(r.headers), timeout=20)
    try:
        b = x.json()
    except Exception:
        b = {"__type": "", "_text": x.text[:200]}
    return x.status_code, b, x.headers


class TestWire:
    def test_shape(self, endpoint):
        code, b, h = raw(endpoint, "ListKeys", {})
        assert (
            code == 200
            and "Keys" in b
            and h["Content-Type"].startswith("application/x-amz-json-1.1")
            and h.get("x-amzn-RequestId")
        )

    def test_error_shape(self, endpoint):
        code, b, h = raw(endpoint, "DescribeKey", {"KeyId": str(uuid.uuid4())})
        assert (
            code == 400
            and b["__type"].split("#")[-1] == "NotFoundException"
            and ("message" in b or "Message" in b)
            and h["Content-Type"].startswith("application/x-amz-json-1.1")
        )

    def test_unknown_op(self, endpoint):
        code, b, _ = raw(endpoint, "NoSuchThing", {})
        assert 400 <= code < 500 and b["__type"].split("#")[-1] == "UnknownOperationException"

    def test_bad_json(self, endpoint):
        code, b, _ = raw(endpoint, "ListKeys", "{nope")
        assert code == 400 and b["__type"].split("#")[-1] == "SerializationException"

    def test_missing_required(self, endpoint):
        code, b, _ = raw(endpoint, "DescribeKey", {})
        assert code == 400 and b["__type"].split("#")[-1] == "ValidationException"

    def test_bad_base64(self, endpoint):
        code, b, _ = raw(endpoint, "Decrypt", {"CiphertextBlob": "!!!"})
        assert code == 400 and b["__type"].split("#")[-1] == "SerializationException"

    def test_wrong_type(self, endpoint):
        code, b, _ = raw(endpoint, "GenerateRandom", {"NumberOfBytes": "x"})
        assert code == 400 and b["__type"].split("#")[-1] in ("SerializationException", "ValidationException")

    def test_unsigned(self, endpoint):
        code, b, _ = raw(endpoint, "ListKeys", {}, sign=False)
        assert code in (400, 403) and b["__type"].split("#")[-1] in (
            "MissingAuthenticationTokenException",
            "MissingAuthenticationToken",
        )

    def test_bad_signature(self, endpoint):
        code, b, _ = raw(endpoint, "ListKeys", {}, secret="wrong")
        assert code in (400, 403) and b["__type"].split("#")[-1] in (
            "InvalidSignatureException",
            "UnrecognizedClientException",
            "IncompleteSignatureException",
        )

    def test_expired_signature(self, endpoint):
        """A signature of ten minutes ago."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        old = (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=10)).strftime("%Y%m%dT%H%M%SZ")
        h = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "TrentService.ListKeys", "X-Amz-Date": old}
        r = AWSRequest("POST", endpoint + "/", data="{}", headers=h)
        auth = SigV4Auth(
            Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]), "kms", REGION
        )
        r.context["timestamp"] = old
        r.headers["host"] = endpoint.split("/")[2]
        r.headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={auth.scope(r)}, SignedHeaders={auth.signed_headers(auth.headers_to_sign(r))}, "
            f"Signature={auth.signature(auth.string_to_sign(r, auth.canonical_request(r)), r)}"
        )
        x = requests.post(endpoint + "/", data="{}", headers=dict(r.headers), timeout=20)
        assert x.status_code == 400 and x.json()["__type"].split("#")[-1] == "InvalidSignatureException", x.text
        assert x.json()["message"].startswith("Signature expired: "), x.text

    def test_duplicate_members(self, endpoint):
        code, b, _ = raw(endpoint, "GenerateRandom", '{"NumberOfBytes":1,"NumberOfBytes":2}')
        assert code == 400 and b["__type"].split("#")[-1] == "SerializationException"

    def test_recipient_is_never_ignored(self, endpoint):
        code, b, _ = raw(endpoint, "GenerateRandom", {"NumberOfBytes": 1, "Recipient": {"AttestationDocument": "AA=="}})
        assert code == 400 and b["__type"].split("#")[-1] == "ValidationException" and "Plaintext" not in b

    def test_epoch_dates(self, endpoint):
        _, b, _ = raw(endpoint, "CreateKey", {})
        assert isinstance(b["KeyMetadata"]["CreationDate"], (int, float))


class TestClients:  # SDKs and tools end to end
    def env(self, endpoint):
        return {**os.environ, "AWS_ENDPOINT_URL_KMS": endpoint, "AWS_DEFAULT_REGION": REGION, "AWS_PAGER": ""}

    def test_awscli(self, endpoint, sym, tmp_path):
        f = tmp_path / "p"
        f.write_bytes(b"cli secret")
        aws = [sys.executable, "-m", "awscli", "kms"]
        e = self.env(endpoint)
        c = subprocess.run(
            aws
            + [
                "encrypt",
                "--key-id",
                sym["KeyId"],
                "--plaintext",
                f"fileb://{f}",
                "--query",
                "CiphertextBlob",
                "--output",
                "text",
            ],
            env=e,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        (tmp_path / "c").write_bytes(base64.b64decode(c))
        p = subprocess.run(
            aws
            + ["decrypt", "--ciphertext-blob", f"fileb://{tmp_path}/c", "--query", "Plaintext", "--output", "text"],
            env=e,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        assert base64.b64decode(p) == b"cli secret"

    def test_encryption_sdk(self, endpoint, sym, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
        import aws_encryption_sdk as s

        c = s.EncryptionSDKClient(commitment_policy=s.CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
        mkp = s.StrictAwsKmsMasterKeyProvider(key_ids=[sym["Arn"]])
        ct, _ = c.encrypt(source=b"x" * 10000, key_provider=mkp, encryption_context={"purpose": "t"})
        pt, h = c.decrypt(source=ct, key_provider=mkp)
        assert pt == b"x" * 10000 and h.encryption_context["purpose"] == "t"

    def test_encryption_sdk_multi_region(self, endpoint, kms, kms2, newkey, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
        import aws_encryption_sdk as s, aws_encryption_sdk.key_providers.kms

        k = newkey(MultiRegion=True)
        kms.replicate_key(KeyId=k["KeyId"], ReplicaRegion=REGION2)
        rec(kms2, k["KeyId"], "Enabled")
        c = s.EncryptionSDKClient()
        ct, _ = c.encrypt(
            source=b"m", key_provider=s.key_providers.kms.MRKAwareStrictAwsKmsMasterKeyProvider(key_ids=[k["Arn"]])
        )
        pt, _ = c.decrypt(
            source=ct,
            key_provider=s.key_providers.kms.MRKAwareStrictAwsKmsMasterKeyProvider(
                key_ids=[k["Arn"].replace(REGION, REGION2)]
            ),
        )
        assert pt == b"m"

    def test_ebs_flow_cross_region_copy(self, kms, kms2, newkey):
        """Encrypted volume in region A -> snapshot -> copy re-encrypted under region B's key -> volume in B."""
        ka, kb = newkey(), newkey(client=kms2)
        cx = {"aws:ebs:id": "vol-1"}
        d = kms.generate_data_key_without_plaintext(KeyId=ka["KeyId"], NumberOfBytes=64, EncryptionContext=cx)
        p = kms.decrypt(CiphertextBlob=d["CiphertextBlob"], EncryptionContext=cx)["Plaintext"]
        e = kms2.encrypt(KeyId=kb["KeyId"], Plaintext=p, EncryptionContext={"aws:ebs:id": "vol-2"})["CiphertextBlob"]
        kms.schedule_key_deletion(KeyId=ka["KeyId"], PendingWindowInDays=7)
        assert kms2.decrypt(CiphertextBlob=e, EncryptionContext={"aws:ebs:id": "vol-2"})["Plaintext"] == p
