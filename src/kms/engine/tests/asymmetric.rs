//! Key pairs and MAC keys.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};

use super::*;

impl Bench {
    fn key_of(&self, spec: KeySpec, usage: KeyUsage) -> String {
        self.create(spec, Some(usage)).expect("created").key_id
    }

    fn create(&self, spec: KeySpec, usage: Option<KeyUsage>) -> Result<KeyMetadata, KmsError> {
        let request = CreateKeyRequest { key_spec: Some(spec), key_usage: usage, ..Default::default() };
        self.engine.create_key(&self.alice, request).map(|answer| answer.key_metadata)
    }

    fn public_key(&self, key: &str) -> Result<GetPublicKeyResponse, KmsError> {
        let request = GetPublicKeyRequest { key_id: key.to_owned(), ..Default::default() };
        self.engine.get_public_key(&self.alice, request)
    }

    fn sign(
        &self,
        key: &str,
        algorithm: SigningAlgorithm,
        kind: Option<MessageType>,
        message: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        self.engine.sign(&self.alice, sign(key, algorithm, kind, message)).map(|answer| answer.signature)
    }

    fn verify(
        &self,
        key: &str,
        algorithm: SigningAlgorithm,
        kind: Option<MessageType>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, KmsError> {
        let request = VerifyRequest {
            key_id: key.to_owned(),
            message: message.to_vec(),
            message_type: kind,
            signature: signature.to_vec(),
            signing_algorithm: algorithm,
            grant_tokens: Vec::new(),
            dry_run: false,
        };
        self.engine.verify(&self.alice, request).map(|answer| answer.signature_valid)
    }
}

fn sign(key: &str, algorithm: SigningAlgorithm, kind: Option<MessageType>, message: &[u8]) -> SignRequest {
    SignRequest {
        key_id: key.to_owned(),
        message: message.to_vec(),
        message_type: kind,
        signing_algorithm: algorithm,
        grant_tokens: Vec::new(),
        dry_run: false,
    }
}

fn mac(key: &str, algorithm: MacAlgorithm) -> GenerateMacRequest {
    GenerateMacRequest {
        key_id: key.to_owned(),
        message: b"m".to_vec(),
        mac_algorithm: algorithm,
        grant_tokens: Vec::new(),
        dry_run: false,
    }
}

fn derive(key: &str, public_key: Vec<u8>) -> DeriveSharedSecretRequest {
    DeriveSharedSecretRequest {
        key_id: key.to_owned(),
        key_agreement_algorithm: KeyAgreementAlgorithm::Ecdh,
        public_key,
        grant_tokens: Vec::new(),
        dry_run: false,
    }
}

fn rsa(key: &str, algorithm: EncryptionAlgorithm, plaintext: &[u8]) -> EncryptRequest {
    EncryptRequest {
        key_id: key.to_owned(),
        plaintext: plaintext.into(),
        encryption_context: EncryptionContext::new(),
        encryption_algorithm: Some(algorithm),
        grant_tokens: Vec::new(),
        dry_run: false,
    }
}

fn pair(key: &str, spec: DataKeyPairSpec) -> GenerateDataKeyPairRequest {
    GenerateDataKeyPairRequest {
        key_id: key.to_owned(),
        encryption_context: context(),
        key_pair_spec: spec,
        grant_tokens: Vec::new(),
        dry_run: false,
    }
}

/// Code and text.
fn refused<T: std::fmt::Debug>(outcome: Result<T, KmsError>) -> (&'static str, String) {
    let error = outcome.expect_err("refused");
    (error.code(), error.to_string())
}

/// All specs but the longer RSA ones, which take seconds to make.
fn quick_specs() -> impl Iterator<Item = KeySpec> {
    let slow = [KeySpec::Rsa3072, KeySpec::Rsa4096, KeySpec::Sm2];
    KeySpec::ALL.iter().copied().filter(move |spec| !slow.contains(spec))
}

#[test]
fn every_spec_has_its_usages_and_lists_its_algorithms() {
    let bench = Bench::new();
    for spec in quick_specs() {
        for usage in KeyUsage::ALL.iter().copied() {
            let outcome = bench.create(spec, Some(usage));
            if !spec.allows(usage) {
                let text = format!("KeyUsage {usage} is not compatible with KeySpec {spec}");
                assert_eq!(refused(outcome), ("ValidationException", text));
                continue;
            }
            let metadata = outcome.expect("created");
            assert_eq!((metadata.key_spec, metadata.customer_master_key_spec), (spec, spec));
            assert_eq!((metadata.key_usage, metadata.key_state), (usage, KeyState::Enabled));
            assert_eq!(metadata.algorithms, Algorithms::of(spec, usage));
            assert_eq!(metadata.current_key_material_id.is_some(), spec == KeySpec::SymmetricDefault);
        }
        if spec != KeySpec::SymmetricDefault {
            let (code, text) = refused(bench.create(spec, None));
            assert_eq!(code, "ValidationException");
            let expected = "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.";
            assert_eq!(text, expected);
        }
    }
    let usage = Some(KeyUsage::SignVerify);
    assert_eq!(refused(bench.create(KeySpec::Sm2, usage)).0, "UnsupportedOperationException");
}

#[test]
fn signatures_verify_under_their_key_only_and_after_reopening() {
    let bench = Bench::new();
    let mut made = Vec::new();
    for spec in quick_specs().filter(|spec| spec.allows(KeyUsage::SignVerify)) {
        let key = bench.key_of(spec, KeyUsage::SignVerify);
        for algorithm in Algorithms::of(spec, KeyUsage::SignVerify).signing_algorithms.iter().copied() {
            let digest_only = algorithm == SigningAlgorithm::Ed25519PhSha512;
            let (kind, message) = if digest_only {
                (Some(MessageType::Digest), digest::digest(&digest::SHA512, b"message").as_ref().to_vec())
            } else {
                (None, b"message".to_vec())
            };
            let signature = bench.sign(&key, algorithm, kind, &message).expect("signed");
            assert_eq!(bench.verify(&key, algorithm, kind, &message, &signature), Ok(true), "{spec} {algorithm}");
            let mut other = message.clone();
            other[0] ^= 1;
            let refusal = refused(bench.verify(&key, algorithm, kind, &other, &signature));
            assert_eq!(refusal, ("KMSInvalidSignatureException", String::new()), "{spec} {algorithm}");
            assert!(bench.verify(&key, algorithm, kind, &message, &signature[1..]).is_err());
            made.push((key.clone(), algorithm, kind, message, signature));
        }
    }
    assert_eq!(made.len(), 6 + 4 + 2 + 3);
    let another = bench.another().expect("opened");
    for (key, algorithm, kind, message, signature) in made {
        let request = VerifyRequest {
            key_id: key,
            message,
            message_type: kind,
            signature,
            signing_algorithm: algorithm,
            grant_tokens: Vec::new(),
            dry_run: false,
        };
        assert!(another.verify(&bench.alice, request).expect("verified").signature_valid);
    }
}

#[test]
fn the_public_key_verifies_outside() {
    let bench = Bench::new();
    for (spec, algorithm, prefix) in [
        (KeySpec::EccNistP256, SigningAlgorithm::EcdsaSha256, 26),
        (KeySpec::EccNistEdwards25519, SigningAlgorithm::Ed25519Sha512, 12),
    ] {
        let key = bench.key_of(spec, KeyUsage::SignVerify);
        let public = bench.public_key(&key).expect("public");
        assert_eq!((public.key_spec, public.key_usage), (spec, KeyUsage::SignVerify));
        assert!(public.algorithms.signing_algorithms.contains(&algorithm));
        let signature = bench.sign(&key, algorithm, None, b"message").expect("signed");
        let raw = &public.public_key[prefix..];
        let verified = match spec {
            KeySpec::EccNistP256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, raw).verify(b"message", &signature),
            _ => UnparsedPublicKey::new(&ED25519, raw).verify(b"message", &signature),
        };
        assert!(verified.is_ok(), "{spec}");
    }
    for key in [bench.key(), bench.key_of(KeySpec::Hmac256, KeyUsage::GenerateVerifyMac)] {
        assert_eq!(refused(bench.public_key(&key)).0, "UnsupportedOperationException");
    }
}

