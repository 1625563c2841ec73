//! `kmsfs policy`: key policies, and why something is allowed or denied.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::aws::to_json;
use super::exit::{CliError, CliResult, Exit};
use super::iam::{named, read_document};
use super::key::control_name;
use super::output::table;
use super::session::Session;
use super::settings::Settings;
use crate::kms::api::Operation;
use crate::kms::model::{Caller, ExplainRequest, GetKeyPolicyRequest, Principal, PutKeyPolicyRequest};
use crate::sys::user::name_of;

/// How alike a permission is to what was written to be suggested, of 1.
const ALIKE: f64 = 0.85;
/// So many are suggested.
const SUGGESTIONS: usize = 4;

/// Show and change key policies, and explain who may do what
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the policy of a key
    Get(GetArgs),
    /// Give a key another policy
    Put(PutArgs),
    /// Tell whether a request would be allowed, and what every statement and grant has to do with it
    Explain(ExplainArgs),
}

/// `policy get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
}

/// `policy put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    key: String,
    /// A file with JSON, or - for standard input
    #[arg(value_name = "FILE")]
    document: PathBuf,
    /// Also take a policy that keeps you from changing it later
    #[arg(long)]
    bypass_policy_lockout_safety_check: bool,
}

/// `policy explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Key id, key ARN, alias/NAME or alias ARN; - for operations that are about no key
    #[arg(value_name = "KEY")]
    key: String,
    /// The permission: Decrypt, kms:CreateGrant, ReEncryptFrom; RetireGrant is about any grant of the key
    #[arg(value_name = "ACTION")]
    action: String,
    /// Who asks: user/NAME, role/NAME, root or an ARN [default: you]
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// A pair of the encryption context; may be given several times
    #[arg(long = "context", value_name = "NAME=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    /// A condition key of the request, for example kms:GrantOperations=Decrypt; may be given several times
    #[arg(long = "condition", value_name = "KEY=VALUE", value_parser = pair)]
    conditions: Vec<(String, String)>,
    /// The service that calls for the principal, for example kmsfs.us-east-1.local
    #[arg(long, value_name = "SERVICE")]
    via_service: Option<String>,
    /// The address that the request comes from
    #[arg(long, value_name = "ADDRESS")]
    source_ip: Option<String>,
}

/// `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a pair is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &PolicyCommand) -> CliResult {
    settings.local_only("kmsfs policy")?;
    let session = Session::open(settings)?;
    let Session { engine, caller, .. } = &session;
    match command {
        PolicyCommand::Get(args) => {
            let request = GetKeyPolicyRequest { key_id: control_name(&session, &args.key)?, policy_name: None };
            let answer = engine.get_key_policy(caller, request)?;
            settings.out.result(&to_json(&answer), || answer.policy.clone());
            Ok(Exit::Ok)
        }
        PolicyCommand::Put(args) => {
            let key_id = control_name(&session, &args.key)?;
            let request = PutKeyPolicyRequest {
                key_id: key_id.clone(),
                policy_name: None,
                policy: read_document(&args.document)?,
                bypass_policy_lockout_safety_check: args.bypass_policy_lockout_safety_check,
            };
            engine.put_key_policy(caller, request)?;
            settings.out.result(&json!({ "KeyId": key_id }), || format!("{key_id} has the new policy"));
            Ok(Exit::Ok)
        }
        PolicyCommand::Explain(args) => explain(settings, &session, args),
    }
}

