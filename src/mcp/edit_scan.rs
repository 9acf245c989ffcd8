//! Finds what in a message of a server must read differently for its client, in whatever parts the
//! message comes: nothing of it is kept, and everything else stays byte for byte.

mod values;

use std::ops::Range;

use self::values::from;
use super::edits::{Edit, Rewrite, Sought, Subject, Unfit};
use super::places::{ASKER_KEY, Level, Then};
use super::skim::Cut;

/// How deep the deepest place is that something may be found in, in a batch.
const OPEN_MAX: usize = 14;

/// Finds the edits of one message, or of a batch of them.
#[derive(Clone, Debug)]
pub struct EditScan {
    sought: Sought,
    place: Place,
    /// The containers that are looked into; the innermost is the last of the first `open`.
    frames: [Frame; OPEN_MAX],
    open: usize,
    /// The containers that are open within one that is passed by.
    depth: u64,
    /// What becomes of the value that is awaited or read, and where it begins.
    then: Option<Then>,
    start: usize,
    /// Where a number or word that may go on ends so far.
    end: usize,
    /// What is here of a string or literal that is read, if it did not come as a whole.
    token: Vec<u8>,
    role: Option<Role>,
    /// An id that came before it was known what it is the id of.
    id: Option<Range<usize>>,
    id_literal: Vec<u8>,
    params: Level,
    edits: Vec<Edit>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// What stands before the message.
    #[default]
    Before,
    /// What follows an opening bracket: the first key or element, or the end.
    First,
    Key,
    Colon,
    Value,
    /// What follows a value.
    Comma,
    /// A key or a value that is read, which was cut here.
    ReadKey(Cut),
    Read(Cut),
    /// A number, `true`, `false` or `null`.
    Literal,
    /// A container that nobody looks into.
    Skip,
    /// A string that nobody looks into.
    SkipText(Cut),
    /// What stands after the message.
    After,
}

/// A container that is looked into.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    level: Level,
    form: Form,
    /// The keys that were met, by their bits.
    seen: u16,
    is_empty: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    #[default]
    Object,
    Array,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Asks,
    Answers,
}

impl EditScan {
    /// Looks for these.
    pub fn new(sought: Sought) -> Self {
        Self {
            sought,
            place: Place::Before,
            frames: [Frame::default(); OPEN_MAX],
            open: 0,
            depth: 0,
            then: None,
            start: 0,
            end: 0,
            token: Vec::new(),
            role: None,
            id: None,
            id_literal: Vec::new(),
            params: Level::Params,
            edits: Vec::new(),
        }
    }

    /// Reads the next part, whose first byte stands at `at`. After a fault nothing can be read.
    pub fn feed(&mut self, part: &[u8], at: usize, rewrite: &dyn Rewrite) -> Result<(), Unfit> {
        let mut rest = part;
        while !rest.is_empty() {
            let here = at + (part.len() - rest.len());
            let read = match self.place {
                Place::Skip => self.skip(rest, here, rewrite)?,
                Place::SkipText(cut) => self.skip_text(rest, from(cut), here, rewrite)?,
                Place::ReadKey(cut) => self.key(rest, from(cut))?,
                Place::Read(cut) => self.text(rest, from(cut), here, rewrite)?,
                Place::Literal => self.literal(rest, here, rewrite)?,
                _ => self.step(rest, here, rewrite)?,
            };
            // Keys of a message say what the id is that came before them.
            self.settle_id(rewrite)?;
            rest = &rest[read..];
        }
        Ok(())
    }

    /// Whether the message is over, or there was none.
    pub fn is_over(&self) -> bool {
        matches!(self.place, Place::Before | Place::After)
    }

    /// Up to where there will be no more edits, if all up to `at` was read.
    pub fn settled(&self, at: usize) -> usize {
        let is_read = matches!(self.place, Place::Read(_) | Place::Literal);
        let may_change = match self.then {
            Some(Then::Token(_) | Then::Id) => is_read,
            Some(Then::Instead(_) | Then::Object(Level::AskMeta)) => {
                is_read || matches!(self.place, Place::Skip | Place::SkipText(_))
            }
            _ => false,
        };
        let value = if may_change { self.start } else { at };
        self.id.as_ref().map_or(at, |id| id.start).min(value).min(at)
    }

    /// The edits that were found, in their order; they are forgotten.
    pub fn take_edits(&mut self) -> Vec<Edit> {
        let mut edits = std::mem::take(&mut self.edits);
        edits.sort_unstable_by_key(|edit| edit.place.start);
        edits
    }

    /// Reads a message from its start, whatever was read before.
    pub fn restart(&mut self) {
        let (mut token, mut id_literal) =
            (std::mem::take(&mut self.token), std::mem::take(&mut self.id_literal));
        token.clear();
        id_literal.clear();
        *self = Self { token, id_literal, ..Self::new(self.sought) };
    }