#[test]
fn message_types_and_algorithms_must_fit() {
    use MessageType::*;
    use SigningAlgorithm::*;
    let bench = Bench::new();
    let ec = bench.key_of(KeySpec::EccNistP256, KeyUsage::SignVerify);
    let ed = bench.key_of(KeySpec::EccNistEdwards25519, KeyUsage::SignVerify);
    let ml = bench.key_of(KeySpec::MlDsa44, KeyUsage::SignVerify);
    let hashed = digest::digest(&digest::SHA256, b"message");
    let signature = bench.sign(&ec, EcdsaSha256, Some(Digest), hashed.as_ref()).expect("signed");
    assert_eq!(bench.verify(&ec, EcdsaSha256, None, b"message", &signature), Ok(true));
    assert_eq!(
        refused(bench.sign(&ec, EcdsaSha256, Some(Digest), b"short")),
        ("ValidationException", "Digest is invalid length for algorithm ECDSA_SHA_256.".to_owned())
    );
    for (key, algorithm, kind, message) in [
        (&ec, EcdsaSha256, Some(ExternalMu), &[0; 64][..]),
        (&ed, Ed25519Sha512, Some(Digest), &[0; 64]),
        (&ed, Ed25519PhSha512, None, &[0; 64]),
        (&ed, Ed25519PhSha512, Some(Digest), &[0; 32]),
        (&ml, MlDsaShake256, Some(Digest), &[0; 64]),
        (&ml, MlDsaShake256, Some(ExternalMu), &[0; 63]),
        (&ec, EcdsaSha256, None, &[]),
        (&ec, EcdsaSha256, None, &[0; 4097]),
    ] {
        assert_eq!(refused(bench.sign(key, algorithm, kind, message)).0, "ValidationException", "{algorithm} {kind:?}");
    }
    let by_mu = bench.sign(&ml, MlDsaShake256, Some(ExternalMu), &[7; 64]).expect("signed");
    assert_eq!(bench.verify(&ml, MlDsaShake256, Some(ExternalMu), &[7; 64], &by_mu), Ok(true));
    assert!(bench.verify(&ml, MlDsaShake256, Some(ExternalMu), &[8; 64], &by_mu).is_err());
    assert_eq!(
        refused(bench.sign(&ec, EcdsaSha384, None, b"m")),
        ("InvalidKeyUsageException", "Algorithm ECDSA_SHA_384 is incompatible with key spec ECC_NIST_P256.".to_owned())
    );
    let symmetric = bench.describe(&bench.key()).expect("described");
    assert_eq!(
        refused(bench.verify(symmetric.arn.as_str(), EcdsaSha256, None, b"m", b"s")),
        (
            "InvalidKeyUsageException",
            format!("{} key usage is ENCRYPT_DECRYPT which is not valid for Verify.", symmetric.arn)
        )
    );
}

