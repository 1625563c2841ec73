//! Who calls, and from where.

use std::fmt;
use std::str::FromStr;

use crate::sync::{Arc, OnceLock};
use crate::types::{AccountId, Region};

/// What kind of principal an ARN names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// `arn:aws:iam::<account>:root`.
    Root,
    /// `arn:aws:iam::<account>:user/<name>`.
    User,
    /// `arn:aws:iam::<account>:role/<name>`.
    Role,
}

/// An AWS principal of one account.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal {
    arn: String,
    account: AccountId,
}

/// The text is not the ARN of a principal.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not the ARN of an IAM user, role or account root")]
pub struct ParsePrincipalError(String);

impl Principal {
    /// The account's root.
    pub fn root(account: &AccountId) -> Self {
        Self { arn: format!("arn:aws:iam::{account}:root"), account: account.clone() }
    }

    /// A local user (KMS.md section 8); characters that IAM does not allow in names become `_`.
    pub fn user(account: &AccountId, name: &str) -> Self {
        Self { arn: format!("arn:aws:iam::{account}:user/{}", iam_name(name)), account: account.clone() }
    }

    /// The user or role `name`, possibly with a path (`team/alice`).
    ///
    /// # Errors
    /// IAM does not allow the name.
    pub fn named(account: &AccountId, kind: PrincipalKind, name: &str) -> Result<Self, ParsePrincipalError> {
        let parts_are_legal = name.split('/').all(|part| !part.is_empty() && iam_name(part) == part);
        let arn = match kind {
            PrincipalKind::User => format!("arn:aws:iam::{account}:user/{name}"),
            PrincipalKind::Role => format!("arn:aws:iam::{account}:role/{name}"),
            PrincipalKind::Root => return Ok(Self::root(account)),
        };
        if parts_are_legal && name.len() <= 512 {
            Ok(Self { arn, account: account.clone() })
        } else {
            Err(ParsePrincipalError(arn))
        }
    }

    /// The principal of the mount of `volume`.
    pub fn mount(account: &AccountId, volume: &str) -> Self {
        Self { arn: format!("arn:aws:iam::{account}:role/kmsfs/{}", iam_name(volume)), account: account.clone() }
    }

    /// The ARN.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// The account.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The kind.
    pub fn kind(&self) -> PrincipalKind {
        match self.resource() {
            "root" => PrincipalKind::Root,
            r if r.starts_with("role/") => PrincipalKind::Role,
            _ => PrincipalKind::User,
        }
    }

    /// The last part of a user's or role's name; `root` for the root.
    pub fn name(&self) -> &str {
        self.resource().rsplit('/').next().unwrap_or("")
    }

    /// What stands for AWS's unique id: the account for its root, else the name.
    pub fn id(&self) -> &str {
        match self.kind() {
            PrincipalKind::Root => self.account.as_str(),
            PrincipalKind::User | PrincipalKind::Role => self.name(),
        }
    }

    fn resource(&self) -> &str {
        self.arn.splitn(6, ':').nth(5).unwrap_or("")
    }
}

fn iam_name(name: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
    name.chars().map(|c| if legal(c) { c } else { '_' }).take(64).collect()
}

impl FromStr for Principal {
    type Err = ParsePrincipalError;

