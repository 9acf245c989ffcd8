//! What a client holds for the gateway: which server a message belongs to is in what it sends back.

use crate::sessions::{Binding, Owner, Purpose, Sealing, SessionKey};

const MEMBER_BYTES: usize = 4;

/// The client that holds what is sealed: nobody else can use it.
#[derive(Clone, Copy)]
pub struct Holder<'a> {
    /// What seals and opens.
    pub sealing: &'a Sealing,
    /// Its session; `None` where the era has none, and then servers send no requests.
    pub session: Option<SessionKey>,
    /// Who it is, and on which route.
    pub binding: Binding<'a>,
}

/// What a client held: of which server, and what that server knows it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The server, by the digest of its name.
    pub member: [u8; MEMBER_BYTES],
    /// The server's own.
    pub own: String,
}

/// Why something that a client sent back is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// It was not sealed here for this client.
    Foreign,
    /// It was, too long ago.
    Expired,
}

impl NotHeld {
    /// The name in logs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Expired => "expired",
        }
    }
}

impl Holder<'_> {
    /// The id, as the client sees it, of a request that a server sent; `raw` is the server's id as
    /// it stands on the wire. `None` if it is too long.
    pub fn show_request_id(&self, member: [u8; 4], raw: &str) -> Option<String> {
        let owner = Owner::Session(self.session?);
        self.sealing.seal(Purpose::RequestId, owner, &[&member, raw.as_bytes()])
    }

    /// The id of a request as its server sent it, on the wire, of the id that a client answers.
    pub fn request_id(&self, shown: &str) -> Result<Held, NotHeld> {
        let owner = Owner::Session(self.session.ok_or(NotHeld::Foreign)?);
        self.open(Purpose::RequestId, owner, shown)
    }

    /// What the progress of a server's request is called by, as the client sees it; like an id.
    pub fn show_progress_token(&self, member: [u8; 4], raw: &str) -> Option<String> {
        let owner = Owner::Session(self.session?);
        self.sealing.seal(Purpose::ProgressToken, owner, &[&member, raw.as_bytes()])
    }

    /// What the server calls the progress by that a client tells, on the wire.
    pub fn progress_token(&self, shown: &str) -> Result<Held, NotHeld> {
        let owner = Owner::Session(self.session.ok_or(NotHeld::Foreign)?);
        self.open(Purpose::ProgressToken, owner, shown)
    }

    /// A task's id as the client sees it: always the same, because clients compare it.
    pub fn show_task_id(&self, member: [u8; 4], own: &str) -> Option<String> {
        let owner = Owner::Caller(self.binding);
        self.sealing.seal(Purpose::TaskId, owner, &[&member, own.as_bytes()])
    }

    /// A task's id as its server knows it.
    pub fn task_id(&self, shown: &str) -> Result<Held, NotHeld> {
        self.open(Purpose::TaskId, Owner::Caller(self.binding), shown)
    }

    /// The state of a result that asks for more, as the client sends it back; it says when it was
    /// made, in seconds since 1970.
    pub fn show_request_state(&self, member: [u8; 4], own: &str, now: u32) -> Option<String> {
        let owner = Owner::Caller(self.binding);
        let parts: [&[u8]; 3] = [&now.to_le_bytes(), &member, own.as_bytes()];
        self.sealing.seal(Purpose::RequestState, owner, &parts)
    }

    /// The state as its server made it, at most so many seconds ago.
    pub fn request_state(&self, shown: &str, now: u32, age_max: u32) -> Result<Held, NotHeld> {
        let owner = Owner::Caller(self.binding);
        let opened = self.sealing.open(Purpose::RequestState, owner, shown.as_bytes());
        let opened = opened.ok_or(NotHeld::Foreign)?;
        let (made_at, held) = opened.split_first_chunk().ok_or(NotHeld::Foreign)?;
        match now.saturating_sub(u32::from_le_bytes(*made_at)) > age_max {
            true => Err(NotHeld::Expired),
            false => read(held),
        }
    }

    /// Where a list goes on, as the client sends it back.
    pub fn seal_cursor(&self, content: &[u8]) -> Option<String> {
        self.sealing.seal(Purpose::Cursor, Owner::Caller(self.binding), &[content])
    }

    /// Where a list goes on; `None` if it was not sealed here for this client.
    pub fn open_cursor(&self, shown: &str) -> Option<Vec<u8>> {
        self.sealing.open(Purpose::Cursor, Owner::Caller(self.binding), shown.as_bytes())
    }

    fn open(&self, purpose: Purpose, owner: Owner<'_>, shown: &str) -> Result<Held, NotHeld> {
        let opened = self.sealing.open(purpose, owner, shown.as_bytes());
        read(&opened.ok_or(NotHeld::Foreign)?)
    }
}

fn read(opened: &[u8]) -> Result<Held, NotHeld> {
    let (member, own) = opened.split_first_chunk().ok_or(NotHeld::Foreign)?;
    let own = std::str::from_utf8(own).map_err(|_| NotHeld::Foreign)?;
    Ok(Held { member: *member, own: own.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::{Held, Holder, NotHeld};
    use crate::sessions::{Binding, Sealing, SessionKey};

    #[test]
    fn what_is_held_opens_for_its_purpose_and_says_whose_it_is() {
        let secret = b"a secret of at least thirty-two b";
        let sealing = Sealing::new([&secret[..]].into_iter());
        let holder = Holder {
            sealing: &sealing,
            session: Some(SessionKey([7; 12])),
            binding: Binding { route: &[1; 16], caller: &[2; 16] },
        };
        let member = *b"git!";
        let held = |own: &str| Ok(Held { member, own: own.to_owned() });
        let id = holder.show_request_id(member, "5").expect("sealed");
        let token = holder.show_progress_token(member, "5").expect("sealed");
        let task = holder.show_task_id(member, "t").expect("sealed");
        let state = holder.show_request_state(member, "s", 1_000).expect("sealed");
        let cursor = holder.seal_cursor(b"place").expect("sealed");
        assert_eq!(holder.request_id(&id), held("5"));
        assert_eq!(holder.progress_token(&token), held("5"));
        assert_eq!(holder.task_id(&task), held("t"));
        assert_eq!(holder.request_state(&state, 1_060, 60), held("s"));
        assert_eq!(holder.request_state(&state, 1_061, 60), Err(NotHeld::Expired));
        // The clock of another gateway may be behind.
        assert_eq!(holder.request_state(&state, 990, 60), held("s"));
        assert_eq!(holder.open_cursor(&cursor).as_deref(), Some(&b"place"[..]));
        for other in [&token, &task, &state, &cursor] {
            assert_eq!(holder.request_id(other), Err(NotHeld::Foreign));
        }
        for other in [&id, &token, &state, &cursor] {
            assert_eq!(holder.task_id(other), Err(NotHeld::Foreign));
        }
        assert_eq!(holder.open_cursor(&state), None);
        let modern = Holder { session: None, ..holder };
        assert_eq!(modern.show_request_id(member, "5"), None);
        assert_eq!(modern.request_id(&id), Err(NotHeld::Foreign));
        assert_eq!(modern.task_id(&task), held("t"));
    }
}
