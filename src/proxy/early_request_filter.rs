//! Before anything is decided: time limits for this request, and who stands at the other end.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use pingora_proxy::Session;

use super::context::Context;
use crate::config::Listener;

/// Sets the limits of the listener and notes the client's address.
pub(super) fn early_request_filter(session: &mut Session, ctx: &mut Context, listener: &Listener) {
    let limits = &listener.limits;
    let peer = session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map(|address| address.ip().to_canonical());
    let downstream = session.as_mut();
    downstream.set_read_timeout(Some(limits.body_timeout));
    // A client that takes nothing for this long is given up; it costs one buffer until then.
    downstream.set_write_timeout(Some(limits.body_timeout));
    ctx.record.client = peer.map(|peer| client(peer, session, &listener.trusted_proxies));
}

/// The client behind trusted proxies: the last address in `X-Forwarded-For` that no trusted proxy
/// put there for another proxy. Everything further left is what the client likes it to be.
fn client(peer: IpAddr, session: &Session, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    if trusted.is_empty() || !is_trusted(&peer) {
        return peer;
    }
    let values: Vec<&str> = session
        .req_header()
        .headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let mut found = peer;
    for hop in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        let Some(address) = address(hop.trim()) else { break };
        found = address.to_canonical();
        if !is_trusted(&found) {
            break;
        }
    }
    found
}

/// Some load balancers write the port of the client as well.
fn address(hop: &str) -> Option<IpAddr> {
    hop.parse().ok().or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use super::client;
    use pingora_proxy::Session;
    use std::net::IpAddr;
    use tokio::io::AsyncWriteExt as _;

    async fn session(forwarded: &str) -> Session {
        let (mut near, far) = tokio::net::UnixStream::pair().expect("a pair");
        let head = format!("POST /mcp HTTP/1.1\r\nhost: a\r\n{forwarded}\r\n");
        near.write_all(head.as_bytes()).await.expect("written");
        let far = pingora::protocols::l4::stream::Stream::from(far);
        let mut session = Session::new_h1(Box::new(far));
        assert!(session.as_mut().read_request().await.expect("a head"));
        session
    }

    #[tokio::test]
    async fn only_a_trusted_proxy_says_who_the_client_is() {
        let rows = [
            ("10.0.0.1", "x-forwarded-for: 1.2.3.4\r\n", "1.2.3.4"),
            ("10.0.0.1", "x-forwarded-for: 6.6.6.6, 1.2.3.4, 10.0.0.2\r\n", "1.2.3.4"),
            ("10.0.0.1", "x-forwarded-for: 6.6.6.6\r\nx-forwarded-for: 1.2.3.4\r\n", "1.2.3.4"),
            ("10.0.0.1", "x-forwarded-for: ::ffff:1.2.3.4\r\n", "1.2.3.4"),
            ("10.0.0.1", "x-forwarded-for: 6.6.6.6, 1.2.3.4:50123\r\n", "1.2.3.4"),
            ("10.0.0.1", "x-forwarded-for: 1.2.3.4:50123,10.0.0.2:443\r\n", "1.2.3.4"),
            ("10.0.0.1", "x-forwarded-for: [2001:db8::1]:50123\r\n", "2001:db8::1"),
            ("10.0.0.1", "x-forwarded-for: 1.2.3.4, garbage\r\n", "10.0.0.1"),
            ("10.0.0.1", "x-forwarded-for: 1.2.3.4, 1.2.3.4:99999\r\n", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("9.9.9.9", "x-forwarded-for: 1.2.3.4\r\n", "9.9.9.9"),
        ];
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        for (peer, forwarded, expected) in rows {
            let peer: IpAddr = peer.parse().expect("an address");
            let session = session(forwarded).await;
            let expected: IpAddr = expected.parse().expect("an address");
            assert_eq!(client(peer, &session, &trusted), expected, "{forwarded}");
        }
    }
}
