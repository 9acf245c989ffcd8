//! Tests of the whole module: what is accepted, what is refused, and how it is told.

pub(super) mod directory;
mod bad_credentials;
mod bad_federation;
mod bad_forms;
mod bad_policy;
mod bad_sections;
mod bad_servers;
mod credential_keys;
mod examples;
mod export_keys;
mod federation_keys;
mod files;
mod identity_keys;
mod immovable;
mod keys;
mod kubernetes_keys;
mod policy_keys;
mod server_keys;
mod shared_keys;
mod shown;

use serde_json::Value;

use super::parse;

/// The smallest sections, for texts that are about something else.
const MINIMAL: [(&str, &str); 3] = [
    ("listen", "listen: 127.0.0.1:8080\n"),
    ("servers:", "servers: { everything: { endpoints: [http://127.0.0.1:3001/mcp] } }\n"),
    ("routes:", "routes: [{ path: /mcp, server: everything }]\n"),
];

/// The text, completed by the minimal sections it lacks.
fn completed(text: &str) -> String {
    let lacks = |key: &str| !text.lines().any(|line| line.starts_with(key));
    let lacking = MINIMAL.iter().filter(|(key, _)| lacks(key));
    lacking.fold(text.to_owned(), |text, (_, section)| text + section)
}

fn environment(name: &str) -> Option<String> {
    match name {
        "SHORT" => Some("hunter2".to_owned()),
        "LONG" => Some("correct horse battery staple and more".to_owned()),
        "BADTIME" => Some("s3cr3t".to_owned()),
        "MINUTES" => Some("7".to_owned()),
        _ => None,
    }
}

/// A bad text, and everything that is told about it.
type Row = (&'static str, &'static [&'static str]);

/// The text is completed by the minimal sections it lacks; a problem is `line:column message (hint)`.
fn check_told(rows: &[Row]) {
    for (text, expected) in rows {
        let problems = parse(&completed(text), "t", &environment).unwrap_err();
        let told: Vec<String> = problems
            .list()
            .iter()
            .map(|problem| {
                let (line, column) = (problem.place.line(), problem.place.column());
                let hint = problem.hint.as_deref().unwrap_or_default();
                format!("{line}:{column} {} ({hint})", problem.message)
            })
            .collect();
        assert_eq!(told, *expected, "{text}");
    }
}

/// Every key of the schema as a path: `servers.*.endpoints[].weight`.
fn schema_paths() -> Vec<String> {
    let schema: Value = serde_json::from_str(&super::schema()).unwrap();
    let mut paths = Vec::new();
    collect_paths(&schema, "", &mut paths);
    paths.sort();
    paths.dedup();
    paths
}

fn collect_paths(schema: &Value, path: &str, paths: &mut Vec<String>) {
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        paths.push(path.clone());
        collect_paths(schema, &path, paths);
    }
    for schema in schema["anyOf"].as_array().into_iter().flatten() {
        collect_paths(schema, path, paths);
    }
    if schema["items"].is_object() {
        collect_paths(&schema["items"], &format!("{path}[]"), paths);
    }
    if schema["additionalProperties"].is_object() {
        collect_paths(&schema["additionalProperties"], &format!("{path}.*"), paths);
    }
}
