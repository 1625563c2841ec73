//! Volume files and the registry.

use kmsfs::crypto::aead::Backend;
use kmsfs::format::Outcome;
use kmsfs::format::name::NameForm;
use kmsfs::format::volume::{DefaultWrap, OpenedVolume, RegistryRow, VolumeFile};
use serde_json::{Value, json};

use super::toy::ToyKms;
use super::{Vectors, array, hex, str, strings, u64, unhex};

/// Every answer tells how many KMS calls it took, errors included.
pub fn run(all: &Vectors, backend: Backend, i: &Value) -> Value {
    let mut kms = ToyKms::new(all, backend, i);
    let mut out = match open(all, backend, i, &mut kms) {
        Ok(opened) => describe(&opened, &mut kms),
        Err(outcome) => json!({ "error": format!("{outcome:?}") }),
    };
    out["kms_calls"] = json!(kms.calls);
    out
}

fn open(all: &Vectors, backend: Backend, i: &Value, kms: &mut ToyKms) -> Result<OpenedVolume, Outcome> {
    let file = VolumeFile::parse(&all.edited(i))?;
    let id = hex(file.config().volume_id.as_bytes());
    let row = i["registry"].as_array().expect("a list").iter().find(|row| row["volume_id"] == id);
    let row = row.map(|row| RegistryRow {
        commit: array(&unhex(&row["commit"])),
        pinned: strings(&row["pinned"]).iter().map(|arn| arn.parse().expect("an ARN")).collect(),
        config_seq: u64(&row["config_seq"]),
    });
    file.open(backend, row.as_ref(), &mut |key, blob, context| kms.decrypt(key, blob, context))
}

fn describe(opened: &OpenedVolume, kms: &mut ToyKms) -> Value {
    let config = &opened.config;
    let branches: Vec<Value> =
        config.branches.iter().map(|b| json!([hex(b.branch_id.as_bytes()), b.version])).collect();
    let mut out = json!({
        "volume_id": hex(config.volume_id.as_bytes()),
        "pages": config.geometry.header_pages(),
        "allowed": opened.allowed.keys().iter().map(|key| key.as_str()).collect::<Vec<_>>(),
        "short_max": config.short_max,
        "read_only": config.read_only(),
        "config_seq": config.config_seq,
        "dir_meta_file": config.dir_meta_file(),
        "plain_names": config.name_form() == NameForm::Plain,
        "branches": branches,
    });
    match &config.default_wrap {
        DefaultWrap::Direct(key) => out["default"] = json!({ "mode": "direct", "key": key.as_str() }),
        DefaultWrap::Branch { branch_id, version } => {
            out["default"] = json!({ "mode": "branch", "branch_id": hex(branch_id.as_bytes()), "version": version });
            let key = opened.open_default_branch(&mut |key, blob, context| kms.decrypt(key, blob, context));
            out["create"] = match key {
                Ok(branch) => hex(branch.expect("the default is a branch").prk().expose()),
                Err(outcome) => json!(format!("{outcome:?}")),
            };
        }
    }
    out
}

/// Writers make the bytes of the reference: each volume file that a reader opens, encoded again.
#[test]
fn volume_files_are_the_references() {
    let all = Vectors::load();
    let mut seen = 0;
    for vector in &all.vectors {
        let input = &vector["in"];
        if str(&vector["op"]) != "volume_open" || input.get("edits").is_some() {
            continue;
        }
        let mut kms = ToyKms::new(&all, Backend::Ring, input);
        let Ok(opened) = open(&all, Backend::Ring, input, &mut kms) else { continue };
        let encoded = opened.config.encode(&opened.keys).expect("legal");
        assert!(encoded == all.edited(input), "{}", vector["id"]);
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} volume files were compared");
}
