//! The log: lines on stderr. A daemon's stderr is its log file (see `daemon`), so there is one way to write.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::exit::{CliError, CliResult};
use super::settings::Settings;

/// Starts the log with the level of the settings, or `default`.
pub fn start(settings: &Settings, default: &str) -> CliResult<()> {
    let level = settings.log_level.as_deref().unwrap_or(default);
    let filter = filter(level)?;
    // A line that cannot be written, as on a full disk, is lost: to complain of it on the same stderr would end the thread that wrote
    // it, and leave its request without an answer.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .log_internal_errors(false);
    let started = if settings.out.is_json() {
        builder.json().try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    started.map_err(|e| CliError::failure(format_args!("cannot start the log: {e}")))
}

/// `info` means kmsfs at info and libraries at warn; anything with `=` or `,` is a filter in its own right.
fn filter(level: &str) -> CliResult<EnvFilter> {
    let directives = match level {
        "error" | "warn" | "info" | "debug" | "trace" => format!("warn,kmsfs={level}"),
        "off" => "off".to_owned(),
        filter if filter.contains(['=', ',']) => filter.to_owned(),
        other => {
            return Err(CliError::usage(format_args!("--log-level {other}: not a level"))
                .hint("use error, warn, info, debug or trace, or a filter such as kmsfs::kms=debug"));
        }
    };
    EnvFilter::try_new(directives).map_err(|e| CliError::usage(format_args!("--log-level {level}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters() {
        assert!(filter("info").is_ok() && filter("kmsfs::kms=debug,warn").is_ok());
        assert!(filter("verbose").is_err() && filter("kmsfs=loud").is_err());
    }
}