    /// One byte between values.
    fn step(&mut self, rest: &[u8], here: usize, rewrite: &dyn Rewrite) -> Result<usize, Unfit> {
        let form = self.top().form;
        match (self.place, rest[0]) {
            (_, b' ' | b'\n' | b'\r' | b'\t') => {}
            (Place::First | Place::Key, b'"') if form == Form::Object => {
                self.token.clear();
                return self.key(rest, 1);
            }
            (Place::Colon, b':') => self.place = Place::Value,
            (Place::First | Place::Comma, b'}') if form == Form::Object => {
                self.close_object(here, rewrite)?;
            }
            (Place::First | Place::Comma, b']') if form == Form::Array => self.close(),
            (Place::Comma, b',') => match form {
                Form::Object => self.place = Place::Key,
                Form::Array => self.await_element(),
            },
            (Place::First, _) if form == Form::Array => {
                self.await_element();
                return self.value(rest, here, rewrite);
            }
            (Place::Value, _) => return self.value(rest, here, rewrite),
            (Place::Before, b'{') => self.enter(Level::Message, Form::Object),
            // Revision 2025-03-26 had batches.
            (Place::Before, b'[') => self.enter(Level::Message, Form::Array),
            // A byte order mark, which some readers pass.
            (Place::Before, 0xef | 0xbb | 0xbf) => {}
            _ => return Err(Unfit::Broken),
        }
        Ok(1)
    }

    fn top(&mut self) -> &mut Frame {
        // With nothing open the first is not used, and says nothing.
        &mut self.frames[self.open.saturating_sub(1)]
    }

    fn enter(&mut self, level: Level, form: Form) {
        let Some(frame) = self.frames.get_mut(self.open) else {
            (self.place, self.depth) = (Place::Skip, 1);
            return;
        };
        *frame = Frame { level, form, seen: 0, is_empty: true };
        self.open += 1;
        self.place = Place::First;
        if (level, form) == (Level::Message, Form::Object) {
            (self.role, self.id, self.params) = (None, None, Level::Params);
        }
    }

    fn close(&mut self) {
        self.open -= 1;
        self.place = if self.open == 0 { Place::After } else { Place::Comma };
    }

    fn close_object(&mut self, here: usize, rewrite: &dyn Rewrite) -> Result<(), Unfit> {
        let Frame { level, seen, is_empty, .. } = *self.top();
        let comma = if is_empty { "" } else { "," };
        let is_named =
            |name| level.keys().iter().any(|(key, it)| *key == name && seen & it.bit != 0);
        match level {
            Level::AskMeta if !is_named(ASKER_KEY) => {
                self.name_asker(here..here, [comma, ""], rewrite)?;
            }
            Level::Ask if !is_named("_meta") => {
                self.name_asker(here..here, [&[comma, "\"_meta\":{"].concat(), "}"], rewrite)?;
            }
            Level::Message => self.id = None,
            _ => {}
        }
        self.close();
        Ok(())
    }

    /// Says who asks, between what stands before and after.
    fn name_asker(
        &mut self,
        place: Range<usize>,
        [before, after]: [&str; 2],
        rewrite: &dyn Rewrite,
    ) -> Result<(), Unfit> {
        if self.sought.meets(Sought::of(Subject::Asker))
            && let Some(name) = rewrite.instead(Subject::Asker, "")?
        {
            let key = format!("{before}\"{ASKER_KEY}\":");
            let instead = [key.as_bytes(), &name, after.as_bytes()].concat();
            self.edits.push(Edit { place, instead });
        }
        Ok(())
    }

    fn await_element(&mut self) {
        let top = self.top();
        top.is_empty = false;
        self.then = Some(top.level.elements());
        self.place = Place::Value;
    }

    /// The first byte of a value.
    fn value(&mut self, rest: &[u8], here: usize, rewrite: &dyn Rewrite) -> Result<usize, Unfit> {
        self.start = here;
        match (rest[0], self.then) {
            (b'{', Some(Then::Object(level) | Then::Either(level) | Then::Response(level))) => {
                self.enter(level, Form::Object);
            }
            (b'{', Some(Then::Params)) => self.enter(self.params, Form::Object),
            (b'[', Some(Then::Array(level) | Then::Either(level))) => {
                self.enter(level, Form::Array);
            }
            (b'{' | b'[', Some(Then::Id)) => return Err(Unfit::BadId),
            (b'{' | b'[', _) => {
                (self.place, self.depth) = (Place::Skip, 1);
            }
            (b'"', Some(Then::Token(_) | Then::Id | Then::Method)) => {
                self.token.clear();
                return self.text(rest, 1, here, rewrite);
            }
            (b'"', _) => {
                self.depth = 0;
                return self.skip_text(rest, 1, here, rewrite);
            }
            (b't' | b'f' | b'n' | b'-' | b'0'..=b'9', _) => {
                self.token.clear();
                return self.literal(rest, here, rewrite);
            }
            _ => return Err(Unfit::Broken),
        }
        Ok(1)
    }

