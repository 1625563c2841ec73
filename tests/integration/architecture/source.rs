//! Just enough of Rust's grammar to see what a source file imports.

use std::collections::BTreeSet;
use std::path::Path;

/// One source file.
pub struct Source {
    /// Path within the package, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
    /// Path of the module that the file is.
    pub module: Vec<String>,
    tokens: Vec<Token>,
}

/// A module of the library that is used, and where.
pub struct Import {
    pub module: String,
    pub line: usize,
}

struct Token {
    line: usize,
    text: String,
}

/// All Rust files below a directory.
pub fn sources(directory: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().to_owned();
            found.push(Source::new(&name, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let inner = path.strip_prefix("tests/integration/").or(path.strip_prefix("src/")).unwrap_or(path);
        let module = inner.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        Self { path: path.into(), text: text.into(), module, tokens: tokens(text) }
    }

    /// Whether this is the root of the library or the binary.
    pub fn is_root(&self) -> bool {
        matches!(self.path.as_str(), "src/lib.rs" | "src/main.rs")
    }

    /// The module of the library that the file belongs to.
    pub fn top_module(&self) -> &str {
        &self.module[0]
    }

    /// Every word of the code, without comments and literals.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        self.tokens.iter().map(|token| (token.line, token.text.as_str()))
    }

    /// Macros that are called.
    pub fn macros(&self) -> impl Iterator<Item = (usize, &str)> {
        let calls = self.tokens.windows(2).filter(|pair| pair[1].text == "!");
        calls.map(|pair| (pair[0].line, pair[0].text.as_str()))
    }

    /// What is named of `std::sync`, in a path or in a group of paths.
    pub fn std_sync(&self) -> Vec<(usize, String)> {
        let text = |at: usize| self.tokens[at].text.as_str();
        let is_root = |at: &usize| matches!(text(*at), "std" | "crate" | "super" | ";") && *at + 2 < self.tokens.len();
        let mut names = Vec::new();
        for at in (1..self.tokens.len().saturating_sub(2)).filter(|&at| text(at) == "sync" && text(at + 1) == "::") {
            if (0..at).rev().find(is_root).is_some_and(|root| text(root) == "std") {
                self.collect(at + 2, &mut names);
            }
        }
        names.into_iter().map(|name| (name.line, name.module)).collect()
    }

    /// Modules declared with `mod name;`, by path.
    pub fn declared_modules(&self) -> Vec<Vec<String>> {
        let own: &[String] =
            if matches!(self.module[..], [ref m] if m == "main" || m == "lib") { &[] } else { &self.module };
        let declarations = self.tokens.windows(3).filter(|t| t[0].text == "mod" && t[2].text == ";");
        declarations.map(|t| [own, &[t[1].text.clone()]].concat()).collect()
    }

    /// What is used of the library, by `crate::` and by `super::` beyond the file's own top module.
    pub fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        let mut depth = 0;
        // Depths of the braces of inline modules that are open.
        let mut inline: Vec<usize> = Vec::new();
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        let mut at = 0;
        while at < self.tokens.len() {
            match text(at) {
                "{" => depth += 1,
                "}" => {
                    if inline.last() == Some(&depth) {
                        inline.pop();
                    }
                    depth -= 1;
                }
                "mod" if text(at + 2) == "{" => {
                    inline.push(depth + 1);
                }
                "crate" if text(at + 1) == "::" => self.collect(at + 2, &mut imports),
                "super" if text(at + 1) == "::" => {
                    let mut ups = 1;
                    while text(at + 2) == "super" && text(at + 3) == "::" {
                        at += 2;
                        ups += 1;
                    }
                    if ups >= self.module.len() + inline.len() {
                        self.collect(at + 2, &mut imports);
                    }
                }
                _ => {}
            }
            at += 1;
        }
        imports
    }

    /// Paths within the library that the file names by `crate::`, `super::` and `self::`, each name of a group by itself.
    /// They end in what they name, a module or something in it.
    pub fn paths(&self) -> BTreeSet<Vec<String>> {
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        let mut paths = BTreeSet::new();
        let mut depth = 0;
        let mut inline: Vec<usize> = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let base = match text(at) {
                "{" => {
                    depth += 1;
                    None
                }
                "}" => {
                    if inline.last() == Some(&depth) {
                        inline.pop();
                    }
                    depth -= 1;
                    None
                }
                "mod" if text(at + 2) == "{" => {
                    inline.push(depth + 1);
                    None
                }
                "crate" => Some(Vec::new()),
                // What an inline module calls itself is part of the file's module.
                "self" if inline.is_empty() => Some(self.module.clone()),
                "super" => {
                    let mut ups = 1;
                    while text(at + 1) == "::" && text(at + 2) == "super" {
                        at += 2;
                        ups += 1;
                    }
                    let up = self.module.len().checked_sub(ups - inline.len().min(ups));
                    up.map(|len| self.module[..len].to_vec())
                }
                _ => None,
            };
            if let Some(base) = base
                && text(at + 1) == "::"
            {
                self.tree(at + 2, base, &mut paths);
            }
            at += 1;
        }
        paths
    }

    /// The paths of the tree of names at this token, below `base`; answers the token behind it.
    fn tree(&self, mut at: usize, mut base: Vec<String>, paths: &mut BTreeSet<Vec<String>>) -> usize {
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        while text(at) != "{" {
            base.push(text(at).to_owned());
            if text(at + 1) != "::" {
                paths.insert(base);
                return at + 1;
            }
            at += 2;
        }
        at += 1;
        while !matches!(text(at), "}" | "") {
            at = self.tree(at, base.clone(), paths);
            // A new name for it, and the comma.
            while !matches!(text(at), "," | "}" | "") {
                at += 1;
            }
            at += usize::from(text(at) == ",");
        }
        at + 1
    }

    /// The first names of the path, or the group of paths, at this token.
    fn collect(&self, start: usize, imports: &mut Vec<Import>) {
        let mut push = |token: &Token| imports.push(Import { module: token.text.clone(), line: token.line });
        if self.tokens[start].text != "{" {
            return push(&self.tokens[start]);
        }
        let mut depth = 1;
        let mut first = true;
        for token in &self.tokens[start + 1..] {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                "," if depth == 1 => first = true,
                _ if first && depth == 1 => {
                    push(token);
                    first = false;
                }
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }
}

