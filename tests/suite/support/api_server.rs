//! A stand-in API server of Kubernetes over real TLS: lists in pages, watches that are closed, cut and too old, bookmarks.

mod wire;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::client::DEADLINE;
use super::gateway::Folder;
use super::upstream::bind;
use wire::{converse, tls};

/// The kinds of objects it has, as paths name them, with the rest of what describes a list.
const KINDS: [(&str, &str, &str); 2] = [
    ("endpointslices", "/apis/discovery.k8s.io/v1", "EndpointSlice"),
    ("services", "/api/v1", "Service"),
];

/// An API server with one account.
pub(crate) struct ApiServer {
    address: SocketAddr,
    account: Folder,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    tls: TlsAcceptor,
    tasks: JoinSet<()>,
}

struct State {
    /// The token that is accepted.
    token: String,
    /// The number of the last change.
    version: u64,
    /// Watches cannot begin before this one.
    oldest: u64,
    /// By kind, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    changes: Vec<Change>,
    /// Objects on a page, however many are asked for.
    page_objects: usize,
    /// What ends the watches that are open.
    ending: (u64, Ending),
    asked: Vec<String>,
    refused: usize,
}

/// One change of one object; what is not there before was added, and after was deleted.
struct Change {
    version: u64,
    kind: String,
    before: Option<Value>,
    after: Option<Value>,
}

/// How a watch ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// With the last chunk.
    Clean,
    /// In the middle of an event.
    Cut,
    /// With the event that it is too old.
    Gone,
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let account = Folder::new();
        let (tls, authority) = tls();
        account.write("ca.crt", &authority);
        account.write("token", "s3cret-one");
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let state = State {
            token: "s3cret-one".to_owned(),
            version: 100,
            oldest: 0,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            page_objects: 1,
            ending: (0, Ending::Clean),
            asked: Vec::new(),
            refused: 0,
        };
        let mut server = Self {
            address: listener.local_addr().expect("an address"),
            account,
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(0),
            tls,
            tasks: JoinSet::new(),
        };
        server.serve(listener);
        server
    }

    /// The section that leads to it, with these further keys.
    pub(crate) fn section(&self, more: &str) -> String {
        let account = self.account.path().display();
        format!("kubernetes: {{ api: 'https://{}', account: {account}{more} }}\n", self.address)
    }

    /// Creates an object, or replaces the one of its name.
    pub(crate) fn put(&self, kind: &str, mut object: Value) {
        let mut state = self.state.lock();
        let text = |value: &Value| value.as_str().expect("a name").to_owned();
        let metadata = &object["metadata"];
        let key = (kind.to_owned(), text(&metadata["namespace"]), text(&metadata["name"]));
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let before = state.objects.insert(key, object.clone());
        state.note(kind, before, Some(object));
        drop(state);
        self.ring();
    }

    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let mut state = self.state.lock();
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let mut before = state.objects.remove(&key).expect("an object");
        state.version += 1;
        before["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.note(kind, Some(before), None);
        drop(state);
        self.ring();
    }

    /// Tells every watch how far it has come, though nothing of its own has happened.
    pub(crate) fn bookmark(&self) -> u64 {
        let mut state = self.state.lock();
        state.version += 10;
        let version = state.version;
        drop(state);
        self.ring();
        version
    }

    /// Ends every watch as servers do now and then.
    pub(crate) fn close_watches(&self) {
        self.end(Ending::Clean);
    }

    /// Ends every watch in the middle of an event.
    pub(crate) fn cut_watches(&self) {
        self.end(Ending::Cut);
    }

    /// Forgets every change: who watches must list again.
    pub(crate) fn compact(&self) {
        let mut state = self.state.lock();
        state.version += 1;
        state.oldest = state.version;
        state.changes.clear();
        drop(state);
        self.end(Ending::Gone);
    }

    /// From now on only this token is good.
    pub(crate) fn accept(&self, token: &str) {
        token.clone_into(&mut self.state.lock().token);
    }

    /// What the kubelet does when it has got a new token.
    pub(crate) fn give(&self, token: &str) {
        self.account.write("token.new", token);
        let path = |name| -> PathBuf { self.account.path().join(name) };
        std::fs::rename(path("token.new"), path("token")).expect("renamed");
    }

    /// Ends every connection and takes no other.
    pub(crate) fn stop(&mut self) {
        self.tasks = JoinSet::new();
    }

    /// Serves again, at the same address.
    pub(crate) async fn resume(&mut self) {
        let listener = bind(self.address).await;
        self.serve(listener);
    }

    /// What was asked with a good token, as path and query; it is forgotten.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().asked)
    }

    /// Waits until something of this text was asked.
    pub(crate) async fn is_asked(&self, wanted: &[&str]) -> String {
        let is_it = |asked: &&String| wanted.iter().all(|part| asked.contains(part));
        let began = Instant::now();
        loop {
            if let Some(asked) = self.state.lock().asked.iter().find(is_it) {
                return asked.clone();
            }
            assert!(began.elapsed() < DEADLINE, "{wanted:?}: {:?}", self.state.lock().asked);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How many requests had a bad token.
    pub(crate) fn refused(&self) -> usize {
        self.state.lock().refused
    }

    fn end(&self, how: Ending) {
        let mut state = self.state.lock();
        state.ending = (state.ending.0 + 1, how);
        drop(state);
        self.ring();
    }

    fn ring(&self) {
        self.changed.send_modify(|rung| *rung += 1);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (state, changed) = (Arc::clone(&self.state), self.changed.subscribe());
        let tls = self.tls.clone();
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (state, changed, tls) = (Arc::clone(&state), changed.clone(), tls.clone());
                connections.spawn(async move { converse(stream, &tls, &state, changed).await });
            }
        });
    }
}

