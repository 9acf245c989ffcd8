//! How the stand-in speaks: TLS, requests taken apart, lists and watches in HTTP/1.1.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

use super::{Ending, KINDS, Scope, State, gone, status};

/// One request, taken apart.
struct Asked {
    path: String,
    query: HashMap<String, String>,
    token: String,
}

/// A certificate for loopback, and who signed it.
pub(super) fn tls() -> (TlsAcceptor, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&key).expect("signed").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("params");
    let certificate = params.signed_by(&key, &issuer).expect("signed").der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate");
    (TlsAcceptor::from(Arc::new(config)), authority)
}

pub(super) async fn converse(
    stream: TcpStream,
    tls: &TlsAcceptor,
    state: &Mutex<State>,
    mut changed: watch::Receiver<u64>,
) {
    let Ok(mut stream) = tls.accept(stream).await else { return };
    let mut buffer = Vec::new();
    while let Some(asked) = read(&mut stream, &mut buffer).await {
        let shown = |query: &HashMap<String, String>| {
            let mut parts: Vec<String> =
                query.iter().map(|(key, value)| format!("{key}={value}")).collect();
            parts.sort();
            parts.join("&")
        };
        {
            let mut state = state.lock();
            match asked.token == state.token {
                true => state.asked.push(format!("{}?{}", asked.path, shown(&asked.query))),
                false => state.refused += 1,
            }
        }
        let is_good = asked.token == state.lock().token;
        let is_open = match scope(&asked) {
            _ if !is_good => answer(&mut stream, 401, &status(401, "Unauthorized")).await,
            None => answer(&mut stream, 404, &status(404, "NotFound")).await,
            Some(scope) if asked.query.contains_key("watch") => {
                follow(&mut stream, &scope, &asked.query, state, &mut changed).await
            }
            Some(scope) => {
                let (code, list) = state.lock().list(&scope, &asked.query);
                answer(&mut stream, code, &list).await
            }
        };
        if !is_open {
            return;
        }
    }
}

fn scope(asked: &Asked) -> Option<Scope<'_>> {
    let (kind, rest) = KINDS.iter().find_map(|(kind, group, _)| {
        let rest = asked.path.strip_prefix(group)?.strip_suffix(kind)?;
        Some((*kind, rest))
    })?;
    let namespace = match rest {
        "/" => None,
        rest => Some(rest.strip_prefix("/namespaces/")?.strip_suffix('/')?),
    };
    let label = asked.query.get("labelSelector").and_then(|label| label.split_once('='));
    Some(Scope { kind, namespace, label })
}

/// A watch; tells whether the connection can be used again.
async fn follow(
    stream: &mut TlsStream<TcpStream>,
    scope: &Scope<'_>,
    query: &HashMap<String, String>,
    state: &Mutex<State>,
    changed: &mut watch::Receiver<u64>,
) -> bool {
    let text = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    let mut seen: u64 = text("resourceVersion").parse().expect("a version to begin at");
    let seconds: u64 = text("timeoutSeconds").parse().expect("a time for the watch");
    let has_bookmarks = text("allowWatchBookmarks") == "true";
    let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let (oldest, began) = {
        let state = state.lock();
        (state.oldest, state.ending.0)
    };
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return false;
    }
    if seen < oldest {
        return send(stream, &json!({ "type": "ERROR", "object": gone() })).await
            && end(stream).await;
    }
    loop {
        changed.borrow_and_update();
        let (events, ending) = {
            let state = state.lock();
            let news = state.changes.iter().filter(|change| change.version > seen);
            let mut events: Vec<Value> = news.filter_map(|change| scope.event(change)).collect();
            // Nothing of its own, but it need not begin as far back next time.
            if events.is_empty() && state.version > seen && has_bookmarks {
                let (_, group, kind) =
                    KINDS.into_iter().find(|kind| kind.0 == scope.kind).expect("known");
                let group = group.trim_start_matches("/apis/").trim_start_matches("/api/");
                let metadata = json!({ "resourceVersion": state.version.to_string() });
                let object = json!({ "kind": kind, "apiVersion": group, "metadata": metadata });
                events.push(json!({ "type": "BOOKMARK", "object": object }));
            }
            seen = state.version;
            (events, state.ending)
        };
        if ending.0 != began {
            return match ending.1 {
                Ending::Clean => end(stream).await,
                Ending::Gone => {
                    send(stream, &json!({ "type": "ERROR", "object": gone() })).await
                        && end(stream).await
                }
                Ending::Cut => {
                    // What could be written of it may get there.
                    stream.write_all(b"40\r\n{\"type\":\"MODIF").await.ok();
                    stream.flush().await.ok();
                    false
                }
            };
        }
        for event in events {
            if !send(stream, &event).await {
                return false;
            }
        }
        tokio::select! {
            rung = changed.changed() => {
                if rung.is_err() {
                    return false;
                }
            }
            () = tokio::time::sleep_until(until) => return end(stream).await,
        }
    }
}

async fn answer(stream: &mut TlsStream<TcpStream>, code: u16, body: &Value) -> bool {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let sent = stream.write_all((head + &body).as_bytes()).await;
    sent.is_ok() && stream.flush().await.is_ok()
}

async fn send(stream: &mut TlsStream<TcpStream>, event: &Value) -> bool {
    let event = format!("{event}\n");
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    stream.write_all(chunk.as_bytes()).await.is_ok() && stream.flush().await.is_ok()
}

async fn end(stream: &mut TlsStream<TcpStream>) -> bool {
    stream.write_all(b"0\r\n\r\n").await.is_ok() && stream.flush().await.is_ok()
}

async fn read(stream: &mut TlsStream<TcpStream>, buffer: &mut Vec<u8>) -> Option<Asked> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut fields);
        if let httparse::Status::Complete(length) = head.parse(buffer).expect("proper HTTP") {
            assert_eq!(head.method, Some("GET"), "the gateway changes nothing in a cluster");
            let token =
                head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("authorization"));
            let token = token
                .and_then(|field| std::str::from_utf8(field.value).ok()?.strip_prefix("Bearer "));
            let token = token.unwrap_or_default().to_owned();
            let whole = head.path.expect("a path");
            let (path, query) = whole.split_once('?').unwrap_or((whole, ""));
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let query = pairs.map(|(key, value)| (decoded(key), decoded(value))).collect();
            let asked = Asked { path: path.to_owned(), query, token };
            buffer.drain(..length);
            return Some(asked);
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => buffer.extend_from_slice(&bytes[..read]),
        }
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten();
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).expect("text")
}
