//! Symmetric cryptography, data keys, random bytes.

use super::operations;
use crate::kms::model::*;

operations! {
    GenerateDataKey: Quick = generate_data_key(GenerateDataKeyRequest {
        key_id: required, encryption_context: or_default, key_spec: optional, number_of_bytes: optional,
        grant_tokens: or_default, dry_run: or_default,
    }) reveals plaintext;
    GenerateDataKeyWithoutPlaintext: Quick = generate_data_key_without_plaintext(GenerateDataKeyRequest {
        key_id: required, encryption_context: or_default, key_spec: optional, number_of_bytes: optional,
        grant_tokens: or_default, dry_run: or_default,
    });
    Encrypt: Quick = encrypt(EncryptRequest {
        key_id: required, plaintext: required, encryption_context: or_default, encryption_algorithm: optional,
        grant_tokens: or_default, dry_run: or_default,
    });
    Decrypt: Quick = decrypt(DecryptRequest {
        ciphertext_blob: optional, encryption_context: or_default, key_id: optional, encryption_algorithm: optional,
        grant_tokens: or_default, dry_run: or_default, dry_run_modifiers: or_default,
    }) reveals plaintext;
    ReEncrypt: Quick = re_encrypt(ReEncryptRequest {
        ciphertext_blob: optional, source_encryption_context: or_default, source_key_id: optional,
        destination_key_id: required, destination_encryption_context: or_default,
        source_encryption_algorithm: optional, destination_encryption_algorithm: optional,
        grant_tokens: or_default, dry_run: or_default, dry_run_modifiers: or_default,
    });
    GenerateRandom: Quick = generate_random(GenerateRandomRequest {
        number_of_bytes: optional, custom_key_store_id: optional,
    }) reveals plaintext;
}
