//! The gateway's own HTTP requests: to those who issue tokens and keys, never to an MCP server.
//!
//! Every request has one time limit for all of it and a limit for the size of its answer. Redirects
//! are not followed, proxies of the environment are not used, and a connection serves one request:
//! it lives in the runtime of whoever asks, and runtimes end one by one.

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, ClientBuilder, Method, Url, redirect, retry};

/// Who asks.
const USER_AGENT: &str = concat!("toolgate/", env!("CARGO_PKG_VERSION"));
/// How long a request may take, the connection included, unless it says otherwise.
const TIME_MAX: Duration = Duration::from_secs(10);
/// How large an answer may be, unless the request says otherwise.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// A head with more fields is not what we asked for.
const FIELDS_MAX: usize = 64;
/// The metadata server of Google's cloud, whatever DNS says of it.
const GOOGLE_METADATA: &str = "metadata.google.internal";
const GOOGLE_METADATA_ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// The gateway's HTTP client. One is enough for the process; clones share it.
#[derive(Clone, Debug)]
pub struct Outbound {
    plain: Client,
    /// Or why there is none: a machine without certificates can still ask its metadata server.
    secure: Result<Client, String>,
}

/// What is asked, and how much of time and memory the answer may take.
#[derive(Clone)]
pub struct Request<'a> {
    url: Cow<'a, str>,
    body: Body<'a>,
    fields: Vec<(HeaderName, HeaderValue)>,
    guard: Guard,
    time_max: Duration,
    body_bytes_max: usize,
}

#[derive(Clone)]
enum Body<'a> {
    None,
    Form(Vec<(&'a str, Cow<'a, str>)>),
    /// Bytes with the type that they are of.
    Of(&'static str, Bytes),
}

/// Which addresses a request may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Guard {
    /// `https`, but not to link-local addresses; `http` to this machine only.
    #[default]
    Secure,
    /// Also plain `http` to the link-local address of a cloud's metadata server.
    Metadata,
    /// Also plain `http` to any other address: a collector of logs stands near, often without TLS.
    Collector,
}

/// An answer, whatever its status.
#[derive(Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The fields of its head.
    pub fields: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer. Its text holds nothing of the request and nothing of the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The gateway does not send such a request there.
    #[error("a request to this address is not allowed: use https")]
    Forbidden,
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// Time ran out.
    #[error("no whole answer in time")]
    TimedOut,
    /// More than asked for.
    #[error("the answer is too large")]
    TooLarge,
    /// What came is no answer.
    #[error("the answer is broken: {0}")]
    Broken(String),
}

/// A file of certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoCertificates(String);

impl<'a> Request<'a> {
    /// Asks for what is at the URL.
    pub fn get(url: impl Into<Cow<'a, str>>) -> Self {
        Self::new(url.into(), Body::None)
    }

    /// Sends a form.
    pub fn post_form(url: impl Into<Cow<'a, str>>, form: Vec<(&'a str, Cow<'a, str>)>) -> Self {
        Self::new(url.into(), Body::Form(form))
    }

    /// Sends JSON.
    pub fn post_json(url: impl Into<Cow<'a, str>>, json: Bytes) -> Self {
        Self::post(url, "application/json", json)
    }

    /// Sends bytes of this media type.
    pub fn post(url: impl Into<Cow<'a, str>>, media_type: &'static str, bytes: Bytes) -> Self {
        Self::new(url.into(), Body::Of(media_type, bytes))
    }

    fn new(url: Cow<'a, str>, body: Body<'a>) -> Self {
        let (time_max, body_bytes_max) = (TIME_MAX, BODY_BYTES_MAX);
        Self { url, body, fields: Vec::new(), guard: Guard::Secure, time_max, body_bytes_max }
    }

    /// Adds a field to the head.
    #[must_use]
    pub fn field(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.push((name, value));
        self
    }

    /// Says who the gateway is, as OAuth clients do (RFC 6749 section 2.3.1: both parts are encoded).
    #[must_use]
    pub fn basic(self, client_id: &str, client_secret: &str) -> Self {
        use base64::Engine as _;
        let pair = format!("{}:{}", percent_encoded(client_id), percent_encoded(client_secret));
        let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        match HeaderValue::try_from(value) {
            Ok(mut value) => {
                value.set_sensitive(true);
                self.field(header::AUTHORIZATION, value)
            }
            // Base64 is always a value; without the field the answer would be a clear 401.
            Err(_) => self,
        }
    }

