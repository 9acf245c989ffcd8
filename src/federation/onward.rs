//! Messages of a client on their way to the server they belong to: what the client was given for the
//! server's own ids is opened again.

use std::cell::Cell;

use super::holder::{Held, Holder, NotHeld};
use super::splices::{Splices, json_text};
use crate::jsonrpc::{Envelope, Kind, Text};
use crate::mcp::{EditScan, Rewrite, Sought, Subject, Unfit};

/// What a client's message says of where it belongs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Onward<'a> {
    /// The server that made what the client sends back, by the digest of its name; `None` if the
    /// client sends nothing back.
    pub member: Option<[u8; 4]>,
    /// The task that is asked about, as its server knows it.
    pub task_id: Option<String>,
    /// What reads differently for the server.
    pub splices: Splices<'a>,
}

/// When something is, and how long it may have been kept.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Seconds since 1970.
    pub now: u32,
    /// How many seconds a `requestState` may be kept.
    pub state_age_max: u32,
}

/// Opens what a client sends back: the id it answers, the state of a call it repeats, the task it asks
/// about. What is of two servers is of none.
pub fn onward<'a>(
    holder: &Holder<'_>,
    body: &[u8],
    envelope: &Envelope<'_>,
    moment: Moment,
) -> Result<Onward<'a>, NotHeld> {
    let mut onward = Onward::default();
    if let Kind::Response { id: Some(id) } = envelope.kind {
        // A number was never given to a client, and neither was a string with escapes.
        let plain = id.raw().strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
        let Held { member, own } = holder.request_id(plain.ok_or(NotHeld::Foreign)?)?;
        onward.member = Some(member);
        onward.splices.literal(id.span_in(body).ok_or(NotHeld::Foreign)?, own.into_bytes());
    }
    match envelope.method().map(Text::as_str) {
        Some("tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result") => {
            if let Some(shown) = &envelope.params.task_id {
                let held = holder.task_id(shown)?;
                onward.task_id = Some(onward.put(shown, held)?);
            }
        }
        Some("tools/call" | "prompts/get" | "resources/read") => {
            if let Some(shown) = &envelope.params.request_state {
                let Moment { now, state_age_max } = moment;
                let held = holder.request_state(shown, now, state_age_max)?;
                onward.put(shown, held)?;
            }
        }
        _ => {}
    }
    let tells = envelope.method().is_some_and(|method| *method == "notifications/progress");
    if tells || memchr::memmem::find(body, b"related-task").is_some() {
        onward.open_within(holder, body)?;
    }
    Ok(onward)
}

impl Onward<'_> {
    /// Puts the server's own in the place of what the client was shown.
    fn put(&mut self, shown: &Text<'_>, held: Held) -> Result<String, NotHeld> {
        self.belongs_to(held.member)?;
        self.splices.text(shown.span(), &held.own);
        Ok(held.own)
    }

    fn belongs_to(&mut self, member: [u8; 4]) -> Result<(), NotHeld> {
        match *self.member.get_or_insert(member) == member {
            true => Ok(()),
            false => Err(NotHeld::Foreign),
        }
    }

    /// Opens what stands deeper in a message. Its `_meta` may say which task it is about (2025-11-25):
    /// of the server, or of the client, whose id is then the client's own. What progress is told of
    /// is always a request of a server.
    fn open_within(&mut self, holder: &Holder<'_>, body: &[u8]) -> Result<(), NotHeld> {
        let opening = Opening { holder, members: Cell::default() };
        let sought = Sought::of(Subject::TaskId).and(Sought::of(Subject::ToldToken));
        let mut scan = EditScan::new(sought);
        // The peek has read the message; what it lets pass and this does not is nobody's.
        scan.feed(body, 0, &opening).map_err(|_| NotHeld::Foreign)?;
        for edit in scan.take_edits() {
            self.splices.literal(edit.place, edit.instead);
        }
        match opening.members.get() {
            Members::None => Ok(()),
            Members::One(member) => self.belongs_to(member),
            Members::Several => Err(NotHeld::Foreign),
        }
    }
}

/// Opens what is held, and remembers whose it is.
struct Opening<'a> {
    holder: &'a Holder<'a>,
    members: Cell<Members>,
}

/// Whose things were met.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Members {
    #[default]
    None,
    One([u8; 4]),
    Several,
}

