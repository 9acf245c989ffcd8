//! What cannot be in a session id because it comes later: when the session was last used, where it
//! moved, and what must be restored there.
//!
//! It is bounded, and what it lacks is found in the id. Looking up takes no lock.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering};

use super::SessionKey;
use super::entry::{
    BESIDE_BYTES_MAX, ENDED, Entry, LIVE, MOVED, MOVED_SILENT, Named, Place, Restore, level_byte,
};
use super::ledger::{Change, Ledger};
use crate::identity::Caller;
use crate::mcp::Revision;
use crate::shared::Store;

/// The sessions that were used lately.
pub struct Table {
    pub(super) entries: papaya::HashMap<SessionKey, Entry, BuildHasherDefault<FirstBytes>>,
    units: AtomicUsize,
    /// Since when every session that was used is here, in seconds since 1970.
    complete_since: AtomicU32,
    /// Entries of another one are asked about before they are believed.
    pub(super) epoch: AtomicU16,
    pub(super) ledger: Option<Ledger>,
}

/// The bounds that the configuration sets.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A session unused for longer is over, in seconds.
    pub idle_s: u32,
    /// Entries at once.
    pub entries_max: usize,
    /// No session lives longer, in seconds.
    pub lifetime_s: u32,
    /// Whether a session that is not used here is used nowhere.
    pub view: View,
}

/// What this gateway sees of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Every use: it is the only gateway. So it may end what nobody uses.
    Whole,
    /// Some uses: others have the same key.
    Part,
    /// Some uses, and the store says whether there are others.
    Shared,
}

/// What the table knows of a session.
#[derive(Debug)]
pub enum Seen {
    /// Nothing; the id says all there is, unless another replica knows more.
    Unknown,
    /// Something that another replica may know better.
    Doubted,
    /// It is where its id says.
    AtHome,
    /// It moved.
    Moved(Place),
    /// It is over: ended by its client, or not used for too long.
    Over,
}

/// A session that nobody will use again where it lived.
#[derive(Debug)]
pub struct Abandoned {
    /// Which one.
    pub key: SessionKey,
    /// Who moved it away. Of one that nobody used for too long nobody is known: the table holds a
    /// million sessions in [`ENTRY_BYTES_MAX`](super::ENTRY_BYTES_MAX) each, which must not keep every caller with all its
    /// claims. The record of its start names the caller.
    pub caller: Option<Arc<Caller>>,
    /// Where it lived.
    pub place: Place,
    /// The revision it speaks.
    pub revision: Option<Revision>,
}

impl Table {
    /// An empty table.
    pub fn new(now: u32) -> Self {
        Self {
            entries: papaya::HashMap::default(),
            units: AtomicUsize::new(0),
            complete_since: AtomicU32::new(now),
            epoch: AtomicU16::new(0),
            ledger: None,
        }
    }

    /// An empty table of a replica, which asks the store for what it lacks.
    pub fn with_store(now: u32, store: &Arc<Store>) -> Self {
        let ledger = store.is_configured().then(|| Ledger::new(Arc::clone(store)));
        Self { ledger, ..Self::new(now) }
    }

    /// Looks a session up that a client uses now. `made_at` is when it was opened.
    pub fn used(&self, key: SessionKey, made_at: u32, now: u32, rules: Rules) -> Seen {
        let pinned = self.entries.pin();
        let epoch = self.epoch.load(Ordering::Relaxed);
        let is_doubted = pinned
            .get(&key)
            .is_some_and(|entry| entry.epoch.load(Ordering::Relaxed) != epoch && !entry.is_over());
        match is_doubted {
            true => Seen::Doubted,
            false => self.used_as_known(key, made_at, now, rules),
        }
    }

    /// The same by what is known here.
    pub fn used_as_known(&self, key: SessionKey, made_at: u32, now: u32, rules: Rules) -> Seen {
        let pinned = self.entries.pin();
        let Some(entry) = pinned.get(&key) else {
            let complete_since = self.complete_since.load(Ordering::Relaxed);
            let known = made_at.max(complete_since);
            return match rules.view {
                // Had it been used lately, it would be here.
                View::Whole if now.saturating_sub(known) > rules.idle_s => Seen::Over,
                View::Whole | View::Part | View::Shared => Seen::Unknown,
            };
        };
        if entry.is_over() || (rules.view == View::Whole && entry.is_idle(now, rules)) {
            return Seen::Over;
        }
        if entry.used.load(Ordering::Relaxed) != now {
            entry.used.store(now, Ordering::Relaxed);
        }
        match entry.stage.load(Ordering::Relaxed) {
            LIVE => Seen::AtHome,
            _ => Seen::Moved(entry.place()),
        }
    }

