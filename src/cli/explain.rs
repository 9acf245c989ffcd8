//! `toolgate explain` and `toolgate check --against`: what a policy says, before it says it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{FAILURE, bad_configuration, failed, load, token};
use crate::admin;
use crate::config::{Problems, Route, Settings};
use crate::policy::{self, Inquiry, Policy};
use crate::serve;

/// It would be refused, or something is other: the answer is no, and nothing failed.
const NO: u8 = FAILURE;
/// More rows than anybody reads.
const ROWS_MAX: usize = 1000;

/// Says whether a call would be allowed, by which rule, and what every other rule has to do with it.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// The caller's id, or anonymous; its API key says what else it is, unless that is given.
    #[arg(long)]
    caller: String,
    /// The caller's tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// The caller's scopes, with commas between them.
    #[arg(long, value_delimiter = ',')]
    scopes: Option<Vec<String>>,
    /// What the caller's token says, as a JSON object.
    #[arg(long)]
    claims: Option<String>,
    /// Who vouches for the caller.
    #[arg(long)]
    issuer: Option<String>,
    /// How the caller proved itself: anonymous, api_key, jwt, introspection or certificate.
    #[arg(long)]
    proof: Option<String>,
    /// The server; needed where there are several, unless --route or a tool with its server says it.
    #[arg(long, conflicts_with = "route")]
    server: Option<String>,
    /// A route, which says the server.
    #[arg(long)]
    route: Option<String>,
    /// The tool, by its own name, or server/own_name.
    #[arg(long, group = "what")]
    tool: Option<String>,
    /// A prompt, by its own name.
    #[arg(long, group = "what")]
    prompt: Option<String>,
    /// A resource, by its URI.
    #[arg(long, group = "what")]
    resource: Option<String>,
    /// A method that names none of these, such as initialize.
    #[arg(long, group = "what")]
    method: Option<String>,
    /// The arguments of the call, as JSON; without them the call has none.
    #[arg(long)]
    arguments: Option<String>,
    /// The tool's annotations, as a JSON object; without them they are not known.
    #[arg(long)]
    annotations: Option<String>,
    /// The client's address.
    #[arg(long)]
    client: Option<IpAddr>,
    /// Ask the gateway that runs at this admin listener, which knows the annotations of its tools.
    #[arg(long)]
    ask: Option<String>,
    /// A file with the token for it; without it the environment variable TOOLGATE_ADMIN_TOKEN is read.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Explain {
    /// Exits with 0 where it would be allowed, and with 1 where it would be refused.
    pub(super) fn run(self) -> ExitCode {
        let settings = match checked(&self.config) {
            Ok(settings) => settings,
            Err(problems) => return bad_configuration(&problems),
        };
        let answer = self.inquiry(&settings).and_then(|inquiry| match &self.ask {
            Some(url) => {
                let token = token(self.token_file.as_deref())?;
                let question =
                    serde_json::to_string(&inquiry).map_err(|error| error.to_string())?;
                admin::explain(url, token.trim(), &question).map_err(|fault| fault.to_string())
            }
            None => {
                let policy = compiled(&settings)?;
                inquiry.answer(&policy, &settings, &|_, _| None)
            }
        });
        match answer {
            Ok(answer) => {
                self.print(&answer);
                match answer["decision"].as_str() {
                    Some("allowed") => ExitCode::SUCCESS,
                    _ => ExitCode::from(NO),
                }
            }
            Err(why) => failed(&why),
        }
    }

    fn print(&self, answer: &Value) {
        if self.json {
            println!("{answer:#}");
            return;
        }
        print!("{}", answer["text"].as_str().unwrap_or_default());
        for combination in answer["combinations"].as_array().into_iter().flatten() {
            println!("  {}", combination.as_str().unwrap_or_default());
        }
    }

    fn inquiry(&self, settings: &Settings) -> Result<Inquiry, String> {
        let json = |text: &Option<String>, name: &str| {
            let parse = |text: &String| {
                serde_json::from_str(text).map_err(|error| format!("--{name} is no JSON: {error}"))
            };
            text.as_ref().map(parse).transpose()
        };
        let claims = match json(&self.claims, "claims")? {
            None => None,
            Some(Value::Object(claims)) => Some(claims),
            Some(_) => return Err("--claims is a JSON object".to_owned()),
        };
        let arguments = self.arguments.clone().map(RawValue::from_string).transpose();
        Ok(Inquiry {
            caller: self.caller.clone(),
            tenant: self.tenant.clone(),
            scopes: self.scopes.clone(),
            claims,
            issuer: self.issuer.clone(),
            proof: self.proof.clone(),
            server: self.server(settings)?,
            tool: self.tool.clone(),
            prompt: self.prompt.clone(),
            resource: self.resource.clone(),
            method: self.method.clone(),
            arguments: arguments.map_err(|error| format!("--arguments is no JSON: {error}"))?,
            annotations: json(&self.annotations, "annotations")?,
            client: self.client,
        })
    }

    fn server(&self, settings: &Settings) -> Result<Option<String>, String> {
        let Some(path) = &self.route else { return Ok(self.server.clone()) };
        let route = settings.routes.iter().find(|route| route.path == *path);
        let servers = route.map(Route::servers).unwrap_or_default();
        let mut servers = servers.into_iter().filter_map(|server| settings.servers.get(server));
        match (servers.next(), servers.next()) {
            (None, _) => Err(format!("there is no route {path}")),
            (Some(server), None) => Ok(Some(server.name.clone())),
            (Some(_), Some(_)) => {
                Err(format!("{path} shows several servers: say which with --server"))
            }
        }
    }
}

fn checked(path: &Path) -> Result<Settings, Problems> {
    load(path).and_then(|settings| serve::check(&settings).map(|()| settings))
}

fn compiled(settings: &Settings) -> Result<Policy, String> {
    let servers = settings.servers.iter().map(|server| server.name.as_str());
    Policy::new(&settings.policy, servers).map_err(|faults| {
        faults.into_iter().map(|fault| fault.message).collect::<Vec<_>>().join("; ")
    })
}

/// Shows what one configuration locks out or exposes against another; exits with 0 where nothing is
/// other, and with 1 where something is.
pub(super) fn against(new: &Path, old: &Path) -> ExitCode {
    let both = checked(old).and_then(|before| Ok((before, checked(new)?)));
    let (before, after) = match both {
        Ok(both) => both,
        Err(problems) => return bad_configuration(&problems),
    };
    let policies = compiled(&before).and_then(|policy| Ok((policy, compiled(&after)?)));
    let (old_policy, new_policy) = match policies {
        Ok(policies) => policies,
        Err(why) => return failed(&why),
    };
    let found = policy::differences((&before, &old_policy), (&after, &new_policy));
    for difference in found.iter().take(ROWS_MAX) {
        println!("{difference}");
    }
    if found.len() > ROWS_MAX {
        println!("and {} more", found.len() - ROWS_MAX);
    }
    if found.is_empty() {
        println!(
            "{} locks nobody out and exposes nothing against {}",
            new.display(),
            old.display()
        );
        return ExitCode::SUCCESS;
    }
    ExitCode::from(NO)
}
