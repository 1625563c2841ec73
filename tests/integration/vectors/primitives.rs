//! Primitives, key schedule, sizes and single structures.

use kmsfs::crypto::aead::Backend;
use kmsfs::crypto::kdf::{expand, extract};
use kmsfs::crypto::xaes::Xaes;
use kmsfs::format::context::{context_branch, context_file, context_vrk};
use kmsfs::format::header::StaticHeader;
use kmsfs::format::keys::{FileKeys, VolumeKeys};
use kmsfs::format::recipient::{Recipient, Scheme};
use kmsfs::format::record::Record;
use kmsfs::format::size::{Geometry, UNIT, locate};
use kmsfs::format::slot::{Place, build_slot};
use kmsfs::format::unit;
use kmsfs::types::{BranchId, EncryptionContext, FileId, VolumeId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Answer, Vectors, array, hex, secret, u32, u64, unhex};

pub fn geometry(input: &Value) -> Geometry {
    Geometry::new(u64(&input["pages"]).try_into().expect("a byte")).expect("1 or 4 pages")
}

fn pairs(context: &EncryptionContext) -> Value {
    context.pairs().map(|(name, value)| (name.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

pub fn run(all: &Vectors, backend: Backend, op: &str, i: &Value) -> Option<Answer> {
    let bytes = |name: &str| unhex(&i[name]);
    Some(match op {
        "hkdf" => {
            assert_eq!(i["len"], 42);
            let okm = expand::<42>(&extract(&bytes("salt"), &bytes("ikm")), &[&bytes("info")]);
            Ok(json!({ "okm": hex(okm.expose()) }))
        }
        "xaes" => {
            let xaes = Xaes::new(backend, secret(&bytes("key")));
            let (nonce, aad, text) = (array(&bytes("nonce")), bytes("aad"), bytes("pt"));
            let sealed = xaes.seal(&nonce, &aad, &text);
            assert_eq!(**xaes.open(&nonce, &aad, &sealed).expect("genuine"), *text);
            Ok(json!({ "ct": hex(&sealed) }))
        }
        // The published vector has an AES-128 key, which kmsfs never uses: it proves the library's construction.
        "siv" => {
            use aes_siv::KeyInit;
            let ad: Vec<Vec<u8>> = i["ad"].as_array().expect("a list").iter().map(unhex).collect();
            let mut siv = aes_siv::siv::Aes128Siv::new_from_slice(&bytes("key")).expect("32 bytes");
            Ok(json!({ "ct": hex(&siv.encrypt(&ad, &bytes("pt")).expect("few headers")) }))
        }
        "crc32c" => Ok(json!({ "crc": format!("{:08x}", crc32c::crc32c(&bytes("data"))) })),
        "volume_keys" => {
            let keys =
                VolumeKeys::derive(backend, &secret(&bytes("vrk")), VolumeId::from_bytes(array(&bytes("volume_id"))));
            Ok(json!({
                "prk": hex(keys.prk.expose()),
                "cfg": hex(keys.cfg.expose()),
                "names": hex(keys.names.expose()),
                "longname": hex(keys.longname.expose()),
                "dir": hex(keys.dir.expose()),
                "symlink": hex(keys.symlink.key().expose()),
                "xattr": hex(keys.xattr.key().expose()),
                "inject": hex(keys.inject.expose()),
            }))
        }
        "file_keys" => {
            let header = StaticHeader::parse(&bytes("header48")).expect("well-formed");
            let keys = FileKeys::derive(backend, &secret(&bytes("dek")), &header);
            Ok(json!({
                "content": hex(keys.content.key().expose()),
                "commit": hex(keys.commit()),
                "record": hex(keys.record.expose()),
            }))
        }
        "contexts" => {
            let volume = VolumeId::from_bytes(array(&bytes("volume_id")));
            let branch = BranchId::from_bytes(array(&bytes("branch_id")));
            Ok(json!({
                "file": pairs(&context_file(volume, FileId::from_bytes(array(&bytes("file_id"))))),
                "vrk": pairs(&context_vrk(volume)),
                "branch": pairs(&context_branch(volume, branch, u32(&i["version"]))),
            }))
        }
        "slot_len" => {
            let geometry = geometry(i);
            Ok(json!({
                "len": geometry.slot_len(),
                "a": Place::A.slot_offset(geometry),
                "b": Place::B.slot_offset(geometry),
                "record_a": geometry.records_offset() + Place::A.record_offset(),
                "record_b": geometry.records_offset() + Place::B.record_offset(),
                "entries": geometry.slot_len() - 24,
            }))
        }
        "slot_fits" => {
            let entry = |lens: &Value| Recipient {
                scheme: Scheme::Kms,
                flags: 0,
                key_id: "k".repeat(u32(&lens[0]) as usize),
                blob: vec![1; u32(&lens[1]) as usize],
                unix_time: 0,
            };
            let entries: Vec<Recipient> = i["entries"].as_array().expect("a list").iter().map(entry).collect();
            let used = 24 + entries.iter().map(Recipient::encoded_len).sum::<usize>();
            build_slot(1, &entries, geometry(i)).map(|_| json!({ "used": used }))
        }
        "record" => {
            let record = record(i, u64(&i["seq"]));
            let file = FileId::from_bytes(array(&bytes("file_id")));
            Ok(json!({ "record": hex(&record.encode(&secret(&bytes("k_record")), file)) }))
        }
        "unit_seal" => {
            let epoch = array(&bytes("epoch"));
            let cipher = Xaes::new(backend, secret(&bytes("k_content"))).cipher(&epoch);
            let text = bytes("pt");
            let mut sealed = [0; UNIT];
            sealed[16..16 + text.len()].copy_from_slice(&text);
            unit::seal(&cipher, &epoch, u32(&i["ctr"]), u64(&i["u"]), &mut sealed);
            Ok(json!({
                "first32": hex(&sealed[..32]),
                "tag": hex(&sealed[UNIT - 16..]),
                "sha256": hex(&Sha256::digest(sealed)),
            }))
        }
        "unit_open" => {
            let content = Xaes::new(backend, secret(&bytes("k_content")));
            let opened = super::files::open_unit(&content, &record(i, 1), u64(&i["u"]), &all.edited(i));
            opened.map(|text| json!({ "sha256": hex(&Sha256::digest(text)) }))
        }
        "unit_span" => {
            let (off, len) = (u64(&i["off"]), u64(&i["len"]));
            Ok(json!({ "first": locate(off).0, "last": locate(off + len - 1).0 }))
        }
        "size" => geometry(i).stored_size(u64(&i["n"])).map(|disk| json!({ "disk": disk })),
        "size_back" => geometry(i).plain_size(u64(&i["disk"])).map(|n| json!({ "n": n })),
        "size_shown" => Ok(json!({ "n": geometry(i).lenient_plain_size(u64(&i["disk"])) })),
        _ => return None,
    })
}

fn record(i: &Value, seq: u64) -> Record {
    assert!(u64(&i["flags"]) <= 1, "only HAS_HOLES is known");
    Record { seq, floor: u64(&i["floor"]), has_holes: u64(&i["flags"]) == 1 }
}
