//! Data keys, encryption, re-encryption.

use super::*;
use crate::kms::blob::Header;

fn data_key(bench: &Bench, request: GenerateDataKeyRequest) -> Result<GenerateDataKeyResponse, KmsError> {
    bench.engine.generate_data_key(&bench.alice, request)
}

#[test]
fn data_keys_have_the_length_asked_for_and_decrypt() {
    let bench = Bench::new();
    let key_id = bench.key();
    let request = GenerateDataKeyRequest { key_id, encryption_context: context(), ..Default::default() };
    for (key_spec, number_of_bytes, len) in [
        (Some(DataKeySpec::Aes128), None, 16),
        (Some(DataKeySpec::Aes256), None, 32),
        (None, Some(1), 1),
        (None, Some(1024), 1024),
    ] {
        let request = GenerateDataKeyRequest { key_spec, number_of_bytes, ..request.clone() };
        let answer = data_key(&bench, request.clone()).expect("generated");
        assert_eq!(answer.plaintext.expose().len(), len);
        assert_eq!(answer.ciphertext_blob.len(), len + 95);
        assert_eq!(bench.decrypt(&answer.ciphertext_blob).as_deref(), Ok(answer.plaintext.expose()));
        let json = serde_json::to_string(&answer).expect("serialises");
        assert!(!json.contains("Plaintext"), "{json}");
        let bare = bench.engine.generate_data_key_without_plaintext(&bench.alice, request).expect("generated");
        assert_eq!(bench.decrypt(&bare.ciphertext_blob).expect("decrypts").len(), len);
    }
    for (key_spec, number_of_bytes) in
        [(None, None), (Some(DataKeySpec::Aes256), Some(32)), (None, Some(0)), (None, Some(1025))]
    {
        let request = GenerateDataKeyRequest { key_spec, number_of_bytes, ..request.clone() };
        assert_eq!(data_key(&bench, request).expect_err("refused").code(), "ValidationException");
    }
}

#[test]
fn ciphertext_is_bound_to_key_context_and_every_byte() {
    let bench = Bench::new();
    let (key_id, other) = (bench.key(), bench.key());
    let blob = bench.encrypt(&key_id, b"text").expect("encrypted");
    let with = |key_id: Option<&str>, context: EncryptionContext, blob: &[u8]| {
        let request = DecryptRequest {
            ciphertext_blob: Some(blob.to_vec()),
            encryption_context: context,
            key_id: key_id.map(str::to_owned),
            ..Default::default()
        };
        bench.engine.decrypt(&bench.alice, request).map(|answer| answer.plaintext.expose().to_vec())
    };
    assert_eq!(with(Some(&key_id), context(), &blob), Ok(b"text".to_vec()));
    assert_eq!(with(Some(&other), context(), &blob), Err(KmsError::IncorrectKey));
    assert_eq!(with(None, EncryptionContext::new(), &blob), Err(KmsError::InvalidCiphertext));
    assert_eq!(with(None, context().with("more", ""), &blob), Err(KmsError::InvalidCiphertext));
    for at in 0..blob.len() {
        let mut bad = blob.clone();
        bad[at] ^= 1;
        // Where it names another key then, there is none of that name.
        let names = Header::parse(&bad).map(|header| header.key());
        let code = match names.is_some_and(|name| Some(name) != Header::parse(&blob).map(|header| header.key())) {
            true => "AccessDeniedException",
            false => "InvalidCiphertextException",
        };
        assert_eq!(with(None, context(), &bad).expect_err("tampered").code(), code, "byte {at}");
    }
    assert_eq!(with(None, context(), &[]).expect_err("empty").code(), "ValidationException");
    assert_eq!(with(None, context(), &[0; 6145]).expect_err("long").code(), "ValidationException");
    assert_eq!(with(None, context(), b"x"), Err(KmsError::InvalidCiphertext));
}

