//! `kmsfs policy`: key policies, and why something is allowed or denied.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::aws::to_json;
use super::exit::{CliResult, Exit};
use super::iam::{named, read_document};
use super::key::control_name;
use super::output::table;
use super::session::Session;
use super::settings::Settings;
use crate::kms::model::{Caller, ExplainRequest, GetKeyPolicyRequest, PutKeyPolicyRequest};

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
    /// The permission: Decrypt, kms:CreateGrant, ReEncryptFrom
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

fn explain(settings: &Settings, session: &Session, args: &ExplainArgs) -> CliResult {
    let mut caller = match &args.principal {
        None => session.caller.clone(),
        Some(text) => {
            let (principal, region) = (named(session, text)?, session.caller.region().clone());
            // In its own account the key manager knows mounts and local users without their being made.
            match principal.account() == session.engine.account() {
                true => Caller::local(principal, region),
                false => Caller::new(principal, region),
            }
        }
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
        action: args.action.clone(),
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
