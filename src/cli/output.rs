//! Where words go: data to stdout, everything for people to stderr.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use comfy_table::{Attribute, Cell, ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};

/// A path for JSON, which knows no other text than Unicode: bytes that are not UTF-8 become U+FFFD.
pub fn path_text(path: &Path) -> Cow<'_, str> {
    path.to_string_lossy()
}

/// How a command speaks.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Tables and sentences, or JSON.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether stdout carries JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// The result of a command: one JSON object, or what `human` says.
    pub fn result<T: Serialize + ?Sized>(self, value: &T, human: impl FnOnce() -> String) {
        if self.json {
            let text = serde_json::to_string_pretty(value).expect("results have string keys");
            write_stdout(&text);
        } else {
            let text = human();
            if !text.is_empty() {
                write_stdout(&text);
            }
        }
    }

    /// As [`Self::result`], of what is shown only once.
    ///
    /// # Errors
    /// What keeps it from being shown: nobody has seen it then, and the caller takes back what is of no use without it.
    pub fn result_once<T: Serialize + ?Sized>(self, value: &T, human: impl FnOnce() -> String) -> CliResult<()> {
        let text = match self.json {
            true => serde_json::to_string_pretty(value).expect("results have string keys"),
            false => human(),
        };
        write_stdout_once(&text)
    }

    /// One line of a stream: a JSON line, or what `human` says.
    pub fn line<T: Serialize + ?Sized>(self, value: &T, human: impl FnOnce() -> String) {
        if self.json {
            write_stdout(&serde_json::to_string(value).expect("results have string keys"));
        } else {
            write_stdout(&human());
        }
    }

    /// Something people should know while the command goes on. Silent with `--json`.
    pub fn note(self, text: impl fmt::Display) {
        if !self.json {
            write_stderr(&text.to_string());
        }
    }

    /// Something people must know. With `--json` a JSON line on stderr.
    pub fn warning(self, text: impl fmt::Display) {
        if self.json {
            write_stderr(&json!({"message_type": "warning", "message": text.to_string()}).to_string());
        } else {
            write_stderr(&format!("warning: {text}"));
        }
    }

    /// Why the command failed, on stderr.
    pub fn error(self, error: &CliError) {
        if self.json {
            write_stderr(&error.to_json().to_string());
            return;
        }
        let label = if error.exit == Exit::Interrupted { "interrupted" } else { "error" };
        let code = match error.code.as_str() {
            "Failure" | "Usage" | "Io" | "Interrupted" => String::new(),
            code => format!(" ({code})"),
        };
        let mut text = format!("{label}: {}{code}", error.message);
        if let Some(hint) = &error.hint {
            text.push_str(&format!("\nhint: {hint}"));
        }
        write_stderr(&text);
    }
}

/// A table without lines. On a terminal it is as wide as that, if its words allow it: ids are never broken, since
/// people copy them. Elsewhere, and on a terminal that does not tell its width, each row is one line.
pub fn table(headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let terminal = io::stdout().is_terminal();
    let width = if terminal { Table::new().width().filter(|&columns| columns > 0) } else { None };
    table_of(headers, rows.into_iter().collect(), terminal, width)
}

fn table_of(headers: &[&str], rows: Vec<Vec<String>>, bold: bool, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let cell = |text: &&str| if bold { Cell::new(text).add_attribute(Attribute::Bold) } else { Cell::new(text) };
    table.set_header(headers.iter().map(cell));
    let longest_word = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        let words = cells.chain([headers[column]]).flat_map(str::split_whitespace);
        words.map(|word| word.chars().count()).max().unwrap_or(0)
    };
    // A boundary counts the blank on either side of a cell too.
    let boundary = |column| Width::Fixed(u16::try_from(longest_word(column) + 2).unwrap_or(u16::MAX));
    let constraints: Vec<_> = (0..headers.len()).map(|c| ColumnConstraint::LowerBoundary(boundary(c))).collect();
    table.add_rows(rows);
    match width {
        Some(columns) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns).set_constraints(constraints);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    trim_lines(&table.to_string())
}

/// Pairs of a name and a value, one a line, the values aligned. Empty values are left out.
pub fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:width$}  {value}"))
        .collect();
    lines.join("\n")
}

/// `n` bytes for people: `17 B`, `4.0 KiB`, `1.5 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn trim_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    lines.join("\n")
}

/// Writes one line of data. A reader that went away (`kmsfs ... | head`) ends the process quietly, as it ends any
/// program that is killed by SIGPIPE.
pub fn write_stdout(text: &str) {
    if let Err(e) = try_stdout(text) {
        if e.kind() != io::ErrorKind::BrokenPipe {
            write_stderr(&format!("error: cannot write to stdout: {e}"));
        }
        std::process::exit(i32::from(Exit::Failure.code()));
    }
}

/// As [`write_stdout`], of what is shown only once.
///
/// # Errors
/// As of [`Output::result_once`].
pub fn write_stdout_once(text: &str) -> CliResult<()> {
    try_stdout(text).map_err(|e| CliError::failure(format_args!("cannot write to stdout: {e}")))
}

fn try_stdout(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush())
}

/// Whether nobody gets what is written to stdout: it is /dev/null, which Rust also opens for a program that is started without one.
pub fn stdout_is_null() -> bool {
    let same = |null: rustix::fs::Stat| rustix::fs::fstat(io::stdout()).is_ok_and(|out| out.st_rdev == null.st_rdev);
    rustix::fs::stat("/dev/null").is_ok_and(same)
}

/// Refuses to make `what`, a secret that is shown once, for nobody.
///
/// # Errors
/// A wrong command line.
pub fn somebody_sees(what: &str) -> CliResult<()> {
    if !stdout_is_null() {
        return Ok(());
    }
    Err(CliError::usage(format_args!("{what} is written to stdout, which is closed or /dev/null: nobody would see it"))
        .hint("run the command on a terminal, or write its output to a pipe or a file"))
}

/// Writes one line for people. There is nobody to tell when that fails.
pub fn write_stderr(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.write_all(b"\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn fields_are_aligned_and_empty_ones_left_out() {
        let text = fields(&[("a", "1".into()), ("long", String::new()), ("bc", "2".into())]);
        assert_eq!(text, "a     1\nbc    2");
    }

    #[test]
    fn ids_are_never_broken() {
        let (id, arn) = ("1234abcd-12ab-34cd-56ef-1234567890ab", "arn:aws:kms:us-east-1:000000000000:key/mrk-1");
        let row = vec!["alias/a".to_owned(), id.to_owned(), arn.to_owned(), "words that may be broken".to_owned()];
        let text = |width| table_of(&["ALIAS", "ID", "ARN", "TEXT"], vec![row.clone()], false, width);
        for width in [1, 20, 80, 100, 120, 500] {
            let text = text(Some(width));
            for whole in ["alias/a", id, arn, "broken"] {
                assert!(text.contains(whole), "{width} columns:\n{text}");
            }
        }
        assert!(text(Some(100)).lines().count() > 2, "prose gives way");
        assert_eq!(text(None).lines().count(), 2);
    }

    #[test]
    fn a_table_has_no_trailing_blanks() {
        let text = table(&["NAME", "V"], [vec!["x".to_owned(), "1".to_owned()], vec!["longer".into(), String::new()]]);
        assert_eq!(text, "NAME    V\nx       1\nlonger");
    }
}
