//! Ciphertext blobs of symmetric keys (KMS.md section 15).
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | version = 1 |
//! | 1 | 1 | suite: 1 = KDF in counter mode (SP 800-108, HMAC-SHA-256) + AES-256-GCM; 2 = AES-256-GCM in a token |
//! | 2 | 1 | flags: bit 0 = multi-Region key id; others zero, else refused |
//! | 3 | 16 | key id: UUID bytes, or the 16 bytes behind `mrk-` |
//! | 19 | 32 | material id |
//! | 51 | 16 | message nonce; zero in suite 2 |
//! | 67 | 12 | IV |
//! | 79 | n | ciphertext |
//! | 79 + n | 16 | tag |
//!
//! Message key = KDF(material), fixed input `"kmsfs message key v1" || 0x00 || nonce || u32 BE 256` (SP 800-108r1
//! section 4.1); a fresh key per message lifts the bound on random IVs. In suite 2 the material itself encrypts, inside a
//! PKCS#11 token, and the number of its encryptions is bounded. AAD = bytes 0 to 79 and the canonical encryption
//! context.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::kdf::{KbkdfCtrHmacAlgorithmId, get_kbkdf_ctr_hmac_algorithm, kbkdf_ctr_hmac};
use data_encoding::HEXLOWER;

use crate::crypto::secret::{SecretBytes, SecretKey};
use crate::env::{Entropy, random};
use crate::types::EncryptionContext;

const VERSION: u8 = 1;
const SUITE_KDF_GCM: u8 = 1;
const SUITE_TOKEN_GCM: u8 = 2;
const FLAG_MULTI_REGION: u8 = 1;
const NONCE_AT: usize = 51;
const IV_AT: usize = 67;
const HEADER_LEN: usize = 79;
const TAG_LEN: usize = 16;
const MULTI_REGION_PREFIX: &str = "mrk-";

/// Bytes that a blob is longer than its plaintext.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// What a blob says of itself. Only good for finding the key; the tag proves it afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the key id is one of a multi-Region key.
    pub multi_region: bool,
    /// The key id's bytes.
    pub key_id: [u8; 16],
    /// The material id's bytes.
    pub material_id: [u8; 32],
    /// Whether a token encrypted it.
    pub in_token: bool,
}

/// The id of a key as headers have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyName {
    multi_region: bool,
    id: [u8; 16],
}

impl KeyName {
    /// Whether it is a multi-Region key, which has the same id in several Regions.
    pub fn is_multi_region(&self) -> bool {
        self.multi_region
    }

    /// The id's bytes. Those of the two forms may be the same.
    pub fn bytes(&self) -> &[u8; 16] {
        &self.id
    }

    /// `None` if `key_id` is neither a UUID nor `mrk-` and 32 hex digits.
    pub fn parse(key_id: &str) -> Option<Self> {
        let (multi_region, id) = match key_id.strip_prefix(MULTI_REGION_PREFIX) {
            Some(hex) => (true, HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()?),
            None => (false, parse_uuid(key_id)?),
        };
        Some(Self { multi_region, id })
    }
}

impl Header {
    /// The header of `blob`; `None` for unknown versions, suites and flags, and for blobs too short to hold a byte.
    pub fn parse(blob: &[u8]) -> Option<Self> {
        let header = blob.first_chunk::<HEADER_LEN>()?;
        let in_token = header[1] == SUITE_TOKEN_GCM;
        let suite = header[1] == SUITE_KDF_GCM || in_token && header[NONCE_AT..IV_AT] == [0; IV_AT - NONCE_AT];
        let known = header[0] == VERSION && suite && header[2] & !FLAG_MULTI_REGION == 0;
        (known && blob.len() > OVERHEAD).then(|| Self {
            multi_region: header[2] & FLAG_MULTI_REGION != 0,
            key_id: header[3..19].try_into().expect("16 bytes"),
            material_id: header[19..NONCE_AT].try_into().expect("32 bytes"),
            in_token,
        })
    }

    /// The header for a key.
    pub fn new(key: KeyName, material_id: [u8; 32]) -> Self {
        Self { multi_region: key.multi_region, key_id: key.id, material_id, in_token: false }
    }

    /// The id of the key that it names.
    pub fn key(&self) -> KeyName {
        KeyName { multi_region: self.multi_region, id: self.key_id }
    }

    fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let suite = if self.in_token { SUITE_TOKEN_GCM } else { SUITE_KDF_GCM };
        bytes[..3].copy_from_slice(&[VERSION, suite, if self.multi_region { FLAG_MULTI_REGION } else { 0 }]);
        bytes[3..19].copy_from_slice(&self.key_id);
        bytes[19..NONCE_AT].copy_from_slice(&self.material_id);
        bytes
    }

    /// The key id as text.
    pub fn key_id_text(&self) -> String {
        match self.multi_region {
            true => format!("{MULTI_REGION_PREFIX}{}", HEXLOWER.encode(&self.key_id)),
            false => uuid::Uuid::from_bytes(self.key_id).hyphenated().to_string(),
        }
    }
}

/// The bytes of a lower-case, hyphenated UUID.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let id = uuid::Uuid::try_parse(text).ok()?;
    (id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()) == text).then(|| *id.as_bytes())
}

/// The id of the material in a blob's header, 64 hex digits. Not authenticated.
pub fn material_id(blob: &[u8]) -> Option<String> {
    Header::parse(blob).map(|header| HEXLOWER.encode(&header.material_id))
}

/// Encrypts `plaintext` (not empty).
pub(in crate::kms) fn seal(
    header: &Header,
    material: &SecretBytes,
    context: &[u8],
    plaintext: &[u8],
    entropy: &dyn Entropy,
) -> Vec<u8> {
    let mut blob = Vec::with_capacity(plaintext.len() + OVERHEAD);
    blob.extend_from_slice(&header.bytes());
    entropy.fill(&mut blob[NONCE_AT..]);
    let key = message_key(material, &blob[NONCE_AT..IV_AT]);
    let iv = Nonce::try_assume_unique_for_key(&blob[IV_AT..]).expect("12 bytes");
    let aad = Aad::from([&blob[..], context].concat());
    // Encrypting in place would leave plaintext in the blob's spare capacity if it ever grew: it does not grow here.
    blob.extend_from_slice(plaintext);
    let tag = key.seal_in_place_separate_tag(iv, aad, &mut blob[HEADER_LEN..]).expect("far below the bound of GCM");
    blob.extend_from_slice(tag.as_ref());
    blob
}

/// Decrypts `blob`; `None` if tag, context or material do not fit.
pub(in crate::kms) fn open(blob: &[u8], material: &SecretBytes, context: &[u8]) -> Option<SecretBytes> {
    let (header, sealed) = blob.split_at_checked(HEADER_LEN)?;
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
    let key = message_key(material, &header[NONCE_AT..IV_AT]);
    let iv = Nonce::try_assume_unique_for_key(&header[IV_AT..]).ok()?;
    let aad = Aad::from([header, context].concat());
    SecretBytes::build(ciphertext.len(), |plain| key.open_separate_gather(iv, aad, ciphertext, tag, plain)).ok()
}

/// Encrypts by `encrypt`, a token's AES-256-GCM, which gets IV and AAD and answers ciphertext and tag.
pub(in crate::kms) fn seal_in_token<E>(
    header: &Header,
    context: &[u8],
    entropy: &dyn Entropy,
    encrypt: impl FnOnce(&[u8; 12], &[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let mut blob = Header { in_token: true, ..*header }.bytes().to_vec();
    let iv: [u8; 12] = random(entropy);
    blob[IV_AT..].copy_from_slice(&iv);
    let sealed = encrypt(&iv, &[&blob[..], context].concat())?;
    blob.extend_from_slice(&sealed);
    Ok(blob)
}

/// Decrypts by `decrypt`, a token's AES-256-GCM, which gets IV, AAD, and ciphertext with tag. `None` if `blob` is too
/// short.
pub(in crate::kms) fn open_in_token<T>(
    blob: &[u8],
    context: &[u8],
    decrypt: impl FnOnce(&[u8; 12], &[u8], &[u8]) -> T,
) -> Option<T> {
    let (header, sealed) = blob.split_at_checked(HEADER_LEN)?;
    let iv = header[IV_AT..].first_chunk()?;
    Some(decrypt(iv, &[header, context].concat(), sealed))
}

fn message_key(material: &SecretBytes, nonce: &[u8]) -> LessSafeKey {
    const LABEL: &[u8] = b"kmsfs message key v1";
    let algorithm = get_kbkdf_ctr_hmac_algorithm(KbkdfCtrHmacAlgorithmId::Sha256).expect("SHA-256 is built in");
    let mut info = [0; 41];
    let mut rest = &mut info[..];
    for part in [LABEL, &[0], nonce, &256_u32.to_be_bytes()] {
        rest.split_off_mut(..part.len()).expect("41 bytes in all").copy_from_slice(part);
    }
    let key = SecretKey::<32>::build(|out| {
        kbkdf_ctr_hmac(algorithm, material.expose(), &info, out).expect("32 bytes are a legal length");
    });
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).expect("the key has 32 bytes"))
}

