//! Asks the admin API and the probes of a running gateway, as the command line does.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::Value;

const API: Bounds = Bounds {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(30),
    // More than a fleet of thousands of endpoints needs.
    answer_bytes_max: 64 * 1024 * 1024,
};
/// A probe is answered with a line or two.
const PROBE_BYTES_MAX: u64 = 4096;

/// How long an answer may take, and how large it may be.
struct Bounds {
    connect: Duration,
    answer: Duration,
    answer_bytes_max: u64,
}

/// Why there is no answer to show.
#[derive(Debug, thiserror::Error)]
pub enum AskFault {
    /// The address is none.
    #[error("{0} is no address of a listener: write it as http://127.0.0.1:9901")]
    Address(String),
    /// Nobody is there, or the connection broke.
    #[error(
        "cannot reach the admin listener at {authority}: {error}; is the gateway running, with `admin` in its configuration?"
    )]
    Unreachable {
        /// Where it should be.
        authority: String,
        /// What the system says.
        error: io::Error,
    },
    /// Nobody answers probes.
    #[error("no answer from the health listener at {authority}: {error}")]
    Silent {
        /// Where it should be.
        authority: String,
        /// What the system says.
        error: io::Error,
    },
    /// The gateway takes no calls, or something else answered.
    #[error("not ready ({status}): {text}")]
    NotReady {
        /// The status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// The token is missing or wrong.
    #[error(
        "the gateway does not know this token ({0}): give it by --token-file or TOOLGATE_ADMIN_TOKEN"
    )]
    Unauthorized(String),
    /// There is no API.
    #[error("{0} serves no admin API: `admin` in the gateway's configuration needs `tokens`")]
    NoApi(String),
    /// Something else answered, or the gateway failed.
    #[error("the admin listener answered {status}: {text}")]
    Answer {
        /// The status.
        status: u16,
        /// What it said.
        text: String,
    },
}

/// Every server that the gateway knows, in JSON.
///
/// # Errors
/// Why there is no answer.
pub fn servers(url: &str, token: &str) -> Result<Value, AskFault> {
    ask(url, token, "GET /v1/servers", None, |json| json["servers"].is_array())
}

/// What the gateway would decide, and why, in JSON.
///
/// # Errors
/// Why there is no answer.
pub fn explain(url: &str, token: &str, inquiry: &str) -> Result<Value, AskFault> {
    ask(url, token, "POST /v1/explain", Some(inquiry), |json| json["decision"].is_string())
}

/// What a running gateway says of its being ready, if it is.
///
/// # Errors
/// Why it is not, or why nobody answered in time.
pub fn ready(url: &str, wait: Duration) -> Result<String, AskFault> {
    let authority = authority(url);
    let addresses = addresses(authority).ok_or_else(|| AskFault::Address(url.to_owned()))?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    let bounds = Bounds { connect: wait, answer: wait, answer_bytes_max: PROBE_BYTES_MAX };
    let silent = |error| AskFault::Silent { authority: authority.to_owned(), error };
    let answer = exchange(&addresses, &request, &bounds).map_err(silent)?;
    let (status, body) = split(&answer).ok_or_else(|| silent(not_http()))?;
    let text = String::from_utf8_lossy(body).trim().to_owned();
    if status == 200 { Ok(text) } else { Err(AskFault::NotReady { status, text }) }
}

fn ask(
    url: &str,
    token: &str,
    action: &str,
    body: Option<&str>,
    is_answer: impl Fn(&Value) -> bool,
) -> Result<Value, AskFault> {
    let authority = authority(url);
    let addresses = addresses(authority).ok_or_else(|| AskFault::Address(url.to_owned()))?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(AskFault::Unauthorized("it holds a space or a line break".to_owned()));
    }
    let mut request = format!("{action} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
    if !token.is_empty() {
        request += &format!("Authorization: Bearer {token}\r\n");
    }
    match body {
        Some(body) => {
            let length = body.len();
            request += &format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
        }
        None => request += "\r\n",
    }
    let unreachable = |error| AskFault::Unreachable { authority: authority.to_owned(), error };
    let answer = exchange(&addresses, &request, &API).map_err(unreachable)?;
    let (status, body) = split(&answer).ok_or_else(|| unreachable(not_http()))?;
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let told = json.as_ref().and_then(|json| json["error"].as_str());
    match (status, json.as_ref()) {
        (200, Some(json)) if is_answer(json) => Ok(json.clone()),
        (401, _) => Err(AskFault::Unauthorized(told.unwrap_or_default().to_owned())),
        (404, None) => Err(AskFault::NoApi(authority.to_owned())),
        _ => {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            let text = told.map_or_else(|| text.trim().to_owned(), str::to_owned);
            Err(AskFault::Answer { status, text })
        }
    }
}

