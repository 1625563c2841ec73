//! The known answers of the format, `tests/vectors/kfs1.json`, through the real code, with every AEAD backend.
//!
//! `tests/vectors/reference.py` made them and can check them by itself; FORMAT 15 says how to read them.

mod files;
mod names;
mod primitives;
mod toy;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use kmsfs::crypto::aead::Backend;
use kmsfs::crypto::kdf::mac16;
use kmsfs::crypto::secret::SecretKey;
use kmsfs::format::Outcome;
use kmsfs::format::keys::VolumeKeys;
use kmsfs::types::VolumeId;
use serde_json::{Value, json};

/// What one operation gives: the fields of `out`.
type Answer = Result<Value, Outcome>;

const COUNT: usize = 480;

/// The file of vectors.
struct Vectors {
    values: Value,
    errno: Value,
    blobs: BTreeMap<String, Vec<u8>>,
    vectors: Vec<Value>,
}

impl Vectors {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/kfs1.json");
        let text = std::fs::read_to_string(path).expect("the vectors are in the repository");
        let mut file: Value = serde_json::from_str(&text).expect("JSON");
        let blobs = file["blobs"].as_object().expect("an object");
        Self {
            values: file["test_values"].clone(),
            errno: file["errno"].clone(),
            blobs: blobs.iter().map(|(name, hex)| (name.clone(), unhex(hex))).collect(),
            vectors: file["vectors"].as_array_mut().map(std::mem::take).expect("an array"),
        }
    }

    /// A fixed value such as `VRK`.
    fn value(&self, name: &str) -> Vec<u8> {
        unhex(&self.values[name])
    }

    fn volume_id(&self) -> VolumeId {
        VolumeId::from_bytes(array(&self.value("volume_id")))
    }

    fn volume_keys(&self, backend: Backend) -> VolumeKeys {
        VolumeKeys::derive(backend, &secret(&self.value("VRK")), self.volume_id())
    }

    /// `{"blob": name, "edits": [[op, ...]]}`: the bytes of a blob after some damage.
    fn edited(&self, spec: &Value) -> Vec<u8> {
        let mut bytes = self.blobs[str(&spec["blob"])].clone();
        for edit in spec["edits"].as_array().map_or(&[][..], Vec::as_slice) {
            let number = |i: usize| usize::try_from(u64(&edit[i])).expect("64-bit");
            match str(&edit[0]) {
                "xor" => {
                    for (i, x) in unhex(&edit[2]).into_iter().enumerate() {
                        bytes[number(1) + i] ^= x;
                    }
                }
                "set" => {
                    let new = unhex(&edit[2]);
                    bytes[number(1)..number(1) + new.len()].copy_from_slice(&new);
                }
                "zero" => bytes[number(1)..number(1) + number(2)].fill(0),
                "swap" => {
                    let (a, b, len) = (number(1), number(2), number(3));
                    for i in 0..len {
                        bytes.swap(a + i, b + i);
                    }
                }
                "put" => {
                    let (to, from, len) = (number(1), number(3), number(4));
                    let source = &self.blobs[str(&edit[2])][from..from + len];
                    bytes[to..to + len].copy_from_slice(source);
                }
                "size" => bytes.resize(number(1), 0),
                "remac" => {
                    let mac = mac16(&self.volume_keys(Backend::Ring).inject, &[&bytes[..80]]);
                    bytes[80..96].copy_from_slice(&mac);
                }
                other => panic!("unknown edit {other}"),
            }
        }
        bytes
    }

    fn run(&self, backend: Backend, op: &str, input: &Value) -> Answer {
        primitives::run(self, backend, op, input)
            .or_else(|| files::run(self, backend, op, input))
            .or_else(|| names::run(self, backend, op, input))
            .unwrap_or_else(|| panic!("unknown operation {op}"))
    }
}

fn str(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a string, not {value}"))
}

fn u64(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number, not {value}"))
}

fn u32(value: &Value) -> u32 {
    u64(value).try_into().expect("32 bits")
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().map_or_else(Vec::new, |list| list.iter().map(|v| str(v).to_owned()).collect())
}

fn hex(bytes: &[u8]) -> Value {
    json!(HEXLOWER.encode(bytes))
}

fn unhex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(str(value).as_bytes()).unwrap_or_else(|e| panic!("hex, not {value}: {e}"))
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or_else(|_| panic!("{N} bytes, not {}", bytes.len()))
}

fn secret<const N: usize>(bytes: &[u8]) -> SecretKey<N> {
    SecretKey::from_slice(bytes).unwrap_or_else(|| panic!("{N} bytes, not {}", bytes.len()))
}

fn outcome(answer: Answer) -> Value {
    answer.unwrap_or_else(|outcome| json!({ "error": format!("{outcome:?}") }))
}

#[test]
fn every_vector_with_every_backend() {
    let all = Vectors::load();
    let mut ids = BTreeSet::new();
    let (mut positive, mut negative) = (0, 0);
    for vector in &all.vectors {
        assert!(ids.insert(str(&vector["id"])), "{} is there twice", vector["id"]);
        if vector["out"].get("error").is_some() {
            negative += 1;
        } else {
            positive += 1;
        }
        for backend in Backend::ALL {
            let got = match str(&vector["op"]) {
                "volume_open" => volumes::run(&all, backend, &vector["in"]),
                op => outcome(all.run(backend, op, &vector["in"])),
            };
            assert_eq!(got, vector["out"], "{} with {backend}", vector["id"]);
        }
    }
    assert!(ids.len() >= COUNT, "{} vectors, of at least {COUNT}", ids.len());
    assert!(positive > 200 && negative > 200, "{positive} positive, {negative} negative");
}

#[test]
fn every_outcome_has_the_errno_of_the_specification() {
    let all = Vectors::load();
    let listed = all.errno.as_object().expect("an object");
    assert_eq!(listed.len(), Outcome::ALL.len());
    for outcome in Outcome::ALL {
        let name = format!("{outcome:?}");
        let errno = outcome.errno().map(|errno| format!("{errno:?}"));
        let expected = listed[&name].as_str().map(|errno| match errno {
            "EIO" => rustix::io::Errno::IO,
            "EOPNOTSUPP" => rustix::io::Errno::OPNOTSUPP,
            "EACCES" => rustix::io::Errno::ACCESS,
            "ETIMEDOUT" => rustix::io::Errno::TIMEDOUT,
            "E2BIG" => rustix::io::Errno::TOOBIG,
            "EFBIG" => rustix::io::Errno::FBIG,
            "ENOENT" => rustix::io::Errno::NOENT,
            "EINVAL" => rustix::io::Errno::INVAL,
            "ENAMETOOLONG" => rustix::io::Errno::NAMETOOLONG,
            "ERANGE" => rustix::io::Errno::RANGE,
            other => panic!("{name} gives an errno that no test knows: {other}"),
        });
        assert_eq!(errno, expected.map(|errno| format!("{errno:?}")), "{name}");
    }
}
