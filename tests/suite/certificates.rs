//! Client certificates: checked in the handshake, or by a proxy that is believed to say so.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::Stage;
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::http2::Http2;
use crate::support::message::Message;
use crate::support::upstream::Upstream;

const CONF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");

/// Who signs certificates.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
struct Holder {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn holder(&self, serial: u64, uri: Option<&str>) -> Holder {
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).expect("params");
        params.serial_number = Some(SerialNumber::from(serial));
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI")));
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").der().to_vec();
        Holder { certificate, key: key.serialize_der() }
    }

    fn revoking(&self, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("signed").pem().expect("PEM")
    }
}

/// One call over a TLS connection of its own; `None` where the handshake or the answer fails.
async fn ask(address: SocketAddr, holder: Option<&Holder>, message: &Message) -> Option<Answer> {
    let stream = connect(address, holder, "http/1.1").await?;
    let mut client = Client::over(stream);
    client.send(&message.bytes()).await;
    client.try_answer().await
}

async fn connect(
    address: SocketAddr,
    holder: Option<&Holder>,
    protocol: &str,
) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(format!("{CONF}/localhost.crt"));
    roots.add(root.expect("a certificate")).expect("a root");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match holder {
        Some(Holder { certificate, key }) => {
            let key = PrivateKeyDer::try_from(key.clone()).expect("a key");
            let chain = vec![CertificateDer::from(certificate.clone())];
            config.with_client_auth_cert(chain, key).expect("a certificate and its key")
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
}

async fn stage(ca: &Ca, clients: &str, identity: &str) -> (Stage, Folder) {
    let folder = Folder::new();
    let file = folder.write("ca.pem", &ca.pem);
    let upstream = Upstream::mcp("one").await;
    let address = free_address();
    let tls = format!("certificate: {CONF}/localhost.crt, key: {CONF}/localhost.key");
    let clients = clients.replace("FOLDER", &folder.path().display().to_string());
    let yaml = format!(
        "listeners: [{{ address: {address}, tls: {{ {tls}, client_ca: {} {clients} }} }}]\n{}identity: {{ {identity} }}\n",
        file.display(),
        upstream.sections()
    );
    // The list of the revoked is there before the gateway is.
    folder.write("crl.pem", &ca.revoking(7));
    let gateway = Gateway::start_at(&yaml, address).await;
    (Stage { gateway, upstream }, folder)
}

#[tokio::test]
async fn a_certificate_of_our_ca_proves_its_holder() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let clients = ", client_crl: FOLDER/crl.pem";
    let (stage, _folder) = stage(&ca, clients, "certificates: { caller: san_uri }").await;
    let (address, call) = (stage.gateway.address, Message::call(7, "echo"));
    let ann = ca.holder(5, Some("spiffe://example.org/ann"));
    let answer = ask(address, Some(&ann), &call).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let stream = connect(address, Some(&ann), "h2").await.expect("TLS");
    let mut http2 = Http2::over(stream).await;
    assert_eq!(http2.ask(&call).await.expect("an answer").status, 200);
    let log = stage.gateway.log(2).await;
    let named = |line: &&String| line.contains(r#""caller":"spiffe://example.org/ann""#);
    assert_eq!(log.iter().filter(named).count(), 2, "{log:?}");
    stage.upstream.take();

    let nobody = ask(address, Some(&ca.holder(6, None)), &call).await.expect("an answer");
    assert_eq!(nobody.status, 401, "a certificate that names nobody");
    let bad = call.clone().and("authorization", "Bearer nobody");
    let excused = ask(address, Some(&ann), &bad).await.expect("an answer");
    assert_eq!(excused.status, 401, "a bad token is not excused by a good certificate");
    // What a client says of itself is not what a proxy says of it.
    let claim = call.clone().and("x-forwarded-client-cert", "URI=spiffe://example.org/bob");
    let nobody = ask(address, Some(&ca.holder(6, None)), &claim).await.expect("an answer");
    assert_eq!(nobody.status, 401);
    let uri = Some("spiffe://example.org/ann");
    assert!(ask(address, None, &call).await.is_none(), "no certificate");
    assert!(ask(address, Some(&foreign.holder(5, uri)), &call).await.is_none(), "of another CA");
    assert!(ask(address, Some(&ca.holder(7, uri)), &call).await.is_none(), "a revoked one");
    assert!(stage.upstream.bytes().is_empty());
}

#[tokio::test]
async fn certificates_may_be_optional() {
    let ca = Ca::new();
    let clients = ", client_certificate: optional";
    let (stage, _folder) = stage(&ca, clients, "certificates: { caller: san_dns }").await;
    let (address, call) = (stage.gateway.address, Message::call(7, "echo"));
    let with = ask(address, Some(&ca.holder(7, None)), &call).await.expect("an answer");
    let without = ask(address, None, &call).await.expect("an answer");
    assert_eq!((with.status, without.status), (200, 401));
}

#[tokio::test]
async fn only_a_trusted_proxy_speaks_of_certificates() {
    let identity =
        "identity: { anonymous: allow, certificates: { header: x-client, caller: san_uri } }\n";
    let call = |said: &str| Message::call(7, "echo").and("x-client", said);
    let proxies = [("127.0.0.0/8", "spiffe://o/ann", 401), ("10.0.0.0/8", "anonymous", 200)];
    for (trusted, caller, broken) in proxies {
        let upstream = Upstream::mcp("one").await;
        let address = free_address();
        let yaml = format!(
            "listeners: [{{ address: {address}, trusted_proxies: [{trusted}] }}]\n{}{identity}",
            upstream.sections()
        );
        let stage = Stage { gateway: Gateway::start_at(&yaml, address).await, upstream };
        assert_eq!(stage.ask(&call("Hash=ab;URI=spiffe://o/ann")).await.status, 200);
        let log = stage.gateway.log(1).await;
        assert!(log[0].contains(&format!(r#""caller":"{caller}""#)), "{trusted}: {log:?}");
        assert_eq!(stage.ask(&call("nonsense")).await.status, broken, "{trusted}");
        let twice = call("URI=spiffe://o/ann").and("x-client", "URI=spiffe://o/bob");
        assert_eq!(stage.ask(&twice).await.status, broken, "{trusted}");
        assert_eq!(stage.ask(&Message::call(7, "echo")).await.status, 200);
        let seen = String::from_utf8_lossy(&stage.upstream.bytes()).into_owned();
        assert!(!seen.contains("spiffe://") && !seen.contains("x-client"), "{seen}");
    }
}
