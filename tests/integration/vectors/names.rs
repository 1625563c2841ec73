//! Directory ids, names, symlinks and extended attributes.

use kmsfs::crypto::aead::Backend;
use kmsfs::format::dirid::{self, Found};
use kmsfs::format::name::{EncodedName, NameCodec, NameForm};
use kmsfs::format::{symlink, xattr};
use kmsfs::sync::Arc;
use kmsfs::types::DirId;
use serde_json::{Value, json};

use super::{Answer, Vectors, array, hex, str, u64, unhex};

pub fn run(all: &Vectors, backend: Backend, op: &str, i: &Value) -> Option<Answer> {
    let keys = all.volume_keys(backend);
    let bytes = |name: &str| unhex(&i[name]);
    let dir = || DirId::from_bytes(array(&bytes("dir_id")));
    let text = |value: &'_ Value| value.as_str().map(|text| text.as_bytes().to_vec());
    let codec = |keys| {
        let form = if i["plain_names"] == true { NameForm::Plain } else { NameForm::Encrypted };
        let short_max = i.get("short_max").map_or(form.short_max(), |n| usize::try_from(u64(n)).expect("64-bit"));
        NameCodec::new(Arc::new(keys), form, short_max)
    };
    Some(match op {
        "dir_seal" => {
            let text = dirid::encode(&keys, dir());
            Ok(json!({ "text": text, "chars": text.len() }))
        }
        "dir_open" => {
            let found = match (i["text"].as_str(), i["form"].as_str().unwrap_or("symlink")) {
                (None, _) => Found::Nothing,
                (Some(text), "symlink" | "file") => Found::Text(text.as_bytes()),
                _ => Found::OtherType,
            };
            dirid::decode(&keys, found).map(|dir| json!({ "dir_id": hex(dir.as_bytes()) }))
        }
        "dir_check" => {
            let entries: Vec<_> =
                i["entries"].as_array().expect("a list").iter().map(|e| (str(&e[0]), e[1].as_str())).collect();
            let entries = entries.iter().map(|(entry, side)| (entry.as_bytes(), side.map(str::as_bytes)));
            dirid::check(&codec(keys), dir(), entries).map(|verified| json!({ "verified": verified }))
        }
        "dir_recover" => {
            let recovered = dirid::recover(&codec(keys), str(&i["entry"]).as_bytes(), text(&i["side"]).as_deref());
            recovered.map(|(dir, padded)| json!({ "dir_id": hex(dir.as_bytes()), "padded": hex(&padded) }))
        }
        "name_encode" => codec(keys).encode(dir(), &bytes("name")).map(|encoded| {
            let (entry, side) = match &encoded {
                EncodedName::Short(entry) => (entry, None),
                EncodedName::Long { entry, side } => (entry, Some(side)),
            };
            assert_eq!((encoded.entry(), encoded.side()), (entry.as_str(), side.map(String::as_str)));
            json!({ "entry": entry, "chars": entry.len(), "side": side, "side_chars": side.map_or(0, String::len) })
        }),
        "name_decode" => {
            let decoded = codec(keys).decode(dir(), str(&i["entry"]).as_bytes(), text(&i["side"]).as_deref());
            decoded.map(|name| json!({ "name": hex(&name) }))
        }
        "symlink_seal" => symlink::encode(&keys, &bytes("target"), &array(&bytes("nonce"))).map(|text| {
            let chars = text.len();
            json!({ "text": text, "chars": chars, "size": symlink::shown_size(chars as u64) })
        }),
        "symlink_open" => {
            symlink::decode(&keys, str(&i["text"]).as_bytes()).map(|target| json!({ "target": hex(&target) }))
        }
        "xattr_name" => {
            xattr::encode_name(&keys, &bytes("name")).map(|disk| json!({ "disk": disk, "chars": disk.len() }))
        }
        "xattr_name_open" => {
            xattr::decode_name(&keys, str(&i["disk"]).as_bytes()).map(|name| json!({ "name": hex(&name) }))
        }
        "xattr_long_open" => xattr::decode_long(&keys, str(&i["disk"]), &bytes("data"))
            .map(|(name, value)| json!({ "name": hex(&name), "value": hex(&value) })),
        "xattr_value" => {
            let data = xattr::encode_value(&keys, &bytes("name"), &bytes("value"), &array(&bytes("nonce")));
            Ok(json!({ "data": hex(&data) }))
        }
        "xattr_value_open" => {
            xattr::decode_value(&keys, &bytes("name"), &bytes("data")).map(|value| json!({ "value": hex(&value) }))
        }
        _ => return None,
    })
}
