//! What docs/SEMANTICS.md, docs/FORMAT.md and docs/THREAT-MODEL.md name as the proof of a promise is there.

use std::collections::HashSet;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands between brackets behind the sentences, in one line each: `R row; I test, other_test`.
fn proofs(promises: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in promises.match_indices('[') {
        let inner = &promises[at + 1..];
        let end = inner.find(']').expect("a bracket is closed");
        // A link has its target behind it.
        if !inner[end + 1..].starts_with('(') {
            found.push(inner[..end].split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    found
}

/// All that a proof may name.
struct Known {
    functions: HashSet<String>,
    rows: HashSet<String>,
    torture: HashSet<String>,
    cases: String,
    corners: String,
    applications: String,
}

impl Known {
    fn collect() -> Self {
        let mut functions = HashSet::new();
        for dir in ["src", "tests"] {
            rust_files(&root().join(dir), &mut |code| {
                functions.extend(code.split("fn ").skip(1).filter_map(|rest| rest.split_once('(')).map(|f| f.0.into()));
            });
        }
        let between = |text: &str, open: &str, close: &str| -> HashSet<String> {
            text.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|found| found.0.to_owned()).collect()
        };
        Self {
            functions,
            rows: between(&text("tests/suites/fsprobe.py"), "@feat('", "'"),
            torture: between(&text("tests/torture/torture.py"), "@test\ndef ", "("),
            cases: text("tests/suites/faults.sh") + &text("tests/suites/remote.sh"),
            corners: text("tests/suites/corners.py"),
            applications: text("tests/suites/apps.sh"),
        }
    }

    /// What of a proof is not there.
    fn missing(&self, proof: &str) -> Vec<String> {
        let parts = proof.split(';').map(str::trim);
        parts
            .flat_map(|part| self.missing_part(part).into_iter().map(move |what| format!("[{part}]: {what}")))
            .collect()
    }

    fn missing_part(&self, part: &str) -> Vec<String> {
        let (kind, names) = part.split_once([' ', ',', ':']).unwrap_or((part, ""));
        let each = |is_there: &dyn Fn(&str) -> bool| -> Vec<String> {
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            names.filter(|name| !is_there(name)).map(str::to_owned).collect()
        };
        match kind {
            "F" | "C" | "S" | "V" | "Y" | "D" | "K" | "H" | "M" | "N" | "Q" | "-" => Vec::new(),
            // The suite's own groups are not in this repository.
            "P" => each(&|group| group.chars().all(|c| c.is_ascii_lowercase())),
            // A row's name can have commas in it, and a remark behind it.
            "R" if self.rows.iter().any(|row| names.starts_with(row.as_str())) => Vec::new(),
            "R" => vec![names.into()],
            "T" => each(&|name| match name.strip_suffix('*') {
                Some(begin) => self.torture.iter().any(|test| test.starts_with(begin)),
                None => self.torture.contains(name),
            }),
            "A" => each(&|application| self.applications.to_lowercase().contains(&application.to_lowercase())),
            "G" => each(&|case| self.corners.contains(case)),
            "E" => each(&|case| self.cases.contains(case)),
            "I" => each(&|name| {
                let name = name.trim_start_matches("with shuttle:").trim();
                match name.strip_suffix("::*") {
                    Some(module) => is_module(module),
                    None => self.functions.contains(name),
                }
            }),
            path if path.starts_with('`') => {
                let missing = |path: &&str| path.starts_with("tests/") && !root().join(path).exists();
                part.split('`').filter(missing).map(str::to_owned).collect()
            }
            // Words about what the others prove: `the others: -`.
            "the" => Vec::new(),
            _ => vec!["no kind of proof".into()],
        }
    }
}

fn is_module(module: &str) -> bool {
    root().join("tests/integration").join(module.replace("::", "/")).with_extension("rs").exists()
}

fn rust_files(dir: &Path, take: &mut dyn FnMut(&str)) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, take);
        } else if path.extension().is_some_and(|e| e == "rs") {
            take(&std::fs::read_to_string(&path).expect("a source file"));
        }
    }
}

#[test]
fn every_proof_of_a_promise_is_there() {
    let known = Known::collect();
    let (semantics, format) = (text("docs/SEMANTICS.md"), text("docs/FORMAT.md"));
    let promises = semantics.split_once("## Tenets").expect("the promises begin with the tenets").1;
    let (_, proven) = format.split_once("## 14. ").expect("what is proven of the format");
    let (proven, _) = proven.split_once("## 15. ").expect("a section behind it");
    let points = proven.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    points.clone().for_each(|point| assert!(point.contains('['), "{point}"));
    assert_eq!(points.count(), 14);
    let model = text("docs/THREAT-MODEL.md");
    let failures = model.split_once("## How others failed").expect("what happened to others").1;
    let (failures, _) = failures.split_once("\n## ").expect("a section behind it");
    let (_, failures) = failures.split_once("\n|---|---|---|\n").expect("a table");
    failures.lines().filter(|row| row.starts_with('|')).for_each(|row| {
        let stated = row.contains("**here too**") || proofs(row).len() == 1;
        assert!(stated, "{row}");
    });
    let proofs: Vec<_> = [promises, proven, failures].into_iter().flat_map(proofs).collect();
    let missing: Vec<String> = proofs.iter().flat_map(|proof| known.missing(proof)).collect();
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
    assert!(proofs.len() > 60, "{} proofs were found", proofs.len());
}

#[test]
fn the_threat_model_knows_every_way_of_tampering() {
    let (torture, model) = (text("tests/torture/torture.py"), text("docs/THREAT-MODEL.md"));
    let begins = ["case('", "out('tamper: "].into_iter().flat_map(|begin| torture.split(begin).skip(1));
    let names: Vec<&str> = begins.filter_map(|rest| rest.split_once('\'')).map(|(name, _)| name).collect();
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !matches!(**name, "" | "note" | "none (control)") && !model.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(names.len() > 20, "{names:?}");
}

#[test]
fn a_proof_that_is_not_there_is_noticed() {
    let known = Known::collect();
    for proof in [
        "I no_test_of_that_name",
        "C; I every_proof_of_a_promise_is_there, no_test_of_that_name",
        "I no_module::*",
        "R no such row",
        "T kill9_overwrite, no_test",
        "T no_test*",
        "A no_program",
        "E no such case",
        "`tests/suites/none.sh`",
        "X",
    ] {
        assert!(!known.missing(proof).is_empty(), "{proof}");
    }
    assert_eq!(proofs("1. One. [C;\n  I name] [link](x)"), ["C; I name"]);
}
