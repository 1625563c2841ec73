//! PKCS#11 tokens: where the material of custom key stores lives and is used (KMS.md section 14).
//!
//! A module is loaded once per process and stays. A token that fails in use is reported as unavailable, never as anything
//! worse; whoever holds it drops it and logs in anew at the next use.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use crate::kms::model::ConnectionErrorCode;
use crate::sync::{Arc, Mutex, OnceLock, lock};

const TAG_BITS: u64 = 128;
/// Sessions that are kept for the next use.
const IDLE_SESSIONS: usize = 16;

/// Why a token did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The ciphertext is not one of this key, IV and AAD.
    #[error("the token refused the ciphertext")]
    Refused,
    /// Anything else: the module, the token, the PIN, the object.
    #[error("{why}")]
    Unavailable {
        /// AWS's word for it.
        code: ConnectionErrorCode,
        /// What happened.
        why: String,
    },
}

impl TokenError {
    fn new(code: ConnectionErrorCode, why: impl Into<String>) -> Self {
        Self::Unavailable { code, why: why.into() }
    }
}

impl TokenError {
    /// Whether the token refused the login: it must not be tried again, tokens lock themselves after a few wrong PINs.
    pub fn is_refusal(&self) -> bool {
        use ConnectionErrorCode::{InvalidCredentials, UserLockedOut};
        matches!(self, Self::Unavailable { code: InvalidCredentials | UserLockedOut, .. })
    }
}

impl From<Error> for TokenError {
    fn from(error: Error) -> Self {
        use ConnectionErrorCode::*;
        let code = match &error {
            Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => InvalidCredentials,
            Error::Pkcs11(RvError::PinLocked | RvError::PinExpired, _) => UserLockedOut,
            Error::Pkcs11(RvError::UserPinNotInitialized, _) => UserNotFound,
            Error::Pkcs11(RvError::TokenNotPresent | RvError::TokenNotRecognized | RvError::SlotIdInvalid, _) => {
                ClusterNotFound
            }
            Error::Pkcs11(RvError::DeviceError | RvError::DeviceRemoved | RvError::FunctionFailed, _) => NetworkErrors,
            _ => InternalError,
        };
        Self::new(code, format!("the PKCS#11 module reports: {error}"))
    }
}

/// A module that is loaded. It belongs to the process, whoever in it uses the module.
struct Module {
    context: Pkcs11,
    /// Whether it was initialised here: under another name it may be in use elsewhere.
    ours: bool,
    /// Held by everything that has sessions.
    lease: Arc<()>,
}

impl Module {
    fn load(path: &Path) -> Result<Self, TokenError> {
        let context = Pkcs11::new(path)?;
        let ours = match initialize(&context) {
            Ok(()) => true,
            Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => false,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { context, ours, lease: Arc::default() })
    }

    /// Whether nobody has sessions: to finalise a module ends them all, and must not meet a call that is under way
    /// (PKCS #11, C_Finalize).
    fn is_idle(&self) -> bool {
        self.ours && Arc::strong_count(&self.lease) == 1
    }

    /// Lets an idle module look for its tokens anew: some, as SoftHSM2, do so only when they are initialised.
    fn renew(&self) -> Result<(), Error> {
        tracing::info!("a PKCS#11 module is initialised anew to find its tokens");
        self.context.clone().finalize()?;
        initialize(&self.context)
    }

    fn log_in(&self, label: &str, pin: &[u8]) -> Result<Token, TokenError> {
        let slot = slot_of(&self.context, label)?;
        let session = self.context.open_rw_session(slot)?;
        let text = std::str::from_utf8(pin).map_err(|_| {
            TokenError::new(ConnectionErrorCode::InvalidCredentials, "the password of the key store is not text")
        })?;
        // Wiped on drop.
        let pin = AuthPin::new(text.into());
        match session.login(UserType::User, Some(&pin)) {
            // All sessions of a process share its login.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Token {
            module: self.context.clone(),
            slot,
            login: Mutex::new(session),
            idle: Mutex::default(),
            keys: Mutex::default(),
            _lease: self.lease.clone(),
        })
    }
}

fn initialize(context: &Pkcs11) -> Result<(), Error> {
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
}

/// Runs `work` with the module at `path`. If that fails for another reason than a refused PIN and `renew` says so, the
/// module looks for its tokens anew, where it can, and `work` has a second chance. Nobody else finds tokens meanwhile.
fn with_module<T>(
    path: &Path,
    renew: impl FnOnce() -> bool,
    work: impl Fn(&Module) -> Result<T, TokenError>,
) -> Result<T, TokenError> {
    static MODULES: OnceLock<Mutex<HashMap<PathBuf, Module>>> = OnceLock::new();
    let mut loaded = lock(MODULES.get_or_init(Mutex::default));
    // One name for each; of a file that was deleted since, the one it was loaded by.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if !loaded.contains_key(&path) {
        loaded.insert(path.clone(), Module::load(&path)?);
    }
    let module = &loaded[&path];
    match work(module) {
        Err(error) if !error.is_refusal() && module.is_idle() && renew() => {}
        first => return first,
    }
    if let Err(error) = module.renew() {
        // It is in no known state: the next use loads and initialises it.
        loaded.remove(&path);
        return Err(error.into());
    }
    work(module)
}

