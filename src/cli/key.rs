//! `kmsfs key`: the KMS keys and their life cycle, in AWS's words.

use clap::{Args, Subcommand};
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::aws::to_json;
use super::exit::{CliError, CliResult, Exit};
use super::impact::{self, ImpactArgs};
use super::output::{fields, table};
use super::session::Session;
use super::settings::Settings;
use crate::kms::model::*;
use crate::kms::{Engine, KmsError};

const KEY_HELP: &str = "Key id, key ARN, alias/NAME or alias ARN";

/// What to do instead of changing an AWS managed key.
const AWS_MANAGED: &str = "this is an AWS managed key, which only the key manager changes; make your own with: \
                           kmsfs key create --alias NAME, then move to it: kmsfs rewrap DIR --to alias/NAME";

/// Create and manage KMS keys
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create a customer managed key
    Create(CreateArgs),
    /// List the keys of the account and Region
    List,
    /// Show a key: its state, dates, rotation, aliases and tags
    Describe(KeyArg),
    /// Print the public key of a key pair as PEM
    PublicKey(KeyArg),
    /// Make a disabled key usable again
    Enable(KeyArg),
    /// Make a key unusable until it is enabled
    Disable(KeyArg),
    /// Make new key material now; what is encrypted stays readable and is not changed
    Rotate(KeyArg),
    /// List the completed rotations of a key
    Rotations(RotationsArgs),
    /// Rotate a key automatically
    EnableRotation(EnableRotationArgs),
    /// Stop the automatic rotation of a key
    DisableRotation(KeyArg),
    /// Delete a key after a waiting period in which it cannot be used
    ScheduleDeletion(ScheduleDeletionArgs),
    /// Cancel a scheduled deletion; the key is disabled afterwards
    CancelDeletion(KeyArg),
    /// Show which volumes and files would become unreadable without a key, and who uses it
    Impact(ImpactArgs),
    /// Add tags to a key, or change their values
    Tag(TagArgs),
    /// Remove tags from a key
    Untag(UntagArgs),
}

impl KeyCommand {
    /// The key it is about.
    fn key(&self) -> Option<&str> {
        Some(match self {
            Self::Create(_) | Self::List => return None,
            Self::Describe(arg)
            | Self::PublicKey(arg)
            | Self::Enable(arg)
            | Self::Disable(arg)
            | Self::Rotate(arg)
            | Self::DisableRotation(arg)
            | Self::CancelDeletion(arg) => &arg.key,
            Self::Rotations(args) => &args.key,
            Self::Impact(args) => &args.key,
            Self::EnableRotation(args) => &args.key,
            Self::ScheduleDeletion(args) => &args.key,
            Self::Tag(args) => &args.key,
            Self::Untag(args) => &args.key,
        })
    }
}

/// A command that takes a key and nothing else.
#[derive(Debug, Args)]
pub struct KeyArg {
    #[arg(value_name = "KEY", help = KEY_HELP)]
    key: String,
}

/// `key create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What the key is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// An alias for it: NAME or alias/NAME
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// What it is made of, in AWS's words, such as RSA_3072, ECC_NIST_P256 or HMAC_256 [default: SYMMETRIC_DEFAULT]
    #[arg(long, value_name = "SPEC")]
    spec: Option<KeySpec>,
    /// What it may be used for, in AWS's words, such as SIGN_VERIFY; needed where the spec leaves a choice
    #[arg(long, value_name = "USAGE")]
    usage: Option<KeyUsage>,
    /// A tag; may be given several times
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = parse_tag)]
    tags: Vec<Tag>,
    /// Where the material comes from: AWS_KMS makes it, EXTERNAL is imported [default: AWS_KMS]
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<Origin>,
    /// Make and use the key in the PKCS#11 token of this key store: name or id
    #[arg(long, value_name = "STORE", conflicts_with = "origin")]
    key_store: Option<String>,
    /// Make a key that can be replicated to other Regions
    #[arg(long)]
    multi_region: bool,
}

/// `key rotations`.
#[derive(Debug, Args)]
pub struct RotationsArgs {
    #[arg(value_name = "KEY", help = KEY_HELP)]
    key: String,
    /// Also list the first key material
    #[arg(long)]
    all: bool,
}

/// `key enable-rotation`.
#[derive(Debug, Args)]
pub struct EnableRotationArgs {
    #[arg(value_name = "KEY", help = KEY_HELP)]
    key: String,
    /// Days between rotations, 90 to 2560 [default: 365]
    #[arg(long, value_name = "DAYS")]
    period: Option<u32>,
}

