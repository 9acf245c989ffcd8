//! The offers of all servers, and the handle of one that the request path keeps.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::alike::{Alike, Alikes};
use super::canonical::Digest;
use super::learned::{Fingerprint, Memory, Seen};
use super::offer::{Audience, Kind, Offer};
use super::page::Page;
use super::pins::{DefinitionChange, NotApproved, Passing, Pins};
use crate::config::OnChange;
use crate::mcp::result_of;

/// What all offers together take at the most, in bytes; one that finds no room is not taken.
const BYTES_MAX: usize = 256 * 1024 * 1024;
/// A list that passes to a client is looked at up to this length.
const LEARNED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The offers of all servers. It outlives every configuration.
pub struct Catalog {
    servers: Mutex<HashMap<String, Arc<Listed>>>,
    memory: Arc<Memory>,
    pins: Arc<Pins>,
    alikes: ArcSwap<Alikes>,
    held_bytes: AtomicUsize,
    next: AtomicU64,
}

/// What one server offers, now and after every change.
pub struct Listed {
    server: String,
    number: u64,
    offer: ArcSwap<Offer>,
    memory: Arc<Memory>,
    pins: Arc<Pins>,
    /// The tools of which a definition waits to be approved.
    waiting: ArcSwap<HashSet<Box<str>>>,
    /// Whether anything was ever learned of a caller; until then nobody looks.
    has_learned: AtomicBool,
    /// How often the server has said that a list changed: what was learned before counts no longer.
    epoch: AtomicU64,
    signals: AtomicU8,
    bell: Notify,
}

/// Why a server should be listed before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Signal {
    /// It said so itself, or its endpoints are others.
    Changed = 1,
    /// Somebody asked for what is not known.
    Doubt = 2,
}

/// There is no room for an offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Default for Catalog {
    fn default() -> Self {
        Self::new()
    }
}

impl Catalog {
    /// A catalogue in which nothing is known.
    pub fn new() -> Self {
        Self {
            servers: Mutex::default(),
            memory: Arc::new(Memory::new()),
            pins: Arc::default(),
            alikes: ArcSwap::default(),
            held_bytes: AtomicUsize::new(0),
            next: AtomicU64::new(0),
        }
    }

    /// The handle of a server, the same one as long as anybody keeps it. To be asked for once, when
    /// a configuration is made ready, not for each request.
    pub fn of(&self, server: &str) -> Arc<Listed> {
        let mut servers = self.servers.lock();
        let listed = servers.entry(server.to_owned()).or_insert_with(|| {
            let listed = Listed {
                server: server.to_owned(),
                number: self.next.fetch_add(1, Ordering::Relaxed),
                offer: ArcSwap::default(),
                memory: Arc::clone(&self.memory),
                pins: Arc::clone(&self.pins),
                waiting: ArcSwap::default(),
                has_learned: AtomicBool::new(false),
                epoch: AtomicU64::new(0),
                signals: AtomicU8::new(0),
                bell: Notify::new(),
            };
            listed.follow_pins();
            Arc::new(listed)
        });
        Arc::clone(listed)
    }

    /// What a server offers, for those who ask seldom.
    pub fn offer(&self, server: &str) -> Option<Arc<Offer>> {
        self.servers.lock().get(server).map(|listed| listed.offer.load_full())
    }

    /// Takes what a server offers from whoever knows it without asking, and says whether there was
    /// room.
    pub fn put(&self, server: &str, offer: Offer) -> bool {
        self.install(&self.of(server), Arc::new(offer)).is_ok()
    }

    /// Which definitions were shown.
    pub fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// Trusts the definition of a tool that waits, if it is the one with this digest. Calls see it at
    /// once, lists as soon as the server was listed again.
    ///
    /// # Errors
    /// When none waits, or another one does.
    pub fn approve(
        &self,
        server: &str,
        tool: &str,
        digest: Option<&str>,
    ) -> Result<DefinitionChange, NotApproved> {
        let change = self.pins.approve(server, tool, digest, SystemTime::now())?;
        if let Some(listed) = self.servers.lock().get(server) {
            listed.follow_pins();
            listed.signal(Signal::Changed);
        }
        Ok(change)
    }

    /// Trusts the definition of a tool that another replica trusts.
    pub fn adopt(&self, server: &str, tool: &str, digest: Digest, text: Option<Box<str>>) {
        if !self.pins.adopt(server, tool, (digest, text), SystemTime::now()) {
            return;
        }
        if let Some(listed) = self.servers.lock().get(server) {
            listed.follow_pins();
            listed.signal(Signal::Changed);
        }
    }

    /// The tools of a server whose name is like another one's.
    pub fn alikes(&self, server: &str) -> Arc<[Alike]> {
        self.alikes.load().get(server).map_or_else(|| Arc::new([]), Arc::clone)
    }

    /// Says which names are alike; tells which were before.
    pub(super) fn set_alikes(&self, alikes: Arc<Alikes>) -> Arc<Alikes> {
        self.alikes.swap(alikes)
    }

