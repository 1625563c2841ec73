//! `kmsfs iam`: users, roles, their policies and access keys.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::aws::to_json;
use super::exit::{CliError, CliResult, Exit};
use super::key::parse_tag;
use super::output::{fields, somebody_sees, table, write_stdout_once};
use super::session::Session;
use super::settings::Settings;
use crate::kms::KmsError;
use crate::kms::model::{Principal, PrincipalKind, Tag};
use crate::kms::policy::ADMINISTRATOR_ACCESS;
use crate::types::AccountId;

/// Manage the users and roles of the key manager, their policies and access keys
#[derive(Debug, Subcommand)]
pub enum IamCommand {
    /// Make a user; without a policy it may do what key policies and grants give it
    CreateUser(CreateArgs),
    /// Make a role
    CreateRole(CreateArgs),
    /// Delete a user or role with its policies and access keys
    Delete(PrincipalArg),
    /// Give a user or role an identity policy, or change the one of this name
    PutPolicy(PutPolicyArgs),
    /// Show the identity policies of a user or role
    GetPolicy(PrincipalArg),
    /// Take an identity policy from a user or role
    DeletePolicy(PolicyNameArgs),
    /// Add tags to a user or role, or change their values: aws:PrincipalTag/NAME in policies
    Tag(TagArgs),
    /// Remove tags from a user or role
    Untag(UntagArgs),
    /// Make an access key; its secret is shown only now
    CreateAccessKey(AccessKeyArgs),
    /// Delete an access key
    DeleteAccessKey(AccessKeyId),
    /// List users and roles with their policies and access keys
    List,
}

/// `iam create-user` and `iam create-role`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name, possibly with a path: team/alice
    #[arg(value_name = "NAME")]
    name: String,
    /// The account that it belongs to [default: that of the key manager]
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<AccountId>,
    /// An identity policy for it, a file with JSON, or - for standard input
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Allow it everything that the owners of keys leave to identity policies
    #[arg(long, conflicts_with = "policy")]
    administrator: bool,
}

/// A user or role that exists.
#[derive(Debug, Args)]
pub struct PrincipalArg {
    /// user/NAME, role/NAME or the whole ARN
    #[arg(value_name = "PRINCIPAL")]
    principal: String,
}

/// `iam put-policy`.
#[derive(Debug, Args)]
pub struct PutPolicyArgs {
    #[command(flatten)]
    whom: PolicyNameArgs,
    /// A file with JSON, or - for standard input
    #[arg(value_name = "FILE")]
    document: PathBuf,
}

/// A policy of a user or role.
#[derive(Debug, Args)]
pub struct PolicyNameArgs {
    /// user/NAME, role/NAME or the whole ARN
    #[arg(value_name = "PRINCIPAL")]
    principal: String,
    /// Name of the policy
    #[arg(value_name = "POLICY")]
    name: String,
}

/// `iam tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// user/NAME, role/NAME or the whole ARN
    #[arg(value_name = "PRINCIPAL")]
    principal: String,
    /// The tags
    #[arg(value_name = "NAME=VALUE", value_parser = parse_tag, required = true)]
    tags: Vec<Tag>,
}