    /// Rewrites an id that is known, once it is known what it is the id of.
    #[inline(always)]
    fn settle_id(&mut self, rewrite: &dyn Rewrite) -> Result<(), Unfit> {
        match (self.role, self.id.take()) {
            (Some(role), Some(place)) => self.id_is(role, place, rewrite),
            (_, id) => {
                self.id = id;
                Ok(())
            }
        }
    }

    fn id_is(
        &mut self,
        role: Role,
        place: Range<usize>,
        rewrite: &dyn Rewrite,
    ) -> Result<(), Unfit> {
        let literal = std::mem::take(&mut self.id_literal);
        let text = std::str::from_utf8(&literal).map_err(|_| Unfit::NotText)?;
        let subject = match role {
            Role::Asks if !is_id(text) => return Err(Unfit::BadId),
            Role::Asks => Subject::RequestId,
            Role::Answers => Subject::AnswerId,
        };
        // The error that answers what could not be read has no id.
        if self.sought.meets(Sought::of(subject)) && text != "null" {
            self.rewrite(subject, text, place, rewrite)?;
        }
        self.id_literal = literal;
        Ok(())
    }
}

/// Whether a literal can be the id of a request: a string or an integer.
fn is_id(literal: &str) -> bool {
    let digits = literal.strip_prefix('-').unwrap_or(literal);
    is_text(literal) || !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_text(literal: &str) -> bool {
    literal.starts_with('"')
}

#[cfg(test)]
mod tests {
    use super::{EditScan, Rewrite, Sought, Subject, Unfit};

    /// Names the subject, and the value that was there.
    struct Telling;

    impl Rewrite for Telling {
        fn instead(&self, subject: Subject, literal: &str) -> Result<Option<Vec<u8>>, Unfit> {
            Ok(Some(format!("<{subject:?} {literal}>").into_bytes()))
        }
    }

    /// The message with its edits, cut once everywhere; `^` marks up to where it is settled if it
    /// ends there.
    fn check(sought: Sought, marked: &str, expected: &str) {
        let mark = marked.find('^');
        let message = marked.replace('^', "");
        for cut in 0..=message.len() {
            let mut scan = EditScan::new(sought);
            let (first, second) = message.as_bytes().split_at(cut);
            scan.feed(first, 0, &Telling).expect("a message");
            let settled = scan.settled(cut);
            let mut edits = scan.take_edits();
            assert!(edits.iter().all(|edit| edit.place.end <= settled || scan.id.is_some()));
            scan.feed(second, cut, &Telling).expect("a message");
            let later = scan.take_edits();
            assert!(later.iter().all(|edit| edit.place.start >= settled), "{message} cut at {cut}");
            edits.extend(later);
            edits.sort_by_key(|edit| edit.place.start);
            let edited = crate::mcp::edited(message.as_bytes(), &edits, 0);
            assert_eq!(String::from_utf8(edited).expect("text"), expected, "cut at {cut}");
            if cut == message.len() {
                assert_eq!(scan.settled(cut), mark.unwrap_or(cut), "{message}");
            }
        }
    }

    #[test]
    fn only_what_may_still_change_is_not_settled() {
        let all = Sought::ALL;
        check(all, r#"{"id":5,"method":"a"}"#, r#"{"id":<RequestId 5>,"method":"a"}"#);
        check(all, r#"{"id":^5,"x":[1,{"#, r#"{"id":5,"x":[1,{"#);
        check(all, r#"{"method":"a","id":^5"#, r#"{"method":"a","id":5"#);
        check(all, r#"{"result":{"taskId":^"a"#, r#"{"result":{"taskId":"a"#);
        check(all, r#"{"result":{"taskId":{"a"#, r#"{"result":{"taskId":{"a"#);
        let meta = r#"{"result":{"_meta":{"io.modelcontextprotocol/subscriptionId":"#;
        check(all, &format!(r#"{meta}^{{"a""#), &format!(r#"{meta}{{"a""#));
        let expected = format!("{meta}<SubscriptionId >}}}}}}");
        check(all, &format!(r#"{meta}{{"a":["}}"]}}}}}}}}"#), &expected);
        check(Sought::of(Subject::Uri), &format!("{meta}1"), &format!("{meta}1"));
        check(Sought::default(), r#"{"id":1,"id":2,"method":3}"#, r#"{"id":1,"id":2,"method":3}"#);
    }
}
