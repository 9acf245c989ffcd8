//! Tells systemd how the process is doing: `sd_notify` in a few lines.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What systemd is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The process listens. It is the service's main process now, also after an upgrade.
    Ready,
    /// The process was told to stop.
    Stopping,
}

/// Tells the service manager, if there is one.
pub fn notify(state: State) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

fn send(socket: &OsString, state: State) -> io::Result<()> {
    let message = match state {
        State::Ready => format!("MAINPID={}\nREADY=1", std::process::id()),
        State::Stopping => "STOPPING=1".to_owned(),
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address(socket)?).map(drop)
}

/// A path, or with `@` in front a name without a file.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
        }
        _ => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::{State, address, send};
    use std::os::unix::net::UnixDatagram;

    fn check(socket: &str, state: State, expected: &str) {
        let address = address(socket.as_ref()).expect("an address");
        let manager = UnixDatagram::bind_addr(&address).expect("a socket");
        send(&socket.into(), state).expect("sent");
        let mut message = [0; 100];
        let length = manager.recv(&mut message).expect("a message");
        assert_eq!(String::from_utf8_lossy(&message[..length]), expected);
    }

    #[test]
    fn the_manager_hears_over_paths_and_abstract_names() {
        let pid = std::process::id();
        let path = std::env::temp_dir().join(format!("toolgate-notify-{pid}"));
        check(&path.display().to_string(), State::Stopping, "STOPPING=1");
        std::fs::remove_file(path).expect("clean up");
        let ready = format!("MAINPID={pid}\nREADY=1");
        check(&format!("@toolgate-notify-{pid}"), State::Ready, &ready);
    }
}
