//! Follows all objects of one kind that have a label: a list, and then every change of it.
//!
//! The protocol is the `kube` crate's: pages, bookmarks, a watch that goes on where it ended, and a new
//! list where it cannot. Here stands what becomes of it: objects are kept as little of them as is needed,
//! and as they were while the API server is away.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Client, Config, Resource, ResourceExt as _};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::config::Cluster;

/// A watch is asked to end after this time, and goes on where it ended. The API server that has vanished
/// without a word is noticed a little later.
const WATCH_SECONDS: u32 = 60;
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Objects of one page of a list.
const PAGE_OBJECTS: u32 = 200;
/// More objects with one label are a mistake; the rest is left out.
const OBJECTS_MAX: usize = 5_000;
/// A list that has stood for so long was good: what fails then is a new failure.
const SETTLED: Duration = Duration::from_secs(10);
/// What an API server may say of a failure, in a log.
const FAULT_CHARS_MAX: usize = 300;

/// Objects by namespace and name.
pub(super) type Objects<T> = BTreeMap<(String, String), T>;

/// A watch, which ends with this value.
pub(super) struct Watch<T> {
    seen: Arc<Mutex<Seen<T>>>,
    _task: JoinSet<()>,
}

/// What was seen so far.
struct Seen<T> {
    /// `None` until the first list is whole.
    objects: Option<Objects<T>>,
    /// How often they have changed.
    version: u64,
    /// Why nothing can be seen now.
    fault: Option<String>,
}

/// A kind of object that can be watched in a namespace.
pub(super) trait Kind:
    Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
}

/// What is watched, and what is kept of it.
pub(super) struct Wanted<K, T> {
    pub(super) cluster: Cluster,
    /// Everywhere, without one.
    pub(super) namespace: Option<String>,
    pub(super) label: String,
    /// What is kept of an object; nothing of one that means nothing here.
    pub(super) keep: fn(&K) -> Option<T>,
}

impl<T: Send + 'static> Watch<T> {
    /// Begins to watch. To be called within a runtime.
    pub(super) fn start<K: Kind>(wanted: Wanted<K, T>) -> Self {
        let seen = Arc::new(Mutex::new(Seen { objects: None, version: 0, fault: None }));
        let mut task = JoinSet::new();
        task.spawn(follow(wanted, Arc::clone(&seen)));
        Self { seen, _task: task }
    }

    /// What is made of the objects, if they have changed since that version and are known at all.
    pub(super) fn since<R>(
        &self,
        version: u64,
        make: impl FnOnce(&Objects<T>) -> R,
    ) -> Option<(u64, R)> {
        let seen = self.seen.lock();
        let objects = seen.objects.as_ref().filter(|_| seen.version != version)?;
        Some((seen.version, make(objects)))
    }

    /// Why nothing can be seen now.
    pub(super) fn fault(&self) -> Option<String> {
        self.seen.lock().fault.clone()
    }

    /// Whether the first list came, or cannot come.
    pub(super) fn has_answered(&self) -> bool {
        let seen = self.seen.lock();
        seen.objects.is_some() || seen.fault.is_some()
    }
}

async fn follow<K: Kind, T>(wanted: Wanted<K, T>, seen: Arc<Mutex<Seen<T>>>) {
    let mut pauses = DefaultBackoff::default();
    loop {
        // A new client reads the token and the certificate again: both may have been replaced.
        let began = Instant::now();
        let fault = match client(&wanted.cluster) {
            Ok(client) => look(client, &wanted, &seen).await,
            Err(fault) => fault,
        };
        if began.elapsed() > SETTLED {
            pauses = DefaultBackoff::default();
        }
        seen.lock().fault = Some(fault);
        tokio::time::sleep(pauses.next().unwrap_or(SILENCE_MAX)).await;
    }
}