#[test]
fn macs() {
    let bench = Bench::new();
    let specs = [KeySpec::Hmac224, KeySpec::Hmac256, KeySpec::Hmac384, KeySpec::Hmac512];
    for (spec, algorithm) in specs.into_iter().zip(MacAlgorithm::ALL.iter().copied()) {
        let key = bench.key_of(spec, KeyUsage::GenerateVerifyMac);
        let made = bench.engine.generate_mac(&bench.alice, mac(&key, algorithm)).expect("made").mac;
        assert_eq!(format!("HMAC_SHA_{}", made.len() * 8), algorithm.as_str());
        let verify = |message: &[u8], mac: &[u8]| {
            let request = VerifyMacRequest {
                key_id: key.clone(),
                message: message.to_vec(),
                mac_algorithm: algorithm,
                mac: mac.to_vec(),
                grant_tokens: Vec::new(),
                dry_run: false,
            };
            bench.engine.verify_mac(&bench.alice, request).map(|answer| answer.mac_valid)
        };
        assert_eq!(verify(b"m", &made), Ok(true));
        for (message, mac) in [(&b"M"[..], &made[..]), (b"m", &made[1..]), (b"m", &[0])] {
            assert_eq!(refused(verify(message, mac)), ("KMSInvalidMacException", String::new()));
        }
        let other = MacAlgorithm::ALL.iter().copied().find(|other| *other != algorithm).expect("four");
        assert_eq!(
            refused(bench.engine.generate_mac(&bench.alice, mac(&key, other))),
            ("InvalidKeyUsageException", format!("Algorithm {other} is incompatible with key spec {spec}."))
        );
    }
}

