//! Further files as one configuration: those of several teams by `include`, and the one of what was registered.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::identity::IncludedIdentityText;
use super::place::Place;
use super::policy_texts::PolicyText;
use super::reading::Reading;
use super::routes::RouteText;
use super::servers::ServerText;
use super::shape::{At, Entries, Field, Shape, shape};
use super::tree::compose;

/// More files than teams ever have are a pattern that caught a wrong directory.
const FILES_MAX: usize = 1000;

/// What is shown in place of a file's name for what was discovered.
const DISCOVERED: &str = "services of Kubernetes";

shape! {
    /// An included file: what a team owns.
    IncludedText {
        /// The team's MCP servers by name.
        optional servers: Entries<ServerText>,
        /// The team's public paths.
        optional routes: Vec<Field<RouteText>>,
        /// The team's API keys.
        optional identity: IncludedIdentityText,
        /// The team's rules.
        optional policy: PolicyText,
    }
}

shape! {
    /// What was registered while the gateway ran, and is to stay.
    RegisteredText {
        /// The registered MCP servers by name.
        optional servers: Entries<ServerText>,
        /// Their public paths.
        optional routes: Vec<Field<RouteText>>,
    }
}

/// Reads what was registered; no file means that nothing was.
pub(super) fn read_registered(path: &Path, reading: &mut Reading<'_>) -> Field<RegisteredText> {
    if matches!(path.try_exists(), Ok(false)) {
        return Field::Absent;
    }
    read(path, None, reading)
}

/// Reads what was discovered, which the gateway itself has written down.
pub(super) fn read_discovered(text: &str, reading: &mut Reading<'_>) -> Field<RegisteredText> {
    let source = reading.texts.add(DISCOVERED.to_owned(), PathBuf::new(), text);
    compose(source, reading).map_or(Field::Faulty, |root| Field::read(&root, reading))
}

/// Reads every file that the patterns name, each once, in the order of patterns and names.
pub(super) fn read_all(
    main: Option<&Path>,
    patterns: Field<Vec<Field<String>>>,
    reading: &mut Reading<'_>,
) -> Vec<Field<IncludedText>> {
    let patterns = match patterns {
        Field::Absent => return Vec::new(),
        Field::Faulty => return vec![Field::Faulty],
        Field::Given(patterns) => patterns.value,
    };
    let mut seen: BTreeSet<PathBuf> =
        main.and_then(|main| main.canonicalize().ok()).into_iter().collect();
    let mut texts = Vec::new();
    for pattern in patterns {
        let Field::Given(pattern) = pattern else {
            texts.push(Field::Faulty);
            continue;
        };
        let paths = matches(&pattern, reading);
        if paths.is_empty() {
            texts.push(Field::Faulty);
        }
        for path in paths {
            // A file that two patterns name is one file; the main file never includes itself.
            let identity = path.canonicalize().unwrap_or_else(|_| path.clone());
            if !seen.insert(identity) {
                continue;
            }
            if seen.len() > FILES_MAX {
                let message = format!("more than {FILES_MAX} files are included");
                reading.problem(pattern.place, message, "narrow the pattern");
                return texts;
            }
            texts.push(read(&path, Some(pattern.place), reading));
        }
    }
    texts
}

/// An empty file is a team that owns nothing yet.
fn read<T: Shape>(path: &Path, named_at: Option<Place>, reading: &mut Reading<'_>) -> Field<T> {
    let Some(source) = reading.open(path, named_at) else { return Field::Faulty };
    let problems_before = reading.problems.len();
    match compose(source, reading) {
        Some(root) => Field::read(&root, reading),
        None if reading.problems.len() == problems_before => Field::Absent,
        None => Field::Faulty,
    }
}

fn matches(pattern: &At<String>, reading: &mut Reading<'_>) -> Vec<PathBuf> {
    let directory = reading.texts.directory(pattern.place.source()).to_path_buf();
    let (paths, listed) = expand(&directory, Path::new(&pattern.value));
    listed.iter().for_each(|directory| reading.texts.depend_on(directory));
    if paths.is_empty() {
        let hint =
            "patterns are relative to this file; `*` and `?` stand for characters within a name";
        reading.problem(pattern.place, "no file matches", hint);
    }
    paths
}

