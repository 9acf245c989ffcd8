//! Where in a server's messages stands what its client knows by another name.

use super::edits::{Sought, Subject};

/// The objects and arrays that are looked into. An array has the level of its elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Level {
    #[default]
    Message,
    Params,
    /// The params of a request about a task of the client.
    TheirTask,
    /// The params of a request that is put before people or a model.
    Ask,
    Result,
    /// The result of a task, within what is said of the task.
    TaskResult,
    Error,
    /// The data of an error.
    Failure,
    /// A block of content.
    Block,
    /// The contents of a resource.
    Contents,
    PromptMessage,
    Meta,
    /// The `_meta` of params, where requests say what their progress is called by.
    ParamsMeta,
    /// The `_meta` of what is asked.
    AskMeta,
    /// MCP Apps.
    Ui,
    Task,
    /// Each member is a request.
    InputRequests,
    InputRequest,
    /// What a listen stream tells of.
    Filter,
    /// An array of strings.
    Uris,
    TaskIds,
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It is looked into if it is an object.
    Object(Level),
    /// It is looked into if it is an array.
    Array(Level),
    /// It is looked into if it is an object, or an array of them.
    Either(Level),
    /// It reads differently if it is a string, or an integer where ids may be.
    Token(Subject),
    /// Whatever it is, something stands in its place.
    Instead(Subject),
    /// The id of the message.
    Id,
    /// The method of the message.
    Method,
    /// `params`, which are looked into by their method.
    Params,
    /// The message is a response, and this is looked into.
    Response(Level),
}

/// A key that is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    /// One bit among those of its level.
    pub(super) bit: u16,
    pub(super) then: Then,
    /// What may be found in its value; without any of it the key is like every other.
    pub(super) holds: Sought,
}

type Keys = &'static [(&'static str, Watched)];

const fn key(bit: u8, then: Then, holds: Sought) -> Watched {
    Watched { bit: 1 << bit, then, holds }
}

const URI: Sought = Sought::of(Subject::Uri);
const TASK: Sought = Sought::of(Subject::TaskId);
const STATE: Sought = Sought::of(Subject::RequestState);
const ASKER: Sought = Sought::of(Subject::Asker);
const LISTENS: Sought = Sought::of(Subject::SubscriptionId);
const ASKS: Sought = Sought::of(Subject::RequestId);
const META: Sought = URI.and(TASK).and(LISTENS);
const PARAMS_META: Sought = META.and(ASKS);
const TOLD: Sought = Sought::of(Subject::ToldToken);
const ALL: Sought = Sought::ALL;