/// Words, `::` and single signs, without comments and literals.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(c) = rest.chars().next() {
        let (len, keep) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (block_comment(rest), false)
        } else if let Some(len) = literal(rest) {
            (len, false)
        } else if c.is_alphanumeric() || c == '_' {
            (rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()), true)
        } else if rest.starts_with("::") {
            (2, true)
        } else {
            (c.len_utf8(), !c.is_whitespace())
        };
        if keep {
            tokens.push(Token { line, text: rest[..len].into() });
        }
        line += rest[..len].matches('\n').count();
        rest = &rest[len..];
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let step = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of the string or character that the text begins with, prefix included; a lifetime's sign and name too.
fn literal(text: &str) -> Option<usize> {
    let prefix = text.len() - text.trim_start_matches(['b', 'c', 'r']).len();
    let body = &text[prefix..];
    if prefix > 0 && text[..prefix].contains('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        if body[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(prefix + hashes + 1 + body[hashes + 1..].find(&end)? + end.len());
        }
    }
    if prefix > 2 {
        return None;
    }
    if body.starts_with('"') {
        return Some(prefix + quoted(body, '"')?);
    }
    if body.starts_with('\'') && prefix <= 1 {
        let mut chars = body.chars().skip(1);
        let is_char = chars.next() == Some('\\') || chars.next() == Some('\'');
        return if is_char { Some(prefix + quoted(body, '\'')?) } else { (prefix == 0).then_some(1) };
    }
    None
}

fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}
