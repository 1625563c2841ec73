//! `kmsfs replica`: multi-Region keys.

use clap::{Args, Subcommand};
use serde_json::json;

use super::aws::to_json;
use super::exit::{CliResult, Exit};
use super::key::{control_name, describe};
use super::output::table;
use super::session::Session;
use super::settings::Settings;
use crate::kms::model::*;

/// Replicate multi-Region keys (key create --multi-region) to other Regions
#[derive(Debug, Subcommand)]
pub enum ReplicaCommand {
    /// Make a replica of a primary key in another Region
    Create(CreateArgs),
    /// List the Regions of a multi-Region key
    List(KeyArg),
    /// Make the replica in a Region the primary
    SetPrimary(KeyAndRegion),
}

/// `replica create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    place: KeyAndRegion,
    /// What the replica is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
}

/// A key and a Region.
#[derive(Debug, Args)]
pub struct KeyAndRegion {
    /// The primary: key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
    /// The replica's Region
    #[arg(value_name = "REGION")]
    to: String,
}

/// A key.
#[derive(Debug, Args)]
pub struct KeyArg {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &ReplicaCommand) -> CliResult {
    let session = Session::open(settings)?;
    let Session { engine, caller, .. } = &session;
    match command {
        ReplicaCommand::Create(args) => {
            let request = ReplicateKeyRequest {
                key_id: control_name(&session, &args.place.key)?,
                replica_region: args.place.to.clone(),
                description: args.description.clone(),
                ..Default::default()
            };
            let answer = engine.replicate_key(caller, request)?;
            settings.out.result(&to_json(&answer), || answer.replica_key_metadata.arn.to_string());
        }
        ReplicaCommand::List(args) => {
            let metadata = describe(&session, &args.key)?;
            let set = metadata.multi_region_configuration;
            settings.out.result(&json!({ "MultiRegionConfiguration": set }), || {
                let rows = set.iter().flat_map(|set| {
                    let replicas = set.replica_keys.iter().map(|key| (key, MultiRegionKeyType::Replica));
                    std::iter::once((&set.primary_key, MultiRegionKeyType::Primary)).chain(replicas)
                });
                let rows = rows.map(|(key, role)| vec![key.region.clone(), role.to_string(), key.arn.clone()]);
                table(&["REGION", "ROLE", "KEY ARN"], rows)
            });
        }
        ReplicaCommand::SetPrimary(args) => {
            let key_id = control_name(&session, &args.key)?;
            let request = UpdatePrimaryRegionRequest { key_id: key_id.clone(), primary_region: args.to.clone() };
            engine.update_primary_region(caller, request)?;
            let value = json!({ "KeyId": key_id, "PrimaryRegion": args.to });
            settings.out.result(&value, || format!("{} is the primary Region of {key_id}", args.to));
        }
    }
    Ok(Exit::Ok)
}