    /// Whether the session was used in this second.
    pub fn was_used_at(&self, key: SessionKey, now: u32) -> bool {
        self.entries.pin().get(&key).is_some_and(|entry| entry.used.load(Ordering::Relaxed) == now)
    }

    /// The revision that a session speaks where it lives, as far as is known.
    pub fn revision(&self, key: SessionKey) -> Option<Revision> {
        self.entries.pin().get(&key).and_then(|entry| Revision::from_byte(entry.revision))
    }

    /// A session is in use, though nobody asked for it anew: its stream or its call goes on.
    pub fn touch(&self, key: SessionKey, now: u32) {
        if let Some(entry) = self.entries.pin().get(&key) {
            entry.used.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// A session was opened, or one that was opened elsewhere is seen for the first time.
    pub fn came(
        &self,
        named: impl Into<Named>,
        place: &Place,
        revision: Option<Revision>,
        opening: Option<Box<[u8]>>,
        now: u32,
        rules: Rules,
    ) {
        let named = named.into();
        let mut entry = Entry::new(place, revision, named.leg, now, LIVE);
        entry.epoch.store(self.epoch.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Some(opening) = opening.filter(|opening| opening.len() <= BESIDE_BYTES_MAX) {
            self.note(named, Change::Opening(opening.clone()));
            entry.beside.get_or_insert_default().opening = Some(opening);
        }
        self.insert(named, entry, now, rules);
    }

    /// Adds an entry, if nobody was faster and there is room.
    pub(super) fn insert(&self, named: Named, entry: Entry, now: u32, rules: Rules) {
        let units = entry.units();
        // Some room is left to those that move: what their ids say is no longer true.
        if self.units.load(Ordering::Relaxed) + units > rules.entries_max / 64 * 63 {
            // It goes on by what its id says; until there is room again, absence says nothing.
            self.complete_since.store(now, Ordering::Relaxed);
            return;
        }
        let endpoint = Arc::clone(&entry.endpoint);
        // Somebody else may have seen it first, and may have moved it already.
        if self.entries.pin().try_insert(named.key, entry).is_ok() {
            self.units.fetch_add(units, Ordering::Relaxed);
            endpoint.standing().session_came();
        }
    }

    /// A session moved.
    pub fn moved(
        &self,
        named: impl Into<Named>,
        place: &Place,
        revision: Option<Revision>,
        now: u32,
        rules: Rules,
    ) {
        let named = named.into();
        let key = named.key;
        let mut entry = Entry::new(place, revision, named.leg, now, MOVED_SILENT);
        entry.epoch.store(self.epoch.load(Ordering::Relaxed), Ordering::Relaxed);
        let pinned = self.entries.pin();
        if let Some(before) = pinned.get(&key) {
            entry.level = before.level;
            if let Some(kept) = &before.beside {
                let beside = entry.beside.get_or_insert_default();
                beside.opening = kept.opening.clone();
                beside.subscriptions = kept.subscriptions.clone();
            }
        }
        let known = pinned.get(&key).map_or(0, Entry::units);
        let units = entry.units();
        if known == 0 && self.units.load(Ordering::Relaxed) + units > rules.entries_max {
            self.complete_since.store(now, Ordering::Relaxed);
            return;
        }
        self.replace(key, entry);
    }

    /// The client ended its session: its id opens nothing any more, at no replica.
    pub fn ended(&self, named: impl Into<Named>) {
        let named = named.into();
        self.note(named, Change::Ended);
        self.is_ended(named.key);
    }

    /// A session is over.
    pub(super) fn is_ended(&self, key: SessionKey) {
        if let Some(entry) = self.entries.pin().get(&key) {
            entry.stage.store(ENDED, Ordering::Relaxed);
            entry.uncount();
        }
    }

    /// Whether the client ended its session.
    pub fn is_over(&self, key: SessionKey) -> bool {
        self.entries.pin().get(&key).is_some_and(Entry::is_over)
    }

    /// The client set its log level.
    pub fn note_level(&self, named: impl Into<Named>, level: &str, rules: Rules) {
        let (named, level) = (named.into(), level_byte(level));
        if level > 0 {
            self.note(named, Change::Level(level));
            self.change(named.key, rules, |entry| Some(entry.with(level, entry.beside.clone())));
        }
    }

    /// The client subscribed to a resource, or no longer does.
    pub fn note_subscription(
        &self,
        named: impl Into<Named>,
        uri: &str,
        subscription: Subscription,
        rules: Rules,
    ) {
        let named = named.into();
        if uri.len() <= BESIDE_BYTES_MAX {
            self.note(named, Change::Subscription(uri.into(), subscription));
        }
        self.change(named.key, rules, |entry| {
            let mut beside = entry.beside.clone().unwrap_or_default();
            beside.subscriptions.retain(|known| **known != *uri);
            if subscription == Subscription::Begins {
                beside.subscriptions.push(uri.into());
            }
            (beside.bytes() <= BESIDE_BYTES_MAX).then(|| entry.with(entry.level, Some(beside)))
        });
    }

    /// Where a session that moved lives, without using it.
    pub fn whereabouts(&self, key: SessionKey) -> Option<Place> {
        let pinned = self.entries.pin();
        let entry = pinned.get(&key)?;
        let stage = entry.stage.load(Ordering::Relaxed);
        (stage == MOVED || stage == MOVED_SILENT).then(|| entry.place())
    }

    /// What must be made anew where the session moves to.
    pub fn restore(&self, key: SessionKey) -> Restore {
        let pinned = self.entries.pin();
        pinned.get(&key).map(Entry::restore).unwrap_or_default()
    }

    /// Whether a client of a session that moved may still speak of events of the old endpoint.
    pub fn is_silent_since_move(&self, key: SessionKey) -> bool {
        let pinned = self.entries.pin();
        let stage = pinned.get(&key).map(|entry| entry.stage.load(Ordering::Relaxed));
        stage == Some(MOVED_SILENT)
    }

    /// An event of the new endpoint reached the client.
    pub fn spoke(&self, key: SessionKey) {
        if let Some(entry) = self.entries.pin().get(&key) {
            // Only if it is still so: an end that came first must stay.
            entry
                .stage
                .compare_exchange(MOVED_SILENT, MOVED, Ordering::Relaxed, Ordering::Relaxed)
                .ok();
        }
    }

    /// Forgets sessions that nobody used for too long, at most `batch` of them.
    pub fn sweep(&self, now: u32, rules: Rules, batch: usize) -> Vec<Abandoned> {
        let mut abandoned = Vec::new();
        let pinned = self.entries.pin();
        let idle = pinned.iter().filter(|(_, entry)| entry.is_idle(now, rules)).take(batch);
        let keys: Vec<SessionKey> = idle.map(|(key, _)| *key).collect();
        for key in keys {
            // Used in this very moment: then it stays.
            let Ok(Some((_, entry))) = pinned.remove_if(&key, |_, entry| entry.is_idle(now, rules))
            else {
                continue;
            };
            self.left(entry);
            if !entry.is_over() {
                let revision = Revision::from_byte(entry.revision);
                abandoned.push(Abandoned { key, caller: None, place: entry.place(), revision });
            }
        }
        abandoned
    }

    /// Forgets the least used sessions when the table is full; they go on by what their ids say.
    pub fn make_room(&self, now: u32, rules: Rules) {
        if self.units.load(Ordering::Relaxed) < rules.entries_max / 128 * 125 {
            return;
        }
        let pinned = self.entries.pin();
        let mut ages: Vec<u32> =
            pinned.values().step_by(16).map(|entry| entry.used.load(Ordering::Relaxed)).collect();
        ages.sort_unstable();
        let Some(oldest) = ages.get(ages.len() / 8).copied() else { return };
        self.complete_since.store(now, Ordering::Relaxed);
        // Who moved must stay: its id leads to where it is forgotten.
        let is_old = |entry: &Entry| {
            let stage = entry.stage.load(Ordering::Relaxed);
            entry.used.load(Ordering::Relaxed) <= oldest && stage != MOVED && stage != MOVED_SILENT
        };
        let keys: Vec<SessionKey> = pinned
            .iter()
            .filter(|(_, entry)| is_old(entry))
            .take(rules.entries_max / 4)
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            if let Ok(Some((_, entry))) = pinned.remove_if(&key, |_, entry| is_old(entry)) {
                self.left(entry);
            }
        }
    }

    /// Sessions that are here.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn replace(&self, key: SessionKey, entry: Entry) {
        self.units.fetch_add(entry.units(), Ordering::Relaxed);
        entry.endpoint.standing().session_came();
        if let Some(before) = self.entries.pin().insert(key, entry) {
            self.left(before);
        }
    }

    /// Lets the other replicas know, soon.
    fn note(&self, named: Named, change: Change) {
        if let Some(ledger) = &self.ledger {
            ledger.note(named, change);
        }
    }

    fn change(&self, key: SessionKey, rules: Rules, change: impl Fn(&Entry) -> Option<Entry>) {
        let pinned = self.entries.pin();
        let Some(entry) = pinned.get(&key).filter(|entry| !entry.is_over()) else { return };
        let Some(changed) = change(entry) else { return };
        let more = changed.units().saturating_sub(entry.units());
        if more == 0 || self.units.load(Ordering::Relaxed) + more <= rules.entries_max {
            self.replace(key, changed);
        }
    }

    pub(super) fn left(&self, entry: &Entry) {
        self.units.fetch_sub(entry.units(), Ordering::Relaxed);
        entry.uncount();
    }
}

/// What happens to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// The client asked for it.
    Begins,
    /// The client has enough of it.
    Ends,
}

