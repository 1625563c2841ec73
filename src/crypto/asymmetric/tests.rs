//! Key pairs against OpenSSL (`tests/vectors/asymmetric.json`) and against themselves.

use data_encoding::{BASE64, HEXLOWER};
use serde_json::Value;

use super::signing::Hash;
use super::*;

const RSA: [RsaSize; 3] = [RsaSize::Bits2048, RsaSize::Bits3072, RsaSize::Bits4096];

/// Every kind but the longer RSA keys, which take seconds to make.
fn kinds() -> Vec<PairKind> {
    let curves = [Curve::P256, Curve::P384, Curve::P521, Curve::Secp256k1].map(PairKind::Ec);
    let ml_dsa = [MlDsaSet::MlDsa44, MlDsaSet::MlDsa65, MlDsaSet::MlDsa87].map(PairKind::MlDsa);
    let ml_kem = [MlKemSet::MlKem512, MlKemSet::MlKem768, MlKemSet::MlKem1024].map(PairKind::MlKem);
    let others = [PairKind::Rsa(RsaSize::Bits2048), PairKind::Ed25519];
    [&others[..], &curves, &ml_dsa, &ml_kem].concat()
}

fn kind(name: &str) -> PairKind {
    match name {
        "RSA_2048" => PairKind::Rsa(RsaSize::Bits2048),
        "RSA_3072" => PairKind::Rsa(RsaSize::Bits3072),
        "RSA_4096" => PairKind::Rsa(RsaSize::Bits4096),
        "P256" => PairKind::Ec(Curve::P256),
        "P384" => PairKind::Ec(Curve::P384),
        "P521" => PairKind::Ec(Curve::P521),
        "P256K1" => PairKind::Ec(Curve::Secp256k1),
        "ED25519" => PairKind::Ed25519,
        "ML_DSA_44" => PairKind::MlDsa(MlDsaSet::MlDsa44),
        "ML_DSA_65" => PairKind::MlDsa(MlDsaSet::MlDsa65),
        "ML_DSA_87" => PairKind::MlDsa(MlDsaSet::MlDsa87),
        "ML_KEM_768" => PairKind::MlKem(MlKemSet::MlKem768),
        "ML_KEM_1024" => PairKind::MlKem(MlKemSet::MlKem1024),
        other => panic!("unknown kind {other}"),
    }
}

fn scheme(name: &str) -> Scheme {
    let hash = |bits: &str| match bits {
        "256" => Hash::Sha256,
        "384" => Hash::Sha384,
        "512" => Hash::Sha512,
        other => panic!("unknown hash {other}"),
    };
    match name.split_once('_') {
        Some(("PSS", bits)) => Scheme::Pss(hash(bits)),
        Some(("PKCS1", bits)) => Scheme::Pkcs1(hash(bits)),
        Some(("ECDSA", bits)) => Scheme::Ecdsa(hash(bits)),
        Some(("ML", "DSA")) => Scheme::MlDsa,
        None if name == "ED25519" => Scheme::Ed25519,
        _ => panic!("unknown scheme {name}"),
    }
}

fn bytes(of: &Value) -> Vec<u8> {
    BASE64.decode(of.as_str().expect("a text").as_bytes()).expect("base64")
}

fn vectors() -> (Vec<u8>, Vec<Value>) {
    let all: Value = serde_json::from_str(include_str!("../../../tests/vectors/asymmetric.json")).expect("JSON");
    (bytes(&all["message"]), all["pairs"].as_array().expect("an array").clone())
}

#[test]
fn signatures_of_openssl_verify_and_keys_have_its_encoding() {
    let (message, pairs) = vectors();
    let mut checked = 0;
    for pair in &pairs {
        let (kind, name) = (kind(pair["kind"].as_str().expect("a name")), &pair["kind"]);
        let private = kind.canonical(&bytes(&pair["private"])).expect("accepted");
        assert_eq!(private.expose(), bytes(&pair["private"]), "{name}");
        assert_eq!(kind.public_key(private.expose()), Ok(bytes(&pair["public"])), "{name}");
        let Some(signatures) = pair["signatures"].as_object() else { continue };
        let key = SigningKey::new(kind, private.expose()).expect("parsed");
        for (name, signature) in signatures {
            let (scheme, mut signature) = (scheme(name), bytes(signature));
            assert_eq!(key.verify(scheme, Input::Message(&message), &signature), Ok(true), "{kind:?} {name}");
            assert_eq!(key.verify(scheme, Input::Message(b"other"), &signature), Ok(false), "{kind:?} {name}");
            if let Some(mu) = pair.get("mu") {
                let mu = bytes(mu).try_into().expect("64 bytes");
                assert_eq!(key.verify(scheme, Input::Mu(&mu), &signature), Ok(true), "{kind:?} by mu");
                let own = key.sign(scheme, Input::Mu(&mu)).expect("signed");
                assert_eq!(key.verify(scheme, Input::Message(&message), &own), Ok(true), "{kind:?} by mu");
            }
            *signature.last_mut().expect("not empty") ^= 1;
            assert_eq!(key.verify(scheme, Input::Message(&message), &signature), Ok(false), "{kind:?} {name}");
            checked += 1;
        }
    }
    assert_eq!(checked, 3 * 6 + 4 + 1 + 3);
}

