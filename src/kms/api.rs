//! AWS's API as JSON: the name of an operation and the body of a request in, the body of an answer out
//! ([`Engine::execute`]). No HTTP: `kmsfs serve` and `kmsfs kms OPERATION` both come here.
//!
//! What is built stands in tables, one per subject, one row per operation. A row names the operation, what kind of work
//! it is, the engine's method with the members of its request, and the plaintext that the answer reveals:
//!
//! ```text
//! operations! {
//!     Encrypt: Quick = encrypt(EncryptRequest { key_id: required, plaintext: required, dry_run: or_default });
//!     GenerateRandom: Quick = generate_random(GenerateRandomRequest { number_of_bytes: optional }) reveals plaintext;
//! }
//! ```
//!
//! A field reads the member of AWS's name (`key_id` reads `KeyId`) in the type that it has ([`input::Member`]): `required`
//! refuses a request without it, `optional` is for fields of type `Option`, `or_default` takes the type's default. To
//! build an operation: write its method on [`Engine`], which first holds the request against AWS's model (a rule for a new
//! member stands in the engine's `rules`), add its row to the table of its subject (a new subject is a new file and a
//! line in [`TABLES`]), and let `KMSFS_UPDATE_DOCS=1 cargo test --lib kms::api` renew the table in `docs/KMS.md`. A member
//! of AWS's model that the row does not read is refused, never ignored.

mod aliases;
mod answer;
mod asymmetric;
mod cryptography;
mod import;
mod input;
mod key_stores;
mod keys;
mod model;
mod multi_region;
mod policies;
mod rotation;
mod tags;
mod usage;

use std::cell::RefCell;

pub use answer::Answer;
use input::{Input, Problems, is_member};
use model::MODEL;

use crate::kms::engine::Effect;
use crate::kms::json::{Json, Text};
use crate::kms::model::Caller;
use crate::kms::{Engine, KmsError};

/// The tables of what is built.
const TABLES: &[&[Operation]] = &[
    keys::OPERATIONS,
    aliases::OPERATIONS,
    rotation::OPERATIONS,
    cryptography::OPERATIONS,
    asymmetric::OPERATIONS,
    tags::OPERATIONS,
    policies::OPERATIONS,
    import::OPERATIONS,
    multi_region::OPERATIONS,
    usage::OPERATIONS,
    key_stores::OPERATIONS,
];

/// One operation that is built.
pub struct Operation {
    name: &'static str,
    kind: Kind,
    /// The fields that the row reads.
    fields: &'static [(&'static str, Presence)],
    run: Run,
}

/// Reads a request and executes it. The outer error is of a request that the engine never saw.
type Run = fn(&Engine, &Caller, &Input<'_>, &RefCell<Problems>) -> Result<Result<Answer, KmsError>, KmsError>;

/// What kind of work an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing and takes microseconds.
    Quick,
    /// Changes nothing and may take longer: large numbers, long lists.
    Slow,
    /// Changes the key manager's state, durably.
    Changes,
}

/// Whether a member must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the words of the tables")]
enum Presence {
    required,
    optional,
    or_default,
}

/// Writes a table; see the module's documentation.
macro_rules! operations {
    ($($name:ident: $kind:ident = $method:ident($request:ident { $($field:ident: $presence:ident),* $(,)? })
        $(reveals $secret:ident)?;)+) => {
        pub(super) const OPERATIONS: &[$crate::kms::api::Operation] = &[$($crate::kms::api::Operation {
            name: stringify!($name),
            kind: $crate::kms::api::Kind::$kind,
            fields: &[$((stringify!($field), $crate::kms::api::Presence::$presence)),*],
            run: |engine, caller, input, problems| {
                // All members are read before any is missed, so that one answer names everything that is wrong.
                $(let $field = input.$presence(stringify!($field));)*
                problems.take().done(|found| { $(found.member(stringify!($field), &$field);)* })?;
                let request = (|| Some($request { $($field: $field?),* }))();
                let request = request.ok_or_else($crate::kms::api::without_reason)?;
                Ok(engine.$method(caller, request).and_then(|response| {
                    let answer = $crate::kms::api::Answer::new(&response);
                    $(let answer = answer.map(|answer| answer.reveal(stringify!($secret), &response.$secret));)?
                    answer
                }))
            },
        }),+];
    };
}
use operations;

fn without_reason() -> KmsError {
    KmsError::Internal("a request was refused without a reason".into())
}

