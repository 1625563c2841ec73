//! Where a command writes: what tells of a volume, or opens it, does not belong into the volume itself.

use std::path::{Path, PathBuf};

use super::exit::{CliError, CliResult};
use super::mounts::{self, Mount};
use crate::kms::Engine;
use crate::ops::open::FoundVolume;

/// Where `out` lies, or will lie: without symbolic links.
fn real(out: &Path) -> CliResult<PathBuf> {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = std::fs::canonicalize(out).or_else(|_| std::fs::canonicalize(parent));
    place.map_err(|e| CliError::io(parent, "find", &e))
}

/// The kmsfs mount that `place` lies in, and what is in its directory, if that is a volume that can be seen. A mount table that
/// cannot be read tells of none.
fn volume_mounted_over(place: &Path) -> Option<(Mount, FoundVolume)> {
    let mount = mounts::containing(place).ok().flatten()?;
    let found = FoundVolume::find(&mount.source).ok()?;
    Some((mount, found))
}

/// Refuses `option` `out` if it lies in the volume at `dir`, or in a mount of that directory.
///
/// # Errors
/// A wrong command line, which is told to `name` something elsewhere.
pub fn outside_of(dir: &Path, (option, out): (&str, &Path), name: &str) -> CliResult<()> {
    let dir = std::fs::canonicalize(dir).map_err(|e| CliError::io(dir, "find", &e))?;
    let place = real(out)?;
    let of_it = |mount: &Mount| std::fs::canonicalize(&mount.source).is_ok_and(|source| source == dir);
    if place.starts_with(&dir) || mounts::containing(&place).ok().flatten().as_ref().is_some_and(of_it) {
        return Err(CliError::usage(format_args!("{option} {}: that lies within the volume", out.display())).hint(name));
    }
    Ok(())
}

/// Refuses to write what brings back the keys of `volume` to `out`, if that lies in the volume or in a mount of it or a copy of it.
///
/// # Errors
/// A wrong command line.
pub fn not_locked_with(volume: &FoundVolume, (option, out): (&str, &Path)) -> CliResult<()> {
    outside_of(volume.root(), (option, out), ELSEWHERE)?;
    match volume_mounted_over(&real(out)?) {
        Some((mount, found)) if found.volume_id() == volume.volume_id() => Err(locked_in(out, &mount)),
        _ => Ok(()),
    }
}

/// Refuses to write a backup of the key manager to `out`, if that lies in a mount of a volume that this key manager opens.
///
/// # Errors
/// A wrong command line.
pub fn not_opened_by(engine: &Engine, out: &Path) -> CliResult<()> {
    // Where there is no directory nothing can be written: that says who tries.
    let Ok(place) = real(out) else { return Ok(()) };
    match volume_mounted_over(&place) {
        Some((mount, found)) if engine.has_any(&found.config().allowed_keys)? => Err(locked_in(out, &mount)),
        _ => Ok(()),
    }
}

const ELSEWHERE: &str = "name a file elsewhere, at best on another disk";

fn locked_in(out: &Path, mount: &Mount) -> CliError {
    CliError::usage(format_args!(
        "{} lies in the mount {} of a volume that cannot be opened any more when what is to be written there is needed",
        out.display(),
        mount.mountpoint.display()
    ))
    .hint(ELSEWHERE)
}
