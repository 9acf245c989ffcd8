//! What is read from files of certificates, and what is said of them.

use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};

use super::names::ByName;
use super::{Terminators, note, notes, problems};
use crate::config::{self, Settings};
use crate::telemetry::Metrics;

static FOLDERS: AtomicUsize = AtomicUsize::new(0);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder with certificates, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("toolgate-tls-{}-{number}", process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("written");
    }

    /// Writes NAME.crt and NAME.key for these hosts; it ends on 2030-01-31.
    fn pair(&self, name: &str, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("params");
        params.not_before = date_time_ymd(2030, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 31);
        let key = KeyPair::generate().expect("a key");
        self.write(&format!("{name}.crt"), &params.self_signed(&key).expect("signed").pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// Writes NAME.crl: a list of nobody, by somebody; the next is due on 2030-01-10.
    fn list(&self, name: &str) {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2030, 1, 1),
            next_update: date_time_ymd(2030, 1, 10),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let key = KeyPair::generate().expect("a key");
        let list = list.signed_by(&Issuer::new(params, key)).expect("signed");
        self.write(&format!("{name}.crl"), &list.pem().expect("PEM"));
    }

    fn settings(&self, tls: &str) -> Settings {
        self.settings_with(
            &format!("listeners: [{{ address: 127.0.0.1:1, tls: {{ {tls} }} }}]"),
            "",
        )
    }

    fn settings_with(&self, listeners: &str, server: &str) -> Settings {
        let yaml = format!(
            "{listeners}\nservers: {{ one: {{ endpoints: [https://a/mcp]{server} }} }}\nroutes: [{{ path: /mcp, server: one }}]\n"
        );
        self.write("gateway.yaml", &yaml);
        let file = self.0.join("gateway.yaml");
        config::load(&file, &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A day of January 2030, at noon.
fn january(day: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_893_456_000) + DAY * (day - 1) + DAY / 2
}

#[test]
fn a_name_finds_its_own_certificate() {
    let folder = Folder::new();
    folder.pair("first", &["first.example"]);
    folder.pair("exact", &["A.example.com", "example.org"]);
    folder.pair("wild", &["*.example.com"]);
    let pair = |name: &str| format!("{{ certificate: {name}.crt, key: {name}.key }}");
    let all = ["first", "exact", "wild"].map(pair).join(", ");
    let settings = folder.settings(&format!("certificates: [{all}]"));
    let certificates = &settings.listeners[0].tls.as_ref().expect("TLS").certificates;
    let names = ByName::new(certificates).expect("good");
    let pem = |place: usize| {
        let chain = super::blocks::certificates(&certificates[place].chain).expect("a chain");
        chain[0].to_vec()
    };
    for (asked, place) in [
        ("first.example", 0),
        ("a.example.com", 1),
        ("example.org", 1),
        ("b.example.com", 2),
        ("example.com", 0),
        ("a.b.example.com", 0),
        ("localhost", 0),
        ("", 0),
        (".example.com", 2),
    ] {
        assert_eq!(names.find(asked).cert[0].to_vec(), pem(place), "{asked}");
    }
    assert!(!format!("{names:?}").contains("CertifiedKey"));
}

#[test]
fn what_is_wrong_with_files_is_told() {
    let folder = Folder::new();
    folder.pair("a", &["a.example", "*.b.example"]);
    folder.pair("b", &["c.example", "*.b.example"]);
    folder.pair("nameless", &[]);
    folder.list("a");
    folder.write("nothing.crt", "");
    folder.write("broken.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let half = fs::read_to_string(folder.0.join("a.crt")).expect("a certificate");
    folder.write("half.crt", &half[..half.len() / 2]);
    let check = |settings: Settings, expected: &[&str]| {
        let found: Vec<String> = problems(&settings)
            .into_iter()
            .map(|problem| {
                let column = settings.sources.locate(problem.place);
                let column = column.rsplit(':').next().unwrap_or_default();
                let prefix = format!("{}/", folder.0.display());
                format!("{column} {}", problem.message.replace(&prefix, ""))
            })
            .collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    };
    let single = |files: &str| folder.settings(files);
    check(single("certificate: a.crt, key: a.key"), &[]);
    check(single("certificate: nameless.crt, key: nameless.key"), &[]);
    check(
        single("certificate: a.crt, key: b.key"),
        &["57 certificate and key do not fit: b.key is not the key of a.crt"],
    );
    check(
        single("certificate: nothing.crt, key: a.key"),
        &["57 there is no CERTIFICATE in nothing.crt"],
    );
    check(
        single("certificate: a.crt, key: nothing.crt"),
        &["69 there is no PRIVATE KEY in nothing.crt"],
    );
    check(
        single("certificate: broken.crt, key: a.key"),
        &["57 broken.crt: a certificate cannot be read"],
    );
    check(single("certificate: half.crt, key: a.key"), &["57 half.crt is not PEM"]);
    check(
        single(
            "certificates: [{ certificate: a.crt, key: a.key }, { certificate: b.crt, key: b.key }, { certificate: nameless.crt, key: nameless.key }]",
        ),
        &[
            "110 b.crt is for *.b.example, and so is a.crt",
            "146 nameless.crt names no host, so no client would be shown it",
        ],
    );
    check(
        single("certificate: a.crt, key: b.key, client_ca: a.key"),
        &["57 certificate and key do not fit", "87 there is no CERTIFICATE in a.key"],
    );
    check(
        single("certificate: a.crt, key: a.key, client_ca: a.crt, client_crl: a.crt"),
        &["106 there is no X509 CRL in a.crt"],
    );
    check(single("certificate: a.crt, key: a.key, client_ca: a.crt, client_crl: a.crl"), &[]);
    let server = |ca: &str| folder.settings_with("listen: 127.0.0.1:1", &format!(", ca: {ca}"));
    check(server("a.crt"), &[]);
    check(server("a.key"), &["51 there is no CERTIFICATE in a.key"]);
}

#[test]
fn what_ends_soon_is_told_and_shown() {
    let folder = Folder::new();
    folder.pair("a", &["a.example"]);
    folder.pair("ca", &["ca.example"]);
    folder.list("a");
    let tls = "certificate: a.crt, key: a.key, client_ca: ca.crt, client_crl: a.crl";
    let listeners = format!("listeners: [{{ address: 127.0.0.1:1, tls: {{ {tls} }} }}]");
    let settings = folder.settings_with(&listeners, ", ca: ca.crt");
    let told = |day: u32| {
        let notes = notes(&settings, january(day)).join("\n");
        notes.replace(&format!("{}/", folder.0.display()), "")
    };
    assert_eq!(told(5), "");
    let overdue =
        "a.crl: a newer list of revoked certificates was due on 2030-01-10; this one still counts";
    assert_eq!(told(12), overdue);
    let lines = |when: &str| {
        format!(
            "a.crt: the certificate of the listener 127.0.0.1:1 {when}\nca.crt: the authority of clients at 127.0.0.1:1 {when}\nca.crt: the authority of the server one {when}\n{overdue}"
        )
    };
    assert_eq!(told(18), lines("ends on 2030-01-31, in 12 days"));
    assert_eq!(told(31), lines("ended on 2030-01-31"));
    let early = notes(&settings, january(1) - 2 * DAY).join("\n");
    assert!(early.contains("127.0.0.1:1 holds only from 2030-01-01 on"), "{early}");

    let metrics = Metrics::new(1, 1);
    let shown = || {
        let text = String::from_utf8(metrics.render()).expect("text");
        let lines = text.lines().filter(|line| line.starts_with("toolgate_tls_certificate_not"));
        lines.map(|line| line.replace(&format!("{}/", folder.0.display()), "")).collect::<Vec<_>>()
    };
    note(&settings, &metrics, january(5));
    let name = "toolgate_tls_certificate_not_after_seconds";
    assert_eq!(
        shown(),
        [
            format!(r#"{name}{{by="127.0.0.1:1",file="a.crt",used_as="listener"}} 1896048000"#),
            format!(r#"{name}{{by="127.0.0.1:1",file="ca.crt",used_as="client_ca"}} 1896048000"#),
            format!(r#"{name}{{by="one",file="ca.crt",used_as="server_ca"}} 1896048000"#),
        ]
    );
    note(&folder.settings("certificate: ca.crt, key: ca.key"), &metrics, january(5));
    let line = format!(r#"{name}{{by="127.0.0.1:1",file="ca.crt",used_as="listener"}} 1896048000"#);
    assert_eq!(shown(), [line], "what is not in force is not shown");
}

#[test]
fn a_terminator_goes_on_while_its_files_are_the_same() {
    let folder = Folder::new();
    folder.pair("a", &["a.example"]);
    let terminators = Terminators::default();
    let prepare = || {
        let settings = folder.settings("certificate: a.crt, key: a.key");
        let prepared = terminators.prepare(&settings.listeners).expect("good");
        prepared[0].clone().expect("TLS")
    };
    let first = prepare();
    assert!(Arc::ptr_eq(&first, &prepare()));
    folder.pair("a", &["a.example"]);
    assert!(!Arc::ptr_eq(&first, &prepare()));
}