#[test]
fn oaep_of_openssl_decrypts() {
    let (message, pairs) = vectors();
    for (pair, (size, longest)) in pairs.iter().zip(RSA.into_iter().zip([(214, 190), (342, 318), (470, 446)])) {
        let key = DecryptionKey::new(size, &bytes(&pair["private"])).expect("parsed");
        assert_eq!(key.public_key(), bytes(&pair["public"]));
        assert_eq!((key.max_plaintext(Oaep::Sha1), key.max_plaintext(Oaep::Sha256)), longest);
        for (oaep, name) in [(Oaep::Sha1, "SHA_1"), (Oaep::Sha256, "SHA_256")] {
            let mut theirs = bytes(&pair["ciphertexts"][name]);
            assert_eq!(key.decrypt(oaep, &theirs).expect("decrypted").expose(), message);
            let own = key.encrypt(oaep, &message).expect("encrypted");
            assert_eq!(key.decrypt(oaep, &own).expect("decrypted").expose(), message);
            theirs[20] ^= 1;
            for bad in [&theirs[..], &own[1..], &[]] {
                assert!(key.decrypt(oaep, bad).is_none());
            }
        }
        let sha1 = bytes(&pair["ciphertexts"]["SHA_1"]);
        assert!(key.decrypt(Oaep::Sha256, &sha1).is_none());
        assert!(key.encrypt(Oaep::Sha256, &vec![1; longest.1 + 1]).is_err());
    }
}

#[test]
fn agreement_is_that_of_openssl() {
    let (_, pairs) = vectors();
    let of = |name: &str| pairs.iter().find(|pair| pair["kind"] == name).expect("there");
    for (name, curve, other) in
        [("P256", Curve::P256, "P384"), ("P384", Curve::P384, "P521"), ("P521", Curve::P521, "P256")]
    {
        let pair = of(name);
        let key = AgreementKey::new(curve, &bytes(&pair["private"])).expect("parsed");
        assert_eq!(key.public_key(), bytes(&pair["public"]));
        assert_eq!(key.agree(&bytes(&pair["peer"])).expect("agreed").expose(), bytes(&pair["secret"]));
        let peer = bytes(&pair["peer"]);
        let mut off_curve = peer.clone();
        *off_curve.last_mut().expect("not empty") ^= 1;
        let raw_point = &peer[peer.len() - 2 * (bytes(&pair["secret"]).len()) - 1..];
        assert_eq!(raw_point[0], 4);
        for bad in [&off_curve[..], raw_point, &peer[1..], &bytes(&of(other)["public"]), &[]] {
            assert_eq!(key.agree(bad).expect_err("refused"), PairError::Rejected, "{name}");
        }
    }
    assert!(AgreementKey::new(Curve::Secp256k1, &bytes(&of("P256K1")["private"])).is_err());
}

#[test]
fn encapsulations_of_openssl_decapsulate() {
    let (_, pairs) = vectors();
    let mut checked = 0;
    for pair in &pairs {
        let PairKind::MlKem(set) = kind(pair["kind"].as_str().expect("a name")) else { continue };
        let key = DecapsulationKey::new(set, &bytes(&pair["private"])).expect("parsed");
        let secret = key.decapsulate(&bytes(&pair["ciphertext"])).expect("decapsulated");
        assert_eq!(secret.expose(), bytes(&pair["secret"]));
        checked += 1;
    }
    assert_eq!(checked, 2);
}

#[test]
fn every_kind_is_made_and_read_again() {
    for kind in kinds() {
        let private = kind.generate().expect("made");
        assert_eq!(kind.canonical(private.expose()).expect("accepted").expose(), private.expose(), "{kind:?}");
        assert_ne!(kind.generate().expect("made").expose(), private.expose());
        for other in kinds().into_iter().filter(|other| *other != kind) {
            assert_eq!(other.canonical(private.expose()).err(), Some(PairError::Rejected), "{kind:?} as {other:?}");
        }
        let len = private.expose().len();
        assert!(kind.canonical(&private.expose()[..len - 1]).is_err());
    }
    let small = PairKind::Rsa(RsaSize::Bits2048).generate().expect("made");
    assert!(PairKind::Rsa(RsaSize::Bits3072).canonical(small.expose()).is_err());
    assert!(DecryptionKey::new(RsaSize::Bits3072, small.expose()).is_err());
}

