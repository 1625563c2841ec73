//! What `kmsfs repair` says, and the exit status that it ends with.
//!
//! In a volume with plain names anything can be planted under a name of one's choice without a mount.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::XattrFlags;
use tempfile::TempDir;

struct Shell {
    dir: TempDir,
}

/// An exit status, and what was said.
struct Said {
    status: Option<i32>,
    out: String,
    notes: String,
}

impl Shell {
    /// With a volume.
    fn new() -> Self {
        let shell = Self { dir: TempDir::new().expect("temporary directory") };
        let made = shell.run(&["init", "--keyfile", "--plain-names", "volume"]);
        assert_eq!(made.status, Some(0), "{}", made.notes);
        shell
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("volume").join(name)
    }

    fn run(&self, args: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
        command.current_dir(self.dir.path()).args(["--kms-home", "kms"]).args(args).env("KMSFS_CONFIG", "/dev/null");
        let output = command.stdin(Stdio::null()).output().expect("started");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Said { status: output.status.code(), out: text(output.stdout), notes: text(output.stderr) }
    }

    fn repair(&self) -> Said {
        self.run(&["repair", "volume", "--apply"])
    }

    fn verify(&self) -> Said {
        self.run(&["verify", "volume"])
    }
}

#[test]
fn no_name_in_the_ciphertext_reaches_the_terminal_as_it_is() {
    let shell = Shell::new();
    fs::write(shell.path("file"), b"").expect("planted");
    rustix::fs::setxattr(shell.path("file"), "user.kmsfs.\x1b[2J\nrow\r\u{202e}", b"value", XattrFlags::empty())
        .expect("set");
    fs::write(shell.path("\x1b[31m\nname"), vec![7; 9000]).expect("planted");
    fs::write(shell.path("~T\x1b[31m\nhidden"), vec![7; 9000]).expect("planted");
    std::os::unix::fs::symlink("\x1b[31m\ntarget", shell.path("\x1b[31m\nlink")).expect("planted");
    for args in [&["repair", "volume"][..], &["repair", "volume", "--apply"], &["repair", "volume"]] {
        let said = shell.run(args);
        assert_eq!(said.status, Some(3), "{}", said.notes);
        let odd = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        for text in [&said.out, &said.notes] {
            assert!(!text.contains(odd), "{text:?}");
            // A line of its own would begin with what a name says.
            assert!(
                !text.lines().any(|line| ["row", "name", "hidden"].iter().any(|word| line.starts_with(word))),
                "{text}"
            );
        }
        assert!(said.out.contains("\\u{1b}[31m\\nname"), "{}", said.out);
    }
}

#[test]
fn a_repair_that_moved_what_it_did_not_look_at_says_that_it_is_not_finished() {
    let shell = Shell::new();
    fs::write(shell.path("~T0123"), vec![7; 9000]).expect("planted");
    fs::create_dir_all(shell.path("~T4567/inside")).expect("planted");
    let looked = shell.run(&["repair", "volume"]);
    assert_eq!(looked.status, Some(3), "{}", looked.notes);
    let first = shell.repair();
    assert_eq!(first.status, Some(3), "{}", first.out);
    assert!(first.notes.contains("Run it again: kmsfs repair volume --apply"), "{}", first.notes);
    // The directory gets its id and the one within it too; the file is damaged, and stays so.
    let second = shell.repair();
    assert_eq!(second.status, Some(3), "{}", second.out);
    assert!(
        second.out.contains("2 of 2 repairs made, 1 findings stay") && !second.notes.contains("again"),
        "{}",
        second.out
    );
    let moved = fs::read_dir(shell.path("lost+found")).expect("made").flatten();
    let file = moved
        .map(|entry| entry.path())
        .find(|path| path.metadata().is_ok_and(|file| file.len() == 9000))
        .expect("moved");
    fs::remove_file(file).expect("removed");
    assert_eq!((shell.repair().status, shell.verify().status), (Some(0), Some(0)));
}

#[test]
fn a_repair_that_writes_a_header_over_nothing_is_told() {
    let shell = Shell::new();
    File::create(shell.path("file")).and_then(|file| file.set_len(2 * 4096 + 100)).expect("planted");
    let suspicion = shell.verify();
    assert!(suspicion.status == Some(3) && suspicion.out.contains("NeverSynced"), "{}", suspicion.out);
    let repaired = shell.repair();
    assert_eq!(repaired.status, Some(3), "{}", repaired.out);
    let cause = "nothing of the file is left but its size (a crash, or somebody punched it)";
    assert!(
        repaired.out.contains(cause) && repaired.notes.contains("from a backup"),
        "{}{}",
        repaired.out,
        repaired.notes
    );
    assert_eq!((shell.repair().status, shell.verify().status), (Some(0), Some(0)));
}
