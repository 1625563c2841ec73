//! `kmsfs completions` and `kmsfs man`: both come from the same definitions as the help.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::exit::{CliError, CliResult, Exit};
use super::output::write_stdout;
use super::settings::Settings;

/// Print the completion script of a shell
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write one page per command into DIR instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs `completions`.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> CliResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "kmsfs", &mut script);
    write_stdout(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Ok)
}

/// Runs `man`.
pub fn man(settings: &Settings, args: &ManArgs, mut command: Command) -> CliResult {
    command.build();
    match &args.dir {
        None => {
            write_stdout(page(&command)?.trim_end());
        }
        Some(dir) => {
            fs::create_dir_all(dir).map_err(|e| CliError::io(dir, "create", &e))?;
            let mut written = Vec::new();
            write_pages(&command, "kmsfs", dir, &mut written)?;
            settings.out.result(&written, || format!("Wrote {} pages to {}", written.len(), dir.display()));
        }
    }
    Ok(Exit::Ok)
}

fn page(command: &Command) -> CliResult<String> {
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut text);
    rendered.map_err(|e| CliError::failure(format_args!("cannot render the manual page: {e}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `kmsfs.1`, `kmsfs-key.1`, `kmsfs-key-create.1`, ...
fn write_pages(command: &Command, name: &str, dir: &Path, written: &mut Vec<PathBuf>) -> CliResult<()> {
    let path = dir.join(format!("{name}.1"));
    fs::write(&path, page(command)?).map_err(|e| CliError::io(&path, "write", &e))?;
    written.push(path);
    for child in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        write_pages(child, &format!("{name}-{}", child.get_name()), dir, written)?;
    }
    Ok(())
}
