//! Certificates of listeners: renewed while connections are open, chosen by name, and never half.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::Stage;
use crate::support::client::Client;
use crate::support::gateway::{Folder, Gateway, free_address, toolgate};
use crate::support::message::Message;
use crate::support::tls::{Ca, Dial, Holder, shown};
use crate::support::upstream::{Step, Upstream, mcp};

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(15);

/// A stage whose listener has these keys besides its address; FOLDER stands for the folder.
async fn listening(upstream: Upstream, folder: &Folder, keys: &str) -> Stage {
    let address = free_address();
    let keys = keys.replace("FOLDER", &folder.path().display().to_string());
    let yaml = format!("listeners: [{{ address: {address}, {keys} }}]\n{}", upstream.sections());
    Stage { gateway: Gateway::start_at(&yaml, address).await, upstream }
}

const PAIR: &str = "tls: { certificate: FOLDER/tls.crt, key: FOLDER/tls.key }";

fn write_pair(folder: &Folder, name: &str, holder: &Holder) {
    folder.write(&format!("{name}.crt"), &holder.pem);
    folder.write(&format!("{name}.key"), &holder.key_pem());
}

fn call() -> Message {
    Message::call(7, "echo")
}

/// Waits until new connections are shown this certificate.
async fn until_shown(stage: &Stage, dial: &Dial, holder: &Holder) {
    let began = Instant::now();
    loop {
        let stream = dial.connect(stage.gateway.address).await.expect("TLS");
        if shown(&stream) == holder.certificate {
            return;
        }
        assert!(began.elapsed() < SOON, "{}", stage.gateway.diagnostics());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server whose calls of `slow` wait at the gate.
async fn held(gate: &Arc<Semaphore>) -> Upstream {
    let gate = Arc::clone(gate);
    Upstream::start(move |request| {
        let mut steps = mcp("one", request);
        if request.json()["params"]["name"] == "slow" {
            steps.insert(0, Step::Wait(Arc::clone(&gate)));
        }
        steps
    })
    .await
}

#[tokio::test]
async fn a_renewed_certificate_disturbs_nobody() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (old, new) = (ca.server(&["localhost"]), ca.server(&["localhost"]));
    // As Kubernetes mounts a secret: links into a folder that is replaced at once.
    for (version, holder) in [("v1", &old), ("v2", &new)] {
        fs::create_dir(folder.path().join(version)).expect("a folder");
        write_pair(&folder, &format!("{version}/tls"), holder);
    }
    symlink("v1", folder.path().join("..data")).expect("a link");
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), folder.path().join(name)).expect("a link");
    }
    let gate = Arc::new(Semaphore::new(0));
    let stage = listening(held(&gate).await, &folder, PAIR).await;
    let dial = Dial::of(&ca, "localhost");
    let before = stage.gateway.metrics().await;
    let hash = before.lines().find(|line| line.starts_with("toolgate_config_hash ")).expect("one");
    let stream = dial.connect(stage.gateway.address).await.expect("TLS");
    assert_eq!(shown(&stream), old.certificate);
    let mut client = Client::over(stream);
    client.send(&Message::call(1, "slow").bytes()).await;
    assert!(stage.upstream.reached(1).await);

    symlink("v2", folder.path().join("..data_tmp")).expect("a link");
    fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).expect("swapped");
    until_shown(&stage, &dial, &new).await;
    gate.add_permits(1);
    assert_eq!(client.answer().await.status, 200, "a call under way");
    client.send(&call().bytes()).await;
    assert_eq!(client.answer().await.status, 200, "the next on the same connection");
    let mut client = Client::over(dial.connect(stage.gateway.address).await.expect("TLS"));
    client.send(&call().bytes()).await;
    assert_eq!(client.answer().await.status, 200);
    // Replicas with certificates of their own still have the same configuration.
    let installed = r#"toolgate_reloads_total{outcome="installed"} 1"#;
    stage.gateway.metrics_with_all(&[installed, hash]).await;
    let said = stage.gateway.diagnostics();
    let address = stage.gateway.address;
    assert!(said.contains(&format!("certificates of {address} changed")), "{said}");
}

