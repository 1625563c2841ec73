//! The embedded key manager as a command sees it: found, unlocked, or created on first use.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::errors;
use super::exit::{CliError, CliResult, Exit};
use super::output::path_text;
use super::passphrase::{self, Passphrase as Secret};
use super::settings::Settings;
use crate::env::{SystemEntropy, system_clock};
use crate::keys::KeyService;
use crate::keys::embedded::EmbeddedKms;
use crate::keys::remote::{RemoteKms, Source};
use crate::kms::custody::{
    Argon2Params, CustodyError, Home, NewHome, NewSlot, Passphrase, RecoveryKey, SlotKind, Unlock,
};
use crate::kms::model::Caller;
use crate::kms::rekey::{Rekeyed, rekey};
use crate::kms::{Engine, lock_file};
use crate::sync::Arc;
use crate::sys::user;
use crate::types::{AccountId, Region, VolumeId};

/// The Region of a key manager that was made without one.
const DEFAULT_REGION: &str = "us-east-1";
/// The account of a key manager that was made without one.
const DEFAULT_ACCOUNT: &str = "000000000000";
/// How often a terminal is asked for the passphrase.
const ATTEMPTS: u32 = 3;
/// Name of the passphrase among systemd's credentials (`LoadCredentialEncrypted=kmsfs-passphrase:...`).
const CREDENTIAL: &str = "kmsfs-passphrase";

/// How a first use creates the key manager.
#[derive(Debug, Args, Default, Clone)]
pub struct CreateFlags {
    /// Let a key file in the key manager's directory open it (new key manager only): convenient, but no protection
    /// against somebody who has the disk
    #[arg(long)]
    pub keyfile: bool,
    /// Twelve digits that the key ARNs carry (new key manager only) [default: 000000000000]
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<AccountId>,
}

/// An unlocked key manager and the user of this command as its caller.
pub struct Session {
    /// The key manager.
    pub engine: Engine,
    /// The user.
    pub caller: Caller,
    /// URL and Region of the key manager of volumes, if it is another one.
    endpoint: Option<(String, Region)>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:?})", self.caller)
    }
}

impl Session {
    /// Opens the key manager of the settings; exit 10 if there is none.
    pub fn open(settings: &Settings) -> CliResult<Self> {
        if !Home::exists(&settings.home)? {
            return Err(CustodyError::NotInitialised(settings.home.clone()).into());
        }
        let home = unlock(settings)?;
        Self::start(settings, home)
    }

    /// As [`Self::open`], for the volume at `root`, which a new key manager could not open.
    pub fn open_for(settings: &Settings, root: &Path) -> CliResult<Self> {
        if Home::exists(&settings.home)? {
            return Self::open(settings);
        }
        let missing = CliError::from(CustodyError::NotInitialised(settings.home.clone()));
        Err(missing.hint(errors::lost_home(root, settings.kms_endpoint.is_some())))
    }

    /// As [`Self::open`], for a database that is not the one last written: the user restored it.
    pub fn open_accepting(settings: &Settings) -> CliResult<()> {
        if !Home::exists(&settings.home)? {
            return Err(CustodyError::NotInitialised(settings.home.clone()).into());
        }
        Engine::start_accepting(unlock(settings)?, system_clock(), Arc::new(SystemEntropy))?;
        Ok(())
    }

    /// Gives the key manager's home a new root key; `announce` hears the recovery key that will open it, if it is new.
    pub fn rekey(settings: &Settings, announce: &dyn Fn(&RecoveryKey)) -> CliResult<Rekeyed> {
        if !Home::exists(&settings.home)? {
            return Err(CustodyError::NotInitialised(settings.home.clone()).into());
        }
        let done = unlock_with(settings, |dir, unlock| {
            Home::unlock(dir, unlock).map(|home| rekey(&home, unlock, &*system_clock(), &SystemEntropy, announce))
        })?;
        Ok(done?)
    }

    /// The key manager's home, unlocked, whether or not its database is there.
    pub fn unlock_without_database(settings: &Settings) -> CliResult<Home> {
        unlock_with(settings, Home::unlock_without_database)
    }

