//! AWS credentials, found as every AWS tool finds them: environment variables, then the shared credentials file.

use std::env;
use std::fs;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// Where credentials are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Where every AWS tool looks: environment variables, then the shared credentials file.
    Environment,
    /// The default profile of this file.
    File(PathBuf),
}

/// What requests are signed with.
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: Zeroizing<String>,
    pub session_token: Option<Zeroizing<String>>,
}

/// No credentials were found.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CredentialsError {
    /// The file, or the profile in it, is not there.
    #[error(
        "there are no AWS credentials: AWS_ACCESS_KEY_ID is not set, and {path} has no profile '{profile}' with an access \
         key; kmsfs iam create-access-key makes one for kmsfs serve"
    )]
    None {
        /// The shared credentials file.
        path: PathBuf,
        /// The profile.
        profile: String,
    },
    /// Half of a pair.
    #[error("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not")]
    NoSecret,
}

fn variable(name: &str) -> Option<Zeroizing<String>> {
    env::var(name).ok().filter(|value| !value.is_empty()).map(Zeroizing::new)
}

impl Credentials {
    /// Reads them.
    pub fn load(source: &Source) -> Result<Self, CredentialsError> {
        match source {
            Source::File(path) => Self::of_file(path.clone(), "default".to_owned()),
            Source::Environment => Self::of_environment(),
        }
    }

    fn of_environment() -> Result<Self, CredentialsError> {
        if let Some(id) = variable("AWS_ACCESS_KEY_ID") {
            let secret = variable("AWS_SECRET_ACCESS_KEY").ok_or(CredentialsError::NoSecret)?;
            let session_token = variable("AWS_SESSION_TOKEN");
            return Ok(Self { access_key_id: id.to_string(), secret_access_key: secret, session_token });
        }
        let profile = env::var("AWS_PROFILE").ok().filter(|p| !p.is_empty()).unwrap_or_else(|| "default".to_owned());
        let named = env::var_os("AWS_SHARED_CREDENTIALS_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let at_home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".aws/credentials");
        Self::of_file(named.unwrap_or_else(at_home), profile)
    }

    fn of_file(path: PathBuf, profile: String) -> Result<Self, CredentialsError> {
        let text = Zeroizing::new(fs::read_to_string(&path).unwrap_or_default());
        of_profile(&text, &profile).ok_or(CredentialsError::None { path, profile })
    }
}

/// The credentials of a profile in the text of a shared credentials file.
fn of_profile(text: &str, profile: &str) -> Option<Credentials> {
    let (mut id, mut secret, mut session_token) = (None, None, None);
    let mut inside = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside) {
            let value = value.trim();
            match name.trim() {
                "aws_access_key_id" => id = Some(value.to_owned()),
                "aws_secret_access_key" => secret = Some(Zeroizing::new(value.to_owned())),
                "aws_session_token" => session_token = Some(Zeroizing::new(value.to_owned())),
                _ => {}
            }
        }
    }
    Some(Credentials { access_key_id: id?, secret_access_key: secret?, session_token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_of_the_shared_file() {
        let text = "# c\n[default]\naws_access_key_id = A\naws_secret_access_key=s=1\n\n[ two ]\naws_access_key_id=B\n\
                    aws_secret_access_key = t\naws_session_token = u\n[three]\naws_access_key_id=C\n";
        let one = of_profile(text, "default").expect("there");
        assert_eq!((one.access_key_id.as_str(), one.secret_access_key.as_str()), ("A", "s=1"));
        assert!(one.session_token.is_none());
        let two = of_profile(text, "two").expect("there");
        assert_eq!(two.session_token.as_deref().map(String::as_str), Some("u"));
        assert!(of_profile(text, "three").is_none() && of_profile(text, "four").is_none());
    }
}