/// `key schedule-deletion`.
#[derive(Debug, Args)]
pub struct ScheduleDeletionArgs {
    #[arg(value_name = "KEY", help = KEY_HELP)]
    key: String,
    /// Waiting period in days, 7 to 30 [default: 30]
    #[arg(long, value_name = "DAYS", alias = "pending-window-in-days")]
    days: Option<u32>,
}

/// `key tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    #[arg(value_name = "KEY", help = KEY_HELP)]
    key: String,
    /// The tags
    #[arg(value_name = "NAME=VALUE", value_parser = parse_tag, required = true)]
    tags: Vec<Tag>,
}

/// `key untag`.
#[derive(Debug, Args)]
pub struct UntagArgs {
    #[arg(value_name = "KEY", help = KEY_HELP)]
    key: String,
    /// Names of the tags
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// `NAME=VALUE`.
pub fn parse_tag(text: &str) -> Result<Tag, String> {
    let (key, value) = text.split_once('=').ok_or("a tag is written NAME=VALUE")?;
    Ok(Tag { tag_key: key.to_owned(), tag_value: value.to_owned() })
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &KeyCommand) -> CliResult {
    settings.local_only("kmsfs key")?;
    let session = Session::open(settings)?;
    let keys = Keys { settings, session: &session };
    let done = match command {
        KeyCommand::Create(args) => keys.create(args),
        KeyCommand::List => keys.list(),
        KeyCommand::Describe(arg) => keys.describe(&arg.key),
        KeyCommand::PublicKey(arg) => keys.public_key(&arg.key),
        KeyCommand::Enable(arg) => keys.set_state(&arg.key, KeyState::Enabled, Engine::enable_key),
        KeyCommand::Disable(arg) => keys.set_state(&arg.key, KeyState::Disabled, Engine::disable_key),
        KeyCommand::DisableRotation(arg) => keys.disable_rotation(&arg.key),
        KeyCommand::Rotate(arg) => keys.rotate(&arg.key),
        KeyCommand::Rotations(args) => keys.rotations(args),
        KeyCommand::EnableRotation(args) => keys.enable_rotation(args),
        KeyCommand::ScheduleDeletion(args) => keys.schedule_deletion(args),
        KeyCommand::CancelDeletion(arg) => keys.cancel_deletion(&arg.key),
        KeyCommand::Impact(args) => impact::run(settings, &session, args),
        KeyCommand::Tag(args) => keys.tag(args),
        KeyCommand::Untag(args) => keys.untag(args),
    };
    done.map_err(|e| match command.key() {
        Some(key) if e.exit == Exit::AccessDenied && is_aws_managed(&session, key) => e.hint(AWS_MANAGED),
        _ => e,
    })
}

fn is_aws_managed(session: &Session, key: &str) -> bool {
    describe(session, key).is_ok_and(|metadata| metadata.key_manager == KeyManager::Aws)
}

struct Keys<'a> {
    settings: &'a Settings,
    session: &'a Session,
}

