//! `kmsfs kms slots`: what opens the key manager.

use std::cell::RefCell;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::backup::{self, BackupArgs, RestoreArgs, VerifyArgs};
use super::exit::{CliError, CliResult, Exit};
use super::operation::{self, OperationCommand};
use super::output::{somebody_sees, stdout_is_null, table, write_stdout};
use super::passphrase;
use super::session::{Session, new_passphrase_slot};
use super::settings::Settings;
use super::usage::{self, UsageArgs};
use crate::kms::custody::{CustodyError, Home, NewSlot, SlotInfo, SlotKind};
use crate::kms::rekey::Rekeyed;

/// The key manager itself: slots, and every operation of AWS KMS as `kms OPERATION --cli-input-json JSON`
#[derive(Debug, Subcommand)]
pub enum KmsCommand {
    /// Copy the database to a new file, while it is in use
    Backup(BackupArgs),
    /// Put a backup in the place of the database; the database that is there is kept beside it
    Restore(RestoreArgs),
    /// Read and authenticate the whole database, or a backup
    Verify(VerifyArgs),
    /// Make a new root key and seal everything anew, after the secret of a slot was stolen and its slot removed
    ///
    /// Whoever copied root.json and has a slot's secret opens the key manager as long as its root key is the same, whether
    /// or not the slot is still there. Of the slots only the one that opens the key manager for this command and the key
    /// file stay; a new recovery key is shown before anything changes. Nothing else may use the key manager meanwhile, and earlier backups of its
    /// database end. Keys that the thief could read from a copy of the database need new material: kmsfs key rotate.
    Rekey,
    /// Count keys and requests, and what AWS would charge for them
    Usage(UsageArgs),
    /// Passphrases, key files and recovery keys that open it
    #[command(subcommand)]
    Slots(SlotsCommand),
    /// Any operation of AWS KMS.
    #[command(flatten)]
    Operation(OperationCommand),
}

/// `kms slots`.
#[derive(Debug, Subcommand)]
pub enum SlotsCommand {
    /// List what opens the key manager; needs no passphrase
    List,
    /// Add a passphrase, the key file or a recovery key
    Add(AddArgs),
    /// Remove one; the last cannot be removed
    Remove(RemoveArgs),
}

/// `kms slots add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What to add
    #[arg(value_enum, value_name = "KIND")]
    kind: Kind,
    /// Read the new passphrase from the first line of FILE instead of the terminal
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<std::path::PathBuf>,
}

/// Kinds of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Another passphrase
    Passphrase,
    /// The file domain.key in the key manager's directory
    Keyfile,
    /// A recovery key, shown once
    Recovery,
}

/// `kms slots remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Number of the slot, from kms slots list
    #[arg(value_name = "ID")]
    id: u32,
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &KmsCommand) -> CliResult {
    match command {
        KmsCommand::Operation(command) => operation::run(settings, command),
        KmsCommand::Backup(args) => backup::backup(settings, args),
        KmsCommand::Restore(args) => backup::restore(settings, args),
        KmsCommand::Verify(args) => backup::verify(settings, args),
        KmsCommand::Rekey => rekey(settings),
        KmsCommand::Usage(args) => usage::run(settings, args),
        KmsCommand::Slots(SlotsCommand::List) => list(settings),
        KmsCommand::Slots(SlotsCommand::Add(args)) => add(settings, args),
        KmsCommand::Slots(SlotsCommand::Remove(args)) => remove(settings, args.id),
    }
}

fn list(settings: &Settings) -> CliResult {
    if !Home::exists(&settings.home)? {
        return Err(CustodyError::NotInitialised(settings.home.clone()).into());
    }
    let slots = Home::list_slots(&settings.home)?;
    let values: Vec<Value> = slots.iter().map(slot_json).collect();
    settings.out.result(&json!({"slots": values}), || {
        let rows = slots.iter().map(|s| vec![s.id.to_string(), word(s.kind).to_owned(), s.created.to_string()]);
        table(&["ID", "KIND", "CREATED"], rows)
    });
    Ok(Exit::Ok)
}