/// Lists and watches until something fails; tells what.
async fn look<K: Kind, T>(client: Client, wanted: &Wanted<K, T>, seen: &Mutex<Seen<T>>) -> String {
    let api: Api<K> = match &wanted.namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let how = watcher::Config::default()
        .labels(&wanted.label)
        .timeout(WATCH_SECONDS)
        .page_size(PAGE_OBJECTS);
    let mut events = std::pin::pin!(watcher::watcher(api, how));
    let mut listing = Objects::new();
    let mut listed = Instant::now();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing = Objects::new(),
            Ok(Event::InitApply(object)) => put(&mut listing, &object, wanted.keep),
            Ok(Event::InitDone) => {
                let mut seen = seen.lock();
                seen.objects = Some(std::mem::take(&mut listing));
                seen.version += 1;
                seen.fault = None;
                listed = Instant::now();
            }
            Ok(Event::Apply(object)) => seen.lock().change(|objects| {
                put(objects, &object, wanted.keep);
            }),
            Ok(Event::Delete(object)) => seen.lock().change(|objects| {
                objects.remove(&name(&object));
            }),
            // What the watch could go on from is forgotten there: the list is read again, at once
            // unless that happens all the time.
            Err(watcher::Error::WatchError(status))
                if status.code == 410 && listed.elapsed() > SETTLED =>
            {
                tracing::debug!(label = wanted.label, "the watch is too old; listing again");
                listed = Instant::now();
            }
            Err(error) => return told(&error),
        }
    }
    "the watch has ended".to_owned()
}

impl<T> Seen<T> {
    fn change(&mut self, change: impl FnOnce(&mut Objects<T>)) {
        if let Some(objects) = &mut self.objects {
            change(objects);
            self.version += 1;
        }
    }
}

fn put<K: Resource, T>(objects: &mut Objects<T>, object: &K, keep: fn(&K) -> Option<T>) {
    let name = name(object);
    match keep(object) {
        Some(kept) if objects.len() < OBJECTS_MAX || objects.contains_key(&name) => {
            objects.insert(name, kept);
        }
        Some(_) => tracing::warn!(object = name.1, "too many objects; this one is left out"),
        None => {
            objects.remove(&name);
        }
    }
}

fn name<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// The whole chain of an error in one line: what is around says what was done, and what is inside why it failed.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        inner = error.source();
    }
    text.chars().filter(|letter| !letter.is_control()).take(FAULT_CHARS_MAX).collect()
}

/// A client for this API server, or why there is none.
fn client(cluster: &Cluster) -> Result<Client, String> {
    pingora::tls::install_default_crypto_provider();
    let url = match &cluster.api {
        Some(url) => url.clone(),
        None => url_of_pod(&|name| std::env::var(name).ok())?,
    };
    let is_plain = url.starts_with("http://");
    let mut config = Config::new(url.parse().map_err(|_| format!("{url} is no URL"))?);
    config.connect_timeout = Some(CONNECT_MAX);
    config.read_timeout = Some(SILENCE_MAX);
    config.reset_reader_on_write = true;
    // Failures are this module's, with pauses of its own.
    config.default_retry = false;
    let (token, certificate) = (cluster.account.join("token"), cluster.account.join("ca.crt"));
    // Behind `kubectl proxy` there is nothing to prove, and an authority of the system needs no file.
    if !is_plain || is_there(&token) {
        config.auth_info.token_file = Some(token.display().to_string());
    }
    if !is_plain && is_there(&certificate) {
        config.root_cert_file = Some(certificate);
    }
    Client::try_from(config).map_err(|error| told(&error))
}

fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// Where the environment of a pod says that the API server is.
fn url_of_pod(environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let variable = |name| {
        environment(name).ok_or_else(|| {
            format!("{name} is not set, as it is in pods; `kubernetes.api` can say where the API server is")
        })
    };
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(format!("https://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::url_of_pod;

    #[test]
    fn pods_know_the_api_server_by_their_environment() {
        let check = |host: Option<&str>, expected: Option<&str>| {
            let environment = |name: &str| match name {
                "KUBERNETES_SERVICE_HOST" => host.map(str::to_owned),
                _ => Some("6443".to_owned()),
            };
            assert_eq!(url_of_pod(&environment).ok().as_deref(), expected, "{host:?}");
        };
        check(Some("10.96.0.1"), Some("https://10.96.0.1:6443"));
        check(Some("fd00::1"), Some("https://[fd00::1]:6443"));
        check(None, None);
    }
}
