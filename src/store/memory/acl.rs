//! POSIX ACLs as Linux stores them in extended attributes (include/uapi/linux/posix_acl_xattr.h).

use rustix::io::Errno;

use super::super::Result;

/// Attribute that holds the ACL of an object.
pub(super) const ACCESS: &str = "system.posix_acl_access";
/// Attribute that holds the ACL which new entries of a directory begin with.
pub(super) const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

pub(super) fn is_acl(name: &str) -> bool {
    name == ACCESS || name == DEFAULT
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// An ACL; one that [`check`](Acl::check) passed has its entries in the order of their tags, and one of each of owner,
/// group and others.
#[derive(Clone)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// `None` for a value without entries. Errors: `EOPNOTSUPP` for another version, `EINVAL` for another
    /// form.
    pub(super) fn parse(value: &[u8]) -> Result<Option<Self>> {
        let (version, rest) = value.split_first_chunk().ok_or(Errno::INVAL)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Errno::OPNOTSUPP);
        }
        let (entries, []) = rest.as_chunks::<8>() else { return Err(Errno::INVAL) };
        let entries: Vec<Entry> = entries
            .iter()
            .map(|&[t0, t1, p0, p1, id @ ..]| {
                let tag = u16::from_le_bytes([t0, t1]);
                let id = if matches!(tag, USER | GROUP) { u32::from_le_bytes(id) } else { NO_ID };
                Entry { tag, perm: u16::from_le_bytes([p0, p1]), id }
            })
            .collect();
        if entries.is_empty() {
            return Ok(None);
        }
        let known = |e: &Entry| [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].contains(&e.tag);
        if entries.iter().all(known) { Ok(Some(Self(entries))) } else { Err(Errno::INVAL) }
    }

    /// Whether the entries make sense together; Linux asks this after it has looked at the object.
    pub(super) fn check(&self) -> Result<()> {
        let entries = &self.0;
        let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
        let named = count(USER) + count(GROUP) > 0;
        let valid = entries.is_sorted_by_key(|entry| entry.tag)
            && entries.iter().all(|e| e.perm <= 7 && (e.id != NO_ID || !matches!(e.tag, USER | GROUP)))
            && [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|&tag| count(tag) == 1)
            && (count(MASK) == 1 || count(MASK) == 0 && !named);
        if valid { Ok(()) } else { Err(Errno::INVAL) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            out.extend(entry.tag.to_le_bytes());
            out.extend(entry.perm.to_le_bytes());
            out.extend(entry.id.to_le_bytes());
        }
        out
    }

    /// Whether the permission bits say the same.
    pub(super) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The permission bits: those of the group are the mask's, if there is one.
    pub(super) fn mode(&self) -> u32 {
        self.0.iter().fold(0, |mode, entry| match entry.tag {
            USER_OBJ => mode | u32::from(entry.perm) << 6,
            GROUP_OBJ if !self.has_mask() => mode | u32::from(entry.perm) << 3,
            MASK => mode | u32::from(entry.perm) << 3,
            OTHER => mode | u32::from(entry.perm),
            _ => mode,
        })
    }

    /// What chmod(2) does to an ACL.
    pub(super) fn set_mode(&mut self, mode: u32) {
        self.each_class(mode, |perm, bits| *perm = bits);
    }

    /// What a new object that is made with `mode` gets from a default ACL.
    pub(super) fn inherit(&self, mode: u32) -> Self {
        let mut acl = self.clone();
        acl.each_class(mode, |perm, bits| *perm &= bits);
        acl
    }

    fn has_mask(&self) -> bool {
        self.0.iter().any(|entry| entry.tag == MASK)
    }

    fn each_class(&mut self, mode: u32, change: impl Fn(&mut u16, u16)) {
        let has_mask = self.has_mask();
        for entry in &mut self.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                GROUP_OBJ if !has_mask => 3,
                MASK => 3,
                OTHER => 0,
                _ => continue,
            };
            change(&mut entry.perm, (mode >> shift & 7) as u16);
        }
    }
}