    /// Forgets servers that no configuration names and nobody holds any more.
    pub(super) fn keep(&self, is_named: impl Fn(&str) -> bool) {
        self.servers.lock().retain(|server, listed| {
            let stays = is_named(server) || Arc::strong_count(listed) > 1;
            if !stays {
                self.held_bytes.fetch_sub(listed.offer.load().weight(), Ordering::Relaxed);
            }
            stays
        });
    }

    /// Puts an offer in the place of the one before, if there is room. Only the one who lists this
    /// server calls it.
    pub(super) fn install(&self, listed: &Listed, offer: Arc<Offer>) -> Result<(), Full> {
        let (before, after) = (listed.offer.load().weight(), offer.weight());
        let held = self.held_bytes.fetch_add(after, Ordering::Relaxed);
        if after > before && held - before + after > BYTES_MAX {
            self.held_bytes.fetch_sub(after, Ordering::Relaxed);
            return Err(Full);
        }
        self.held_bytes.fetch_sub(before, Ordering::Relaxed);
        listed.offer.store(offer);
        Ok(())
    }
}

impl Listed {
    /// The server's name.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What the server offers now, whoever asks.
    pub fn offer(&self) -> Guard<Arc<Offer>> {
        self.offer.load()
    }

    /// What the server offers as this caller sees it.
    pub fn seen_by(&self, caller: &Fingerprint, now_ms: u64) -> Seen {
        let learned = match self.has_learned.load(Ordering::Relaxed) {
            true => {
                let epoch = self.epoch.load(Ordering::Relaxed);
                self.memory.recall(self.number, caller, epoch, now_ms)
            }
            false => None,
        };
        Seen { offer: self.offer.load(), learned }
    }

    /// Whether another definition of this tool waits to be approved than the one that was shown. By
    /// the server's settings such a tool is not called ([`OnChange::Refuse`]).
    pub fn awaits_approval(&self, tool: &str) -> bool {
        self.waiting.load().contains(tool)
    }

    /// What may pass of a tool in a list of the server's own, on its way to a client. A change that
    /// is seen here first is looked at soon.
    pub fn passing(&self, on_change: OnChange, tool: &str, definition: &[u8]) -> Passing {
        if on_change == OnChange::Record {
            return Passing::AsItIs;
        }
        let passing = self.pins.of(&self.server).passing(on_change, tool, definition);
        if passing != Passing::AsItIs && !self.awaits_approval(tool) {
            match self.offer().audience {
                Audience::Everyone => self.signal(Signal::Changed),
                // What one caller is told may always be other.
                Audience::Caller => self.in_doubt(),
            }
        }
        passing
    }

    /// Which tools wait is read again.
    pub(super) fn follow_pins(&self) {
        let pins = self.pins.of(&self.server);
        let waiting: HashSet<Box<str>> = pins.pending().map(|(tool, _)| tool.into()).collect();
        if !(waiting.is_empty() && self.waiting.load().is_empty()) {
            self.waiting.store(Arc::new(waiting));
        }
    }

    /// A JSON-RPC answer with a page of a list passes to this caller: what it shows and the offer
    /// does not is this caller's own.
    pub fn learn(&self, caller: &Fingerprint, kind: Kind, answer: &[u8], now_ms: u64) {
        if answer.len() > LEARNED_BYTES_MAX {
            return;
        }
        // Read first: a change that is told in between makes it old.
        let epoch = self.epoch.load(Ordering::Relaxed);
        let page = result_of(answer).and_then(|result| Page::read(kind, result).ok());
        let Some(page) = page else { return };
        let (key, shown) = ((self.number, *caller), (kind, page.definitions));
        if self.memory.learn(key, shown, &self.offer.load(), (epoch, now_ms)) {
            self.has_learned.store(true, Ordering::Relaxed);
        }
    }

    /// The server said that a list has changed. It is listed again soon, and what was learned of
    /// callers counts no longer.
    pub fn changed(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.signal(Signal::Changed);
    }

    /// Somebody asked for a name that is not known. The server is listed again, but not often.
    pub fn in_doubt(&self) {
        self.signal(Signal::Doubt);
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Who only adds to what is signalled already writes nothing that others read.
        if !self.has(signal)
            && self.signals.fetch_or(signal as u8, Ordering::Relaxed) & signal as u8 == 0
        {
            self.bell.notify_one();
        }
    }

    /// Waits for a signal; one that came before the wait counts.
    pub(super) async fn signalled(&self) {
        self.bell.notified().await;
    }

    pub(super) fn has(&self, signal: Signal) -> bool {
        self.signals.load(Ordering::Relaxed) & signal as u8 != 0
    }

