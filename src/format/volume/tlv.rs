//! TLVs of the volume file: `LE16 type | LE16 0 | LE32 length | value`.

use super::{DefaultWrap, VolumeConfig};
use crate::format::Outcome;
use crate::format::branch::BranchVersion;
use crate::format::bytes::Reader;
use crate::format::recipient::{MAX_RECIPIENTS, Recipient, Scheme};
use crate::types::{BranchId, KeyArn};

const ALLOWED_KEY: u16 = 1;
const VRK_RECIPIENT: u16 = 2;
const DEFAULT_WRAP: u16 = 3;
const BRANCH: u16 = 4;
const LABEL: u16 = 0x8004;
/// Types with this bit may be ignored.
const OPTIONAL: u16 = 0x8000;

const DIRECT: u8 = 1;
const BY_BRANCH: u8 = 2;
const MAX_LABEL: usize = 255;

/// What the TLVs of a file say.
pub(super) struct Parts {
    pub(super) allowed_keys: Vec<KeyArn>,
    pub(super) recipients: Vec<Recipient>,
    pub(super) default_wrap: DefaultWrap,
    pub(super) branches: Vec<BranchVersion>,
    pub(super) label: Option<String>,
    pub(super) other: Vec<(u16, Vec<u8>)>,
}

/// Parses the TLVs, in the order in which they stand.
pub(super) fn decode(bytes: &[u8]) -> Result<Parts, Outcome> {
    let mut reader = Reader(bytes);
    let (mut allowed_keys, mut recipients, mut branches) = (Vec::new(), Vec::new(), Vec::<BranchVersion>::new());
    let (mut default_wrap, mut label, mut other) = (None, None, Vec::new());
    while !reader.is_empty() {
        let (kind, value) = take(&mut reader).ok_or(Outcome::VolumeAuth)?;
        match kind {
            ALLOWED_KEY => allowed_keys.push(decode_key(value)?),
            VRK_RECIPIENT => recipients.push(decode_recipient(value).ok_or(Outcome::VolumeAuth)?),
            DEFAULT_WRAP => {
                if default_wrap.replace(decode_wrap(value)?).is_some() {
                    return Err(Outcome::VolumeAuth);
                }
            }
            BRANCH => {
                let branch = BranchVersion::parse(value)?;
                if branches.iter().any(|b| (b.branch_id, b.version) == (branch.branch_id, branch.version)) {
                    return Err(Outcome::VolumeAuth);
                }
                branches.push(branch);
            }
            LABEL if label.is_none() && value.len() <= MAX_LABEL => match std::str::from_utf8(value) {
                Ok(text) => label = Some(text.to_owned()),
                Err(_) => other.push((kind, value.to_vec())),
            },
            _ if kind & OPTIONAL != 0 => other.push((kind, value.to_vec())),
            _ => return Err(Outcome::UnknownFeature),
        }
    }
    if !(1..=MAX_RECIPIENTS).contains(&recipients.len()) {
        return Err(Outcome::VolumeAuth);
    }
    let default_wrap = default_wrap.ok_or(Outcome::VolumeAuth)?;
    Ok(Parts { allowed_keys, recipients, default_wrap, branches, label, other })
}

fn take<'a>(reader: &mut Reader<'a>) -> Option<(u16, &'a [u8])> {
    let kind = reader.u16()?;
    let zero = reader.u16()?;
    let len = usize::try_from(reader.u32()?).ok()?;
    let value = reader.take(len)?;
    (zero == 0).then_some((kind, value))
}

fn decode_key(value: &[u8]) -> Result<KeyArn, Outcome> {
    let text = std::str::from_utf8(value).map_err(|_| Outcome::VolumeAuth)?;
    text.parse().map_err(|_| Outcome::VolumeAuth)
}

fn decode_recipient(value: &[u8]) -> Option<Recipient> {
    Recipient::parse(value).filter(|entry| entry.scheme == Scheme::Kms)
}

fn decode_wrap(value: &[u8]) -> Result<DefaultWrap, Outcome> {
    let mut reader = Reader(value);
    let (Some(mode @ (DIRECT | BY_BRANCH)), Some(zero)) = (reader.u8(), reader.u8()) else {
        return Err(Outcome::UnknownFeature);
    };
    if zero != 0 {
        return Err(Outcome::VolumeAuth);
    }
    if mode == DIRECT {
        return decode_key(reader.0).map(DefaultWrap::Direct);
    }
    match (reader.array(), reader.u32()) {
        (Some(id), Some(version)) if reader.is_empty() => {
            Ok(DefaultWrap::Branch { branch_id: BranchId::from_bytes(id), version })
        }
        _ => Err(Outcome::VolumeAuth),
    }
}

/// The TLVs of a configuration, by type.
pub(super) fn encode(config: &VolumeConfig) -> Result<Vec<u8>, Outcome> {
    let mut out = Vec::new();
    for key in &config.allowed_keys {
        put(&mut out, ALLOWED_KEY, key.as_str().as_bytes())?;
    }
    for recipient in &config.recipients {
        let mut value = Vec::new();
        recipient.encode(&mut value)?;
        put(&mut out, VRK_RECIPIENT, &value)?;
    }
    put(&mut out, DEFAULT_WRAP, &encode_wrap(&config.default_wrap))?;
    for branch in &config.branches {
        put(&mut out, BRANCH, &branch.encode()?)?;
    }
    if let Some(label) = &config.label {
        if label.len() > MAX_LABEL {
            return Err(Outcome::SlotOverflow);
        }
        put(&mut out, LABEL, label.as_bytes())?;
    }
    for (kind, value) in &config.other {
        put(&mut out, *kind, value)?;
    }
    Ok(out)
}

fn encode_wrap(wrap: &DefaultWrap) -> Vec<u8> {
    match wrap {
        DefaultWrap::Direct(key) => [&[DIRECT, 0], key.as_str().as_bytes()].concat(),
        DefaultWrap::Branch { branch_id, version } => {
            [&[BY_BRANCH, 0], &branch_id.as_bytes()[..], &version.to_le_bytes()].concat()
        }
    }
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) -> Result<(), Outcome> {
    let len = u32::try_from(value.len()).map_err(|_| Outcome::SlotOverflow)?;
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(value);
    Ok(())
}
