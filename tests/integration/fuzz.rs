//! The bodies of the fuzz targets on the committed corpus and on damaged copies of it.

#[path = "../../fuzz/src/bodies.rs"]
mod bodies;
mod mutations;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bodies::{DIR, KEY, TARGETS, VOLUME, data_key, keys};
use kmsfs::crypto::aead::Backend;
use kmsfs::env::{ManualClock, SeededEntropy, random};
use kmsfs::format::header::{StaticHeader, begin_rewrap, build_header};
use kmsfs::format::keys::FileKeys;
use kmsfs::format::name::{NameCodec, NameForm};
use kmsfs::format::recipient::Recipient;
use kmsfs::format::size::Geometry;
use kmsfs::format::slot::build_slot;
use kmsfs::format::volume::VolumeConfig;
use kmsfs::format::{dirid, symlink, xattr};
use kmsfs::kms::blob;
use kmsfs::kms::custody::{Home, NewHome, NewSlot, RecoveryKey};
use kmsfs::types::{FileId, KeyArn, Timestamp};

use crate::model::ops::LONGEST;

/// Most inputs are tried once for each of their bytes, so large ones are sampled.
const DAMAGES: usize = 300;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The inputs of a target by name.
fn inputs(target: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = corpus().join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        (name, std::fs::read(&path).expect("an input"))
    };
    entries.map(read).collect()
}

#[test]
fn every_target_takes_its_corpus_and_survives_damage() {
    if std::env::var_os("KMSFS_WRITE_CORPUS").is_some() {
        write_corpus();
    }
    for (target, body) in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "{target}: no inputs");
        for (name, input) in &inputs {
            let accepted = body(input);
            if is_hash(name) {
                // libFuzzer's: a way through the code, often one that ends in a refusal.
                continue;
            }
            // Of the volumes that are damaged only those of that name are sound.
            let sound = *target != "damage" || name.starts_with("sound");
            assert_eq!(accepted, sound, "{target}: whether {name} is accepted");
            // These take milliseconds, and what they take is choices, any of which is valid.
            if !["ops", "crash"].contains(target) {
                damage(*body, input);
            }
        }
        body(&[]);
        body(&[0; 4096]);
    }
}

/// Whether libFuzzer named the input.
fn is_hash(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Bits flipped and ends cut: nothing may panic.
fn damage(body: fn(&[u8]) -> bool, input: &[u8]) {
    let step = input.len().div_ceil(DAMAGES).max(1);
    for at in (0..input.len()).step_by(step) {
        let mut damaged = input.to_vec();
        damaged[at] ^= 1 << (at % 8);
        body(&damaged);
        body(&input[..at]);
        damaged[at] = 0xff;
        damaged.push(0);
        body(&damaged);
    }
}

/// Every file of `fuzz` that is a target is in the list.
#[test]
fn every_target_has_a_file_and_an_entry() {
    let fuzz = corpus().parent().expect("a parent").to_owned();
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("a manifest");
    let mut files: Vec<String> = std::fs::read_dir(fuzz.join("fuzz_targets"))
        .expect("targets")
        .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_str().expect("UTF-8").to_owned())
        .collect();
    files.sort();
    let mut targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(files, targets);
    assert!(targets.iter().all(|target| manifest.contains(&format!("fuzz_targets/{target}.rs"))));
}