fn add(settings: &Settings, args: &AddArgs) -> CliResult {
    if args.new_passphrase_file.is_some() && args.kind != Kind::Passphrase {
        return Err(CliError::usage("--new-passphrase-file belongs to: kmsfs kms slots add passphrase"));
    }
    if args.kind == Kind::Recovery {
        somebody_sees("the recovery key")?;
    }
    let session = Session::open(settings)?;
    let slot = match (args.kind, &args.new_passphrase_file) {
        (Kind::Keyfile, _) => NewSlot::KeyFile,
        (Kind::Recovery, _) => NewSlot::Recovery,
        (Kind::Passphrase, Some(file)) => new_passphrase_slot(&passphrase::from_file(file)?),
        (Kind::Passphrase, None) if passphrase::can_ask() => {
            new_passphrase_slot(&passphrase::ask_new(&format!("the key manager at {}", settings.home.display()))?)
        }
        (Kind::Passphrase, None) => {
            return Err(CliError::usage("there is no terminal to ask for the new passphrase")
                .hint("give --new-passphrase-file FILE"));
        }
    };
    let (info, recovery) = session.engine.add_slot(&session.caller, slot)?;
    let recovery = recovery.map(|key| key.to_text());
    let mut value = slot_json(&info);
    match &recovery {
        Some(text) => {
            value["recovery_key"] = json!(text.as_str());
            let words = || format!("Added recovery key {}. It is shown only now:\n\n    {}\n", info.id, text.as_str());
            settings.out.result_once(&value, words).map_err(|error| remove_unseen(&session, info.id, &error))?;
        }
        None => settings.out.result(&value, || format!("Added slot {} ({}).", info.id, word(info.kind))),
    }
    if args.kind == Kind::Keyfile {
        settings.out.warning("the key file is no protection against somebody who has this disk");
    }
    Ok(Exit::Ok)
}

/// Shows `value`, or `words`, with the recovery key of a key manager that was just made.
///
/// # Errors
/// If it cannot be shown, and the slot of that key is gone.
pub fn show_first_recovery(settings: &Settings, session: &Session, value: &Value, words: String) -> CliResult<()> {
    let slots = session.engine.slots()?;
    let id = slots.iter().find(|slot| slot.kind == SlotKind::Recovery).map_or(0, |slot| slot.id);
    settings.out.result_once(value, || words).map_err(|error| remove_unseen(session, id, &error))?;
    if stdout_is_null() {
        settings.out.warning(format_args!(
            "stdout is closed or /dev/null, so nobody has seen the recovery key: remove it with: kmsfs kms slots remove {id}; and add \
             another with: kmsfs kms slots add recovery"
        ));
    }
    Ok(())
}

/// Removes the slot of a recovery key that could not be shown: nobody has it.
fn remove_unseen(session: &Session, id: u32, error: &CliError) -> CliError {
    const NEXT: &str =
        "what else was made stays; add a recovery key where it can be shown: kmsfs kms slots add recovery";
    let unseen =
        |what: String| CliError::failure(format_args!("{}: nobody has seen the recovery key, {what}", error.message));
    match session.engine.remove_slot(&session.caller, id) {
        Ok(()) => unseen(format!("so its slot {id} is removed")).hint(NEXT),
        Err(e) => unseen(format!("and its slot {id} stays: {e}"))
            .hint(format_args!("remove it with: kmsfs kms slots remove {id}; {NEXT}")),
    }
}

fn remove(settings: &Settings, id: u32) -> CliResult {
    let session = Session::open(settings)?;
    session.engine.remove_slot(&session.caller, id)?;
    settings.out.result(&json!({"id": id, "removed": true}), || format!("Removed slot {id}."));
    settings.out.note("Whoever copied the key manager's directory before can still open that copy with it.");
    Ok(Exit::Ok)
}

fn rekey(settings: &Settings) -> CliResult {
    // With --json the new recovery key is told on stderr, before anything changes.
    if !settings.out.is_json() && settings.unlock.recovery_key_file.is_none() {
        somebody_sees("the new recovery key")?;
    }
    let made = RefCell::new(None);
    let Rekeyed { home, kept, gone } = Session::rekey(settings, &|key| {
        let text = key.to_text();
        let words = "The new recovery key, which opens the key manager when this command is done";
        match settings.out.is_json() {
            // The result, which has it too, comes when all is done.
            true => settings.out.warning(format_args!("{words}: {}", text.as_str())),
            false => write_stdout(&format!("{words}; it is shown only now:\n\n    {}\n", text.as_str())),
        }
        made.replace(Some(text));
    })?;
    // What a start does: the record of this command goes to the audit log.
    drop(Session::start(settings, home)?);
    let list = |slots: &[SlotInfo]| slots.iter().map(slot_json).collect::<Vec<_>>();
    let mut value = json!({"kept": list(&kept), "gone": list(&gone)});
    if let Some(text) = made.take() {
        value["recovery_key"] = json!(text.as_str());
    }
    let words = |slots: &[SlotInfo]| {
        let all: Vec<String> = slots.iter().map(|slot| format!("{} ({})", slot.id, word(slot.kind))).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    };
    settings.out.result(&value, || {
        format!(
            "The key manager has a new root key.\nSlots that open it: {}\nSlots that are gone: {}",
            words(&kept),
            words(&gone)
        )
    });
    settings
        .out
        .note("Earlier backups of its database cannot be opened any more: make a new one (kmsfs kms backup FILE).");
    Ok(Exit::Ok)
}

fn slot_json(slot: &SlotInfo) -> Value {
    json!({"id": slot.id, "kind": word(slot.kind), "created": slot.created.to_string()})
}

fn word(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Passphrase => "passphrase",
        SlotKind::KeyFile => "keyfile",
        SlotKind::Recovery => "recovery",
    }
}