/// A hash that is the start of its key: the keys are random.
#[derive(Clone, Copy, Default)]
pub(super) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Place, Rules, Seen, Subscription, Table, View};
    use crate::config;
    use crate::sessions::{ENTRY_BYTES_MAX, SessionKey};
    use crate::upstream::{Endpoint, Fleet};
    use std::sync::Arc;

    const RULES: Rules =
        Rules { idle_s: 100, entries_max: 1000, lifetime_s: 1000, view: View::Whole };

    fn endpoints() -> Vec<Arc<Endpoint>> {
        let yaml = "listen: 127.0.0.1:1\nservers: { s: { endpoints: [http://10.0.0.1/mcp, http://10.0.0.2/mcp] } }\nroutes: [{ path: /mcp, server: s }]";
        let settings = config::parse(yaml, "test", &|_| None).expect("settings");
        let pools = Fleet::new().prepare(&settings.servers, 1);
        pools[0].members().endpoints().to_vec()
    }

    fn place(endpoint: &Arc<Endpoint>, id: &str) -> Place {
        Place { endpoint: Arc::clone(endpoint), upstream_id: Some(id.as_bytes().to_vec()) }
    }

    fn key(number: u64) -> SessionKey {
        let mut key = [0; 12];
        key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        SessionKey(key)
    }

    #[test]
    fn a_session_is_home_then_moved_then_over() {
        let endpoints = endpoints();
        let table = Table::new(1000);
        assert!(matches!(table.used(key(1), 1000, 1000, RULES), Seen::Unknown));
        table.came(key(1), &place(&endpoints[0], "a"), None, None, 1000, RULES);
        assert!(matches!(table.used(key(1), 1000, 1001, RULES), Seen::AtHome));
        table.note_level(key(1), "warning", RULES);
        table.note_subscription(key(1), "file:///a", Subscription::Begins, RULES);
        table.note_subscription(key(1), "file:///b", Subscription::Begins, RULES);
        table.note_subscription(key(1), "file:///a", Subscription::Ends, RULES);
        let long = "x".repeat(100);
        table.moved(key(1), &place(&endpoints[1], &long), None, 1002, RULES);
        let Seen::Moved(now_at) = table.used(key(1), 1000, 1003, RULES) else {
            panic!("not moved")
        };
        assert_eq!(now_at.endpoint.id(), endpoints[1].id());
        assert_eq!(now_at.upstream_id.as_deref(), Some(long.as_bytes()));
        let restore = table.restore(key(1));
        assert_eq!(
            (restore.level, &*restore.subscriptions),
            (Some("warning"), &["file:///b".into()][..])
        );
        assert!(table.is_silent_since_move(key(1)));
        table.spoke(key(1));
        assert!(!table.is_silent_since_move(key(1)));
        let sessions = |at: usize| endpoints[at].standing().sessions();
        assert_eq!((sessions(0), sessions(1)), (0, 1));
        table.ended(key(1));
        assert_eq!(sessions(1), 0, "it is kept only to be refused");
        assert!(matches!(table.used(key(1), 1000, 1004, RULES), Seen::Over));
        assert!(table.sweep(1200, RULES, 10).is_empty(), "its client ended it");
        assert_eq!((table.len(), sessions(1)), (0, 0));
    }

    #[test]
    fn who_is_not_used_is_abandoned_where_every_use_is_seen() {
        let endpoints = endpoints();
        let table = Table::new(1000);
        for number in 0..10 {
            table.came(key(number), &place(&endpoints[0], "a"), None, None, 1000, RULES);
        }
        table.used(key(3), 1000, 1050, RULES);
        assert!(matches!(table.used(key(4), 1000, 1101, RULES), Seen::Over));
        let part = Rules { view: View::Part, ..RULES };
        assert!(matches!(table.used(key(5), 1000, 1101, part), Seen::AtHome));
        let abandoned = table.sweep(1101, RULES, 100);
        assert_eq!((abandoned.len(), table.len()), (8, 2));
        assert_eq!(abandoned[0].place.upstream_id.as_deref(), Some(&b"a"[..]));
        // The swept one's id still opens; what is not here was not used for too long.
        assert!(matches!(table.used(key(6), 1000, 1102, RULES), Seen::Over));
        assert!(matches!(table.used(key(6), 1000, 1102, part), Seen::Unknown));
        assert!(matches!(table.used(key(77), 1090, 1102, RULES), Seen::Unknown), "it is young");
    }

    #[test]
    fn a_full_table_forgets_and_knows_that_it_does() {
        let endpoints = endpoints();
        let table = Table::new(1000);
        for number in 0..2000 {
            let now = 1000 + (number / 100) as u32;
            table.came(key(number), &place(&endpoints[0], "a"), None, None, now, RULES);
        }
        assert_eq!((table.len(), endpoints[0].standing().sessions()), (945, 945));
        let moved = key(5);
        table.moved(moved, &place(&endpoints[1], "b"), None, 1000, RULES);
        for number in 2000..2100 {
            table.moved(key(number), &place(&endpoints[1], "b"), None, 1000, RULES);
        }
        assert_eq!(table.len(), 1000, "the last room is for those that move");
        assert!(matches!(table.used(key(1999), 1019, 1200, RULES), Seen::Over));
        assert!(matches!(table.used(key(1999), 1019, 1110, RULES), Seen::Unknown));
        table.make_room(1110, RULES);
        assert!((700..=950).contains(&table.len()), "{}", table.len());
        let sessions = |at: usize| endpoints[at].standing().sessions();
        assert_eq!(table.len(), sessions(0) + sessions(1));
        assert_eq!(
            table.whereabouts(moved).and_then(|place| place.upstream_id),
            Some(b"b".to_vec())
        );
        table.note_subscription(moved, &"x".repeat(10_000), Subscription::Begins, RULES);
        assert_eq!(table.restore(moved).subscriptions.len(), 1, "there is room again");
        let full = Rules { entries_max: table.len(), ..RULES };
        table.note_subscription(moved, &"y".repeat(10_000), Subscription::Begins, full);
        assert_eq!(table.restore(moved).subscriptions.len(), 1, "the cap holds here too");
        assert!(matches!(table.used(key(0), 1000, 1111, RULES), Seen::Unknown));
    }

    #[test]
    fn an_entry_is_as_small_as_promised() {
        let node = size_of::<(SessionKey, Entry)>();
        // The table has up to 2.7 slots of nine bytes for each entry (load between 3/8 and 3/4).
        assert!(node + 24 <= ENTRY_BYTES_MAX, "{node}");
    }
}
