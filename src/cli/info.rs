//! `kmsfs info`: what a file or volume tells without any key.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::exit::{CliError, CliResult, Exit};
use super::mounts;
use super::output::{bytes, fields, path_text};
use super::settings::Settings;
use crate::format::Outcome;
use crate::format::name::NameForm;
use crate::format::volume::{DefaultWrap, VolumeConfig};
use crate::kms::blob;
use crate::ops::info::{FileInfo, HeaderFacts, InfoError, file_info};
use crate::ops::lock;
use crate::ops::open::FoundVolume;

/// Show the keys, ids and sizes of a file, or the settings of a volume; needs no key
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// A ciphertext file, a file in a mounted volume, or the directory of a volume
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

const WHAT: &str =
    "name a file of a volume's ciphertext directory, a file in a mounted volume, or the directory of a volume";

/// Runs the command.
pub fn run(settings: &Settings, args: &InfoArgs) -> CliResult {
    let path = &args.path;
    if path.is_dir() {
        return volume(settings, path);
    }
    let ciphertext = behind_mount(path)?;
    let stored = ciphertext.as_deref().unwrap_or(path);
    let info = file_info(stored, &|wrapped| blob::material_id(wrapped)).map_err(|e| refused(path, &e))?;
    settings.out.result(&file_json(path, stored, &info), || file_words(path, stored, &info));
    Ok(Exit::Ok)
}

fn refused(path: &Path, e: &InfoError) -> CliError {
    let (exit, code) = match e {
        // Nobody said that it was one.
        InfoError::Format(Outcome::NotKfs) => (Exit::Failure, "NotKfs".to_owned()),
        InfoError::Format(outcome) => (Exit::Integrity, format!("{outcome:?}")),
        InfoError::NotAFile => (Exit::Failure, "NotAFile".to_owned()),
        InfoError::Io(e) if e.kind() == std::io::ErrorKind::PermissionDenied => (Exit::AccessDenied, "Io".to_owned()),
        InfoError::Io(_) => (Exit::Failure, "Io".to_owned()),
    };
    let error = CliError::new(exit, code, format_args!("{}: {e}", path.display()));
    match e {
        InfoError::Format(Outcome::NotKfs) | InfoError::NotAFile => error.hint(WHAT),
        InfoError::Io(e) if e.kind() == std::io::ErrorKind::NotFound => error.hint(WHAT),
        _ => error,
    }
}

/// The ciphertext file behind a path inside a mount, found by its inode number, which the mount passes through; the
/// names need a key, inode numbers do not.
fn behind_mount(path: &Path) -> CliResult<Option<PathBuf>> {
    let Ok(resolved) = fs::canonicalize(path) else { return Ok(None) };
    let Ok(Some(mount)) = mounts::containing(&resolved) else { return Ok(None) };
    let inode = fs::metadata(&resolved).map_err(|e| CliError::io(path, "query", &e))?.ino();
    let depth = resolved.strip_prefix(&mount.mountpoint).map_or(0, |rest| rest.components().count());
    match find_inode(&mount.source, inode, depth) {
        Some(found) => Ok(Some(found)),
        None => Err(CliError::failure(format_args!(
            "the ciphertext of {} was not found in {}",
            path.display(),
            mount.source.display()
        ))
        .hint("name the ciphertext file itself, or run this as the user who mounted")),
    }
}

/// The regular file with `inode` exactly `depth` levels below `dir`.
fn find_inode(dir: &Path, inode: u64, depth: usize) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(dir).ok()?.flatten().collect();
    if depth <= 1 {
        return entries.iter().find(|e| e.metadata().is_ok_and(|m| m.ino() == inode && m.is_file())).map(|e| e.path());
    }
    let dirs = entries.iter().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    dirs.map(|e| e.path()).find_map(|child| find_inode(&child, inode, depth - 1))
}

fn file_json(path: &Path, stored: &Path, info: &FileInfo) -> Value {
    let mut value = json!({
        "path": path_text(path),
        "ciphertext_path": path_text(stored),
        "stored_size": info.stored_size,
        "plain_size": info.plain_size,
    });
    if let Some(h) = &info.header {
        value["file_id"] = json!(h.file_id.to_string());
        value["volume_id"] = json!(h.volume_id.to_string());
        value["aead_id"] = json!(h.aead_id);
        value["header_size"] = json!(h.header_len);
        value["unfinished_rewrap"] = json!(h.slots.len() > 1);
        value["slots"] = h.slots.iter().map(slot_json).collect();
    }
    value
}

