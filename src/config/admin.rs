//! The listeners for operators and probes: `admin` and `health`.

use std::net::SocketAddr;

use super::reading::Reading;
use super::shape::{At, Field, shape};

shape! {
    /// The listener for operators.
    AdminText {
        /// Its address; loopback only in this version, because it asks for no token.
        required listen: SocketAddr,
    }
}

shape! {
    /// The listener for probes and metrics: /live, /ready and /metrics, without a token.
    HealthText {
        /// Its address.
        required listen: SocketAddr,
    }
}

impl AdminText {
    pub(super) fn check(self, reading: &mut Reading<'_>) -> Option<At<SocketAddr>> {
        let Self { listen } = self;
        let listen = listen.given()?;
        if !listen.value.ip().is_loopback() {
            let hint = format!("write 127.0.0.1:{}", listen.value.port());
            reading.problem(
                listen.place,
                "the admin listener asks for no token, so it must be on loopback",
                hint,
            );
        }
        Some(listen)
    }
}

impl HealthText {
    pub(super) fn check(self) -> Option<At<SocketAddr>> {
        let Self { listen } = self;
        Field::given(listen)
    }
}
