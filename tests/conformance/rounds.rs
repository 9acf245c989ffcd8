//! Tools and a prompt that ask for input first and finish when the client comes back with it.

use super::offer::typed;
use super::tools::text;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ErrorData, GetPromptRequestParams, GetPromptResponse,
    GetPromptResult, InputRequiredResult, InputResponses, PromptMessage, RequestStateCodec, Role,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Value, json};

/// The same in every process, so that any replica of the fixture can finish what another began.
const STATE_KEY: [u8; 32] = *b"a fixture needs no secret at all";

/// The answer of a tool of this module; `None` for every other tool.
pub(crate) fn call(
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<Option<CallToolResponse>, ErrorData> {
    let answers = request.input_responses.as_ref();
    let Some(tool) = request.name.strip_prefix("test_input_required_result_") else {
        return match request.name.as_ref() {
            "test_streaming_elicitation" => greeting(answers).map(Some),
            _ => Ok(None),
        };
    };
    match tool {
        "elicitation" => greeting(answers),
        "sampling" => one("capital_question", sampling("What is the capital of France?"), answers),
        "list_roots" => one("client_roots", roots(), answers),
        "request_state" | "tampered_state" => with_state(request),
        "multiple_inputs" => multiple(request),
        "multi_round" => rounds(request),
        "capabilities" => within_capabilities(context, answers),
        name => Err(ErrorData::invalid_params(format!("unknown tool {name}"), None)),
    }
    .map(Some)
}

/// The answer of the prompt that asks first; `None` for every other prompt.
pub(crate) fn prompt(
    request: &GetPromptRequestParams,
) -> Result<Option<GetPromptResponse>, ErrorData> {
    if request.name != "test_input_required_result_prompt" {
        return Ok(None);
    }
    let answers = request.input_responses.as_ref();
    Ok(Some(match accepted(answers, "user_context", "context") {
        Some(context) => {
            let message = format!("Use this context: {context}");
            GetPromptResult::new(vec![PromptMessage::new_text(Role::User, message)]).into()
        }
        None => {
            let question = elicitation("What context should the prompt use?", "context");
            ask(json!({ "user_context": question }), None)?.into()
        }
    }))
}

/// The question for a name, which several tools begin with.
pub(crate) fn ask_name() -> Result<InputRequiredResult, ErrorData> {
    ask(json!({ "user_name": elicitation("What is your name?", "name") }), None)
}

/// The name, once the client has come back with it.
pub(crate) fn name(answers: Option<&InputResponses>) -> Option<&str> {
    accepted(answers, "user_name", "name")
}

/// An elicitation of one string.
pub(crate) fn elicitation(message: &str, field: &str) -> Value {
    json!({ "method": "elicitation/create", "params": { "message": message,
        "requestedSchema": { "type": "object", "required": [field],
            "properties": { field: { "type": "string" } } } } })
}

fn greeting(answers: Option<&InputResponses>) -> Result<CallToolResponse, ErrorData> {
    Ok(match name(answers) {
        Some(name) => text(format!("Hello, {name}!")).into(),
        None => ask_name()?.into(),
    })
}

fn one(
    key: &str,
    question: Value,
    answers: Option<&InputResponses>,
) -> Result<CallToolResponse, ErrorData> {
    Ok(match answers.and_then(|answers| answers.get(key)) {
        Some(answer) => text(format!("The client says: {answer}")).into(),
        None => ask(json!({ key: question }), None)?.into(),
    })
}

fn with_state(request: &CallToolRequestParams) -> Result<CallToolResponse, ErrorData> {
    let state = opened(request)?;
    let answers = request.input_responses.as_ref();
    Ok(match answers.and_then(|answers| answers.get("confirm")) {
        Some(_) if state.as_deref() == Some("confirming") => text("state-ok").into(),
        _ => {
            let question = json!({ "method": "elicitation/create", "params": {
                "message": "Please confirm", "requestedSchema": { "type": "object",
                    "required": ["ok"], "properties": { "ok": { "type": "boolean" } } } } });
            ask(json!({ "confirm": question }), Some("confirming"))?.into()
        }
    })
}

fn multiple(request: &CallToolRequestParams) -> Result<CallToolResponse, ErrorData> {
    let state = opened(request)?;
    let questions = json!({
        "user_name": elicitation("What is your name?", "name"),
        "greeting": sampling("Generate a greeting"),
        "client_roots": roots(),
    });
    let answers = request.input_responses.as_ref();
    let complete = answers.is_some_and(|answers| {
        ["user_name", "greeting", "client_roots"].iter().all(|key| answers.contains_key(*key))
    });
    Ok(match complete && state.as_deref() == Some("three") {
        true => text("All three answers are here").into(),
        false => ask(questions, Some("three"))?.into(),
    })
}

fn rounds(request: &CallToolRequestParams) -> Result<CallToolResponse, ErrorData> {
    let state = opened(request)?;
    let answers = request.input_responses.as_ref();
    let name = accepted(answers, "step1", "name");
    let color = accepted(answers, "step2", "color");
    Ok(match (state.as_deref(), name, color) {
        (Some("round-2"), _, Some(color)) => text(format!("Both steps done, {color}")).into(),
        (Some("round-1"), Some(_), _) => {
            let question = elicitation("Step 2: What is your favorite color?", "color");
            ask(json!({ "step2": question }), Some("round-2"))?.into()
        }
        _ => {
            let question = elicitation("Step 1: What is your name?", "name");
            ask(json!({ "step1": question }), Some("round-1"))?.into()
        }
    })
}

fn within_capabilities(
    context: &RequestContext<RoleServer>,
    answers: Option<&InputResponses>,
) -> Result<CallToolResponse, ErrorData> {
    let can = context.client_capabilities().unwrap_or_default();
    let mut questions = serde_json::Map::new();
    if can.elicitation.is_some() {
        questions.insert("user_name".into(), elicitation("What is your name?", "name"));
    }
    if can.sampling.is_some() {
        questions.insert("greeting".into(), sampling("Generate a greeting"));
    }
    if can.roots.is_some() {
        questions.insert("client_roots".into(), roots());
    }
    Ok(match questions.is_empty() || answers.is_some() {
        true => text("Nothing left to ask").into(),
        false => ask(Value::Object(questions), None)?.into(),
    })
}

fn ask(questions: Value, state: Option<&str>) -> Result<InputRequiredResult, ErrorData> {
    let state =
        state.map(|state| Ok::<_, ErrorData>(codec()?.seal(state.as_bytes()))).transpose()?;
    Ok(InputRequiredResult::new(Some(typed(questions)?), state))
}

/// The state that came back; a state that was changed on the way is the client's fault.
fn opened(request: &CallToolRequestParams) -> Result<Option<String>, ErrorData> {
    let Some(sealed) = &request.request_state else { return Ok(None) };
    let invalid = || ErrorData::invalid_params("requestState was not made here", None);
    let state = codec()?.open(sealed).map_err(|_| invalid())?;
    String::from_utf8(state).map(Some).map_err(|_| invalid())
}

fn codec() -> Result<RequestStateCodec, ErrorData> {
    RequestStateCodec::try_new(STATE_KEY)
        .map_err(|problem| ErrorData::internal_error(problem.to_string(), None))
}

/// A string from an elicitation that the user accepted; anything else is asked for again.
fn accepted<'a>(answers: Option<&'a InputResponses>, key: &str, field: &str) -> Option<&'a str> {
    let answer = answers?.get(key)?;
    (answer["action"] == "accept").then(|| answer["content"][field].as_str())?
}

fn sampling(prompt: &str) -> Value {
    json!({ "method": "sampling/createMessage", "params": { "maxTokens": 100, "messages": [
        { "role": "user", "content": { "type": "text", "text": prompt } }] } })
}

fn roots() -> Value {
    json!({ "method": "roots/list", "params": {} })
}
