//! The rules that keep the layers apart, read from the sources.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::{Source, sources};

/// Level of each module of the library. A module imports only from lower levels; those of level 0 also from one
/// another, as long as no cycle comes of it.
const LAYERS: [(&str, u32); 17] = [
    ("types", 0),
    ("sync", 0),
    ("env", 0),
    ("sys", 0),
    ("crypto", 1),
    ("format", 2),
    ("kms", 3),
    ("store", 3),
    ("freshness", 4),
    ("keys", 4),
    ("content", 5),
    ("vfs", 6),
    ("volume", 6),
    ("ops", 6),
    ("fuse", 7),
    ("server", 8),
    ("cli", 9),
];

/// Modules side by side that import one another in a circle because they are two halves of one thing.
const HALVES: [(&str, &[&str]); 3] = [
    // A signing key of any kind, and the kinds.
    ("crypto::asymmetric", &["ec", "ed25519", "ml_dsa", "rsa", "signing"]),
    // A file's header, the recipients in it and the keys that it derives; names and the id that they hang on.
    ("format", &["branch", "dirid", "header", "keys", "name", "recipient"]),
    ("store", &["local", "local_attr"]),
];

/// Locks that `sync` offers in a form that the scheduler of the concurrency tests can take over. `sys` is below it: its
/// memory outlives every test.
const LOCKS: [&str; 3] = ["Mutex", "RwLock", "Condvar"];
const PRINTS: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];
const MAX_LINES: usize = 800;

fn level(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, level)| *level)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All rules on one set of sources; what breaks them, one line each.
fn findings(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_root()) {
        let path = &source.path;
        let module = source.top_module();
        let Some(own) = level(module) else {
            findings.push(format!("{path}: the module `{module}` has no layer"));
            continue;
        };
        for import in source.imports() {
            match level(&import.module) {
                None => findings.push(format!("{path}:{}: `{}` has no layer", import.line, import.module)),
                Some(other) if import.module != module && (other > own || other == own && own > 0) => {
                    let what = format!("`{module}` (level {own}) imports `{}` (level {other})", import.module);
                    findings.push(format!("{path}:{}: {what}", import.line));
                }
                Some(_) if import.module != module => {
                    let name = LAYERS.iter().find(|(name, _)| *name == import.module).map(|(name, _)| *name);
                    imports.entry(module).or_default().extend(name);
                }
                Some(_) => {}
            }
        }
    }
    findings.extend(cycle(&imports).map(|modules| format!("a cycle of imports: {}", modules.join(" -> "))));
    findings.extend(circles_side_by_side(sources));
    for source in sources {
        let path = &source.path;
        for (line, word) in source.words() {
            if word == "unsafe" && source.top_module() != "sys" {
                findings.push(format!("{path}:{line}: `unsafe` outside src/sys"));
            }
            if word == "NoCipher" && !path.starts_with("src/cli/bench/") && path != "src/crypto/aead.rs" {
                findings.push(format!("{path}:{line}: a volume without encryption outside `kmsfs bench`"));
            }
        }
        for (line, name) in source.std_sync() {
            if LOCKS.contains(&name.as_str()) && !matches!(source.top_module(), "sync" | "sys") {
                findings.push(format!("{path}:{line}: `std::sync::{name}` instead of `crate::sync::{name}`"));
            }
        }
        for (line, name) in source.macros() {
            if PRINTS.contains(&name) && source.top_module() != "cli" {
                findings.push(format!("{path}:{line}: `{name}!` outside src/cli"));
            }
        }
    }
    findings
}

/// Modules below one parent that import one another in a circle, themselves or by what is below them.
fn circles_side_by_side(sources: &[Source]) -> Vec<String> {
    let modules: BTreeSet<&[String]> = sources.iter().map(|source| source.module.as_slice()).collect();
    let mut imports: BTreeMap<String, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_root()) {
        for path in source.paths() {
            let own = &source.module;
            let Some(other) = (1..=path.len()).rev().find_map(|len| modules.get(&path[..len])) else { continue };
            let shared = own.iter().zip(other.iter()).take_while(|(a, b)| a == b).count();
            if let (1.., Some(from), Some(to)) = (shared, own.get(shared), other.get(shared)) {
                imports.entry(own[..shared].join("::")).or_default().entry(from).or_default().insert(to);
            }
        }
    }
    let mut findings = Vec::new();
    // The key manager's parts are one state machine: its store, its audit log and the custody of its keys need one another.
    for (parent, mut imports) in imports.into_iter().filter(|(parent, _)| !parent.starts_with("kms")) {
        let halves = HALVES.iter().find(|(of, _)| *of == parent).map_or(&[][..], |(_, halves)| halves);
        for (from, to) in &mut imports {
            to.retain(|to| !(halves.contains(from) && halves.contains(to)));
        }
        findings.extend(cycle(&imports).map(|modules| format!("a cycle within `{parent}`: {}", modules.join(" -> "))));
    }
    findings
}

fn size_and_characters(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for Source { path, text, .. } in sources {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            findings.push(format!("{path}: {lines} lines, more than {MAX_LINES}"));
        }
        if let Some(line) = text.lines().position(|line| !line.is_ascii()) {
            findings.push(format!("{path}:{}: a character that is not ASCII", line + 1));
        }
    }
    findings
}

/// A cycle in the graph, if there is one.
fn cycle<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    fn visit<'a>(
        at: &'a str,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
        imports: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    ) -> bool {
        if let Some(start) = path.iter().position(|module| *module == at) {
            path.drain(..start);
            path.push(at);
            return true;
        }
        if !done.insert(at) {
            return false;
        }
        path.push(at);
        let found = imports.get(at).is_some_and(|next| next.iter().any(|next| visit(next, path, done, imports)));
        if !found {
            path.pop();
        }
        found
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|start| {
        let mut path = Vec::new();
        visit(start, &mut path, &mut done, imports).then_some(path)
    })
}

