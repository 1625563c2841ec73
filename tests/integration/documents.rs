//! Every command line in the documents is one that the program takes.

use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory};
use kmsfs::cli::Cli;

/// A command line in a document.
struct Fragment {
    place: String,
    words: Vec<String>,
    /// From a listing, so complete; in running text arguments may be left out.
    whole: bool,
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).expect("docs").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    files.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md", "packaging/README.md"].map(|name| root.join(name)));
    files
}

fn fragments(name: &str, text: &str) -> Vec<Fragment> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (number, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language.trim()) };
            continue;
        }
        let whole = fence.is_some();
        let texts: Vec<&str> = match fence {
            // Pictures and tables of bytes show no commands.
            Some(language) if language != "sh" => continue,
            Some(_) => vec![line],
            None => line.split('`').skip(1).step_by(2).collect(),
        };
        for text in texts {
            let place = format!("{name}:{}", number + 1);
            found.extend(commands(text).map(|words| Fragment { place: place.clone(), words, whole }));
        }
    }
    found
}

/// The words of each `kmsfs ...` in a line of shell, up to what ends a simple command.
fn commands(line: &str) -> impl Iterator<Item = Vec<String>> {
    let starts = line.match_indices("kmsfs ").filter(|(at, _)| {
        let before = line[..*at].trim_end_matches("target/release/");
        let assignments = before.split_whitespace().all(|word| word == "sudo" || word.contains('='));
        (assignments && !before.ends_with(|c: char| c.is_alphanumeric() || "/-.".contains(c))) || before.ends_with("$(")
    });
    starts.map(|(at, _)| {
        let ends =
            |word: &&str| !matches!(*word, "|" | "||" | "&&" | ";" | ">" | ">>" | "<" | "&") && !word.starts_with('#');
        let words = line[at..].split_whitespace().take_while(ends);
        words.map(|word| word.trim_matches(['"', '\'', ')', ';', ',']).to_owned()).collect()
    })
}

/// Why the program would not take it.
fn refusal(cli: &Command, fragment: &Fragment) -> Option<String> {
    if fragment.whole {
        return cli.clone().try_get_matches_from(&fragment.words).err().and_then(|e| {
            let shown =
                matches!(e.kind(), clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion);
            (!shown).then(|| e.to_string())
        });
    }
    let mut command = cli;
    for word in &fragment.words[1..] {
        // `[--key KEY]`, `--tag NAME=VALUE]...`
        let word = word.trim_matches(['[', ']', '.', '(', ')']);
        if let Some(flag) = word.strip_prefix("--") {
            let flag = flag.split('=').next().expect("the first part");
            if !command.get_arguments().any(|arg| is_long(arg, flag)) && flag != "help" {
                return Some(format!("`{}` has no --{flag}", command.get_name()));
            }
        } else if let Some(flag) = word.strip_prefix('-').filter(|flag| flag.len() == 1) {
            if !command.get_arguments().any(|arg| arg.get_short().is_some_and(|short| flag.starts_with(short))) {
                return Some(format!("`{}` has no -{flag}", command.get_name()));
            }
        } else if let Some(next) = command.find_subcommand(word) {
            command = next;
        } else if command.has_subcommands() && word != "COMMAND" {
            return Some(format!("`{}` has no command `{word}`", command.get_name()));
        } else if command.get_positionals().next().is_none() && !takes_values(command) {
            return Some(format!("`{}` takes no `{word}`", command.get_name()));
        }
    }
    None
}

fn is_long(arg: &Arg, flag: &str) -> bool {
    arg.get_long() == Some(flag) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&flag))
}

fn takes_values(command: &Command) -> bool {
    command.get_arguments().any(|arg| arg.get_action().takes_values())
}

fn cli() -> Command {
    let mut cli = Cli::command();
    // Hands the global options down to every command.
    cli.build();
    cli
}

#[test]
fn every_command_in_the_documents_is_taken() {
    let cli = cli();
    let mut checked = 0;
    let mut refused = Vec::new();
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for fragment in fragments(&path.display().to_string(), &text) {
            checked += 1;
            if let Some(why) = refusal(&cli, &fragment) {
                refused.push(format!("{}: {}: {why}", fragment.place, fragment.words.join(" ")));
            }
        }
    }
    assert!(refused.is_empty(), "\n{}", refused.join("\n"));
    assert!(checked > 50, "{checked} commands were found");
}

#[test]
fn what_is_no_command_is_refused() {
    let cli = cli();
    let check = |text: &str| {
        let found = fragments("document", text);
        assert_eq!(found.len(), 1, "{text}");
        refusal(&cli, &found[0])
    };
    for text in [
        "Use `kmsfs sped` now.",
        "`kmsfs verify DIR [--melt OUT]`",
        "`kmsfs key melt KEY`",
        "`kmsfs audit show [-z N]`",
        "```sh\nkmsfs mount --daemon DIR\n```",
        "```sh\nkey=$(kmsfs key create --jsno | jq -r .KeyMetadata.KeyId)\n```",
        "```sh\nKMSFS_HOME=/restore/kms kmsfs verfy /restore/cipher   # comment\n```",
    ] {
        assert!(check(text).is_some(), "{text}");
    }
    for text in [
        "`kmsfs key create [--description TEXT] [--alias NAME] [--tag NAME=VALUE]...`",
        "```sh\nkey=$(kmsfs key create --json | jq -r .KeyMetadata.KeyId)\n```",
        "```sh\nKMSFS_HOME=/restore/kms kmsfs verify /restore/cipher   # comment\n```",
    ] {
        assert_eq!(check(text), None, "{text}");
    }
    assert!(fragments("document", "```\nkmsfs mount | a picture\n```\nthe word kmsfs alone").is_empty());
}
