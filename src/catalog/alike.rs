//! Tools whose names could be taken for each other: the same name at two servers, letters that look
//! the same, characters that cannot be seen.
//!
//! Names are compared by their skeleton (UTS 39) in lower case. What is found is told, and blocks
//! nothing.

use std::collections::HashMap;
use std::sync::Arc;

use unicode_security::skeleton;

use super::offer::{Definitions, Kind, Offer};

/// Tools of one server that are told.
const TOLD_MAX: usize = 1000;
/// Tools that one is like, as far as they are named.
const OTHERS_MAX: usize = 8;

/// A tool whose name is like that of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alike {
    /// The tool's own name.
    pub tool: Arc<str>,
    /// How alike they are.
    pub how: Likeness,
    /// The servers and names of others, the first few.
    pub others: Vec<(Arc<str>, Arc<str>)>,
    /// How many others there are beside those.
    pub more: usize,
}

/// How alike names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// They are the same, at different servers.
    Same,
    /// They are different and look the same.
    Lookalike,
}

/// By server.
pub(super) type Alikes = HashMap<Arc<str>, Arc<[Alike]>>;

/// Looks for names that are alike, again when what servers offer has changed.
#[derive(Default)]
pub(super) struct Looking {
    seen: HashMap<Arc<str>, Seen>,
}

/// A server and the name of one of its tools.
type Named<'n> = (&'n Arc<str>, &'n Arc<str>);

/// A server's tools as they were looked at, and the skeletons of their names.
struct Seen {
    tools: Arc<Definitions>,
    skeletons: Vec<Box<str>>,
}

impl Likeness {
    /// Every likeness.
    pub const ALL: [Self; 2] = [Self::Same, Self::Lookalike];

    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same_name",
            Self::Lookalike => "lookalike",
        }
    }
}

impl Looking {
    /// Which names are alike now; `None` if nothing has changed.
    pub(super) fn look<'o>(
        &mut self,
        offers: impl Iterator<Item = (&'o str, Arc<Offer>)>,
    ) -> Option<Alikes> {
        let mut before = std::mem::take(&mut self.seen);
        let mut is_other = false;
        for (server, offer) in offers {
            let tools = &offer.lists[Kind::Tools as usize];
            let known = before.remove_entry(server);
            let known = known.filter(|(_, seen)| Arc::ptr_eq(&seen.tools, tools));
            is_other |= known.is_none();
            let (server, seen) = known.unwrap_or_else(|| (server.into(), Seen::of(tools)));
            self.seen.insert(server, seen);
        }
        // What is left is gone.
        (is_other || !before.is_empty()).then(|| self.find())
    }

    fn find(&self) -> Alikes {
        let mut groups: HashMap<&str, Vec<Named<'_>>> = HashMap::new();
        for (server, seen) in &self.seen {
            for (definition, skeleton) in seen.tools.all().iter().zip(&seen.skeletons) {
                groups.entry(skeleton).or_default().push((server, &definition.name));
            }
        }
        let mut found: HashMap<Arc<str>, Vec<Alike>> = HashMap::new();
        for mut group in groups.into_values().filter(|group| group.len() > 1) {
            group.sort_unstable();
            let how = match group.iter().all(|(_, name)| name == &group[0].1) {
                true => Likeness::Same,
                false => Likeness::Lookalike,
            };
            for own in &group {
                let others = group.iter().filter(|other| *other != own).take(OTHERS_MAX);
                let others: Vec<_> =
                    others.map(|(server, tool)| (Arc::clone(server), Arc::clone(tool))).collect();
                let more = group.len() - 1 - others.len();
                let alike = Alike { tool: Arc::clone(own.1), how, others, more };
                found.entry(Arc::clone(own.0)).or_default().push(alike);
            }
        }
        let told = found.into_iter().map(|(server, mut alikes)| {
            alikes.sort_by(|one, other| {
                (one.how == Likeness::Same, &one.tool)
                    .cmp(&(other.how == Likeness::Same, &other.tool))
            });
            alikes.truncate(TOLD_MAX);
            (server, alikes.into())
        });
        told.collect()
    }
}

impl Seen {
    fn of(tools: &Arc<Definitions>) -> Self {
        let skeletons = tools.all().iter().map(|definition| folded(&definition.name)).collect();
        Self { tools: Arc::clone(tools), skeletons }
    }
}

/// The skeleton of a name, whatever the case of its letters.
fn folded(name: &str) -> Box<str> {
    let lower: String = skeleton(name).flat_map(char::to_lowercase).collect();
    // In lower case a letter may have another skeleton.
    skeleton(&lower).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::{Likeness, Looking, folded};
    use crate::catalog::Offer;
    use crate::catalog::offer::{Definitions, Kind};
    use crate::catalog::page;
    use std::sync::Arc;

    fn offer(names: &[&str]) -> Arc<Offer> {
        let mut offer = Offer::default();
        let tools = names.iter().map(|name| page::definition((*name).into(), "{}")).collect();
        offer.lists[Kind::Tools as usize] = Arc::new(Definitions::new(tools).0);
        Arc::new(offer)
    }

    #[test]
    fn what_looks_the_same_has_one_skeleton() {
        for (one, other, expected) in [
            ("read_file", "rea\u{200b}d_file", true),
            ("read_file", "re\u{0430}d_file", true),
            ("read_file", "Read_File", true),
            ("pay", "р\u{0430}у", true),
            ("list1", "listl", true),
            ("list1", "listI", true),
            ("rn", "m", true),
            ("read_file", "read_files", false),
            ("a", "b", false),
        ] {
            assert_eq!(folded(one) == folded(other), expected, "{one} {other}");
        }
    }

    #[test]
    fn names_that_are_alike_are_told_once() {
        let mut looking = Looking::default();
        let (files, mail) = (offer(&["read", "open"]), offer(&["read", "оpen", "own"]));
        let offers = || [("files", Arc::clone(&files)), ("mail", Arc::clone(&mail))].into_iter();
        let found = looking.look(offers()).expect("the first look");
        let of = |server: &str| {
            let alikes = found[server].iter();
            alikes.map(|alike| (&*alike.tool, alike.how, alike.others.clone())).collect::<Vec<_>>()
        };
        let named = |server: &str, tool: &str| vec![(Arc::from(server), Arc::from(tool))];
        assert_eq!(
            of("files"),
            [
                ("open", Likeness::Lookalike, named("mail", "оpen")),
                ("read", Likeness::Same, named("mail", "read")),
            ]
        );
        assert_eq!(of("mail").len(), 2);
        assert!(looking.look(offers()).is_none(), "nothing has changed");
        let alone = looking.look(offers().take(1)).expect("one is gone");
        assert!(alone.is_empty());
        let many: Vec<String> = (0..20).map(|server| format!("s{server}")).collect();
        let same = offer(&["a"]);
        let all = many.iter().map(|server| (server.as_str(), Arc::clone(&same)));
        let found = looking.look(all).expect("others");
        assert_eq!((found["s0"][0].others.len(), found["s0"][0].more), (8, 11));
    }
}
