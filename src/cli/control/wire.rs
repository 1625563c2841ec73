//! What goes over the control socket.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::offline::{finding_json, finding_words};
use crate::ops::Finding;
use crate::ops::impact::Impact;
use crate::ops::rewrap::RewrapReport;
use crate::ops::verify::VerifyReport;

/// Bytes of a request at most, its line end included.
pub const MAX_REQUEST: usize = 16 * 1024;

/// What a client asks for. Members that are not known are refused: what they would change must not be ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What the mount is and how it does.
    Status {},
    /// What the mount counted.
    Statistics {},
    /// New wrapped keys for all files.
    Rewrap(RewrapRequest),
    /// Everything read, authenticated, and compared with the freshness record.
    Verify {
        /// Threads, 1 to 256.
        threads: u16,
    },
    /// Which files depend on a KMS key, by their headers.
    Impact {
        /// Its ARN.
        key: String,
    },
}

/// Keys as people name them; the mount resolves them as the volume's principal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewrapRequest {
    /// Only what this key wraps.
    pub from: Option<String>,
    /// To this key.
    pub to: Option<String>,
    /// Threads, 1 to 256.
    pub threads: u16,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
pub enum Answer {
    /// How far a job is, counted from its start.
    Progress(Counts),
    /// The end of a rewrap.
    Rewrapped(RewrapSummary),
    /// The end of a verify.
    Verified(VerifySummary),
    /// The answer to [`Request::Impact`].
    Impact(Impact),
    /// The answer to [`Request::Status`].
    Status(MountStatus),
    /// The answer to [`Request::Statistics`].
    Statistics(MountStatistics),
}

/// Files and their ciphertext bytes, done and found so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Files done.
    pub files: u64,
    /// Files found.
    pub total_files: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes found.
    pub total_bytes: u64,
}

impl Counts {
    /// What came to `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            files: self.files.saturating_sub(before.files),
            total_files: self.total_files.saturating_sub(before.total_files),
            bytes: self.bytes.saturating_sub(before.bytes),
            total_bytes: self.total_bytes.saturating_sub(before.total_bytes),
        }
    }
}

/// A running mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStatus {
    /// Version of the serving program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The volume.
    pub volume_id: String,
    /// The ciphertext directory, as [`path_text`](crate::cli::output::path_text) has it.
    pub source: String,
    /// Where it is mounted, in the same form.
    pub mountpoint: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Seconds since it was mounted.
    pub uptime_seconds: u64,
    /// Open handles of regular files.
    pub open_files: u64,
    /// Inodes that the kernel or a handle refers to.
    pub known_inodes: u64,
    /// Whether a rewrap is under way.
    pub rewrapping: bool,
}

/// What a mount counted since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStatistics {
    /// Seconds since it was mounted.
    pub uptime_seconds: u64,
    /// By operation.
    pub operations: Vec<OperationStatistics>,
    /// Opens whose data key was in memory.
    pub data_keys_reused: u64,
    /// Data keys that were unwrapped: calls of the key manager.
    pub data_keys_unwrapped: u64,
    /// Data keys that were made: calls of the key manager.
    pub data_keys_made: u64,
    /// Times that a data key could not be had.
    pub data_keys_failed: u64,
}

/// What was counted of one operation of the FUSE protocol. Times are between request and answer, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStatistics {
    /// As the protocol calls it, in small letters.
    pub operation: String,
    /// Requests.
    pub count: u64,
    /// Those that failed.
    pub errors: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// All times together.
    pub total_us: u64,
    /// What half of the requests took at most, to 25 percent.
    pub p50_us: u64,
    /// What 90 percent took at most.
    pub p90_us: u64,
    /// What 99 percent took at most.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// What a rewrap did, in a form that scripts and people are shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RewrapSummary {
    /// ARN of the source key, if one was named.
    pub from: Option<String>,
    /// ARN of the target key, if one was named.
    pub to: Option<String>,
    /// Headers with a new wrapped key.
    pub rewrapped: u64,
    /// Files with nothing to do.
    pub unchanged: u64,
    /// Whether the volume's configuration was written anew.
    pub root_key: bool,
    /// The job was stopped before its end.
    pub interrupted: bool,
    /// What could not be moved.
    pub findings: Vec<WireFinding>,
    /// Rewrapped files with names outside of the volume; a mount of an earlier version does not tell.
    #[serde(default)]
    pub linked_elsewhere: u64,
}

/// What a verify found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifySummary {
    /// Directories with a valid id.
    pub directories: u64,
    /// Regular files looked at.
    pub files: u64,
    /// Stored bytes of them.
    pub bytes: u64,
    /// The job was stopped before its end.
    pub interrupted: bool,
    /// What is wrong.
    pub findings: Vec<WireFinding>,
}

impl From<&VerifyReport> for VerifySummary {
    fn from(report: &VerifyReport) -> Self {
        Self {
            directories: report.directories,
            files: report.files,
            bytes: report.bytes,
            interrupted: report.interrupted,
            findings: report.findings.iter().map(WireFinding::from).collect(),
        }
    }
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireFinding {
    /// For scripts.
    pub json: Value,
    /// For people.
    pub words: String,
}

impl From<&Finding> for WireFinding {
    fn from(finding: &Finding) -> Self {
        Self { json: finding_json(finding), words: finding_words(finding) }
    }
}

impl RewrapSummary {
    /// The summary of a report; `from` and `to` are the ARNs asked for.
    pub fn new(report: &RewrapReport, options: &crate::ops::rewrap::RewrapOptions) -> Self {
        let arn = |key: &Option<crate::types::KeyArn>| key.as_ref().map(|key| key.as_str().to_owned());
        Self {
            from: arn(&options.from),
            to: arn(&options.to),
            rewrapped: report.rewrapped,
            unchanged: report.unchanged,
            root_key: report.root_key,
            interrupted: report.interrupted,
            findings: report.findings.iter().map(WireFinding::from).collect(),
            linked_elsewhere: report.linked_elsewhere.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_the_documentation_says() {
        let parse = serde_json::from_str::<Request>;
        assert_eq!(parse(r#"{"op":"status"}"#).expect("valid"), Request::Status {});
        assert_eq!(parse(r#"{"op":"statistics"}"#).expect("valid"), Request::Statistics {});
        let rewrap = RewrapRequest { from: None, to: Some("alias/new".into()), threads: 2 };
        assert_eq!(
            parse(r#"{"op":"rewrap","from":null,"to":"alias/new","threads":2}"#).expect("valid"),
            Request::Rewrap(rewrap)
        );
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"op":"stop"}"#,
            r#"{"op":"status","x":1}"#,
            r#"{"op":"rewrap"}"#,
            r#"{"op":"verify"}"#,
            r#"{"op":"impact"}"#,
            r#"{"op":"verify","threads":1,"resume":"x"}"#,
            r#"{"op":"rewrap","threads":70000}"#,
            r#"{"op":"rewrap","threads":1,"dry_run":true}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_come_back() {
        let summary = RewrapSummary {
            linked_elsewhere: 1,
            findings: vec![WireFinding { json: serde_json::json!({"path": null}), words: "a\nb".into() }],
            ..RewrapSummary::default()
        };
        for answer in [Answer::Progress(Counts { files: 1, ..Counts::default() }), Answer::Rewrapped(summary)] {
            let line = serde_json::to_string(&answer).expect("serialises");
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Answer>(&line).expect("parses"), answer);
        }
    }
}