    fn from_str(text: &str) -> Result<Self, ParsePrincipalError> {
        let refused = || ParsePrincipalError(text.to_owned());
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let ["arn", "aws", "iam", "", account, resource] = parts[..] else { return Err(refused()) };
        let account: AccountId = account.parse().map_err(|_| refused())?;
        let named = |prefix: &str| resource.strip_prefix(prefix).is_some_and(|name| !name.is_empty());
        if resource == "root" || named("user/") || named("role/") {
            Ok(Self { arn: text.to_owned(), account })
        } else {
            Err(refused())
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

/// Everything the engine knows of a caller. Cheap to clone; made once per mount, command or connection.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Fields>);

#[derive(Clone, Debug)]
struct Fields {
    principal: Principal,
    region: Region,
    /// Whether the principal is an administrator of its account as long as no identity of its name is made.
    local: bool,
    metered: bool,
    via_service: Option<String>,
    source_arn: Option<String>,
    access_key_id: Option<String>,
    source_ip: String,
    user_agent: String,
    /// Whether the connection is encrypted; absent where there is none.
    encrypted: Option<bool>,
    request_id: Option<String>,
    /// The caller's part of audit records, rendered at the first.
    identity: OnceLock<String>,
}

impl Caller {
    /// A caller who works in `region` and may do what the identity policies of its user or role say.
    pub fn new(principal: Principal, region: Region) -> Self {
        let user_agent = concat!("kmsfs/", env!("CARGO_PKG_VERSION")).to_owned();
        let (source_ip, identity) = ("127.0.0.1".to_owned(), OnceLock::new());
        let (via_service, source_arn, access_key_id, request_id) = (None, None, None, None);
        let (local, metered) = (false, false);
        let fields = Fields {
            principal,
            region,
            local,
            metered,
            via_service,
            source_arn,
            access_key_id,
            source_ip,
            user_agent,
            encrypted: None,
            request_id,
            identity,
        };
        Self(Arc::new(fields))
    }

    /// Somebody who can open the home: a user at the command line, a mount. An administrator of the principal's account,
    /// unless a user or role of that name was made in the home: then its identity policies count.
    pub fn local(principal: Principal, region: Region) -> Self {
        Self::new(principal, region).changed(|fields| fields.local = true)
    }

    fn changed(mut self, change: impl FnOnce(&mut Fields)) -> Self {
        let fields = Arc::make_mut(&mut self.0);
        change(fields);
        fields.identity = OnceLock::new();
        self
    }

    /// The caller's requests count against the request quotas, where the engine has some: those from the network.
    #[must_use]
    pub fn metered(self) -> Self {
        self.changed(|fields| fields.metered = true)
    }

    pub(in crate::kms) fn is_metered(&self) -> bool {
        self.0.metered
    }

    /// The call comes through a service, for example `kmsfs.us-east-1.local` (condition key `kms:ViaService`).
    #[must_use]
    pub fn via_service(self, service: impl Into<String>) -> Self {
        self.changed(|fields| fields.via_service = Some(service.into()))
    }

    /// The service calls for this resource (condition key `aws:SourceArn`).
    #[must_use]
    pub fn for_resource(self, arn: impl Into<String>) -> Self {
        self.changed(|fields| fields.source_arn = Some(arn.into()))
    }

    /// The access key that signed the request.
    #[must_use]
    pub fn signed_by(self, access_key_id: impl Into<String>) -> Self {
        self.changed(|fields| fields.access_key_id = Some(access_key_id.into()))
    }

    /// The same caller in another Region.
    #[must_use]
    pub fn in_region(self, region: Region) -> Self {
        self.changed(|fields| fields.region = region)
    }

    /// Address and user agent of a remote caller.
    #[must_use]
    pub fn from_address(self, source_ip: impl Into<String>, user_agent: impl Into<String>) -> Self {
        self.changed(|fields| {
            fields.source_ip = source_ip.into();
            fields.user_agent = user_agent.into();
        })
    }

    /// The call came over the network (condition key `aws:SecureTransport`: whether by TLS).
    #[must_use]
    pub fn over_network(self, encrypted: bool) -> Self {
        self.changed(|fields| fields.encrypted = Some(encrypted))
    }

    /// The request's id, when the transport made one; else the audit log makes one per call.
    #[must_use]
    pub fn with_request_id(self, id: impl Into<String>) -> Self {
        self.changed(|fields| fields.request_id = Some(id.into()))
    }

    /// The identity in audit records; `render` makes it once.
    pub(in crate::kms) fn identity(&self, render: impl FnOnce() -> String) -> &str {
        self.0.identity.get_or_init(render)
    }

    /// The principal.
    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }

    /// The principal's account.
    pub fn account(&self) -> &AccountId {
        self.0.principal.account()
    }

    /// The Region that the request is for.
    pub fn region(&self) -> &Region {
        &self.0.region
    }

    /// Whether the caller was made by [`Caller::local`].
    pub fn is_local(&self) -> bool {
        self.0.local
    }

    /// The service that calls for the principal.
    pub fn service(&self) -> Option<&str> {
        self.0.via_service.as_deref()
    }

    /// The resource for which the service calls.
    pub fn source_arn(&self) -> Option<&str> {
        self.0.source_arn.as_deref()
    }

    /// The id of the access key that signed; absent where nothing was signed.
    pub fn access_key_id(&self) -> Option<&str> {
        self.0.access_key_id.as_deref()
    }

    /// The caller's address.
    pub fn source_ip(&self) -> &str {
        &self.0.source_ip
    }

    /// The caller's user agent.
    pub fn user_agent(&self) -> &str {
        &self.0.user_agent
    }

    /// Whether the connection was encrypted; absent where the call came over none.
    pub fn is_encrypted(&self) -> Option<bool> {
        self.0.encrypted
    }

    /// The transport's request id.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_parse_and_name_their_kind() {
        let account: AccountId = "111122223333".parse().expect("twelve digits");
        let mount = Principal::mount(&account, "0a1b");
        assert_eq!(mount.arn(), "arn:aws:iam::111122223333:role/kmsfs/0a1b");
        assert_eq!((mount.kind(), mount.name()), (PrincipalKind::Role, "0a1b"));
        assert_eq!(mount.arn().parse(), Ok(mount));
        assert_eq!(Principal::root(&account).kind(), PrincipalKind::Root);
        assert_eq!(Principal::user(&account, "a:b/c").arn(), "arn:aws:iam::111122223333:user/a_b_c");
        for text in ["", "arn:aws:iam::1:root", "arn:aws:iam::111122223333:user/", "arn:aws:sts::111122223333:root"] {
            assert!(text.parse::<Principal>().is_err(), "{text}");
        }
    }
}