fn slot_json(slot: &crate::ops::info::SlotFacts) -> Value {
    let recipients = slot.recipients.iter().map(|r| {
        json!({
            "scheme": r.scheme,
            "key": r.key,
            "key_material_id": r.material_id,
            "wrapped_key_size": r.wrapped_len,
            "created": r.created.to_string(),
        })
    });
    json!({"generation": slot.generation, "recipients": recipients.collect::<Vec<_>>()})
}

fn file_words(path: &Path, stored: &Path, info: &FileInfo) -> String {
    let plain =
        info.plain_size.map_or_else(|| "not a size that kmsfs makes".to_owned(), |n| format!("{n} ({})", bytes(n)));
    let mut pairs = vec![("path", path.display().to_string())];
    if stored != path {
        pairs.push(("ciphertext", stored.display().to_string()));
    }
    pairs.push(("plaintext size", plain));
    pairs.push(("stored size", format!("{} ({})", info.stored_size, bytes(info.stored_size))));
    match &info.header {
        None => pairs.push(("header", "none: an empty file has no key".to_owned())),
        Some(header) => header_words(header, &mut pairs),
    }
    fields(&pairs)
}

fn header_words(header: &HeaderFacts, pairs: &mut Vec<(&'static str, String)>) {
    pairs.push(("file id", header.file_id.to_string()));
    pairs.push(("volume id", header.volume_id.to_string()));
    if header.slots.is_empty() {
        pairs.push(("wrapped key", "none that is valid: the header is damaged".to_owned()));
    }
    if header.slots.len() > 1 {
        pairs.push(("rewrap", "unfinished: both keys below open the file".to_owned()));
    }
    for slot in &header.slots {
        pairs.push(("generation", slot.generation.to_string()));
        for r in &slot.recipients {
            pairs.push(("key", r.key.clone()));
            pairs.push(("key material", r.material_id.clone().unwrap_or_default()));
            pairs.push(("wrapped key", format!("{} bytes ({}), {}", r.wrapped_len, r.scheme, r.created)));
        }
    }
}

fn volume(settings: &Settings, root: &Path) -> CliResult {
    let found = FoundVolume::find(root)?;
    let config = found.config();
    let owner = lock::owner(root).map_err(|e| CliError::io(root, "query the lock of", &e))?;
    let wrap = match &config.default_wrap {
        DefaultWrap::Direct(key) => key.to_string(),
        DefaultWrap::Branch { branch_id, version } => format!("branch {branch_id} version {version}"),
    };
    let keys: Vec<&str> = config.allowed_keys.iter().map(crate::types::KeyArn::as_str).collect();
    let value = json!({
        "directory": path_text(root),
        "volume_id": config.volume_id.to_string(),
        "label": config.label,
        "config_seq": config.config_seq,
        "key_arn": wrap,
        "allowed_keys": keys,
        "header_pages": config.geometry.header_pages(),
        "short_name_max": config.short_max,
        "features": features(config),
        "root_key_commitment": HEXLOWER.encode(&found.commit()),
        "in_use_by": owner.as_ref().map(|o| json!({"host": o.host, "pid": o.pid, "purpose": o.purpose})),
    });
    let names = match config.name_form() {
        NameForm::Encrypted => "encrypted",
        NameForm::Plain => "plain: whoever sees the ciphertext can read them",
    };
    settings.out.result(&value, || {
        fields(&[
            ("volume", config.volume_id.to_string()),
            ("label", config.label.clone().unwrap_or_default()),
            ("directory", root.display().to_string()),
            ("names", names.to_owned()),
            ("new files under", wrap),
            ("allowed keys", keys.join(" ")),
            ("configuration", format!("number {}", config.config_seq)),
            ("root key", HEXLOWER.encode(&found.commit())),
            (
                "in use by",
                owner.map_or_else(|| "nobody".to_owned(), |o| format!("{} {} ({})", o.host, o.pid, o.purpose)),
            ),
        ])
    });
    settings.out.note("Nothing of this is authenticated before the volume is mounted or verified.");
    Ok(Exit::Ok)
}

fn features(config: &VolumeConfig) -> Vec<&'static str> {
    let plain = (config.name_form() == NameForm::Plain).then_some("plain_names");
    let regular = config.dir_meta_file().then_some("dir_meta_file");
    plain.into_iter().chain(regular).collect()
}