#[test]
fn shared_secrets_by_agreement() {
    let bench = Bench::new();
    for (spec, len) in [(KeySpec::EccNistP256, 32), (KeySpec::EccNistP384, 48), (KeySpec::EccNistP521, 66)] {
        let (a, b) = (bench.key_of(spec, KeyUsage::KeyAgreement), bench.key_of(spec, KeyUsage::KeyAgreement));
        let secret = |own: &str, peer: &str| {
            let peer = bench.public_key(peer).expect("public").public_key;
            bench.engine.derive_shared_secret(&bench.alice, derive(own, peer)).expect("derived")
        };
        let (one, other) = (secret(&a, &b), secret(&b, &a));
        assert_eq!(one.shared_secret.expose(), other.shared_secret.expose());
        assert_eq!((one.shared_secret.expose().len(), one.key_origin), (len, Origin::AwsKms));
    }
    let key = bench.key_of(KeySpec::EccNistP256, KeyUsage::KeyAgreement);
    let foreign = bench.key_of(KeySpec::EccNistP384, KeyUsage::KeyAgreement);
    for bad in [bench.public_key(&foreign).expect("public").public_key, b"no key".to_vec()] {
        let refusal = refused(bench.engine.derive_shared_secret(&bench.alice, derive(&key, bad)));
        assert_eq!(refusal.0, "ValidationException");
    }
    let signing = bench.key_of(KeySpec::EccNistP256, KeyUsage::SignVerify);
    let peer = bench.public_key(&key).expect("public").public_key;
    let refusal = refused(bench.engine.derive_shared_secret(&bench.alice, derive(&signing, peer)));
    assert_eq!(refusal.0, "InvalidKeyUsageException");
}

#[test]
fn shared_secrets_by_encapsulation() {
    let bench = Bench::new();
    for spec in [KeySpec::MlKem512, KeySpec::MlKem768, KeySpec::MlKem1024] {
        let key = bench.key_of(spec, KeyUsage::EncapsulateDecapsulate);
        let request = EncapsulateRequest {
            key_id: key.clone(),
            encapsulation_algorithm: EncapsulationAlgorithm::MlKem,
            grant_tokens: Vec::new(),
            dry_run: false,
        };
        let made = bench.engine.encapsulate(&bench.alice, request).expect("made");
        let open = |blob: &[u8]| {
            let request = DecapsulateRequest {
                key_id: key.clone(),
                shared_secret_ciphertext_blob: blob.to_vec(),
                encapsulation_algorithm: EncapsulationAlgorithm::MlKem,
                grant_tokens: Vec::new(),
                dry_run: false,
            };
            bench.engine.decapsulate(&bench.alice, request).map(|answer| answer.shared_secret)
        };
        let mut blob = made.shared_secret_ciphertext_blob;
        assert_eq!(open(&blob).expect("opened").expose(), made.shared_secret.expose());
        assert_eq!(refused(open(&blob[1..])), ("InvalidCiphertextException", String::new()));
        blob[0] ^= 1;
        assert_ne!(open(&blob).expect("implicit rejection").expose(), made.shared_secret.expose());
    }
}

#[test]
fn rsa_encrypts_within_its_bounds_and_without_context() {
    let bench = Bench::new();
    let key = bench.key_of(KeySpec::Rsa2048, KeyUsage::EncryptDecrypt);
    for (algorithm, longest) in [(EncryptionAlgorithm::RsaesOaepSha1, 214), (EncryptionAlgorithm::RsaesOaepSha256, 190)]
    {
        let plaintext = vec![5; longest];
        let made = bench.engine.encrypt(&bench.alice, rsa(&key, algorithm, &plaintext)).expect("encrypted");
        let decrypt = DecryptRequest {
            ciphertext_blob: Some(made.ciphertext_blob),
            key_id: Some(key.clone()),
            encryption_algorithm: Some(algorithm),
            ..Default::default()
        };
        let opened = bench.engine.decrypt(&bench.alice, decrypt.clone()).expect("decrypted");
        assert_eq!((opened.plaintext.expose(), opened.key_material_id), (&plaintext[..], None));
        let unnamed = DecryptRequest { key_id: None, ..decrypt.clone() };
        assert_eq!(refused(bench.engine.decrypt(&bench.alice, unnamed)).0, "ValidationException");
        let mut changed = decrypt.clone();
        changed.ciphertext_blob.as_mut().expect("a blob")[9] ^= 1;
        let refusal = refused(bench.engine.decrypt(&bench.alice, changed));
        assert_eq!(refusal, ("InvalidCiphertextException", String::new()));
        let with_context = DecryptRequest { encryption_context: context(), ..decrypt };
        assert_eq!(refused(bench.engine.decrypt(&bench.alice, with_context)).0, "ValidationException");
        let too_long = rsa(&key, algorithm, &vec![5; longest + 1]);
        assert_eq!(
            refused(bench.engine.encrypt(&bench.alice, too_long)),
            (
                "ValidationException",
                format!("Algorithm {algorithm} and key spec RSA_2048 cannot encrypt data larger than {longest} bytes.")
            )
        );
    }
    let plain = EncryptRequest { encryption_algorithm: None, ..rsa(&key, EncryptionAlgorithm::RsaesOaepSha1, b"p") };
    let text = "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048.".to_owned();
    assert_eq!(refused(bench.engine.encrypt(&bench.alice, plain)), ("InvalidKeyUsageException", text));
    let data_key = GenerateDataKeyRequest { key_id: key, key_spec: Some(DataKeySpec::Aes256), ..Default::default() };
    assert_eq!(refused(bench.engine.generate_data_key(&bench.alice, data_key)).0, "InvalidKeyUsageException");
}

