//! Where a passphrase comes from: a prompt, a file, a command or a descriptor. Never an argument and never the value
//! of an environment variable, since other users and child processes can read both.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use zeroize::Zeroizing;

use super::exit::{CliError, CliResult, Exit};
use super::terminal;
use crate::sys::process::inherited_fd;

/// Longest passphrase: more is a wrong file, not a passphrase.
const MAX_LEN: usize = 4096;
/// What a source of a secret has to be.
const ONE_LINE: &str = "its first line has to be the passphrase or the recovery key, and this user has to be able to read it; \
                        other ways: --passphrase-file, --passphrase-command, --passphrase-fd, --recovery-key-file, the terminal";
const HEADING: &str = "Unlocking the key manager";

/// The passphrase without its line end, wiped on drop.
pub type Passphrase = Zeroizing<Vec<u8>>;

/// The options that say where the passphrase comes from; at most one of them.
#[derive(Debug, Args, Default, Clone)]
#[group(multiple = false)]
pub struct UnlockFlags {
    /// Read the passphrase from the first line of FILE
    #[arg(long, global = true, value_name = "FILE", env = "KMSFS_PASSPHRASE_FILE", hide_env_values = true, help_heading = HEADING)]
    pub passphrase_file: Option<PathBuf>,
    /// Read the passphrase from the first line that COMMAND prints; it is run by sh
    #[arg(long, global = true, value_name = "COMMAND", env = "KMSFS_PASSPHRASE_COMMAND", hide_env_values = true, help_heading = HEADING)]
    pub passphrase_command: Option<String>,
    /// Read the passphrase from the first line of the open descriptor N
    #[arg(long, global = true, value_name = "N", help_heading = HEADING)]
    pub passphrase_fd: Option<RawFd>,
    /// Use the recovery key instead of the passphrase: read it from the first line of FILE
    #[arg(long, global = true, value_name = "FILE", help_heading = HEADING)]
    pub recovery_key_file: Option<PathBuf>,
}

impl UnlockFlags {
    fn named(&self) -> Vec<&'static str> {
        let sources = [
            ("--passphrase-file", self.passphrase_file.is_some()),
            ("--passphrase-command", self.passphrase_command.is_some()),
            ("--passphrase-fd", self.passphrase_fd.is_some()),
            ("--recovery-key-file", self.recovery_key_file.is_some()),
        ];
        sources.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// Whether a source was named.
    pub fn is_given(&self) -> bool {
        !self.named().is_empty()
    }

    /// Refuses two sources. The command line's parser sees only those on the same side of the subcommand.
    pub fn check(&self) -> CliResult<()> {
        match self.named()[..] {
            [first, second, ..] => {
                Err(CliError::usage(format_args!("{first} and {second} were both given, or set in the environment"))
                    .hint("give one of them: a second secret would not be used"))
            }
            _ => Ok(()),
        }
    }

    /// The passphrase from the named source; `None` if no source was named.
    pub fn read(&self) -> CliResult<Option<Passphrase>> {
        if let Some(path) = &self.passphrase_file {
            return from_file(path).map(Some);
        }
        if let Some(command) = &self.passphrase_command {
            return from_command(command).map(Some);
        }
        if let Some(fd) = self.passphrase_fd {
            let fd = inherited_fd(fd)
                .map_err(|e| CliError::usage(format_args!("--passphrase-fd {fd}: the descriptor is not open: {e}")))?;
            return first_line(File::from(fd), "the descriptor of --passphrase-fd").map(Some);
        }
        Ok(None)
    }
}

/// The first line of `path`.
pub fn from_file(path: &Path) -> CliResult<Passphrase> {
    let file = File::open(path).map_err(|e| CliError::io(path, "read the secret from", &e).hint(ONE_LINE))?;
    first_line(file, &path.display().to_string())
}

fn from_command(command: &str) -> CliResult<Passphrase> {
    let mut child =
        Command::new("/bin/sh").arg("-c").arg(command).stdout(Stdio::piped()).spawn().map_err(|e| {
            CliError::failure(format_args!("cannot run the passphrase command: {e}")).hint(try_it(command))
        })?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let passphrase = first_line(stdout, "the passphrase command");
    let status = child.wait().map_err(|e| CliError::failure(format_args!("the passphrase command: {e}")))?;
    if !status.success() {
        return Err(CliError::failure(format_args!("the passphrase command failed: {status}")).hint(try_it(command)));
    }
    passphrase
}

