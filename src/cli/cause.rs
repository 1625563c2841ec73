//! Why the key manager gave no answer, where its own words do not say: SQLite calls a full disk "disk I/O error".

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Resource;

use super::errors::OTHERS_HOME;
use super::exit::{CliError, Exit, remedy};

/// More than any change of the key manager writes at once.
const TRIAL: usize = 256 * 1024;
/// What the system can lack: what to do about that is always the same.
const LACKS: [i32; 5] = [libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE, libc::EROFS];
/// SQLite's words for any file that cannot be opened.
const CANNOT_OPEN: &str = "unable to open database file";
/// And for one beside which it may make none.
const READ_ONLY: &str = "attempt to write a readonly database";
/// More files than any command but a mount has open.
const ENOUGH: u64 = 64;

/// The error with what keeps the directory of the key manager from being written, if it has to do with that.
pub fn explained(error: CliError, home: &Path) -> CliError {
    if error.exit != Exit::KmsUnavailable {
        return error;
    }
    if let Some(cause) =
        LACKS.iter().map(|lack| io::Error::from_raw_os_error(*lack)).find(|lack| is_named(&error, lack))
    {
        return CliError { hint: remedy(&cause).map(str::to_owned), ..error };
    }
    let of_database = [CANNOT_OPEN, READ_ONLY].iter().any(|words| error.message.contains(words));
    let (what, cause) = match try_to_write(home) {
        Err(cause) if of_database && cause.kind() == io::ErrorKind::PermissionDenied => {
            let message = format!("{}: this user may not write in {}: {cause}", error.message, home.display());
            return CliError::new(Exit::AccessDenied, "Io", message).hint(OTHERS_HOME);
        }
        Err(cause) => (format!("nothing can be written in {}", home.display()), cause),
        Ok(()) if error.message.contains(CANNOT_OPEN) && files_allowed() < ENOUGH => {
            (format!("this process may have {} files open", files_allowed()), Errno::MFILE.into())
        }
        Ok(()) => return error,
    };
    let Some(next) = remedy(&cause) else { return error };
    CliError { message: format!("{}: {what}: {cause}", error.message), hint: Some(next.to_owned()), ..error }
}

/// Whether the error's own words say that this is the cause.
fn is_named(error: &CliError, cause: &io::Error) -> bool {
    error.message.contains(&cause.to_string())
}

/// Those that it had are closed by now, so to open one more proves nothing.
fn files_allowed() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Writes a file without a name. Filesystems that have none tell nothing.
fn try_to_write(dir: &Path) -> io::Result<()> {
    let file = rustix::fs::open(dir, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(file?);
    file.write_all(&vec![0; TRIAL])?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written_is_no_cause() {
        let home = tempfile::tempdir().expect("temporary directory");
        let error = CliError::new(Exit::KmsUnavailable, "StoreUnavailable", "disk I/O error");
        assert_eq!(explained(error.clone(), home.path()), error);
        assert_eq!(explained(error.clone(), &home.path().join("none")), error);
    }

    #[test]
    fn a_lack_that_is_named_has_its_remedy() {
        let home = tempfile::tempdir().expect("temporary directory");
        let cause = io::Error::from_raw_os_error(libc::EMFILE);
        let error = CliError::new(Exit::KmsUnavailable, "KMSInternalException", format_args!("home.lock: {cause}"));
        let explained = explained(error.clone(), home.path());
        assert_eq!((explained.message, explained.hint.as_deref()), (error.message, remedy(&cause)));
    }
}
