//! `kmsfs key-store`: custom key stores on PKCS#11 tokens.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::aws::to_json;
use super::exit::{CliError, CliResult, Exit};
use super::output::table;
use super::passphrase;
use super::session::Session;
use super::settings::Settings;
use crate::kms::model::*;

/// Keep keys in a PKCS#11 token (custom key stores)
#[derive(Debug, Subcommand)]
pub enum KeyStoreCommand {
    /// Make a key store on a token; connect it afterwards
    Create(CreateArgs),
    /// Log in to the token, so that its keys can be used
    Connect(StoreArg),
    /// Log out; the keys are unavailable until the key store is connected again
    Disconnect(StoreArg),
    /// Show one key store, or all
    Describe(DescribeArgs),
    /// Change the name, or of a disconnected key store the password or the token
    Update(UpdateArgs),
    /// Delete a disconnected key store that has no keys; the token stays as it is
    Delete(StoreArg),
}

/// `key-store create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the key store
    #[arg(value_name = "NAME")]
    name: String,
    /// The token's PKCS#11 module: its code runs in the processes of the key manager
    #[arg(long, value_name = "PATH", requires = "token_label", required_unless_present = "cluster")]
    module: Option<PathBuf>,
    /// Label of the token
    #[arg(long, value_name = "LABEL", requires = "module")]
    token_label: Option<String>,
    /// A cluster id that was made for a token before, instead of module and label
    #[arg(long, value_name = "ID", conflicts_with = "module")]
    cluster: Option<String>,
    /// Read the token's user PIN from the first line of FILE
    #[arg(long, value_name = "FILE")]
    pin_file: PathBuf,
    /// A certificate to be kept with the token; later key stores on it must name the same
    #[arg(long, value_name = "FILE")]
    trust_anchor: Option<PathBuf>,
}

/// A command that takes a key store and nothing else.
#[derive(Debug, Args)]
pub struct StoreArg {
    /// Name or id of the key store
    #[arg(value_name = "STORE")]
    store: String,
}

/// `key-store describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// Name or id of the key store [default: all]
    #[arg(value_name = "STORE")]
    store: Option<String>,
}

/// `key-store update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Name or id of the key store
    #[arg(value_name = "STORE")]
    store: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Read the token's present user PIN from the first line of FILE
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// Another cluster id of the same token
    #[arg(long, value_name = "ID")]
    cluster: Option<String>,
}

fn pin(path: &Path) -> CliResult<KeyStorePassword> {
    let line = passphrase::from_file(path)?;
    let text = std::str::from_utf8(&line);
    text.map(KeyStorePassword::from)
        .map_err(|_| CliError::usage(format_args!("{}: the PIN is not text", path.display())))
}

/// The key stores of the account and Region.
fn all(session: &Session) -> CliResult<Vec<CustomKeyStoresListEntry>> {
    let request = DescribeCustomKeyStoresRequest { limit: Some(1000), ..Default::default() };
    Ok(session.engine.describe_custom_key_stores(&session.caller, request)?.custom_key_stores)
}

