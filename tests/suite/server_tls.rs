//! Servers with TLS: whom the gateway believes, and what it does not send to anybody else.

use std::time::{Duration, Instant};

use crate::support::client::Answer;
use crate::support::gateway::{Folder, Gateway};
use crate::support::message::Message;
use crate::support::tls::{Ca, Front, Holder};
use crate::support::upstream::Upstream;
use crate::support::{Stage, client};

/// A gateway in front of a server whose front shows this certificate; `host` is what the URL names.
async fn stage(holder: &Holder, host: &str, keys: &str) -> (Stage, Front) {
    let upstream = Upstream::mcp("one").await;
    let front = Front::start(holder, upstream.address).await;
    let url = format!("https://{host}:{}/mcp", front.address.port());
    let yaml = format!(
        "servers: {{ one: {{ endpoints: [\"{url}\"]{keys} }} }}\nroutes: [{{ path: /mcp, server: one }}]\n"
    );
    (Stage { gateway: Gateway::start(&yaml).await, upstream }, front)
}

fn ca_key(folder: &Folder) -> String {
    format!(", ca: {}", folder.path().join("ca.pem").display())
}

async fn ask(stage: &Stage) -> Answer {
    client::exchange(stage.gateway.address, &Message::call(7, "echo").bytes()).await
}

#[tokio::test]
async fn only_a_good_certificate_of_a_known_authority_is_believed() {
    let (ca, foreign, folder) = (Ca::new(), Ca::new(), Folder::new());
    folder.write("ca.pem", &ca.pem);
    let own = ca_key(&folder);
    let (good, of_foreign) =
        (ca.server(&["localhost", "127.0.0.1"]), foreign.server(&["localhost"]));
    let (other_name, expired) = (ca.server(&["other.example"]), ca.expired_server(&["localhost"]));
    let http2 = format!("{own}, protocol: http2");
    for (what, holder, host, keys, status) in [
        ("good", &good, "localhost", own.as_str(), 200),
        ("good by address", &good, "127.0.0.1", &own, 200),
        ("another name", &other_name, "localhost", &own, 502),
        ("no such address", &other_name, "127.0.0.1", &own, 502),
        ("expired", &expired, "localhost", &own, 502),
        ("of another authority", &of_foreign, "localhost", &own, 502),
        ("of an authority that the system does not know", &good, "localhost", "", 502),
        ("of another authority, in HTTP/2", &of_foreign, "localhost", &http2, 502),
    ] {
        let (stage, _front) = stage(holder, host, keys).await;
        let answer = ask(&stage).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(stage.upstream.bytes().is_empty(), status == 502, "{what}");
    }
}

#[tokio::test]
async fn other_authorities_count_at_once() {
    let (ca, foreign, folder) = (Ca::new(), Ca::new(), Folder::new());
    folder.write("ca.pem", &foreign.pem);
    let (stage, _front) = stage(&ca.server(&["localhost"]), "localhost", &ca_key(&folder)).await;
    assert_eq!(ask(&stage).await.status, 502);
    let until = async |status: u16| {
        let began = Instant::now();
        while ask(&stage).await.status != status {
            let said = stage.gateway.diagnostics();
            assert!(began.elapsed() < Duration::from_secs(15), "never {status}:\n{said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    folder.write("ca.pem", &format!("{}{}", foreign.pem, ca.pem));
    until(200).await;
    // A connection is open and in use; who vouched for it does not any more.
    folder.write("ca.pem", &foreign.pem);
    until(502).await;
    folder.write("ca.pem", "nobody");
    stage.gateway.metrics_with(r#"toolgate_reloads_total{outcome="refused"}"#).await;
    folder.write("ca.pem", &ca.pem);
    until(200).await;
    let file = folder.path().join("ca.pem").display().to_string();
    let line = format!(
        r#"toolgate_tls_certificate_not_after_seconds{{by="one",file="{file}",used_as="server_ca"}}"#
    );
    stage.gateway.metrics_with(&line).await;
}
