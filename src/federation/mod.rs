//! Many servers as one: whose a name is, what they offer together, and their messages on their way.
//!
//! Everything that a later request needs is in what the client holds: names tell whose they are by
//! prefix, match or new name alone, or else by the merged table of what is offered. The table
//! follows the catalogue, is immutable, and holds every definition as clients see it.

mod uris;
mod naming;
mod member;
mod param_headers;
mod definition;
mod reports;
mod table;
mod cursor;
mod list;
mod tasks;
mod greeting;
mod pending;
mod body;
mod events;
mod holder;
mod message;
mod onward;
mod splices;
#[cfg(test)]
mod by_tree;
#[cfg(test)]
mod tests;

pub use body::BodyToClient;
pub use cursor::{BadCursor, SealCursors};
pub use events::{Cut, EVENT_ID_BYTES_MAX, EventsToClient, Part, Passing, event_id, own_event_id};
pub use holder::{Held, Holder, NotHeld};
pub use list::{Lacks, ListAsk, ShowsOne};
pub use member::{Member, MemberId};
pub use message::{Answers, Passage, json, to_client};
pub use onward::{Moment, Onward, onward};
pub use reports::{Report, Trouble};
pub use splices::Splices;
pub use tasks::{TaskPage, TaskPlaces};
pub use uris::{own_uri, shown_uri};

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use crate::catalog::{Audience, Catalog, Kind, Offer, State};
use crate::config::{self, Listing, WhenDown};
use crate::mcp::Era;
use crate::upstream::Pool;
use greeting::Words;
use member::Voice;
use naming::{Rules, is_shown, may_be_fitted};
use table::{Place, Table};

/// Reports that are logged when a table is made; all of them are in the admin API.
const LOGGED_MAX: usize = 20;

/// The servers of one route, shown as one.
pub struct Federation {
    route: String,
    members: Vec<Member>,
    rules: Rules,
    when_down: WhenDown,
    list_page_max: usize,
    list_bytes_max: usize,
    merged: ArcSwap<Merged>,
    /// Held by who makes the next table; others use the one there is.
    turn: Mutex<()>,
}

/// What the servers offer together, at one moment.
struct Merged {
    /// In the order of members.
    offers: Vec<Arc<Offer>>,
    voices: Vec<Voice>,
    table: Arc<Table>,
    /// By era, made when somebody asks.
    words: [OnceLock<Words>; 2],
}

/// Whose a name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'n> {
    /// This member's.
    At {
        /// Its index in [`Federation::members`].
        member: usize,
        /// What the server itself calls it.
        own: Cow<'n, str>,
    },
    /// Several servers offer it, and nothing says whose it is: it is shown to nobody.
    Ambiguous,
    /// Nobody's, as far as is known of every server that could have it.
    Unknown,
    /// A server that could have it was never listed.
    NotYet,
}

impl Federation {
    /// Takes the servers of a route; `pools` stand in the order of the settings' servers. A route
    /// with one server has no members.
    pub fn new(route: &config::Route, pools: &[Arc<Pool>], catalog: &Catalog) -> Self {
        let (of_route, when_down, list_page_max) = match &route.target {
            config::Target::Servers(servers) => {
                (&servers.members[..], servers.when_down, servers.list_page_max)
            }
            config::Target::Server(_) => (&[][..], WhenDown::default(), usize::MAX),
        };
        let with_pool = |of: &&config::Member| pools.get(of.server).is_some();
        let of_route: Vec<config::Member> = of_route.iter().filter(with_pool).cloned().collect();
        let member = |of: &config::Member| {
            Some(Member::new(of, pools.get(of.server)?, catalog.of(&of.name)))
        };
        let members: Vec<Member> = of_route.iter().filter_map(member).collect();
        let rules = Rules::new(&of_route);
        let offers: Vec<Arc<Offer>> =
            members.iter().map(|member| Arc::clone(&member.listed.offer())).collect();
        let table = Arc::new(Table::new(&rules, offers.clone(), None));
        let merged = ArcSwap::from_pointee(Merged::new(offers, table));
        Self {
            route: route.path.clone(),
            members,
            rules,
            when_down,
            list_page_max,
            list_bytes_max: route.list_bytes_max,
            merged,
            turn: Mutex::new(()),
        }
    }