/// Whether the module at `path` has a token with this label.
pub fn find(path: &Path, label: &str) -> Result<(), TokenError> {
    with_module(path, || true, |module| slot_of(&module.context, label).map(drop))
}

/// Logs in to the token with this label. `renew`: whether the module may look for its tokens anew; asked only when it
/// would.
pub fn log_in(path: &Path, label: &str, pin: &[u8], renew: impl FnOnce() -> bool) -> Result<Token, TokenError> {
    with_module(path, renew, |module| module.log_in(label, pin))
}

fn slot_of(module: &Pkcs11, label: &str) -> Result<Slot, TokenError> {
    for slot in module.get_slots_with_token()? {
        // A slot that does not answer is not the one.
        if module.get_token_info(slot).is_ok_and(|info| info.label() == label) {
            return Ok(slot);
        }
    }
    Err(TokenError::new(ConnectionErrorCode::ClusterNotFound, format!("the module has no token '{label}'")))
}

/// A token that somebody is logged in to.
pub struct Token {
    module: Pkcs11,
    slot: Slot,
    /// Held open: the end of the last session ends the login.
    login: Mutex<Session>,
    idle: Mutex<Vec<Session>>,
    /// Handles by material id.
    keys: Mutex<HashMap<[u8; 32], ObjectHandle>>,
    /// Last, so that it is given back when the sessions are closed.
    _lease: Arc<()>,
}

impl Token {
    /// Runs `work` in a session; one in which something failed is closed.
    fn with<T>(&self, work: impl FnOnce(&Session) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let idle = lock(&self.idle).pop();
        let session = match idle {
            Some(session) => session,
            None => self.module.open_rw_session(self.slot)?,
        };
        let answer = work(&session)?;
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_SESSIONS {
            idle.push(session);
        }
        Ok(answer)
    }

    /// Makes an AES-256 key that stays in the token.
    pub fn generate(&self, material_id: &[u8; 32]) -> Result<(), TokenError> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(32.into()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Label(b"kmsfs".to_vec()),
            Attribute::Id(material_id.to_vec()),
        ];
        let key = self.with(|session| Ok(session.generate_key(&Mechanism::AesKeyGen, &template)?))?;
        lock(&self.keys).insert(*material_id, key);
        Ok(())
    }

    /// Destroys a key; one that is not there is no error.
    pub fn destroy(&self, material_id: &[u8; 32]) -> Result<(), TokenError> {
        lock(&self.keys).remove(material_id);
        self.with(|session| {
            for key in session.find_objects(&search(material_id))? {
                session.destroy_object(key)?;
            }
            Ok(())
        })
    }

    fn key(&self, session: &Session, material_id: &[u8; 32]) -> Result<ObjectHandle, TokenError> {
        if let Some(key) = lock(&self.keys).get(material_id) {
            return Ok(*key);
        }
        let found = session.find_objects(&search(material_id))?.first().copied();
        let gone = || TokenError::new(ConnectionErrorCode::InternalError, "the key is not in the token");
        let key = found.ok_or_else(gone)?;
        lock(&self.keys).insert(*material_id, key);
        Ok(key)
    }

    /// AES-256-GCM: ciphertext and tag.
    pub fn encrypt(
        &self,
        material_id: &[u8; 32],
        iv: &[u8; 12],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        self.with(|session| {
            let key = self.key(session, material_id)?;
            let mut iv = *iv;
            let parameters = GcmParams::new(&mut iv, aad, TAG_BITS.into())?;
            Ok(session.encrypt(&Mechanism::AesGcm(parameters), key, plaintext)?)
        })
    }

    /// The plaintext of what [`Token::encrypt`] made.
    pub fn decrypt(
        &self,
        material_id: &[u8; 32],
        iv: &[u8; 12],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.with(|session| {
            let key = self.key(session, material_id)?;
            let mut iv = *iv;
            let parameters = GcmParams::new(&mut iv, aad, TAG_BITS.into())?;
            match session.decrypt(&Mechanism::AesGcm(parameters), key, sealed) {
                Ok(plaintext) => Ok(Zeroizing::new(plaintext)),
                Err(Error::Pkcs11(RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange, _)) => {
                    Err(TokenError::Refused)
                }
                // SoftHSM2 has no other word for a wrong tag. The token answers, so it is not the token.
                Err(Error::Pkcs11(RvError::GeneralError, Function::Decrypt)) if self.answers(material_id) => {
                    Err(TokenError::Refused)
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Whether the key can be found in the token, in a session of its own.
    fn answers(&self, material_id: &[u8; 32]) -> bool {
        let found =
            self.module.open_rw_session(self.slot).and_then(|session| session.find_objects(&search(material_id)));
        found.is_ok_and(|keys| !keys.is_empty())
    }

    /// Fills `out` from the token's random number generator.
    pub fn random(&self, out: &mut [u8]) -> Result<(), TokenError> {
        self.with(|session| Ok(session.generate_random_slice(out)?))
    }

    /// Ends the login of this process.
    pub fn log_out(&self) {
        if let Err(error) = lock(&self.login).logout() {
            tracing::debug!(%error, "logging out of a token failed");
        }
    }
}

fn search(material_id: &[u8; 32]) -> [Attribute; 3] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Label(b"kmsfs".to_vec()),
        Attribute::Id(material_id.to_vec()),
    ]
}
