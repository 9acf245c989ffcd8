//! Keeps the table in step with the other replicas: learns what they did, and lets them know.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::stream;

use super::account::{Account, Alive, Spot};
use super::entry::{Entry, LIVE, MOVED, MOVED_SILENT, Named, Place, level_of};
use super::ledger::{Change, FEED_BATCH, Idle, Ledger, News};
use super::table::{Rules, Table, View};
use super::{SessionKey, seconds};
use crate::mcp::Revision;
use crate::shared::{Away, Topic};

/// What is written at once.
const CONCURRENT: usize = 32;
/// What is taken to be written in one go.
const BATCH: usize = 256;
/// How many sessions the others are told of in one go that are used here.
const USES_MAX: usize = 64 * 1024;
/// How often it is looked which sessions are used: an eighth of the time they may idle, within these.
const USES_EVERY_MIN: Duration = Duration::from_millis(250);
const USES_EVERY_MAX: Duration = Duration::from_secs(15);
/// Whoever could not reach the store waits so long.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// A session that nobody used for too long here.
#[derive(Debug)]
pub struct IdleHere {
    /// Which one.
    pub named: Named,
    /// Where it lives, as far as is known here.
    pub place: Place,
    /// The revision it speaks.
    pub revision: Option<Revision>,
}

impl Table {
    /// What replicas write down, if there are others and they can be asked.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref().filter(|ledger| ledger.store.is_up())
    }

    /// What the other replicas know of a session that is not known here, or not for sure: one
    /// question, and none while the store is away. `locate` finds the place, as far as this replica
    /// knows it. What the answer was; what is known here is then as good as it gets.
    pub async fn learn(
        &self,
        named: Named,
        rules: Rules,
        locate: impl Fn(&Spot) -> Option<Place>,
    ) -> Option<Account> {
        let ledger = self.ledger()?;
        let (epoch, news) =
            (self.epoch.load(Ordering::Relaxed), ledger.news.load(Ordering::Relaxed));
        let used_s = if rules.view == View::Shared { rules.idle_s + 1 } else { 0 };
        let account = ledger.look(named, u64::from(used_s) * 1000).await.ok()?;
        let now = seconds(SystemTime::now());
        match &account {
            Some(Account::Ended) => self.is_ended(named.key),
            Some(Account::Alive(alive)) => {
                let place = alive.spot.as_ref().map(locate);
                self.follow(named, alive, place.flatten(), now, rules);
            }
            // The others know nothing of a session that moved here: the store was away then.
            None => self.note_anew(named.key),
        }
        if let Some(entry) = self.entries.pin().get(&named.key) {
            if ledger.news.load(Ordering::Relaxed) == news {
                entry.epoch.store(epoch, Ordering::Relaxed);
            }
            entry.used.fetch_max(now, Ordering::Relaxed);
            entry.told.store(now, Ordering::Relaxed);
        }
        account
    }

    /// A session was seen that is said to be over, and is not here.
    pub fn over_elsewhere(&self, named: Named, place: &Place, now: u32, rules: Rules) {
        let entry = Entry::new(place, None, named.leg, now, super::entry::ENDED);
        entry.epoch.store(self.epoch.load(Ordering::Relaxed), Ordering::Relaxed);
        self.insert(named, entry, now, rules);
        self.is_ended(named.key);
    }

    /// A session with several servers is used, which has legs here at most.
    pub fn came_with_legs(&self, key: SessionKey, place: &Place, now: u32, rules: Rules) {
        self.came(key, place, None, None, now, rules);
        if let Some(entry) = self.entries.pin().get(&key) {
            entry.uncount();
        }
    }

    /// A session moved here, and the store does not know of it.
    pub fn moved_alone(&self, named: Named) {
        if let Some(ledger) = &self.ledger {
            ledger.note(named, Change::Anew);
        }
    }

    /// Another replica says where a session lives.
    pub fn follow(
        &self,
        named: Named,
        alive: &Alive,
        place: Option<Place>,
        now: u32,
        rules: Rules,
    ) {
        let Some(place) = place else { return };
        let is_there = self.entries.pin().get(&named.key).is_some_and(|entry| {
            let known = entry.place();
            entry.stage.load(Ordering::Relaxed) != LIVE
                && known.endpoint.id() == place.endpoint.id()
                && known.upstream_id == place.upstream_id
        });
        if is_there || self.is_over(named.key) {
            return;
        }
        self.moved(named, &place, alive.revision, now, rules);
        let pinned = self.entries.pin();
        let changed = pinned.get(&named.key).map(|entry| {
            let mut entry = entry.with(entry.level, entry.beside.clone());
            entry.set_restore(&alive.restore);
            entry
        });
        if let Some(changed) = changed {
            self.replace(named.key, changed);
        }
    }

    /// Keeps in step with the other replicas, for ever.
    pub async fn share(&self, rules: impl Fn() -> Rules) {
        let Some(ledger) = &self.ledger else { return std::future::pending().await };
        tokio::join!(
            self.hear(ledger),
            self.write_notes(ledger, &rules),
            self.tell_uses(ledger, &rules),
        );
    }

    /// Hears what became of sessions at other replicas.
    async fn hear(&self, ledger: &Ledger) {
        let mut heard = ledger.store.heard();
        let mut known = (0, 0);
        loop {
            let (generation, version) = heard.borrow_and_update().version(Topic::Sessions);
            if generation != known.0 || version < known.1 {
                // Nobody knows what was said meanwhile, and whether the store still knows it.
                self.doubt_all();
                self.write_anew();
                known = (generation, version);
            }
            while known.1 < version {
                match self.hear_batch(ledger, known.1).await {
                    Ok(upto) => known.1 = upto,
                    Err(Away) => {
                        self.doubt_all();
                        known.1 = version;
                    }
                }
            }
            if heard.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Hears a batch of what was told after that version; up to which version it is heard then.
    async fn hear_batch(&self, ledger: &Ledger, after: i64) -> Result<i64, Away> {
        let (version, told) = ledger.hear(after).await?;
        let behind = version.checked_sub(after).filter(|behind| *behind >= 0).ok_or(Away)?;
        let expected = usize::try_from(behind.min(FEED_BATCH)).unwrap_or_default();
        if told.len() != expected {
            // It is older than what the feed keeps.
            self.doubt_all();
            return Ok(version);
        }
        ledger.news.fetch_add(1, Ordering::Relaxed);
        for (key, news) in told.into_iter().flatten() {
            match news {
                News::Ended => self.is_ended(key),
                News::Changed => self.doubt(key),
            }
        }
        Ok(after + behind.min(FEED_BATCH))
    }

    fn doubt(&self, key: SessionKey) {
        if let Some(entry) = self.entries.pin().get(&key) {
            let other = self.epoch.load(Ordering::Relaxed).wrapping_sub(1);
            entry.epoch.store(other, Ordering::Relaxed);
        }
    }

    fn doubt_all(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// What the store may not know is noted.
    fn write_anew(&self) {
        for key in self.entries.pin().keys() {
            self.note_anew(*key);
        }
    }

    fn note_anew(&self, key: SessionKey) {
        let Some(ledger) = &self.ledger else { return };
        if let Some((named, _)) = self.account(key) {
            ledger.note(named, Change::Anew);
        }
    }

    /// What others should know of a session that is here.
    fn account(&self, key: SessionKey) -> Option<(Named, Account)> {
        let pinned = self.entries.pin();
        let entry = pinned.get(&key)?;
        let named = Named { key, leg: entry.leg };
        let restore = entry.restore();
        let spot = match entry.stage.load(Ordering::Relaxed) {
            LIVE if restore.is_empty() => return None,
            LIVE => None,
            MOVED | MOVED_SILENT => Some(Spot::from(&entry.place())),
            _ => return Some((named, Account::Ended)),
        };
        let revision = Revision::from_byte(entry.revision).filter(|_| spot.is_some());
        Some((named, Account::Alive(Alive { spot, revision, restore })))
    }

    /// Writes what was noted, in its order for each session.
    async fn write_notes(&self, ledger: &Ledger, rules: &impl Fn() -> Rules) {
        loop {
            let notes = match ledger.store.is_up() {
                true => ledger.take_notes(BATCH),
                false => Vec::new(),
            };
            if notes.is_empty() {
                // It is looked now and then too, because the store may be back.
                tokio::time::timeout(AGAIN_AFTER, ledger.noted.notified()).await.ok();
                continue;
            }
            let lifetime_s = rules().lifetime_s;
            let mut of_each: Vec<(SessionKey, Vec<(Named, Change)>)> = Vec::new();
            for (named, change) in notes {
                match of_each.iter_mut().find(|(key, _)| *key == named.key) {
                    Some((_, changes)) => changes.push((named, change)),
                    None => of_each.push((named.key, vec![(named, change)])),
                }
            }
            let news: Vec<_> = stream::iter(of_each)
                .map(|(_, changes)| self.write_changes(ledger, changes, lifetime_s))
                .buffer_unordered(CONCURRENT)
                .concat()
                .await;
            if !news.is_empty() && ledger.tell(&news).await.is_err() {
                // The others look when the session fails them.
                ledger.tell(&news).await.ok();
            }
        }
    }

    /// Writes the changes of one session; what the others must hear of it.
    async fn write_changes(
        &self,
        ledger: &Ledger,
        changes: Vec<(Named, Change)>,
        lifetime_s: u32,
    ) -> Vec<(Named, News)> {
        let mut news = Vec::new();
        for (named, change) in changes {
            let mut written = self.write_change(ledger, named, &change, lifetime_s).await;
            if written.is_err() && ledger.store.is_up() {
                written = self.write_change(ledger, named, &change, lifetime_s).await;
            }
            match written {
                Ok(what) => news.extend(what.map(|what| (named, what))),
                Err(Away) => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                    ledger.note(named, change);
                }
            }
        }
        news
    }

    async fn write_change(
        &self,
        ledger: &Ledger,
        named: Named,
        change: &Change,
        lifetime_s: u32,
    ) -> Result<Option<News>, Away> {
        if let Change::Ended = change {
            ledger.end(named, lifetime_s).await?;
            return Ok(Some(News::Ended));
        }
        if let Change::Anew = change {
            let Some((_, account)) = self.account(named.key) else { return Ok(None) };
            let is_over = account == Account::Ended;
            let anew = |known: Option<Account>| match known {
                None => Some(account.clone()),
                Some(Account::Alive(_)) if is_over => Some(Account::Ended),
                // The first word counts: the others use the session there.
                Some(_) => None,
            };
            let is_news = ledger.amend(named, lifetime_s, anew).await?;
            let what = if is_over { News::Ended } else { News::Changed };
            return Ok(is_news.then_some(what));
        }
        let amended = |known: Option<Account>| {
            let mut alive = match known {
                Some(Account::Ended) => return None,
                Some(Account::Alive(alive)) => alive,
                None => Alive::default(),
            };
            match change {
                Change::Level(level) => alive.restore.level = level_of(*level),
                Change::Subscription(uri, subscription) => {
                    alive.restore.subscribe(uri, *subscription);
                }
                Change::Opening(opening) => alive.restore.opening = Some(opening.clone()),
                Change::Ended | Change::Anew => return None,
            }
            // What is too long is not written, and not tried again.
            let account = Account::Alive(alive);
            account.write().is_some().then_some(account)
        };
        // It is asked for where the session moves, so nobody has to hear of it before.
        ledger.amend(named, lifetime_s, amended).await.map(|_| None)
    }

    /// Lets the others know now and then which sessions are used here.
    async fn tell_uses(&self, ledger: &Ledger, rules: &impl Fn() -> Rules) {
        loop {
            let now_rules = rules();
            let idle = Duration::from_secs(now_rules.idle_s.into());
            tokio::time::sleep((idle / 8).clamp(USES_EVERY_MIN, USES_EVERY_MAX)).await;
            if now_rules.view != View::Shared || !ledger.store.is_up() {
                continue;
            }
            let now = seconds(SystemTime::now());
            let uses = self.untold_uses(now, now_rules);
            stream::iter(uses)
                .for_each_concurrent(CONCURRENT, async |(named, used): (Named, u32)| {
                    let left_s = (now_rules.idle_s + 1).saturating_sub(now.saturating_sub(used));
                    let told = ledger.used(named, u64::from(left_s.max(1)) * 1000).await;
                    let pinned = self.entries.pin();
                    if let (Ok(()), Some(entry)) = (told, pinned.get(&named.key)) {
                        entry.told.store(now, Ordering::Relaxed);
                    }
                })
                .await;
        }
    }

    /// The sessions that were used since the others were told, and when.
    fn untold_uses(&self, now: u32, rules: Rules) -> Vec<(Named, u32)> {
        let pinned = self.entries.pin();
        let untold = pinned.iter().filter_map(|(key, entry)| {
            let used = entry.used.load(Ordering::Relaxed);
            let told = entry.told.load(Ordering::Relaxed);
            let is_due = used >= told && now.saturating_sub(told) > rules.idle_s / 4;
            (is_due && !entry.is_over() && !entry.is_idle(now, rules))
                .then_some((Named { key: *key, leg: entry.leg }, used))
        });
        untold.take(USES_MAX).collect()
    }

    /// Sessions that nobody used for too long here.
    pub fn idle_here(&self, now: u32, rules: Rules, batch: usize) -> Vec<IdleHere> {
        let pinned = self.entries.pin();
        let idle = pinned.iter().filter(|(_, entry)| entry.is_idle(now, rules));
        idle.take(batch)
            .map(|(key, entry)| IdleHere {
                named: Named { key: *key, leg: entry.leg },
                place: entry.place(),
                revision: Revision::from_byte(entry.revision),
            })
            .collect()
    }

    /// Asks the other replicas about a session that nobody used for too long here, and forgets it
    /// unless it must be asked about again. Whether it is to be ended, and where it was said to live.
    pub async fn reap_idle(&self, idle: &IdleHere, now: u32, rules: Rules) -> Option<Option<Spot>> {
        let named = idle.named;
        let is_ours = if self.is_over(named.key) {
            None
        } else {
            match self.ledger()?.reap(named, rules.idle_s, rules.lifetime_s).await.ok()? {
                Idle::Perhaps => return None,
                // What this replica has said of it itself is over a little later than its own patience.
                Idle::UsedElsewhere if !self.is_long_idle(named.key, now, rules) => return None,
                // Others may not know of this leg, and it must not outlive its session.
                Idle::UsedElsewhere if named.leg != [0; 4] => {
                    self.keep(named.key, now);
                    return None;
                }
                Idle::UsedElsewhere | Idle::EndedElsewhere => None,
                Idle::Ours(spot) => Some(spot),
            }
        };
        let pinned = self.entries.pin();
        if let Ok(Some((_, entry))) =
            pinned.remove_if(&named.key, |_, entry| entry.is_idle(now, rules))
        {
            self.left(entry);
        }
        is_ours
    }

    /// Whether nobody used it here for so long that it must be others who do.
    fn is_long_idle(&self, key: SessionKey, now: u32, rules: Rules) -> bool {
        let idle_s = rules.idle_s.saturating_add(rules.idle_s / 2).saturating_add(2);
        let long = Rules { idle_s, ..rules };
        self.entries.pin().get(&key).is_none_or(|entry| entry.is_idle(now, long))
    }

    /// Keeps a leg for as long again, which is no use of it that others would have to know.
    fn keep(&self, key: SessionKey, now: u32) {
        if let Some(entry) = self.entries.pin().get(&key) {
            entry.used.fetch_max(now, Ordering::Relaxed);
            entry.told.fetch_max(now + 1, Ordering::Relaxed);
        }
    }

    /// A session was ended that was used nowhere: the others forget it too.
    pub async fn tell_reaped(&self, named: Named) {
        let news = [(named, News::Ended), (named.session().into(), News::Ended)];
        if let Some(ledger) = self.ledger() {
            ledger.tell(&news).await.ok();
        }
    }
}
