//! Conditions in CEL: compiled once, asked only where the static part of their rule matched.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use cel::common::types::{CelBool, CelNull, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, Env, Program, Value};

use super::Fault;
use super::arguments::Arguments;
use super::asked::{Asked, Subject};
use super::survey::Survey;
use super::values::{Boxed, of_json, of_list, of_map, of_object, of_text};
use crate::config::When;

/// Longer expressions are programs, and belong into a server.
const EXPRESSION_BYTES_MAX: usize = 2048;
/// A loop over more would take longer than a call may wait for it.
const LOOPED_BYTES_MAX: usize = 64 * 1024;

/// A condition, ready to be asked.
pub(super) struct Condition {
    pub(super) text: String,
    program: Program,
    /// Whether it says something about arguments, which a list does not have.
    reads_arguments: bool,
    loops: bool,
    /// The keys that it looks for.
    pub(super) keys: BTreeSet<String>,
}

/// What a condition says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Holds,
    Fails,
    /// Nobody can say.
    Unknown(Unknown),
}

/// Why nobody can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// It reads an annotation that the server did not declare, or that is not known yet.
    Annotation,
    /// It reads arguments, and this is a list.
    Arguments,
    /// It failed.
    Error,
}

/// What all conditions are compiled and asked in.
pub(super) fn environment() -> Arc<Env> {
    let mut env = Env::stdlib().with_optional_support(false);
    if let Err(error) = env.add_extension(cel::extensions::strings) {
        // Only another version of the crate can bring a clash, and every test would show it.
        unreachable!("the functions for strings are there already: {error}");
    }
    Arc::new(env)
}

/// The parser goes as deep as the text nests, in frames that are large, so it gets a stack of its own.
fn compile(text: &str, env: &Env) -> Result<Program, String> {
    const STACK_BYTES: usize = 64 * 1024 * 1024;
    let parsed = thread::scope(|scope| {
        let parser = thread::Builder::new().stack_size(STACK_BYTES);
        parser.spawn_scoped(scope, || env.compile(text)).map(thread::ScopedJoinHandle::join)
    });
    match parsed {
        Ok(Ok(Ok(program))) => Ok(program),
        Ok(Ok(Err(errors))) => Err(match errors.errors.first() {
            Some(error) => {
                // What follows is the whole grammar.
                let told = error.msg.split(" expecting ").next().unwrap_or_default();
                format!("this is not CEL at character {}: {told}", error.pos.1)
            }
            None => "this is not CEL".to_owned(),
        }),
        Ok(Err(_)) => Err("this is not CEL: the parser gave up".to_owned()),
        Err(error) => Err(format!("no thread to read this with: {error}")),
    }
}

impl Condition {
    pub(super) fn new(when: &When, env: &Env) -> Result<Self, Fault> {
        let fault = |message: String, hint: &str| Fault {
            place: when.place,
            message,
            hint: hint.to_owned(),
        };
        if when.text.len() > EXPRESSION_BYTES_MAX {
            let message = format!("this condition is longer than {EXPRESSION_BYTES_MAX} bytes");
            return Err(fault(message, "write several rules"));
        }
        let program = compile(&when.text, env)
            .map_err(|why| fault(why, "write it like: arguments.path.startsWith('/public/')"))?;
        let Survey { reads_arguments, loops, keys } = Survey::of(program.expression())
            .map_err(|told| Fault { place: when.place, message: told.message, hint: told.hint })?;
        Ok(Self { text: when.text.clone(), program, reads_arguments, loops, keys })
    }

