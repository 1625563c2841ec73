//! The server's certificate.

use std::path::{Path, PathBuf};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::sync::Arc;

/// A certificate chain with its private key.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<ServerConfig>);

/// Why a certificate could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or not in PEM.
    #[error("cannot read {what} in {path}: {reason}")]
    File {
        /// What was sought.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it was not found.
        reason: rustls::pki_types::pem::Error,
    },
    /// Chain and key do not fit.
    #[error("the certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Certificate {
    /// Reads a chain and its key in PEM. TLS 1.2 and 1.3, cryptography of aws-lc-rs.
    ///
    /// # Errors
    /// The files cannot be read, or do not belong together.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |reason| TlsError::File { what, path, reason }
        };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect);
        let certificates = certificates.map_err(failed("a certificate", chain))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(failed("a private key", key))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        tokio_rustls::TlsAcceptor::from(Arc::clone(&self.0))
    }
}
