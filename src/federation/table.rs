//! The merged tables of names: what every server offers under the names that clients see, and the bytes of each definition.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::definition::{self, Unfit};
use super::naming::{By, Rules, is_clean_uri};
use super::reports::{Report, Trouble};
use super::uris::Template;
use crate::catalog::{Definition, Kind, Offer};
use crate::config::PrefixOn;

/// Definitions of one kind that a route shows; more would be read by nobody.
const DEFINITIONS_MAX: usize = 20_000;
/// What the changed bytes of one table take at the most.
const CHANGED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Reports that are kept.
const REPORTS_MAX: usize = 1000;
/// Templates of one server that are looked through for a URI.
const TEMPLATES_MAX: usize = 1000;

/// What a route shows of what its servers offer.
pub(super) struct Table {
    /// The offers whose definitions it shows, in the order of members.
    pub(super) offers: Vec<Arc<Offer>>,
    pub(super) kinds: [Names; Kind::ALL.len()],
    pub(super) reports: Vec<Report>,
    /// Templates of members whose URIs no prefix tells.
    templates: Vec<(usize, Template)>,
}

/// The names of one kind.
#[derive(Default)]
pub(super) struct Names {
    /// What is shown, in the order of members, and for each in its server's order.
    pub(super) shown: Vec<Shown>,
    /// Where each member's begin and end.
    pub(super) ranges: Vec<Range<usize>>,
    pub(super) bytes_total: usize,
    places: HashMap<Arc<str>, Place>,
    own_places: Vec<HashMap<Arc<str>, usize>>,
}

/// One definition as it is shown.
pub(super) struct Shown {
    pub(super) member: usize,
    /// Its index in the server's own list.
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    pub(super) bytes: Bytes,
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    At(usize),
    /// Several servers offer it, and nothing says whose it is.
    Ambiguous,
    /// It is offered, but not shown.
    Hidden,
}

/// A definition on its way into the table.
struct Candidate<'o> {
    member: usize,
    index: usize,
    definition: &'o Definition,
    name: Arc<str>,
}

struct Building<'b> {
    rules: &'b Rules,
    reports: Vec<Report>,
    changed_bytes: usize,
    before: Option<&'b Table>,
}

impl Table {
    /// Merges offers. What has not changed since the table before takes no work and no new memory.
    pub(super) fn new(rules: &Rules, offers: Vec<Arc<Offer>>, before: Option<&Self>) -> Self {
        let mut building = Building { rules, reports: Vec::new(), changed_bytes: 0, before };
        let kinds = Kind::ALL.map(|kind| building.names(kind, &offers));
        let Building { reports, .. } = building;
        let templates = rules.plain_members(Kind::Templates).flat_map(|member| {
            let all = offers[member].list(Kind::Templates).all().iter().take(TEMPLATES_MAX);
            let is_open = |of: &&Definition| rules.is_open(member, Kind::Templates, &of.name);
            all.filter(is_open)
                .filter_map(move |of| Some((member, Template::new(&of.name)?)))
                .collect::<Vec<_>>()
        });
        let templates = templates.collect();
        Self { offers, kinds, reports, templates }
    }

    pub(super) fn names(&self, kind: Kind) -> &Names {
        &self.kinds[kind as usize]
    }

    pub(super) fn definition(&self, kind: Kind, shown: &Shown) -> &Definition {
        &self.offers[shown.member].list(kind).all()[shown.index]
    }

    /// The members with a template that the URI may come from, of those whose URIs no prefix tells.
    pub(super) fn by_template(&self, uri: &str) -> Option<Result<usize, Place>> {
        let mut found = None;
        for (member, template) in &self.templates {
            if found != Some(*member) && template.matches(uri) {
                if found.is_some() {
                    return Some(Err(Place::Ambiguous));
                }
                found = Some(*member);
            }
        }
        found.map(Ok)
    }

    /// Whether the definitions are those that a table was made of.
    pub(super) fn shows(&self, offers: &[Arc<Offer>]) -> bool {
        let is_same = |(before, now): (&Arc<Offer>, &Arc<Offer>)| {
            Arc::ptr_eq(before, now)
                || Kind::ALL.iter().all(|kind| std::ptr::eq(before.list(*kind), now.list(*kind)))
        };
        self.offers.iter().zip(offers).all(is_same)
    }
}

impl Names {
    pub(super) fn find(&self, name: &str) -> Option<Place> {
        self.places.get(name).copied()
    }

