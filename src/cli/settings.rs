//! Settings that every command shares. A flag beats the environment, which beats the configuration file, which beats
//! the default.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use serde::Deserialize;

use super::exit::{CliError, CliResult};
use super::output::Output;
use super::passphrase::UnlockFlags;

const HEADING: &str = "Global options";

/// The flags and `KMSFS_*` variables that every command takes.
#[derive(Debug, Args, Default)]
pub struct GlobalFlags {
    /// Directory of the key manager [default: $XDG_DATA_HOME/kmsfs, for root /var/lib/kmsfs]
    #[arg(long, global = true, value_name = "DIR", env = "KMSFS_HOME", hide_env_values = true, help_heading = HEADING)]
    pub kms_home: Option<PathBuf>,
    /// Key manager behind AWS's wire protocol that wraps the keys of volumes, instead of the local one: kmsfs serve, AWS KMS.
    /// Credentials come from the AWS_* variables or the shared credentials file
    #[arg(long, global = true, value_name = "URL", env = "KMSFS_KMS_ENDPOINT", hide_env_values = true, help_heading = HEADING)]
    pub kms_endpoint: Option<String>,
    /// Region that key names without one belong to [default: us-east-1]
    #[arg(long, global = true, value_name = "REGION", env = "KMSFS_REGION", hide_env_values = true, help_heading = HEADING)]
    pub region: Option<String>,
    /// error, warn, info, debug or trace, or a filter such as kmsfs::kms=debug
    #[arg(long, global = true, value_name = "LEVEL", env = "KMSFS_LOG_LEVEL", hide_env_values = true, help_heading = HEADING)]
    pub log_level: Option<String>,
    /// Configuration file [default: $XDG_CONFIG_HOME/kmsfs/config.toml, then /etc/kmsfs/config.toml]
    #[arg(long, global = true, value_name = "FILE", env = "KMSFS_CONFIG", hide_env_values = true, help_heading = HEADING)]
    pub config: Option<PathBuf>,
    /// Print results as JSON on stdout, errors as JSON lines on stderr
    #[arg(long, global = true, env = "KMSFS_JSON", hide_env_values = true, value_parser = FalseyValueParser::new(), help_heading = HEADING)]
    pub json: bool,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub unlock: UnlockFlags,
}

/// The configuration file. A field that is not listed here is refused, so that a misspelt one is noticed.
#[derive(Debug, Deserialize, Default, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ConfigFile {
    kms_home: Option<PathBuf>,
    kms_endpoint: Option<String>,
    region: Option<String>,
    log_level: Option<String>,
    json: Option<bool>,
    passphrase_file: Option<PathBuf>,
    passphrase_command: Option<String>,
}

/// The settings in force.
#[derive(Debug)]
pub struct Settings {
    /// Directory of the key manager; absolute.
    pub home: PathBuf,
    /// URL of the key manager that wraps the keys of volumes; the local one if none is set.
    pub kms_endpoint: Option<String>,
    /// Region for key names without one; the key manager's own default if none is set.
    pub region: Option<String>,
    /// Log filter, if one was set.
    pub log_level: Option<String>,
    /// How the command speaks.
    pub out: Output,
    /// Where the passphrase comes from.
    pub unlock: UnlockFlags,
}

impl Settings {
    /// Merges flags and environment with the configuration file and the defaults.
    pub fn resolve(flags: GlobalFlags) -> CliResult<Self> {
        let file = read_config(flags.config.as_deref())?;
        let home = match non_empty(flags.kms_home).or_else(|| non_empty(file.kms_home)) {
            Some(home) => home,
            None => default_home()?,
        };
        let home = std::path::absolute(&home).map_err(|e| CliError::io(&home, "use", &e))?;
        let mut unlock = flags.unlock;
        unlock.check()?;
        if !unlock.is_given() {
            unlock.passphrase_file = file.passphrase_file;
            unlock.passphrase_command = file.passphrase_command;
            if unlock.passphrase_file.is_some() && unlock.passphrase_command.is_some() {
                return Err(CliError::usage(
                    "the configuration file sets both passphrase-file and passphrase-command; keep one",
                ));
            }
        }
        Ok(Self {
            home,
            kms_endpoint: flags.kms_endpoint.or(file.kms_endpoint).filter(|url| !url.is_empty()),
            region: flags.region.filter(|r| !r.is_empty()).or(file.region),
            log_level: flags.log_level.filter(|l| !l.is_empty()).or(file.log_level),
            out: Output::new(flags.json || file.json.unwrap_or(false)),
            unlock,
        })
    }

