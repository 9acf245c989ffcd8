//! Asks the admin API of a running gateway, as the command line does.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::Value;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// More than a fleet of thousands of endpoints needs.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why there is no answer to show.
#[derive(Debug, thiserror::Error)]
pub enum AskFault {
    /// The address is none.
    #[error("{0} is no address of an admin listener: write http://127.0.0.1:9901")]
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

fn ask(
    url: &str,
    token: &str,
    action: &str,
    body: Option<&str>,
    is_answer: impl Fn(&Value) -> bool,
) -> Result<Value, AskFault> {
    let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
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
    let answer = exchange(&addresses, &request).map_err(unreachable)?;
    let (status, body) = split(&answer)
        .ok_or_else(|| unreachable(io::Error::other("what answers there does not speak HTTP")))?;
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

fn addresses(authority: &str) -> Option<Vec<SocketAddr>> {
    // What is no host and port could smuggle something into the head of the request.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if !authority.bytes().all(is_plain) {
        return None;
    }
    let addresses: Vec<SocketAddr> = authority.to_socket_addrs().ok()?.collect();
    (!addresses.is_empty()).then_some(addresses)
}

fn exchange(addresses: &[SocketAddr], request: &str) -> io::Result<Vec<u8>> {
    let mut stream = connect(addresses)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// A name may have several addresses; the first that listens is the one.
fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
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
    use super::{AskFault, addresses, servers};
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    fn answered(answer: &'static str) -> Result<serde_json::Value, AskFault> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let gateway = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let read = stream.read(&mut request).expect("a request");
            stream.write_all(answer.as_bytes()).expect("written");
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let found = servers(&url, "secret");
        let request = gateway.join().expect("a gateway");
        assert!(request.contains("Authorization: Bearer secret\r\n"), "{request}");
        found
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
            match answered(answer) {
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
