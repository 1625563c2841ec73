// A round trip with the AWS SDK for JavaScript v3; endpoint and credentials come from the environment.
import assert from "node:assert/strict";
import * as k from "@aws-sdk/client-kms";
import { GetCallerIdentityCommand, STSClient } from "@aws-sdk/client-sts";

const kms = new k.KMSClient({});
const identity = await new STSClient({}).send(new GetCallerIdentityCommand({}));
assert.match(identity.Arn, /:user\/administrator$/);

const { KeyMetadata: key } = await kms.send(new k.CreateKeyCommand({ Description: "js" }));
assert.ok(Math.abs(key.CreationDate.getTime() - Date.now()) < 60_000);
const context = { EncryptionContext: { fs: "v", name: "\u00e4" } };
const made = await kms.send(new k.GenerateDataKeyCommand({ KeyId: key.KeyId, KeySpec: "AES_256", ...context }));
assert.equal(made.Plaintext.length, 32);
const opened = await kms.send(new k.DecryptCommand({ CiphertextBlob: made.CiphertextBlob, ...context }));
assert.deepEqual(opened.Plaintext, made.Plaintext);
await assert.rejects(kms.send(new k.DecryptCommand({ CiphertextBlob: made.CiphertextBlob })), k.InvalidCiphertextException);
const sealed = await kms.send(new k.EncryptCommand({ KeyId: key.Arn, Plaintext: Buffer.from("secret") }));
const plain = await kms.send(new k.DecryptCommand({ CiphertextBlob: sealed.CiphertextBlob, KeyId: key.Arn }));
assert.equal(Buffer.from(plain.Plaintext).toString(), "secret");
const scheduled = await kms.send(new k.ScheduleKeyDeletionCommand({ KeyId: key.KeyId, PendingWindowInDays: 7 }));
assert.ok(scheduled.DeletionDate.getTime() > Date.now() + 6 * 86_400_000);
await assert.rejects(kms.send(new k.EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.from("x") })), k.KMSInvalidStateException);
let seen = false;
for await (const page of k.paginateListKeys({ client: kms, pageSize: 1 }, {})) seen ||= page.Keys.some((x) => x.KeyId === key.KeyId);
assert.ok(seen);
await assert.rejects(kms.send(new k.DescribeKeyCommand({ KeyId: "nonsense" })), k.NotFoundException);
