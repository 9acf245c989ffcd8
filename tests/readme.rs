//! What README and `conf/` show is true: every configuration is checked, every command line is run.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

const README: &str = include_str!("../README.md");
const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn configurations_are_good() {
    let minimal = fs::read_to_string(Path::new(PACKAGE).join("conf/minimal.yaml")).unwrap();
    let blocks = blocks("yaml");
    assert!(blocks.contains(&minimal.trim_end()), "README shows conf/minimal.yaml");
    for block in blocks {
        // A block without routes shows some keys of a larger file.
        let whole = match block.contains("routes:") {
            true => block.to_owned(),
            false => format!("{minimal}{block}\n"),
        };
        check("README", &whole);
    }
}

#[test]
fn example_files_are_good() {
    let mut folders = vec![Path::new(PACKAGE).join("conf")];
    let mut checked = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read_to_string(&path)
                .unwrap()
                .lines()
                .any(|line| line.starts_with("listen"))
            {
                // The others are parts of these, or no configuration of the gateway.
                check_file(&path);
                checked += 1;
            }
        }
    }
    assert!(checked >= 3, "{checked} whole configurations");
}

#[test]
fn a_key_made_by_the_recipe_fits_the_configuration() {
    let recipe = block("sh", "key new");
    let mut words = recipe.split_whitespace();
    assert_eq!(words.next(), Some("toolgate"));
    let made = Command::new(program()).args(words).output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    let line = made.lines().find(|line| line.contains("sha256")).expect("the line of the key");
    let minimal = block("yaml", "routes:");
    check("keys", &format!("{minimal}\nidentity:\n  api_keys:\n    {}\n", line.trim()));
}

