//! The demo server `notes`: a notebook in memory, which shows that calls change something.

use super::{arguments, failure, text, typed, unknown_tool};
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData, Implementation,
    ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::Deserialize;
use serde_json::json;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A demo that runs for weeks keeps this many notes and then asks for a restart.
const NOTES_MAX: usize = 1000;

/// The notebook; all sessions write into the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    notes: Arc<Mutex<Vec<Note>>>,
}

#[derive(Debug, Deserialize)]
struct Note {
    title: String,
    text: String,
}

#[derive(Deserialize)]
struct Number {
    number: usize,
}

impl Notes {
    fn add(&self, note: Note) -> CallToolResult {
        let mut notes = self.lock();
        if notes.len() == NOTES_MAX {
            return failure(format!("The notebook is full at {NOTES_MAX} notes."));
        }
        notes.push(note);
        text(format!("Kept as note {}.", notes.len()))
    }

    fn list(&self) -> CallToolResult {
        let notes = self.lock();
        if notes.is_empty() {
            return text("No notes yet.");
        }
        let lines: Vec<String> = (1..)
            .zip(notes.iter())
            .map(|(number, note)| format!("{number}. {}", note.title))
            .collect();
        text(lines.join("\n"))
    }

    fn read(&self, number: usize) -> CallToolResult {
        match number.checked_sub(1).and_then(|index| self.lock().get(index).map(whole)) {
            Some(note) => text(note),
            None => failure(format!("There is no note {number}.")),
        }
    }

    /// A panic while the lock was held cannot leave a note half written.
    fn lock(&self) -> MutexGuard<'_, Vec<Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerHandler for Notes {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("notes", env!("CARGO_PKG_VERSION")))
            .with_instructions("A notebook that forgets everything when the demo ends.")
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let string = json!({ "type": "string" });
        let reads = json!({ "readOnlyHint": true });
        Ok(ListToolsResult::with_all_items(typed(json!([
            { "name": "add_note", "description": "Keeps a note",
              "annotations": { "readOnlyHint": false, "destructiveHint": false },
              "inputSchema": { "type": "object", "required": ["title", "text"],
                               "properties": { "title": string, "text": string } } },
            { "name": "list_notes", "description": "Lists the titles of all notes",
              "annotations": reads, "inputSchema": { "type": "object" } },
            { "name": "read_note", "description": "Reads one note by its number",
              "annotations": reads,
              "inputSchema": { "type": "object", "required": ["number"],
                  "properties": { "number": { "type": "integer", "minimum": 1 } } } },
        ]))?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let result = match request.name.as_ref() {
            "add_note" => self.add(arguments(request)?),
            "list_notes" => self.list(),
            "read_note" => self.read(arguments::<Number>(request)?.number),
            _ => return Err(unknown_tool(&request)),
        };
        Ok(result.into())
    }
}

fn whole(note: &Note) -> String {
    format!("# {}\n\n{}", note.title, note.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_listed_and_read() {
        let notes = Notes::default();
        check(notes.list(), "No notes yet.");
        check(notes.add(note("Milk", "two litres")), "Kept as note 1.");
        check(notes.clone().add(note("Bread", "rye")), "Kept as note 2.");
        check(notes.list(), "1. Milk\n2. Bread");
        check(notes.read(2), "# Bread\n\nrye");
        check(notes.read(0), "There is no note 0.");
        check(notes.read(3), "There is no note 3.");
    }

    #[test]
    fn a_full_notebook_says_so() {
        let notes = Notes::default();
        for _ in 0..NOTES_MAX {
            notes.add(note("a", "b"));
        }
        check(notes.add(note("one", "too many")), "The notebook is full at 1000 notes.");
    }

    fn note(title: &str, text: &str) -> Note {
        Note { title: title.into(), text: text.into() }
    }

    fn check(result: CallToolResult, expected: &str) {
        let said = result.content.first().and_then(|content| content.as_text());
        assert_eq!(said.map(|said| said.text.as_str()), Some(expected));
    }
}
