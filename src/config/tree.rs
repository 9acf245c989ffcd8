//! YAML as a tree whose every node knows its place: the only file that meets the YAML parser.
//!
//! The parser is serde-saphyr's. Its serde front end stops at the first fault, so the tree is made
//! from its events, and all that is wrong with the values is found by walking the tree.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use serde_saphyr::granit_parser::{
    self as yaml, Event, Parser, ScalarStyle, ScanError, Span, StrInput,
};

use super::environment;
use super::place::{Place, SourceId};
use super::reading::Reading;

/// The configuration is far flatter; deeper texts are attacks on the stack.
const NESTING_MAX: usize = 32;
/// Aliases count as what they stand for, so that a small file cannot stand for a huge one.
const NODES_MAX: usize = 200_000;

/// A value, its place, and the place of the key that names it (its own for list items).
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) head: Place,
    pub(super) bytes: Range<usize>,
    pub(super) kind: Kind,
    nodes: usize,
}

/// What is written at a node.
#[derive(Debug)]
pub(super) enum Kind {
    /// The key is there, its value is not.
    Nothing,
    /// Text, with the environment filled in.
    Scalar(String),
    /// A sequence.
    List(Vec<Rc<Node>>),
    /// A mapping without duplicate keys.
    Map(Vec<(Key, Rc<Node>)>),
    /// Something whose problem is already noted.
    Faulty,
}

/// A key of a mapping.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) place: Place,
    bytes: Range<usize>,
}

/// Makes the tree of one source; without a tree the problem is noted.
pub(super) fn compose(source: SourceId, reading: &mut Reading<'_>) -> Option<Rc<Node>> {
    let text = reading.texts.text(source);
    let options = yaml::options! {
        flow_nesting_limit: NESTING_MAX,
        block_nesting_limit: NESTING_MAX,
        disallow_directives: true,
        emit_unresolved_aliases: true,
    };
    let events = Parser::new_from_str_with_options(&text, options);
    let mut composer = Composer {
        events,
        reading,
        source,
        text: Arc::clone(&text),
        anchors: BTreeMap::new(),
        nodes: 0,
    };
    let root = match composer.document() {
        Ok(root) => root,
        Err(Stop::Scan(error)) => {
            composer.syntax_problem(&error);
            None
        }
        Err(Stop::Told) => None,
    };
    if let Some(root) = &root {
        hide_secrets(root, reading);
    }
    root
}

/// Hides every scalar below a node from the lines that are shown.
pub(super) fn hide(node: &Node, reading: &mut Reading<'_>) {
    match &node.kind {
        Kind::Nothing => {}
        Kind::Scalar(_) | Kind::Faulty => {
            // The name of a variable or a file is no secret and helps.
            let source = node.place.source();
            let text = reading.texts.text(source);
            let raw = text.get(node.bytes.clone()).unwrap_or_default().trim_matches(['"', '\'']);
            if !environment::is_reference(raw) && !raw.starts_with("file:") {
                reading.texts.mask(source, node.bytes.clone());
            }
        }
        Kind::List(items) => items.iter().for_each(|item| hide(item, reading)),
        Kind::Map(entries) => {
            for (key, value) in entries {
                reading.texts.mask(key.place.source(), key.bytes.clone());
                hide(value, reading);
            }
        }
    }
}

/// Goes by names, so that a secret at a wrong level or in a wrong form stays hidden too.
fn hide_secrets(node: &Node, reading: &mut Reading<'_>) {
    match &node.kind {
        Kind::Map(entries) => {
            for (key, value) in entries {
                match key.text.as_str() {
                    "keys" | "sha256" | "headers" | "client_secret" => hide(value, reading),
                    "api_keys" | "tokens" => hide_key_texts(value, reading),
                    "credentials" => hide_credentials(value, reading),
                    _ => hide_secrets(value, reading),
                }
            }
        }
        Kind::List(items) => items.iter().for_each(|item| hide_secrets(item, reading)),
        Kind::Nothing | Kind::Scalar(_) | Kind::Faulty => {}
    }
}

/// Text where a description of a key is expected may be the key itself.
fn hide_key_texts(node: &Node, reading: &mut Reading<'_>) {
    match &node.kind {
        Kind::List(items) => items.iter().for_each(|item| hide_key_texts(item, reading)),
        Kind::Map(_) => hide_secrets(node, reading),
        Kind::Nothing | Kind::Scalar(_) | Kind::Faulty => hide(node, reading),
    }
}

/// A value or text where a description is expected may be the credential itself.
fn hide_credentials(node: &Node, reading: &mut Reading<'_>) {
    match &node.kind {
        Kind::Map(entries) => {
            for (key, value) in entries {
                match key.text.as_str() {
                    "value" | "client_secret" => hide(value, reading),
                    _ => hide_secrets(value, reading),
                }
            }
        }
        _ => hide_key_texts(node, reading),
    }
}

enum Stop {
    Scan(ScanError),
    Told,
}

impl From<ScanError> for Stop {
    fn from(error: ScanError) -> Self {
        Self::Scan(error)
    }
}

struct Composer<'t, 'r, 'e> {
    events: Parser<'t, StrInput<'t>>,
    reading: &'r mut Reading<'e>,
    source: SourceId,
    text: Arc<str>,
    anchors: BTreeMap<usize, Rc<Node>>,
    nodes: usize,
}

