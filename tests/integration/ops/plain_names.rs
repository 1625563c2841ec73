//! Volumes whose names are not encrypted (FORMAT 8.7).

use std::fs;

use kmsfs::format::Outcome;
use kmsfs::format::name::NameForm;
use kmsfs::kms::model::KeyIdRequest;
use kmsfs::ops::open::{FoundVolume, OpenOptions};
use kmsfs::ops::{Silent, VolumeError};
use kmsfs::vfs::ROOT;
use tempfile::TempDir;

use super::host::{Host, ciphertext, edit};
use super::rewrap::{header, rewrap};
use super::salvage::run as salvage;

#[test]
fn a_volume_with_plain_names_is_verified_and_rewrapped_as_any() {
    let host = Host::new();
    let (old, new) = (host.key("old"), host.key("new"));
    let dir = TempDir::new().expect("temporary directory");
    host.init_with_names(dir.path(), "alias/old", NameForm::Plain).expect("init");
    let mounted = host.mount(dir.path());
    let file = mounted.write(ROOT, "README.md", b"what it is");
    let sub = mounted.mkdir(ROOT, "sub");
    let inner = mounted.write(sub, "data", &[7; 9000]);
    let escaped = mounted.write(sub, "~Tree", b"escaped");
    mounted.symlink(ROOT, "link", "sub/data");
    drop(mounted);
    assert_eq!(ciphertext(dir.path(), file), dir.path().join("README.md"));
    assert_eq!(ciphertext(dir.path(), inner), dir.path().join("sub/data"));
    assert_eq!(host.findings(dir.path()), [""; 0]);

    let report = rewrap(&host, dir.path(), Some(&old), Some(&new), &Silent);
    assert_eq!((report.rewrapped, report.findings.len(), report.root_key), (3, 0, true));
    host.engine.disable_key(&host.caller, KeyIdRequest::from(old.as_str())).expect("DisableKey");
    for ino in [file, inner, escaped] {
        assert_eq!(header(dir.path(), ino).slots[0].recipients[0].key, new.as_str());
    }
    assert_eq!(host.mount(dir.path()).read("README.md").expect("read"), b"what it is");

    edit(&dir.path().join("sub/data"), |bytes| bytes[4096 + 4096 + 100] ^= 1);
    fs::write(dir.path().join("stray"), [1; 9000]).expect("write");
    fs::write(dir.path().join(".kmsfsx"), b"").expect("write");
    fs::create_dir(dir.path().join("foreign")).expect("mkdir");
    fs::remove_file(dir.path().join("link")).expect("removed");
    std::os::unix::fs::symlink("elsewhere", dir.path().join("link")).expect("symlink");
    let expected =
        ["BadName ?", "NoDirId foreign", "NotKfs stray", "SymlinkAuth link", "UnitAuth sub/data#1"].map(str::to_owned);
    assert_eq!(host.findings(dir.path()), expected);
}

#[test]
fn a_lost_directory_id_takes_no_plain_name_away() {
    let host = Host::new();
    let dir = TempDir::new().expect("temporary directory");
    host.init_with_names(dir.path(), "alias/aws/kmsfs", NameForm::Plain).expect("init");
    let mounted = host.mount(dir.path());
    let sub = mounted.mkdir(ROOT, "sub");
    let inner = mounted.mkdir(sub, "inner");
    mounted.write(inner, "data", b"readable");
    mounted.write(inner, "damaged", &[7; 9000]);
    drop(mounted);
    for lost in ["sub/.kmsfs.dir", "sub/inner/.kmsfs.dir"] {
        fs::remove_file(dir.path().join(lost)).expect("removed");
    }
    edit(&dir.path().join("sub/inner/damaged"), |bytes| bytes[4096 + 100] ^= 1);
    let expected = ["NoDirId sub", "NoDirId sub/inner", "UnitAuth sub/inner/damaged#0"].map(str::to_owned);
    assert_eq!(host.findings(dir.path()), expected);
    let out = TempDir::new().expect("temporary directory");
    salvage(&host, dir.path(), out.path());
    assert_eq!(fs::read(out.path().join("sub/inner/data")).expect("salvaged"), b"readable");
}

/// FORMAT 4.2: the feature bits are part of the commitment that the registry pins.
#[test]
fn nobody_makes_plain_names_of_a_volume_or_takes_them_back() {
    let host = Host::new();
    for names in [NameForm::Encrypted, NameForm::Plain] {
        let dir = TempDir::new().expect("temporary directory");
        host.init_with_names(dir.path(), "alias/aws/kmsfs", names).expect("init");
        let found = FoundVolume::find(dir.path()).expect("found");
        assert_eq!(found.config().name_form(), names);
        edit(&dir.path().join(".kmsfs/volume"), |bytes| {
            bytes[32] ^= 1;
            // A length that both forms take.
            bytes[60..62].copy_from_slice(&175_u16.to_le_bytes());
        });
        let error = host.open(dir.path(), OpenOptions::default()).expect_err("not what was made");
        assert!(matches!(error, VolumeError::Refused { outcome: Outcome::VolumeAuth, .. }), "{error}");
    }
}

#[test]
fn a_name_that_would_be_listed_stands_in_the_way() {
    let host = Host::new();
    let dir = TempDir::new().expect("temporary directory");
    fs::create_dir(dir.path().join("lost+found")).expect("mkdir");
    let refused = host.init_with_names(dir.path(), "alias/aws/kmsfs", NameForm::Plain);
    assert!(matches!(refused, Err(VolumeError::NotEmpty { entry, .. }) if entry == "lost+found"));
    host.init(dir.path(), "alias/aws/kmsfs").expect("encrypted names are never mistaken for it");
}