impl Operation {
    /// The operation `name` if it is built.
    ///
    /// # Errors
    /// `UnsupportedOperationException` if it is not built, `UnknownOperationException` if AWS KMS has none of this name.
    pub fn find(name: &str) -> Result<&'static Self, KmsError> {
        let built = || TABLES.iter().copied().flatten();
        if let Some(operation) = built().find(|operation| operation.name == name) {
            return Ok(operation);
        }
        match model_members(name) {
            Some(_) => Err(KmsError::UnsupportedOperation(format!("kmsfs does not have the operation {name} yet."))),
            None => Err(KmsError::UnknownOperation(name.to_owned())),
        }
    }

    /// Every operation of AWS KMS by name, in alphabetical order, with whether it is built.
    pub fn all() -> impl Iterator<Item = (&'static str, Option<&'static Self>)> {
        MODEL.into_iter().map(|(name, _)| (name, Self::find(name).ok()))
    }

    /// AWS's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What kind of work it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn effect(&self) -> Effect {
        if self.kind == Kind::Changes { Effect::Changes } else { Effect::ReadOnly }
    }

    /// Refuses members that AWS KMS has and this row does not read: leaving `Recipient` out of account would give
    /// plaintext where ciphertext is expected. Members that AWS KMS does not have are ignored.
    fn takes(&self, members: &[(Text<'_>, Json<'_>)]) -> Result<(), KmsError> {
        let read = |name: &str| self.fields.iter().any(|(field, _)| is_member(field, name));
        for (name, value) in members {
            let name = name.as_str();
            if !read(name) && !matches!(value, Json::Null) && self.model().any(|member| member == name) {
                return Err(match name.starts_with("Xks") {
                    true => KmsError::UnsupportedOperation("kmsfs has no external key stores.".into()),
                    false => KmsError::Validation(format!("kmsfs does not support {name} in {}.", self.name)),
                });
            }
        }
        Ok(())
    }

    /// The members of AWS's model, without stars.
    fn model(&self) -> impl Iterator<Item = &'static str> {
        model_members(self.name).unwrap_or_default().iter().map(|member| member.trim_end_matches('*'))
    }
}

impl Engine {
    /// Executes the operation `name` of AWS KMS for `caller`: `body` is its request as JSON, empty like `{}`.
    ///
    /// # Errors
    /// As [`Operation::find`]; `SerializationException` and `ValidationException` for a request that is not what the
    /// operation takes; what the operation answers.
    pub fn execute(&self, caller: &Caller, name: &str, body: &[u8]) -> Result<Answer, KmsError> {
        let operation = Operation::find(name)?;
        self.run(caller, operation, body)
    }

    /// As [`Self::execute`], for an operation that was found before.
    pub fn run(&self, caller: &Caller, operation: &Operation, body: &[u8]) -> Result<Answer, KmsError> {
        let problems = RefCell::default();
        let answered = object(body).and_then(|members| {
            operation.takes(&members)?;
            (operation.run)(self, caller, &Input::new(&members, &problems), &problems)
        });
        answered.unwrap_or_else(|error| Err(self.refuse(caller, operation.name, operation.effect(), error)))
    }
}

/// The members of a request.
fn object(body: &[u8]) -> Result<Vec<(Text<'_>, Json<'_>)>, KmsError> {
    match Json::parse(if body.is_empty() { b"{}" } else { body }) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(other) => Err(KmsError::Serialization(format!("{} where an object is expected", other.kind()))),
        // The parser's own text might repeat what the body says.
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            Err(KmsError::Serialization(format!("The request is not valid JSON (line {line}, column {column}).")))
        }
    }
}

/// The input members of an operation of AWS's model, those that are required with a star.
fn model_members(name: &str) -> Option<&'static [&'static str]> {
    MODEL.binary_search_by(|(other, _)| (*other).cmp(name)).ok().map(|at| MODEL[at].1)
}

/// The table of operations for `docs/KMS.md`: what is built, and which members of AWS's requests it takes.
pub fn coverage() -> String {
    let built = Operation::all().filter(|(_, operation)| operation.is_some()).count();
    let mut text = format!(
        "{built} of {} operations.\n\n| operation | members (* required) | not built |\n| --- | --- | --- |\n",
        MODEL.len()
    );
    for (name, members) in MODEL {
        let Ok(operation) = Operation::find(name) else {
            text.push_str(&format!("| {name} | | the operation |\n"));
            continue;
        };
        let read =
            |member: &&&str| operation.fields.iter().any(|(field, _)| is_member(field, member.trim_end_matches('*')));
        let (taken, missing): (Vec<&str>, Vec<&str>) = members.iter().partition(read);
        text.push_str(&format!("| {name} | {} | {} |\n", taken.join(", "), missing.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests;