/// The permission that `text` names, as AWS writes it. Permissions are called like the operations, but for `ReEncrypt`,
/// which needs two.
fn permission(text: &str) -> CliResult<&'static str> {
    let prefixed = text.split_once(':').filter(|(service, _)| service.eq_ignore_ascii_case("kms"));
    let wanted = prefixed.map_or(text, |(_, name)| name);
    let operations = Operation::all().map(|(name, _)| name).filter(|name| *name != "ReEncrypt");
    let all: Vec<&str> = operations.chain(["ReEncryptFrom", "ReEncryptTo"]).collect();
    if let Some(name) = all.iter().find(|name| name.eq_ignore_ascii_case(wanted)) {
        return Ok(name);
    }
    let alike = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &wanted.to_lowercase());
    let mut near: Vec<&str> = all.into_iter().filter(|name| alike(name) > ALIKE).collect();
    near.sort_by(|a, b| alike(b).total_cmp(&alike(a)));
    near.truncate(SUGGESTIONS);
    let error = CliError::usage(format_args!("AWS KMS has no permission '{text}'"));
    Err(match near[..] {
        [] => error.hint("permissions are called like the operations: kms:Decrypt, kms:CreateGrant"),
        _ => error.hint(format_args!("there is {}", near.join(", "))),
    })
}

/// The caller that `text` names, as the key manager would know it: who can open the home is an administrator unless a
/// user or role of its name was made, others may do what was said about them.
fn caller_named(session: &Session, text: &str) -> CliResult<Caller> {
    let (principal, region) = (named(session, text)?, session.caller.region().clone());
    if principal == *session.caller.principal() {
        return Ok(session.caller.clone());
    }
    let account = session.engine.account();
    let is_root = principal == Principal::user(account, &name_of(0));
    let volumes = session.engine.registry().list()?;
    let is_mount = volumes.iter().any(|volume| principal == Principal::mount(account, &volume.volume.to_string()));
    Ok(if is_root || is_mount { Caller::local(principal, region) } else { Caller::new(principal, region) })
}

fn explain(settings: &Settings, session: &Session, args: &ExplainArgs) -> CliResult {
    let action = permission(&args.action)?;
    let mut caller = match &args.principal {
        None => session.caller.clone(),
        Some(text) => caller_named(session, text)?,
    };
    if let Some(service) = &args.via_service {
        caller = caller.via_service(service);
    }
    if let Some(address) = &args.source_ip {
        let agent = caller.user_agent().to_owned();
        caller = caller.from_address(address, agent);
    }
    let request = ExplainRequest {
        key_id: (args.key != "-").then(|| args.key.clone()),
        action: action.to_owned(),
        encryption_context: args.context.iter().cloned().collect(),
        conditions: args.conditions.clone(),
    };
    let answer = session.engine.explain(&caller, &request)?;
    settings.out.result(&to_json(&answer), || {
        let rows = answer.steps.iter().map(|step| {
            let statement = match (&step.sid, step.statement) {
                (Some(sid), _) => sid.clone(),
                (None, Some(at)) => at.to_string(),
                (None, None) => String::new(),
            };
            vec![step.source.clone(), statement, step.effect.to_owned(), step.outcome.clone()]
        });
        let table = table(&["SOURCE", "STATEMENT", "EFFECT", "OUTCOME"], rows);
        format!("{}: {} on {}: {}\n\n{table}", answer.principal, answer.action, answer.resource, answer.reason)
    });
    Ok(if answer.allowed { Exit::Ok } else { Exit::AccessDenied })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_known_by_name() {
        for (text, name) in [
            ("Decrypt", "Decrypt"),
            ("kms:createGRANT", "CreateGrant"),
            ("KMS:ReEncryptFrom", "ReEncryptFrom"),
            ("reencryptto", "ReEncryptTo"),
        ] {
            assert_eq!(permission(text).expect("known"), name, "{text}");
        }
        let refused = |text: &str| permission(text).expect_err("unknown").hint.expect("a hint");
        assert_eq!(refused("ReEncrypt"), "there is ReEncryptTo, ReEncryptFrom");
        assert!(refused("Decrpyt").contains("there is Decrypt"));
        for text in ["Foo", "s3:GetObject", "kms:s3:GetObject", "kms:*", ""] {
            assert!(refused(text).starts_with("permissions are called"), "{text}");
        }
    }
}
