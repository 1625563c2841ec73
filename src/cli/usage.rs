//! `kmsfs kms usage`: how many keys and requests, and what AWS would charge for them. Information only.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;

use super::audit::parse_time;
use super::exit::{CliResult, Exit};
use super::output::table;
use super::session::Session;
use super::settings::Settings;
use crate::env::system_clock;
use crate::kms::audit::{AuditFilter, AuditPosition};

/// USD per customer managed key and month.
const PER_KEY: f64 = 1.0;
/// USD per request.
const PER_REQUEST: f64 = 0.03 / 10_000.0;

/// `kms usage`.
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// From this time on: 2026-05-01, 2026-05-01T09:00:00Z, or an age such as 6h, 7d
    #[arg(long, value_name = "TIME", default_value = "30d")]
    since: String,
    /// Up to this time [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Runs the command.
pub fn run(settings: &Settings, args: &UsageArgs) -> CliResult {
    let now = system_clock().now();
    let since = parse_time(&args.since, now)?;
    let until = args.until.as_deref().map(|text| parse_time(text, now)).transpose()?.unwrap_or(now);
    let session = Session::open(settings)?;
    let filter = AuditFilter { since: Some(since), until: Some(until), ..AuditFilter::default() };
    let mut operations: BTreeMap<String, u64> = BTreeMap::new();
    session.engine.audit().visit(&filter, &mut AuditPosition::default(), |record| {
        if record["eventType"] == "AwsApiCall"
            && let Some(name) = record["eventName"].as_str()
        {
            *operations.entry(name.to_owned()).or_default() += 1;
        }
        ControlFlow::Continue(())
    })?;
    let keys = session.engine.customer_keys()?;
    let requests: u64 = operations.values().sum();
    let (keys_usd, requests_usd) = (keys as f64 * PER_KEY, requests as f64 * PER_REQUEST);
    let value = json!({
        "since": since.to_string(), "until": until.to_string(), "customer_managed_keys": keys, "requests": requests,
        "operations": operations, "keys_usd_per_month": keys_usd, "requests_usd": requests_usd,
    });
    settings.out.result(&value, || {
        let rows = operations.iter().map(|(name, count)| vec![name.clone(), count.to_string()]);
        format!(
            "{}\n{requests} requests from {since} to {until}; AWS would charge {requests_usd:.4} USD for them.\n\
             {keys} customer managed keys; AWS would charge {keys_usd:.2} USD a month for them. AWS managed keys are free.",
            table(&["OPERATION", "REQUESTS"], rows)
        )
    });
    Ok(Exit::Ok)
}
