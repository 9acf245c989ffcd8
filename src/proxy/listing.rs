//! Lists less what their caller may not see, on every way they can arrive: a JSON answer is held whole
//! until its head can say how long it is, a stream is filtered event by event.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use pingora::protocols::http::ServerSession;

use super::Gateway;
use super::context::Context;
use super::deliver::{IsStream, error_event};
use super::exchange::Exchange;
use super::identity_headers::told;
use super::plan::{Exchange as Purpose, Forward};
use super::pump::End;
use super::response_body_filter::BodyWatch;
use super::response_filter::UpstreamHead;
use crate::catalog::{Audience, Kind};
use crate::mcp::{ListEvents, ListFault, Listed, Passed, Shows, filter_list};
use crate::telemetry::{Outcome, Reason};
use crate::upstream::now_ms;

/// What becomes of the events of an answer.
pub(super) enum EventFilter {
    /// They pass as they are.
    Off,
    /// Lists among them are filtered.
    On(Box<ListEvents>, Arc<dyn Shows>),
}

impl EventFilter {
    pub(super) fn new(ctx: &Context, forward: &Forward, head: &UpstreamHead) -> Self {
        let Some(shows) = ctx.shows.as_ref().filter(|_| head.is_event_stream()) else {
            return Self::Off;
        };
        // Whatever answer a client missed may come again on its stream, so all of its are looked at.
        let is_asked = Listed::of_method(&ctx.record.method).is_some();
        match is_asked || forward.shape.exchange == Purpose::Stream {
            true => {
                let events = ListEvents::new(forward.shape.era, ctx.list_bytes_max());
                Self::On(Box::new(events), Arc::clone(shows))
            }
            false => Self::Off,
        }
    }

    /// Whether anything may be changed.
    pub(super) fn is_on(&self) -> bool {
        matches!(self, Self::On(..))
    }

    /// What passes of a part, and why nothing may follow it.
    pub(super) fn pass(&mut self, ctx: &Context, part: Bytes) -> (Bytes, Option<ListFault>) {
        match self {
            Self::Off => (part, None),
            Self::On(events, shows) => {
                match events.pass(&part, &**shows, &mut |list| learn(ctx, list)) {
                    Passed::Whole => (part, None),
                    Passed::Instead(instead) => (instead.into(), None),
                    Passed::Ends(last, fault) => (last.into(), Some(fault)),
                }
            }
        }
    }

    /// The stream goes on at another endpoint.
    pub(super) fn restart(&mut self) {
        if let Self::On(events, _) = self {
            events.restart();
        }
    }
}

impl Context {
    /// Whether the answer is a list that must be filtered before its head can be sent.
    pub(super) fn must_hold_list(&self, head: &UpstreamHead) -> bool {
        self.shows.is_some()
            && (is_coded(head)
                || (Listed::of_method(&self.record.method).is_some() && !head.is_event_stream()))
    }

    fn list_bytes_max(&self) -> usize {
        self.record.route.as_ref().map_or(0, |route| route.list_bytes_max)
    }
}

/// What a server tells this caller and nobody else is known from its own answers.
fn learn(ctx: &Context, answer: &[u8]) {
    let (Some(server), Some(caller)) = (ctx.record.server(), &ctx.record.caller) else { return };
    let is_per_caller = server.listed.offer().audience == Audience::Caller
        || server.pool.credentials().is_per_caller()
        || told(server.pool, Some(caller)).is_some();
    if !is_per_caller {
        return;
    }
    let asked = Listed::of_method(&ctx.record.method).map(Kind::from);
    // A list that comes again on the stream of a session does not say what was asked for: what it is
    // shows when it is read.
    for kind in Kind::ALL.into_iter().filter(|kind| asked.is_none_or(|asked| asked == *kind)) {
        server.listed.learn(caller.fingerprint(), kind, answer, now_ms());
    }
}

