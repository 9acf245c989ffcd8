//! Servers registered for good: the body is what stands under a server's name in YAML, as JSON.

use http::StatusCode;
use serde_json::{Map, Value};

use super::answer::{Answer, Denial};
use super::api::{Api, Asked, Mode, check_tag, parse};
use super::registrations::Servers;

impl Api {
    /// Registers a server with its routes, in place of one that was registered under its name.
    pub(super) fn put_server(
        &self,
        asked: &Asked,
        name: &str,
        body: &[u8],
    ) -> Result<Answer, Denial> {
        let (server, routes) = read(name, body)?;
        let mut turn = self.turn()?;
        let servers = self.reload().registrations().servers();
        let before = self.pool(name).ok();
        if before.is_some() && !servers.contains(name) {
            return Err(Denial::conflict("the configuration or a discovery defines this server"));
        }
        check_tag(asked, self.tag(name))?;
        let status = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        let servers = servers.with(name, server, routes);
        self.install(&mut turn, asked, name, servers)?;
        let body = self.pool(name).map_or(Value::Null, |pool| self.view(&pool).0);
        Ok(self.done(asked, name, status, body))
    }

    /// Takes a registered server away, with its routes and endpoints.
    pub(super) fn delete_server(&self, asked: &Asked, name: &str) -> Result<Answer, Denial> {
        let mut turn = self.turn()?;
        let servers = self.reload().registrations().servers();
        self.pool(name)?;
        if !servers.contains(name) {
            return Err(Denial::conflict("the configuration or a discovery defines this server"));
        }
        check_tag(asked, self.tag(name))?;
        self.install(&mut turn, asked, name, servers.without(name))?;
        if asked.mode == Mode::Real {
            let forgotten = self.reload().registrations().forget_server(name);
            forgotten.map_err(|error| Denial::internal(&error))?;
        }
        Ok(self.done(asked, name, StatusCode::OK, Value::Object(Map::new())))
    }

    fn install(
        &self,
        turn: &mut super::reload::Turn<'_>,
        asked: &Asked,
        name: &str,
        servers: Servers,
    ) -> Result<(), Denial> {
        match asked.mode {
            Mode::DryRun => self.reload().rehearse(turn, &servers)?,
            Mode::Real => {
                let before = self.tag(name).unwrap_or_default();
                let changes = self.reload().register(turn, servers)?;
                let after = self.tag(name).unwrap_or_default();
                self.note(
                    asked,
                    "registered servers",
                    name,
                    &before,
                    &format!("{after} {}", changes.join("; ")),
                );
            }
        }
        Ok(())
    }
}

/// The server and its routes as an included file would hold them; the configuration checks the rest.
fn read(name: &str, body: &[u8]) -> Result<(Value, Vec<Value>), Denial> {
    let mut server: Map<String, Value> = parse(body)?;
    // The environment and the files are the operator's who started the gateway, not of whoever holds
    // a token.
    if is_variable(name)
        || server.iter().any(|(key, value)| is_variable(key) || names_a_variable(value))
    {
        return Err(Denial::unprocessable(
            "a registered server cannot read the environment by ${…}",
        ));
    }
    if server.get("discovery").is_some_and(|discovery| discovery.get("file").is_some()) {
        return Err(Denial::unprocessable(
            "a registered server cannot read a file; use `discovery: { dns: URL }`, or register its endpoints",
        ));
    }
    if server.contains_key("credentials") {
        return Err(Denial::unprocessable(
            "a registered server gets no credentials; write it into the configuration",
        ));
    }
    let routes = match server.remove("routes") {
        None => Vec::new(),
        Some(Value::Array(routes)) => routes,
        Some(_) => return Err(Denial::unprocessable("`routes` is a list")),
    };
    let with_server = |route: Value| match route {
        Value::Object(mut route) if !route.contains_key("server") => {
            route.insert("server".to_owned(), name.into());
            Ok(Value::Object(route))
        }
        _ => Err(Denial::unprocessable("a route is {\"path\": \"/x\"}, and leads to this server")),
    };
    let routes = routes.into_iter().map(with_server).collect::<Result<_, _>>()?;
    Ok((Value::Object(server), routes))
}

fn is_variable(text: &str) -> bool {
    text.contains("${")
}

fn names_a_variable(value: &Value) -> bool {
    let in_entry = |(key, value): (&String, &Value)| is_variable(key) || names_a_variable(value);
    match value {
        Value::String(text) => is_variable(text),
        Value::Array(items) => items.iter().any(names_a_variable),
        Value::Object(entries) => entries.iter().any(in_entry),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::read;
    use serde_json::json;

    #[test]
    fn a_body_is_a_server_and_its_routes() {
        let (server, routes) =
            read("new", br#"{"owner":"x","endpoints":["http://h/"],"routes":[{"path":"/n"}]}"#)
                .expect("good");
        assert_eq!(server, json!({ "owner": "x", "endpoints": ["http://h/"] }));
        assert_eq!(routes, [json!({ "path": "/n", "server": "new" })]);
        for bad in [
            "[]",
            "{",
            r#"{"routes":{}}"#,
            r#"{"routes":["/n"]}"#,
            r#"{"routes":[{"path":"/n","server":"other"}]}"#,
            r#"{"endpoints":["http://${HOME}/"]}"#,
            r#"{"routes":[{"path":"/${HOME}"}]}"#,
            r#"{"${HOME}":1}"#,
            r#"{"health":{"${HOME}":1}}"#,
            r#"{"owner":"\u0024{HOME}"}"#,
            r#"{"discovery":{"file":"/etc/passwd"}}"#,
            r#"{"discovery":{"dns":"http://h/","file":"x"}}"#,
            r#"{"credentials":{"token_file":"/etc/passwd"}}"#,
        ] {
            assert!(read("new", bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read("${HOME}", b"{}").is_err(), "a name is written into the file, too");
        assert!(read("new", br#"{"discovery":{"dns":"http://h/"}}"#).is_ok());
    }
}
