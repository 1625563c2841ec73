//! What is deleted stays deleted: backups and older copies of the database, put back beside the present secrets, give nothing
//! back. By the command line, as an administrator, or a thief of backups, would try it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use kmsfs::env::{ManualClock, SystemEntropy, system_clock};
use kmsfs::kms::Engine;
use kmsfs::kms::custody::Unlock;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A home that is opened by a key file, and the commands on it.
struct Shell {
    dir: TempDir,
}

impl Shell {
    fn new() -> Self {
        let shell = Self { dir: TempDir::new().expect("temporary directory") };
        shell.ok(&["init", "--keyfile"]);
        shell
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kmsfs"))
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("KMSFS_HOME", self.path("kms"))
            .env("HOME", "/nonexistent")
            .output()
            .expect("started")
    }

    /// What a command that succeeds prints.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a command that fails says.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).expect("text")
    }

    fn call(&self, operation: &str, request: &Value) -> Value {
        let answer = self.ok(&["kms", operation, "--cli-input-json", &request.to_string()]);
        serde_json::from_str(&answer).expect("JSON")
    }

    fn encrypt(&self, key: &str) -> String {
        let answer = self.call("Encrypt", &json!({ "KeyId": key, "Plaintext": "c2VjcmV0" }));
        answer["CiphertextBlob"].as_str().expect("a blob").to_owned()
    }

    fn decrypt(&self, blob: &str) -> String {
        self.call("Decrypt", &json!({ "CiphertextBlob": blob }))["Plaintext"].as_str().expect("a plaintext").to_owned()
    }

    fn cannot_decrypt(&self, blob: &str) -> String {
        self.fails(&["kms", "Decrypt", "--cli-input-json", &json!({ "CiphertextBlob": blob }).to_string()])
    }

    /// A copy of the files of the database, as a backup of the file system has it.
    fn copy(&self, to: &str) {
        let to = self.path(to);
        fs::create_dir(&to).expect("created");
        for file in database_files(&self.path("kms")) {
            fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
        }
    }

    /// Puts a copy in the place of the database; the root file and the key file stay as they are.
    fn put_back(&self, from: &str) {
        let home = self.path("kms");
        for file in database_files(&home) {
            fs::remove_file(file).expect("removed");
        }
        for file in database_files(&self.path(from)) {
            fs::copy(&file, home.join(file.file_name().expect("a name"))).expect("copied");
        }
    }

    /// Neither the backup nor the copy from before a deletion brings back what `blob` needs, whatever the administrator
    /// says; what exists still works afterwards.
    fn older_databases_yield_nothing(&self, blob: &str, other: &str) {
        let refused = self.fails(&["kms", "restore", "backup", "--replace"]);
        assert!(refused.contains("epoch"), "{refused}");
        self.fails(&["kms", "verify", "backup"]);
        assert_eq!(self.decrypt(other), "c2VjcmV0", "nothing was replaced");

        self.copy("present");
        self.put_back("copy");
        for refused in [
            self.cannot_decrypt(blob),
            self.cannot_decrypt(other),
            self.fails(&["key", "list"]),
            self.fails(&["doctor", "--accept-database"]),
            self.cannot_decrypt(blob),
            self.fails(&["kms", "restore", "backup", "--replace"]),
        ] {
            assert!(refused.contains("epoch"), "{refused}");
        }
        self.put_back("present");
        assert_eq!(self.decrypt(other), "c2VjcmV0");
        self.ok(&["kms", "verify"]);
    }
}

fn database_files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let is_database =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kms.db"));
    files.filter(is_database).collect()
}

/// Wraps `material` and imports it into `alias/mine`.
fn import(shell: &Shell, material: &[u8; 32]) {
    let get = ["import", "parameters", "alias/mine", "--public-key", "public", "--token", "token"];
    shell.ok(&[&get[..], &["--wrapping-key-spec", "RSA_2048"]].concat());
    let public = PublicEncryptingKey::from_der(&fs::read(shell.path("public")).expect("read")).expect("a key");
    let wrapping = OaepPublicEncryptingKey::new(public).expect("a key for OAEP");
    let mut room = vec![0; wrapping.ciphertext_size()];
    let wrapped = wrapping.encrypt(&OAEP_SHA256_MGF1SHA256, material, &mut room, None).expect("wrapped");
    fs::write(shell.path("wrapped"), wrapped).expect("written");
    shell.ok(&["import", "material", "alias/mine", "--token", "token", "--encrypted-material", "wrapped"]);
}

#[test]
fn imported_material_that_was_deleted_does_not_come_back() {
    let shell = Shell::new();
    shell.ok(&["key", "create", "--alias", "other"]);
    shell.ok(&["key", "create", "--origin", "EXTERNAL", "--alias", "mine"]);
    import(&shell, &[7; 32]);
    let (blob, other) = (shell.encrypt("alias/mine"), shell.encrypt("alias/other"));
    assert_eq!(shell.decrypt(&blob), "c2VjcmV0");
    shell.ok(&["kms", "backup", "backup"]);
    shell.copy("copy");
    // Before the deletion both are good: it is not that they could not be used.
    shell.put_back("copy");
    assert_eq!(shell.decrypt(&blob), "c2VjcmV0");
    shell.ok(&["kms", "restore", "backup", "--replace"]);
    assert_eq!(shell.decrypt(&blob), "c2VjcmV0");

    let said = shell.ok(&["import", "delete", "alias/mine"]);
    assert!(said.contains("has lost the material"), "{said}");
    assert!(shell.cannot_decrypt(&blob).contains("is pending import."));
    shell.older_databases_yield_nothing(&blob, &other);
    // Only who still has the material can bring it back.
    import(&shell, &[7; 32]);
    assert_eq!(shell.decrypt(&blob), "c2VjcmV0");
}

#[test]
fn a_key_at_the_end_of_its_window_does_not_come_back() {
    let shell = Shell::new();
    shell.ok(&["key", "create", "--alias", "other"]);
    shell.ok(&["key", "create", "--alias", "mine"]);
    let (blob, other) = (shell.encrypt("alias/mine"), shell.encrypt("alias/other"));
    shell.ok(&["kms", "backup", "backup"]);
    shell.copy("copy");
    shell.ok(&["key", "schedule-deletion", "alias/mine", "--days", "7"]);
    assert!(shell.cannot_decrypt(&blob).contains("is pending deletion."));

    // A week in which a process looks after the key manager twice a day.
    let clock = Arc::new(ManualClock::new(system_clock().now()));
    let engine = Engine::open(&shell.path("kms"), &Unlock::KeyFile, clock.clone(), Arc::new(SystemEntropy));
    let engine = engine.expect("opened");
    for _ in 0..15 {
        clock.advance(Duration::from_secs(12 * 3600));
        engine.maintain().expect("maintained");
    }
    assert_eq!(engine.customer_keys(), Ok(1), "the other key is left");
    drop(engine);

    assert!(shell.cannot_decrypt(&blob).contains("does not exist"), "{}", shell.cannot_decrypt(&blob));
    shell.older_databases_yield_nothing(&blob, &other);
}
