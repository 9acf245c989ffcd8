//! The rules of the house, held by reading the text of the sources: see "Rules" in `src/lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 5] = ["src", "tests", "benches", "loadtest", "fuzz"];
const LINES_MAX: usize = 500;
/// Roles, not nouns: they say nothing of what a thing is, and everything ends up in them.
const FORBIDDEN_WORDS: [&str; 11] = [
    "manager", "handler", "helper", "util", "utils", "common", "core", "base", "data", "info",
    "misc",
];
/// Words of MCP and of event streams, which are not ours to choose.
const FOREIGN_NAMES: [&str; 2] = ["client_info", "data_of_events"];
/// The clock and everything that reaches out of the process.
const IMPURE: [&str; 10] = [
    "std::io",
    "std::net",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "tokio",
    "pingora",
    "Instant",
    "SystemTime",
];

#[test]
fn modules_import_only_what_stands_above_them_in_the_map() {
    let map = read("src/lib.rs");
    let order: Vec<&str> =
        map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(order.len() > 10, "src/lib.rs lists the modules, one `pub mod` line each");
    let rank = |module: &str| order.iter().position(|listed| *listed == module);
    check("src", |file| {
        let own = rank(&file.module);
        let mut faults = Vec::new();
        for (number, line) in file.code() {
            for part in line.split("crate::").skip(1) {
                let name = part.split(|c: char| !is_word(c)).next().unwrap_or_default();
                match rank(name) {
                    Some(imported) if own.is_none_or(|own| imported <= own) => {}
                    Some(_) => faults.push(format!("{number}: `{name}` stands below")),
                    None => faults.push(format!("{number}: name the module after `crate::`")),
                }
            }
            // One step up stays inside the module, unless the file is the module's root.
            if line.contains("super::super") || (file.is_root() && line.contains("super::")) {
                faults.push(format!("{number}: `super::` leaves the module; write `crate::`"));
            }
        }
        faults
    });
}

#[test]
fn only_the_request_path_and_serve_name_the_proxy() {
    only("src", &["pingora_proxy::", "pingora::proxy"], |file| {
        file.module == "proxy" || file.module == "serve"
    });
}

#[test]
fn only_config_names_yaml() {
    only("src", &["saphyr", "serde_yaml"], |file| file.module == "config");
}

#[test]
fn only_the_request_filter_decides() {
    only("src", &["fn decide"], |file| file.path == "src/proxy/request_filter.rs");
}

#[test]
fn what_is_spoken_is_pure() {
    only("src", &IMPURE, |file| file.module != "jsonrpc" && file.module != "mcp");
}

#[test]
fn every_file_opens_with_a_sentence_and_stays_short() {
    for folder in FOLDERS {
        check(folder, |file| {
            let opening = file.text.lines().map_while(|line| line.strip_prefix("//!"));
            let opening: Vec<_> = opening.take_while(|line| !line.is_empty()).collect();
            let mut faults = Vec::new();
            if !opening.concat().starts_with(' ') || !opening.concat().contains('.') {
                faults.push("1: open with one `//!` sentence".to_owned());
            }
            let lines = file.before_tests().count();
            if lines > LINES_MAX {
                faults.push(format!("{lines} lines before the tests, at most {LINES_MAX}"));
            }
            faults
        });
    }
}

#[test]
fn names_are_nouns_and_verbs_with_edges() {
    for folder in FOLDERS {
        check(folder, |file| {
            let path = file.path.trim_end_matches(".rs");
            let names = file.code().filter_map(|(number, line)| Some((number, public_name(line)?)));
            std::iter::once((1, path))
                .chain(names)
                .filter(|(_, name)| is_forbidden(name) && !FOREIGN_NAMES.contains(name))
                .map(|(number, name)| format!("{number}: `{name}`"))
                .collect()
        });
    }
}

struct Source {
    path: String,
    /// The module of the crate it belongs to: its folder or file in `src/`.
    module: String,
    text: String,
}

impl Source {
    fn before_tests(&self) -> impl Iterator<Item = &str> {
        self.text.lines().take_while(|line| *line != "mod tests {")
    }

    /// The numbered lines that are neither comments nor tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.starts_with("src/") && self.path.contains("/tests");
        let numbered = (1..).zip(self.before_tests());
        numbered.filter(move |(_, line)| !is_test && !line.trim_start().starts_with("//"))
    }

    fn is_root(&self) -> bool {
        self.path.matches('/').count() == 1 || self.path.ends_with("/mod.rs")
    }
}

/// Applies a rule to every source in a folder; it returns what is wrong with one.
fn check(folder: &str, rule: impl Fn(&Source) -> Vec<String>) {
    let mut sources = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut sources);
    assert!(!sources.is_empty(), "no sources in {folder}");
    let mut faults = Vec::new();
    for source in &sources {
        faults.extend(rule(source).into_iter().map(|fault| format!("{}:{fault}", source.path)));
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// These words stand only in sources that may say them.
fn only(folder: &str, forbidden: &[&str], may: impl Fn(&Source) -> bool) {
    check(folder, |source| {
        let says = |line: &str| forbidden.iter().any(|text| line.contains(text));
        let lines = source.code().filter(|(_, line)| says(line) && !may(source));
        lines.map(|(number, line)| format!("{number}: {}", line.trim())).collect()
    });
}

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of the package") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("below the package");
            let path = path.to_str().expect("a name in UTF-8").to_owned();
            let module = path.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs");
            sources.push(Source { module: module.to_owned(), text: read(&path), path });
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a source")
}

/// The name that a line makes public: of an item, or of a field.
fn public_name(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(rest) => rest.split_once(')')?.1,
        None => rest,
    };
    let keywords = ["async", "const", "enum", "fn", "mod", "static", "struct", "trait", "type"];
    let mut names = rest.strip_prefix(' ')?.split(|c: char| !is_word(c));
    names.find(|name| !keywords.contains(name)).filter(|name| *name != "use")
}

/// Whether a forbidden word is one of those a name is made of: `HeadScan`, `head_scan` and
/// `src/head/scan` are made of `head` and `scan`.
fn is_forbidden(name: &str) -> bool {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter.is_uppercase() || !letter.is_alphanumeric() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| letter.is_alphanumeric()) {
            word.extend(letter.to_lowercase());
        }
    }
    words.iter().any(|word| FORBIDDEN_WORDS.contains(&word.as_str())) || name.starts_with("get_")
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}
