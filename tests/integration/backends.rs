//! The three AES-256-GCM libraries are interchangeable: identical bytes, identical verdicts.

use kmsfs::crypto::aead::{Aes256Gcm, Backend, TAG_LEN};
use kmsfs::crypto::secret::SecretKey;
use kmsfs::crypto::xaes::Xaes;
use proptest::prelude::*;

proptest! {
    #[test]
    fn identical_ciphertexts_and_verdicts(
        key: [u8; 32],
        nonce: [u8; 12],
        aad in prop::collection::vec(any::<u8>(), 0..64),
        text in prop::collection::vec(any::<u8>(), 0..5000),
        shift in 0usize..40,
        flip: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let mut sealed: Vec<Vec<u8>> = Vec::new();
        for backend in Backend::ALL {
            let mut data = text.clone();
            let tag = Aes256Gcm::new(backend, &key).seal_in_place(&nonce, &aad, &mut data);
            data.extend_from_slice(&tag);
            sealed.push(data);
        }
        prop_assert!(sealed.iter().all(|s| *s == sealed[0]));
        for backend in Backend::ALL {
            let cipher = Aes256Gcm::new(backend, &key);
            let mut buf = vec![0; shift];
            buf.extend_from_slice(&sealed[0]);
            let mut bad = buf.clone();
            prop_assert!(cipher.open_within(&nonce, &aad, &mut buf, shift).is_ok());
            prop_assert_eq!(&buf[..text.len()], &text[..]);
            bad[shift + flip.index(text.len() + TAG_LEN)] ^= 1 << bit;
            prop_assert!(cipher.open_within(&nonce, &aad, &mut bad, shift).is_err());
            prop_assert!(bad[..text.len()].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn identical_xaes(key: [u8; 32], nonce: [u8; 24], text in prop::collection::vec(any::<u8>(), 0..300)) {
        let seal = |backend| {
            Xaes::new(backend, SecretKey::from_slice(&key).expect("32 bytes")).seal(&nonce, b"aad", &text)
        };
        let all = Backend::ALL.map(seal);
        prop_assert!(all.iter().all(|s| *s == all[0]));
    }
}