fn not_http() -> io::Error {
    io::Error::other("what answers there does not speak HTTP")
}

fn authority(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/')
}

fn addresses(authority: &str) -> Option<Vec<SocketAddr>> {
    // What is no host and port could smuggle something into the head of the request.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if !authority.bytes().all(is_plain) {
        return None;
    }
    let addresses: Vec<SocketAddr> = authority.to_socket_addrs().ok()?.collect();
    (!addresses.is_empty()).then_some(addresses)
}

fn exchange(addresses: &[SocketAddr], request: &str, bounds: &Bounds) -> io::Result<Vec<u8>> {
    let mut stream = connect(addresses, bounds.connect)?;
    stream.set_read_timeout(Some(bounds.answer))?;
    stream.set_write_timeout(Some(bounds.answer))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(bounds.answer_bytes_max).read_to_end(&mut answer)?;
    Ok(answer)
}

/// A name may have several addresses; the first that listens is the one.
fn connect(addresses: &[SocketAddr], wait: Duration) -> io::Result<TcpStream> {
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(address, wait) {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// The status and the body, which comes with a length and ends with the connection.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    match head.parse(answer) {
        Ok(httparse::Status::Complete(length)) => Some((head.code?, &answer[length..])),
        Ok(httparse::Status::Partial) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{addresses, ready, servers};
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    /// What becomes of an answer, and what it was an answer to.
    fn answered<T>(answer: &'static str, ask: impl FnOnce(&str) -> T) -> (T, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let gateway = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let read = stream.read(&mut request).expect("a request");
            stream.write_all(answer.as_bytes()).expect("written");
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let found = ask(&url);
        (found, gateway.join().expect("a gateway"))
    }

    #[test]
    fn answers_become_servers_or_clear_faults() {
        let rows = [
            ("HTTP/1.1 200 OK\r\n\r\n{\"servers\":[]}", ""),
            ("HTTP/1.1 200 OK\r\n\r\nhello", "answered 200: hello"),
            ("HTTP/1.1 401 X\r\n\r\n{\"error\":\"no\"}", "does not know this token (no)"),
            ("HTTP/1.1 404 X\r\n\r\nnot found\n", "serves no admin API"),
            ("HTTP/1.1 500 X\r\n\r\n{\"error\":\"broken\"}", "answered 500: broken"),
            ("SSH-2.0\r\n", "does not speak HTTP"),
            ("", "does not speak HTTP"),
        ];
        for (answer, expected) in rows {
            let (found, request) = answered(answer, |url| servers(url, "secret"));
            assert!(request.contains("Authorization: Bearer secret\r\n"), "{request}");
            match found {
                Ok(json) => assert!(expected.is_empty(), "{answer}: {json}"),
                Err(fault) => {
                    assert!(
                        !expected.is_empty() && fault.to_string().contains(expected),
                        "{fault}"
                    );
                }
            }
        }
    }

    #[test]
    fn probes_say_ready_or_why_not() {
        let rows = [
            ("HTTP/1.1 200 OK\r\n\r\nready\n", Ok("ready")),
            ("HTTP/1.1 503 X\r\n\r\nstopping\n", Err("not ready (503): stopping")),
            ("HTTP/1.1 404 X\r\n\r\n", Err("not ready (404)")),
            ("SSH-2.0\r\n", Err("does not speak HTTP")),
            ("", Err("does not speak HTTP")),
        ];
        for (answer, expected) in rows {
            let (found, request) = answered(answer, |url| ready(url, Duration::from_secs(30)));
            assert!(request.starts_with("GET /ready HTTP/1.1\r\n"), "{request}");
            match (found.map_err(|fault| fault.to_string()), expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text, expected),
                (Err(text), Err(expected)) => assert!(text.contains(expected), "{text}"),
                (found, _) => panic!("{found:?} for {answer}"),
            }
        }
    }

    #[test]
    fn only_addresses_are_asked() {
        for (authority, expected) in [
            ("127.0.0.1:9901", true),
            ("[::1]:9901", true),
            ("127.0.0.1", false),
            ("127.0.0.1:9901/x", false),
            ("127.0.0.1:9901\r\nX: y", false),
            ("", false),
        ] {
            assert_eq!(addresses(authority).is_some(), expected, "{authority}");
        }
    }
}