#[test]
fn re_encryption_crosses_kinds_of_keys() {
    let bench = Bench::new();
    let (symmetric, rsa) = (bench.key(), bench.key_of(KeySpec::Rsa2048, KeyUsage::EncryptDecrypt));
    let algorithm = Some(EncryptionAlgorithm::RsaesOaepSha256);
    let to_rsa = |blob: Vec<u8>| ReEncryptRequest {
        ciphertext_blob: Some(blob),
        source_encryption_context: context(),
        destination_key_id: rsa.clone(),
        destination_encryption_algorithm: algorithm,
        ..Default::default()
    };
    let blob = bench.encrypt(&symmetric, b"secret").expect("encrypted");
    let crossed = bench.engine.re_encrypt(&bench.alice, to_rsa(blob)).expect("re-encrypted");
    assert!(crossed.source_key_material_id.is_some() && crossed.destination_key_material_id.is_none());
    let back = ReEncryptRequest {
        ciphertext_blob: Some(crossed.ciphertext_blob),
        source_key_id: Some(rsa.clone()),
        source_encryption_algorithm: algorithm,
        destination_key_id: symmetric.clone(),
        destination_encryption_context: context(),
        ..Default::default()
    };
    let back = bench.engine.re_encrypt(&bench.alice, back).expect("re-encrypted");
    assert_eq!(bench.decrypt(&back.ciphertext_blob), Ok(b"secret".to_vec()));
    let long = bench.encrypt(&symmetric, &[1; 191]).expect("encrypted");
    assert_eq!(refused(bench.engine.re_encrypt(&bench.alice, to_rsa(long))).0, "ValidationException");
}

#[test]
fn data_key_pairs() {
    let bench = Bench::new();
    let key = bench.key();
    let slow = [DataKeyPairSpec::Rsa3072, DataKeyPairSpec::Rsa4096, DataKeyPairSpec::Sm2];
    for spec in DataKeyPairSpec::ALL.iter().copied().filter(|spec| !slow.contains(spec)) {
        let made = bench.engine.generate_data_key_pair(&bench.alice, pair(&key, spec)).expect("made");
        assert!(made.private_key_ciphertext_blob.len() <= 6144);
        let private = bench.decrypt(&made.private_key_ciphertext_blob).expect("decrypted");
        assert_eq!(private, made.private_key_plaintext.expose());
        let kind = spec.pair().expect("made above");
        assert_eq!(kind.public_key(&private), Ok(made.public_key), "{spec}");
        let silent = bench.engine.generate_data_key_pair_without_plaintext(&bench.alice, pair(&key, spec));
        let silent = silent.expect("made");
        let private = bench.decrypt(&silent.private_key_ciphertext_blob).expect("decrypted");
        assert_eq!(kind.public_key(&private), Ok(silent.public_key), "{spec}");
    }
    let sm2 = bench.engine.generate_data_key_pair(&bench.alice, pair(&key, DataKeyPairSpec::Sm2));
    assert_eq!(refused(sm2).0, "UnsupportedOperationException");
    let rsa = bench.key_of(KeySpec::Rsa2048, KeyUsage::EncryptDecrypt);
    let refusal = bench.engine.generate_data_key_pair(&bench.alice, pair(&rsa, DataKeyPairSpec::EccNistP256));
    assert_eq!(refused(refusal).0, "InvalidKeyUsageException");
}