#[test]
fn digests_stand_for_messages() {
    let digest = |hash: Hash, message: &[u8]| aws_lc_rs::digest::digest(hash.algorithm(), message);
    for kind in [PairKind::Rsa(RsaSize::Bits2048), PairKind::Ec(Curve::P521), PairKind::Ec(Curve::Secp256k1)] {
        let key = SigningKey::new(kind, kind.generate().expect("made").expose()).expect("parsed");
        let scheme = key.first_scheme();
        let (Scheme::Pkcs1(hash) | Scheme::Ecdsa(hash)) = scheme else { panic!("{scheme:?}") };
        let hashed = digest(hash, b"message");
        let signature = key.sign(scheme, Input::Digest(hashed.as_ref())).expect("signed");
        assert_eq!(key.verify(scheme, Input::Message(b"message"), &signature), Ok(true));
        assert_eq!(key.verify(scheme, Input::Digest(hashed.as_ref()), &signature), Ok(true));
        assert_eq!(scheme.digest_len(), Some(hashed.as_ref().len()));
        assert_eq!(key.sign(scheme, Input::Digest(b"short")), Err(PairError::Unfit));
        assert_eq!(key.sign(scheme, Input::Mu(&[0; 64])), Err(PairError::Unfit));
        assert_eq!(key.sign(Scheme::Ed25519, Input::Message(b"m")), Err(PairError::Unfit));
    }
}

#[test]
fn ed25519_has_two_forms_that_do_not_mix() {
    // RFC 8032, section 7.1, test 2.
    let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    let pkcs8 = HEXLOWER.decode(format!("302e020100300506032b657004220420{seed}").as_bytes()).expect("hex");
    let key = SigningKey::new(PairKind::Ed25519, &pkcs8).expect("parsed");
    let signature = key.sign(Scheme::Ed25519, Input::Message(&[0x72])).expect("signed");
    assert_eq!(
        HEXLOWER.encode(&signature),
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee\
         b00d291612bb0c00"
    );
    let digest = [7; 64];
    let prehashed = key.sign(Scheme::Ed25519Ph, Input::Digest(&digest)).expect("signed");
    assert_eq!(key.verify(Scheme::Ed25519Ph, Input::Digest(&digest), &prehashed), Ok(true));
    assert_eq!(key.verify(Scheme::Ed25519Ph, Input::Digest(&[8; 64]), &prehashed), Ok(false));
    assert_eq!(key.verify(Scheme::Ed25519, Input::Message(&digest), &prehashed), Ok(false));
    assert_eq!(key.verify(Scheme::Ed25519Ph, Input::Digest(&digest), &prehashed[1..]), Ok(false));
    for (scheme, input) in [
        (Scheme::Ed25519, Input::Digest(&digest[..])),
        (Scheme::Ed25519Ph, Input::Message(&digest)),
        (Scheme::Ed25519Ph, Input::Digest(&digest[1..])),
    ] {
        assert_eq!(key.sign(scheme, input), Err(PairError::Unfit));
        assert_eq!(key.verify(scheme, input, &prehashed), Err(PairError::Unfit));
    }
}

#[test]
fn a_changed_encapsulation_gives_another_secret() {
    for set in [MlKemSet::MlKem512, MlKemSet::MlKem768, MlKemSet::MlKem1024] {
        let pkcs8 = PairKind::MlKem(set).generate().expect("made");
        let key = DecapsulationKey::new(set, pkcs8.expose()).expect("parsed");
        let (mut ciphertext, secret) = key.encapsulate().expect("encapsulated");
        assert_eq!(
            (secret.expose().len(), key.decapsulate(&ciphertext).expect("same").expose()),
            (32, secret.expose())
        );
        ciphertext[0] ^= 1;
        assert_ne!(key.decapsulate(&ciphertext).expect("another").expose(), secret.expose());
        assert_eq!(key.decapsulate(&ciphertext[1..]).err(), Some(PairError::Unfit));
    }
    // The hash of the encapsulation key inside the decapsulation key is checked when the pair is.
    let kind = PairKind::MlKem(MlKemSet::MlKem768);
    let mut torn = kind.generate().expect("made").expose().to_vec();
    let at = torn.len() - 64;
    torn[at] ^= 1;
    assert!(kind.canonical(&torn).is_err());
}
