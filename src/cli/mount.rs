//! `kmsfs mount`.

use std::ffi::OsString;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use clap::Args;

use super::daemon::{self, Readiness};
use super::exit::{CliError, CliResult, Exit};
use super::init::{Created, VolumeFlags, make_volume};
use super::mount_options::MountOptions;
use super::mountpoint;
use super::mounts;
use super::serving::Serving;
use super::session::{CreateFlags, Session};
use super::settings::Settings;
use super::slots::show_first_recovery;
use crate::ops::VolumeError;
use crate::ops::init::check_empty;
use crate::ops::lock::VolumeLock;
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::sys::process::SignalSet;

const OPTIONS_HELP: &str = "\
Mount options (-o):
  allow_other          other users may enter (for users: needs user_allow_other in /etc/fuse.conf)
  ro, rw               read-only; any number of read-only mounts beside one read-write mount
  suid, dev            set-id bits and device nodes work (root only; default nosuid,nodev)
  noexec               no program can be executed
  transport=auto       as --transport
  key-state=ebs        what is open goes on when its key becomes unusable (default)
  key-state=strict     open files are closed to programs within 5 seconds then, until the key is usable again
  key-cache=300        seconds for which the data key of a closed file serves its next open, if its key is usable
  trust-new-volume     as --trust-new-volume
  strict_ids           no changes in files and directories that turn out to be copies of one another
Accepted without effect: default_permissions (always on), atime options (the backing filesystem's count), fsname=,
subtype=, x-*, and mount(8)'s own.";

/// Mount a volume; an empty directory is made one first
#[derive(Debug, Args)]
#[command(after_help = OPTIONS_HELP)]
pub struct MountArgs {
    /// The directory of the ciphertext
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The mountpoint, an empty directory outside of DIR
    #[arg(value_name = "MNT")]
    mountpoint: PathBuf,
    /// Mount options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Return when the mount is usable and go on in the background
    #[arg(long)]
    daemon: bool,
    /// Mount read-only
    #[arg(long)]
    ro: bool,
    /// Accept a volume that this host has never seen, and remember it
    #[arg(long)]
    trust_new_volume: bool,
    /// Accept a volume configuration that is older than one this host has seen
    #[arg(long)]
    accept_rollback: bool,
    /// Log file of a daemon [default: log/mount-NAME.log in the key manager's directory]
    #[arg(long, value_name = "FILE", env = "KMSFS_LOG_FILE", hide_env_values = true)]
    log_file: Option<PathBuf>,
    /// Requests handled at once [default: twice the processors, 4 at least]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// How requests travel between the kernel and kmsfs: auto, uring (through io_uring), dev (/dev/fuse), or fuser (the
    /// library that both are compared with) [default: auto]
    #[arg(long, value_name = "TRANSPORT", env = "KMSFS_TRANSPORT", hide_env_values = true)]
    transport: Option<String>,
    #[command(flatten)]
    volume: VolumeFlags,
    #[command(flatten)]
    create: CreateFlags,
}

/// Runs the command; returns when the volume is unmounted, or, with `--daemon`, when it is mounted.
pub fn run(settings: &Settings, args: &MountArgs, argv: &[OsString]) -> CliResult {
    let transport = args.transport.iter().map(|name| format!("transport={name}"));
    let lists: Vec<String> = transport.chain(args.options.iter().cloned()).collect();
    let mut options = MountOptions::parse(&lists)?;
    options.read_only |= args.ro;
    options.trust_new_volume |= args.trust_new_volume;
    if (options.suid || options.dev) && !is_root() {
        return Err(CliError::usage("only root may mount with -o suid or -o dev"));
    }
    let ready = match (args.daemon, Readiness::of_child()?) {
        (true, None) => return daemon::spawn_and_wait(argv),
        (true, Some(ready)) => ready,
        (false, _) => Readiness::foreground(),
    };
    let (dir, mnt) = mountpoint::check(&args.dir, &args.mountpoint)?;
    daemon::prepare_descriptors();
    // Before the first thread: only the thread that waits for them gets these signals.
    let signals = SignalSet::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])
        .map_err(|e| CliError::failure(format_args!("cannot handle signals: {e}")))?;
    let (session, found, lock) = open_or_make(settings, args, &dir, &mnt, &options)?;
    let log = match (ready.is_daemon(), &args.log_file) {
        (true, None) => Some(daemon::open_log(&daemon::default_log(&settings.home, &mnt))?),
        (true, Some(path)) => Some(daemon::open_log(path)?),
        (false, _) => None,
    };
    let serving = Serving { settings, mountpoint: mnt, options, threads: threads(args.threads), ready, log, signals };
    let accepted = OpenOptions {
        trust_new_volume: serving.options.trust_new_volume,
        accept_rollback: args.accept_rollback,
        ..OpenOptions::default()
    };
    serving.run(session, found, lock, accepted)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Requests wait for disk and key manager half of the time, so twice the processors.