impl<'t> Composer<'t, '_, '_> {
    /// The only document of the stream; an empty text is an empty map, so that what is missing is said.
    fn document(&mut self) -> Result<Option<Rc<Node>>, Stop> {
        let mut root = None;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::DocumentStart(..) if root.is_some() => {
                    let place = self.place(span);
                    self.reading.problem(
                        place,
                        "a second document begins here",
                        "keep one document per file",
                    );
                    return Err(Stop::Told);
                }
                Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(..)
                | Event::DocumentEnd => {}
                event => root = Some(self.node(event, span, None)?),
            }
        }
        Ok(root)
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Stop> {
        loop {
            match self.events.next_event().transpose()? {
                Some((Event::Comment(..), span)) => {
                    let start = span.start;
                    let line = start.line().saturating_sub(1);
                    self.reading.texts.note_comment(self.source, line, start.col());
                }
                next => return Ok(next),
            }
        }
    }

    fn next_inside(&mut self) -> Result<(Event<'t>, Span), Stop> {
        // The parser closes every collection it opens, or reports an error.
        self.next()?.ok_or(Stop::Told)
    }

    fn node(&mut self, event: Event<'t>, span: Span, key: Option<Place>) -> Result<Rc<Node>, Stop> {
        let place = self.place(span);
        let before = self.nodes;
        self.count(1, place)?;
        let (anchor, tag, kind) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, tag, self.scalar(&text, style, place))
            }
            Event::SequenceStart(_, anchor, tag) => (anchor, tag, self.list()?),
            Event::MappingStart(_, anchor, tag) => (anchor, tag, self.map()?),
            Event::Alias(id) => return self.alias(id, place),
            Event::UnresolvedAlias(name) => {
                let hint = format!("name something with `&{name}` before it");
                self.reading.problem(place, "this alias names nothing", hint);
                (0, None, Kind::Faulty)
            }
            _ => (0, None, Kind::Faulty),
        };
        if tag.is_some() {
            self.reading.problem(
                place,
                "a YAML tag has no meaning here",
                "remove the word that begins with `!`",
            );
        }
        let place = if matches!(kind, Kind::Nothing) { key.unwrap_or(place) } else { place };
        let bytes = span.byte_range().unwrap_or_default();
        let node = Rc::new(Node {
            place,
            head: key.unwrap_or(place),
            bytes,
            kind,
            nodes: self.nodes - before,
        });
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, place: Place) -> Kind {
        if style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
            return Kind::Nothing;
        }
        match environment::fill_in(text, self.reading.environment) {
            Ok(text) => Kind::Scalar(text),
            Err(fault) => {
                self.reading.fault(place, fault);
                Kind::Faulty
            }
        }
    }

    fn list(&mut self) -> Result<Kind, Stop> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next_inside()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Kind::List(items));
            }
            items.push(self.node(event, span, None)?);
        }
    }

    fn map(&mut self) -> Result<Kind, Stop> {
        let mut entries = Vec::new();
        let mut seen: BTreeMap<String, Place> = BTreeMap::new();
        loop {
            let (event, span) = self.next_inside()?;
            let place = self.place(span);
            let key = match event {
                Event::MappingEnd => return Ok(Kind::Map(entries)),
                Event::Scalar(text, ..) => Some(text.into_owned()),
                other => {
                    self.node(other, span, None)?;
                    self.reading.problem(place, "a key must be plain text", "write `key: value`");
                    None
                }
            };
            let (event, value_span) = self.next_inside()?;
            let value = self.node(event, value_span, Some(place))?;
            let Some(text) = key else { continue };
            if let Some(first) = seen.insert(text.clone(), place) {
                let first = self.reading.texts.locate(first);
                self.reading.problem(
                    place,
                    format!("the key `{text}` is given twice"),
                    format!("the first is at {first}"),
                );
            } else {
                let bytes = span.byte_range().unwrap_or_default();
                entries.push((Key { text, place, bytes }, value));
            }
        }
    }

    /// An alias shares the node it names; only walking it costs again, and that is counted.
    fn alias(&mut self, id: usize, place: Place) -> Result<Rc<Node>, Stop> {
        let Some(node) = self.anchors.get(&id).map(Rc::clone) else {
            self.reading.problem(
                place,
                "an alias stands inside what it names",
                "write the value out",
            );
            return Err(Stop::Told);
        };
        self.count(node.nodes, place)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes <= NODES_MAX {
            return Ok(());
        }
        let message = format!("the file stands for more than {NODES_MAX} values");
        self.reading.problem(place, message, "use fewer aliases, or split the file by `include`");
        Err(Stop::Told)
    }

    fn place(&self, span: Span) -> Place {
        Place::new(self.source, span.start.line(), span.start.col() + 1)
    }

    /// Without a tree nobody knows which values are secret, so everything that could be one is hidden.
    fn syntax_problem(&mut self, error: &ScanError) {
        let place = Place::new(self.source, error.marker().line(), error.marker().col() + 1);
        let mut start = 0;
        for word in self.text.split_inclusive([' ', '\n', '\t', ',', '[', ']', '{', '}', '"', '\''])
        {
            let letters =
                word.trim_end_matches([' ', '\n', '\t', ',', '[', ']', '{', '}', '"', '\'', ':']);
            if letters.len() >= 16 && !letters.contains("://") {
                self.reading.texts.mask(self.source, start..start + letters.len());
            }
            start += word.len();
        }
        let line =
            self.text.split('\n').nth(error.marker().line().saturating_sub(1)).unwrap_or_default();
        let hint = if line.contains("${") {
            "inside [ ] and { } write \"${NAME}\" with quotes"
        } else if line.contains('\t') {
            "indent with spaces, not with tabs"
        } else {
            "look at the indentation, quotes and brackets here and just above"
        };
        self.reading.problem(place, format!("this is not YAML: {}", error.info()), hint);
    }
}
