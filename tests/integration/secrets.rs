//! Keys that nobody needs any more are nowhere in this process: its memory is searched.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kmsfs::crypto::aead::Backend;
use kmsfs::crypto::secret::SecretKey;
use kmsfs::env::SystemEntropy;
use kmsfs::format::keys::VolumeKeys;
use kmsfs::format::name::{NameCodec, NameForm};
use kmsfs::format::{dirid, symlink, xattr};
use kmsfs::types::{DirId, VolumeId};

/// What is looked for is kept with other bits, or the search would find itself.
struct Needle(Vec<u8>);

const OTHER_BITS: u8 = 0xa5;

impl Needle {
    fn of(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| byte ^ OTHER_BITS).collect())
    }

    fn is_at(&self, memory: &[u8]) -> bool {
        memory.len() >= self.0.len() && self.0.iter().zip(memory).all(|(a, b)| *a == b ^ OTHER_BITS)
    }
}

/// How often each stands in memory that this process can write to and read.
fn count(needles: &[Needle]) -> Vec<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let memory = File::open("/proc/self/mem").expect("memory");
    let mut buffer = vec![0; 1 << 20];
    let own = buffer.as_ptr().addr()..buffer.as_ptr().addr() + buffer.len();
    let mut begins = [false; 256];
    needles.iter().for_each(|needle| begins[usize::from(needle.0[0] ^ OTHER_BITS)] = true);
    let mut found = vec![0; needles.len()];
    for line in maps.lines() {
        let mut fields = line.split(' ');
        let range = fields.next().and_then(|range| range.split_once('-')).expect("a range");
        let [mut at, end] = [range.0, range.1].map(|text| usize::from_str_radix(text, 16).expect("an address"));
        if !fields.next().expect("rights").starts_with("rw") {
            continue;
        }
        while at < end {
            // Another thread may have unmapped it, and nobody may read secret memory that way.
            let Ok(len) = memory.read_at(&mut buffer[..(end - at).min(1 << 20)], at as u64) else { break };
            let mut start = 0;
            // A plain loop: this is every byte of the process.
            while start < len {
                if begins[buffer[start] as usize] && !own.contains(&(at + start)) {
                    for (needle, count) in needles.iter().zip(&mut found) {
                        *count += usize::from(needle.is_at(&buffer[start..len]));
                    }
                }
                start += 1;
            }
            // What lies across two reads is met by the second.
            at += if len <= 64 || at + len >= end { len.max(1) } else { len - 64 };
        }
    }
    found
}

fn use_keys(keys: &Arc<VolumeKeys>) {
    let id = DirId::from_bytes([7; 16]);
    let names = NameCodec::new(Arc::clone(keys), NameForm::Encrypted, 175);
    for name in ["a".repeat(3), "b".repeat(100), "c".repeat(250)] {
        let entry = names.encode(id, name.as_bytes()).expect("a name");
        let found = names.decode(id, entry.entry().as_bytes(), entry.side().map(str::as_bytes)).expect("decodes");
        assert_eq!(found, name.as_bytes());
    }
    dirid::encode(keys, id);
    let text = symlink::encode(keys, b"target", &[1; 24]).expect("a target");
    symlink::decode(keys, text.as_bytes()).expect("the same");
    xattr::encode_value(keys, b"user.a", b"value", &[2; 24]);
}

#[test]
fn keys_of_a_volume_are_gone_when_it_is_closed() {
    let control = std::hint::black_box((0..32_u8).map(|n| n ^ 0x3c).collect::<Vec<u8>>());
    let root = SecretKey::<32>::random(&SystemEntropy);
    let known = [Needle::of(&control), Needle::of(root.expose())];
    let keys = Arc::new(VolumeKeys::derive(Backend::default(), &root, VolumeId::from_bytes([9; 16])));
    drop(root);
    use_keys(&keys);
    let [control_found, root_found] = count(&known)[..] else { panic!("two counts") };
    assert!(control_found > 0, "the search finds what is there");
    assert_eq!(root_found, 0, "the root key, when the others are made of it");
    let single = [&keys.prk, &keys.cfg, &keys.longname, &keys.dir, &keys.inject].map(|key| Needle::of(key.expose()));
    let halves = keys.names.expose().chunks(32).map(Needle::of);
    let needles: Vec<Needle> = single.into_iter().chain(halves).collect();
    drop(keys);
    let left = count(&needles);
    assert!(left.iter().all(|count| *count == 0), "{left:?}");
}