fn threads(asked: Option<u16>) -> usize {
    asked.map_or_else(|| (2 * available_parallelism().map_or(2, NonZero::get)).max(4), usize::from)
}

/// A read-only backing filesystem is no fault of the volume: it can still be read. So can a volume that another process writes to,
/// if it has no freshness record (`recorded`).
fn not_locked(error: VolumeError, dir: &Path, mnt: &Path, recorded: bool) -> CliError {
    let (dir, mnt) = (dir.display(), mnt.display());
    match &error {
        VolumeError::Io { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
            CliError::new(Exit::Failure, "ReadOnly", format_args!("{dir} is on a read-only filesystem"))
                .hint(format_args!("mount it read-only: kmsfs mount --ro {dir} {mnt}"))
        }
        VolumeError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            CliError::from(error).hint(format_args!("if you may only read it: kmsfs mount --ro {dir} {mnt}"))
        }
        VolumeError::Busy(_) if recorded => CliError::from(error).hint(
            "unmount it there first (kmsfs status lists the mounts of this host): a volume with a freshness record has one mount at a \
             time, a read-only one too",
        ),
        VolumeError::Busy(_) => CliError::from(error).hint(format_args!(
            "unmount it there first (kmsfs status lists the mounts of this host), or read it beside that: kmsfs mount --ro {dir} {mnt}"
        )),
        _ => error.into(),
    }
}

/// The lock for a read-only mount of a volume with a freshness record, unless nobody can write to it anyway.
fn read_only_lock(found: &FoundVolume, mnt: &Path) -> Result<Option<VolumeLock>, VolumeError> {
    match found.lock(&mounts::lock_purpose(mnt)) {
        Err(VolumeError::Io { source, .. }) if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(None),
        other => other.map(Some),
    }
}

/// Finds the volume, or makes one in an empty directory, and takes its lock unless the mount is read-only.
fn open_or_make(
    settings: &Settings,
    args: &MountArgs,
    dir: &Path,
    mnt: &Path,
    options: &MountOptions,
) -> CliResult<(Session, FoundVolume, Option<VolumeLock>)> {
    let lock = |found: &FoundVolume| match options.read_only {
        // A writer's record is ahead of what it has recorded, so nobody else can compare anything with it.
        true if found.config().freshness() => read_only_lock(found, mnt),
        true => Ok(None),
        false => found.lock(&mounts::lock_purpose(mnt)).map(Some),
    };
    match FoundVolume::find(dir) {
        Ok(found) => {
            // Nobody is asked for a passphrase for a volume that is in use.
            let recorded = found.config().freshness();
            let lock = lock(&found).map_err(|e| not_locked(e, dir, mnt, recorded))?;
            return Ok((Session::open_for(settings, dir)?, found, lock));
        }
        Err(VolumeError::NotAVolume(_)) => {}
        Err(other) => return Err(other.into()),
    }
    check_empty(dir, args.volume.names()).map_err(|e| match e {
        VolumeError::NotEmpty { entry, .. } => CliError::new(
            Exit::NotInitialised,
            "NotInitialised",
            format_args!("{} is not a kmsfs volume, and it is not empty (it holds '{entry}')", dir.display()),
        )
        .hint("name the directory of a volume, or an empty one to make a new volume in"),
        other => other.into(),
    })?;
    if options.read_only {
        return Err(CliError::from(VolumeError::NotAVolume(dir.to_owned())));
    }
    settings.out.note(format_args!("{} is empty: making a new volume in it.", dir.display()));
    let (session, recovery) = Session::open_or_create(settings, &args.create)?;
    if let Some(key) = recovery {
        let created = Created::new(settings, &key, args.create.keyfile);
        show_first_recovery(settings, &session, &created.json, created.words)?;
    }
    make_volume(&session, &settings.home, dir, &args.volume)?;
    let found = FoundVolume::find(dir)?;
    let lock = lock(&found)?;
    Ok((session, found, lock))
}
