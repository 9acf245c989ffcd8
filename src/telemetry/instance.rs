//! Which replica of the gateway this is.

/// Which process this is, for people: machine and process number.
pub fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    format!("{}/{}", host.trim(), std::process::id())
}
