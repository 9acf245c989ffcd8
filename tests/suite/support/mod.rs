//! What tests share: the gateway as a process, a server that records, clients that are not polite.

#[cfg(feature = "kubernetes")]
pub(crate) mod api_server;
pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod gateway;
pub(crate) mod http2;
pub(crate) mod idp;
pub(crate) mod message;
pub(crate) mod operator;
pub(crate) mod rmcp_client;
pub(crate) mod store;
pub(crate) mod tls;
pub(crate) mod upstream;

use client::{Answer, Client};
use gateway::Gateway;
use message::Message;
use upstream::Upstream;

/// One gateway in front of one recording server.
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) upstream: Upstream,
}

impl Stage {
    /// A gateway in front of a server of both eras.
    pub(crate) async fn mcp() -> Self {
        Self::before(Upstream::mcp("one").await).await
    }

    /// A gateway in front of this server.
    pub(crate) async fn before(upstream: Upstream) -> Self {
        let gateway = Gateway::start(&upstream.sections()).await;
        Self { gateway, upstream }
    }

    /// A gateway in front of a server of both eras, with more configuration.
    pub(crate) async fn with(more: &str) -> Self {
        let upstream = Upstream::mcp("one").await;
        let gateway = Gateway::start(&format!("{}{more}", upstream.sections())).await;
        Self { gateway, upstream }
    }

    /// Sends a request on a connection of its own and reads the answer.
    pub(crate) async fn ask(&self, message: &Message) -> Answer {
        client::exchange(self.gateway.address, &message.bytes()).await
    }

    /// A connection to the gateway.
    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.gateway.address).await
    }

    /// Opens a legacy session and forgets how.
    pub(crate) async fn open_session(&self) -> String {
        let session = self.ask(&Message::initialize()).await.session();
        self.upstream.take();
        session
    }

    /// The server has seen not one byte since it was last looked at, and the gateway serves the
    /// next client.
    pub(crate) async fn is_unharmed(&self, after: &str) {
        let leaked = self.upstream.bytes();
        assert!(
            leaked.is_empty(),
            "{after}: the server got {:?}",
            String::from_utf8_lossy(&leaked)
        );
        let good = self.ask(&Message::call(1, "echo")).await;
        assert_eq!(good.status, 200, "{after}: a good request got {}", good.text());
        assert_eq!(self.upstream.take().len(), 1, "{after}");
    }
}