/// Files that no `mod` line declares, so that they are never compiled.
fn forgotten(sources: &[Source], root: &str) -> Vec<String> {
    let declared: BTreeSet<Vec<String>> = sources.iter().flat_map(Source::declared_modules).collect();
    let files = sources.iter().filter(|source| !source.path.ends_with(root));
    files.filter(|source| !declared.contains(&source.module)).map(|source| source.path.clone()).collect()
}

fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn modules_import_only_lower_layers_and_keep_to_their_subject() {
    let sources = sources(&root().join("src"));
    assert!(sources.len() > 20, "the sources were found");
    none(findings(&sources));
}

#[test]
fn files_are_short_and_ascii() {
    for directory in ["src", "tests"] {
        none(size_and_characters(&sources(&root().join(directory))));
    }
}

#[test]
fn no_file_is_forgotten() {
    let tests = sources(&root().join("tests/integration"));
    assert!(tests.iter().any(|source| source.path.ends_with("architecture.rs")), "the tests were found");
    none(forgotten(&tests, "main.rs"));
    none(forgotten(&sources(&root().join("src")), "lib.rs").into_iter().filter(|f| !f.ends_with("main.rs")).collect());
}

/// The rules themselves: each of these sources breaks exactly one.
#[test]
fn every_rule_finds_what_it_is_for() {
    let check = |path: &str, text: &str| findings(&[Source::new(path, text)]);
    for text in [
        "use crate::vfs::Vfs;",
        "use crate::keys;",
        "use crate::{types::Timestamp, keys::KeyService};",
        "use {crate::keys::KeyService, std::fmt};",
        "fn f() { let x = crate::fuse::mount(); }",
        "use super::content::File;",
        "mod tests { use super::super::content::File; }",
        "mod tests { fn f() { { super::super::content::open() } } }",
        "use crate::kms::Engine;",
        "use crate::nonsense::X;",
        "fn f() { unsafe { g() } }",
        "fn f() { g(crate::crypto::aead::Backend::NoCipher) }",
        "fn f() { println!(\"x\"); }",
        "fn f() { dbg !(1); }",
        "use std::sync::Mutex;",
        "use std::{fs, sync::{Arc, RwLock}};",
        "fn f(lock: &std::sync::Condvar) {}",
    ] {
        assert_eq!(check("src/store.rs", text).len(), 1, "{text}: {:?}", check("src/store.rs", text));
    }
    assert_eq!(check("src/store/memory/pages.rs", "use super::super::super::keys::X;").len(), 1);
    assert_eq!(check("src/new.rs", "").len(), 1);
    for text in [
        "use crate::{env::Clock, sync::{Arc, lock}};\nuse crate::store::Backing;",
        "mod tests { use super::keys::X; }",
        "// use crate::vfs::Vfs;\n/* unsafe /* println!() */ crate::vfs */",
        "#![deny(unsafe_code)] const A: &str = \"unsafe println!() crate::vfs::X\";",
        "const A: &str = r#\"crate::vfs \" unsafe\"#; const B: char = '\"'; const C: char = '\\''; fn f<'a>(x: &'a str) {}",
        "fn f(f: impl fmt::Write) { writeln!(f); println(); }",
        "use std::sync::{Arc, mpsc};\nuse crate::sync::Mutex;",
        "use std::{sync::Arc, fs};\nfn f(m: Mutex) {}",
    ] {
        assert_eq!(check("src/store.rs", text), Vec::<String>::new(), "{text}");
    }
    assert_eq!(check("src/sys/arena.rs", "unsafe fn f() {}"), Vec::<String>::new());
    assert_eq!(check("src/cli/key.rs", "fn f() { println!(); crate::vfs::x() }"), Vec::<String>::new());
    assert_eq!(check("src/main.rs", "fn main() { println!() }").len(), 1);

    let cyclic = [Source::new("src/env.rs", "use crate::types::A;"), Source::new("src/types.rs", "use crate::env::B;")];
    assert_eq!(findings(&cyclic).len(), 1);

    let side_by_side = |a: &str, b: &str| {
        let files =
            [Source::new("src/cli/a.rs", a), Source::new("src/cli/a/inner.rs", ""), Source::new("src/cli/b.rs", b)];
        circles_side_by_side(&files).len()
    };
    assert_eq!(side_by_side("use super::b::X;", "use super::a::Y;"), 1);
    assert_eq!(side_by_side("fn f() { super::b::x() }", "use crate::cli::{c::Z, a::inner::{Y, Z}};"), 1);
    assert_eq!(
        side_by_side("use self::inner::X; use super::b::{self, X as Y};", "mod tests { use super::super::a; }"),
        1
    );
    assert_eq!(side_by_side("use super::b::X;", "mod tests { use super::a::Y; } mod a {}"), 0);
    assert_eq!(side_by_side("use super::b::X;", "use crate::types::a::Y;"), 0);

    let long = Source::new("src/a.rs", &"\n".repeat(MAX_LINES + 1));
    let foreign = Source::new("src/b.rs", "// \u{e4}\n");
    assert_eq!(size_and_characters(&[long, foreign, Source::new("src/c.rs", "\n")]).len(), 2);

    let files = [
        Source::new("src/lib.rs", "mod a;"),
        Source::new("src/a.rs", "#[cfg(test)]\nmod b;\n// mod c;"),
        Source::new("src/a/b.rs", ""),
        Source::new("src/a/c.rs", ""),
        Source::new("src/b.rs", ""),
    ];
    assert_eq!(forgotten(&files, "lib.rs"), ["src/a/c.rs", "src/b.rs"]);
}