    /// Lets the request go to other addresses than usual.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guard = guard;
        self
    }

    /// Limits the time for everything from the name's address to the last byte of the answer.
    #[must_use]
    pub fn time_max(mut self, time_max: Duration) -> Self {
        self.time_max = time_max;
        self
    }

    /// Limits the body of the answer.
    #[must_use]
    pub fn body_bytes_max(mut self, body_bytes_max: usize) -> Self {
        self.body_bytes_max = body_bytes_max;
        self
    }
}

impl Reply {
    /// Whether the status is 200.
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// How long the answer says that it stays true (RFC 9111 section 5.2.2.1).
    pub fn max_age(&self) -> Option<Duration> {
        let value = self.fields.get(header::CACHE_CONTROL)?.to_str().ok()?;
        let directive = |part: &str| {
            let (name, seconds) = part.trim().split_once('=')?;
            name.eq_ignore_ascii_case("max-age").then(|| seconds.trim_matches('"').parse().ok())?
        };
        value.split(',').find_map(directive).map(Duration::from_secs)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).finish_non_exhaustive()
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Outbound {
    /// A client that trusts whom the machine trusts, and whoever is in this PEM file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn new(certificates: Option<&Path>) -> Result<Self, NoCertificates> {
        pingora::tls::install_default_crypto_provider();
        let extra = match certificates {
            Some(path) => certificates_of(path)?,
            None => Vec::new(),
        };
        let build = |builder: ClientBuilder| builder.build().map_err(|error| cause(&error));
        let plain = build(client().tls_certs_only([])).map_err(NoCertificates)?;
        let secure = match extra.is_empty() {
            true => build(client()),
            false => build(client().tls_certs_merge(extra)),
        };
        Ok(Self { plain, secure })
    }

    /// Sends a request and reads the whole answer. May be dropped at any time.
    ///
    /// # Errors
    /// Why there is no answer. A status that is no success is an answer.
    pub async fn ask(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let time_max = request.time_max;
        let asking = Box::pin(self.ask_in_time(request));
        tokio::time::timeout(time_max, asking).await.unwrap_or(Err(Fault::TimedOut))
    }

    async fn ask_in_time(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let Request { url, body, fields, guard, time_max: _, body_bytes_max } = request;
        let url = Url::parse(&url).map_err(|_| Fault::Forbidden)?;
        if !is_allowed(&url, guard) {
            return Err(Fault::Forbidden);
        }
        let client = match url.scheme() {
            "https" => self.secure.as_ref().map_err(|why| Fault::Connect(why.clone()))?,
            _ => &self.plain,
        };
        let asking = match body {
            Body::None => client.request(Method::GET, url),
            Body::Form(form) => client.request(Method::POST, url).form(&form),
            Body::Of(media_type, bytes) => client
                .request(Method::POST, url)
                .header(header::CONTENT_TYPE, media_type)
                .body(bytes),
        };
        let asking = asking.header(header::ACCEPT, "application/json");
        let mut asking = asking.build().map_err(|error| Fault::Broken(cause(&error)))?;
        for (name, value) in fields {
            asking.headers_mut().insert(name, value);
        }
        let answer = client.execute(asking).await;
        let mut answer = answer.map_err(|error| match error.is_connect() {
            true => Fault::Connect(cause(&error)),
            false => Fault::Broken(cause(&error)),
        })?;
        let expected = answer.content_length().unwrap_or(0);
        if usize::try_from(expected).map_or(true, |expected| expected > body_bytes_max) {
            return Err(Fault::TooLarge);
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| Fault::Broken(cause(&error)))? {
            if body.len() + part.len() > body_bytes_max {
                return Err(Fault::TooLarge);
            }
            body.extend_from_slice(&part);
        }
        let status = answer.status().as_u16();
        let fields = std::mem::take(answer.headers_mut());
        Ok(Reply { status, fields, body: body.into() })
    }
}