    /// The servers, in the order of the configuration.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The index of the member with this id.
    pub fn member_of(&self, id: MemberId) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    /// Whose a shown name, URI or URI template is. Where a server could have it that has not said
    /// so, it is listed again soon.
    pub fn find<'n>(&'n self, kind: Kind, shown: &'n str) -> Found<'n> {
        if !is_shown(kind, shown) {
            return Found::Unknown;
        }
        let merged = self.merged();
        let names = merged.table.names(kind);
        match names.find(shown) {
            Some(Place::At(place)) => {
                let of = &names.shown[place];
                let own = &merged.table.definition(kind, of).name;
                Found::At { member: of.member, own: self.borrowed(kind, shown, of.member, own) }
            }
            Some(Place::Ambiguous) => Found::Ambiguous,
            Some(Place::Hidden) => Found::Unknown,
            None => self.find_unlisted(kind, shown, &merged),
        }
    }

    /// What clients call what a member calls so, whether it was ever listed or not.
    pub fn show<'n>(&'n self, member: usize, kind: Kind, own: &'n str) -> Cow<'n, str> {
        if self.members.get(member).is_none() {
            return Cow::Borrowed(own);
        }
        let plain = self.rules.plain(member, kind, own);
        if self.rules.on_collision(member, kind, own).is_none() {
            return plain;
        }
        match self.merged().table.names(kind).of_own(member, own) {
            Some(shown) if *shown.name != *plain => Cow::Owned(shown.name.to_string()),
            _ => plain,
        }
    }

    /// Whether any of the servers can be spoken to in this era, as far as is known.
    pub fn speaks(&self, era: Era) -> bool {
        self.merged().voices.iter().any(|voice| voice.speaks(era))
    }

    /// Whether this member can be spoken to in this era, as far as is known.
    pub fn member_speaks(&self, member: usize, era: Era) -> bool {
        self.merged().voices.get(member).is_some_and(|voice| voice.speaks(era))
    }

    /// Whether this member can be asked which tasks it has, as far as is known.
    pub fn lists_tasks(&self, member: usize) -> bool {
        let merged = self.merged();
        let can_be_asked = merged.voices.get(member).is_some_and(|voice| voice.speaks(Era::Legacy));
        can_be_asked && merged.offers.get(member).is_some_and(|offer| tasks::lists_tasks(offer))
    }

    /// Whether a list may differ from caller to caller because a server says so.
    pub fn is_private(&self) -> bool {
        self.merged().offers.iter().any(|offer| offer.audience == Audience::Caller)
    }

    /// What is not shown as its server would have it.
    pub fn reports(&self) -> Vec<Report> {
        let merged = self.merged();
        let is_heard = |era| merged.voices.iter().any(|voice| voice.is_known_to_speak(era));
        let of_eras = self.members.iter().zip(&merged.voices).filter_map(|(member, voice)| {
            let era = voice.only()?;
            let other = match era {
                Era::Legacy => Era::Modern,
                Era::Modern => Era::Legacy,
            };
            // Where no server speaks the other era, its clients are told so at once.
            let trouble = is_heard(other).then_some(Trouble::OtherEra(era))?;
            Some(Report { server: member.name.clone(), about: None, trouble })
        });
        merged.table.reports.iter().cloned().chain(of_eras).collect()
    }