/// Bytes of [`encode_context`].
pub(in crate::kms) fn context_len(context: &EncryptionContext) -> usize {
    4 + context.pairs().map(|(name, value)| 8 + name.len() + value.len()).sum::<usize>()
}

/// Canonical encoding of an encryption context: `u32 BE` number of pairs; the pairs sorted by the bytes of the name, each
/// as `u32 BE` length and name, `u32 BE` length and value.
pub fn encode_context(context: &EncryptionContext) -> Vec<u8> {
    let pairs = context.pairs();
    let mut out = Vec::with_capacity(context_len(context));
    let number = |n: usize| u32::try_from(n).expect("a context is bounded to 8192 bytes").to_be_bytes();
    out.extend_from_slice(&number(pairs.len()));
    for (name, value) in pairs {
        for text in [name, value] {
            out.extend_from_slice(&number(text.len()));
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEntropy;

    fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn contexts_have_the_encodings_of_the_specification() {
        for (pairs, hex) in [
            (&[][..], "00000000"),
            (&[("fs", "vol-1")], "0000000100000002667300000005766f6c2d31"),
            (&[("f", "svol-1")], "0000000100000001660000000673766f6c2d31"),
            (&[("path", "/a"), ("fs", "vol-1")], "0000000200000002667300000005766f6c2d310000000470617468000000022f61"),
            (
                &[("\u{e4}", "1"), ("z", "2"), ("Z", "")],
                "00000003000000015a00000000000000017a000000013200000002c3a40000000131",
            ),
        ] {
            let encoded = encode_context(&context(pairs));
            assert_eq!((HEXLOWER.encode(&encoded).as_str(), encoded.len()), (hex, context_len(&context(pairs))));
        }
    }

    #[test]
    fn layout_and_binding() {
        let entropy = SeededEntropy::new(9);
        let material = SecretBytes::random(32, &entropy);
        let id = "0123abcd-0000-4000-8000-00000000ffff";
        let header = Header::new(KeyName::parse(id).expect("a UUID"), [7; 32]);
        let blob = seal(&header, &material, b"context", b"plaintext", &entropy);
        assert_eq!((blob.len(), &blob[..3]), (9 + 95, &[1, 1, 0][..]));
        assert_eq!(Header::parse(&blob), Some(header));
        assert_eq!(header.key_id_text(), id);
        assert_eq!(material_id(&blob), Some("07".repeat(32)));
        assert_eq!(open(&blob, &material, b"context").as_ref().map(SecretBytes::expose), Some(&b"plaintext"[..]));
        assert!(open(&blob, &material, b"contexu").is_none());
        assert!(open(&blob, &SecretBytes::random(32, &entropy), b"context").is_none());
        for at in 0..blob.len() {
            let mut bad = blob.clone();
            bad[at] ^= 0x80;
            assert!(open(&bad, &material, b"context").is_none(), "byte {at}");
        }
        for bad in [&blob[..95], &[][..], &[&[2], &blob[1..]].concat(), &[&[1, 1, 2], &blob[3..]].concat()] {
            assert_eq!(Header::parse(bad), None);
        }
    }

    #[test]
    fn multi_region_ids_keep_their_form() {
        let header = Header::new(KeyName::parse("mrk-000102030405060708090a0b0c0d0e0f").expect("an mrk id"), [0; 32]);
        assert!(header.multi_region);
        assert_eq!(header.key_id_text(), "mrk-000102030405060708090a0b0c0d0e0f");
        assert_eq!(KeyName::parse("mrk-00"), None);
        assert_eq!(KeyName::parse("0123ABCD-0000-4000-8000-00000000FFFF"), None);
    }

    #[test]
    fn the_message_key_is_sp_800_108() {
        // Written out: one block, K(1) = HMAC(material, 00000001 || label || 00 || nonce || 00000100).
        let material = SecretBytes::from(&[3; 32][..]);
        let info = [b"kmsfs message key v1".as_slice(), &[0], &[5; 16], &[0, 0, 1, 0]].concat();
        let k1 = crate::kms::seal::mac_under(material.expose(), &[&[0, 0, 0, 1], &info]);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &k1).expect("32 bytes"));
        let mut text = *b"text";
        let seal = |key: &LessSafeKey, text: &mut [u8; 4]| {
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            key.seal_in_place_separate_tag(nonce, Aad::empty(), text).expect("sealed").as_ref().to_vec()
        };
        let tag = seal(&key, &mut text);
        let mut again = *b"text";
        assert_eq!(seal(&message_key(&material, &[5; 16]), &mut again), tag);
        assert_eq!(again, text);
    }
}
