//! Key schedule (FORMAT 3.1) of volumes and files.

use super::Outcome;
use super::header::StaticHeader;
use crate::crypto::aead::{Aes256Gcm, Backend};
use crate::crypto::kdf::{ct_eq, expand, expand_public, extract};
use crate::crypto::secret::SecretKey;
use crate::crypto::xaes::Xaes;
use crate::types::VolumeId;

/// Keys that follow from a volume's root key (VRK).
#[derive(Debug)]
pub struct VolumeKeys {
    /// `PRK_V`, from which the VRK commitment is derived.
    pub prk: SecretKey<32>,
    /// `K_cfg`: MAC of the volume file.
    pub cfg: SecretKey<32>,
    /// `K_names`: SIV of names and of xattr names.
    pub names: SecretKey<64>,
    /// `K_longname`: entries of long names.
    pub longname: SecretKey<32>,
    /// `K_dir`: MAC of directory ids.
    pub dir: SecretKey<32>,
    /// `K_symlink`: symlink targets.
    pub symlink: Xaes,
    /// `K_xattr`: xattr values.
    pub xattr: Xaes,
    /// `K_inject`: volume MAC in file headers.
    pub inject: SecretKey<32>,
    /// The library that runs the AEADs of this volume.
    pub backend: Backend,
}

impl VolumeKeys {
    /// The keys of the volume `volume` with the root key `vrk`.
    pub fn derive(backend: Backend, vrk: &SecretKey<32>, volume: VolumeId) -> Self {
        let prk = extract(volume.as_bytes(), vrk.expose());
        Self {
            cfg: expand(&prk, &[b"KFS1 cfg"]),
            names: expand(&prk, &[b"KFS1 names"]),
            longname: expand(&prk, &[b"KFS1 longname"]),
            dir: expand(&prk, &[b"KFS1 dir"]),
            symlink: Xaes::new(backend, expand(&prk, &[b"KFS1 symlink"])),
            xattr: Xaes::new(backend, expand(&prk, &[b"KFS1 xattr"])),
            inject: expand(&prk, &[b"KFS1 inject"]),
            backend,
            prk,
        }
    }
}

/// Keys that follow from a file's data key (DEK). They exist only after the commitment was checked, or for a new file.
#[derive(Debug)]
pub struct FileKeys {
    /// `K_content`: the units.
    pub content: Xaes,
    /// `K_record`: the records.
    pub record: SecretKey<32>,
    commit: [u8; 32],
}

impl FileKeys {
    /// The keys of a new file, whose header will carry [`Self::commit`].
    pub fn derive(backend: Backend, dek: &SecretKey<32>, header: &StaticHeader) -> Self {
        let mut salt = [0; 32];
        salt[..16].copy_from_slice(header.volume_id().as_bytes());
        salt[16..].copy_from_slice(header.file_id().as_bytes());
        let prk = extract(&salt, dek.expose());
        let key = |label: &'static [u8]| expand(&prk, &[label, header.as_bytes()]);
        Self {
            content: Xaes::new(backend, key(b"KFS1 content")),
            record: key(b"KFS1 record"),
            commit: expand_public(&prk, &[b"KFS1 commit", header.as_bytes()]),
        }
    }

    /// The keys of an existing file whose header carries `commit`.
    ///
    /// # Errors
    /// [`Outcome::HeaderAuth`] if `dek` is not the key that the header commits to.
    pub fn open(
        backend: Backend,
        dek: &SecretKey<32>,
        header: &StaticHeader,
        commit: &[u8; 32],
    ) -> Result<Self, Outcome> {
        let keys = Self::derive(backend, dek, header);
        if ct_eq(&keys.commit, commit) { Ok(keys) } else { Err(Outcome::HeaderAuth) }
    }

    /// The commitment to the data key, public.
    pub fn commit(&self) -> &[u8; 32] {
        &self.commit
    }

    /// The cipher of the units of one epoch. Making it costs about a microsecond; callers keep it.
    pub fn unit_cipher(&self, epoch: &super::unit::Epoch) -> Aes256Gcm {
        self.content.cipher(epoch)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// The keys of a volume for tests.
    pub(in crate::format) fn volume_keys() -> VolumeKeys {
        let vrk = SecretKey::from_slice(&[0x80; 32]).expect("32 bytes");
        VolumeKeys::derive(Backend::Ring, &vrk, VolumeId::from_bytes([0x60; 16]))
    }
}
