//! kmsfs as `mount(8)`'s helper: `/sbin/mount.kmsfs` (and `mount.fuse.kmsfs`) are links to the program, called as
//! `mount.kmsfs SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]` (mount(8), EXTERNAL HELPERS).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount_remount};

use super::exit::{CliError, CliResult, Exit};
use super::mount_options::{MountOptions, split};
use super::mounts;

/// Options of a mount table that are flags of `kmsfs mount`; everything else stays in `-o`.
const FLAGS: [&str; 8] =
    ["key", "kms-home", "region", "log-level", "log-file", "config", "passphrase-file", "passphrase-command"];

/// What a call as mount helper means.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// The command line of `kmsfs mount`.
    Command(Vec<OsString>),
    /// New flags for a mount that exists.
    Remount(Remount),
}

/// `mount -o remount,...`.
#[derive(Debug, PartialEq, Eq)]
pub struct Remount {
    mountpoint: PathBuf,
    options: MountOptions,
}

/// The action behind `args`, if the program was called as a mount helper.
pub fn translate(args: &[OsString]) -> Option<CliResult<Action>> {
    let name = Path::new(args.first()?).file_name()?.to_str()?;
    matches!(name, "mount.kmsfs" | "mount.fuse.kmsfs").then(|| parse(&args[1..]))
}

fn parse(args: &[OsString]) -> CliResult<Action> {
    let mut operands: Vec<&OsString> = Vec::new();
    let mut lists = Vec::new();
    let mut verbose = false;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let text = arg.to_str().unwrap_or("");
        match text {
            "-o" | "-t" | "-N" => {
                let value = rest.next().ok_or_else(|| CliError::usage(format_args!("{text} needs a value")))?;
                if text == "-o" {
                    let list = value.to_str().ok_or_else(|| CliError::usage("mount options are not valid UTF-8"))?;
                    lists.extend(split(list));
                }
            }
            _ if text.starts_with('-') && text.len() > 1 => {
                if let Some(bad) = text.chars().skip(1).find(|c| !"sfnv".contains(*c)) {
                    return Err(CliError::usage(format_args!("unknown option -{bad} of the mount helper")));
                }
                if text.contains('f') {
                    return Err(CliError::usage("a mount cannot be faked (-f)"));
                }
                verbose |= text.contains('v');
            }
            _ => operands.push(arg),
        }
    }
    let [source, mountpoint] = operands[..] else {
        return Err(CliError::usage("usage: mount.kmsfs SOURCE MOUNTPOINT [-sfnv] [-o OPTIONS]"));
    };
    let (flags, options): (Vec<String>, Vec<String>) = lists.into_iter().partition(|option| is_flag(option));
    let escaped: Vec<String> = options.iter().map(|o| o.replace('\\', "\\\\").replace(',', "\\,")).collect();
    let parsed = MountOptions::parse(&escaped)?;
    if parsed.remount {
        return Ok(Action::Remount(Remount { mountpoint: PathBuf::from(mountpoint), options: parsed }));
    }
    let mut command: Vec<OsString> = ["kmsfs", "mount", "--daemon"].map(OsString::from).to_vec();
    command.extend(flags.iter().map(|flag| OsString::from(format!("--{flag}"))));
    if verbose && !flags.iter().any(|f| f.starts_with("log-level=")) {
        command.push("--log-level=debug".into());
    }
    if !escaped.is_empty() {
        command.extend([OsString::from("-o"), OsString::from(escaped.join(","))]);
    }
    command.extend([OsStr::new("--").to_owned(), source.clone(), mountpoint.clone()]);
    Ok(Action::Command(command))
}

fn is_flag(option: &str) -> bool {
    option.split_once('=').is_some_and(|(name, _)| FLAGS.contains(&name))
}

impl Remount {
    /// Changes the flags of the mount in the kernel; the daemon goes on.
    pub fn run(&self) -> CliResult {
        let path = std::fs::canonicalize(&self.mountpoint).map_err(|e| {
            CliError::new(Exit::Mountpoint, "NotMounted", format_args!("{}: {e}", self.mountpoint.display()))
        })?;
        match mounts::at(&path) {
            Ok(Some(mount)) if mount.is_kmsfs() => {}
            Ok(_) => {
                let message = format!("{} is not a kmsfs mount", path.display());
                return Err(CliError::new(Exit::Mountpoint, "NotMounted", message));
            }
            Err(e) => return Err(CliError::io("/proc/self/mountinfo", "read", &e)),
        }
        mount_remount(&path, self.flags(), c"").map_err(|e| CliError::io(&path, "remount", &e.into()))?;
        Ok(Exit::Ok)
    }

    fn flags(&self) -> MountFlags {
        let o = &self.options;
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, o.read_only);
        flags.set(MountFlags::NOSUID, !o.suid);
        flags.set(MountFlags::NODEV, !o.dev);
        flags.set(MountFlags::NOEXEC, !o.exec);
        flags.set(MountFlags::NOATIME, !o.atime);
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Option<CliResult<Action>> {
        translate(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn fstab_options_become_flags() {
        let action = call("/sbin/mount.kmsfs /c /m -n -o rw,key=alias/a,kms-home=/k,allow_other,x-systemd.automount");
        let Some(Ok(Action::Command(args))) = action else { panic!("{action:?}") };
        let text: Vec<&str> = args.iter().map(|a| a.to_str().expect("ASCII")).collect();
        let expected = [
            "kmsfs",
            "mount",
            "--daemon",
            "--key=alias/a",
            "--kms-home=/k",
            "-o",
            "rw,allow_other,x-systemd.automount",
            "--",
            "/c",
            "/m",
        ];
        assert_eq!(text, expected);
    }

    #[test]
    fn remount_changes_flags_only() {
        let action = call("mount.fuse.kmsfs /c /m -o rw,remount,ro,suid,dev");
        let Some(Ok(Action::Remount(remount))) = action else { panic!("{action:?}") };
        assert_eq!(remount.mountpoint, Path::new("/m"));
        assert_eq!(remount.flags(), MountFlags::RDONLY);
    }

    #[test]
    fn other_names_are_no_helper() {
        assert_eq!(call("/usr/bin/kmsfs mount /c /m").map(|_| ()), None);
        for bad in ["mount.kmsfs /c", "mount.kmsfs /c /m -o bogus", "mount.kmsfs /c /m -q", "mount.kmsfs /c /m -f"] {
            let error = call(bad).expect("a helper").expect_err(bad);
            assert_eq!(error.exit, Exit::Usage, "{bad}");
        }
    }
}
