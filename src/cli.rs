//! Every command of the program.
#![expect(clippy::print_stdout, reason = "answers of commands go to standard output")]

mod explain;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Parser, Subcommand};

use crate::admin;
use crate::audit::{self, Extent, Until, Wanted};
use crate::config::{self, Problems, Settings};
use crate::identity::NewKey;
use crate::serve::{self, Failure, Start};
use crate::telemetry;
use crate::tls;

/// Something went wrong at run time.
const FAILURE: u8 = 1;
/// The configuration is wrong (`EX_CONFIG` of sysexits.h).
const BAD_CONFIGURATION: u8 = 78;

/// An edge proxy for the Model Context Protocol.
#[derive(Debug, Parser)]
#[command(name = "toolgate", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a gateway in front of a small fleet of MCP servers inside this process.
    #[cfg(feature = "demo")]
    Demo {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
    },
    /// Run the gateway.
    Run {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Take over from the gateway that runs with the same state_dir, which then drains: it hands over its sockets when it gets SIGQUIT.
        #[arg(long)]
        upgrade: bool,
    },
    /// Check a configuration: every problem at once, each with its line.
    Check {
        /// The configuration file.
        #[arg(long, required_unless_present = "schema")]
        config: Option<PathBuf>,
        /// Print the JSON Schema of the configuration instead, for editors.
        #[arg(long)]
        schema: bool,
        /// Show what this configuration's policy locks out or exposes against another one; exits with 1 where something is other.
        #[arg(long, value_name = "OLD", conflicts_with = "schema")]
        against: Option<PathBuf>,
        /// Also ask the servers what they offer: whether they answer, in which era, and what a route of several servers would not show as they have it; exits with 1 where something would be missing.
        #[arg(long, conflicts_with_all = ["schema", "against"])]
        ask: bool,
    },
    /// Say whether a call would be allowed, by which rule, and why the others do not matter; exits with 1 where it would be refused.
    Explain(Box<explain::Explain>),
    /// Show what a running gateway knows of its servers: owners, endpoints, states, sessions.
    Servers {
        /// The gateway's admin listener.
        #[arg(long, default_value = "http://127.0.0.1:9901", conflicts_with = "config")]
        admin: String,
        /// The gateway's configuration file, which names its admin listener.
        #[arg(long)]
        config: Option<PathBuf>,
        /// A file with the token; without it the environment variable TOOLGATE_ADMIN_TOKEN is read.
        #[arg(long)]
        token_file: Option<PathBuf>,
        /// Print what the admin API answered.
        #[arg(long)]
        json: bool,
    },
    /// Ask a running gateway whether it is ready, as container checks do; exits with 1 where it is not.
    Health {
        /// The gateway's health listener.
        #[arg(long, default_value = "http://127.0.0.1:9900", conflicts_with = "config")]
        url: String,
        /// The gateway's configuration file, which names its health listener, or else its admin listener.
        #[arg(long)]
        config: Option<PathBuf>,
        /// How long to wait for the answer.
        #[arg(long, default_value_t = 3)]
        timeout_seconds: u64,
    },
    /// Read the record of what happened.
    #[command(subcommand)]
    Audit(Audit),
    /// Make keys for callers.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// Check that every line is as it was written, and that none is missing, in any order of the files.
    Verify {
        /// The files, rotated ones too.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The files are a part of the record: a chain may have begun before them.
        #[arg(long)]
        part: bool,
    },
    /// Show records in short lines.
    Tail {
        /// The files, of one replica or of several.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Only those of this caller; `*` and `?` stand for characters.
        #[arg(long)]
        caller: Option<String>,
        /// Only those of this tool; `*` and `?` stand for characters.
        #[arg(long)]
        tool: Option<String>,
        /// Go on with what is added to the file, also when it is rotated.
        #[arg(long)]
        follow: bool,
        /// How many of those that are there already are shown.
        #[arg(long, default_value_t = 20)]
        last: usize,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Print a fresh API key, and the line with its digest for `identity.api_keys`.
    New {
        /// Who will hold it.
        #[arg(long, default_value = "NAME")]
        caller: String,
    },
}

