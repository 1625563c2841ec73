//! The command line: definitions of the commands, and which code runs for each.
//!
//! Data goes to stdout, words for people to stderr, the outcome into the exit code ([`exit::Exit`]).

pub mod accept;
pub mod alias;
pub mod audit;
pub mod aws;
pub mod backup;
mod bench;
mod cause;
pub mod completions;
pub mod control;
pub mod daemon;
pub mod doctor;
mod errors;
pub mod exit;
pub mod grant;
pub mod iam;
pub mod impact;
pub mod import;
pub mod info;
pub mod init;
pub mod key;
pub mod key_store;
pub mod logging;
pub mod mount;
pub mod mount_options;
pub mod mountpoint;
pub mod mounts;
mod offline;
pub mod operation;
pub mod output;
pub mod passphrase;
mod place;
pub mod policy;
pub mod progress;
mod recovery;
pub mod repair;
pub mod replica;
pub mod rewrap;
mod salvage;
pub mod serve;
mod serving;
pub mod session;
pub mod settings;
pub mod slots;
pub mod speed;
pub mod stats;
pub mod status;
mod stop;
mod terminal;
pub mod umount;
pub mod usage;
pub mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use exit::{CliError, CliResult, Exit};
use output::Output;
use settings::{GlobalFlags, Settings};

/// Encrypted directories with one data key per file, on a key manager with AWS KMS's semantics
#[derive(Debug, Parser)]
#[command(name = "kmsfs", version, arg_required_else_help = true, subcommand_required = true)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failure, 2 usage, 3 findings, 10 not initialised, 11 busy, 12 wrong passphrase,\n\
    13 key unusable, 14 key manager unavailable, 15 access denied, 16 integrity failure, 20 mountpoint\n\
    unusable, 130 interrupted. See docs/CLI.md."
)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArgs),
    Mount(mount::MountArgs),
    Umount(umount::UmountArgs),
    Status(status::StatusArgs),
    Stats(stats::StatsArgs),
    Doctor(doctor::DoctorArgs),
    Info(info::InfoArgs),
    Verify(verify::VerifyArgs),
    Repair(repair::RepairArgs),
    ExportRecovery(recovery::ExportArgs),
    Recover(recovery::RecoverArgs),
    Rewrap(rewrap::RewrapArgs),
    Accept(accept::AcceptArgs),
    #[command(subcommand)]
    Key(key::KeyCommand),
    #[command(subcommand)]
    Alias(alias::AliasCommand),
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    #[command(subcommand)]
    Grant(grant::GrantCommand),
    #[command(subcommand)]
    Iam(iam::IamCommand),
    #[command(subcommand)]
    Import(import::ImportCommand),
    #[command(subcommand)]
    Replica(replica::ReplicaCommand),
    #[command(subcommand)]
    KeyStore(key_store::KeyStoreCommand),
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    #[command(subcommand)]
    Kms(slots::KmsCommand),
    Serve(serve::ServeArgs),
    Bench(bench::BenchArgs),
    Speed(speed::SpeedArgs),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match Cli::try_parse_from(&args) {
        Ok(cli) => run(cli, args),
        Err(error) => refuse(&error, args.iter().any(|a| a == "--json")),
    }
}

fn run(cli: Cli, args: Vec<OsString>) -> ExitCode {
    let json = cli.global.json;
    match Settings::resolve(cli.global) {
        Err(error) => finish(Output::new(json), Err(error)),
        Ok(settings) => {
            let default_level =
                if matches!(cli.command, Command::Mount(_) | Command::Serve(_)) { "info" } else { "warn" };
            let done = logging::start(&settings, default_level).and_then(|()| {
                daemon::harden();
                dispatch(&settings, &cli.command, &args)
            });
            let done = done.map_err(|error| cause::explained(error, &settings.home));
            finish(settings.out, done)
        }
    }
}

fn dispatch(settings: &Settings, command: &Command, args: &[OsString]) -> CliResult {
    match command {
        Command::Init(args) => init::run(settings, args),
        Command::Mount(mount) => mount::run(settings, mount, args),
        Command::Umount(args) => umount::run(settings, args),
        Command::Status(_) => status::run(settings),
        Command::Stats(args) => stats::run(settings, args),
        Command::Doctor(args) => doctor::run(settings, args),
        Command::Info(args) => info::run(settings, args),
        Command::Verify(args) => verify::run(settings, args),
        Command::Repair(args) => repair::run(settings, args),
        Command::ExportRecovery(args) => recovery::export(settings, args),
        Command::Recover(args) => recovery::recover(settings, args),
        Command::Rewrap(args) => rewrap::run(settings, args),
        Command::Accept(args) => accept::run(settings, args),
        Command::Key(command) => key::run(settings, command),
        Command::Alias(command) => alias::run(settings, command),
        Command::Policy(command) => policy::run(settings, command),
        Command::Grant(command) => grant::run(settings, command),
        Command::Iam(command) => iam::run(settings, command),
        Command::Import(command) => import::run(settings, command),
        Command::Replica(command) => replica::run(settings, command),
        Command::KeyStore(command) => key_store::run(settings, command),
        Command::Audit(command) => audit::run(settings, command),
        Command::Kms(command) => slots::run(settings, command),
        Command::Serve(args) => serve::run(settings, args),
        Command::Bench(args) => bench::run(settings, args),
        Command::Speed(_) => speed::run(settings),
        Command::Completions(args) => completions::completions(args, Cli::command()),
        Command::Man(args) => completions::man(settings, args, Cli::command()),
    }
}

fn finish(out: Output, done: CliResult) -> ExitCode {
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            out.error(&error);
            error.exit.into()
        }
    }
}

/// What clap has to say: help and version are results, everything else is a wrong command line.
fn refuse(error: &clap::Error, json: bool) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::write_stdout(error.render().to_string().trim_end());
            Exit::Ok.into()
        }
        _ if json => {
            let text = error.render().to_string();
            let message = text.trim_start_matches("error: ").lines().next().unwrap_or("wrong command line").to_owned();
            finish(Output::new(true), Err(CliError::usage(message).hint("kmsfs --help lists the commands")))
        }
        _ => {
            // clap decides whether the terminal takes colours.
            if error.print().is_err() {
                output::write_stderr(error.render().to_string().trim_end());
            }
            Exit::Usage.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_tells_what_it_does() {
        fn check(command: &clap::Command) {
            for child in command.get_subcommands() {
                assert!(child.get_about().is_some(), "{} has no help", child.get_name());
                check(child);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn no_option_takes_a_passphrase() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let name = arg.get_long().unwrap_or("");
                assert!(!matches!(name, "passphrase" | "password" | "recovery-key"), "{name}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
