//! Where a collector of OpenTelemetry is, and what is sent along: the same for records and telemetry.

use std::time::Duration;

use super::reading::Reading;
use super::secret::Secret;
use super::shape::{At, Entries, Field};
use super::url::Url;

/// After this time without an answer a request has failed, unless the settings say otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The address to which the path of a signal is added, and what of it `is` added.
pub(super) fn endpoint(url: Field<Url>, is: &str, reading: &mut Reading<'_>) -> Option<String> {
    let url = url.given()?;
    let prefix = url.value.path_and_query.trim_end_matches('/');
    if prefix.contains('?') {
        let hint = format!("give the address of the collector only; {is} added");
        reading.problem(url.place, "this URL has a query", hint);
        return None;
    }
    Some(url.value.with_path(prefix))
}

/// Headers that are sent to it, by name in lower case.
pub(super) fn headers(
    headers: Field<Entries<Secret>>,
    reading: &mut Reading<'_>,
) -> Vec<(String, Secret)> {
    let Some(Entries(headers)) = headers.value() else { return Vec::new() };
    headers.into_iter().filter_map(|(name, value)| header(name, value, reading)).collect()
}

/// How long it may take to answer.
pub(super) fn timeout(timeout: Field<Duration>) -> Duration {
    timeout.or(TIMEOUT)
}

fn header(
    name: At<String>,
    value: Field<Secret>,
    reading: &mut Reading<'_>,
) -> Option<(String, Secret)> {
    let value = value.given()?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.value.is_empty() || !name.value.bytes().all(token) {
        reading.problem(name.place, "this is not the name of a header", "write it like x-api-key");
        return None;
    }
    let visible = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    if !value.value.expose().bytes().all(visible) {
        let hint = "remove line breaks and other control characters";
        reading.problem(value.place, "this cannot be the value of a header", hint);
        return None;
    }
    Some((name.value.to_ascii_lowercase(), value.value))
}
