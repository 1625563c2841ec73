//! Key pairs and MAC keys: signatures, MACs, shared secrets, data key pairs.

use super::operations;
use crate::kms::model::*;

operations! {
    GetPublicKey: Slow = get_public_key(GetPublicKeyRequest { key_id: required, grant_tokens: or_default });
    Sign: Slow = sign(SignRequest {
        key_id: required, message: required, message_type: optional, signing_algorithm: required,
        grant_tokens: or_default, dry_run: or_default,
    });
    Verify: Slow = verify(VerifyRequest {
        key_id: required, message: required, message_type: optional, signature: required, signing_algorithm: required,
        grant_tokens: or_default, dry_run: or_default,
    });
    GenerateMac: Quick = generate_mac(GenerateMacRequest {
        key_id: required, message: required, mac_algorithm: required, grant_tokens: or_default, dry_run: or_default,
    });
    VerifyMac: Quick = verify_mac(VerifyMacRequest {
        key_id: required, message: required, mac_algorithm: required, mac: required, grant_tokens: or_default,
        dry_run: or_default,
    });
    DeriveSharedSecret: Slow = derive_shared_secret(DeriveSharedSecretRequest {
        key_id: required, key_agreement_algorithm: required, public_key: required, grant_tokens: or_default,
        dry_run: or_default,
    }) reveals shared_secret;
    Encapsulate: Slow = encapsulate(EncapsulateRequest {
        key_id: required, encapsulation_algorithm: required, grant_tokens: or_default, dry_run: or_default,
    }) reveals shared_secret;
    Decapsulate: Slow = decapsulate(DecapsulateRequest {
        key_id: required, shared_secret_ciphertext_blob: required, encapsulation_algorithm: required,
        grant_tokens: or_default, dry_run: or_default,
    }) reveals shared_secret;
    GenerateDataKeyPair: Slow = generate_data_key_pair(GenerateDataKeyPairRequest {
        key_id: required, encryption_context: or_default, key_pair_spec: required, grant_tokens: or_default,
        dry_run: or_default,
    }) reveals private_key_plaintext;
    GenerateDataKeyPairWithoutPlaintext: Slow = generate_data_key_pair_without_plaintext(GenerateDataKeyPairRequest {
        key_id: required, encryption_context: or_default, key_pair_spec: required, grant_tokens: or_default,
        dry_run: or_default,
    });
}