fn try_it(command: &str) -> String {
    format!(
        "it has to print the passphrase and to end with status 0; try it: sh -c '{}'",
        command.replace('\'', r"'\''")
    )
}

fn first_line(mut source: impl Read, name: &str) -> CliResult<Passphrase> {
    // Reserved at once: a growing vector would leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_LEN + 1));
    let read = source.by_ref().take(MAX_LEN as u64 + 1).read_to_end(&mut text);
    read.map_err(|e| CliError::failure(format_args!("cannot read the secret from {name}: {e}")).hint(ONE_LINE))?;
    let end = text.iter().position(|&b| b == b'\n').unwrap_or(text.len());
    if end > MAX_LEN {
        return Err(CliError::usage(format_args!("{name} holds a line of more than {MAX_LEN} bytes: no passphrase"))
            .hint(ONE_LINE));
    }
    text.truncate(end);
    if text.last() == Some(&b'\r') {
        text.pop();
    }
    if text.is_empty() {
        return Err(CliError::usage(format_args!("{name} holds no passphrase: its first line is empty")).hint(ONE_LINE));
    }
    Ok(text)
}

/// Whether somebody sits at the terminal who can be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks for an existing secret.
pub fn ask(prompt: &str) -> CliResult<Passphrase> {
    let text = terminal::kept(|| rpassword::prompt_password(format!("{prompt}: "))).map_err(|e| match e.kind() {
        io::ErrorKind::Interrupted => CliError::new(Exit::Interrupted, "Interrupted", "nothing was entered"),
        _ => CliError::failure(format_args!("cannot read from the terminal: {e}")),
    })?;
    Ok(Zeroizing::new(text.into_bytes()))
}

/// Asks twice for a new passphrase, until both answers are equal.
pub fn ask_new(what: &str) -> CliResult<Passphrase> {
    for _ in 0..3 {
        let first = ask(&format!("New passphrase for {what}"))?;
        if first.is_empty() {
            super::output::write_stderr("An empty passphrase protects nothing; try again.");
            continue;
        }
        if ask("The same again")? == first {
            return Ok(first);
        }
        super::output::write_stderr("The two differ; try again.");
    }
    Err(CliError::usage("no passphrase was set after three attempts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sources_are_refused() {
        let mut flags = UnlockFlags { passphrase_fd: Some(3), ..UnlockFlags::default() };
        flags.check().expect("one source");
        flags.recovery_key_file = Some("key".into());
        let e = flags.check().expect_err("two sources");
        assert_eq!(e.exit, Exit::Usage);
        assert!(e.message.contains("--passphrase-fd and --recovery-key-file"), "{}", e.message);
    }

    fn line(bytes: &[u8]) -> CliResult<Passphrase> {
        first_line(bytes, "test")
    }

    #[test]
    fn only_the_line_end_is_removed() {
        for (text, expected) in [
            (&b"pw"[..], &b"pw"[..]),
            (b"pw\n", b"pw"),
            (b"pw\r\nrest", b"pw"),
            (b" p w \n", b" p w "),
            (b"\xff\n", b"\xff"),
        ] {
            assert_eq!(line(text).expect("valid").as_slice(), expected);
        }
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert!(line(b"").is_err());
        assert!(line(b"\npw").is_err());
        assert!(line(&[b'x'; MAX_LEN]).is_ok());
        assert!(line(&[b'x'; MAX_LEN + 1]).is_err());
    }

    #[test]
    fn a_command_that_fails_gives_no_passphrase() {
        assert_eq!(from_command("echo pw").expect("valid").as_slice(), b"pw");
        let e = from_command("echo 'pw'; exit 3").expect_err("failed");
        assert_eq!((e.exit, e.message.as_str()), (Exit::Failure, "the passphrase command failed: exit status: 3"));
        assert!(e.hint.expect("hint").ends_with(r"sh -c 'echo '\''pw'\''; exit 3'"));
    }
}