fn write_corpus() {
    let key: KeyArn = KEY.parse().unwrap();
    let recipient = |len| Recipient::kms(&key, vec![7; len], 1_700_000_000);
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let dir = corpus().join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    };
    let geometry = Geometry::P1;
    let fixed = StaticHeader::new(VOLUME, FileId::from_bytes([4; 16]), geometry);
    let file_keys = FileKeys::derive(Backend::default(), &data_key(), &fixed);
    let header = build_header(&fixed, &file_keys, &keys(), &[recipient(96)], false).unwrap();
    put("header", "new", &header);
    let mut two_slots = header;
    begin_rewrap(&two_slots, &[recipient(184), recipient(96)], geometry).unwrap().apply(&mut two_slots);
    put("header", "unfinished-rewrap", &two_slots);
    put("slot", "one-recipient", &build_slot(1, &[recipient(96)], geometry).unwrap());
    put(
        "slot",
        "five-recipients",
        &build_slot(9, &[recipient(184), recipient(1), recipient(2), recipient(3), recipient(4)], geometry).unwrap(),
    );
    let mut config = VolumeConfig::new(VOLUME, geometry, key.clone(), recipient(96));
    put("volume_file", "new", &config.encode(&keys()).unwrap());
    config.label = Some("a label".into());
    config.config_seq = 7;
    config.recipients.push(recipient(184));
    put("volume_file", "label-and-two-recipients", &config.encode(&keys()).unwrap());
    put("dir_id", "good", dirid::encode(&keys(), DIR).as_bytes());
    let codec = NameCodec::new(keys(), NameForm::Encrypted, NameForm::Encrypted.short_max());
    put("name", "short", codec.encode(DIR, b"a").unwrap().entry().as_bytes());
    put("name", "of-two-blocks", codec.encode(DIR, b"seventeen letters").unwrap().entry().as_bytes());
    let long = codec.encode(DIR, LONGEST.as_bytes()).unwrap();
    put("name", "long", format!("{}\n{}", long.entry(), long.side().unwrap()).as_bytes());
    put("symlink", "short", symlink::encode(&keys(), b"target", &[1; 24]).unwrap().as_bytes());
    put("symlink", "long", symlink::encode(&keys(), &[b'x'; 700], &[2; 24]).unwrap().as_bytes());
    let xattr = |name: &[u8], value: &[u8]| {
        let disk = xattr::encode_name(&keys(), name).unwrap();
        [disk.as_bytes(), b"\n", &xattr::encode_value(&keys(), name, value, &[3; 24])].concat()
    };
    put("xattr", "comment", &xattr(b"user.comment", b"value"));
    put("xattr", "empty", &xattr(b"user.a", b""));
    put("xattr", "long", &xattr(&[b"user.", &[b'x'; 200][..]].concat(), b"value"));
    let home = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::from_secs(1_700_000_000));
    let entropy = SeededEntropy::new(1);
    let (_, recovery): (_, RecoveryKey) =
        Home::create(home.path(), NewHome::with_slots(vec![NewSlot::KeyFile]), &clock, &entropy).unwrap();
    put("root_file", "key-file", &std::fs::read(home.path().join("root.json")).unwrap());
    put("bundle", "of-a-volume", &crate::ops::recovery::example());
    put("recovery_key", "upper-case", recovery.to_text().as_bytes());
    put("recovery_key", "lower-case", recovery.to_text().to_lowercase().replace('-', " ").as_bytes());
    let blob_of = |id: &str| {
        let header = blob::Header::new(blob::KeyName::parse(id).unwrap(), [2; 32]);
        let mut bytes = vec![0; blob::OVERHEAD + 32];
        bytes[0] = 1;
        bytes[1] = 1;
        bytes[2] = u8::from(header.multi_region);
        bytes[3..19].copy_from_slice(&header.key_id);
        bytes[19..51].copy_from_slice(&header.material_id);
        bytes
    };
    put("blob", "key", &blob_of("1234abcd-12ab-34cd-56ef-1234567890ab"));
    put("blob", "multi-region", &blob_of("mrk-1234abcd12ab34cd56ef1234567890ab"));
    let scope = "Credential=AKIDEXAMPLE/20150830/us-east-1/kms/aws4_request";
    let signature = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    for (name, separator) in [("spaces", ", "), ("no-spaces", ",")] {
        let signed = "SignedHeaders=host;x-amz-date;x-amz-target";
        let parts = [scope, signed, &format!("Signature={signature}")].join(separator);
        put("authorization", name, format!("AWS4-HMAC-SHA256 {parts}").as_bytes());
    }
    for (name, request) in [
        ("describe", r#"DescribeKey {"KeyId":"alias/aws/kmsfs","Unknown":[1,{"a":null}]}"#),
        (
            "create",
            r#"CreateKey {"Description":"d\u00e4","Tags":[{"TagKey":"a","TagValue":""}],"KeySpec":"SYMMETRIC_DEFAULT"}"#,
        ),
        ("random", r#"GenerateRandom {"NumberOfBytes":32}"#),
        ("list", r#"ListAliases {"Limit":10}"#),
    ] {
        put("api", name, request.replacen(' ', "\n", 1).as_bytes());
    }
    for (name, requests) in crate::transport::sequences() {
        put("fuse", name, &requests);
    }
    for seed in 0..4_u8 {
        put("ops", &format!("random-{seed}"), &random::<800>(&SeededEntropy::new(seed.into())));
    }
}