    /// Opens the key manager, or creates it on first use; then the recovery key is in the result, to be shown once.
    pub fn open_or_create(settings: &Settings, flags: &CreateFlags) -> CliResult<(Self, Option<RecoveryKey>)> {
        if Home::exists(&settings.home)? {
            return Ok((Self::open(settings)?, None));
        }
        let region = parse_region(settings.region.as_deref().unwrap_or(DEFAULT_REGION))?;
        let account = match &flags.account {
            Some(account) => account.clone(),
            None => DEFAULT_ACCOUNT.parse().expect("twelve digits"),
        };
        let slots = vec![first_slot(settings, flags)?];
        let new = NewHome { account, region, slots };
        let (home, recovery) = Home::create(&settings.home, new, &*system_clock(), &SystemEntropy)?;
        Ok((Self::start(settings, home)?, Some(recovery)))
    }

    /// Opens the key manager to look at it, if that takes no question; `None` if it does, or if there is none. Another process that
    /// hangs keeps nobody from that.
    pub fn open_quietly(settings: &Settings) -> Option<CliResult<Self>> {
        let unlock = &settings.unlock;
        let silent = unlock.is_given() || credential().is_some() || Home::has_key_file(&settings.home);
        lock_file::wait_briefly();
        match Home::exists(&settings.home) {
            Ok(exists) => (exists && silent).then(|| Self::open(settings)),
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Opens the key manager in an unlocked home.
    pub fn start(settings: &Settings, home: Home) -> CliResult<Self> {
        let engine = Engine::start(home, system_clock(), Arc::new(SystemEntropy))?;
        engine.audit().set_mode(settings.audit);
        engine.set_resource_quotas(settings.quotas);
        let mut caller = engine.local_caller(&user::own_name());
        if let Some(region) = &settings.region {
            caller = Caller::local(caller.principal().clone(), parse_region(region)?);
        }
        let endpoint = match &settings.kms_endpoint {
            Some(url) => Some((url.clone(), remote_region(settings)?)),
            None => None,
        };
        Ok(Self { engine, caller, endpoint })
    }

    /// What wraps the keys of `volume`: the key manager at `--kms-endpoint`, else the embedded one with the volume as caller.
    pub fn key_service(&self, volume: &VolumeId) -> CliResult<Arc<dyn KeyService>> {
        Ok(match &self.endpoint {
            Some((url, region)) => Arc::new(remote(url, region.clone())?),
            None => Arc::new(EmbeddedKms::new(self.engine.clone(), volume)),
        })
    }
}

/// The key manager at `url`, with the credentials and the authorities of the AWS tools.
pub fn remote(url: &str, region: Region) -> CliResult<RemoteKms> {
    let ca_bundle = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(RemoteKms::new(url, region, Source::Environment, ca_bundle.as_deref(), system_clock())?)
}

/// The Region of keys at `--kms-endpoint`: `--region`, or that of the AWS tools.
pub fn remote_region(settings: &Settings) -> CliResult<Region> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let named = settings.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
    parse_region(named.as_deref().unwrap_or(DEFAULT_REGION))
}

fn parse_region(text: &str) -> CliResult<Region> {
    text.parse().map_err(|e| CliError::usage(format_args!("--region: {e}")))
}

/// The slot that a new key manager is opened with from now on.
fn first_slot(settings: &Settings, flags: &CreateFlags) -> CliResult<NewSlot> {
    let given = settings.unlock.read()?;
    match (flags.keyfile, given) {
        (true, Some(_)) => Err(CliError::usage("--keyfile and a passphrase source were both given; choose one")),
        (true, None) => Ok(NewSlot::KeyFile),
        (false, Some(secret)) => Ok(new_passphrase_slot(&secret)),
        (false, None) if settings.unlock.recovery_key_file.is_some() => Err(CliError::new(
            Exit::NotInitialised,
            "NotInitialised",
            format_args!("there is no key manager at {} that a recovery key could open", settings.home.display()),
        )
        .hint(
            "if it is elsewhere, name its directory: --kms-home DIR or KMSFS_HOME; a recovery bundle makes a new one: \
             kmsfs recover BUNDLE DIR",
        )),
        (false, None) => match credential() {
            Some(path) => Ok(new_passphrase_slot(&passphrase::from_file(&path)?)),
            None if passphrase::can_ask() => {
                let what = format!("the key manager at {}", settings.home.display());
                Ok(new_passphrase_slot(&passphrase::ask_new(&what)?))
            }
            None => Err(CliError::usage(format_args!(
                "a new key manager at {} needs something that opens it, and there is no terminal to ask for a passphrase",
                settings.home.display()
            ))
            .hint("give --passphrase-file FILE, --passphrase-command COMMAND, --passphrase-fd N, or --keyfile")),
        },
    }
}

/// A passphrase slot with parameters measured on this computer.
pub fn new_passphrase_slot(secret: &Secret) -> NewSlot {
    NewSlot::Passphrase(Passphrase::new(secret.to_vec()), Argon2Params::calibrated())
}

/// A passphrase that systemd has put into this service's credentials.
fn credential() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
    path.is_file().then_some(path)
}

