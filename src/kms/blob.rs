//! Ciphertext blobs (KMS.md section 15).
/// The material id in a blob's header, not authenticated.
pub fn material_id(_blob: &[u8]) -> Option<String> {
    unimplemented!()
}
