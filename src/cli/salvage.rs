//! `kmsfs verify --salvage`: what authenticates of a damaged volume, written elsewhere.

use std::path::Path;

use serde_json::{Value, json};

use super::exit::{CliError, CliResult, Exit};
use super::offline::{self, finding_json, finding_words};
use super::output::{bytes, path_text};
use super::progress::Shown;
use super::settings::Settings;
use crate::content::Volume;
use crate::ops::modes_without_lock;
use crate::ops::salvage::{Incomplete, SalvageError, SalvageReport, salvage};
use crate::sync::Arc;

/// Writes what authenticates of the volume at `dir` to `out`: exit 3 if anything is lost.
pub fn run(
    settings: &Settings,
    (dir, out): (&Path, &Path),
    volume: &Arc<Volume>,
    threads: usize,
    progress: &Shown,
) -> CliResult {
    let modes = modes_without_lock(offline::backing(dir)?, dir, "salvage");
    let report = salvage(&modes, volume, out, threads, progress).map_err(|e| match e {
        SalvageError::NotEmpty => CliError::usage(format_args!("--salvage {}: {e}", out.display())),
        SalvageError::Out(errno) => CliError::io(out, "write to", &errno.into())
            .hint("what was written so far is there; make room and salvage to another, empty directory"),
        SalvageError::Backing(errno) => CliError::io(dir, "read", &errno.into()),
    })?;
    progress.finish();
    settings.out.result(&to_json(dir, out, &report), || words(out, &report));
    if report.interrupted {
        return Err(progress.interrupted(&format!(
            "kmsfs verify {} --salvage OUT, with another empty directory (it starts from the beginning)",
            dir.display()
        )));
    }
    let sound = report.incomplete.is_empty() && report.findings.is_empty();
    Ok(if sound { Exit::Ok } else { Exit::Findings })
}

fn to_json(dir: &Path, out: &Path, report: &SalvageReport) -> Value {
    json!({
        "directory": path_text(dir),
        "out": path_text(out),
        "complete": !report.interrupted,
        "directories": report.directories,
        "files": report.files,
        "others": report.others,
        "bytes": report.bytes,
        "lost_bytes": report.lost,
        "incomplete": report.incomplete.iter().map(incomplete_json).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
    })
}

fn incomplete_json(file: &Incomplete) -> Value {
    json!({
        "path": file.paths.plaintext.as_deref().map(|p| String::from_utf8_lossy(p)),
        "ciphertext_path": String::from_utf8_lossy(&file.paths.ciphertext),
        "out_path": String::from_utf8_lossy(&file.out),
        "size": file.size,
        "holes": file.holes.iter().map(|hole| json!({
            "offset": hole.offset,
            "length": hole.len,
            "outcome": hole.reason.code(),
            "reason": hole.reason.to_string(),
        })).collect::<Vec<_>>(),
        "outcomes": file.doubts.iter().map(crate::ops::Reason::code).collect::<Vec<_>>(),
    })
}

fn words(out: &Path, report: &SalvageReport) -> String {
    let mut text = String::new();
    for file in &report.incomplete {
        let lost: u64 = file.holes.iter().map(|hole| hole.len).sum();
        let path = String::from_utf8_lossy(&file.out).escape_debug().to_string();
        text.push_str(&format!("{path}  {} of {} bytes lost\n", lost, file.size));
        for doubt in &file.doubts {
            text.push_str(&format!("    {doubt}\n"));
        }
        for hole in &file.holes {
            text.push_str(&format!("    {} bytes at {}: {}\n", hole.len, hole.offset, hole.reason));
        }
    }
    text.extend(report.findings.iter().map(|finding| finding_words(finding) + "\n"));
    text.push_str(&format!(
        "Wrote {} files ({}) in {} directories and {} other objects to {}; {} lost.",
        report.files,
        bytes(report.bytes),
        report.directories,
        report.others,
        out.display(),
        bytes(report.lost)
    ));
    text
}
