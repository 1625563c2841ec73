//! `kmsfs grant`: permissions on a key that can be given away and taken back.

use clap::{Args, Subcommand};
use serde_json::json;

use super::aws::to_json;
use super::exit::{CliError, CliResult, Exit};
use super::iam::named;
use super::key::{control_name, pages};
use super::output::{fields, table};
use super::policy::pair;
use super::session::Session;
use super::settings::Settings;
use crate::kms::model::{
    CreateGrantRequest, GrantConstraints, GrantListEntry, GrantOperation, ListGrantsRequest, RetireGrantRequest,
    RevokeGrantRequest,
};
use crate::types::EncryptionContext;

/// Give others operations on a key, and take them back
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// Let a principal do operations on a key
    Create(CreateArgs),
    /// List the grants of a key
    List(ListArgs),
    /// Take a grant back, as who manages the key
    Revoke(GrantArgs),
    /// Give a grant up: by its token, or by key ARN and grant id
    Retire(RetireArgs),
}

/// `grant create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
    /// Who gets it: user/NAME, role/NAME, root or an ARN
    #[arg(value_name = "GRANTEE")]
    grantee: String,
    /// What it allows: Encrypt, Decrypt, GenerateDataKey and so on
    #[arg(value_name = "OPERATION", required = true)]
    operations: Vec<GrantOperation>,
    /// A pair that the encryption context must have; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    context_subset: Vec<(String, String)>,
    /// A pair of exactly the encryption context that there must be; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    context_equals: Vec<(String, String)>,
    /// Who may retire it
    #[arg(long, value_name = "PRINCIPAL")]
    retiring: Option<String>,
    /// With a name, the same command again answers the same grant
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// `grant list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
}

/// `grant revoke`.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
    /// 64 hex digits
    #[arg(value_name = "GRANT_ID")]
    grant_id: String,
}

/// `grant retire`.
#[derive(Debug, Args)]
pub struct RetireArgs {
    /// The grant's token
    #[arg(long, value_name = "TOKEN", required_unless_present = "key_arn", conflicts_with = "key_arn")]
    token: Option<String>,
    /// ARN of its key
    #[arg(value_name = "KEY_ARN", requires = "grant_id")]
    key_arn: Option<String>,
    /// 64 hex digits
    #[arg(value_name = "GRANT_ID")]
    grant_id: Option<String>,
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &GrantCommand) -> CliResult {
    settings.local_only("kmsfs grant")?;
    let session = Session::open(settings)?;
    let Session { engine, caller, .. } = &session;
    match command {
        GrantCommand::Create(args) => create(settings, &session, args),
        GrantCommand::List(args) => {
            let key_id = control_name(&session, &args.key)?;
            let grants = pages(|marker| {
                let request = ListGrantsRequest { key_id: key_id.clone(), marker, ..Default::default() };
                engine.list_grants(caller, request).map(|page| (page.grants, page.next_marker))
            })?;
            settings.out.result(&json!({ "Grants": to_json(&grants) }), || {
                table(&["GRANT ID", "GRANTEE", "OPERATIONS", "NAME"], grants.iter().map(row))
            });
            Ok(Exit::Ok)
        }
        GrantCommand::Revoke(args) => {
            let key_id = control_name(&session, &args.key)?;
            let grant_id = args.grant_id.clone();
            engine.revoke_grant(caller, RevokeGrantRequest { key_id, grant_id, dry_run: false }).map_err(|error| {
                let absent = error.to_string().starts_with("Grant ID");
                let error = CliError::from(error);
                if absent { error.hint("kmsfs grant list KEY shows the grants of a key") } else { error }
            })?;
            settings.out.result(&json!({ "GrantId": args.grant_id }), || "the grant is revoked".to_owned());
            Ok(Exit::Ok)
        }
        GrantCommand::Retire(args) => {
            let request = RetireGrantRequest {
                grant_token: args.token.clone(),
                key_id: args.key_arn.clone(),
                grant_id: args.grant_id.clone(),
                dry_run: false,
            };
            engine.retire_grant(caller, request)?;
            settings.out.result(&json!({ "GrantId": args.grant_id }), || "the grant is retired".to_owned());
            Ok(Exit::Ok)
        }
    }
}

fn create(settings: &Settings, session: &Session, args: &CreateArgs) -> CliResult {
    let context = |pairs: &[(String, String)]| -> Option<EncryptionContext> {
        (!pairs.is_empty()).then(|| pairs.iter().cloned().collect())
    };
    let principal = |text: &String| named(session, text).map(|principal| principal.arn().to_owned());
    let request = CreateGrantRequest {
        key_id: control_name(session, &args.key)?,
        grantee_principal: Some(principal(&args.grantee)?),
        retiring_principal: args.retiring.as_ref().map(principal).transpose()?,
        operations: args.operations.clone(),
        constraints: Some(GrantConstraints {
            encryption_context_subset: context(&args.context_subset),
            encryption_context_equals: context(&args.context_equals),
            source_arn: None,
        }),
        name: args.name.clone(),
        ..Default::default()
    };
    let answer = session.engine.create_grant(&session.caller, request)?;
    settings.out.result(&to_json(&answer), || {
        fields(&[("grant id", answer.grant_id.clone()), ("grant token", answer.grant_token.clone())])
    });
    Ok(Exit::Ok)
}

fn row(grant: &GrantListEntry) -> Vec<String> {
    let grantee = grant.grantee_principal.as_ref().or(grant.grantee_service_principal.as_ref());
    let operations: Vec<&str> = grant.operations.iter().map(|operation| operation.as_str()).collect();
    vec![grant.grant_id.clone(), grantee.cloned().unwrap_or_default(), operations.join(", "), grant.name.clone()]
}
