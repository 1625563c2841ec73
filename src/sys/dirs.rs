//! The names of directories.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Makes the names durable under which `path` is found on its filesystem, from that of `path` itself to the top: of a directory that
/// was just made, and of those that were made above it. Also of those that were there: whoever made them may have been killed
/// before they were durable.
///
/// # Errors
/// The system's.
pub fn flush_names_to(path: &Path) -> io::Result<()> {
    let path = path.canonicalize()?;
    let device = fs::metadata(&path)?.dev();
    for above in path.ancestors().skip(1) {
        if fs::metadata(above)?.dev() != device {
            break;
        }
        match File::open(above) {
            // It may be entered and not listed: then everything on the filesystem is flushed.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(rustix::fs::syncfs(File::open(&path)?)?);
            }
            opened => flush(&opened?, above)?,
        }
    }
    Ok(())
}

fn flush(dir: &File, _path: &Path) -> io::Result<()> {
    #[cfg(test)]
    super::failing_disk::flushed(_path, dir.metadata()?.ino());
    dir.sync_all()
}