    /// Asks the condition.
    pub(super) fn ask(&self, question: &Question<'_>) -> Verdict {
        if self.obstacle(question).is_some() {
            return Verdict::Unknown(Unknown::Error);
        }
        let seen = Seen::new(question);
        let mut context = Context::with_env(Arc::clone(question.env));
        context.set_variable_resolver(&seen);
        // A fault of the evaluator is no reason to let anything pass, and none to lose a request.
        let result = catch_unwind(AssertUnwindSafe(|| self.program.execute(&context)));
        drop(context);
        match result {
            Ok(Ok(Value::Bool(true))) => Verdict::Holds,
            Ok(Ok(Value::Bool(false))) => Verdict::Fails,
            // No arguments will make an annotation known.
            _ if seen.unknown.load(Ordering::Relaxed) => Verdict::Unknown(Unknown::Annotation),
            _ if seen.arguments.load(Ordering::Relaxed) && question.is_list() => {
                Verdict::Unknown(Unknown::Arguments)
            }
            _ => Verdict::Unknown(Unknown::Error),
        }
    }

    /// Why the arguments are none that the condition can be asked about, if so.
    fn obstacle(&self, question: &Question<'_>) -> Option<&'static str> {
        let bytes = question.asked.arguments.map_or(0, <[u8]>::len);
        if !self.reads_arguments {
            None
        } else if self.loops && bytes > LOOPED_BYTES_MAX {
            Some("these arguments are too large for a loop")
        } else if !question.is_plain(&self.keys) {
            Some("servers may read these arguments differently")
        } else {
            None
        }
    }

    /// Why the condition cannot be decided, in the words of the evaluator.
    pub(super) fn why(&self, question: &Question<'_>) -> String {
        if let Some(obstacle) = self.obstacle(question) {
            return obstacle.to_owned();
        }
        let seen = Seen::new(question);
        let mut context = Context::with_env(Arc::clone(question.env));
        context.set_variable_resolver(&seen);
        match self.program.execute(&context) {
            Ok(_) => "it is neither true nor false".to_owned(),
            Err(_) if seen.arguments.load(Ordering::Relaxed) && question.arguments().is_none() => {
                "the arguments are no object, or have a key twice".to_owned()
            }
            Err(error) => error.to_string(),
        }
    }
}

/// A question as conditions see it; arguments are parsed when the first condition reads them.
pub(super) struct Question<'a> {
    pub(super) asked: &'a Asked<'a>,
    env: &'a Arc<Env>,
    watched: &'a BTreeSet<String>,
    occasion: Occasion,
    arguments: OnceLock<Option<Arguments>>,
}

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Whether something may be done.
    Call,
    /// Whether a list shows it: nobody knows with which arguments it would be done.
    List,
    /// The same, for all that a pattern stands for; the pattern itself need not be a name.
    Sample,
}

impl<'a> Question<'a> {
    pub(super) fn new(
        asked: &'a Asked<'a>,
        env: &'a Arc<Env>,
        watched: &'a BTreeSet<String>,
        occasion: Occasion,
    ) -> Self {
        Self { asked, env, watched, occasion, arguments: OnceLock::new() }
    }

    fn is_list(&self) -> bool {
        self.occasion != Occasion::Call
    }

    /// Whether it is asked about names as they come, not about patterns.
    pub(super) fn is_about_names(&self) -> bool {
        self.occasion != Occasion::Sample
    }

    fn arguments(&self) -> Option<&Arguments> {
        let read = || Arguments::read(self.asked.arguments, self.watched);
        if self.is_list() { None } else { self.arguments.get_or_init(read).as_ref() }
    }

    /// Arguments that are no object are no argument against the condition yet: it may not need them.
    fn is_plain(&self, keys: &BTreeSet<String>) -> bool {
        self.arguments().is_none_or(|arguments| arguments.are_plain(keys))
    }
}

/// The variables of one evaluation, which also says what it looked at.
struct Seen<'q, 'a> {
    question: &'q Question<'a>,
    arguments: AtomicBool,
    unknown: AtomicBool,
}

