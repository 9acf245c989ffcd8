//! Certificates of a test's own, and connections with TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Who signs certificates.
pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(crate) struct Holder {
    pub(crate) certificate: Vec<u8>,
    pub(crate) pem: String,
    key: KeyPair,
}

/// What a client offers.
pub(crate) struct Dial {
    config: ClientConfig,
    name: ServerName<'static>,
}

/// Something that speaks TLS in front of a server that does not; it ends with its owner.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate of a client.
    pub(crate) fn holder(&self, serial: u64, uri: Option<&str>) -> Holder {
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).expect("params");
        params.serial_number = Some(SerialNumber::from(serial));
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI")));
        }
        self.sign(&params)
    }

    /// A certificate of a server for these hosts.
    pub(crate) fn server(&self, hosts: &[&str]) -> Holder {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        self.sign(&CertificateParams::new(hosts).expect("params"))
    }

    /// One that was good until the end of 2020.
    pub(crate) fn expired_server(&self, hosts: &[&str]) -> Holder {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("params");
        params.not_after = date_time_ymd(2020, 12, 31);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Holder {
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        Holder { certificate: signed.der().to_vec(), pem: signed.pem(), key }
    }

    /// The list of the revoked, in PEM.
    pub(crate) fn revoking(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("signed").pem().expect("PEM")
    }
}

impl Holder {
    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key")
    }
}

impl Dial {
    /// Trusts the certificate of the examples.
    pub(crate) fn localhost(holder: Option<&Holder>, protocols: &[&str]) -> Self {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/localhost.crt");
        let root = CertificateDer::from_pem_file(file).expect("a certificate");
        Self::new(root, "localhost", holder, protocols, &[])
    }

    /// Trusts this authority and asks for this name; an address is not said in the handshake.
    pub(crate) fn of(ca: &Ca, name: &str) -> Self {
        Self::speaking(ca, name, &[])
    }

    /// The same in these versions of TLS only.
    pub(crate) fn speaking(
        ca: &Ca,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let root = CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("a certificate");
        Self::new(root, name, None, &["http/1.1"], versions)
    }

    fn new(
        root: CertificateDer<'_>,
        name: &str,
        holder: Option<&Holder>,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(root).expect("a root");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = match versions {
            [] => config.with_safe_default_protocol_versions(),
            versions => config.with_protocol_versions(versions),
        };
        let config = config.expect("versions").with_root_certificates(roots);
        let mut config = match holder {
            Some(holder) => {
                let chain = vec![CertificateDer::from(holder.certificate.clone())];
                config.with_client_auth_cert(chain, holder.key()).expect("a certificate")
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { config, name: ServerName::try_from(name.to_owned()).expect("a name") }
    }

    /// Connects; `None` where the handshake fails.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await.expect("connected");
        self.secure(stream).await
    }

    /// Shakes hands on a connection.
    pub(crate) async fn secure(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        connector.connect(self.name.clone(), stream).await.ok()
    }
}

/// The certificate that was shown on a connection.
pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    let chain = stream.get_ref().1.peer_certificates().expect("certificates");
    chain[0].to_vec()
}

impl Front {
    /// Speaks TLS with this certificate, and passes on what is in it.
    #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of its test")]
    pub(crate) async fn start(holder: &Holder, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![holder.certificate.clone().into()], holder.key())
            .expect("a certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut behind = TcpStream::connect(behind).await.expect("connected");
                    // Who breaks off first is the tests' business.
                    copy_bidirectional(&mut stream, &mut behind).await.ok();
                    stream.shutdown().await.ok();
                });
            }
        });
        Self { address, accepting }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
