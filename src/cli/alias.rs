//! `kmsfs alias`: names for KMS keys.

use clap::{Args, Subcommand};
use serde_json::json;

use super::aws::{alias_name, to_json};
use super::exit::{CliResult, Exit};
use super::key::{all_aliases, control_name};
use super::output::table;
use super::session::Session;
use super::settings::Settings;
use crate::kms::model::{CreateAliasRequest, DeleteAliasRequest, UpdateAliasRequest};

/// Name KMS keys
#[derive(Debug, Subcommand)]
pub enum AliasCommand {
    /// Give a key a name
    Create(AliasAndKey),
    /// Point an alias at another key; what is encrypted under the old one stays readable
    Update(AliasAndKey),
    /// Remove a name; the key stays
    Delete(AliasArg),
    /// List the aliases of the account and Region, or of one key
    List(ListArgs),
}

/// `alias create` and `alias update`.
#[derive(Debug, Args)]
pub struct AliasAndKey {
    /// NAME or alias/NAME
    #[arg(value_name = "ALIAS")]
    alias: String,
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
}

/// `alias delete`.
#[derive(Debug, Args)]
pub struct AliasArg {
    /// NAME or alias/NAME
    #[arg(value_name = "ALIAS")]
    alias: String,
}

/// `alias list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only the aliases of KEY
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &AliasCommand) -> CliResult {
    settings.local_only("kmsfs alias")?;
    let session = Session::open(settings)?;
    let Session { engine, caller, .. } = &session;
    let set = |alias_name: &str, target: &str| {
        let value = json!({"AliasName": alias_name, "TargetKeyId": target});
        settings.out.result(&value, || format!("{alias_name} names {target}"));
        Ok(Exit::Ok)
    };
    match command {
        AliasCommand::Create(args) => {
            let (alias_name, target_key_id) = (alias_name(&args.alias), control_name(&session, &args.key)?);
            let request = CreateAliasRequest { alias_name: alias_name.clone(), target_key_id: target_key_id.clone() };
            engine.create_alias(caller, request)?;
            set(&alias_name, &target_key_id)
        }
        AliasCommand::Update(args) => {
            let (alias_name, target_key_id) = (alias_name(&args.alias), control_name(&session, &args.key)?);
            let request = UpdateAliasRequest { alias_name: alias_name.clone(), target_key_id: target_key_id.clone() };
            engine.update_alias(caller, request)?;
            set(&alias_name, &target_key_id)
        }
        AliasCommand::Delete(args) => {
            let alias_name = alias_name(&args.alias);
            engine.delete_alias(caller, DeleteAliasRequest { alias_name: alias_name.clone() })?;
            settings.out.result(&json!({"AliasName": alias_name}), || format!("{alias_name} is deleted"));
            Ok(Exit::Ok)
        }
        AliasCommand::List(args) => {
            let key = args.key.as_deref().map(|key| control_name(&session, key)).transpose()?;
            let aliases = all_aliases(&session, key.as_deref())?;
            settings.out.result(&json!({"Aliases": to_json(&aliases)}), || {
                let rows = aliases
                    .iter()
                    .map(|a| vec![a.alias_name.clone(), a.target_key_id.clone(), a.last_updated_date.to_string()]);
                table(&["ALIAS", "KEY ID", "UPDATED"], rows)
            });
            Ok(Exit::Ok)
        }
    }
}
