//! Whole files, headers, re-wraps, records and branch keys.

use kmsfs::crypto::aead::Backend;
use kmsfs::crypto::secret::SecretKey;
use kmsfs::crypto::xaes::Xaes;
use kmsfs::format::Outcome;
use kmsfs::format::branch::{BranchKey, BranchVersion};
use kmsfs::format::context::context_file;
use kmsfs::format::header::{
    HeaderPolicy, OpenedHeader, StaticHeader, WrappedKey, begin_rewrap, build_header, finish_rewrap, open_header,
};
use kmsfs::format::keys::{FileKeys, VolumeKeys};
use kmsfs::format::recipient::{AllowList, Recipient};
use kmsfs::format::record::{Record, choose_record};
use kmsfs::format::size::{DATA, Geometry, UNIT, unit_count};
use kmsfs::format::slot::{Slot, valid_slots};
use kmsfs::format::unit;
use kmsfs::types::{BranchId, VolumeId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::toy::ToyKms;
use super::{Answer, Vectors, array, hex, secret, strings, u32, u64, unhex};

pub fn run(all: &Vectors, backend: Backend, op: &str, i: &Value) -> Option<Answer> {
    let bytes = |name: &str| unhex(&i[name]);
    Some(match op {
        "file_read" => read_file(all, backend, i),
        "torn_slot" => Ok(torn_slot(all, i)),
        "header_scan" => Ok(json!({ "slots": scan(&all.edited(i)) })),
        "rewrap" => rewrap(all, backend, i),
        "record_next" => record_next(all, i),
        "branch_wrap" => {
            let header = StaticHeader::parse(&bytes("header48")).expect("well-formed");
            let blob = branch_key(backend, i).wrap(&header, &secret(&bytes("dek")), &array(&bytes("nonce")));
            Ok(json!({ "blob": hex(&blob) }))
        }
        "branch_tlv" => {
            let entries = i["entries"].as_array().expect("a list").iter();
            let version = BranchVersion {
                branch_id: BranchId::from_bytes(array(&bytes("branch_id"))),
                version: u32(&i["version"]),
                commit: branch_key(backend, i).commit(),
                entries: entries.map(|e| Recipient::parse(&unhex(e)).expect("well-formed")).collect(),
            };
            version.encode().map(|value| json!({ "value": hex(&value) }))
        }
        "branch_open" => open_branch(all, backend, i),
        _ => return None,
    })
}

fn branch_key(backend: Backend, i: &Value) -> BranchKey {
    let volume = VolumeId::from_bytes(array(&unhex(&i["volume_id"])));
    let branch = BranchId::from_bytes(array(&unhex(&i["branch_id"])));
    BranchKey::derive(backend, volume, branch, u32(&i["version"]), &secret(&unhex(&i["branch_key"])))
}

fn open_branch(all: &Vectors, backend: Backend, i: &Value) -> Answer {
    let version = BranchVersion::parse(&all.edited(i))?;
    let mut kms = ToyKms::new(all, backend, i);
    let mut unwrap = |key: &_, blob: &[u8], context: &_| kms.decrypt(key, blob, context);
    let branch = version.open(backend, all.volume_id(), &allowed(all, i), &mut unwrap)?;
    Ok(json!({
        "branch_id": hex(version.branch_id.as_bytes()),
        "version": version.version,
        "entries": version.entries.len(),
        "prk": hex(branch.prk().expose()),
    }))
}

/// The effective allow-list of a vector: `allowed`, or the first two keys.
fn allowed(all: &Vectors, spec: &Value) -> AllowList {
    let arns = match spec.get("allowed") {
        Some(list) => strings(list),
        None => all.values["toy_kms_keys"].as_object().expect("an object").keys().take(2).cloned().collect(),
    };
    arns.iter().map(|arn| arn.parse().expect("an ARN")).collect()
}

/// What a mount knows after it opened the volume that `spec` describes.
struct Mount {
    volume_id: VolumeId,
    keys: VolumeKeys,
    allowed: AllowList,
    geometry: Geometry,
    aead_ids: u16,
    branch: Option<BranchVersion>,
    opened_branch: Option<BranchKey>,
    kms: ToyKms,
}

impl Mount {
    fn new(all: &Vectors, backend: Backend, spec: &Value) -> Self {
        let value = |name: &str, default: &str| spec.get(name).map_or_else(|| all.value(default), unhex);
        let flag = |name: &str| spec[name].as_bool().unwrap_or(false);
        let aeads = |name: &str| match spec[name].as_array() {
            Some(ids) => ids.iter().fold(0u16, |bits, id| bits | 1 << u64(id)),
            None => 1 << 1,
        };
        let volume_id = VolumeId::from_bytes(array(&value("volume_id", "volume_id")));
        let branch = BranchVersion::parse(&all.blobs["BT"]).expect("well-formed");
        let derived = || {
            let key = secret(&all.value("branch_key"));
            BranchKey::derive(backend, volume_id, branch.branch_id, branch.version, &key)
        };
        Self {
            volume_id,
            keys: VolumeKeys::derive(backend, &secret(&value("vrk", "VRK")), volume_id),
            allowed: allowed(all, spec),
            geometry: spec.get("pages").map_or(Geometry::P1, |_| super::primitives::geometry(spec)),
            aead_ids: aeads("aead_allow") & aeads("implemented"),
            opened_branch: (!flag("no_branch") && !flag("branch_cold")).then(derived),
            branch: (!flag("no_branch")).then_some(branch),
            kms: ToyKms::new(all, backend, spec),
        }
    }

    fn open(&mut self, header: &[u8]) -> Result<OpenedHeader, Outcome> {
        let Self { volume_id, keys, allowed, geometry, aead_ids, branch, opened_branch, kms } = self;
        let policy = HeaderPolicy { volume_id: *volume_id, geometry: *geometry, keys, allowed, aead_ids: *aead_ids };
        open_header(header, &policy, &mut |header, wrapped| match wrapped {
            WrappedKey::Kms { key, blob } => {
                kms.decrypt(key, blob, &context_file(header.volume_id(), header.file_id()))
            }
            WrappedKey::Branch(blob) => {
                let of_blob = |b: &&BranchVersion| (b.branch_id, b.version) == (blob.branch_id(), blob.version());
                let version = branch.as_ref().filter(of_blob).ok_or(Outcome::KeyUnavailable)?;
                if let Some(opened) = opened_branch {
                    return opened.unwrap(header, &blob);
                }
                let mut unwrap = |key: &_, blob: &[u8], context: &_| kms.decrypt(key, blob, context);
                version.open(keys.backend, *volume_id, allowed, &mut unwrap)?.unwrap(header, &blob)
            }
        })
    }
}

/// One unit, a hole included.
pub fn open_unit(content: &Xaes, record: &Record, u: u64, unit: &[u8]) -> Result<Vec<u8>, Outcome> {
    assert_eq!(unit.len(), UNIT);
    if unit::is_zero_unit(unit) {
        return record.check_zero_unit(u).map(|()| vec![0; DATA]);
    }
    let (epoch, _) = unit::epoch_of(unit).ok_or(Outcome::UnitAuth)?;
    let mut buf = unit.to_vec();
    unit::open_within(&content.cipher(&epoch), u, &mut buf, 0)?;
    buf.truncate(DATA);
    Ok(buf)
}

fn read_file(all: &Vectors, backend: Backend, i: &Value) -> Answer {
    let mut mount = Mount::new(all, backend, &i["volume"]);
    let file = all.edited(i);
    let geometry = mount.geometry;
    let size = geometry.plain_size(file.len() as u64)?;
    let len = usize::try_from(size).expect("64-bit");
    if size == 0 {
        return Ok(json!({ "size": 0, "sha256": hex(&Sha256::digest([])), "event": null }));
    }
    let header = &file[..geometry.header_len()];
    if header.iter().all(|b| *b == 0) && i["whole_hole"] == true {
        let sha256 = hex(&Sha256::digest(vec![0; len]));
        return Ok(json!({ "size": size, "sha256": sha256, "event": format!("{:?}", Outcome::NeverSynced) }));
    }
    let opened = mount.open(header)?;
    opened.record.check_size(size)?;
    let mut text = Vec::new();
    for u in 0..unit_count(size) {
        let start = usize::try_from(geometry.unit_offset(u)).expect("64-bit");
        text.extend(open_unit(&opened.keys.content, &opened.record, u, &file[start..start + UNIT])?);
    }
    text.truncate(len);
    Ok(json!({
        "size": size,
        "sha256": hex(&Sha256::digest(&text)),
        "event": null,
        "slot": format!("{:?}", opened.place),
        "generation": opened.generation,
        "valid_slots": opened.valid_slots,
        "seq": opened.record.seq,
        "floor": opened.record.floor,
        "flags": u8::from(opened.record.has_holes),
    }))
}

fn scan(header: &[u8]) -> Value {
    let describe = |slot: &Slot| {
        let keys: Vec<&str> = slot.recipients.iter().map(|r| r.key_id.as_str()).collect();
        json!({ "slot": format!("{:?}", slot.place), "generation": slot.generation, "keys": keys })
    };
    valid_slots(header, Geometry::P1).iter().map(describe).collect()
}

fn rewrap(all: &Vectors, backend: Backend, i: &Value) -> Answer {
    let mut mount = Mount::new(all, backend, &i["volume"]);
    let mut header = all.edited(i)[..4096].to_vec();
    let mut out = serde_json::Map::new();
    if let Some(new) = i.get("new") {
        let entry = Recipient::parse(&unhex(new)).expect("well-formed");
        begin_rewrap(&header, &[entry], Geometry::P1)?.apply(&mut header);
        out.insert("written".into(), scan(&header));
    }
    let opened = mount.open(&header)?;
    if let Some(patch) = finish_rewrap(&header, &opened) {
        patch.apply(&mut header);
    }
    assert_eq!(finish_rewrap(&header, &opened), None, "nothing is left to do");
    out.insert("finished".into(), scan(&header));
    Ok(out.into())
}

/// A slot that is written over another and cut after k bytes, for every k: which generation is read?
fn torn_slot(all: &Vectors, i: &Value) -> Value {
    let (header, new) = (all.edited(i), &all.blobs[super::str(&i["new"])]);
    let offset = usize::try_from(u64(&i["offset"])).expect("64-bit");
    let mut runs: Vec<(usize, u64)> = Vec::new();
    for cut in 0..=new.len() {
        let mut torn = header.clone();
        torn[offset..offset + cut].copy_from_slice(&new[..cut]);
        let generation = valid_slots(&torn, super::primitives::geometry(i)).first().expect("one is valid").generation;
        if runs.last().is_none_or(|(_, last)| *last != generation) {
            runs.push((cut, generation));
        }
    }
    json!({ "runs": runs })
}

fn record_next(all: &Vectors, i: &Value) -> Answer {
    let (header, key) = (all.edited(i), secret(&unhex(&i["k_record"])));
    let geometry = Geometry::P1;
    let file = StaticHeader::parse(&header).expect("well-formed").file_id();
    let record = choose_record(&key, file, &header, geometry)?;
    let next = record.next_single(&key, file, u64(&i["floor"]), u64(&i["flags"]) == 1)?;
    let changed = next.map(|(at, bytes)| json!([geometry.records_offset() + at, hex(&bytes)]));
    Ok(json!({ "changed": changed.into_iter().collect::<Value>(), "same_elsewhere": true }))
}

/// Writers make the bytes of the reference: the header of each blob that was never re-wrapped or synced.
#[test]
fn new_headers_are_the_references() {
    let all = Vectors::load();
    for backend in Backend::ALL {
        let volume = all.volume_keys(backend);
        let dek: SecretKey<32> = secret(&all.value("DEK"));
        for (blob, geometry) in [("FU", Geometry::P1), ("F", Geometry::P1), ("P4", Geometry::P4), ("M", Geometry::P1)] {
            let expected = &all.blobs[blob][..geometry.header_len()];
            let fixed = StaticHeader::parse(expected).expect("well-formed");
            assert_eq!(fixed, StaticHeader::new(fixed.volume_id(), fixed.file_id(), geometry));
            let keys = FileKeys::derive(backend, &dek, &fixed);
            let recipients = &valid_slots(expected, geometry)[0].recipients;
            let mut header = build_header(&fixed, &keys, &volume, recipients, false).expect("fits");
            // The reference then raised the floor with one record, except in the file that was never synced.
            if let Some((at, record)) = Record::first(false)
                .next_single(&keys.record, fixed.file_id(), floor_of(&all, blob), false)
                .expect("a low sequence number")
            {
                let at = geometry.records_offset() + at;
                header[at..at + record.len()].copy_from_slice(&record);
            }
            assert!(header == expected, "{blob} with {backend}");
        }
    }
}

fn floor_of(all: &Vectors, blob: &str) -> u64 {
    let geometry = if blob == "P4" { Geometry::P4 } else { Geometry::P1 };
    let size = geometry.plain_size(all.blobs[blob].len() as u64).expect("well-formed");
    if blob == "FU" { 0 } else { size }
}
