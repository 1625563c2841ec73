//! Jobs within a mount: re-wraps beside applications that write, truncate and rename, and the socket that asks for them.

mod rewrap;
mod socket;

use std::path::Path;
use std::sync::Arc;

use kmsfs::cli::control::rewrap::Served;
use kmsfs::kms::model::KeyIdRequest;
use kmsfs::ops::config;
use kmsfs::ops::info::file_info;
use kmsfs::store::LocalDir;
use kmsfs::types::KeyArn;
use kmsfs::vfs::{Caller, Options, ROOT, Vfs};
use tempfile::TempDir;

use super::ops::host::{Host, ciphertext};

/// A volume under one key that is served, and another key.
struct Mount {
    host: Host,
    dir: TempDir,
    old: KeyArn,
    new: KeyArn,
    served: Served<LocalDir>,
}

impl Mount {
    fn new() -> Self {
        let host = Host::new();
        let (old, new) = (host.key("old"), host.key("new"));
        let dir = TempDir::new().expect("temporary directory");
        host.init(dir.path(), "alias/old").expect("init");
        let served = serve(&host, dir.path());
        Self { host, dir, old, new, served }
    }

    fn vfs(&self) -> &Vfs<LocalDir> {
        &self.served.vfs
    }

    fn mkdir(&self, name: &str) -> u64 {
        self.vfs().mkdir(ROOT, name.as_bytes(), 0o755, &user()).expect("mkdir").ino
    }

    /// A closed file; its inode number.
    fn file(&self, parent: u64, name: &str, content: &[u8]) -> u64 {
        let (attr, opened) = self.vfs().create(parent, name.as_bytes(), 0o644, &user()).expect("create");
        self.vfs().write(opened.handle, 0, content).expect("write");
        self.vfs().release(opened.handle);
        attr.ino
    }

    fn content(&self, ino: u64) -> Vec<u8> {
        let opened = self.vfs().open(ino, false).expect("open");
        let content = self.vfs().read(opened.handle, 0, 1 << 24, <[u8]>::to_vec).expect("read");
        self.vfs().release(opened.handle);
        content
    }

    /// The ARN of the one key that wraps the data key of a file.
    fn key_of(&self, ino: u64) -> String {
        key_in(&ciphertext(self.dir.path(), ino)).expect("the file is not empty")
    }

    /// Disables the old key: what still needs it does not open any more.
    fn disable_old(&self) {
        self.host.engine.disable_key(&self.host.caller, KeyIdRequest::from(self.old.as_str())).expect("DisableKey");
    }
}

fn serve(host: &Host, root: &Path) -> Served<LocalDir> {
    let volume = host.files(root);
    let backing = Arc::new(LocalDir::open(root).expect("open the directory"));
    let options = Options { privileged: rustix::process::geteuid().is_root(), ..Options::default() };
    let vfs = Arc::new(Vfs::new(backing, volume.clone(), options).expect("mount"));
    let service = host.service(&volume.keys.volume().config.volume_id);
    let registry = host.engine.registry();
    let meta = Arc::new(config::open_meta(root).expect("its configuration"));
    let root = root.to_owned();
    Served { vfs, volume, service, registry, root, meta, read_only: false, statistics: Arc::default() }
}

fn user() -> Caller {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Caller { uid, gid, umask: 0o022 }
}

/// `None` for an empty file. A file has one slot when no re-wrap is under way.
fn key_in(path: &Path) -> Option<String> {
    let header = file_info(path, &|blob| kmsfs::kms::blob::material_id(blob)).expect("info").header?;
    assert_eq!(header.slots.len(), 1, "{} has an unfinished re-wrap", path.display());
    Some(header.slots[0].recipients[0].key.clone())
}
