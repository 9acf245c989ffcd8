//! TLS of a listener: its certificates by the names in them, and those of clients.

use std::path::PathBuf;

use serde_json::Value;

use super::pem::PemFile;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{choice_schema, parse_choice};
use super::shape::{Field, Scalar, shape};

/// What a listener secures its connections with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// At least one, in the order of the file; the first is for clients that name no host or an unknown one.
    pub certificates: Vec<Certificate>,
    /// Whose certificates clients may or must show.
    pub clients: Option<ClientTls>,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The chain in PEM, the listener's own certificate first.
    pub chain: PemFile,
    /// The private key in PEM.
    pub key: PemFile,
}

/// The certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Those who sign them, in PEM.
    pub ca: PemFile,
    /// Those that were revoked, in PEM.
    pub crl: Option<PemFile>,
    /// Whether a client must show one.
    pub certificate: ClientCertificate,
}

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// A connection without one ends.
    Required,
    /// Who shows none proves itself otherwise.
    Optional,
}

shape! {
    /// What a listener secures its connections with; all files are PEM, relative to this file, and read again when they change.
    TlsText {
        /// The certificate chain, the listener's own first; needed without `certificates`.
        optional certificate: PathBuf,
        /// The private key; needed with `certificate`.
        optional key: PathBuf,
        /// Several certificates with their keys: a client gets the one that has the name it asks for, else the first.
        optional certificates: Vec<Field<CertificateText>>,
        /// Who signs the certificates of clients; none are asked for by default.
        optional client_ca: PathBuf,
        /// The certificates of clients that were revoked; none by default.
        optional client_crl: PathBuf,
        /// Whether a client must show a certificate: required or optional.
        optional client_certificate: ClientCertificate,
    }
}

shape! {
    /// A certificate with its key; the names it is for are read from it.
    CertificateText {
        /// The certificate chain, the listener's own first.
        required certificate: PathBuf,
        /// The private key.
        required key: PathBuf,
    }
}

const CLIENT_CERTIFICATES: &[(&str, ClientCertificate)] =
    &[("required", ClientCertificate::Required), ("optional", ClientCertificate::Optional)];

impl Scalar for ClientCertificate {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, CLIENT_CERTIFICATES)
    }

    fn schema() -> Value {
        choice_schema(CLIENT_CERTIFICATES)
    }
}

impl TlsText {
    pub(super) fn check(self, place: Place, reading: &mut Reading<'_>) -> Option<Tls> {
        let Self { certificate, key, certificates, client_ca, client_crl, client_certificate } =
            self;
        if matches!(client_ca, Field::Absent) {
            let crl = client_crl.as_given().map(|crl| crl.head);
            let certificate = client_certificate.as_given().map(|certificate| certificate.head);
            for head in crl.into_iter().chain(certificate) {
                reading.problem(head, "clients are not asked for certificates", "add `client_ca`");
            }
        }
        let single = CertificateText { certificate, key };
        let certificates = check_certificates(single, certificates, place, reading);
        let crl = client_crl.given().and_then(|file| PemFile::read(&file, reading));
        let clients = client_ca.given().and_then(|file| PemFile::read(&file, reading)).map(|ca| {
            let certificate = client_certificate.or(ClientCertificate::Required);
            ClientTls { ca, crl, certificate }
        });
        Some(Tls { certificates: certificates?, clients })
    }
}

impl CertificateText {
    fn check(self, reading: &mut Reading<'_>) -> Option<Certificate> {
        let Self { certificate, key } = self;
        let chain = certificate.given().and_then(|file| PemFile::read(&file, reading));
        let key = key.given().and_then(|file| PemFile::read(&file, reading));
        Some(Certificate { chain: chain?, key: key? })
    }
}

/// The one, or the several; `None` after noting what is wrong.
fn check_certificates(
    single: CertificateText,
    several: Field<Vec<Field<CertificateText>>>,
    place: Place,
    reading: &mut Reading<'_>,
) -> Option<Vec<Certificate>> {
    match several {
        Field::Given(several) => {
            let heads = [&single.certificate, &single.key].map(|file| Some(file.as_given()?.head));
            for head in heads.into_iter().flatten() {
                let hint = "move the pair into `certificates`; the first there is the default";
                reading.problem(head, "this and `certificates` are both given", hint);
            }
            if several.value.is_empty() {
                let hint = "write [{ certificate: tls.crt, key: tls.key }]";
                reading.problem(several.head, "TLS needs at least one certificate", hint);
            }
            let texts = several.value.into_iter();
            let checked: Vec<_> = texts.map(|text| text.value()?.check(reading)).collect();
            checked.into_iter().collect()
        }
        Field::Faulty => None,
        Field::Absent => {
            let CertificateText { certificate, key } = &single;
            for (key, field) in [("certificate", certificate), ("key", key)] {
                if matches!(field, Field::Absent) {
                    let hint = format!("add `{key}:`");
                    reading.problem(place, format!("the key `{key}` is missing"), hint);
                }
            }
            single.check(reading).map(|certificate| vec![certificate])
        }
    }
}
