//! The servers of a running gateway, laid out for people.

use serde_json::Value;

/// One paragraph per server: what it is, then its endpoints.
#[must_use]
pub fn table(servers: &Value) -> String {
    let mut text = String::new();
    for server in list(&servers["servers"]) {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &heading(server);
        let rows: Vec<[String; 6]> = list(&server["endpoints"]).iter().map(row).collect();
        if rows.is_empty() {
            text += "  no endpoint\n";
            continue;
        }
        let names = ["endpoint", "state", "since", "sessions", "in flight", "source"];
        let all: Vec<_> = std::iter::once(names.map(str::to_owned)).chain(rows).collect();
        let widths: [usize; 6] = std::array::from_fn(|column| {
            all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        });
        for row in &all {
            let cells = row.iter().zip(widths);
            let line: String = cells.map(|(cell, width)| format!("  {cell:width$}")).collect();
            text += line.trim_end();
            text.push('\n');
        }
    }
    if text.is_empty() { "no server\n".to_owned() } else { text }
}

fn heading(server: &Value) -> String {
    let routes: Vec<String> = list(&server["routes"]).iter().map(shown).collect();
    let routes = if routes.is_empty() { "no route".to_owned() } else { routes.join(" ") };
    let owner = match shown(&server["owner"]) {
        owner if owner.is_empty() => String::new(),
        owner => format!("  owner {owner}"),
    };
    let registered = if server["source"] == "registered" { "  registered" } else { "" };
    let offers = match shown(&server["catalog"]["state"]).as_str() {
        "known" => format!("  tools {}", shown(&server["catalog"]["tools"])),
        state @ "stale" => format!("  tools {} ({state})", shown(&server["catalog"]["tools"])),
        "unknown" => "  tools unknown".to_owned(),
        _ => String::new(),
    };
    format!(
        "{}  {routes}{owner}{registered}{offers}  sessions {}  in flight {}  last change {}\n",
        shown(&server["name"]),
        shown(&server["sessions"]),
        shown(&server["in_flight"]),
        shown(&server["last_change"]),
    )
}

fn row(endpoint: &Value) -> [String; 6] {
    let state = match shown(&endpoint["drain_deadline"]) {
        deadline if deadline.is_empty() => shown(&endpoint["state"]),
        deadline => format!("{} until {deadline}", shown(&endpoint["state"])),
    };
    let source = match (&endpoint["lease_seconds_left"], &endpoint["permanent"]) {
        (Value::Number(left), _) => {
            format!("{} {} for {left}s", shown(&endpoint["source"]), shown(&endpoint["id"]))
        }
        (_, Value::Bool(true)) => {
            format!("{} {}", shown(&endpoint["source"]), shown(&endpoint["id"]))
        }
        _ => shown(&endpoint["source"]),
    };
    let weight = match endpoint["weight"].as_u64() {
        Some(1) | None => String::new(),
        Some(weight) => format!(" weight {weight}"),
    };
    [
        shown(&endpoint["url"]) + &weight,
        state,
        shown(&endpoint["since"]),
        shown(&endpoint["sessions"]),
        shown(&endpoint["in_flight"]),
        source,
    ]
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A value as text, without what could steer a terminal: names come from whoever registers.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn servers_are_paragraphs_of_aligned_lines() {
        let endpoint = |url: &str, state: &str| {
            json!({
                "id": "a1", "url": url, "weight": 1, "source": "configured", "state": state,
                "since": "2026-11-22T13:00:00Z", "sessions": 12, "in_flight": 3,
                "lease_seconds_left": null, "drain_deadline": null, "permanent": false,
            })
        };
        let mut leased = endpoint("http://10.0.0.12:8000/mcp", "draining");
        leased["source"] = json!("registered");
        leased["lease_seconds_left"] = json!(20);
        leased["drain_deadline"] = json!("2026-11-22T13:05:00Z");
        leased["weight"] = json!(2);
        let servers = json!({ "servers": [
            { "name": "files", "owner": "team\u{1b}[31m", "routes": ["/files", "/f"], "source": "configured",
              "sessions": 24, "in_flight": 6, "last_change": "2026-11-22T13:00:00Z",
              "catalog": { "state": "known", "tools": 12 }, "endpoints": [endpoint("http://10.0.0.1:8000/mcp", "serving"), leased] },
            { "name": "new", "owner": null, "routes": [], "source": "registered",
              "sessions": 0, "in_flight": 0, "last_change": "2026-11-22T13:00:00Z", "endpoints": [] },
        ] });
        let expected = "\
files  /files /f  owner team [31m  tools 12  sessions 24  in flight 6  last change 2026-11-22T13:00:00Z
  endpoint                            state                                since                 sessions  in flight  source
  http://10.0.0.1:8000/mcp            serving                              2026-11-22T13:00:00Z  12        3          configured
  http://10.0.0.12:8000/mcp weight 2  draining until 2026-11-22T13:05:00Z  2026-11-22T13:00:00Z  12        3          registered a1 for 20s

new  no route  registered  sessions 0  in flight 0  last change 2026-11-22T13:00:00Z
  no endpoint
";
        assert_eq!(table(&servers), expected);
        assert_eq!(table(&json!({ "servers": [] })), "no server\n");
    }
}