impl Rewrite for Opening<'_> {
    fn instead(&self, subject: Subject, literal: &str) -> Result<Option<Vec<u8>>, Unfit> {
        let plain = literal.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let held = match (subject, plain) {
            (Subject::ToldToken, Some(plain)) => self.holder.progress_token(plain),
            (Subject::TaskId, Some(plain)) => self.holder.task_id(plain),
            _ => Err(NotHeld::Foreign),
        };
        let Ok(Held { member, own }) = held else {
            if subject == Subject::ToldToken {
                self.members.set(Members::Several);
            }
            return Ok(None);
        };
        self.members.set(match self.members.get() {
            Members::None => Members::One(member),
            Members::One(other) if other == member => Members::One(member),
            _ => Members::Several,
        });
        match subject {
            Subject::ToldToken => Ok(Some(own.into_bytes())),
            _ => Ok(Some(json_text(&own))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Holder, Moment, NotHeld, Onward, onward};
    use crate::jsonrpc::peek;
    use crate::sessions::{Binding, Sealing, SessionKey};

    const A: [u8; 4] = *b"aaaa";
    const B: [u8; 4] = *b"bbbb";

    fn sealing() -> Sealing {
        Sealing::new([&b"a secret of at least thirty-two b"[..]].into_iter())
    }

    fn holder(sealing: &Sealing) -> Holder<'_> {
        Holder {
            sealing,
            session: Some(SessionKey([7; 12])),
            binding: Binding { route: &[1; 16], caller: &[2; 16] },
        }
    }

    fn read(holder: &Holder<'_>, body: &str) -> Result<Onward<'static>, NotHeld> {
        let envelope = peek(body.as_bytes()).expect("a message");
        onward(holder, body.as_bytes(), &envelope, Moment { now: 1000, state_age_max: 60 })
    }

    #[track_caller]
    fn check(holder: &Holder<'_>, body: &str, member: [u8; 4], sent: &str) {
        let onward = read(holder, body).expect("it is held");
        assert_eq!(onward.member, Some(member));
        assert_eq!(String::from_utf8(onward.splices.apply(body.as_bytes())).expect("text"), sent);
    }

    #[test]
    fn what_was_shown_leads_back_and_reads_as_its_server_made_it() {
        let sealing = sealing();
        let holder = holder(&sealing);
        for own in ["5", r#""a\u0062""#, r#""""#] {
            let shown = holder.show_request_id(A, own).expect("sealed");
            let answer = |id: &str| {
                format!(r#"{{"result": {{"id":"{shown}"}}, "id": {id} ,"jsonrpc":"2.0"}}"#)
            };
            check(&holder, &answer(&format!("\"{shown}\"")), A, &answer(own));
        }
        let shown = holder.show_task_id(A, "a \"task\"").expect("sealed");
        let get = |id: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{{"taskId":{id}}}}}"#)
        };
        let body = get(&format!("\"{shown}\""));
        check(&holder, &body, A, &get(r#""a \"task\"""#));
        assert_eq!(read(&holder, &body).expect("held").task_id.as_deref(), Some("a \"task\""));
        let shown = holder.show_request_state(B, "{\"a\":1}", 940).expect("sealed");
        let call = |state: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","requestState":{state},"arguments":{{"requestState":"x"}}}}}}"#
            )
        };
        check(&holder, &call(&format!("\"{shown}\"")), B, &call(r#""{\"a\":1}""#));
    }

    #[test]
    fn tasks_that_are_spoken_of_lead_back_too() {
        let sealing = sealing();
        let holder = holder(&sealing);
        let shown = holder.show_task_id(A, "t").expect("sealed");
        let id = holder.show_request_id(A, "5").expect("sealed");
        let answer = |id: &str, task: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"_meta":{{"io.modelcontextprotocol/related-task":{{"taskId":"{task}"}}}}}}}}"#
            )
        };
        let quoted = format!("\"{id}\"");
        check(&holder, &answer(&quoted, &shown), A, &answer("5", "t"));
        check(&holder, &answer(&quoted, "the client's own"), A, &answer("5", "the client's own"));
        let other = holder.show_task_id(B, "t").expect("sealed");
        assert_eq!(read(&holder, &answer(&quoted, &other)), Err(NotHeld::Foreign));
    }

    #[test]
    fn progress_is_told_to_the_server_that_asked() {
        let sealing = sealing();
        let holder = holder(&sealing);
        let told = |token: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progress":1,"progressToken":{token}}}}}"#
            )
        };
        for own in ["7", r#""a""#] {
            let shown = holder.show_progress_token(B, own).expect("sealed");
            check(&holder, &told(&format!("\"{shown}\"")), B, &told(own));
        }
        for foreign in ["7", "\"7\"", "\"\""] {
            assert_eq!(read(&holder, &told(foreign)), Err(NotHeld::Foreign));
        }
    }

    #[test]
    fn what_was_never_asked_or_is_anothers_is_not_opened() {
        let sealing = sealing();
        let holder = holder(&sealing);
        let other_session = Holder { session: Some(SessionKey([8; 12])), ..holder };
        let other_caller =
            Holder { binding: Binding { route: &[1; 16], caller: &[3; 16] }, ..holder };
        let answer = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
        let call = |state: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","requestState":"{state}"}}}}"#
            )
        };
        let shown = holder.show_request_id(A, "5").expect("sealed");
        let task = holder.show_task_id(A, "5").expect("sealed");
        for id in ["5", "\"5\"", "\"\"", &format!("\"{task}\""), &format!("\"{shown}A\"")] {
            assert_eq!(read(&holder, &answer(id)), Err(NotHeld::Foreign), "{id}");
        }
        let id = format!("\"{shown}\"");
        assert_eq!(read(&other_session, &answer(&id)), Err(NotHeld::Foreign));
        assert_eq!(read(&Holder { session: None, ..holder }, &answer(&id)), Err(NotHeld::Foreign));
        let state = holder.show_request_state(A, "s", 939).expect("sealed");
        assert_eq!(read(&holder, &call(&state)), Err(NotHeld::Expired));
        let state = holder.show_request_state(A, "s", 1000).expect("sealed");
        assert_eq!(read(&other_caller, &call(&state)), Err(NotHeld::Foreign));
        assert_eq!(read(&holder, &call("the server's own")), Err(NotHeld::Foreign));
        let plain = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#;
        assert_eq!(read(&holder, plain), Ok(Onward::default()));
    }
}