/// Reads the arguments and does what they say.
pub fn run() -> ExitCode {
    match Arguments::parse().command {
        #[cfg(feature = "demo")]
        Command::Demo { listen } => demo(listen),
        Command::Run { config, upgrade } => match load(&config) {
            Ok(settings) => {
                telemetry::start_diagnostics();
                let start = if upgrade { Start::Upgrade } else { Start::Afresh };
                ended(serve::run(&settings, Some(&config), Vec::new(), start))
            }
            Err(problems) => bad_configuration(&problems),
        },
        Command::Check { schema: true, .. } => {
            println!("{}", config::schema());
            ExitCode::SUCCESS
        }
        Command::Check { config, schema: false, against, ask } => {
            let config = config.unwrap_or_default();
            match against {
                Some(old) => explain::against(&config, &old),
                None if ask => check(&config, survey),
                None => check(&config, |_| ExitCode::SUCCESS),
            }
        }
        Command::Explain(explain) => explain.run(),
        Command::Servers { admin, config, token_file, json } => {
            let form = if json { Form::Json } else { Form::Table };
            servers(admin, config.as_deref(), token_file.as_deref(), form)
        }
        Command::Health { url, config, timeout_seconds } => {
            health(url, config.as_deref(), Duration::from_secs(timeout_seconds))
        }
        Command::Audit(Audit::Verify { files, part }) => {
            verify(&files, if part { Extent::Part } else { Extent::Whole })
        }
        Command::Audit(Audit::Tail { files, caller, tool, follow, last }) => {
            let until = if follow { Until::Interrupted } else { Until::End };
            tail(&files, &Wanted { caller, tool, last: Some(last) }, until)
        }
        Command::Key { command: KeyCommand::New { caller } } => match NewKey::random() {
            Ok(key) => {
                println!("{key}\n{}", key.line(&caller));
                ExitCode::SUCCESS
            }
            Err(why) => failed(&why),
        },
        Command::Version => {
            println!("toolgate {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn check(path: &Path, further: impl FnOnce(&Settings) -> ExitCode) -> ExitCode {
    match load(path).and_then(|settings| serve::check(&settings).map(|()| settings)) {
        Ok(settings) => {
            let (servers, routes) = (settings.servers.len(), settings.routes.len());
            println!("{} is good (servers: {servers}, routes: {routes})", path.display());
            let of_tls = tls::notes(&settings, SystemTime::now());
            for note in settings.unshared().into_iter().chain(of_tls) {
                println!("note: {note}");
            }
            further(&settings)
        }
        Err(problems) => bad_configuration(&problems),
    }
}

fn survey(settings: &Settings) -> ExitCode {
    match serve::survey(settings) {
        Ok(survey) => {
            survey.servers.iter().for_each(|server| println!("{server}"));
            survey.reports.iter().for_each(|report| println!("{report}"));
            if survey.is_lacking() { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS }
        }
        Err(error) => failed(&error),
    }
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Table,
    Json,
}

fn servers(url: String, config: Option<&Path>, token: Option<&Path>, form: Form) -> ExitCode {
    let url = match config.map(load) {
        None => url,
        Some(Err(problems)) => return bad_configuration(&problems),
        Some(Ok(settings)) => match settings.admin {
            Some(admin) => format!("http://{}", reachable(admin.listen)),
            None => return failed(&"there is no `admin` section in this configuration"),
        },
    };
    let token = match self::token(token) {
        Ok(token) => token,
        Err(why) => return failed(&why),
    };
    match admin::servers(&url, token.trim()) {
        Ok(servers) => {
            match form {
                Form::Table => print!("{}", admin::table(&servers)),
                Form::Json => println!("{servers:#}"),
            }
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&fault),
    }
}

fn health(url: String, config: Option<&Path>, wait: Duration) -> ExitCode {
    let url = match config.map(load) {
        None => url,
        Some(Err(problems)) => return bad_configuration(&problems),
        // The admin listener answers probes as well.
        Some(Ok(settings)) => {
            match settings.health.or_else(|| settings.admin.map(|admin| admin.listen)) {
                Some(listen) => format!("http://{}", reachable(listen)),
                None => return failed(&"there is no `health` section in this configuration"),
            }
        }
    };
    match admin::ready(&url, wait) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&fault),
    }
}

fn verify(files: &[PathBuf], extent: Extent) -> ExitCode {
    match audit::verify(files, extent) {
        Ok(report) => {
            println!("{report}");
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
        }
        Err(error) => failed(&error),
    }
}

fn tail(files: &[PathBuf], wanted: &Wanted, until: Until) -> ExitCode {
    match audit::tail(files, wanted, until, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// An operator's token: that of a file, or of the environment.
fn token(path: Option<&Path>) -> Result<String, String> {
    match path {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display())),
        None => Ok(std::env::var("TOOLGATE_ADMIN_TOKEN").unwrap_or_default()),
    }
}

/// Who listens on every address also listens on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn failed(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("toolgate: {why}");
    ExitCode::from(FAILURE)
}

fn load(path: &Path) -> Result<Settings, Problems> {
    admin::load(path, &|name| std::env::var(name).ok())
}

fn bad_configuration(problems: &Problems) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::from(BAD_CONFIGURATION)
}

fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Settings(problems)) => bad_configuration(&problems),
        Err(failure) => failed(&failure),
    }
}

#[cfg(feature = "demo")]
fn demo(listen: SocketAddr) -> ExitCode {
    telemetry::start_diagnostics();
    let demo = match crate::demo::Demo::prepare(listen) {
        Ok(demo) => demo,
        Err(error) => {
            eprintln!("toolgate: {error}");
            return ExitCode::from(FAILURE);
        }
    };
    println!("{}", demo.greeting());
    let (settings, fleet) = demo.into_parts();
    ended(serve::run(&settings, None, vec![fleet], Start::Afresh))
}