impl State {
    fn note(&mut self, kind: &str, before: Option<Value>, after: Option<Value>) {
        let (version, kind) = (self.version, kind.to_owned());
        self.changes.push(Change { version, kind, before, after });
    }

    /// A page of a list, which begins after as many objects as `continue` says.
    fn list(&self, scope: &Scope<'_>, query: &HashMap<String, String>) -> (u16, Value) {
        let number = |key: &str| query.get(key).and_then(|text| text.parse::<usize>().ok());
        let (version, from) = match query.get("continue").filter(|token| !token.is_empty()) {
            None => (self.version, 0),
            Some(token) => {
                let (version, from) = token.split_once('-').expect("a token of ours");
                let version: u64 = version.parse().expect("a number");
                if version < self.oldest {
                    return (410, gone());
                }
                (version, from.parse().expect("a number"))
            }
        };
        let count = number("limit").unwrap_or(usize::MAX).min(self.page_objects);
        let all: Vec<&Value> = self
            .objects
            .iter()
            .filter(|((kind, ..), object)| kind == scope.kind && scope.has(object))
            .map(|(_, object)| object)
            .collect();
        let page: Vec<&&Value> = all.iter().skip(from).take(count).collect();
        let mut metadata = json!({ "resourceVersion": version.to_string() });
        let left = all.len().saturating_sub(from + page.len());
        if left > 0 {
            metadata["continue"] = format!("{version}-{}", from + page.len()).into();
            metadata["remainingItemCount"] = left.into();
        }
        let (_, group, kind) = KINDS.into_iter().find(|kind| kind.0 == scope.kind).expect("known");
        let group = group.trim_start_matches("/apis/").trim_start_matches("/api/");
        (
            200,
            json!({ "kind": format!("{kind}List"), "apiVersion": group, "metadata": metadata, "items": page }),
        )
    }
}

/// What a list or a watch is about.
struct Scope<'s> {
    kind: &'s str,
    namespace: Option<&'s str>,
    label: Option<(&'s str, &'s str)>,
}

impl Scope<'_> {
    fn has(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.namespace.is_none_or(|namespace| metadata["namespace"] == namespace)
            && self.label.is_none_or(|(key, value)| metadata["labels"][key] == value)
    }

    /// What a change is to who watches this.
    fn event(&self, change: &Change) -> Option<Value> {
        let of = |object: &Option<Value>| object.clone().filter(|object| self.has(object));
        let (kind, object) = match (of(&change.before), of(&change.after)) {
            _ if change.kind != self.kind => return None,
            (None, None) => return None,
            (None, Some(object)) => ("ADDED", object),
            (Some(_), Some(object)) => ("MODIFIED", object),
            (Some(mut object), None) => {
                object["metadata"]["resourceVersion"] = change.version.to_string().into();
                ("DELETED", object)
            }
        };
        Some(json!({ "type": kind, "object": object }))
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code })
}

fn gone() -> Value {
    status(410, "Expired")
}