/// Named source, systemd credential, key file, terminal: the first that there is.
fn unlock(settings: &Settings) -> CliResult<Home> {
    unlock_with(settings, Home::unlock)
}

fn unlock_with<T>(settings: &Settings, open: impl Fn(&Path, &Unlock) -> Result<T, CustodyError>) -> CliResult<T> {
    let dir = &settings.home;
    let try_secret = |secret: &Secret| open(dir, &Unlock::Passphrase(Passphrase::new(secret.to_vec())));
    if let Some(file) = &settings.unlock.recovery_key_file {
        let text = passphrase::from_file(file)?;
        let text =
            std::str::from_utf8(&text).map_err(|_| CliError::from(CustodyError::WrongSecret(SlotKind::Recovery)))?;
        return Ok(open(dir, &Unlock::Recovery(RecoveryKey::parse(text)?))?);
    }
    if let Some(secret) = settings.unlock.read()? {
        return Ok(try_secret(&secret)?);
    }
    if let Some(path) = credential() {
        return Ok(try_secret(&passphrase::from_file(&path)?)?);
    }
    if Home::has_key_file(dir) {
        return Ok(open(dir, &Unlock::KeyFile)?);
    }
    if !passphrase::can_ask() {
        return Err(CliError::usage(format_args!(
            "the key manager at {} is locked, and there is no terminal to ask for the passphrase",
            dir.display()
        ))
        .hint("give --passphrase-file FILE, --passphrase-command COMMAND or --passphrase-fd N"));
    }
    let mut attempt = 1;
    loop {
        let secret = passphrase::ask(&format!("Passphrase of the key manager at {}", dir.display()))?;
        match try_secret(&secret) {
            Err(CustodyError::WrongSecret(_)) if attempt < ATTEMPTS => {
                super::output::write_stderr("Wrong passphrase; try again.");
                attempt += 1;
            }
            done => return Ok(done?),
        }
    }
}

/// What people are told once when a key manager was made.
pub fn created_words(home: &Path, recovery: &str, keyfile: bool) -> String {
    let mut text = format!(
        "Created the key manager at {}.\n\nRecovery key (shown only now; print it and keep it away from this computer):\n\n    {recovery}",
        home.display()
    );
    if keyfile {
        text.push_str(&format!(
            "\n\nThe key file {} opens it without a question. That is no protection against somebody\n\
             who has this disk; `kmsfs kms slots add passphrase` adds a passphrase.",
            home.join("domain.key").display()
        ));
    }
    text
}

/// The same for scripts.
pub fn created_json(home: &Path, recovery: &str, keyfile: bool) -> serde_json::Value {
    json!({"kms_home": path_text(home), "recovery_key": recovery, "slot": if keyfile { "keyfile" } else { "passphrase" }})
}
