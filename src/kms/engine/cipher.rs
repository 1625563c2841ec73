//! Encryption and decryption under a key, whichever kind it is.

use super::aliases::create_managed;
use super::authorise::{Access, check_tokens, denied};
use super::call::Call;
use super::fit::{current, fits, mismatched, missing, object};
use super::resolve::{Forms, does_not_exist, own_arn};
use crate::crypto::asymmetric::{DecryptionKey, Oaep};
use crate::crypto::secret::SecretBytes;
use crate::kms::KmsError;
use crate::kms::blob::{self, Header, KeyName};
use crate::kms::model::*;
use crate::kms::object::KeyObject;
use crate::kms::store::{KeyEntry, Material};
use crate::sync::Arc;
use crate::types::EncryptionContext;

/// How a key is to be used.
#[derive(Clone, Copy)]
pub struct Use<'a> {
    pub operation: &'static str,
    pub algorithm: EncryptionAlgorithm,
    pub context: &'a EncryptionContext,
}

/// A ciphertext with what the caller says of it.
pub struct Ciphertext<'a> {
    /// Absent in a dry run without it.
    pub blob: Option<&'a [u8]>,
    pub key_id: Option<&'a str>,
    pub using: &'a Use<'a>,
}

/// What a ciphertext held.
pub struct Opened {
    pub key: Arc<KeyEntry>,
    /// The material that it was under; symmetric keys only.
    pub material_id: Option<String>,
    pub plaintext: Plaintext,
}

impl Call<'_> {
    /// The key to encrypt with, authorised and usable.
    pub fn encryption_key<'a>(&mut self, key_id: &'a str, access: Access<'a>) -> Result<Arc<KeyEntry>, KmsError> {
        create_managed(self, key_id, false)?;
        let snapshot = self.snapshot()?;
        let key = self.key(&snapshot, key_id, Forms::Any, access)?;
        self.usable(&key)?;
        key.current().into_iter().for_each(|material| material.prefetch());
        Ok(key)
    }

    /// The material that encrypts `len` bytes for `key`.
    pub fn encrypting<'k>(
        &self,
        key: &'k KeyEntry,
        using: &Use<'_>,
        len: usize,
    ) -> Result<&'k Arc<Material>, KmsError> {
        check(key, using)?;
        let material = current(key)?;
        if let Some(oaep) = using.algorithm.oaep() {
            let longest = rsa(key, material)?.max_plaintext(oaep);
            if len > longest {
                return Err(KmsError::Validation(format!(
                    "Algorithm {} and key spec {} cannot encrypt data larger than {longest} bytes.",
                    using.algorithm, key.spec
                )));
            }
        }
        Ok(material)
    }

    /// Encrypts under material that [`Call::encrypting`] gave.
    pub fn seal(
        &self,
        key: &KeyEntry,
        material: &Material,
        using: &Use<'_>,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        if let Some(oaep) = using.algorithm.oaep() {
            let sealed = rsa(key, material)?.encrypt(oaep, plaintext);
            return sealed.map_err(|error| KmsError::Internal(error.to_string()));
        }
        let header = Header::new(key.name, material.id);
        let context = blob::encode_context(using.context);
        if material.in_token {
            let snapshot = self.snapshot()?;
            return self.shared.seal_in_token(&snapshot, key, material, (&header, &context, plaintext));
        }
        let secret = material.secret().ok_or_else(|| missing(key))?;
        Ok(blob::seal(&header, secret, &context, plaintext, &*self.shared.entropy))
    }

    /// Decrypts, after authorisation; `None` if there is no ciphertext and nothing else speaks against it.
    pub fn open(&mut self, ciphertext: &Ciphertext<'_>, access: Access<'_>) -> Result<Option<Opened>, KmsError> {
        let using = ciphertext.using;
        let snapshot = self.snapshot()?;
        let region = self.caller.region().as_str();
        let header = ciphertext.blob.filter(|_| using.algorithm.oaep().is_none()).and_then(Header::parse);
        let found = header.and_then(|header| snapshot.find_key(region, &header.key()).cloned());
        // Before the key is looked for: whether a key of another account is there must not show.
        check_tokens(self.shared, access.tokens)?;
        // A plain id that the ciphertext names too is no other way to find the key: it may be of any account.
        let said_twice = |key_id: &&str| found.as_ref().is_some_and(|key| KeyName::parse(key_id) == Some(key.name));
        let named = match ciphertext.key_id.filter(|key_id| !said_twice(key_id)) {
            Some(key_id) => {
                let key = self.key(&snapshot, key_id, Forms::Any, access.clone())?;
                self.usable(&key)?;
                check(&key, using)?;
                Some(key)
            }
            None => None,
        };
        let Some(blob) = ciphertext.blob else { return Ok(None) };
        if let Some(oaep) = using.algorithm.oaep() {
            let text = "KeyId is required to decrypt what was encrypted under an asymmetric KMS key.";
            let key = named.ok_or_else(|| KmsError::Validation(text.into()))?;
            return open_rsa(key, oaep, blob).map(Some);
        }
        // Whether another account has the key of the ciphertext is not told.
        if let (Some(named), Some(header)) = (&named, &header)
            && header.key() != named.name
        {
            return Err(KmsError::IncorrectKey);
        }
        let Some(header) = header else { return Err(invalid_after_work(blob, using.context)) };
        let Some(key) = found else {
            invalid_after_work(blob, using.context);
            return Err(not_told());
        };
        if named.is_none() {
            let allowed = self.authorise_checked(&snapshot, &access, &key);
            let foreign = key.account != *self.caller.account();
            let hidden = |error: &KmsError| foreign && *error == denied(self.caller, access.action, key.arn.as_str());
            allowed.map_err(|error| match ciphertext.key_id {
                // Told only where the owner lets the caller's account in.
                _ if !hidden(&error) => error,
                // As `find` answers for a plain id that no key of the caller's account has.
                Some(key_id) => does_not_exist(&own_arn(self.caller, key_id)),
                None => not_told(),
            })?;
            if key.is_tombstone() {
                return Err(does_not_exist(key.arn.as_str()));
            }
            self.usable(&key)?;
            check(&key, using)?;
        }
        let Some(material) = key.material(&header.material_id) else {
            return Err(invalid_after_work(blob, using.context));
        };
        let context = blob::encode_context(using.context);
        let plain = match (material.in_token, header.in_token) {
            (true, true) => self.shared.open_in_token(&snapshot, &key, material, (blob, &context))?.as_slice().into(),
            (false, false) => {
                let secret = material.secret().ok_or_else(|| missing(&key))?;
                blob::open(blob, secret, &context).ok_or(KmsError::InvalidCiphertext)?
            }
            _ => return Err(KmsError::InvalidCiphertext),
        };
        let material_id = Some(material.id_text());
        Ok(Some(Opened { key, material_id, plaintext: plain.into() }))
    }
}