/// What every request has in common.
fn client() -> ClientBuilder {
    let loopback = [
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
    ];
    let google = GOOGLE_METADATA_ADDRESSES.map(|address| SocketAddr::new(address, 0));
    Client::builder()
        .user_agent(USER_AGENT)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .no_proxy()
        .http1_only()
        .http1_max_headers(FIELDS_MAX)
        .pool_max_idle_per_host(0)
        .dns_resolver(Named)
        .resolve_to_addrs("localhost", &loopback)
        .resolve_to_addrs(GOOGLE_METADATA, &google)
}

/// Looks names up. What a name says it is must not lead to where a cloud gives out its secrets.
struct Named;

impl Resolve for Named {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<_> = found.filter(|address| !is_link_local(address.ip())).collect();
            if allowed.is_empty() {
                return Err("the name has no address that may be asked".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn is_allowed(url: &Url, guard: Guard) -> bool {
    if !url.username().is_empty() || url.password().is_some() {
        return false;
    }
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let is_metadata = guard == Guard::Metadata
        && match address {
            Some(address) => is_link_local(address) && !address.is_unspecified(),
            None => host == GOOGLE_METADATA,
        };
    let is_loopback = match address {
        Some(address) => address.to_canonical().is_loopback(),
        None => host == "localhost",
    };
    match url.scheme() {
        "https" => is_metadata || !address.is_some_and(is_link_local),
        "http" if guard == Guard::Collector => !address.is_some_and(is_link_local),
        "http" => is_metadata || is_loopback,
        _ => false,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local() || address.is_unspecified(),
        IpAddr::V6(address) => {
            let is_nat64_of_link_local = address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0]
                && address.segments()[6] == 0xa9fe;
            address.is_unicast_link_local()
                || address.is_unspecified()
                || is_nat64_of_link_local
                || GOOGLE_METADATA_ADDRESSES.contains(&IpAddr::V6(address))
                // The same of Amazon's cloud.
                || address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
        }
    }
}

fn certificates_of(path: &Path) -> Result<Vec<Certificate>, NoCertificates> {
    let fault = |why: String| NoCertificates(format!("{}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| fault(cause(&error)))?;
    match certificates.is_empty() {
        true => Err(fault("there is no certificate in it".to_owned())),
        false => Ok(certificates),
    }
}

/// The innermost reason: those around it repeat the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut innermost = error.source();
    while let Some(inner) = innermost.and_then(std::error::Error::source) {
        innermost = Some(inner);
    }
    innermost.map_or_else(|| "the request cannot be made".to_owned(), ToString::to_string)
}

/// The text as `application/x-www-form-urlencoded` and paths may both hold it.
pub fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            // Writing to a string does not fail.
            _ => write!(encoded, "%{byte:02X}").unwrap_or_default(),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::{Fault, Guard, Outbound, Request, Url, is_allowed, percent_encoded};
    use std::borrow::Cow;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    /// A server that gives every request on every connection this answer, and tells what was asked.
    fn server(answer: &'static str) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (asked, asking) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let asked = asked.clone();
                thread::spawn(move || serve(stream, answer, &asked));
            }
        });
        (address, asking)
    }

    fn serve(mut stream: TcpStream, answer: &str, asked: &std::sync::mpsc::Sender<String>) {
        let mut all = Vec::new();
        let mut part = [0; 4096];
        while let Ok(read) = stream.read(&mut part)
            && read > 0
        {
            all.extend_from_slice(&part[..read]);
            let text = String::from_utf8_lossy(&all).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().expect("a number")) {
                asked.send(text).ok();
                stream.write_all(answer.as_bytes()).ok();
                all.clear();
            }
        }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work)
    }

    const OK: &str =
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncache-control: public, Max-Age=300\r\n\r\n{}";

    #[test]
    fn one_client_serves_runtimes_that_end() {
        let (address, _asked) = server(OK);
        let outbound = Outbound::new(None).expect("a client");
        let url = format!("http://{address}/");
        for _ in 0..3 {
            for _ in 0..2 {
                // Each time a runtime of its own, which ends with its connections.
                let reply = run(outbound.ask(Request::get(&url))).expect("an answer");
                assert_eq!((reply.status, &reply.body[..]), (200, &b"{}"[..]));
                assert_eq!(reply.max_age(), Some(Duration::from_secs(300)));
            }
        }
        let (one, other) = (outbound.clone(), outbound);
        let longer = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let url_again = url.clone();
        let asking = longer.spawn(async move {
            for _ in 0..20 {
                one.ask(Request::get(&url_again)).await.expect("an answer");
            }
        });
        for _ in 0..20 {
            run(other.ask(Request::get(&url))).expect("an answer");
        }
        longer.block_on(asking).expect("all answers");
    }

    #[test]
    fn forms_json_and_clients_are_written_as_their_rules_say() {
        let (address, asked) = server(OK);
        let outbound = Outbound::new(None).expect("a client");
        let form = vec![("scope", Cow::from("a b")), ("resource", Cow::from("https://h/x?y=ä&z"))];
        let request =
            Request::post_form(format!("http://{address}/token"), form).basic("id:1", "p ä");
        run(outbound.ask(request)).expect("an answer");
        let seen = asked.recv().expect("a request");
        assert!(seen.starts_with("POST /token HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("application/x-www-form-urlencoded"), "{seen}");
        assert!(
            seen.ends_with("scope=a+b&resource=https%3A%2F%2Fh%2Fx%3Fy%3D%C3%A4%26z"),
            "{seen}"
        );
        // id%3A1:p%20%C3%A4
        assert!(seen.contains("Basic aWQlM0ExOnAlMjAlQzMlQTQ=\r\n"), "{seen}");
        let request = Request::post_json(format!("http://{address}/"), "[1]".into());
        run(outbound.ask(request)).expect("an answer");
        let seen = asked.recv().expect("a request");
        assert!(seen.contains("content-type: application/json\r\n") && seen.ends_with("[1]"));
        assert_eq!(percent_encoded("a-b_c.d~e f/ü"), "a-b_c.d~e%20f%2F%C3%BC");
    }

    #[test]
    fn too_large_too_slow_and_elsewhere_are_faults() {
        let outbound = Outbound::new(None).expect("a client");
        let check = |answer: &'static str, expected: Result<u16, Fault>| {
            let (address, _asked) = server(answer);
            let request = Request::get(format!("http://{address}/"))
                .body_bytes_max(8)
                .time_max(Duration::from_millis(500));
            let reply = run(outbound.ask(request));
            assert_eq!(reply.map(|reply| reply.status), expected, "{answer}");
        };
        check("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789", Err(Fault::TooLarge));
        let chunked =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n5\r\n12345\r\n";
        check(chunked, Err(Fault::TooLarge));
        check("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n12345678", Ok(200));
        check("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n1234", Err(Fault::TimedOut));
        check("HTTP/1.1 200", Err(Fault::TimedOut));
        // Not followed.
        check("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", Ok(302));
        let broken = run(outbound.ask(Request::get("http://127.0.0.1:1/?secret")));
        let text = broken.expect_err("nobody listens").to_string();
        assert!(text.starts_with("cannot connect") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn plain_http_stays_on_the_machine_and_nobody_is_led_to_metadata() {
        let check = |url: &str, secure: bool, metadata: bool| {
            let parsed = Url::parse(url).expect("a URL");
            assert_eq!(is_allowed(&parsed, Guard::Secure), secure, "{url}");
            assert_eq!(is_allowed(&parsed, Guard::Metadata), metadata, "{url}");
        };
        check("https://idp.example.com/keys", true, true);
        check("https://10.0.0.1/keys", true, true);
        check("http://127.0.0.1:9000/", true, true);
        check("http://127.9.9.9/", true, true);
        check("http://[::1]:9000/", true, true);
        check("http://[::ffff:127.0.0.1]/", true, true);
        check("http://localhost:9000/", true, true);
        check("http://169.254.169.254/metadata", false, true);
        check("https://169.254.169.254/metadata", false, true);
        check("https://[::ffff:169.254.169.254]/", false, true);
        check("https://[64:ff9b::a9fe:a9fe]/", false, true);
        check("http://[fe80::1]/", false, true);
        check("http://[fd00:ec2::254]/", false, true);
        check("http://0xa9fea9fe/", false, true);
        check("http://metadata.google.internal/", false, true);
        check("http://0.0.0.0/", false, false);
        check("http://idp.example.com/keys", false, false);
        check("http://10.0.0.1/keys", false, false);
        check("http://127.0.0.1.example.com/", false, false);
        check("http://localhost.example.com/", false, false);
        check("https://user:password@idp.example.com/", false, false);
        check("ftp://127.0.0.1/", false, false);
        check("file:///etc/passwd", false, false);
    }
}
