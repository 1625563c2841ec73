//! `kmsfs doctor`: what this computer needs for kmsfs, each point with its remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::exit::{CliError, CliResult, Exit};
use super::output::write_stderr;
use super::session::Session;
use super::settings::Settings;
use crate::crypto::secret::SecretKey;
use crate::env::{Clock, SystemClock, SystemEntropy};
use crate::kms::audit::{AuditBreak, AuditLog, AuditReport};
use crate::kms::custody::Home;
use crate::sys::arena;
use crate::types::Timestamp;

/// Memory for keys that the limit should allow to lock.
const WANTED_MEMLOCK: u64 = 1 << 20;
/// Descriptors that a busy mount needs.
const WANTED_NOFILE: u64 = 4096;
/// A clock before this has not been set: 2026-01-01.
const EARLIEST: Timestamp = Timestamp::from_secs(1_767_225_600);

/// Check kernel, permissions, limits and key manager, and say how to fix what is wrong
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Accept the key manager's database as it is, after you restored it from a backup yourself: keys that were
    /// disabled, rotated or deleted since are as they were then
    #[arg(long)]
    accept_database: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Problem,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    level: Level,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, found: found.into(), fix: None }
    }

    fn new(name: &'static str, level: Level, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, level, found: found.into(), fix: Some(fix.into()) }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    healthy: bool,
    checks: &'a [Check],
}

/// Runs the command: exit 3 if there is a problem.
pub fn run(settings: &Settings, args: &DoctorArgs) -> CliResult {
    if args.accept_database {
        Session::open_accepting(settings)?;
        settings.out.note("The key manager's database is accepted as it is.");
    }
    let checks: Vec<Check> = [kernel(), fuse_device(), rings(), fusermount(), processor(), memory(), nofile(), clock()]
        .into_iter()
        .chain(key_manager(settings))
        .collect();
    let healthy = checks.iter().all(|c| c.level != Level::Problem);
    settings
        .out
        .result(&Report { healthy, checks: &checks }, || checks.iter().map(words).collect::<Vec<_>>().join("\n"));
    if !healthy && !settings.out.is_json() {
        write_stderr("There are problems; see the lines marked PROBLEM.");
    }
    Ok(if healthy { Exit::Ok } else { Exit::Findings })
}

fn words(check: &Check) -> String {
    let mark = match check.level {
        Level::Ok => "ok     ",
        Level::Warning => "warning",
        Level::Problem => "PROBLEM",
    };
    let mut text = format!("{mark}  {}: {}", check.name, check.found);
    if let Some(fix) = &check.fix {
        text.push_str(&format!("\n         fix: {fix}"));
    }
    text
}

fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    // openat2 (5.6) guards every path into the ciphertext directory.
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 6) {
        Check::ok("kernel", release)
    } else {
        Check::new("kernel", Level::Problem, release, "kmsfs needs Linux 5.6 or newer")
    }
}

fn fuse_device() -> Check {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Check::ok("/dev/fuse", "can be opened"),
        Err(e) => Check::new(
            "/dev/fuse",
            Level::Problem,
            format!("cannot be opened: {e}"),
            "load the module with `modprobe fuse`; in a container give it the device (--device /dev/fuse --cap-add SYS_ADMIN)",
        ),
    }
}

fn rings() -> Check {
    // Nothing is missing without them: no warning.
    let found = match crate::fuse::rings_available() {
        Ok(()) => "can carry requests (-o transport=uring)".to_owned(),
        Err(e) => format!("not available, requests come through /dev/fuse: {e}"),
    };
    Check::ok("io_uring", found)
}

fn fusermount() -> Check {
    if rustix::process::geteuid().is_root() {
        return Check::ok("fusermount3", "not needed by root");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).map(|dir| dir.join("fusermount3")).find(|p| p.is_file()) {
        Some(found) if fs::metadata(&found).is_ok_and(|m| m.permissions().mode() & 0o4000 != 0) => {
            Check::ok("fusermount3", found.display().to_string())
        }
        Some(found) => Check::new(
            "fusermount3",
            Level::Problem,
            format!("{} is not set-user-id root", found.display()),
            "reinstall the package fuse3",
        ),
        None => Check::new("fusermount3", Level::Problem, "is not installed", "install the package fuse3"),
    }
}

fn processor() -> Check {
    #[cfg(target_arch = "x86_64")]
    let fast = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let fast = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let fast = false;
    if fast {
        Check::ok("processor", "has AES and carry-less multiplication")
    } else {
        Check::new(
            "processor",
            Level::Warning,
            "has no AES instructions",
            "encryption will be slow; in a virtual machine pass the host's CPU through",
        )
    }
}

fn memory() -> Check {
    // A first key makes the arena show whether it can lock memory.
    drop(SecretKey::<32>::random(&SystemEntropy));
    let state = arena::state();
    let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    if state.unlocked_bytes > 0 {
        Check::new(
            "locked memory",
            Level::Problem,
            "keys cannot be kept out of the swap",
            "raise the limit: ulimit -l 1024, or LimitMEMLOCK=1M in the service",
        )
    } else if limit < WANTED_MEMLOCK {
        Check::new(
            "locked memory",
            Level::Warning,
            format!("the limit is {} KiB", limit / 1024),
            "with many open files raise it: ulimit -l 1024, or LimitMEMLOCK=1M in the service",
        )
    } else {
        Check::ok("locked memory", "keys stay out of the swap")
    }
}

