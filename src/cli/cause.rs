//! Why the key manager gave no answer, where its own words do not say: SQLite calls a full disk "disk I/O error".

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Resource;

use super::exit::{CliError, Exit, remedy};

/// More than any change of the key manager writes at once.
const TRIAL: usize = 256 * 1024;
/// SQLite's words for any file that cannot be opened.
const CANNOT_OPEN: &str = "unable to open database file";
/// More files than any command but a mount has open.
const ENOUGH: u64 = 64;

/// The error with what keeps the directory of the key manager from being written, if it has to do with that.
pub fn explained(error: CliError, home: &Path) -> CliError {
    if error.exit != Exit::KmsUnavailable {
        return error;
    }
    let (what, cause) = match try_to_write(home) {
        Err(cause) => (format!("nothing can be written in {}", home.display()), cause),
        Ok(()) if error.message.contains(CANNOT_OPEN) && files_allowed() < ENOUGH => {
            (format!("this process may have {} files open", files_allowed()), Errno::MFILE.into())
        }
        Ok(()) => return error,
    };
    let Some(next) = remedy(&cause) else { return error };
    let message = match error.message.contains(&cause.to_string()) {
        true => error.message,
        false => format!("{}: {what}: {cause}", error.message),
    };
    CliError { message, hint: Some(next.to_owned()), ..error }
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
}