/// Whether the body cannot be read as it is. The gateway has asked for no coding.
fn is_coded(head: &UpstreamHead) -> bool {
    head.field(&CONTENT_ENCODING).is_some()
}

impl Gateway {
    /// Holds the list until it is whole, and filters it. What cannot be filtered is refused.
    pub(super) async fn hold_list(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        head: &mut UpstreamHead,
        held: &mut Bytes,
        exchange: Option<Exchange>,
    ) -> Result<(), End> {
        let Some(shows) = ctx.shows.clone() else { return Ok(()) };
        if is_coded(head) {
            return Err(End::Refused(Reason::EndpointBroken.into()));
        }
        if let Some(exchange) = exchange {
            self.read_list(session, ctx, forward, head, held, exchange).await?;
        }
        learn(ctx, held);
        match filter_list(held, forward.shape.era, &*shows) {
            Ok(None) => {}
            Ok(Some(filtered)) => *held = filtered.into(),
            // There is no list in nothing, nor in a page that says why there is none.
            Err(_) if held.is_empty() || (head.status >= 400 && !head.is_json()) => {}
            Err(_) => return Err(End::Refused(Reason::EndpointBroken.into())),
        }
        head.length = Some(held.len() as u64);
        Ok(())
    }

    /// Reads the rest of a list into `held`.
    async fn read_list(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        head: &UpstreamHead,
        held: &mut Bytes,
        mut exchange: Exchange,
    ) -> Result<(), End> {
        let bytes_max = ctx.list_bytes_max();
        let too_large = || Err(End::Refused(Reason::ListTooLarge.into()));
        if head.length.is_some_and(|length| length > bytes_max as u64) {
            return too_large();
        }
        let mut whole = Vec::from(&held[..]);
        loop {
            match self.read_part(session, ctx, forward, &mut exchange, IsStream::No).await {
                Ok(Some(part)) if whole.len() + part.len() > bytes_max => return too_large(),
                Ok(Some(part)) => whole.extend_from_slice(&part),
                Ok(None) => break,
                Err(interrupted) => {
                    let Some(reason) = interrupted.reason() else {
                        ctx.record.outcome = Some(Outcome::Cancelled);
                        return Err(End::Cut);
                    };
                    if let Some(endpoint) = &ctx.record.endpoint {
                        self.endpoint_failed(&forward.pool, endpoint, reason);
                    }
                    return Err(End::Refused(reason.into()));
                }
            }
            if exchange.is_finished() {
                break;
            }
        }
        self.connections.close(exchange).await;
        *held = whole.into();
        Ok(())
    }

    /// Ends a stream in which a list came that cannot be filtered.
    pub(super) async fn end_listing(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        fault: ListFault,
    ) -> End {
        let reason = match fault {
            ListFault::TooLarge => Reason::ListTooLarge,
            ListFault::Broken | ListFault::Late => Reason::EndpointBroken,
        };
        tracing::warn!(server = forward.pool.name(), ?fault, "a list could not be filtered");
        ctx.record.outcome = Some(Outcome::Failed);
        ctx.record.reason = Some(reason);
        if fault == ListFault::Late {
            return End::Cut;
        }
        let last = match forward.shape.exchange {
            // The blank line lets the client keep an id that has passed already.
            Purpose::Stream => b"\n".to_vec(),
            _ => error_event(forward, reason),
        };
        ctx.give_back();
        match session.write_response_body(Bytes::from(last), true).await {
            Ok(()) => End::Complete,
            Err(_) => End::Cut,
        }
    }