/// The id of the key store that `text` names.
pub fn store_id(session: &Session, text: &str) -> CliResult<String> {
    let named = all(session)?.into_iter().find(|store| store.custom_key_store_name == text);
    Ok(named.map_or_else(|| text.to_owned(), |store| store.custom_key_store_id))
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &KeyStoreCommand) -> CliResult {
    let session = Session::open(settings)?;
    let Session { engine, caller, .. } = &session;
    match command {
        KeyStoreCommand::Create(args) => create(settings, &session, args),
        KeyStoreCommand::Connect(args) => {
            let id = store_id(&session, &args.store)?;
            engine.connect_custom_key_store(caller, id.as_str().into())?;
            let store = all(&session)?.into_iter().find(|store| store.custom_key_store_id == id);
            match store {
                Some(CustomKeyStoresListEntry { connection_error_code: Some(code), .. }) => Err(CliError::new(
                    Exit::KmsUnavailable,
                    "CustomKeyStoreNotConnected",
                    format_args!("{} could not be connected: {code}", args.store),
                )
                .hint(format_args!("set that right, then: kmsfs key-store disconnect {id}, and connect it again"))),
                _ => changed(settings, &id, ConnectionState::Connected),
            }
        }
        KeyStoreCommand::Disconnect(args) => {
            let id = store_id(&session, &args.store)?;
            engine.disconnect_custom_key_store(caller, id.as_str().into())?;
            changed(settings, &id, ConnectionState::Disconnected)
        }
        KeyStoreCommand::Describe(args) => describe(settings, &session, args),
        KeyStoreCommand::Update(args) => {
            let id = store_id(&session, &args.store)?;
            let request = UpdateCustomKeyStoreRequest {
                custom_key_store_id: id.clone(),
                new_custom_key_store_name: args.name.clone(),
                key_store_password: args.pin_file.as_deref().map(pin).transpose()?,
                cloud_hsm_cluster_id: args.cluster.clone(),
            };
            engine.update_custom_key_store(caller, request)?;
            settings.out.result(&json!({ "CustomKeyStoreId": id }), || format!("{id} is updated"));
            Ok(Exit::Ok)
        }
        KeyStoreCommand::Delete(args) => {
            let id = store_id(&session, &args.store)?;
            engine.delete_custom_key_store(caller, id.as_str().into())?;
            settings.out.result(&json!({ "CustomKeyStoreId": id }), || format!("{id} is deleted"));
            Ok(Exit::Ok)
        }
    }
}

fn changed(settings: &Settings, id: &str, state: ConnectionState) -> CliResult {
    let value = json!({ "CustomKeyStoreId": id, "ConnectionState": state });
    settings.out.result(&value, || format!("{id} is {state}"));
    Ok(Exit::Ok)
}

fn create(settings: &Settings, session: &Session, args: &CreateArgs) -> CliResult {
    let Session { engine, caller, .. } = session;
    let cluster = match (&args.module, &args.token_label, &args.cluster) {
        (Some(module), Some(label), _) => engine.add_cluster(caller, module, label)?.cloud_hsm_cluster_id,
        (_, _, Some(cluster)) => cluster.clone(),
        _ => return Err(CliError::usage("name the token by --module and --token-label, or by --cluster")),
    };
    let trust_anchor = match &args.trust_anchor {
        Some(path) => fs::read_to_string(path).map_err(|error| CliError::io(path, "read", &error))?,
        // AWS's API wants one; a PKCS#11 token has none.
        None => "none".to_owned(),
    };
    let request = CreateCustomKeyStoreRequest {
        custom_key_store_name: args.name.clone(),
        custom_key_store_type: None,
        cloud_hsm_cluster_id: Some(cluster),
        trust_anchor_certificate: Some(trust_anchor),
        key_store_password: Some(pin(&args.pin_file)?),
    };
    let answer = engine.create_custom_key_store(caller, request)?;
    settings.out.result(&to_json(&answer), || answer.custom_key_store_id.clone());
    settings.out.note(format_args!("Connect it with: kmsfs key-store connect {}", answer.custom_key_store_id));
    Ok(Exit::Ok)
}

fn describe(settings: &Settings, session: &Session, args: &DescribeArgs) -> CliResult {
    let mut stores = all(session)?;
    if let Some(store) = &args.store {
        stores.retain(|entry| entry.custom_key_store_id == *store || entry.custom_key_store_name == *store);
        if stores.is_empty() {
            return Err(CliError::failure(format_args!("there is no key store {store}"))
                .hint("kmsfs key-store describe shows all"));
        }
    }
    let clusters = session.engine.clusters()?;
    settings.out.result(&json!({ "CustomKeyStores": to_json(&stores), "Clusters": to_json(&clusters) }), || {
        let token = |id: &str| {
            let cluster = clusters.iter().find(|cluster| cluster.cloud_hsm_cluster_id == id);
            cluster.map(|cluster| format!("{} in {}", cluster.token_label, cluster.module)).unwrap_or_default()
        };
        let rows = stores.iter().map(|store| {
            let error = store.connection_error_code.map(|code| format!(" ({code})")).unwrap_or_default();
            vec![
                store.custom_key_store_name.clone(),
                store.custom_key_store_id.clone(),
                format!("{}{error}", store.connection_state),
                token(&store.cloud_hsm_cluster_id),
            ]
        });
        table(&["NAME", "ID", "STATE", "TOKEN"], rows)
    });
    Ok(Exit::Ok)
}
