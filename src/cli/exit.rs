//! Exit codes and the error that every command ends with.

use std::fmt;
use std::process::ExitCode;

use serde_json::{Value, json};

/// The exit codes of `kmsfs`. They are an interface: documented in `docs/CLI.md`, never renumbered. A caller treats a
/// code that it does not know as a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// A failure without a code of its own.
    Failure = 1,
    /// The command line or the configuration file is wrong; nothing was done.
    Usage = 2,
    /// The work was done, and there are findings, or a part was left out. The report names each.
    Findings = 3,
    /// There is no volume, or no key manager, where one was named.
    NotInitialised = 10,
    /// Somebody else holds the volume or the mountpoint.
    Busy = 11,
    /// The passphrase, recovery key or key file does not open the key manager.
    WrongPassphrase = 12,
    /// The KMS key is disabled, pending deletion or otherwise in a state that forbids the operation.
    KeyUnusable = 13,
    /// The key manager gave no answer.
    KmsUnavailable = 14,
    /// Policy or file permissions forbid it.
    AccessDenied = 15,
    /// Something that was to be authenticated is not authentic.
    Integrity = 16,
    /// The mountpoint cannot be used.
    Mountpoint = 20,
    /// Interrupted by a signal; a long job can be resumed by the same command.
    Interrupted = 130,
}

impl Exit {
    /// Every code, in ascending order.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Failure,
        Self::Usage,
        Self::Findings,
        Self::NotInitialised,
        Self::Busy,
        Self::WrongPassphrase,
        Self::KeyUnusable,
        Self::KmsUnavailable,
        Self::AccessDenied,
        Self::Integrity,
        Self::Mountpoint,
        Self::Interrupted,
    ];

    /// The number the process ends with.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed: for scripts a stable code, for people what happened and what to run next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// The code the process ends with.
    pub exit: Exit,
    /// A stable word: AWS's error name where the key manager refused, FORMAT.md's outcome where the format did.
    pub code: String,
    /// What happened and why.
    pub message: String,
    /// What to do or run next.
    pub hint: Option<String>,
}

impl CliError {
    /// An error with `code` and `message`, without a hint.
    pub fn new(exit: Exit, code: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { exit, code: code.into(), message: message.to_string(), hint: None }
    }

    /// A wrong command line.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, "Usage", message)
    }

    /// A failure without a code of its own.
    pub fn failure(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failure, "Failure", message)
    }

    /// An I/O error on `path`.
    pub fn io(path: impl AsRef<std::path::Path>, what: &str, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::AccessDenied,
            _ => Exit::Failure,
        };
        let failed = Self::new(exit, "Io", format_args!("cannot {what} {}: {error}", path.as_ref().display()));
        Self { hint: remedy(error).map(str::to_owned), ..failed }
    }

    /// A thread that could not be started.
    pub fn no_thread(error: &std::io::Error) -> Self {
        let failed = Self::failure(format_args!("cannot start a thread: {error}"));
        Self { hint: thread_remedy(error).map(str::to_owned), ..failed }
    }

    /// The error as scripts get it.
    pub fn to_json(&self) -> Value {
        let mut object = json!({
            "message_type": "error",
            "code": self.code,
            "message": self.message,
            "exit_code": self.exit.code(),
        });
        if let Some(hint) = &self.hint {
            object["hint"] = json!(hint);
        }
        object
    }

    /// The error that [`Self::to_json`] wrote; `None` for anything else. An exit code of a later version is a failure.
    pub fn from_json(object: &Value) -> Option<Self> {
        let text = |name: &str| object.get(name)?.as_str().map(str::to_owned);
        let number = object.get("exit_code")?.as_u64()?;
        let exit = Exit::ALL.into_iter().find(|exit| u64::from(exit.code()) == number).unwrap_or(Exit::Failure);
        Some(Self { exit, code: text("code")?, message: text("message")?, hint: text("hint") })
    }

    /// The same error with what to run next.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// What to do where the system lacks something, whatever it was wanted for.
pub fn remedy(error: &std::io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::ENOSPC => "make room on that filesystem (df shows how much there is), then run the same command again",
        libc::EDQUOT => "the quota there is used up: make room, or have it raised; then run the same command again",
        libc::EMFILE => "raise the limit of open files: ulimit -n, or LimitNOFILE= of a systemd unit",
        libc::ENFILE => "the system has as many files open as it may: close some, or raise fs.file-max (sysctl)",
        libc::ENOMEM => {
            "there is too little memory: end other programs, or raise the limit (ulimit -v, ulimit -d, ulimit -l, MemoryMax=)"
        }
        libc::EROFS => "that filesystem is mounted read-only",
        libc::EIO => "the disk reports an error: look for it with dmesg",
        _ => return None,
    })
}

/// What to do where a thread could not be started.
pub const NO_THREAD: &str = "a thread could not be started: raise the limit of threads (ulimit -u, TasksMax= of a systemd unit, the pids of a container) or of memory (ulimit -v, ulimit -d)";

/// As [`remedy`], where threads are started.
pub fn thread_remedy(error: &std::io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Some(NO_THREAD),
        _ => remedy(error),
    }
}

/// What a command returns: its exit code, or why it failed.
pub type CliResult<T = Exit> = Result<T, CliError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|e| e.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 20, 130]);
    }

    #[test]
    fn errors_come_back_from_json() {
        let plain = CliError::new(Exit::Busy, "VolumeBusy", "in use");
        let hinted = plain.clone().hint("wait");
        for error in [plain, hinted] {
            assert_eq!(CliError::from_json(&error.to_json()), Some(error));
        }
        assert_eq!(CliError::from_json(&json!({"message_type": "error"})), None);
    }

    #[test]
    fn permission_errors_have_their_own_code() {
        let e = CliError::io("/x", "open", &std::io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(e.exit, Exit::AccessDenied);
        assert_eq!(CliError::io("/x", "open", &std::io::Error::from_raw_os_error(libc::EIO)).exit, Exit::Failure);
    }
}