impl VariableResolver for Seen<'_, '_> {
    /// Names come whole first (`tool.annotations.readOnlyHint`), then without their last part.
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let asked = self.question.asked;
        let subject = asked.subject;
        match name.split_once('.') {
            None => match name {
                "server" => Some(text(asked.server)),
                "method" => Some(text(asked.method)),
                "prompt" => Some(text_or_null(match subject {
                    Subject::Prompt(name) => Some(name),
                    _ => None,
                })),
                "resource" => Some(text_or_null(match subject {
                    Subject::Resource(uri) | Subject::Template(uri) => Some(uri),
                    _ => None,
                })),
                "arguments" => {
                    self.arguments.store(true, Ordering::Relaxed);
                    let arguments = self.question.arguments()?;
                    Some(CowVal::Borrowed(arguments.value.as_ref()))
                }
                _ => None,
            },
            Some(("tool", "name")) => Some(text_or_null(match subject {
                Subject::Tool(name) => Some(name),
                _ => None,
            })),
            Some(("tool", rest)) => self.annotation(rest),
            Some(("caller", rest)) => caller(asked, rest),
            Some(("client", "address")) => {
                let address = asked.client.map(|address| address.to_canonical().to_string());
                Some(address.map_or_else(null, |address| CowVal::owned(CelString::from(address))))
            }
            Some(_) => None,
        }
    }
}

impl<'q, 'a> Seen<'q, 'a> {
    fn new(question: &'q Question<'a>) -> Self {
        Self { question, arguments: AtomicBool::new(false), unknown: AtomicBool::new(false) }
    }

    /// `annotations` or `annotations.KEY` of the tool. What is not declared is not known.
    fn annotation<'b>(&'b self, rest: &str) -> Option<CowVal<'b, 'b>> {
        let annotations = match self.question.asked.subject {
            Subject::Tool(_) => self.question.asked.annotations,
            _ => None,
        };
        let Some(annotations) = annotations else {
            self.unknown.store(true, Ordering::Relaxed);
            return None;
        };
        let key = match rest.split_once('.') {
            None => {
                // A hint that is no boolean is not known, however it is asked for.
                let known = annotations.known();
                return Some(
                    of_map(known.map(|(key, value)| (key.clone(), of_json(value))).collect())
                        .into(),
                );
            }
            Some((_, key)) => key,
        };
        let hint = |hint: Option<bool>| hint.map(|hint| CowVal::owned(CelBool::from(hint)));
        let value = match key {
            "readOnlyHint" => hint(annotations.read_only),
            "destructiveHint" => hint(annotations.destructive),
            "idempotentHint" => hint(annotations.idempotent),
            "openWorldHint" => hint(annotations.open_world),
            _ => {
                let declared = annotations.known().find(|(known, _)| *known == key);
                declared.map(|(_, value)| CowVal::from(of_json(value)))
            }
        };
        // A longer path ends elsewhere, and its first part is asked for next.
        if value.is_none() && !key.contains('.') {
            self.unknown.store(true, Ordering::Relaxed);
        }
        value
    }
}

fn caller<'b>(asked: &'b Asked<'_>, rest: &str) -> Option<CowVal<'b, 'b>> {
    let caller = asked.caller;
    match rest {
        "id" => Some(text(caller.id())),
        "tenant" => Some(text_or_null(caller.tenant())),
        "issuer" => Some(text_or_null(caller.issuer())),
        "method" => Some(text(caller.method().as_str())),
        "scopes" => {
            let scopes = caller.scopes().iter().map(|scope| -> Boxed { of_text(scope) });
            Some(of_list(scopes.collect()).into())
        }
        "claims" => Some(of_object(caller.claims()).into()),
        _ => {
            let claim = caller.claims().get(rest.strip_prefix("claims.")?)?;
            Some(of_json(claim).into())
        }
    }
}

fn text<'b>(text: &'b str) -> CowVal<'b, 'b> {
    CowVal::owned(CelString::from(text))
}

fn text_or_null<'b>(value: Option<&'b str>) -> CowVal<'b, 'b> {
    value.map_or_else(null, text)
}

fn null<'b>() -> CowVal<'b, 'b> {
    CowVal::owned(CelNull)
}