/// The existing files that a pattern names, in the order of their names, and the directories that were listed.
fn expand(directory: &Path, pattern: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut found = vec![directory.to_path_buf()];
    let mut listed = Vec::new();
    for component in pattern.components() {
        found = match component {
            Component::Normal(name) if name.to_string_lossy().contains(['*', '?']) => {
                let name = name.to_string_lossy();
                let directories: Vec<PathBuf> = found.iter().map(|path| listable(path)).collect();
                let entries =
                    directories.iter().flat_map(|path| matching_entries(path, &name)).collect();
                listed.extend(directories);
                entries
            }
            plain => found.into_iter().map(|path| path.join(plain)).collect(),
        };
    }
    // A link that leads nowhere stays, so that it is told and not passed over.
    found.retain(|path| path.symlink_metadata().is_ok() && !path.is_dir());
    (found, listed)
}

/// The working directory has no name as the parent of a file, but needs one to be listed.
fn listable(directory: &Path) -> PathBuf {
    if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.to_path_buf() }
}

fn matching_entries(directory: &Path, pattern: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let wanted = |name: &str| {
        // Kubernetes keeps old versions of mounted files in directories that begin with a dot.
        name.starts_with('.') == pattern.starts_with('.') && wildcard_matches(pattern, name)
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut paths: Vec<PathBuf> = names
        .filter(|name| wanted(&name.to_string_lossy()))
        .map(|name| directory.join(name))
        .collect();
    paths.sort();
    paths
}

/// Whether a name fits a pattern: `*` stands for any characters, `?` for one. Going back only to the
/// last `*` keeps it linear in practice.
pub fn wildcard_matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    let mut star = None;
    loop {
        match (pattern.next(), name.clone().next()) {
            (Some('*'), _) => star = Some((pattern.clone(), name.clone())),
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                name.next();
            }
            (None, None) => return true,
            _ => {
                // The last `*` takes one character more.
                let Some((after_star, rest)) = &mut star else { return false };
                if rest.next().is_none() {
                    return false;
                }
                (pattern, name) = (after_star.clone(), rest.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Path, expand, wildcard_matches};
    use crate::config::tests::directory::TestDirectory;

    #[test]
    fn wildcards_match_within_a_name() {
        let check = |pattern, name, expected| {
            assert_eq!(wildcard_matches(pattern, name), expected, "{pattern} {name}")
        };
        check("*.yaml", "a.yaml", true);
        check("*.yaml", ".yaml", true);
        check("*.yaml", "a.yml", false);
        check("a*b*c", "aXbYbZc", true);
        check("a*b*c", "aXbY", false);
        check("?.yaml", "é.yaml", true);
        check("?.yaml", "ab.yaml", false);
        check("*", "", true);
        check("", "a", false);
        check("***a***", "bab", true);
    }

    #[test]
    fn patterns_name_existing_files_in_order() {
        let directory = TestDirectory::new();
        for name in [
            "teams/b.yaml",
            "teams/a.yaml",
            "teams/..data/c.yaml",
            "teams/.hidden.yaml",
            "teams/d.txt",
            "other/a.yaml",
        ] {
            directory.write(name, "");
        }
        let check = |pattern: &str, expected: &[&str]| {
            let (paths, _) = expand(directory.path(), Path::new(pattern));
            let expected: Vec<_> =
                expected.iter().map(|name| directory.path().join(name)).collect();
            assert_eq!(paths, expected, "{pattern}");
        };
        check("teams/*.yaml", &["teams/a.yaml", "teams/b.yaml"]);
        check("*/a.yaml", &["other/a.yaml", "teams/a.yaml"]);
        check("teams/a.yaml", &["teams/a.yaml"]);
        check("teams", &[]);
        check("teams/*.yml", &[]);
        check("absent/*.yaml", &[]);
    }
}
