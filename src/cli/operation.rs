//! `kmsfs kms OPERATION`: every operation of AWS KMS, with AWS's JSON in and out.

use std::fs;
use std::io::Read;

use clap::{Arg, ArgMatches, Command, FromArgMatches, Subcommand};
use serde_json::Value;
use zeroize::Zeroizing;

use super::exit::{CliError, CliResult, Exit};
use super::output::write_stdout;
use super::session::{self, Session};
use super::settings::Settings;
use crate::kms::api::Operation;

const INPUT: &str = "cli-input-json";

/// An operation of AWS KMS with its request.
#[derive(Debug)]
pub struct OperationCommand {
    name: String,
    /// JSON, `file://PATH`, or `-` for stdin.
    input: Option<String>,
}

impl OperationCommand {
    fn commands() -> impl Iterator<Item = Command> {
        Operation::all().map(|(name, _)| {
            let input = Arg::new(INPUT)
                .long(INPUT)
                .value_name("JSON")
                .help("The request: JSON, file://PATH, or - for stdin; blobs in base64, times as epoch seconds");
            Command::new(name).about(format!("AWS KMS's {name}")).arg(input).hide(true)
        })
    }
}

impl Subcommand for OperationCommand {
    fn augment_subcommands(command: Command) -> Command {
        command.subcommands(Self::commands())
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Operation::all().any(|(other, _)| other == name)
    }
}

impl FromArgMatches for OperationCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, matches) = matches.subcommand().ok_or_else(missing)?;
        Ok(Self { name: name.to_owned(), input: matches.get_one(INPUT).cloned() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Executes the operation and prints its answer.
pub fn run(settings: &Settings, command: &OperationCommand) -> CliResult {
    let input = read(command.input.as_deref())?;
    match &settings.kms_endpoint {
        Some(url) => {
            let remote = session::remote(url, session::remote_region(settings)?)?;
            let text = std::str::from_utf8(&input).map_err(|_| CliError::usage("the request is not UTF-8"))?;
            print(&remote.execute(&command.name, if text.is_empty() { "{}" } else { text })?)
        }
        None => {
            // An operation that is not built asks for no passphrase.
            let operation = Operation::find(&command.name)?;
            let session = Session::open(settings)?;
            print(session.engine.run(&session.caller, operation, &input)?.as_bytes())
        }
    }
}

fn print(answer: &[u8]) -> CliResult {
    if !answer.is_empty() {
        let value: Value = serde_json::from_slice(answer)
            .map_err(|e| CliError::failure(format_args!("the answer is not JSON: {e}")))?;
        let text = Zeroizing::new(serde_json::to_string_pretty(&value).expect("JSON can be written"));
        write_stdout(&text);
    }
    Ok(Exit::Ok)
}

fn read(input: Option<&str>) -> CliResult<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    match input {
        None => {}
        Some("-") => {
            std::io::stdin().read_to_end(&mut bytes).map_err(|e| CliError::io("stdin", "read", &e))?;
        }
        Some(text) => match text.strip_prefix("file://") {
            Some(path) => *bytes = fs::read(path).map_err(|e| CliError::io(path, "read", &e))?,
            None => bytes.extend_from_slice(text.as_bytes()),
        },
    }
    Ok(bytes)
}
