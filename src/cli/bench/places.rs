//! Where jobs run: directories of a scratch directory, and mounts in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rustix::fs::Mode;

use super::no_cipher::NoKeys;
use crate::cli::exit::{CliError, CliResult};
use crate::cli::offline;
use crate::cli::umount::unmount_at;
use crate::crypto::aead::Backend;
use crate::env::{SystemEntropy, system_clock};
use crate::format::name::NameForm;
use crate::fuse::{MountSpec, Statistics, Transport, serve};
use crate::keys::KeyService;
use crate::keys::embedded::EmbeddedKms;
use crate::kms::Engine;
use crate::kms::custody::{Home, NewHome, NewSlot};
use crate::ops::init::{InitOptions, init_volume, new_volume_id};
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::sync::{Arc, thread};
use crate::vfs::{Options, Vfs};

/// The mount that users have.
pub(super) const KMSFS: &str = "kmsfs";
/// The same without cipher, key manager and encrypted names. Nobody else can mount this.
pub(super) const PASSTHROUGH: &str = "passthrough";
/// The filesystem below both.
pub(super) const BACKING: &str = "backing";

/// A directory to measure, empty at first.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) dir: PathBuf,
}

/// A directory that is removed in the end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn below(dir: &Path) -> CliResult<Self> {
        let path = dir.join(format!("kmsfs-bench.{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| CliError::io(&path, "create", &e))?;
        Ok(Self(path))
    }

    pub(super) fn make(&self, name: &str) -> CliResult<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir(&path).map_err(|e| CliError::io(&path, "create", &e))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// Both mounts and the directory beside them.
pub(super) struct Limits {
    mounts: Vec<Mounted>,
    backing: PathBuf,
}

impl Limits {
    pub(super) fn mount(scratch: &Scratch) -> CliResult<Self> {
        let new = NewHome {
            account: "000000000000".parse().expect("twelve digits"),
            region: "us-east-1".parse().expect("a Region"),
            slots: vec![NewSlot::KeyFile],
        };
        let (home, _) = Home::create(&scratch.make("home")?, new, &*system_clock(), &SystemEntropy)?;
        let engine = Engine::start(home, system_clock(), Arc::new(SystemEntropy))?;
        // The kernel applies the caller's mask; this process must not add its own.
        rustix::process::umask(Mode::empty());
        let mounts = [KMSFS, PASSTHROUGH].map(|name| Mounted::make(scratch, name, &engine));
        let mounts = mounts.into_iter().collect::<CliResult<_>>()?;
        Ok(Self { mounts, backing: scratch.make(BACKING)? })
    }

    pub(super) fn places(&self) -> Vec<Place> {
        let mounts = self.mounts.iter().map(|mount| Place { name: mount.name, dir: mount.mountpoint.clone() });
        mounts.chain([Place { name: BACKING, dir: self.backing.clone() }]).collect()
    }

    /// Unmounts.
    pub(super) fn end(self) -> CliResult<()> {
        self.mounts.into_iter().try_for_each(Mounted::end)
    }
}

struct Mounted {
    name: &'static str,
    mountpoint: PathBuf,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Mounted {
    fn make(scratch: &Scratch, name: &'static str, engine: &Engine) -> CliResult<Self> {
        let root = scratch.make(&format!("{name}-ciphertext"))?;
        let mountpoint = scratch.make(name)?;
        let id = new_volume_id(&SystemEntropy);
        let encrypted = name == KMSFS;
        let service: Arc<dyn KeyService> =
            if encrypted { Arc::new(EmbeddedKms::new(engine.clone(), &id)) } else { Arc::new(NoKeys::new()) };
        let aead = if encrypted { Backend::default() } else { Backend::NoCipher };
        let names = if encrypted { NameForm::Encrypted } else { NameForm::Plain };
        let registry = engine.registry();
        let made = InitOptions { key: "alias/aws/kmsfs".to_owned(), names, aead, ..InitOptions::default() };
        init_volume(&root, id, &*service, &registry, &made, &*system_clock(), &SystemEntropy)?;
        let options = OpenOptions { aead, ..OpenOptions::default() };
        let opened = FoundVolume::find(&root)?.open(&*service, &registry, options)?;
        let volume = offline::files(offline::data_keys(service, opened), 1, None);
        let privileged = rustix::process::geteuid().is_root();
        let options = Options::for_programs(privileged);
        let vfs = Vfs::new(offline::backing(&root)?, volume, options)
            .map_err(|e| CliError::failure(format_args!("cannot open the volume at {}: {e}", root.display())))?;
        let spec = MountSpec {
            mountpoint: mountpoint.clone(),
            source: "kmsfs-bench".into(),
            read_only: false,
            allow_other: false,
            suid: false,
            dev: false,
            exec: false,
            write_through: false,
            threads: 2 * offline::threads(None),
            transport: Transport::Auto,
        };
        let (ready, mounted) = mpsc::channel();
        let thread = thread::spawn(move || {
            serve(Arc::new(vfs), &spec, Arc::new(Statistics::default()), move |_| {
                // Who waits for it is there until it has come.
                let _ = ready.send(());
                Ok(())
            })
        });
        let mut mounting = Self { name, mountpoint, thread: Some(thread) };
        if mounted.recv().is_ok() {
            return Ok(mounting);
        }
        let ended = mounting.thread.take().map_or(Ok(()), joined);
        let error = ended.err().unwrap_or_else(|| io::Error::other("the mount ended at once"));
        Err(CliError::io(&mounting.mountpoint, "mount", &error))
    }

    fn end(mut self) -> CliResult<()> {
        let unmounted = unmount_at(&self.mountpoint, false);
        let ended = unmounted.and_then(|()| self.thread.take().map_or(Ok(()), joined));
        ended.map_err(|e| CliError::io(&self.mountpoint, "unmount", &e))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.thread.is_some()
            && let Err(error) = unmount_at(&self.mountpoint, true)
        {
            tracing::warn!("{} stays mounted: {error}", self.mountpoint.display());
        }
    }
}

fn joined(thread: thread::JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the mount panicked")))
}