const MESSAGE: Keys = &[
    ("id", key(0, Then::Id, ALL)),
    ("method", key(1, Then::Method, ALL)),
    ("params", key(2, Then::Params, ALL)),
    ("result", key(3, Then::Response(Level::Result), ALL)),
    ("error", key(4, Then::Response(Level::Error), ALL)),
];
const PARAMS: Keys = &[
    ("_meta", key(0, Then::Object(Level::ParamsMeta), PARAMS_META)),
    ("uri", key(1, Then::Token(Subject::Uri), URI)),
    ("requestId", key(2, Then::Token(Subject::CancelledId), ASKS.and(LISTENS))),
    ("taskId", key(3, Then::Token(Subject::TaskId), TASK)),
    ("inputRequests", key(4, Then::Object(Level::InputRequests), ASKER.and(META))),
    ("result", key(5, Then::Object(Level::TaskResult), META)),
    ("progressToken", key(7, Then::Token(Subject::ToldToken), TOLD)),
    ("notifications", key(6, Then::Object(Level::Filter), URI.and(TASK))),
];
const ASK: Keys = &[
    ("_meta", key(0, Then::Object(Level::AskMeta), ASKER.and(PARAMS_META))),
    ("messages", key(1, Then::Array(Level::PromptMessage), URI)),
];
const RESULT: Keys = &[
    ("content", key(0, Then::Either(Level::Block), URI)),
    ("_meta", key(1, Then::Object(Level::Meta), META)),
    ("contents", key(2, Then::Array(Level::Contents), URI)),
    ("messages", key(3, Then::Array(Level::PromptMessage), URI)),
    ("requestState", key(4, Then::Token(Subject::RequestState), STATE)),
    ("inputRequests", key(5, Then::Object(Level::InputRequests), ASKER.and(META))),
    ("task", key(6, Then::Object(Level::Task), TASK)),
    ("taskId", key(7, Then::Token(Subject::TaskId), TASK)),
    ("tasks", key(8, Then::Array(Level::Task), TASK)),
    ("result", key(9, Then::Object(Level::TaskResult), META)),
];
const TASK_RESULT: Keys = &[
    ("content", key(0, Then::Either(Level::Block), URI)),
    ("_meta", key(1, Then::Object(Level::Meta), META)),
    ("contents", key(2, Then::Array(Level::Contents), URI)),
    ("messages", key(3, Then::Array(Level::PromptMessage), URI)),
];
const ERROR: Keys = &[("data", key(0, Then::Object(Level::Failure), URI))];
const FAILURE: Keys = &[("uri", key(0, Then::Token(Subject::Uri), URI))];
const BLOCK: Keys = &[
    ("uri", key(0, Then::Token(Subject::Uri), URI)),
    ("_meta", key(1, Then::Object(Level::Meta), META)),
    ("resource", key(2, Then::Object(Level::Contents), URI)),
];
const PROMPT_MESSAGE: Keys = &[("content", key(0, Then::Either(Level::Block), URI))];
/// The key under which the one who asks is named; what a server says of that itself is replaced.
pub(super) const ASKER_KEY: &str = "io.toolgate/server";
const ASK_META: Keys = &[
    ("io.modelcontextprotocol/related-task", key(0, Then::Object(Level::Task), TASK)),
    (
        "io.modelcontextprotocol/subscriptionId",
        key(1, Then::Instead(Subject::SubscriptionId), LISTENS),
    ),
    ("ui", key(2, Then::Object(Level::Ui), URI)),
    ("ui/resourceUri", key(3, Then::Token(Subject::Uri), URI)),
    ("progressToken", key(5, Then::Token(Subject::ProgressToken), ASKS)),
    (ASKER_KEY, key(4, Then::Instead(Subject::Asker), ASKER)),
];
const UI: Keys = &[("resourceUri", key(0, Then::Token(Subject::Uri), URI))];
const TASK_KEYS: Keys = &[("taskId", key(0, Then::Token(Subject::TaskId), TASK))];
const INPUT_REQUEST: Keys = &[("params", key(0, Then::Object(Level::Ask), ASKER.and(META)))];
const FILTER: Keys = &[
    ("resourceSubscriptions", key(0, Then::Array(Level::Uris), URI)),
    ("taskIds", key(1, Then::Array(Level::TaskIds), TASK)),
];

impl Level {
    /// The keys that are looked for in an object of this level.
    pub(super) fn keys(self) -> Keys {
        match self {
            Self::Message => MESSAGE,
            Self::Params => PARAMS,
            Self::TheirTask => &PARAMS[..1],
            Self::Ask => ASK,
            Self::Result => RESULT,
            Self::TaskResult => TASK_RESULT,
            Self::Error => ERROR,
            Self::Failure => FAILURE,
            Self::Block => BLOCK,
            Self::Contents => &BLOCK[..2],
            Self::PromptMessage => PROMPT_MESSAGE,
            Self::Meta => &ASK_META[..4],
            Self::ParamsMeta => &ASK_META[..5],
            Self::AskMeta => ASK_META,
            Self::Ui => UI,
            Self::Task => TASK_KEYS,
            Self::InputRequest => INPUT_REQUEST,
            Self::Filter => FILTER,
            Self::InputRequests | Self::Uris | Self::TaskIds => &[],
        }
    }

    /// What becomes of a member whose name means nothing, or of an element.
    pub(super) fn others(self) -> Option<Then> {
        match self {
            Self::InputRequests => Some(Then::Object(Self::InputRequest)),
            _ => None,
        }
    }

    /// What becomes of the elements of an array of this level.
    pub(super) fn elements(self) -> Then {
        match self {
            Self::Uris => Then::Token(Subject::Uri),
            Self::TaskIds => Then::Token(Subject::TaskId),
            level => Then::Object(level),
        }
    }

    /// The level of `params`.
    pub(super) fn of_params(method: &str) -> Self {
        match method {
            "elicitation/create" | "sampling/createMessage" => Self::Ask,
            method if method.starts_with("tasks/") => Self::TheirTask,
            _ => Self::Params,
        }
    }
}