fn nofile() -> Check {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if limit >= WANTED_NOFILE {
        Check::ok("open files", if limit == u64::MAX { "unlimited".to_owned() } else { format!("up to {limit}") })
    } else {
        let fix = format!("raise the hard limit: ulimit -Hn {WANTED_NOFILE}, or LimitNOFILE={WANTED_NOFILE}");
        Check::new("open files", Level::Warning, format!("up to {limit}"), fix)
    }
}

fn clock() -> Check {
    let now = SystemClock.now();
    if now >= EARLIEST {
        Check::ok("clock", now.to_string())
    } else {
        Check::new(
            "clock",
            Level::Problem,
            format!("{now} lies in the past"),
            "set it: key rotation and deletion go by it",
        )
    }
}

fn key_manager(settings: &Settings) -> Vec<Check> {
    const NAME: &str = "key manager";
    let home = &settings.home;
    let exists = match Home::exists(home) {
        Ok(exists) => exists,
        Err(error) => return vec![failed(NAME, error.into())],
    };
    if !exists {
        let found = format!("there is none at {}", home.display());
        let fix = "a first kmsfs init or kmsfs mount creates it. For volumes that exist already name the one that they were \
                   made with: --kms-home DIR or KMSFS_HOME; if it is lost, put it back from a backup (kmsfs kms restore FILE \
                   restores its database), or use a recovery bundle: kmsfs recover BUNDLE DIR";
        return vec![Check::new(NAME, Level::Warning, found, fix)];
    }
    let mut checks = vec![private(home, 0o077), private(&home.join("domain.key"), 0o077)];
    checks.retain(|c| !c.found.is_empty());
    match Session::open_quietly(settings) {
        None => {
            checks.push(Check::ok(NAME, format!("{} (locked; doctor asks for no passphrase)", home.display())));
        }
        Some(Ok(session)) => {
            let (account, region) = (session.engine.account(), session.engine.region());
            checks.push(Check::ok(NAME, format!("{} opens (account {account}, Region {region})", home.display())));
            checks.push(audit_log(session.engine.audit()));
        }
        Some(Err(e)) => checks.push(failed(NAME, e)),
    }
    checks
}

fn failed(name: &'static str, e: CliError) -> Check {
    Check::new(name, Level::Problem, e.message, e.hint.unwrap_or_else(|| "see docs/KMS.md".to_owned()))
}

/// The whole chain, from its first record to its head in the database: while that is gone or forged no call is answered.
fn audit_log(log: &AuditLog) -> Check {
    const NAME: &str = "audit log";
    match log.verify() {
        Ok(AuditReport { first_break: None, records, .. }) => Check::ok(NAME, format!("{records} records, intact")),
        Ok(AuditReport { first_break: Some(AuditBreak { file, line, reason }), .. }) => Check::new(
            NAME,
            Level::Problem,
            format!("broken at {} line {line}: {reason}", file.display()),
            "compare it with a backup (kmsfs audit verify); if the break is known and cannot be mended: kmsfs audit accept",
        ),
        Err(e) => failed(NAME, e.into()),
    }
}

/// Whether only its owner can read `path`; an empty finding if it does not exist.
fn private(path: &Path, forbidden: u32) -> Check {
    const NAME: &str = "permissions";
    match fs::metadata(path) {
        Err(_) => Check::ok(NAME, ""),
        Ok(meta) if meta.permissions().mode() & forbidden == 0 => {
            Check::ok(NAME, PathBuf::from(path).display().to_string())
        }
        Ok(meta) => Check::new(
            NAME,
            Level::Problem,
            format!("{} has mode {:o}: others can read it", path.display(), meta.permissions().mode() & 0o7777),
            format!("chmod go= {}", path.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::Engine;
    use crate::kms::custody::{NewHome, NewSlot};
    use crate::sync::Arc;

    #[test]
    fn a_broken_audit_log_is_a_problem() {
        for (harm, expected) in [
            ("", None),
            ("DELETE FROM audit_head", Some("is gone")),
            ("UPDATE audit_head SET mac = zeroblob(32)", Some("has a wrong MAC")),
        ] {
            let dir = tempfile::tempdir().expect("temporary directory");
            let path = dir.path().join("kms");
            let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
            let (home, _) = Home::create(&path, new, &SystemClock, &SystemEntropy).expect("a home");
            let engine = Engine::start(home, Arc::new(SystemClock), Arc::new(SystemEntropy)).expect("started");
            engine.audit().flush().expect("written");
            rusqlite::Connection::open(path.join("kms.db")).and_then(|db| db.execute_batch(harm)).expect("harmed");
            let check = audit_log(engine.audit());
            match expected {
                None => assert_eq!((check.level, &*check.found), (Level::Ok, "1 records, intact")),
                Some(reason) => {
                    assert_eq!(check.level, Level::Problem);
                    assert!(check.found.contains(reason) && words(&check).contains("fix: "), "{}", words(&check));
                }
            }
        }
    }

    #[test]
    fn open_permissions_are_a_problem() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("domain.key");
        assert_eq!(private(&path, 0o077).found, "");
        fs::write(&path, b"k").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let check = private(&path, 0o077);
        assert_eq!(check.level, Level::Problem);
        assert!(words(&check).contains("fix: chmod go="));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        assert_eq!(private(&path, 0o077).level, Level::Ok);
    }
}