#[test]
fn sizes_of_plaintext() {
    let bench = Bench::new();
    let key_id = bench.key();
    for len in [1, 4096] {
        let blob = bench.encrypt(&key_id, &vec![7; len]).expect("within bounds");
        assert_eq!(bench.decrypt(&blob), Ok(vec![7; len]));
    }
    for len in [0, 4097] {
        assert_eq!(bench.encrypt(&key_id, &vec![7; len]).expect_err("out of bounds").code(), "ValidationException");
    }
    let random = |number_of_bytes| {
        bench.engine.generate_random(&bench.alice, GenerateRandomRequest { number_of_bytes, custom_key_store_id: None })
    };
    assert_eq!(random(Some(1024)).expect("random").plaintext.expose().len(), 1024);
    assert_eq!(random(None).expect_err("required").to_string(), "NumberOfBytes is required.");
    assert_eq!(random(Some(1025)).expect_err("too many").code(), "ValidationException");
}

#[test]
fn rotation_keeps_old_ciphertext_and_re_encrypt_moves_it() {
    let bench = Bench::new();
    let key_id = bench.key();
    let blob = bench.encrypt(&key_id, b"text").expect("encrypted");
    let old = bench.describe(&key_id).expect("there").current_key_material_id;
    for n in 1..=25 {
        bench.engine.rotate_key_on_demand(&bench.alice, key_id.as_str().into()).expect("within the limit");
        assert_eq!(bench.rotations(&key_id).len(), n);
    }
    let refused = bench.engine.rotate_key_on_demand(&bench.alice, key_id.as_str().into()).expect_err("limit");
    assert!(refused.to_string().starts_with("The on-demand rotations limit has been reached for the given keyId."));
    assert_eq!(refused.code(), "LimitExceededException");
    assert_eq!(bench.decrypt(&blob), Ok(b"text".to_vec()));
    let new = bench.describe(&key_id).expect("there").current_key_material_id;
    assert_ne!(old, new);

    let request = ReEncryptRequest {
        ciphertext_blob: Some(blob),
        source_encryption_context: context(),
        destination_key_id: key_id.clone(),
        destination_encryption_context: context(),
        ..Default::default()
    };
    let dry = ReEncryptRequest { dry_run: true, ..request.clone() };
    assert_eq!(bench.engine.re_encrypt(&bench.alice, dry).map(drop), Err(KmsError::DryRun));
    let answer = bench.engine.re_encrypt(&bench.alice, request.clone()).expect("re-encrypted");
    assert_eq!(answer.source_key_material_id, old);
    assert_eq!(answer.destination_key_material_id, new);
    assert_eq!(bench.decrypt(&answer.ciphertext_blob), Ok(b"text".to_vec()));
    let request = ReEncryptRequest { destination_key_id: bench.key(), ..request };
    let answer = bench.engine.re_encrypt(&bench.alice, request).expect("to another key");
    bench.engine.disable_key(&bench.alice, key_id.as_str().into()).expect("disabled");
    assert_eq!(bench.decrypt(&answer.ciphertext_blob), Ok(b"text".to_vec()));

    let all = ListKeyRotationsRequest {
        key_id,
        include_key_material: Some(IncludeKeyMaterial::AllKeyMaterial),
        ..Default::default()
    };
    let all = bench.engine.list_key_rotations(&bench.alice, all).expect("listed").rotations;
    assert_eq!((all.len(), all[0].rotation_date), (26, None));
    assert_eq!(all[25].key_material_state, Some(KeyMaterialState::Current));
    assert_eq!(all[0].key_material_state, Some(KeyMaterialState::NonCurrent));
}

#[test]
fn every_one_of_many_calls_is_recorded() {
    let bench = Bench::new();
    let key_id = bench.describe(&bench.key()).expect("there").arn.to_string();
    let request = GenerateDataKeyRequest {
        key_id,
        encryption_context: context(),
        number_of_bytes: Some(32),
        ..Default::default()
    };
    const CALLS: usize = 20_000;
    let before = bench.engine.audit().verify().expect("verified").records;
    for _ in 0..CALLS {
        data_key(&bench, request.clone()).expect("generated");
    }
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.records), (None, before + CALLS as u64));
}
