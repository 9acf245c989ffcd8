//! The PROXY protocol, version 2: who the client is, as a load balancer in front says it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use pingora::protocols::{GetSocketDigest, SocketDigest, UniqueID};
use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and extensions; AWS and HAProxy stay far below.
const LENGTH_MAX: usize = 2048;

/// Reads the header that every connection of a listener must begin with.
pub(super) struct ProxyProtocol {
    trusted: Vec<IpNet>,
}

impl ProxyProtocol {
    /// A header counts only from a peer in `trusted`; an empty list trusts every peer, for
    /// listeners that nobody but the balancer reaches.
    pub(super) fn new(trusted: &[IpNet]) -> Self {
        Self { trusted: trusted.to_vec() }
    }

    /// Reads the header and makes its source the connection's peer.
    pub(super) async fn accept<S>(&self, stream: &mut S) -> io::Result<()>
    where
        S: AsyncRead + GetSocketDigest + UniqueID + Unpin + Send + ?Sized,
    {
        let digest = stream.get_socket_digest();
        let peer = digest.as_ref().and_then(|digest| digest.peer_addr()?.as_inet().copied());
        let trusted = self.trusted.is_empty()
            || peer.is_some_and(|peer| {
                self.trusted.iter().any(|net| net.contains(&peer.ip().to_canonical()))
            });
        if !trusted {
            return Err(invalid("peer may not speak the PROXY protocol"));
        }
        let Some(source) = read_header(stream).await? else { return Ok(()) };
        let digest = SocketDigest::from_raw_fd(stream.id());
        let source = pingora::protocols::l4::socket::SocketAddr::Inet(source);
        if digest.peer_addr.set(Some(source)).is_err() {
            return Err(invalid("address already known"));
        }
        stream.set_socket_digest(digest);
        Ok(())
    }
}

/// `None` for a connection of the balancer itself (its health check).
async fn read_header<S: AsyncRead + Unpin + ?Sized>(
    stream: &mut S,
) -> io::Result<Option<SocketAddr>> {
    let mut fixed = [0; 16];
    stream.read_exact(&mut fixed).await?;
    let ([signature @ .., _, _, _, _], [.., command, family, high, low]) = (&fixed, &fixed);
    if signature != SIGNATURE {
        return Err(invalid("no PROXY protocol header"));
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > LENGTH_MAX {
        return Err(invalid("PROXY protocol header too long"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match (command, family) {
        (0x20, _) => Ok(None),
        (0x21, 0x11) => match rest.first_chunk::<12>() {
            Some([a, b, c, d, _, _, _, _, high, low, _, _]) => {
                let address = IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d));
                Ok(Some(SocketAddr::new(address, u16::from_be_bytes([*high, *low]))))
            }
            None => Err(invalid("short PROXY protocol addresses")),
        },
        (0x21, 0x21) => match (rest.first_chunk::<16>(), rest.get(32..34)) {
            (Some(address), Some([high, low])) => {
                let address = IpAddr::V6(Ipv6Addr::from_octets(*address));
                Ok(Some(SocketAddr::new(address, u16::from_be_bytes([*high, *low]))))
            }
            _ => Err(invalid("short PROXY protocol addresses")),
        },
        (0x21, _) => Ok(None),
        _ => Err(invalid("unknown PROXY protocol version or command")),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::{SIGNATURE, read_header};

    async fn read(tail: &[u8]) -> Result<Option<String>, String> {
        let bytes = [SIGNATURE, tail].concat();
        let found = read_header(&mut bytes.as_slice()).await;
        found.map(|source| source.map(|source| source.to_string())).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn headers_are_read_as_the_protocol_says() {
        let v4 = [&[0x21, 0x11, 0, 12, 1, 2, 3, 4, 9, 9, 9, 9, 0x1f, 0x90, 0, 80][..]].concat();
        assert_eq!(read(&v4).await, Ok(Some("1.2.3.4:8080".to_owned())));
        let mut v6 = vec![0x21, 0x21, 0, 40];
        v6.extend_from_slice(&[0; 15]);
        v6.push(1);
        v6.extend_from_slice(&[0; 16]);
        v6.extend_from_slice(&[0, 80, 0, 0, 3, 0, 1, 0]);
        assert_eq!(read(&v6).await, Ok(Some("[::1]:80".to_owned())));
        assert_eq!(read(&[0x20, 0, 0, 0]).await, Ok(None), "a health check of the balancer");
        assert_eq!(read(&[0x21, 0x31, 0, 0]).await, Ok(None), "a socket without addresses");
    }

    #[tokio::test]
    async fn broken_headers_end_the_connection() {
        for tail in [&[0x21, 0x11, 0, 4, 1, 2, 3, 4][..], &[0x31, 0x11, 0, 0], &[0x21, 0x11, 9, 0]]
        {
            assert!(read(tail).await.is_err(), "{tail:?}");
        }
        let plain = b"GET / HTTP/1.1\r\n\r\n";
        assert!(read_header(&mut plain.as_slice()).await.is_err());
    }
}