#[cfg(feature = "demo")]
#[test]
fn the_first_call_is_answered() {
    let folder = env::temp_dir().join(format!("toolgate-first-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let mut demo = Command::new(program());
    demo.args(["demo", "--listen", "127.0.0.1:0"]).current_dir(&folder).env("TMPDIR", &folder);
    let mut demo = Running(demo.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.find_map(|line| {
        let url = line.trim().strip_suffix("everything")?.trim_end();
        Some(url.strip_prefix("http://")?.strip_suffix("/mcp")?.to_owned())
    });
    let url = url.expect("the greeting names the address");
    let greeting: Vec<_> = lines.by_ref().take_while(|line| !line.contains("Ctrl-C")).collect();
    // The greeting comes before the listener.
    let mut tries = 0..200;
    while TcpStream::connect(&url).is_err() && tries.next().is_some() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let curl = block("sh", "curl").replace("127.0.0.1:8080", &url);
    let expected = block("text", "\"42\"").trim_end();
    for answer in answers(&curl, &url) {
        assert!(answer.contains(expected), "{answer}");
    }
    let logged = lines.find(|line| line.contains("tools/call add"));
    assert!(logged.is_some_and(|line| line.contains("200 ok")), "the call has a line");

    let adds = block("sh", "add_note").replace("127.0.0.1:8080", &url);
    let expected = block("text", "unknown tool").trim_end();
    for answer in answers(&adds, &url) {
        assert!(answer.contains(expected), "{answer}");
    }
    let said = |words: &str| greeting.iter().find(|line| line.contains(words)).unwrap();
    let header = said("Authorization: Bearer").split('\'').nth(1).unwrap();
    let by_writer = adds.replacen("-d '", &format!("-H '{header}' -d '"), 1);
    for answer in answers(&by_writer, &url) {
        assert!(answer.contains("Kept as note"), "{answer}");
    }
    let explained = sh(&format!("{} || true", said(" explain ")));
    let expected = block("text", "for this caller").trim_end();
    assert!(explained.contains(expected), "{explained}");
    let tail = said(" audit tail ").replace(" --follow", "");
    let expected = block("text", "  deny").trim_end();
    let mut tries = 0..200;
    while !sh(&tail).contains(expected) {
        assert!(tries.next().is_some(), "no {expected} in\n{}", sh(&tail));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(demo);
    fs::remove_dir_all(folder).unwrap();
}

/// What a curl command line is answered: done by hand, and by curl where there is one.
#[cfg(feature = "demo")]
fn answers(curl: &str, address: &str) -> Vec<String> {
    let mut answers = vec![raw(curl, address)];
    if is_installed("curl") {
        answers.push(sh(curl));
    }
    answers
}

#[test]
fn metrics_are_all_named() {
    let files = fs::read_dir(Path::new(PACKAGE).join("src/telemetry")).unwrap();
    let files = files.map(|file| file.unwrap().path()).filter(|path| path.is_file());
    let sources = files.map(|file| fs::read_to_string(file).unwrap());
    let source = sources.collect::<Vec<_>>().concat();
    let names: Vec<_> = source.split('"').filter(|text| is_metric(text)).collect();
    assert!(names.len() > 5, "the names are literals");
    for name in names {
        assert!(README.contains(&format!("| `{name}` |")), "README lacks the metric {name}");
    }
}

#[test]
fn limits_are_the_defaults() {
    let full = fs::read_to_string(Path::new(PACKAGE).join("conf/full.yaml")).unwrap();
    let rows = README.lines().skip_while(|line| !line.starts_with("| key | default |")).skip(2);
    let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 5, "README has the table");
    for row in rows {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let (key, value) = (cells.next().unwrap().trim_matches('`'), cells.next().unwrap());
        let line = format!(" {}: {value}\n", key.rsplit('.').next().unwrap());
        assert!(full.contains(&line), "conf/full.yaml has another default for {key}");
    }
}

#[test]
fn links_lead_somewhere() {
    let sections: Vec<String> =
        README.lines().filter(|line| line.starts_with('#')).map(section).collect();
    for link in README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        let is_there = match link.strip_prefix('#') {
            Some(link) => sections.iter().any(|section| section == link),
            None => link.starts_with("https://") || Path::new(PACKAGE).join(link).exists(),
        };
        assert!(is_there, "{link}");
    }
}

/// What links call the section with this heading.
fn section(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|letter| letter.is_alphanumeric() || " -".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

/// A process that ends with its test, also when that fails.
#[cfg(feature = "demo")]
struct Running(std::process::Child);

#[cfg(feature = "demo")]
impl Drop for Running {
    fn drop(&mut self) {
        if self.0.kill().and_then(|()| self.0.wait()).is_err() {
            eprintln!("the demo had ended before");
        }
    }
}

/// The program under test: that of this build, or one that was built for release.
fn program() -> PathBuf {
    let given = env::var_os("TOOLGATE_BINARY").map(PathBuf::from);
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_toolgate").into())
}

fn check(name: &str, yaml: &str) {
    let folder = env::temp_dir().join(format!("toolgate-{name}-{}", std::process::id()));
    for (path, text) in files_for_tls() {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let file = folder.join("toolgate.yaml");
    fs::write(&file, yaml).unwrap();
    check_file(&file);
    fs::remove_dir_all(folder).unwrap();
}

/// What README names beside its configurations.
fn files_for_tls() -> Vec<(&'static str, String)> {
    let of_conf = |name| fs::read_to_string(Path::new(PACKAGE).join("conf").join(name)).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let partners = rcgen::CertificateParams::new(vec!["partners.example.com".to_owned()]).unwrap();
    vec![
        ("tls/tls.crt", of_conf("localhost.crt")),
        ("tls/tls.key", of_conf("localhost.key")),
        ("tls/internal-ca.crt", of_conf("localhost.crt")),
        ("partners/tls.crt", partners.self_signed(&key).unwrap().pem()),
        ("partners/tls.key", key.serialize_pem()),
        ("clients/ca.crt", of_conf("localhost.crt")),
        ("clients/revoked.crl", of_conf("localhost.crl")),
    ]
}

fn check_file(file: &Path) {
    let mut check = Command::new(program());
    check.args([OsStr::new("check"), OsStr::new("--config"), file.as_os_str()]);
    let done = check.env("TOOLGATE_SESSION_KEY", "k".repeat(32)).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The code blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let blocks = README.split("\n```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// The first code block of a language that holds a text.
fn block(language: &str, text: &str) -> &'static str {
    let found = blocks(language).into_iter().find(|block| block.contains(text));
    found.unwrap_or_else(|| panic!("README has no {language} block with {text}"))
}

fn is_installed(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|done| done.status.success())
}

fn sh(script: &str) -> String {
    let done = Command::new("sh").args(["-euc", script]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Does what a curl command line says, for machines without curl.
fn raw(curl: &str, address: &str) -> String {
    let arguments: Vec<_> = curl.split('\'').collect();
    let quoted = |option: &str| {
        let pairs = arguments.chunks_exact(2);
        pairs.filter(|pair| pair[0].ends_with(option)).map(|pair| pair[1]).collect::<Vec<_>>()
    };
    let body = quoted("-d ")[0];
    let path = curl.split(address).nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n{}\r\n\r\n{body}",
        body.len(),
        quoted("-H ").join("\r\n"),
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn is_metric(text: &str) -> bool {
    text.starts_with("toolgate_")
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