#[tokio::test]
async fn a_pair_that_does_not_fit_changes_nothing() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (old, new) = (ca.server(&["localhost"]), ca.server(&["localhost"]));
    write_pair(&folder, "tls", &old);
    let stage = listening(Upstream::mcp("one").await, &folder, PAIR).await;
    let dial = Dial::of(&ca, "localhost");
    let half = &new.pem[..new.pem.len() / 2];
    for (text, why) in [
        (new.pem.as_str(), "certificate and key do not fit"),
        (half, "is not PEM"),
        ("", "there is no CERTIFICATE in"),
    ] {
        folder.write("tls.crt", text);
        let began = Instant::now();
        while !stage.gateway.diagnostics().contains(why) {
            assert!(began.elapsed() < SOON, "{}", stage.gateway.diagnostics());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let stream = dial.connect(stage.gateway.address).await.expect("TLS");
        assert_eq!(shown(&stream), old.certificate, "{why}");
    }
    stage.gateway.metrics_with(r#"toolgate_reloads_total{outcome="refused"} 3"#).await;
    folder.write("tls.crt", &new.pem);
    folder.write("tls.key", &new.key_pem());
    // Nobody has to wait for the next look.
    stage.gateway.signal("HUP");
    until_shown(&stage, &dial, &new).await;
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let first = ca.server(&["first.example", "127.0.0.1"]);
    let (exact, wild) = (ca.server(&["a.example.com"]), ca.server(&["*.example.com"]));
    for (name, holder) in [("first", &first), ("exact", &exact), ("wild", &wild)] {
        write_pair(&folder, name, holder);
    }
    let pair = |name: &str| format!("{{ certificate: FOLDER/{name}.crt, key: FOLDER/{name}.key }}");
    let keys = |names: &[&str]| {
        let pairs: Vec<_> = names.iter().map(|name| pair(name)).collect();
        format!("tls: {{ certificates: [{}] }}, allowed_hosts: [localhost]", pairs.join(", "))
    };
    let upstream = Upstream::mcp("one").await;
    let stage = listening(upstream, &folder, &keys(&["first", "exact", "wild"])).await;
    for (name, holder) in [
        ("first.example", &first),
        ("a.example.com", &exact),
        ("A.Example.COM", &exact),
        ("b.example.com", &wild),
        // A client that names an address says nothing in its handshake.
        ("127.0.0.1", &first),
    ] {
        let stream = Dial::of(&ca, name).connect(stage.gateway.address).await.expect(name);
        assert!(shown(&stream) == holder.certificate, "{name}");
        let mut client = Client::over(stream);
        client.send(&call().bytes()).await;
        assert_eq!(client.answer().await.status, 200, "{name}");
    }
    // Whoever asks for another name gets the first, and does not believe it.
    for name in ["example.com", "a.b.example.com", "unknown.example"] {
        assert!(Dial::of(&ca, name).connect(stage.gateway.address).await.is_none(), "{name}");
    }
    // Another list in the same file, while it runs.
    let config = stage.gateway.folder().join("toolgate.yaml");
    let text = fs::read_to_string(&config).expect("the configuration");
    let folder_path = folder.path().display().to_string();
    let without = text.replace(&format!(", {}", pair("exact")).replace("FOLDER", &folder_path), "");
    assert_ne!(text, without);
    fs::write(&config, without).expect("written");
    until_shown(&stage, &Dial::of(&ca, "a.example.com"), &wild).await;
}

#[tokio::test]
async fn only_two_versions_of_tls_are_spoken() {
    let (ca, folder) = (Ca::new(), Folder::new());
    write_pair(&folder, "tls", &ca.server(&["localhost"]));
    let keys = format!("{PAIR}, limits: {{ head_timeout: 1s }}");
    let stage = listening(Upstream::mcp("one").await, &folder, &keys).await;
    for version in [&TLS12, &TLS13] {
        let dial = Dial::speaking(&ca, "localhost", &[version]);
        let stream = dial.connect(stage.gateway.address).await.expect("TLS");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let mut client = Client::over(stream);
        client.send(&call().bytes()).await;
        assert_eq!(client.answer().await.status, 200);
    }
    for minor in [0, 1, 2] {
        let mut stream = TcpStream::connect(stage.gateway.address).await.expect("connected");
        stream.write_all(&client_hello(minor)).await.expect("sent");
        let mut alert = Vec::new();
        stream.read_to_end(&mut alert).await.expect("an end");
        // A fatal alert: protocol_version.
        assert_eq!((alert.first(), alert.get(5)), (Some(&21), Some(&2)), "3.{minor}: {alert:?}");
        assert_eq!(alert.get(6), Some(&70), "3.{minor}: {alert:?}");
    }
    // It was the version: the same hello in TLS 1.2 is answered.
    let mut stream = TcpStream::connect(stage.gateway.address).await.expect("connected");
    stream.write_all(&client_hello(3)).await.expect("sent");
    assert_eq!(stream.read_u8().await.expect("a record"), 22, "a handshake record");
    drop(stream);
    // Who says nothing, or half of it, is not waited for.
    for bytes in [&[][..], &client_hello(2)[..20]] {
        let mut stream = TcpStream::connect(stage.gateway.address).await.expect("connected");
        stream.write_all(bytes).await.expect("sent");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{}", bytes.len());
    }
    stage.gateway.metrics_with("toolgate_connections_open 0").await;
}

/// A ClientHello of version 3.`minor` (3.2 is TLS 1.1), with suites of its time and one of TLS 1.2.
fn client_hello(minor: u8) -> Vec<u8> {
    let suites =
        [0xc0, 0x2b, 0xc0, 0x13, 0xc0, 0x14, 0xc0, 0x09, 0xc0, 0x0a, 0x00, 0x2f, 0x00, 0x35];
    let mut hello = vec![3, minor];
    hello.extend_from_slice(&[7; 32]);
    hello.push(0);
    hello.extend_from_slice(&[0, suites.len() as u8]);
    hello.extend_from_slice(&suites);
    hello.extend_from_slice(&[1, 0]);
    // Curves, point formats and signatures.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    hello.extend_from_slice(&[0, extensions.len() as u8]);
    hello.extend_from_slice(&extensions);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.append(&mut hello);
    record
}

#[tokio::test]
async fn the_proxy_protocol_comes_before_tls() {
    let (ca, folder) = (Ca::new(), Folder::new());
    write_pair(&folder, "tls", &ca.server(&["localhost"]));
    let keys = format!("{PAIR}, proxy_protocol: v2");
    let stage = listening(Upstream::mcp("one").await, &folder, &keys).await;
    let dial = Dial::of(&ca, "localhost");
    let mut stream = TcpStream::connect(stage.gateway.address).await.expect("connected");
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x7f\0\0\x01\x30\x39\0\x50";
    stream.write_all(header).await.expect("sent");
    let mut client = Client::over(dial.secure(stream).await.expect("TLS"));
    client.send(&call().bytes()).await;
    assert_eq!(client.answer().await.status, 200);
    let seen = stage.upstream.take();
    assert_eq!(seen[0].field("x-forwarded-for"), Some("203.0.113.9"));
    assert!(dial.connect(stage.gateway.address).await.is_none(), "without it");
}

#[tokio::test]
async fn a_successor_serves_with_what_the_files_hold_then() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (old, new) = (ca.server(&["localhost"]), ca.server(&["localhost"]));
    write_pair(&folder, "tls", &old);
    let gate = Arc::new(Semaphore::new(0));
    let mut stage = listening(held(&gate).await, &folder, PAIR).await;
    let dial = Dial::of(&ca, "localhost");
    let address = stage.gateway.address;
    let mut client = Client::over(dial.connect(address).await.expect("TLS"));
    client.send(&Message::call(1, "slow").bytes()).await;
    assert!(stage.upstream.reached(1).await);
    write_pair(&folder, "tls", &new);
    let _successor = stage.gateway.successor(&stage.gateway.config());
    let socket = stage.gateway.state().join("upgrade/socket");
    let began = Instant::now();
    while !socket.exists() {
        assert!(began.elapsed() < SOON, "no successor");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.gateway.signal("QUIT");
    until_shown(&stage, &dial, &new).await;
    gate.add_permits(1);
    assert_eq!(client.answer().await.status, 200, "a call under way");
    assert_eq!(stage.gateway.ended().await, Some(0));
    let mut client = Client::over(dial.connect(address).await.expect("TLS"));
    client.send(&call().bytes()).await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn what_has_expired_is_served_and_told() {
    let (ca, folder) = (Ca::new(), Folder::new());
    write_pair(&folder, "tls", &ca.expired_server(&["localhost"]));
    let stage = listening(Upstream::mcp("one").await, &folder, PAIR).await;
    let file = folder.path().join("tls.crt").display().to_string();
    let line = format!(
        r#"toolgate_tls_certificate_not_after_seconds{{by="{}",file="{file}",used_as="listener"}} 1609372800"#,
        stage.gateway.address
    );
    stage.gateway.metrics_with(&line).await;
    let said = format!(
        "{file}: the certificate of the listener {} ended on 2020-12-31",
        stage.gateway.address
    );
    assert!(stage.gateway.diagnostics().contains(&said), "{}", stage.gateway.diagnostics());
    let config = stage.gateway.folder().join("toolgate.yaml").display().to_string();
    let checked = toolgate(&["check", "--config", &config]);
    let printed = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && printed.contains(&format!("note: {said}")), "{printed}");
}
