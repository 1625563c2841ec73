//! `kmsfs stats`: what a running mount counted.

use std::path::PathBuf;

use clap::Args;

use super::control::client;
use super::control::wire::{MountStatistics, OperationStatistics};
use super::exit::{CliError, CliResult, Exit};
use super::mounts;
use super::output::{bytes, path_text, table};
use super::settings::Settings;

/// Show what a mount has done since it was mounted: requests, their times, bytes, data keys
#[derive(Debug, Args)]
#[command(
    after_help = "Times are between request and answer in the daemon. A mount by --transport=fuser counts no requests."
)]
pub struct StatsArgs {
    /// The mountpoint, or a path in the mount
    mountpoint: PathBuf,
}

/// Runs the command.
pub fn run(settings: &Settings, args: &StatsArgs) -> CliResult {
    let path = std::path::absolute(&args.mountpoint).map_err(|e| CliError::io(&args.mountpoint, "find", &e))?;
    let mount = mounts::containing(&path).map_err(|e| CliError::io("/proc/self/mountinfo", "read", &e))?;
    let mount = mount.ok_or_else(|| {
        let text = format_args!("{} is in no kmsfs mount", path.display());
        CliError::new(Exit::Mountpoint, "NotMounted", text).hint("kmsfs status shows the mounts")
    })?;
    let counted = client::statistics(&settings.home, &path_text(&mount.mountpoint), &path_text(&mount.source));
    let counted = counted.ok_or_else(|| {
        let text = format_args!("the mount at {} does not answer", mount.mountpoint.display());
        CliError::new(Exit::Failure, "MountLost", text)
            .hint("only its own user and root may ask, with the mount's own --kms-home")
    })?;
    settings.out.result(&counted, || words(&counted));
    Ok(Exit::Ok)
}

fn words(counted: &MountStatistics) -> String {
    let headers = ["OPERATION", "COUNT", "ERRORS", "BYTES", "MEAN", "P50", "P90", "P99", "MAX"];
    let keys = [
        ("reused", counted.data_keys_reused),
        ("unwrapped", counted.data_keys_unwrapped),
        ("made", counted.data_keys_made),
        ("failed", counted.data_keys_failed),
    ];
    let keys: Vec<String> = keys.iter().map(|(what, count)| format!("{count} {what}")).collect();
    let mut by_count: Vec<&OperationStatistics> = counted.operations.iter().collect();
    by_count.sort_by_key(|operation| std::cmp::Reverse(operation.count));
    let rows = by_count.into_iter().map(row);
    format!("{}\n\nData keys: {}. Counted for {} s.", table(&headers, rows), keys.join(", "), counted.uptime_seconds)
}

fn row(of: &OperationStatistics) -> Vec<String> {
    let mut row = vec![of.operation.clone(), of.count.to_string(), of.errors.to_string()];
    row.push(if of.bytes == 0 { "-".to_owned() } else { bytes(of.bytes) });
    let mean = of.total_us / of.count.max(1);
    row.extend([mean, of.p50_us, of.p90_us, of.p99_us, of.max_us].map(time));
    row
}

/// Microseconds for people, to three digits.
fn time(us: u64) -> String {
    match us {
        0 => "<1us".to_owned(),
        1..=9_999 => format!("{us}us"),
        10_000..=9_999_999 => format!("{}ms", us / 1000),
        _ => format!("{}s", us / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!([0, 7, 9_999, 10_000, 10_000_000].map(time), ["<1us", "7us", "9999us", "10ms", "10s"]);
    }

    #[test]
    fn what_was_asked_most_comes_first() {
        let one = |operation: &str, count| OperationStatistics {
            operation: operation.to_owned(),
            count,
            total_us: 30 * count,
            ..OperationStatistics::default()
        };
        let counted = MountStatistics {
            operations: vec![one("lookup", 2), OperationStatistics { bytes: 4096, ..one("read", 3) }],
            data_keys_made: 1,
            ..MountStatistics::default()
        };
        let text = words(&counted);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("read") && lines[1].contains("4.0 KiB") && lines[1].contains("30us"), "{text}");
        assert!(lines[2].starts_with("lookup") && text.ends_with("0 failed. Counted for 0 s."), "{text}");
    }
}