    /// A listing begins: what was signalled so far is what it is for.
    pub(super) fn begin(&self) {
        self.signals.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, Catalog, Full, Signal};
    use crate::catalog::offer::{Definition, Definitions};
    use crate::catalog::{Kind, Offer};
    use crate::mcp::Annotations;
    use bytes::Bytes;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn definition(value: &Value) -> Definition {
        let bytes = value.to_string();
        let mut digest = [0; 16];
        digest.copy_from_slice(
            &ring::digest::digest(&ring::digest::SHA256, bytes.as_bytes()).as_ref()[..16],
        );
        Definition {
            name: value["name"].as_str().expect("a name").into(),
            annotations: Annotations::of_json(&value["annotations"]),
            digest,
            bytes: bytes.into(),
        }
    }

    fn tool(name: &str, read_only: bool) -> Value {
        json!({ "name": name, "annotations": { "readOnlyHint": read_only } })
    }

    fn offer(tools: &[Value]) -> Arc<Offer> {
        let mut offer = Offer::default();
        let tools = Definitions::new(tools.iter().map(definition).collect()).0;
        offer.lists[Kind::Tools as usize] = Arc::new(tools);
        Arc::new(offer)
    }

    fn answer(tools: &[Value]) -> Vec<u8> {
        json!({ "jsonrpc": "2.0", "id": 1, "result": { "tools": tools } }).to_string().into_bytes()
    }

    const ANN: [u8; 16] = [1; 16];
    const BOB: [u8; 16] = [2; 16];

    #[test]
    fn a_caller_sees_what_it_was_shown_and_everybody_else_what_everybody_is_shown() {
        let catalog = Catalog::new();
        let listed = catalog.of("one");
        let read_only = |caller, name: &str| {
            listed.seen_by(caller, 0).find(Kind::Tools, name).map(|tool| tool.annotations.read_only)
        };
        catalog.install(&listed, offer(&[tool("a", true), tool("b", true)])).expect("room");
        listed.learn(&ANN, Kind::Tools, &answer(&[tool("a", true)]), 0);
        assert_eq!(catalog.memory.weight(), 0, "what everybody is shown is not kept again");
        listed.learn(&ANN, Kind::Tools, &answer(&[tool("a", false), tool("own", true)]), 0);
        listed.learn(&ANN, Kind::Tools, b"{\"result\":{\"tools\":[", 0);
        assert_eq!(read_only(&ANN, "a"), Some(Some(false)));
        assert_eq!(read_only(&ANN, "own"), Some(Some(true)));
        assert_eq!(read_only(&ANN, "b"), Some(Some(true)));
        assert_eq!(read_only(&BOB, "a"), Some(Some(true)));
        assert_eq!(read_only(&BOB, "own"), None);

        // The server's own list is newer now.
        catalog.install(&listed, offer(&[tool("a", true), tool("own", false)])).expect("room");
        assert_eq!(read_only(&ANN, "own"), Some(Some(false)));
        assert_eq!(read_only(&ANN, "a"), Some(Some(false)), "beside what it was shown");
        let too_late = listed.seen_by(&ANN, u64::MAX).learned;
        assert!(too_late.is_none(), "what was learned is forgotten with time");
        listed.changed();
        assert_eq!(read_only(&ANN, "a"), Some(Some(true)), "the server said that it changed");
    }

    #[test]
    fn callers_cannot_make_it_grow_without_bound() {
        let catalog = Catalog::new();
        let listed = catalog.of("one");
        let text = "x".repeat(100_000);
        let big: Vec<Value> =
            (0..30).map(|n| json!({ "name": format!("t{n}"), "text": text })).collect();
        let answer = answer(&big);
        for caller in 0..100_u8 {
            listed.learn(&[caller; 16], Kind::Tools, &answer, 0);
        }
        assert!(catalog.memory.weight() > 0, "something is kept");
        assert!(catalog.memory.weight() <= 32 * 1024 * 1024, "{}", catalog.memory.weight());
    }

    #[test]
    fn an_offer_without_room_is_not_taken() {
        let catalog = Catalog::new();
        let (one, other) = (catalog.of("one"), catalog.of("other"));
        let large = || {
            Arc::new(Offer {
                greeting: Bytes::from(vec![0; BYTES_MAX / 2 + 1]),
                ..Offer::default()
            })
        };
        assert_eq!(catalog.install(&one, large()), Ok(()));
        assert_eq!(catalog.install(&one, large()), Ok(()), "in its own place");
        assert_eq!(catalog.install(&other, large()), Err(Full));
        drop(one);
        catalog.keep(|server| server == "other");
        assert_eq!(catalog.install(&other, large()), Ok(()), "the other one is gone");
        assert!(catalog.offer("one").is_none() && catalog.offer("other").is_some());
    }

    #[tokio::test]
    async fn signals_are_kept_until_a_listing_begins() {
        let listed = Catalog::new().of("one");
        listed.in_doubt();
        listed.in_doubt();
        listed.signalled().await;
        assert!(listed.has(Signal::Doubt) && !listed.has(Signal::Changed));
        listed.changed();
        assert!(listed.has(Signal::Changed));
        listed.begin();
        assert!(!listed.has(Signal::Changed) && !listed.has(Signal::Doubt));
    }
}
