//! What the fixture offers, as the suite's descriptions word it: lists, prompts and resources.

use rmcp::model::{
    ErrorData, GetPromptRequestParams, GetPromptResult, Prompt, ReadResourceResult, Resource,
    ResourceTemplate, Tool,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A PNG of one red pixel.
pub(crate) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
/// Four silent samples.
pub(crate) const WAV: &str =
    "UklGRiwAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQgAAAAAAAAAAAAAAA==";

/// Tools without arguments: name and description.
const PLAIN_TOOLS: &[(&str, &str)] = &[
    ("test_simple_text", "Returns one text"),
    ("test_image_content", "Returns a small PNG"),
    ("test_audio_content", "Returns a short WAV"),
    ("test_embedded_resource", "Returns an embedded resource"),
    ("test_multiple_content_types", "Returns text, image and resource"),
    ("test_error_handling", "Always fails"),
    ("test_tool_with_logging", "Logs three lines while it runs"),
    ("test_tool_with_progress", "Reports 0, 50 and 100 of 100"),
    ("test_reconnection", "Closes its stream before the result"),
    ("test_elicitation_sep1034_defaults", "Asks the user, with a default for every primitive"),
    ("test_elicitation_sep1330_enums", "Asks the user, with every kind of enum"),
    ("test_missing_capability", "Needs a client that can sample"),
    ("test_streaming_elicitation", "Asks the user by an input_required result"),
    ("test_logging_tool", "Logs only when the request asks for a level"),
    ("test_trigger_tool_change", "Says that the list of tools changed"),
    ("test_trigger_prompt_change", "Says that the list of prompts changed"),
    ("test_input_required_result_elicitation", "Asks for a name, then greets"),
    ("test_input_required_result_sampling", "Asks the model, then repeats the answer"),
    ("test_input_required_result_list_roots", "Asks for the roots, then lists them"),
    ("test_input_required_result_request_state", "Checks the state that comes back"),
    ("test_input_required_result_multiple_inputs", "Asks three things at once"),
    ("test_input_required_result_multi_round", "Asks twice, one after the other"),
    ("test_input_required_result_tampered_state", "Refuses a state that was changed"),
    ("test_input_required_result_capabilities", "Asks only what the client can answer"),
    ("failing_job", "A task whose tool fails"),
    ("protocol_error_job", "A task that ends in a protocol error"),
    ("multi_input", "A task that asks two things at once"),
    ("test_tool_with_task", "Asks for a name, then goes on as a task"),
];

/// Every tool, in the same order each time.
pub(crate) fn tools() -> Result<Vec<Tool>, ErrorData> {
    let mut tools: Vec<Value> = PLAIN_TOOLS
        .iter()
        .map(|(name, description)| tool(name, description, json!({ "type": "object" })))
        .collect();
    tools.extend([
        tool("test_sampling", "Asks the client's model", strings(&["prompt"])),
        tool("test_elicitation", "Asks the user", strings(&["message"])),
        tool("greet", "Says hello", strings(&["name"])),
        tool("confirm_delete", "A task that asks before it deletes", strings(&["filename"])),
        tool(
            "slow_compute",
            "A task that takes its time",
            json!({ "type": "object", "properties": {
                "seconds": { "type": "number" }, "label": { "type": "string" } } }),
        ),
        tool(
            "test_x_mcp_header",
            "Repeats a value that is mirrored in a header",
            json!({ "type": "object", "properties": {
                "region": { "type": "string", "x-mcp-header": "Region" } } }),
        ),
        tool(
            "json_schema_2020_12_tool",
            "Tool with JSON Schema 2020-12 features",
            json_schema_2020_12(),
        ),
    ]);
    typed(Value::Array(tools))
}

/// Every prompt.
pub(crate) fn prompts() -> Result<Vec<Prompt>, ErrorData> {
    let argument = |name: &str| json!({ "name": name, "description": name, "required": true });
    typed(json!([
        { "name": "test_simple_prompt", "description": "One message" },
        { "name": "test_prompt_with_arguments", "description": "Two arguments",
          "arguments": [argument("arg1"), argument("arg2")] },
        { "name": "test_prompt_with_embedded_resource", "description": "A resource",
          "arguments": [argument("resourceUri")] },
        { "name": "test_prompt_with_image", "description": "An image" },
        { "name": "test_input_required_result_prompt", "description": "Asks for context first" },
    ]))
}

/// One prompt with its arguments filled in.
pub(crate) fn prompt(request: &GetPromptRequestParams) -> Result<GetPromptResult, ErrorData> {
    let argument = |name: &str| {
        let arguments = request.arguments.as_ref();
        arguments.and_then(|all| all.get(name)).and_then(Value::as_str).unwrap_or_default()
    };
    let text = |text: String| json!({ "role": "user", "content": { "type": "text", "text": text }});
    let messages = match request.name.as_str() {
        "test_simple_prompt" => vec![text("This is a simple prompt for testing.".into())],
        "test_prompt_with_arguments" => {
            let (first, second) = (argument("arg1"), argument("arg2"));
            vec![text(format!("Prompt with arguments: arg1='{first}', arg2='{second}'"))]
        }
        "test_prompt_with_embedded_resource" => vec![
            json!({ "role": "user", "content": { "type": "resource", "resource": {
                "uri": argument("resourceUri"), "mimeType": "text/plain",
                "text": "Embedded resource content for testing." } } }),
            text("Please process the embedded resource above.".into()),
        ],
        "test_prompt_with_image" => vec![
            json!({ "role": "user", "content": {
                "type": "image", "data": PNG, "mimeType": "image/png" } }),
            text("Please analyze the image above.".into()),
        ],
        name => return Err(ErrorData::invalid_params(format!("unknown prompt {name}"), None)),
    };
    Ok(GetPromptResult::new(typed(Value::Array(messages))?))
}

/// Every direct resource.
pub(crate) fn resources() -> Result<Vec<Resource>, ErrorData> {
    typed(json!([
        { "uri": "test://static-text", "name": "static-text", "description": "A text",
          "mimeType": "text/plain" },
        { "uri": "test://static-binary", "name": "static-binary", "description": "A PNG",
          "mimeType": "image/png" },
        { "uri": "test://watched-resource", "name": "watched-resource",
          "description": "A text to subscribe to", "mimeType": "text/plain" },
    ]))
}

/// The one template.
pub(crate) fn templates() -> Result<Vec<ResourceTemplate>, ErrorData> {
    typed(json!([{ "uriTemplate": "test://template/{id}/data", "name": "template",
        "description": "Data of an id", "mimeType": "application/json" }]))
}

/// The contents behind a URI.
pub(crate) fn resource(uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
    let contents = match (uri, id) {
        ("test://static-text", _) => json!({ "uri": uri, "mimeType": "text/plain",
            "text": "This is the content of the static text resource." }),
        ("test://static-binary", _) => json!({ "uri": uri, "mimeType": "image/png", "blob": PNG }),
        ("test://watched-resource", _) => json!({ "uri": uri, "mimeType": "text/plain",
            "text": "This resource can be watched." }),
        (_, Some(id)) => json!({ "uri": uri, "mimeType": "application/json", "text": json!({
            "id": id, "templateTest": true, "data": format!("Data for ID: {id}") }).to_string() }),
        _ => {
            let uri = json!({ "uri": uri });
            return Err(ErrorData::resource_not_found("Resource not found", Some(uri)));
        }
    };
    Ok(ReadResourceResult::new(typed(json!([contents]))?))
}

/// Turns the JSON written here into rmcp's types, so that the fixture reads like the wire.
pub(crate) fn typed<T: DeserializeOwned>(json: Value) -> Result<T, ErrorData> {
    serde_json::from_value(json)
        .map_err(|problem| ErrorData::internal_error(problem.to_string(), None))
}

fn tool(name: &str, description: &str, input_schema: Value) -> Value {
    json!({ "name": name, "description": description, "inputSchema": input_schema })
}

fn strings(names: &[&str]) -> Value {
    let properties: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!({ "type": "string" }))).collect();
    json!({ "type": "object", "properties": properties, "required": names })
}

fn json_schema_2020_12() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": { "address": { "$anchor": "addressDef", "type": "object", "properties": {
            "street": { "type": "string" }, "city": { "type": "string" } } } },
        "properties": {
            "name": { "type": "string" },
            "address": { "$ref": "#/$defs/address" },
            "contactMethod": { "type": "string", "enum": ["phone", "email"] },
            "phone": { "type": "string" },
            "email": { "type": "string" }
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "contactMethod": { "const": "phone" } },
                "required": ["contactMethod"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false
    })
}
