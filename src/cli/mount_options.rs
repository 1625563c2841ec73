//! `-o` options of `kmsfs mount`, in the form `mount(8)` and fstab write them.

use std::time::Duration;

use super::exit::{CliError, CliResult};
use crate::fuse::Transport;
use crate::keys::CACHE_TIME;

/// A day.
const MAX_KEY_CACHE: u64 = 86_400;

/// The transports by their names.
pub const TRANSPORTS: [(&str, Transport); 4] =
    [("auto", Transport::Auto), ("dev", Transport::Dev), ("uring", Transport::Uring), ("fuser", Transport::Fuser)];

fn transport(name: &str) -> Option<Transport> {
    TRANSPORTS.iter().find(|(known, _)| *known == name).map(|(_, transport)| *transport)
}

/// The options of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Other users than the mounting one may enter.
    pub allow_other: bool,
    /// Nothing may be changed.
    pub read_only: bool,
    /// Set-user-id and set-group-id bits work.
    pub suid: bool,
    /// Device nodes work.
    pub dev: bool,
    /// Programs may be executed.
    pub exec: bool,
    /// How requests travel between kernel and daemon.
    pub transport: Transport,
    /// An unknown volume is shown and entered into the registry.
    pub trust_new_volume: bool,
    /// Nothing is written to files and directories that share an id with another one.
    pub strict_ids: bool,
    /// What is under a KMS key that may not be used any more is closed within seconds, instead of going on while it is open.
    pub strict_keys: bool,
    /// How long the data key of a file that was closed serves its next open.
    pub key_cache: Duration,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: false,
            read_only: false,
            suid: false,
            dev: false,
            exec: true,
            transport: Transport::Auto,
            trust_new_volume: false,
            strict_ids: false,
            strict_keys: false,
            key_cache: CACHE_TIME,
        }
    }
}

impl MountOptions {
    /// Parses `lists`, each a comma-separated list; later options beat earlier ones. A comma within a value is
    /// written as `\,`.
    pub fn parse<S: AsRef<str>>(lists: &[S]) -> CliResult<Self> {
        let mut options = Self::default();
        for list in lists {
            for option in split(list.as_ref()) {
                options.apply(&option)?;
            }
        }
        if options.strict_keys && options.transport == Transport::Fuser {
            return Err(CliError::usage("key-state=strict needs kmsfs's own transport, and not transport=fuser"));
        }
        Ok(options)
    }

    fn apply(&mut self, option: &str) -> CliResult<()> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("allow_other", None) => self.allow_other = true,
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("suid", None) => self.suid = true,
            ("nosuid", None) => self.suid = false,
            ("dev", None) => self.dev = true,
            ("nodev", None) => self.dev = false,
            ("exec", None) => self.exec = true,
            ("noexec", None) => self.exec = false,
            // The backing filesystem keeps access times, by its own options.
            ("atime" | "noatime" | "relatime", None) => {}
            ("key-state", Some("ebs")) => self.strict_keys = false,
            ("key-state", Some("strict")) => self.strict_keys = true,
            ("key-state", Some(other)) => {
                return Err(CliError::usage(format_args!(
                    "key-state={other} is not known; this version has: ebs, strict"
                )));
            }
            ("key-cache", Some(seconds)) => {
                let parsed = seconds.parse().ok().filter(|seconds| *seconds <= MAX_KEY_CACHE);
                let seconds: u64 = parsed.ok_or_else(|| {
                    CliError::usage(format_args!(
                        "key-cache={seconds} is no number of seconds from 0 to {MAX_KEY_CACHE}"
                    ))
                })?;
                self.key_cache = Duration::from_secs(seconds);
            }
            ("transport", Some(name)) => {
                self.transport = transport(name).ok_or_else(|| {
                    let known: Vec<&str> = TRANSPORTS.iter().map(|(known, _)| *known).collect();
                    CliError::usage(format_args!(
                        "transport={name} is not known; this version has: {}",
                        known.join(", ")
                    ))
                })?;
            }
            ("trust-new-volume", None) => self.trust_new_volume = true,
            ("strict_ids", None) => self.strict_ids = true,
            ("remount", None) => {
                return Err(CliError::usage("a mount is changed by mount(8), not by kmsfs mount")
                    .hint("mount -i -o remount,ro MNT"));
            }
            // Always on: the kernel checks modes and ACLs.
            ("default_permissions", None) => {}
            // The name and type in the mount table are kmsfs's own, so that `umount` and `status` find the mount.
            ("fsname" | "subtype", Some(_)) => {}
            // For mount(8), systemd and the distribution's scripts, not for the file system.
            ("defaults" | "auto" | "noauto" | "nofail" | "_netdev" | "user" | "nouser" | "users" | "owner", None) => {}
            _ if name.starts_with("x-") || name.starts_with("X-") || name == "comment" => {}
            _ => {
                return Err(CliError::usage(format_args!("unknown mount option '{option}'"))
                    .hint("kmsfs mount --help lists the options"));
            }
        }
        Ok(())
    }
}

/// The elements of a list in which `\,` is a comma and `\\` a backslash.
pub fn split(list: &str) -> Vec<String> {
    let mut elements = Vec::new();
    let mut element = String::new();
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ (',' | '\\')) => element.push(escaped),
                Some(other) => element.extend(['\\', other]),
                None => element.push('\\'),
            },
            ',' => elements.push(std::mem::take(&mut element)),
            c => element.push(c),
        }
    }
    elements.push(element);
    elements.retain(|e| !e.is_empty());
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_options_win() {
        let options = MountOptions::parse(&["ro,suid,dev", "rw,nosuid,noexec,allow_other"]).expect("valid");
        let expected = MountOptions { dev: true, exec: false, allow_other: true, ..MountOptions::default() };
        assert_eq!(options, expected);
    }

    #[test]
    fn options_for_others_are_ignored() {
        let text =
            "defaults,_netdev,nofail,x-systemd.automount,X-mount.mkdir,fsname=a\\,b,subtype=c,default_permissions,";
        assert_eq!(MountOptions::parse(&[text]).expect("valid"), MountOptions::default());
    }

    #[test]
    fn a_transport_has_a_name() {
        let options = MountOptions::parse(&["transport=dev,transport=fuser"]).expect("valid");
        assert_eq!(options.transport, Transport::Fuser);
    }

    #[test]
    fn keys_have_a_state_and_a_time() {
        let options = MountOptions::parse(&["key-state=strict,key-cache=0"]).expect("valid");
        assert_eq!((options.strict_keys, options.key_cache), (true, Duration::ZERO));
        assert!(!MountOptions::parse(&["key-state=strict,key-state=ebs"]).expect("valid").strict_keys);
        assert!(MountOptions::parse(&["key-state=strict,transport=fuser"]).is_err());
    }

    #[test]
    fn unknown_options_are_named() {
        for bad in [
            "allow_oter",
            "ro=1",
            "key-state=lax",
            "key-state",
            "transport=pigeon",
            "transport",
            "key-cache=",
            "key-cache=-1",
            "key-cache=86401",
        ] {
            let e = MountOptions::parse(&[bad]).expect_err(bad);
            assert!(e.message.contains(bad), "{}", e.message);
        }
    }

    #[test]
    fn commas_can_be_escaped() {
        assert_eq!(split(r"a=1\,2,b\\,c\d,,"), ["a=1,2", "b\\", "c\\d"]);
    }
}