    /// What a member's own name is shown as.
    pub(super) fn of_own(&self, member: usize, own: &str) -> Option<&Shown> {
        let place = self.own_places.get(member)?.get(own)?;
        self.shown.get(*place)
    }
}

impl Building<'_> {
    fn names(&mut self, kind: Kind, offers: &[Arc<Offer>]) -> Names {
        let mut names = Names::default();
        let candidates = self.candidates(kind, offers, &mut names.places);
        let candidates = self.apart(kind, candidates, &mut names.places);
        let mut candidates = candidates.into_iter().peekable();
        for member in 0..offers.len() {
            let start = names.shown.len();
            let mut own_places = HashMap::new();
            while let Some(of) = candidates.next_if(|of| of.member == member) {
                let place = names.shown.len();
                let Some(bytes) = self.bytes(kind, &of) else {
                    names.places.insert(of.name, Place::Hidden);
                    continue;
                };
                names.bytes_total += bytes.len() + 1;
                own_places.insert(Arc::clone(&of.definition.name), place);
                names.places.insert(Arc::clone(&of.name), Place::At(place));
                names.shown.push(Shown { member, index: of.index, name: of.name, bytes });
            }
            names.ranges.push(start..names.shown.len());
            names.own_places.push(own_places);
        }
        names
    }

    /// What is offered and may be shown, under plain names.
    fn candidates<'o>(
        &mut self,
        kind: Kind,
        offers: &'o [Arc<Offer>],
        places: &mut HashMap<Arc<str>, Place>,
    ) -> Vec<Candidate<'o>> {
        let rules = self.rules;
        let mut candidates = Vec::new();
        for (member, offer) in offers.iter().enumerate() {
            for (index, definition) in offer.list(kind).all().iter().enumerate() {
                if candidates.len() >= DEFINITIONS_MAX {
                    self.report_server(member, Trouble::Full);
                    break;
                }
                let own = &definition.name;
                if !rules.is_open(member, kind, own) {
                    continue;
                }
                if matches!(kind, Kind::Resources | Kind::Templates) && !is_clean_uri(own) {
                    self.report(member, kind, own, Trouble::BadUri);
                    continue;
                }
                let name = rules.plain(member, kind, own);
                if !self.is_own(member, kind, own, &name) {
                    continue;
                }
                // The same text is kept once.
                let name = if *name == **own { Arc::clone(own) } else { Arc::from(&*name) };
                if let Err(unfit) = definition::check(kind, &definition.bytes) {
                    self.report(member, kind, own, unfit.into());
                    places.insert(name, Place::Hidden);
                    continue;
                }
                if self.is_fitted(member, kind, own, &name) {
                    self.report(member, kind, own, Trouble::Fitted { shown: name.to_string() });
                }
                candidates.push(Candidate { member, index, definition, name });
            }
        }
        candidates
    }

    /// Whether what the name alone tells is that it is this one's.
    fn is_own(&mut self, member: usize, kind: Kind, own: &str, name: &str) -> bool {
        let rules = self.rules;
        let of = rules.member(member);
        let claim = rules.claim(kind, name);
        let is_own = match &claim {
            None => of.claims.is_none() || rules.is_renamed(member, kind, own),
            Some(claim) => {
                claim.member == member
                    && (*claim.own == *own || self.is_fitted(member, kind, own, name))
            }
        };
        if is_own {
            return true;
        }
        // With `match` somebody has decided that others do not show these names.
        if let Some(claim) = claim.filter(|claim| claim.by != By::Match && of.claims.is_none()) {
            let by = rules.member(claim.member).name.clone();
            self.report(member, kind, own, Trouble::Claimed { by });
        }
        false
    }

    fn is_fitted(&self, member: usize, kind: Kind, own: &str, name: &str) -> bool {
        let of = self.rules.member(member);
        let prefix = match of.prefix_on {
            PrefixOn::Always => of.prefix.as_str(),
            PrefixOn::Collision => "",
        };
        matches!(kind, Kind::Tools | Kind::Prompts)
            && !self.rules.is_renamed(member, kind, own)
            && name.strip_prefix(prefix) != Some(own)
    }

    /// Takes those apart that would be shown by one name: by prefix where that is wanted, else
    /// nobody shows it.
    fn apart<'o>(
        &mut self,
        kind: Kind,
        mut candidates: Vec<Candidate<'o>>,
        places: &mut HashMap<Arc<str>, Place>,
    ) -> Vec<Candidate<'o>> {
        let collided = collisions(&candidates);
        for of in &mut candidates {
            let own = &of.definition.name;
            if !collided.contains(&of.name) {
                continue;
            }
            let Some(prefixed) = self.rules.on_collision(of.member, kind, own) else { continue };
            // Whoever asks for the plain name may have meant any of them.
            places.insert(Arc::clone(&of.name), Place::Ambiguous);
            self.report(of.member, kind, own, Trouble::Prefixed { shown: prefixed.clone() });
            of.name = prefixed.into();
        }
        let collided = collisions(&candidates);
        candidates.retain(|of| {
            let own = &of.definition.name;
            if collided.contains(&of.name) {
                places.insert(Arc::clone(&of.name), Place::Ambiguous);
                let shown = of.name.to_string();
                self.report(of.member, kind, own, Trouble::Collision { shown });
                return false;
            }
            let claim = self.rules.claim(kind, &of.name);
            let other = claim.filter(|claim| claim.member != of.member);
            if let Some(claim) = &other {
                let by = self.rules.member(claim.member).name.clone();
                self.report(of.member, kind, own, Trouble::Claimed { by });
            }
            other.is_none()
        });
        candidates
    }

    fn bytes(&mut self, kind: Kind, of: &Candidate<'_>) -> Option<Bytes> {
        let own = &of.definition.name;
        if let Some(bytes) = self.bytes_before(kind, of) {
            return Some(bytes);
        }
        let instead = self.rules.instead(of.member, kind, own);
        let uri_prefix = &self.rules.member(of.member).uri_prefix;
        match definition::shown(kind, of.definition, &of.name, uri_prefix, instead) {
            Ok(bytes) => {
                if bytes.as_ptr() != of.definition.bytes.as_ptr() {
                    self.changed_bytes += bytes.len();
                }
                if self.changed_bytes <= CHANGED_BYTES_MAX {
                    return Some(bytes);
                }
                self.report(of.member, kind, own, Trouble::Full);
                None
            }
            Err(unfit) => {
                self.report(of.member, kind, own, unfit.into());
                None
            }
        }
    }

    /// The bytes that were made before, if nothing has changed since.
    fn bytes_before(&mut self, kind: Kind, of: &Candidate<'_>) -> Option<Bytes> {
        let before = self.before?;
        let shown = before.names(kind).of_own(of.member, &of.definition.name)?;
        let definition = before.definition(kind, shown);
        let is_same = shown.name == of.name && definition.digest == of.definition.digest;
        let is_changed = shown.bytes.as_ptr() != definition.bytes.as_ptr();
        // What was not changed then is not to keep the memory of an offer that is over.
        if !is_same || !is_changed {
            return None;
        }
        self.changed_bytes += shown.bytes.len();
        (self.changed_bytes <= CHANGED_BYTES_MAX).then(|| shown.bytes.clone())
    }

    fn report(&mut self, member: usize, kind: Kind, own: &str, trouble: Trouble) {
        // A name may be as long as a URI, and as odd as a server likes.
        let own = own.chars().take(200).collect();
        self.push(member, Some((kind, own)), trouble);
    }

    fn report_server(&mut self, member: usize, trouble: Trouble) {
        self.push(member, None, trouble);
    }

    fn push(&mut self, member: usize, about: Option<(Kind, String)>, trouble: Trouble) {
        let server = self.rules.member(member).name.clone();
        match self.reports.len() {
            ..REPORTS_MAX => self.reports.push(Report { server, about, trouble }),
            REPORTS_MAX => {
                self.reports.push(Report { server, about: None, trouble: Trouble::More })
            }
            _ => {}
        }
    }
}

/// The names that more than one candidate has.
fn collisions(candidates: &[Candidate<'_>]) -> HashSet<Arc<str>> {
    let mut seen = HashSet::with_capacity(candidates.len());
    let again = candidates.iter().filter(|of| !seen.insert(&of.name));
    again.map(|of| Arc::clone(&of.name)).collect()
}

impl From<Unfit> for Trouble {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::TooLarge => Self::TooLarge,
            Unfit::TooDeep => Self::TooDeep,
            Unfit::BadHeader => Self::BadHeader,
            Unfit::Ambiguous => Self::Ambiguous,
        }
    }
}
