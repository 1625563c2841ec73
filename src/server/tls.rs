//! The server's certificate.

use std::path::{Path, PathBuf};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::sync::Arc;

/// A certificate chain with its private key.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<ServerConfig>);

/// Why a certificate could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or does not hold what it should in PEM.
    #[error("cannot read {what} in {path}: {reason}")]
    File {
        /// What was sought.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it was not found.
        reason: pem::Error,
    },
    /// The key is not that of the certificate, or TLS has no use for one of them.
    #[error("the certificate in {chain} and the private key in {key} cannot be used: {reason}")]
    Unusable {
        /// Where the certificate is.
        chain: PathBuf,
        /// Where the key is.
        key: PathBuf,
        /// What is wrong.
        reason: rustls::Error,
    },
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
        let certificates = match certificates {
            Ok(none) if none.is_empty() => Err(pem::Error::NoItemsFound),
            read => read,
        };
        let certificates = certificates.map_err(failed("a certificate", chain))?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(failed("a private key", key))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, secret))
            .map_err(|reason| TlsError::Unusable { chain: chain.to_owned(), key: key.to_owned(), reason })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        tokio_rustls::TlsAcceptor::from(Arc::clone(&self.0))
    }
}
