//! One file a command; here is what they share.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 another agent acts instead, 4 something will fail.

mod admission;
mod check;
mod doctor;
mod journal;
pub(crate) mod rbac;
mod register;
mod run;
mod setup;
#[cfg(feature = "sign")]
mod sign;
mod status;
mod version;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use crate::args::{self, Command, UsageError};
use crate::config::{Config, ConfigError, Settings};
use crate::link::provided;
use crate::logging;
use crate::texts;

/// Something went wrong.
const FAILED: u8 = 1;

/// The command line or the configuration is wrong.
const WRONG_USAGE: u8 = 2;

/// Another agent acts on the cluster: a start would take it over again.
const REPLACED: u8 = 3;

/// It works, and will not for long, or not wholly.
const WARNED: u8 = 4;

/// Reads the arguments, the program's name first, and does what they say.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Result<Vec<String>, OsString> = arguments.skip(1).map(OsString::into_string).collect();
    #[cfg(feature = "sign")]
    if let Some(ended) = arguments.as_ref().ok().and_then(|arguments| sign::main(arguments)) {
        return end(ended);
    }
    let command = match arguments.map_err(|_| UsageError::NotText).and_then(|arguments| args::parse(&arguments)) {
        Ok(command) => command,
        Err(error) => return fail(WRONG_USAGE, &error),
    };
    end(match command {
        Command::Run(settings) => run::run(settings),
        other => for_a_person(other),
    })
}

/// Every command, in one place. An agent never comes here: what lies between the functions that it goes through is in its
/// memory with them (decision 0021).
#[inline(never)]
fn for_a_person(command: Command) -> Result<(), Failure> {
    match command {
        Command::Help(text) => {
            say(text.trim_end());
            #[cfg(feature = "sign")]
            if text == args::overview() {
                say(sign::OVERVIEW.trim_end());
            }
            Ok(())
        }
        Command::Version(is_json) => {
            say(&version::text(is_json));
            Ok(())
        }
        Command::Admission(settings, is_json) => {
            read_config(settings).map_err(Failure::from).and_then(|config| admission::admission(&config, is_json))
        }
        #[cfg(feature = "webhook")]
        Command::AdmissionWebhook(settings) => {
            read_config(settings).map_err(Failure::from).and_then(|config| admission::webhook(&config))
        }
        Command::Check { settings, file, is_json } => {
            as_the_unit(settings).and_then(|config| check::check(&config, Path::new(&file), is_json))
        }
        Command::Crds => {
            say(texts::definitions().trim_end());
            Ok(())
        }
        Command::Journal { settings, is_json, follows } => journal::journal(settings, is_json, follows),
        Command::Doctor { settings, remedy: Some(remedy), .. } => {
            read_config(settings).map_err(Failure::from).and_then(|config| doctor::set_right(&config, remedy))
        }
        Command::Doctor { settings, remedy: None, is_json } => doctor::examine(settings, is_json),
        Command::Rbac(settings) => read_config(settings).map_err(Failure::from).map(|config| {
            say(rbac::text(&config).trim_end());
        }),
        Command::Register(settings, force) => {
            as_the_unit(settings).and_then(|config| register::register(&config, force))
        }
        Command::Run(settings) => run::run(settings),
        Command::Setup(options) => setup::setup(*options),
        Command::Status(settings, is_json) => status::status(settings, is_json),
        Command::Uninstall(options) => setup::uninstall(*options),
    }
}

fn end(ended: Result<(), Failure>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(failure.code, failure.error.as_ref()),
    }
}

/// Why a command did not do what it is for.
struct Failure {
    code: u8,
    error: Box<dyn std::error::Error>,
}

impl Failure {
    fn failed(error: impl Into<Box<dyn std::error::Error>>) -> Self {
        Self { code: FAILED, error: error.into() }
    }

    fn replaced(error: impl Into<Box<dyn std::error::Error>>) -> Self {
        Self { code: REPLACED, error: error.into() }
    }

    fn warned(error: impl Into<Box<dyn std::error::Error>>) -> Self {
        Self { code: WARNED, error: error.into() }
    }

    fn usage(error: impl Into<Box<dyn std::error::Error>>) -> Self {
        Self { code: WRONG_USAGE, error: error.into() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

fn configure(settings: Settings) -> Result<Config, Failure> {
    let config = read_config(settings)?;
    logging::start(config.log_level, config.log_format);
    Ok(config)
}

/// As the agent's user has it, for who asks beside the unit.
fn as_the_unit(settings: Settings) -> Result<Config, Failure> {
    let settings = settings.with_file()?;
    crate::doctor::provide(settings.state_dir.as_deref());
    Ok(read_config(settings)?)
}

fn read_config(settings: Settings) -> Result<Config, ConfigError> {
    settings.with_file()?.here()
}

/// A line for the person or script that called us. Nobody reading any more is no error.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// The error and what lies beneath it, in one line on stderr.
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    let mut text = format!("pullet: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string does not fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!(": {error}"));
        source = error.source();
    }
    let text = provided::named(text);
    let printable: String = text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
    let _ = writeln!(io::stderr(), "{printable}");
    ExitCode::from(code)
}