    /// A server said that some of its lists have changed.
    pub(super) fn heard_of_changes(&self, ctx: &Context, forward: &Forward, watch: &mut BodyWatch) {
        for listed in watch.take_changed().iter() {
            self.lasting.metrics.list_changed(forward.pool.name(), listed.as_str());
            if let Some(server) = ctx.record.server() {
                server.listed.changed();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use pingora::protocols::http::ServerSession;
    use pingora::protocols::l4::stream::Stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::{Listed, Outcome, Purpose, Reason, Shows};
    use crate::config;
    use crate::lifecycle::Lifecycle;
    use crate::mcp::{Annotations, Era};
    use crate::proxy::context::{Context, Record};
    use crate::proxy::plan::{Forward, Key, Placement, Repeat, Shape};
    use crate::proxy::{Gateway, Shared};
    use crate::snapshot::Lasting;
    use crate::snapshot::Snapshot;
    use crate::telemetry::Metrics;

    /// Shows what does not begin with `secret`.
    struct Discreet;

    impl Shows for Discreet {
        fn shows(&self, _: Listed, name: &str, _: Option<&Annotations>) -> bool {
            !name.starts_with("secret")
        }
    }

    /// What a client got, and what is recorded of it.
    struct Got {
        head: String,
        body: String,
        record: Record,
    }

    const LIST: &str = r#"{"result":{"tools":[{"name":"a"},{"name":"secret"}],"nextCursor":"n"},"jsonrpc":"2.0","id":3}"#;
    const SHOWN: &str =
        r#"{"result":{"tools":[{"name":"a"}],"nextCursor":"n"},"jsonrpc":"2.0","id":3}"#;
    const LIST_BYTES_MAX: usize = 4096;

    fn gateway(address: std::net::SocketAddr) -> Gateway {
        let yaml = format!(
            "listen: 127.0.0.1:1\nsessions: {{ keys: [{}] }}\nservers: {{ one: {{ endpoints: [http://{address}/mcp] }} }}\nroutes: [{{ path: /mcp, server: one, list_bytes_max: {LIST_BYTES_MAX}B }}]\n",
            "k".repeat(43),
        );
        let settings = config::parse(&yaml, "test.yaml", &|_| None).expect("settings");
        let lasting = Lasting::new(&settings, &Arc::new(Metrics::new(10, 10))).expect("what lasts");
        let snapshot = Snapshot::new(&settings, &lasting).expect("a snapshot");
        let shared = Shared::new(snapshot, lasting, (None, None, None), 4, 1, Lifecycle::new());
        Gateway::new(Arc::new(shared), 0)
    }

    /// A server that answers once, in these parts.
    async fn answer_once(listener: &TcpListener, parts: &[Vec<u8>]) {
        let (mut server, _) = listener.accept().await.expect("the gateway");
        server.set_nodelay(true).expect("no delay");
        let mut request = [0; 4096];
        assert!(server.read(&mut request).await.expect("a request") > 0);
        for part in parts {
            if server.write_all(part).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends one request of a caller who may see this through a gateway to such a server.
    async fn ask(
        exchange: Purpose,
        method: &'static str,
        era: Era,
        parts: &[Vec<u8>],
        shows: Option<Arc<dyn Shows>>,
    ) -> Got {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gateway = gateway(listener.local_addr().expect("an address"));
        let front = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(front.local_addr().expect("an address"))
            .await
            .expect("a connection");
        let verb = if exchange == Purpose::Stream { "GET" } else { "POST" };
        let head = format!("{verb} /mcp HTTP/1.1\r\nhost: localhost\r\nlast-event-id: 1\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("sent");
        let (accepted, _) = front.accept().await.expect("the client");
        let gateway_side = async {
            let mut session = ServerSession::new_http1(Box::new(Stream::from(accepted)));
            session.read_request().await.expect("a request");
            let mut ctx = Context::new(gateway.snapshot(), [b'0'; 16]);
            ctx.shows = shows;
            ctx.record.method = method.into();
            let route = Arc::clone(ctx.snapshot.routes.find("/mcp").expect("the route"));
            let placement = Placement::Any { key: Key::Fixed([0; 16]), random: 0 };
            let shape = Shape { exchange, repeat: Repeat::Never, era };
            let body = match exchange {
                Purpose::Stream => Bytes::new(),
                _ => format!(r#"{{"jsonrpc":"2.0","id":3,"method":"{method}"}}"#).into(),
            };
            let pool = Arc::clone(route.server(None).expect("one server").pool);
            ctx.record.route = Some(route);
            let mut forward = Forward { pool, placement, shape, body, way: None };
            // A stream that is cut is an error here; what the client got says so.
            let _cut = gateway.drive(&mut session, &mut ctx, &mut forward).await;
            drop(session);
            ctx.record
        };
        let client_side = async {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).await.expect("an answer");
            String::from_utf8(bytes).expect("text")
        };
        let all = async { tokio::join!(answer_once(&listener, parts), gateway_side, client_side) };
        let ((), record, text) =
            tokio::time::timeout(Duration::from_secs(20), all).await.expect("no hang");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let head = head.to_ascii_lowercase();
        let body = match head.contains("transfer-encoding") {
            true => unchunk(body),
            false => {
                let length = head.split("content-length: ").nth(1).expect("a length");
                assert_eq!(length.lines().next(), Some(body.len().to_string().as_str()), "{text}");
                body.to_owned()
            }
        };
        Got { head, body, record }
    }

    fn unchunk(mut chunks: &str) -> String {
        let mut body = String::new();
        while let Some((size, rest)) = chunks.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).expect("a size");
            body.push_str(&rest[..size]);
            chunks = rest[size..].strip_prefix("\r\n").expect("the end of a chunk");
        }
        body
    }

    async fn ask_discreetly(exchange: Purpose, parts: &[Vec<u8>]) -> Got {
        let method = if exchange == Purpose::Stream { "GET" } else { "tools/list" };
        ask(exchange, method, Era::Legacy, parts, Some(Arc::new(Discreet))).await
    }

    /// An answer with a length, all at once.
    fn whole(status: u16, fields: &str, body: &str) -> Vec<Vec<u8>> {
        let head = format!("HTTP/1.1 {status} X\r\n{fields}content-length: {}\r\n\r\n", body.len());
        vec![format!("{head}{body}").into_bytes()]
    }

    /// An answer in chunks of so many bytes, each sent alone.
    fn chunked(kind: &str, body: &str, size: usize) -> Vec<Vec<u8>> {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let chunk =
            |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        let mut parts = vec![head.into_bytes()];
        parts.extend(body.as_bytes().chunks(size).map(chunk));
        parts.push(b"0\r\n\r\n".to_vec());
        parts
    }

    const JSON: &str = "content-type: application/json\r\n";

    #[tokio::test]
    async fn a_list_in_json_is_filtered_and_its_length_is_right() {
        for parts in [
            whole(200, JSON, LIST),
            chunked("application/json", LIST, 7),
            chunked("application/json", LIST, 40),
            // Not even a page that is sent as something else shows what is hidden.
            whole(200, "", LIST),
            whole(400, JSON, LIST),
        ] {
            let got = ask_discreetly(Purpose::Message, &parts).await;
            assert_eq!(got.body, SHOWN, "{}", got.head);
        }
        let parts = chunked("application/json", LIST, 7);
        let modern =
            ask(Purpose::Message, "tools/list", Era::Modern, &parts, Some(Arc::new(Discreet)));
        assert!(modern.await.body.contains(r#""nextCursor":"n","cacheScope":"private"}"#));
        for (method, shows) in
            [("tools/list", None), ("tools/call", Some(Arc::new(Discreet) as Arc<dyn Shows>))]
        {
            let got = ask(Purpose::Message, method, Era::Modern, &parts, shows).await;
            assert_eq!(
                (got.body.as_str(), got.record.outcome),
                (LIST, Some(Outcome::Ok)),
                "{method}"
            );
        }
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_filtered_is_refused() {
        let names = r#"{"name":"secret"},"#.repeat(LIST_BYTES_MAX / 10);
        let large = format!(r#"{{"id":3,"result":{{"tools":[{names}]}}}}"#);
        let gzip = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
        for (parts, reason) in [
            (whole(200, JSON, &large), Reason::ListTooLarge),
            (chunked("application/json", &large, 1000), Reason::ListTooLarge),
            (whole(200, JSON, &LIST[1..]), Reason::EndpointBroken),
            (whole(200, JSON, &LIST[..LIST.len() - 1]), Reason::EndpointBroken),
            (whole(200, "content-type: text/html\r\n", "<html>"), Reason::EndpointBroken),
            (whole(200, gzip, LIST), Reason::EndpointBroken),
            (
                whole(200, &gzip.replace("application/json", "text/event-stream"), LIST),
                Reason::EndpointBroken,
            ),
        ] {
            let got = ask_discreetly(Purpose::Message, &parts).await;
            assert!(got.head.starts_with("http/1.1 502"), "{}", got.head);
            assert!(got.body.contains(r#""id":3"#) && !got.body.contains("secret"), "{}", got.body);
            assert_eq!(
                (got.record.reason, got.record.outcome),
                (Some(reason), Some(Outcome::Failed))
            );
        }
        for (parts, status) in [(whole(404, "", "not found"), "404"), (whole(503, "", ""), "503")] {
            let got = ask_discreetly(Purpose::Message, &parts).await;
            assert!(got.head.starts_with(&format!("http/1.1 {status}")), "{}", got.head);
        }
    }

    #[tokio::test]
    async fn a_list_in_a_stream_is_filtered_whether_asked_for_or_replayed() {
        let told = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        for exchange in [Purpose::Message, Purpose::Stream] {
            for end in ["\n", "\r\n", "\r"] {
                let stream = |list: &str| {
                    let lines = [
                        "id: 7",
                        "retry: 5",
                        "data:",
                        "",
                        "event: message",
                        &format!("data: {told}"),
                        "",
                        &format!("data: {list}"),
                        "id: 8",
                        "",
                        ": ping",
                        "",
                    ];
                    lines.iter().map(|line| [line, end].concat()).collect::<String>()
                };
                for size in [17, 1000] {
                    let parts = chunked("text/event-stream", &stream(LIST), size);
                    let got = ask_discreetly(exchange, &parts).await;
                    assert_eq!(got.body, stream(SHOWN), "{exchange:?} {end:?} {size}");
                    assert_eq!(got.record.outcome, Some(Outcome::Ok));
                }
                let at_once = vec![chunked("text/event-stream", &stream(LIST), 1000).concat()];
                assert_eq!(ask_discreetly(exchange, &at_once).await.body, stream(SHOWN));
            }
        }
    }

    #[tokio::test]
    async fn a_stream_ends_before_a_list_that_cannot_be_filtered() {
        let names = r#"{"name":"secret"},"#.repeat(LIST_BYTES_MAX / 10);
        for (list, reason) in [
            (format!(r#"{{"id":3,"result":{{"tools":[{names}"#), Reason::ListTooLarge),
            (LIST.replace("]", ""), Reason::EndpointBroken),
        ] {
            let stream =
                format!(": ping\n\nid: 9\ndata: {list}\n\ndata: {{\"method\":\"after\"}}\n\n");
            for exchange in [Purpose::Message, Purpose::Stream] {
                let parts = chunked("text/event-stream", &stream, 900);
                let got = ask_discreetly(exchange, &parts).await;
                assert!(got.body.starts_with(": ping\n\nid: 9\n\n"), "{}", got.body);
                assert!(
                    !got.body.contains("secret") && !got.body.contains("after"),
                    "{}",
                    got.body
                );
                let is_told = got.body.contains(r#""id":3,"error":{"code":502"#);
                assert_eq!(is_told, exchange == Purpose::Message, "{}", got.body);
                assert_eq!(
                    (got.record.reason, got.record.outcome),
                    (Some(reason), Some(Outcome::Failed))
                );
            }
        }
    }
}
