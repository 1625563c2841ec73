//! `kmsfs bench`: how fast a directory is, and how far a mount is from its two limits: the same path without encryption,
//! and the filesystem below.

mod jobs;
mod no_cipher;
mod places;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use self::jobs::{JOBS, Job, Work};
use self::places::{Limits, Place, Scratch};
use super::exit::{CliError, CliResult, Exit};
use super::output::table;
use super::settings::Settings;

const MIB: u64 = 1 << 20;

/// Measure the speed of a directory, or of kmsfs beside the same mount without encryption
#[derive(Debug, Args)]
#[command(
    after_help = "Files go into a new directory below DIR, which is removed at the end. As root the caches are dropped before \
what is read cold. Repeated rounds take the places in turns; the medians are shown."
)]
pub struct BenchArgs {
    /// Where to measure: a mountpoint, or any directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Make two volumes below DIR, mount one as always and the other without any encryption, and measure these and DIR itself
    #[arg(long)]
    limits: bool,
    /// Rounds
    #[arg(long, value_name = "N", default_value = "3")]
    rounds: NonZero<u16>,
    /// Size of the large file in MiB
    #[arg(long, value_name = "MIB", default_value = "256")]
    size: NonZero<u32>,
    /// Number of small files
    #[arg(long, value_name = "N", default_value = "2000")]
    files: NonZero<u32>,
    /// Seconds of a job that reads or writes at random, at most
    #[arg(long, value_name = "S", default_value = "2")]
    seconds: NonZero<u16>,
    /// Only these jobs, by name
    #[arg(long, value_name = "JOB", value_delimiter = ',', value_parser = jobs::named)]
    jobs: Vec<&'static Job>,
}

/// What a job did in one place, over all rounds.
#[derive(Debug, Default, Serialize)]
struct Measured {
    /// In the job's unit.
    rates: Vec<f64>,
    /// Processor time of this process, which is the mount's daemon too with `--limits`.
    cpu_seconds: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    rounds: u16,
    size_mib: u32,
    files: u32,
    /// Caches were dropped before cold jobs.
    cold: bool,
    jobs: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    job: &'static str,
    unit: &'static str,
    places: BTreeMap<&'static str, Measured>,
}

/// Runs the command.
pub fn run(settings: &Settings, args: &BenchArgs) -> CliResult {
    let dir = fs::canonicalize(&args.dir).map_err(|e| CliError::io(&args.dir, "find", &e))?;
    let scratch = Scratch::below(&dir)?;
    if args.limits {
        let limits = Limits::mount(&scratch)?;
        let report = measure(settings, args, &limits.places())?;
        limits.end()?;
        show(settings, &report);
    } else {
        let here = scratch.make("files")?;
        show(settings, &measure(settings, args, &[Place { name: "here", dir: here }])?);
    }
    Ok(Exit::Ok)
}

fn measure(settings: &Settings, args: &BenchArgs, places: &[Place]) -> CliResult<Report> {
    let work = Work {
        size: u64::from(args.size.get()) * MIB,
        files: args.files.get(),
        limit: Duration::from_secs(args.seconds.get().into()),
    };
    let jobs: Vec<&Job> = if args.jobs.is_empty() { JOBS.iter().collect() } else { args.jobs.clone() };
    let mut rows: Vec<Row> =
        jobs.iter().map(|job| Row { job: job.name, unit: job.unit, places: BTreeMap::new() }).collect();
    let mut cold = true;
    for round in 0..args.rounds.get() {
        settings.out.note(format_args!("Round {} of {}", round + 1, args.rounds));
        for (job, row) in jobs.iter().zip(&mut rows) {
            for place in in_turn(places, round.into()) {
                let failed = |e: std::io::Error| CliError::io(&place.dir, job.name, &e);
                (job.prepare)(&place.dir, &work).map_err(failed)?;
                rustix::fs::sync();
                cold &= !job.cold || drop_caches();
                let before = cpu_seconds();
                let rate = (job.run)(&place.dir, &work).map_err(failed)?;
                let measured = row.places.entry(place.name).or_default();
                measured.cpu_seconds.push(cpu_seconds() - before);
                measured.rates.push(rate);
            }
        }
    }
    Ok(Report { rounds: args.rounds.get(), size_mib: args.size.get(), files: work.files, cold, jobs: rows })
}

/// The places, another one first in each round, so that a drift of the machine hits all alike.
fn in_turn(places: &[Place], round: usize) -> impl Iterator<Item = &Place> {
    let (end, begin) = places.split_at(round % places.len());
    begin.iter().chain(end)
}

/// Makes the next reads come from the disk; false if this user may not.
fn drop_caches() -> bool {
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn show(settings: &Settings, report: &Report) {
    settings.out.result(report, || {
        let names: Vec<&str> = report.jobs.first().map(|row| row.places.keys().copied().collect()).unwrap_or_default();
        let limits = names.contains(&places::PASSTHROUGH);
        let upper: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
        let mut headers = vec!["JOB", "UNIT"];
        headers.extend(upper.iter().map(String::as_str));
        if limits {
            headers.extend(["OF PASSTHROUGH", "OF BACKING"]);
        }
        let rows = report.jobs.iter().map(|row| {
            let medians: BTreeMap<&str, f64> = row.places.iter().map(|(name, m)| (*name, median(&m.rates))).collect();
            let mut cells = vec![row.job.to_owned(), row.unit.to_owned()];
            cells.extend(medians.values().map(|value| rounded(*value)));
            if limits {
                let part = |of: &str| format!("{:.2}", medians[places::KMSFS] / medians[of]);
                cells.extend([part(places::PASSTHROUGH), part(places::BACKING)]);
            }
            cells
        });
        let warm = if report.cold { "" } else { "\n\nThe caches were WARM: only root may drop them." };
        format!("{}{warm}", table(&headers, rows))
    });
}

/// The middle value; the mean of the two in the middle of an even number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    f64::midpoint(low, high)
}

fn rounded(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_even_and_odd_numbers() {
        assert_eq!(median(&[3.0]).to_bits(), 3.0_f64.to_bits());
        assert_eq!(median(&[9.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]).to_bits(), 3.0_f64.to_bits());
    }

    #[test]
    fn each_place_is_first_once() {
        let places = ["a", "b", "c"].map(|name| Place { name, dir: PathBuf::new() });
        let first = |round| in_turn(&places, round).next().map(|place| place.name);
        assert_eq!([first(0), first(1), first(2), first(3)], [Some("a"), Some("b"), Some("c"), Some("a")]);
        assert_eq!(in_turn(&places, 1).count(), 3);
    }
}