/// `iam untag`.
#[derive(Debug, Args)]
pub struct UntagArgs {
    /// user/NAME, role/NAME or the whole ARN
    #[arg(value_name = "PRINCIPAL")]
    principal: String,
    /// Names of the tags
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// `iam create-access-key`.
#[derive(Debug, Args)]
pub struct AccessKeyArgs {
    /// user/NAME, role/NAME or the whole ARN [default: the account's user `administrator`, made if it is not there]
    #[arg(value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// The account whose administrator it is for [default: that of the key manager]
    #[arg(long, value_name = "ACCOUNT", conflicts_with = "principal")]
    account: Option<AccountId>,
    /// Print lines for a shell: eval "$(kmsfs iam create-access-key --shell)"
    #[arg(long)]
    shell: bool,
}

/// An access key.
#[derive(Debug, Args)]
pub struct AccessKeyId {
    /// Its id
    #[arg(value_name = "ACCESS_KEY_ID")]
    id: String,
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &IamCommand) -> CliResult {
    if matches!(command, IamCommand::CreateAccessKey(_)) {
        somebody_sees("the secret access key")?;
    }
    let session = Session::open(settings)?;
    let Session { engine, caller, .. } = &session;
    let out = settings.out;
    let said = |principal: &Principal, what: &str| {
        out.result(&json!({ "Arn": principal.arn() }), || format!("{principal} {what}"));
        Ok(Exit::Ok)
    };
    match command {
        IamCommand::CreateUser(args) => create(settings, &session, PrincipalKind::User, args),
        IamCommand::CreateRole(args) => create(settings, &session, PrincipalKind::Role, args),
        IamCommand::Delete(args) => {
            let principal = named(&session, &args.principal)?;
            engine.delete_identity(caller, &principal).map_err(iam_error)?;
            said(&principal, "is deleted")
        }
        IamCommand::PutPolicy(args) => {
            let principal = named(&session, &args.whom.principal)?;
            let document = read_document(&args.document)?;
            engine.put_identity_policy(caller, &principal, &args.whom.name, &document).map_err(iam_error)?;
            said(&principal, &format!("has the policy {}", args.whom.name))
        }
        IamCommand::GetPolicy(args) => {
            let principal = named(&session, &args.principal)?;
            let policies = engine.identity_policies(&principal).map_err(iam_error)?;
            out.result(&json!({ "Arn": principal.arn(), "Policies": policies }), || {
                let shown = policies.iter().map(|(name, document)| format!("{name}\n{document}"));
                shown.collect::<Vec<_>>().join("\n\n")
            });
            Ok(Exit::Ok)
        }
        IamCommand::DeletePolicy(args) => {
            let principal = named(&session, &args.principal)?;
            engine.delete_identity_policy(caller, &principal, &args.name).map_err(iam_error)?;
            said(&principal, &format!("no longer has the policy {}", args.name))
        }
        IamCommand::Tag(args) => {
            let principal = named(&session, &args.principal)?;
            engine.tag_identity(caller, &principal, &args.tags).map_err(iam_error)?;
            said(&principal, "is tagged")
        }
        IamCommand::Untag(args) => {
            let principal = named(&session, &args.principal)?;
            engine.untag_identity(caller, &principal, &args.names).map_err(iam_error)?;
            said(&principal, "is untagged")
        }
        IamCommand::CreateAccessKey(args) => create_access_key(settings, &session, args),
        IamCommand::DeleteAccessKey(args) => {
            engine.delete_access_key(caller, &args.id).map_err(iam_error)?;
            out.result(&json!({ "AccessKeyId": args.id }), || format!("{} is deleted", args.id));
            Ok(Exit::Ok)
        }
        IamCommand::List => {
            let identities = engine.identities()?;
            out.result(&json!({ "Identities": to_json(&identities) }), || {
                let rows = identities.iter().map(|one| {
                    let tags = one.tags.iter().map(|tag| format!("{}={}", tag.tag_key, tag.tag_value));
                    vec![
                        one.arn.clone(),
                        one.policy_names.join(", "),
                        one.access_key_ids.join(", "),
                        tags.collect::<Vec<_>>().join(", "),
                    ]
                });
                table(&["ARN", "POLICIES", "ACCESS KEYS", "TAGS"], rows)
            });
            Ok(Exit::Ok)
        }
    }
}

fn create(settings: &Settings, session: &Session, kind: PrincipalKind, args: &CreateArgs) -> CliResult {
    let account = args.account.as_ref().unwrap_or(session.engine.account());
    let principal = Principal::named(account, kind, &args.name).map_err(CliError::usage)?;
    let document = args.policy.as_deref().map(read_document).transpose()?;
    let policy = match &document {
        Some(document) => Some(("policy", document.as_str())),
        None => args.administrator.then_some(ADMINISTRATOR_ACCESS),
    };
    session.engine.create_identity(&session.caller, &principal, policy).map_err(iam_error)?;
    settings.out.result(&json!({ "Arn": principal.arn() }), || principal.to_string());
    Ok(Exit::Ok)
}

fn create_access_key(settings: &Settings, session: &Session, args: &AccessKeyArgs) -> CliResult {
    let Session { engine, caller, .. } = session;
    let principal = match &args.principal {
        Some(text) => named(session, text)?,
        None => engine.administrator(caller, args.account.as_ref().unwrap_or(engine.account()))?,
    };
    let made = engine.create_access_key(caller, &principal).map_err(iam_error)?;
    let (id, secret, region) = (&made.access_key_id, &*made.secret_access_key, caller.region());
    let shown = if args.shell {
        write_stdout_once(&format!(
            "export AWS_ACCESS_KEY_ID={id}\nexport AWS_SECRET_ACCESS_KEY={secret}\nexport AWS_REGION={region}\n\
             export AWS_DEFAULT_REGION={region}"
        ))
    } else {
        let value = json!({
            "AccessKeyId": id, "SecretAccessKey": secret, "Arn": principal.arn(), "Region": region.as_str(),
        });
        let words = || {
            fields(&[
                ("access key id", id.clone()),
                ("secret access key", secret.clone()),
                ("principal", principal.to_string()),
            ])
        };
        settings.out.result_once(&value, words)
    };
    shown.map_err(|error| delete_unseen(session, id, &error))?;
    if args.shell {
        return Ok(Exit::Ok);
    }
    settings.out.note("The secret is shown only now.");
    Ok(Exit::Ok)
}

/// Deletes an access key whose secret could not be shown: nobody has it.
fn delete_unseen(session: &Session, id: &str, error: &CliError) -> CliError {
    let unseen = |what: String| {
        CliError::failure(format_args!("{}: nobody has seen the secret of the access key, {what}", error.message))
    };
    match session.engine.delete_access_key(&session.caller, id) {
        Ok(()) => unseen(format!("so {id} is deleted")).hint("make one where its secret can be shown"),
        Err(e) => unseen(format!("and {id} stays: {e}")).hint(format_args!(
            "delete it with: kmsfs iam delete-access-key {id}; and make one where its secret can be shown"
        )),
    }
}

/// A document from a file or from standard input.
pub fn read_document(path: &Path) -> CliResult<String> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    read.map_err(|error| CliError::usage(format_args!("cannot read {}: {error}", path.display())))
}

/// `user/NAME` and `role/NAME` in the key manager's account, or any ARN.
pub fn named(session: &Session, text: &str) -> CliResult<Principal> {
    let account = session.engine.account();
    let parsed = match text.split_once('/') {
        _ if text.starts_with("arn:") => text.parse(),
        Some(("user", name)) => Principal::named(account, PrincipalKind::User, name),
        Some(("role", name)) => Principal::named(account, PrincipalKind::Role, name),
        _ if text == "root" => Ok(Principal::root(account)),
        _ => text.parse(),
    };
    parsed.map_err(|error| CliError::usage(error).hint("write user/NAME, role/NAME or the whole ARN"))
}

fn iam_error(error: KmsError) -> CliError {
    let absent = matches!(error, KmsError::NotFound(_));
    let error = CliError::from(error);
    if absent { error.hint("kmsfs iam list shows the users, roles and access keys") } else { error }
}