impl Keys<'_> {
    fn create(&self, args: &CreateArgs) -> CliResult {
        let Session { engine, caller, .. } = self.session;
        let store =
            args.key_store.as_deref().map(|store| super::key_store::store_id(self.session, store)).transpose()?;
        let request = CreateKeyRequest {
            description: args.description.clone(),
            key_spec: args.spec,
            key_usage: args.usage.or_else(|| only_usage(args.spec?)),
            tags: args.tags.clone(),
            origin: store.as_ref().map(|_| Origin::AwsCloudHsm).or(args.origin),
            custom_key_store_id: store,
            multi_region: args.multi_region,
            ..Default::default()
        };
        let answer = engine.create_key(caller, request)?;
        let arn = answer.key_metadata.arn.clone();
        if let Some(alias) = &args.alias {
            let alias_name = super::aws::alias_name(alias);
            let request = CreateAliasRequest { alias_name: alias_name.clone(), target_key_id: arn.as_str().to_owned() };
            engine.create_alias(caller, request).map_err(|e| {
                let hint = format!("the key exists without it: kmsfs alias create NAME {}", arn.key_id());
                CliError::from(e).hint(hint)
            })?;
        }
        self.settings.out.result(&to_json(&answer), || arn.to_string());
        Ok(Exit::Ok)
    }

    fn list(&self) -> CliResult {
        let mut rows = Vec::new();
        let mut list = Vec::new();
        let aliases = all_aliases(self.session, None)?;
        for key in all_keys(self.session)? {
            let names: Vec<&str> =
                aliases.iter().filter(|a| a.target_key_id == key.key_id).map(|a| a.alias_name.as_str()).collect();
            let request = DescribeKeyRequest { key_id: key.key_id.clone(), ..Default::default() };
            let metadata = match self.session.engine.describe_key(&self.session.caller, request) {
                Ok(answer) => answer.key_metadata,
                // Deleted by somebody else since it was listed.
                Err(KmsError::NotFound(_)) => continue,
                Err(e) => return Err(e.into()),
            };
            rows.push(vec![
                names.join(" "),
                key.key_id.clone(),
                metadata.key_state.to_string(),
                metadata.key_manager.to_string(),
                metadata.creation_date.to_string(),
                metadata.description.clone(),
            ]);
            let mut entry = to_json(&metadata);
            entry["KeyArn"] = json!(key.key_arn.as_str());
            entry["Aliases"] = json!(names);
            list.push(entry);
        }
        self.settings.out.result(&json!({"Keys": list}), || {
            table(&["ALIASES", "KEY ID", "STATE", "MANAGER", "CREATED", "DESCRIPTION"], rows)
        });
        Ok(Exit::Ok)
    }

    fn describe(&self, key: &str) -> CliResult {
        let Session { engine, caller, .. } = self.session;
        let answer =
            engine.describe_key(caller, DescribeKeyRequest { key_id: key.to_owned(), ..Default::default() })?;
        let metadata = &answer.key_metadata;
        let arn = metadata.arn.as_str();
        let rotation = match engine.get_key_rotation_status(caller, arn.into()) {
            Ok(status) => Some(status),
            // Not every kind of key rotates.
            Err(KmsError::UnsupportedOperation(_)) => None,
            Err(e) => return Err(e.into()),
        };
        let aliases = all_aliases(self.session, Some(arn))?;
        let tags = all_tags(self.session, arn)?;
        let mut value = to_json(&answer);
        if let Some(rotation) = &rotation {
            value["Rotation"] = to_json(rotation);
        }
        value["Aliases"] = aliases.iter().map(|a| Value::from(a.alias_name.as_str())).collect();
        value["Tags"] = to_json(&tags);
        self.settings.out.result(&value, || describe_words(metadata, rotation.as_ref(), &aliases, &tags));
        Ok(Exit::Ok)
    }

    fn public_key(&self, key: &str) -> CliResult {
        let request = GetPublicKeyRequest { key_id: key.to_owned(), ..Default::default() };
        let answer = self.session.engine.get_public_key(&self.session.caller, request)?;
        self.settings.out.result(&to_json(&answer), || pem(&answer.public_key));
        Ok(Exit::Ok)
    }

    fn set_state(
        &self,
        key: &str,
        state: KeyState,
        operation: fn(&Engine, &Caller, KeyIdRequest) -> Result<(), KmsError>,
    ) -> CliResult {
        let key = control_name(self.session, key)?;
        operation(&self.session.engine, &self.session.caller, key.as_str().into())?;
        self.settings.out.result(&json!({"KeyId": key, "KeyState": state}), || format!("{key} is {state}"));
        Ok(Exit::Ok)
    }

    fn disable_rotation(&self, key: &str) -> CliResult {
        let key = control_name(self.session, key)?;
        self.session.engine.disable_key_rotation(&self.session.caller, key.as_str().into())?;
        self.settings.out.result(&json!({"KeyId": key, "KeyRotationEnabled": false}), || {
            format!("{key} is no longer rotated automatically")
        });
        Ok(Exit::Ok)
    }

    fn rotate(&self, key: &str) -> CliResult {
        let key = control_name(self.session, key)?;
        let arn = self.session.engine.rotate_key_on_demand(&self.session.caller, key.as_str().into())?.key_id;
        let material = describe(self.session, arn.as_str())?.current_key_material_id;
        self.settings.out.result(&json!({"KeyId": arn.as_str(), "CurrentKeyMaterialId": material}), || {
            format!("{arn} has new key material {}", material.as_deref().unwrap_or("of unknown id"))
        });
        self.settings
            .out
            .note("Files keep their wrapped keys and stay readable; kmsfs rewrap DIR moves them to the new material.");
        Ok(Exit::Ok)
    }

    fn rotations(&self, args: &RotationsArgs) -> CliResult {
        let key_id = control_name(self.session, &args.key)?;
        let include = if args.all { IncludeKeyMaterial::AllKeyMaterial } else { IncludeKeyMaterial::RotationsOnly };
        let rotations = pages(|marker| {
            let request = ListKeyRotationsRequest {
                key_id: key_id.clone(),
                include_key_material: Some(include),
                marker,
                ..Default::default()
            };
            let page = self.session.engine.list_key_rotations(&self.session.caller, request)?;
            Ok((page.rotations, page.next_marker))
        })?;
        self.settings.out.result(&json!({"Rotations": to_json(&rotations)}), || {
            let rows = rotations.iter().map(|r| {
                vec![
                    r.rotation_date.map_or_else(|| "-".to_owned(), |d| d.to_string()),
                    r.rotation_type.map_or_else(|| "-".to_owned(), |t| t.to_string()),
                    r.key_material_state.map_or_else(String::new, |s| s.to_string()),
                    r.key_material_id.clone(),
                ]
            });
            table(&["DATE", "TYPE", "STATE", "KEY MATERIAL ID"], rows)
        });
        Ok(Exit::Ok)
    }

    fn enable_rotation(&self, args: &EnableRotationArgs) -> CliResult {
        let arn = control_name(self.session, &args.key)?;
        let Session { engine, caller, .. } = self.session;
        let request = EnableKeyRotationRequest { key_id: arn.clone(), rotation_period_in_days: args.period };
        engine.enable_key_rotation(caller, request)?;
        let status = engine.get_key_rotation_status(caller, arn.as_str().into())?;
        self.settings.out.result(&to_json(&status), || {
            let next = status.next_rotation_date.map_or_else(String::new, |d| format!(", next on {d}"));
            format!("{arn} is rotated every {} days{next}", status.rotation_period_in_days.unwrap_or_default())
        });
        Ok(Exit::Ok)
    }

    fn schedule_deletion(&self, args: &ScheduleDeletionArgs) -> CliResult {
        let key_id = control_name(self.session, &args.key)?;
        let request = ScheduleKeyDeletionRequest { key_id: key_id.clone(), pending_window_in_days: args.days };
        let answer = self.session.engine.schedule_key_deletion(&self.session.caller, request)?;
        self.settings.out.result(&to_json(&answer), || {
            let when =
                answer.deletion_date.map_or_else(|| "when its replicas are deleted".to_owned(), |d| format!("on {d}"));
            format!("{} is pending deletion and will be deleted {when}", answer.key_id)
        });
        self.settings.out.note(format_args!(
            "Every file whose only wrapped key is under it becomes unreadable then. Until then: kmsfs key cancel-deletion {}",
            answer.key_id.key_id()
        ));
        Ok(Exit::Ok)
    }

    fn cancel_deletion(&self, key: &str) -> CliResult {
        let key = control_name(self.session, key)?;
        let answer = self.session.engine.cancel_key_deletion(&self.session.caller, key.as_str().into())?;
        self.settings.out.result(&to_json(&answer), || format!("the deletion of {} is cancelled", answer.key_id));
        self.settings.out.note(format_args!(
            "The key is disabled; make it usable with: kmsfs key enable {}",
            answer.key_id.key_id()
        ));
        Ok(Exit::Ok)
    }

    fn tag(&self, args: &TagArgs) -> CliResult {
        let key_id = control_name(self.session, &args.key)?;
        let request = TagResourceRequest { key_id: key_id.clone(), tags: args.tags.clone() };
        self.session.engine.tag_resource(&self.session.caller, request)?;
        self.show_tags(&key_id)
    }

    fn untag(&self, args: &UntagArgs) -> CliResult {
        let key_id = control_name(self.session, &args.key)?;
        let request = UntagResourceRequest { key_id: key_id.clone(), tag_keys: args.names.clone() };
        self.session.engine.untag_resource(&self.session.caller, request)?;
        self.show_tags(&key_id)
    }

    fn show_tags(&self, arn: &str) -> CliResult {
        let tags = all_tags(self.session, arn)?;
        self.settings.out.result(&json!({"KeyId": arn, "Tags": to_json(&tags)}), || {
            table(&["TAG", "VALUE"], tags.iter().map(|t| vec![t.tag_key.clone(), t.tag_value.clone()]))
        });
        Ok(Exit::Ok)
    }
}

