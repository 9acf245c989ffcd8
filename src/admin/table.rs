//! The servers of a running gateway, laid out for people.

use std::fmt::Write as _;

use serde_json::Value;

/// Lines of tools are broken here.
const LINE_CHARS_MAX: usize = 100;
/// Tools of one server that are named.
const TOOLS_MAX: usize = 200;

/// One paragraph per server: what it is, its endpoints, its tools, and what somebody should look at.
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
        } else {
            write_rows(rows, &mut text);
        }
        write_tools(server, &mut text);
        write_warnings(server, &mut text);
    }
    if text.is_empty() { "no server\n".to_owned() } else { text }
}

fn write_rows(rows: Vec<[String; 6]>, text: &mut String) {
    let names = ["endpoint", "state", "since", "sessions", "in flight", "source"];
    let all: Vec<_> = std::iter::once(names.map(str::to_owned)).chain(rows).collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    for row in &all {
        let cells = row.iter().zip(widths);
        let line: String = cells.map(|(cell, width)| format!("  {cell:width$}")).collect();
        *text += line.trim_end();
        text.push('\n');
    }
}

fn write_tools(server: &Value, text: &mut String) {
    let tools = list(&server["tools"]);
    let mut line = String::new();
    for (place, tool) in tools.iter().take(TOOLS_MAX).enumerate() {
        let name = shown(&tool["name"]);
        let mark = match tool["state"].as_str() {
            Some(state @ ("withheld" | "changed")) => format!(" ({state})"),
            _ => String::new(),
        };
        let comma = if place + 1 < tools.len() { "," } else { "" };
        let word = format!(" {name}{mark}{comma}");
        if !line.is_empty() && line.chars().count() + word.chars().count() > LINE_CHARS_MAX {
            *text += &format!("{line}\n");
            line.clear();
        }
        line += if line.is_empty() { if place == 0 { "  tools" } else { "       " } } else { "" };
        line += &word;
    }
    if tools.len() > TOOLS_MAX {
        line += &format!(" and {} more", tools.len() - TOOLS_MAX);
    }
    if !line.is_empty() {
        *text += &format!("{line}\n");
    }
}

/// Definitions that wait to be approved, and names that are like others.
fn write_warnings(server: &Value, text: &mut String) {
    for pending in list(&server["pending"]) {
        *text += &format!(
            "  {} {} since {}  digest {}\n",
            shown(&pending["state"]),
            shown(&pending["tool"]),
            shown(&pending["since"]),
            shown(&pending["digest"]),
        );
        for line in list(&pending["difference"]) {
            *text += &format!("    {}\n", shown(line));
        }
    }
    for alike in list(&server["alike"]) {
        let others = list(&alike["others"])
            .iter()
            .map(|other| format!("{}/{}", shown(&other["server"]), shown(&other["tool"])));
        let others = others.collect::<Vec<_>>().join(", ");
        let more = match alike["more"].as_u64() {
            None | Some(0) => String::new(),
            Some(more) => format!(" and {more} more"),
        };
        let (how, tool) = (shown(&alike["how"]), shown(&alike["tool"]));
        *text += &format!("  {how} {tool}: {others}{more}\n");
    }
}

fn heading(server: &Value) -> String {
    let routes: Vec<String> = list(&server["routes"]).iter().map(shown).collect();
    let routes = if routes.is_empty() { "no route".to_owned() } else { routes.join(" ") };
    let owner = match shown(&server["owner"]) {
        owner if owner.is_empty() => String::new(),
        owner => format!("  owner {owner}"),
    };
    let registered = match server["source"].as_str() {
        Some("registered") => "  registered",
        Some("discovered") => "  discovered",
        _ => "",
    };
    let offers = match shown(&server["catalog"]["state"]).as_str() {
        "known" => format!("  tools {}", shown(&server["catalog"]["tools"])),
        state @ "stale" => format!("  tools {} ({state})", shown(&server["catalog"]["tools"])),
        "unknown" => "  tools unknown".to_owned(),
        _ => String::new(),
    };
    let era = match shown(&server["era"]) {
        era if era.is_empty() => era,
        era => format!("  era {era}"),
    };
    let offered = match shown(&server["catalog"]["last_change"]) {
        at if at.is_empty() => at,
        at => format!(" since {at}"),
    };
    format!(
        "{}  {routes}{owner}{registered}{era}{offers}{offered}  sessions {}  in flight {}  last change {}\n",
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
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            _ if letter.is_control() => plain.push(' '),
            '\'' | '"' | '\\' => plain.push(letter),
            // What cannot be seen is what hides. A string can always be written to.
            _ => write!(plain, "{}", letter.escape_debug()).unwrap_or_default(),
        }
    }
    plain
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
        let mut servers = json!({ "servers": [
            { "name": "files", "owner": "team\u{1b}[31m", "routes": ["/files", "/f"], "source": "configured",
              "sessions": 24, "in_flight": 6, "last_change": "2026-11-22T13:00:00Z",
              "catalog": { "state": "known", "tools": 12 }, "endpoints": [endpoint("http://10.0.0.1:8000/mcp", "serving"), leased] },
            { "name": "new", "owner": null, "routes": [], "source": "registered",
              "sessions": 0, "in_flight": 0, "last_change": "2026-11-22T13:00:00Z", "endpoints": [] },
        ] });
        servers["servers"][0]["era"] = json!("modern");
        servers["servers"][0]["catalog"]["last_change"] = json!("2026-11-22T12:00:00Z");
        servers["servers"][0]["tools"] = json!([
            { "name": "read", "state": "pinned" }, { "name": "se\u{200b}nd", "state": "withheld" },
        ]);
        servers["servers"][0]["pending"] = json!([{
            "tool": "send", "state": "withheld", "since": "2026-11-22T13:00:00Z", "digest": "00ff",
            "difference": ["description: \"a\" -> \"b\""],
        }]);
        servers["servers"][0]["alike"] = json!([{
            "tool": "read", "how": "same_name", "others": [{ "server": "mail", "tool": "read" }], "more": 2,
        }]);
        let expected = "\
files  /files /f  owner team [31m  era modern  tools 12 since 2026-11-22T12:00:00Z  sessions 24  in flight 6  last change 2026-11-22T13:00:00Z
  endpoint                            state                                since                 sessions  in flight  source
  http://10.0.0.1:8000/mcp            serving                              2026-11-22T13:00:00Z  12        3          configured
  http://10.0.0.12:8000/mcp weight 2  draining until 2026-11-22T13:05:00Z  2026-11-22T13:00:00Z  12        3          registered a1 for 20s
  tools read, se\\u{200b}nd (withheld)
  withheld send since 2026-11-22T13:00:00Z  digest 00ff
    description: \"a\" -> \"b\"
  same_name read: mail/read and 2 more

new  no route  registered  sessions 0  in flight 0  last change 2026-11-22T13:00:00Z
  no endpoint
";
        assert_eq!(table(&servers), expected);
        assert_eq!(table(&json!({ "servers": [] })), "no server\n");
    }
}