    fn find_unlisted<'n>(&'n self, kind: Kind, shown: &'n str, merged: &Merged) -> Found<'n> {
        if let Some(claim) = self.rules.claim(kind, shown) {
            let (member, own) = (claim.member, claim.own);
            let is_other =
                claim.by != naming::By::Rename && self.rules.is_renamed(member, kind, &own);
            if is_other || !self.rules.is_open(member, kind, &own) {
                return Found::Unknown;
            }
            let listed = &self.members[member].listed;
            listed.in_doubt();
            let is_cold = merged.offers[member].state == State::Unknown && self.is_listed(member);
            // What the name was cut from only the list tells.
            return match is_cold && kind != Kind::Resources && may_be_fitted(shown) {
                true => Found::NotYet,
                false => Found::At { member, own },
            };
        }
        let open = |member: &usize| {
            self.rules.is_open(*member, kind, shown) && !self.rules.is_renamed(*member, kind, shown)
        };
        if kind == Kind::Resources {
            match merged.table.by_template(shown) {
                Some(Ok(member)) if open(&member) => {
                    return Found::At { member, own: Cow::Borrowed(shown) };
                }
                Some(Err(_)) => return Found::Ambiguous,
                _ => {}
            }
        }
        let mut plain = self.rules.plain_members(kind);
        match (plain.next(), plain.next()) {
            (None, _) => Found::Unknown,
            // No other one could have it.
            (Some(member), None) => {
                self.members[member].listed.in_doubt();
                match open(&member) {
                    true => Found::At { member, own: Cow::Borrowed(shown) },
                    false => Found::Unknown,
                }
            }
            (Some(_), Some(_)) => self.doubt(kind, merged, open),
        }
    }

    /// A name that any of several may have.
    fn doubt(&self, kind: Kind, merged: &Merged, open: impl Fn(&usize) -> bool) -> Found<'static> {
        let mut is_cold = false;
        for member in self.rules.plain_members(kind).filter(open) {
            self.members[member].listed.in_doubt();
            is_cold |= merged.offers[member].state == State::Unknown && self.is_listed(member);
        }
        if is_cold { Found::NotYet } else { Found::Unknown }
    }

    /// Whether the gateway asks the member what it offers at all.
    fn is_listed(&self, member: usize) -> bool {
        self.members[member].pool.settings().catalog.listing == Listing::On
    }

    /// The own name, without memory of its own where it stands in the shown one or in the rules.
    fn borrowed<'n>(
        &'n self,
        kind: Kind,
        shown: &'n str,
        member: usize,
        own: &Arc<str>,
    ) -> Cow<'n, str> {
        let tail = shown.len().checked_sub(own.len()).and_then(|at| shown.get(at..));
        if let Some(tail) = tail.filter(|tail| **tail == **own) {
            return Cow::Borrowed(tail);
        }
        match self.rules.claim(kind, shown) {
            Some(claim) if claim.member == member && *claim.own == **own => claim.own,
            _ => Cow::Owned(own.to_string()),
        }
    }

    /// What is offered now. Who finds it changed makes the next table; others do not wait for it.
    fn merged(&self) -> Guard<Arc<Merged>> {
        let merged = self.merged.load();
        let now = self.members.iter().zip(&merged.offers);
        if now.into_iter().all(|(member, known)| Arc::ptr_eq(&member.listed.offer(), known)) {
            return merged;
        }
        let Some(_turn) = self.turn.try_lock() else { return merged };
        let before = self.merged.load_full();
        let offers: Vec<Arc<Offer>> =
            self.members.iter().map(|member| Arc::clone(&member.listed.offer())).collect();
        let table = match before.table.shows(&offers) {
            true => Arc::clone(&before.table),
            false => Arc::new(Table::new(&self.rules, offers.clone(), Some(&before.table))),
        };
        self.log(&before.table, &table);
        self.merged.store(Arc::new(Merged::new(offers, table)));
        self.merged.load()
    }

    fn log(&self, before: &Table, table: &Table) {
        let is_new = |report: &&Report| !before.reports.contains(report);
        for report in table.reports.iter().filter(is_new).take(LOGGED_MAX) {
            let (route, trouble) = (&self.route, report.trouble.as_str());
            tracing::warn!(route, trouble, server = report.server, "{report}");
        }
    }
}

impl Merged {
    fn new(offers: Vec<Arc<Offer>>, table: Arc<Table>) -> Self {
        let voices = offers.iter().map(|offer| Voice::of(offer)).collect();
        Self { offers, voices, table, words: Default::default() }
    }
}
