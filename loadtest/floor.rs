//! The floor: a bare Pingora pass-through to one upstream, built like the gateway, so that a ratio to it is the price of what the gateway adds.

use std::net::SocketAddr;

use async_trait::async_trait;
use clap::Parser;
use pingora::Result;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(about = "Forwards everything to one upstream and does nothing else.")]
struct Flags {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where every request goes.
    #[arg(long)]
    upstream: SocketAddr,
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() {
    let flags = Flags::parse();
    let conf = ServerConf {
        threads: flags.threads,
        upstream_keepalive_pool_size: 1024,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service =
        http_proxy_service(&server.configuration, PassThrough { upstream: flags.upstream });
    // Whatever the gateway sets on its listeners must be set here too, or the ratio compares two things.
    let buffers = L4BufferSettings::new(0, 1460);
    service.add_listener(ListenerConfig::tcp(flags.listen.to_string()).l4_buffer(buffers));
    server.add_service(service);
    server.run(RunArgs::default());
}

struct PassThrough {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}