/// The usage of keys of `spec` if they have no other.
fn only_usage(spec: KeySpec) -> Option<KeyUsage> {
    let mut usages = KeyUsage::ALL.iter().copied().filter(|usage| spec.allows(*usage));
    usages.next().filter(|_| usages.next().is_none())
}

/// A SubjectPublicKeyInfo as text (RFC 7468).
fn pem(der: &[u8]) -> String {
    let encoded = BASE64.encode(der);
    let mut text = String::from("-----BEGIN PUBLIC KEY-----");
    for (at, letter) in encoded.chars().enumerate() {
        if at % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text + "\n-----END PUBLIC KEY-----"
}

fn describe_words(
    metadata: &KeyMetadata,
    rotation: Option<&GetKeyRotationStatusResponse>,
    aliases: &[AliasListEntry],
    tags: &[Tag],
) -> String {
    let rotation = match rotation {
        None => String::new(),
        Some(r) if !r.key_rotation_enabled => "off".to_owned(),
        Some(r) => format!(
            "every {} days{}",
            r.rotation_period_in_days.unwrap_or_default(),
            r.next_rotation_date.map_or_else(String::new, |d| format!(", next on {d}"))
        ),
    };
    let aliases: Vec<&str> = aliases.iter().map(|a| a.alias_name.as_str()).collect();
    let tags: Vec<String> = tags.iter().map(|t| format!("{}={}", t.tag_key, t.tag_value)).collect();
    fields(&[
        ("arn", metadata.arn.to_string()),
        ("aliases", aliases.join(" ")),
        ("description", metadata.description.clone()),
        ("state", metadata.key_state.to_string()),
        ("deletion", metadata.deletion_date.map_or_else(String::new, |d| d.to_string())),
        ("manager", metadata.key_manager.to_string()),
        ("spec", metadata.key_spec.to_string()),
        ("usage", metadata.key_usage.to_string()),
        ("origin", metadata.origin.to_string()),
        ("created", metadata.creation_date.to_string()),
        ("rotation", rotation),
        ("key material", metadata.current_key_material_id.clone().unwrap_or_default()),
        ("tags", tags.join(" ")),
    ])
}

/// `key` as management operations take it: they know key ids and key ARNs (KMS.md section 4), people use aliases too.
pub fn control_name(session: &Session, key: &str) -> CliResult<String> {
    if key.starts_with("alias/") || key.contains(":alias/") {
        return Ok(describe(session, key)?.arn.to_string());
    }
    Ok(key.to_owned())
}

/// The key's metadata.
pub fn describe(session: &Session, key: &str) -> CliResult<KeyMetadata> {
    let request = DescribeKeyRequest { key_id: key.to_owned(), ..Default::default() };
    Ok(session.engine.describe_key(&session.caller, request)?.key_metadata)
}

/// Every element of a paged list.
pub fn pages<T>(
    mut page: impl FnMut(Option<String>) -> Result<(Vec<T>, Option<String>), KmsError>,
) -> CliResult<Vec<T>> {
    let mut all = Vec::new();
    let mut marker = None;
    loop {
        let (elements, next) = page(marker)?;
        all.extend(elements);
        if next.is_none() {
            return Ok(all);
        }
        marker = next;
    }
}

/// Every key of the account and Region.
pub fn all_keys(session: &Session) -> CliResult<Vec<KeyListEntry>> {
    pages(|marker| {
        let request = ListKeysRequest { limit: Some(1000), marker, ..Default::default() };
        let page = session.engine.list_keys(&session.caller, request)?;
        Ok((page.keys, page.next_marker))
    })
}

/// Every alias of `key`, or of the account and Region.
pub fn all_aliases(session: &Session, key: Option<&str>) -> CliResult<Vec<AliasListEntry>> {
    pages(|marker| {
        let request = ListAliasesRequest { key_id: key.map(str::to_owned), marker, ..Default::default() };
        let page = session.engine.list_aliases(&session.caller, request)?;
        Ok((page.aliases, page.next_marker))
    })
}

fn all_tags(session: &Session, arn: &str) -> CliResult<Vec<Tag>> {
    pages(|marker| {
        let request = ListResourceTagsRequest { key_id: arn.to_owned(), marker, ..Default::default() };
        let page = session.engine.list_resource_tags(&session.caller, request)?;
        Ok((page.tags, page.next_marker))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_split_at_the_first_equals_sign() {
        let tag = parse_tag("a=b=c").expect("valid");
        assert_eq!((tag.tag_key.as_str(), tag.tag_value.as_str()), ("a", "b=c"));
        assert!(parse_tag("a").is_err());
    }

    #[test]
    fn the_usage_is_filled_in_where_there_is_one() {
        assert_eq!(only_usage(KeySpec::Hmac256), Some(KeyUsage::GenerateVerifyMac));
        assert_eq!(only_usage(KeySpec::Rsa2048), None);
        assert_eq!(only_usage(KeySpec::Sm2), None);
    }

    #[test]
    fn pem_has_lines_of_64() {
        let text = pem(&[0; 49]);
        let lengths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lengths, [26, 64, 4, 24]);
        assert!(!text.ends_with('\n'));
    }

    #[test]
    fn pages_are_joined() {
        let all = pages(|marker| {
            Ok(match marker.as_deref() {
                None => (vec![1, 2], Some("m".to_owned())),
                Some(_) => (vec![3], None),
            })
        });
        assert_eq!(all.expect("pages"), [1, 2, 3]);
    }
}
