"""A round trip with boto3; endpoint and credentials come from the environment."""

import datetime
import uuid

import boto3

kms, sts = boto3.client("kms"), boto3.client("sts")
identity = sts.get_caller_identity()
assert identity["Arn"].endswith(":user/administrator"), identity
assert identity["Account"] == "111122223333", identity
try:
    boto3.client("sts", aws_secret_access_key="wrong", aws_access_key_id="AKIANOBODY").get_caller_identity()
    raise AssertionError("nobody was identified")
except sts.exceptions.ClientError as error:
    assert error.response["Error"]["Code"] == "InvalidClientTokenId", error

key = kms.create_key(Description="boto3")["KeyMetadata"]
other = kms.create_key()["KeyMetadata"]
assert abs(key["CreationDate"] - datetime.datetime.now(datetime.timezone.utc)) < datetime.timedelta(minutes=1)
alias = f"alias/boto3-{uuid.uuid4().hex}"
kms.create_alias(AliasName=alias, TargetKeyId=key["KeyId"])
context = {"fs": "v", "name": "\u00e4\"\\/"}
made = kms.generate_data_key(KeyId=alias, KeySpec="AES_256", EncryptionContext=context)
assert made["KeyId"] == key["Arn"] and len(made["Plaintext"]) == 32
opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context)
assert opened["Plaintext"] == made["Plaintext"]
moved = kms.re_encrypt(
    CiphertextBlob=made["CiphertextBlob"],
    SourceEncryptionContext=context,
    DestinationKeyId=other["Arn"],
    DestinationEncryptionContext={"n": "1"},
)
assert kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"n": "1"})["Plaintext"] == made["Plaintext"]
try:
    kms.decrypt(CiphertextBlob=made["CiphertextBlob"])
    raise AssertionError("decrypted without its context")
except kms.exceptions.InvalidCiphertextException:
    pass
kms.disable_key(KeyId=key["KeyId"])
try:
    kms.encrypt(KeyId=alias, Plaintext=b"x")
    raise AssertionError("encrypted with a disabled key")
except kms.exceptions.DisabledException as error:
    assert error.response["Error"]["Message"] == f"{key['Arn']} is disabled."
    assert error.response["ResponseMetadata"]["RequestId"]
pages = kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 1})
assert {key["KeyId"], other["KeyId"]} <= {entry["KeyId"] for page in pages for entry in page["Keys"]}