#[test]
fn dry_runs_check_everything_and_do_nothing() {
    let bench = Bench::new();
    let ec = bench.key_of(KeySpec::EccNistP256, KeyUsage::SignVerify);
    let signing = |message: &[u8]| SignRequest {
        dry_run: true,
        ..sign(&ec, SigningAlgorithm::EcdsaSha256, Some(MessageType::Digest), message)
    };
    assert_eq!(refused(bench.engine.sign(&bench.alice, signing(&[0; 32]))).0, "DryRunOperationException");
    assert_eq!(refused(bench.engine.sign(&bench.alice, signing(&[0; 31]))).0, "ValidationException");
    let hmac = bench.key_of(KeySpec::Hmac256, KeyUsage::GenerateVerifyMac);
    let request = GenerateMacRequest { dry_run: true, ..mac(&hmac, MacAlgorithm::HmacSha256) };
    assert_eq!(refused(bench.engine.generate_mac(&bench.alice, request)).0, "DryRunOperationException");
    let key = bench.key();
    let request = GenerateDataKeyPairRequest { dry_run: true, ..pair(&key, DataKeyPairSpec::Rsa4096) };
    assert_eq!(refused(bench.engine.generate_data_key_pair(&bench.alice, request)).0, "DryRunOperationException");

    let without = |key_id: Option<String>, dry_run| DecryptRequest {
        key_id,
        dry_run,
        dry_run_modifiers: vec![DryRunModifier::IgnoreCiphertext],
        ..Default::default()
    };
    let decrypt = |request| refused(bench.engine.decrypt(&bench.alice, request)).0;
    assert_eq!(decrypt(without(Some(key.clone()), true)), "DryRunOperationException");
    assert_eq!(decrypt(without(None, true)), "ValidationException");
    assert_eq!(decrypt(without(Some(key.clone()), false)), "ValidationException");
    assert_eq!(decrypt(without(Some(ec.clone()), true)), "InvalidKeyUsageException");
    let request = |destination: &str| ReEncryptRequest {
        source_key_id: Some(key.clone()),
        destination_key_id: destination.to_owned(),
        dry_run: true,
        dry_run_modifiers: vec![DryRunModifier::IgnoreCiphertext],
        ..Default::default()
    };
    let re_encrypt = |request| refused(bench.engine.re_encrypt(&bench.alice, request)).0;
    assert_eq!(re_encrypt(request(&key)), "DryRunOperationException");
    assert_eq!(re_encrypt(request(&ec)), "InvalidKeyUsageException");
}

#[test]
fn states_are_asked_before_usage() {
    let bench = Bench::new();
    let key = bench.key_of(KeySpec::EccNistP256, KeyUsage::SignVerify);
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    let algorithm = SigningAlgorithm::EcdsaSha384;
    assert_eq!(refused(bench.sign(&key, algorithm, None, b"m")).0, "DisabledException");
    assert_eq!(refused(bench.public_key(&key)).0, "DisabledException");
    bench.schedule(&key, 7).expect("scheduled");
    assert_eq!(refused(bench.verify(&key, algorithm, None, b"m", b"s")).0, "KMSInvalidStateException");
    assert_eq!(refused(bench.public_key(&key)).0, "KMSInvalidStateException");
    let rotation = EnableKeyRotationRequest { key_id: key, rotation_period_in_days: None };
    assert_eq!(refused(bench.engine.enable_key_rotation(&bench.alice, rotation)).0, "UnsupportedOperationException");
}

#[test]
fn nobody_waits_while_an_rsa_key_is_made() {
    let bench = Bench::new();
    let long = std::thread::scope(|threads| {
        let making = threads.spawn(|| bench.key_of(KeySpec::Rsa4096, KeyUsage::SignVerify));
        // Changes go on meanwhile: more of them than fit behind one that waits for the key.
        let mut changes = 0;
        while !making.is_finished() {
            bench.key();
            changes += 1;
        }
        assert!(changes > 1, "{changes} changes while an RSA key was made");
        making.join().expect("made")
    });
    assert_eq!(bench.describe(&long).expect("described").key_spec, KeySpec::Rsa4096);
}

#[test]
fn the_record_names_the_algorithm_and_no_message() {
    let bench = Bench::new();
    let key = bench.key_of(KeySpec::EccNistP256, KeyUsage::SignVerify);
    bench.sign(&key, SigningAlgorithm::EcdsaSha256, None, b"a message to look for").expect("signed");
    bench.engine.audit().flush().expect("written");
    let log = std::fs::read_to_string(bench.home().join("audit/000001.jsonl")).expect("the log");
    let line = log.lines().find(|line| line.contains("\"Sign\"")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(
        record["requestParameters"],
        serde_json::json!({ "keyId": key, "messageType": "RAW", "signingAlgorithm": "ECDSA_SHA_256" })
    );
    assert!(!log.contains("a message to look for"));
}
