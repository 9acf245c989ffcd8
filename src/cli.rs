//! Every command of the program.
#![expect(clippy::print_stdout, reason = "answers of commands go to standard output")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Problems, Settings};
use crate::serve::{self, Failure, Start};
use crate::telemetry;

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
        listen: std::net::SocketAddr,
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
    },
    /// Print the version.
    Version,
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
                ended(serve::run(&settings, Vec::new(), start))
            }
            Err(problems) => bad_configuration(&problems),
        },
        Command::Check { schema: true, .. } => {
            println!("{}", config::schema());
            ExitCode::SUCCESS
        }
        Command::Check { config, schema: false } => check(&config.unwrap_or_default()),
        Command::Version => {
            println!("toolgate {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn check(path: &Path) -> ExitCode {
    match load(path).and_then(|settings| serve::check(&settings).map(|()| settings)) {
        Ok(settings) => {
            let (servers, routes) = (settings.servers.len(), settings.routes.len());
            println!("{} is good (servers: {servers}, routes: {routes})", path.display());
            ExitCode::SUCCESS
        }
        Err(problems) => bad_configuration(&problems),
    }
}

fn load(path: &Path) -> Result<Settings, Problems> {
    config::load(path, &|name| std::env::var(name).ok())
}

fn bad_configuration(problems: &Problems) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::from(BAD_CONFIGURATION)
}

fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Settings(problems)) => bad_configuration(&problems),
        Err(failure) => {
            eprintln!("toolgate: {failure}");
            ExitCode::from(FAILURE)
        }
    }
}

#[cfg(feature = "demo")]
fn demo(listen: std::net::SocketAddr) -> ExitCode {
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
    ended(serve::run(&settings, vec![fleet], Start::Afresh))
}