    /// Refuses a command that works on the local key manager only, while volumes are to use another one.
    pub fn local_only(&self, command: &str) -> CliResult<()> {
        match &self.kms_endpoint {
            None => Ok(()),
            Some(url) => Err(CliError::usage(format_args!("{command} works on the local key manager, not on that at {url}"))
                .hint(format_args!(
                    "use kmsfs kms OPERATION --cli-input-json JSON or aws kms --endpoint-url {url}; for the local one leave \
                     out --kms-endpoint and unset KMSFS_KMS_ENDPOINT"
                ))),
        }
    }
}

fn non_empty(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|p| !p.as_os_str().is_empty())
}

/// A directory from the environment; by the XDG rules a relative or empty value counts as unset.
fn xdg_dir(name: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |v: std::ffi::OsString| Some(PathBuf::from(v)).filter(|p| p.is_absolute());
    env::var_os(name)
        .and_then(absolute)
        .or_else(|| env::var_os("HOME").and_then(absolute).map(|home| home.join(below_home)))
}

fn default_home() -> CliResult<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/kmsfs"));
    }
    xdg_dir("XDG_DATA_HOME", ".local/share").map(|dir| dir.join("kmsfs")).ok_or_else(|| {
        CliError::usage("there is no home directory to keep the key manager in")
            .hint("name one with --kms-home DIR or KMSFS_HOME")
    })
}

fn read_config(named: Option<&Path>) -> CliResult<ConfigFile> {
    if let Some(path) = named.filter(|p| !p.as_os_str().is_empty()) {
        let text = fs::read_to_string(path).map_err(|e| CliError::io(path, "read the configuration file", &e))?;
        return parse_config(path, &text);
    }
    let candidates = [
        xdg_dir("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("kmsfs/config.toml")),
        Some(PathBuf::from("/etc/kmsfs/config.toml")),
    ];
    for path in candidates.into_iter().flatten() {
        match fs::read_to_string(&path) {
            Ok(text) => return parse_config(&path, &text),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(CliError::io(&path, "read the configuration file", &e)),
        }
    }
    Ok(ConfigFile::default())
}

fn parse_config(path: &Path, text: &str) -> CliResult<ConfigFile> {
    toml::from_str(text).map_err(|e| {
        CliError::usage(format_args!("{} is not a valid configuration file: {}", path.display(), e.to_string().trim()))
            .hint("the known fields are listed in docs/CLI.md")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_refused() {
        let e = parse_config(Path::new("c.toml"), "regoin = \"x\"\n").expect_err("misspelt");
        assert!(e.message.contains("regoin"), "{}", e.message);
        assert_eq!(e.exit, super::super::exit::Exit::Usage);
    }

    #[test]
    fn a_flag_beats_the_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("config.toml");
        fs::write(&path, "region = \"eu-west-1\"\nkms-home = \"/from/file\"\njson = true\n").expect("write");
        let flags = |kms_home: Option<&str>| GlobalFlags {
            config: Some(path.clone()),
            kms_home: kms_home.map(PathBuf::from),
            ..GlobalFlags::default()
        };
        let file_only = Settings::resolve(flags(None)).expect("valid");
        assert_eq!(
            (file_only.home.as_path(), file_only.region.as_deref()),
            (Path::new("/from/file"), Some("eu-west-1"))
        );
        assert!(file_only.out.is_json());
        let both = Settings::resolve(flags(Some("/from/flag"))).expect("valid");
        assert_eq!(both.home, Path::new("/from/flag"));
    }

    #[test]
    fn a_flag_for_the_passphrase_replaces_the_files_source() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("config.toml");
        fs::write(&path, "passphrase-file = \"/a\"\n").expect("write");
        let mut flags = GlobalFlags { config: Some(path.clone()), ..GlobalFlags::default() };
        flags.unlock.passphrase_command = Some("pass show kmsfs".into());
        let settings = Settings::resolve(flags).expect("valid");
        assert_eq!(settings.unlock.passphrase_file, None);
        let settings = Settings::resolve(GlobalFlags { config: Some(path), ..GlobalFlags::default() }).expect("valid");
        assert_eq!(settings.unlock.passphrase_file.as_deref(), Some(Path::new("/a")));
    }
}