/// The material's id for an answer: only those of symmetric keys are told.
pub fn symmetric_id(key: &KeyEntry, material: &Material) -> Option<String> {
    (key.spec == KeySpec::SymmetricDefault).then(|| material.id_text())
}

/// Refuses keys, algorithms and encryption contexts that do not fit.
fn check(key: &KeyEntry, using: &Use<'_>) -> Result<(), KmsError> {
    let legal = Algorithms::of(key.spec, KeyUsage::EncryptDecrypt).encryption_algorithms;
    fits(key, using.operation, KeyUsage::EncryptDecrypt, using.algorithm, legal)?;
    if using.algorithm.oaep().is_some() && using.context.pairs().len() > 0 {
        let text = "An encryption context can be used with symmetric encryption KMS keys only.";
        return Err(KmsError::Validation(text.into()));
    }
    Ok(())
}

fn rsa<'a>(key: &KeyEntry, material: &'a Material) -> Result<&'a DecryptionKey, KmsError> {
    match object(key, material)? {
        KeyObject::Decryption(rsa) => Ok(rsa),
        _ => Err(mismatched(key)),
    }
}

fn open_rsa(key: Arc<KeyEntry>, oaep: Oaep, ciphertext: &[u8]) -> Result<Opened, KmsError> {
    let plain = rsa(&key, current(&key)?)?.decrypt(oaep, ciphertext).ok_or(KmsError::InvalidCiphertext)?;
    Ok(Opened { key, material_id: None, plaintext: plain.into() })
}

/// One answer, AWS's, for a key that is not there and for one of another account that the caller may not use: headers are
/// easily forged, so that any other would tell which keys exist, and whose they are.
fn not_told() -> KmsError {
    KmsError::AccessDenied(
        "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not \
         allowed to access."
            .to_owned(),
    )
}

/// `InvalidCiphertextException`, after as much work as for a blob whose tag is wrong.
fn invalid_after_work(blob: &[u8], context: &EncryptionContext) -> KmsError {
    let nobody = SecretBytes::from(&[0; 32][..]);
    let opened = blob::open(blob, &nobody, &blob::encode_context(context));
    // A blob under a key of zeros is no ciphertext of ours either.
    drop(std::hint::black_box(opened));
    KmsError::InvalidCiphertext
}
