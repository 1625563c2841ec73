//! `kmsfs import`: key material that the user brings.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::aws::to_json;
use super::exit::{CliError, CliResult, Exit};
use super::key::control_name;
use super::session::Session;
use super::settings::Settings;
use crate::env::system_clock;
use crate::kms::model::*;

/// Import key material into a key of origin EXTERNAL
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Get a wrapping key and the import token that goes with it; both are good for 24 hours
    Parameters(ParametersArgs),
    /// Import material that was wrapped with the wrapping key
    Material(MaterialArgs),
    /// Delete imported material; only the same material can be imported again
    Delete(DeleteArgs),
}

/// `import parameters`.
#[derive(Debug, Args)]
pub struct ParametersArgs {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
    /// How the material will be wrapped: RSAES_OAEP_SHA_256, RSAES_OAEP_SHA_1, or for private keys
    /// RSA_AES_KEY_WRAP_SHA_256, RSA_AES_KEY_WRAP_SHA_1
    #[arg(long, value_name = "ALGORITHM", default_value = "RSAES_OAEP_SHA_256")]
    wrapping_algorithm: WrappingAlgorithm,
    /// RSA_2048, RSA_3072 or RSA_4096
    #[arg(long, value_name = "SPEC", default_value = "RSA_4096")]
    wrapping_key_spec: WrappingKeySpec,
    /// Write the wrapping key here (DER)
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// Write the import token here
    #[arg(long, value_name = "FILE")]
    token: PathBuf,
}

/// `import material`.
#[derive(Debug, Args)]
pub struct MaterialArgs {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
    /// The import token
    #[arg(long, value_name = "FILE")]
    token: PathBuf,
    /// The wrapped material
    #[arg(long, value_name = "FILE")]
    encrypted_material: PathBuf,
    /// Let the material expire after DAYS, 1 to 365 [default: never]
    #[arg(long, value_name = "DAYS")]
    valid_days: Option<u32>,
    /// The material is new to the key: it becomes current by key rotate
    #[arg(long)]
    new: bool,
    /// What the material is
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Id of the material that is imported again
    #[arg(long, value_name = "ID")]
    material_id: Option<String>,
}

/// `import delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
    /// The material [default: the current]
    #[arg(long, value_name = "ID")]
    material_id: Option<String>,
}

fn read(path: &Path) -> CliResult<Vec<u8>> {
    fs::read(path).map_err(|error| CliError::io(path, "read", &error))
}

fn write(path: &Path, bytes: &[u8]) -> CliResult<()> {
    fs::write(path, bytes).map_err(|error| CliError::io(path, "write", &error))
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &ImportCommand) -> CliResult {
    let session = Session::open(settings)?;
    let Session { engine, caller, .. } = &session;
    match command {
        ImportCommand::Parameters(args) => {
            let request = GetParametersForImportRequest {
                key_id: control_name(&session, &args.key)?,
                wrapping_algorithm: args.wrapping_algorithm,
                wrapping_key_spec: args.wrapping_key_spec,
            };
            let answer = engine.get_parameters_for_import(caller, request)?;
            write(&args.public_key, &answer.public_key)?;
            write(&args.token, &answer.import_token)?;
            let value = json!({
                "KeyId": answer.key_id.as_str(), "ParametersValidTo": answer.parameters_valid_to.to_string(),
            });
            settings.out.result(&value, || {
                format!("wrap the material with {} until {}", args.public_key.display(), answer.parameters_valid_to)
            });
        }
        ImportCommand::Material(args) => {
            let (model, valid_to) = match args.valid_days {
                Some(days) => (ExpirationModel::KeyMaterialExpires, Some(system_clock().now().plus_days(days))),
                None => (ExpirationModel::KeyMaterialDoesNotExpire, None),
            };
            let request = ImportKeyMaterialRequest {
                key_id: control_name(&session, &args.key)?,
                import_token: read(&args.token)?,
                encrypted_key_material: read(&args.encrypted_material)?,
                valid_to,
                expiration_model: Some(model),
                import_type: args.new.then_some(ImportType::NewKeyMaterial),
                key_material_description: args.description.clone(),
                key_material_id: args.material_id.clone(),
            };
            let answer = engine.import_key_material(caller, request)?;
            settings.out.result(&to_json(&answer), || format!("{} has the material", answer.key_id));
        }
        ImportCommand::Delete(args) => {
            let key_id = control_name(&session, &args.key)?;
            let request = DeleteImportedKeyMaterialRequest { key_id, key_material_id: args.material_id.clone() };
            let answer = engine.delete_imported_key_material(caller, request)?;
            let had_some = answer.key_material_id.is_some();
            settings.out.result(&to_json(&answer), || {
                format!("{} {}", answer.key_id, if had_some { "has lost the material" } else { "has no material" })
            });
            if had_some {
                settings
                    .out
                    .note("Only the same material brings the key back. Earlier backups of the key manager are void.");
            }
        }
    }
    Ok(Exit::Ok)
}
