//! What a modern listen request asks to be told of (2026-07-28 subscriptions), and what is accepted of
//! it: a request that goes to several servers is split, and what they accept becomes one answer.

use std::collections::HashSet;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::session::{LISTS, SUBSCRIPTION_ID};

const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
const RESOURCES: &str = "resourceSubscriptions";
const TASKS: &str = "taskIds";

/// What a client wants to be told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Changes of the lists of tools, prompts and resources.
    pub lists: [bool; 3],
    /// Changes of these resources.
    pub resources: Vec<String>,
    /// How these tasks go on.
    pub tasks: Vec<String>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    params: Params<'a>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    notifications: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named {
    method: Option<String>,
}

impl Filter {
    /// What a listen request asks for, and where in it that stands. `None` if it cannot be read.
    pub fn of_request(request: &[u8]) -> Option<(Self, Range<usize>)> {
        let Message { params } = serde_json::from_slice(request).ok()?;
        let raw = params.notifications?;
        let start = (raw.get().as_ptr() as usize).checked_sub(request.as_ptr() as usize)?;
        let place = start..start.checked_add(raw.get().len())?;
        Some((Self::read(raw)?, place))
    }

    /// What a server says that it accepts; `None` if the message is something else.
    pub fn acknowledged(message: &[u8]) -> Option<Self> {
        let Named { method } = serde_json::from_slice(message).ok()?;
        if method.as_deref() != Some(ACKNOWLEDGED) {
            return None;
        }
        let accepted = serde_json::from_slice(message).ok();
        let raw = accepted.and_then(|Message { params }| params.notifications);
        Some(raw.and_then(Self::read).unwrap_or_default())
    }

    fn read(raw: &RawValue) -> Option<Self> {
        let Ok(Value::Object(said)) = serde_json::from_str(raw.get()) else { return None };
        let texts = |key: &str| match said.get(key) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(all)) => all.iter().map(|one| Some(one.as_str()?.into())).collect(),
            Some(_) => None,
        };
        let lists = LISTS.map(|(_, key)| said.get(key) == Some(&Value::Bool(true)));
        Some(Self { lists, resources: texts(RESOURCES)?, tasks: texts(TASKS)? })
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.lists == [false; 3] && self.resources.is_empty() && self.tasks.is_empty()
    }

    /// As it stands in a message.
    pub fn json(&self) -> String {
        let flags = LISTS.iter().zip(self.lists).filter(|(_, is_set)| *is_set);
        let mut said: Map<String, Value> =
            flags.map(|((_, key), _)| ((*key).to_owned(), Value::Bool(true))).collect();
        for (key, all) in [(RESOURCES, &self.resources), (TASKS, &self.tasks)] {
            if !all.is_empty() {
                said.insert(key.to_owned(), all.as_slice().into());
            }
        }
        Value::Object(said).to_string()
    }

    /// What of it any of these has accepted, in the order in which it was asked for.
    #[must_use]
    pub fn accepted_by(&self, servers: &[Self]) -> Self {
        let of = |asked: &[String], accepted: fn(&Self) -> &Vec<String>| {
            let accepted: HashSet<&String> = servers.iter().flat_map(accepted).collect();
            asked.iter().filter(|one| accepted.contains(one)).cloned().collect()
        };
        let is_accepted = |list: usize| servers.iter().any(|server| server.lists[list]);
        Self {
            lists: std::array::from_fn(|list| self.lists[list] && is_accepted(list)),
            resources: of(&self.resources, |server| &server.resources),
            tasks: of(&self.tasks, |server| &server.tasks),
        }
    }

    /// The notification with which a listen stream begins; `id` is that of its request, as it came.
    pub fn acknowledgement(&self, id: &str) -> String {
        let (accepted, about) = (self.json(), format!(r#"{{"{SUBSCRIPTION_ID}":{id}}}"#));
        let params = format!(r#"{{"notifications":{accepted},"_meta":{about}}}"#);
        format!(r#"{{"jsonrpc":"2.0","method":"{ACKNOWLEDGED}","params":{params}}}"#)
    }

    /// The notifications that say that every list may have changed of which it asks.
    pub fn list_changed(&self, id: &str) -> Vec<String> {
        let asked = LISTS.iter().zip(self.lists).filter(|(_, is_set)| *is_set);
        let told = asked.map(|((method, _), _)| {
            let about = format!(r#"{{"_meta":{{"{SUBSCRIPTION_ID}":{id}}}}}"#);
            format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{about}}}"#)
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Filter;
    use serde_json::{Value, json};

    fn read(filter: &Value) -> Option<Filter> {
        let request = json!({ "id": 1, "params": { "notifications": filter, "x": 1 } }).to_string();
        let (read, place) = Filter::of_request(request.as_bytes())?;
        assert_eq!(&request[place], filter.to_string());
        Some(read)
    }

    #[test]
    fn a_filter_is_read_and_written() {
        let filter = json!({ "promptsListChanged": true, "resourceSubscriptions": ["a:b"], "taskIds": ["t"] });
        let expected = Filter {
            lists: [false, true, false],
            resources: vec!["a:b".to_owned()],
            tasks: vec!["t".to_owned()],
        };
        assert_eq!(read(&filter), Some(expected.clone()));
        assert_eq!(serde_json::from_str::<Value>(&expected.json()).expect("JSON"), filter);
        let others = json!({ "toolsListChanged": 1, "taskIds": null, "other": {} });
        assert!(read(&others).is_some_and(|filter| filter.is_empty()));
        for wrong in [json!([]), json!({ "taskIds": "t" }), json!({ "resourceSubscriptions": [1] })]
        {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_servers_accept_becomes_one_answer() {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let asked = Filter {
            lists: [true, true, false],
            resources: all(&["a", "b", "c"]),
            tasks: all(&["t"]),
        };
        let one =
            Filter { lists: [true, false, true], resources: all(&["c", "x"]), tasks: Vec::new() };
        let two = Filter { resources: all(&["a"]), ..Filter::default() };
        let accepted = asked.accepted_by(&[one, two]);
        assert_eq!(
            accepted,
            Filter { lists: [true, false, false], resources: all(&["a", "c"]), tasks: Vec::new() }
        );
        let said = accepted.acknowledgement(r#""L""#);
        assert_eq!(Filter::acknowledged(said.as_bytes()), Some(accepted.clone()));
        let said: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "L");
        let told = accepted.list_changed("7");
        assert_eq!(told.len(), 1);
        let told: Value = serde_json::from_str(&told[0]).expect("JSON");
        assert_eq!(told["method"], "notifications/tools/list_changed");
        assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
        assert_eq!(Filter::acknowledged(told.to_string().as_bytes()), None);
    }
}
