//! What those who issue credentials answer, read with distrust: it goes into a head.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde_json::Value;

/// A longer token is refused by servers, and would fill the tables.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How long a token of unknown age is used.
const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Whatever an answer says, it is asked again after this time.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A token that somebody issued.
pub(super) struct Issued {
    pub(super) token: String,
    /// How long it lasts; `None` means until it is replaced.
    pub(super) lifetime: Option<Duration>,
}

impl Issued {
    /// A token that lasts until it is replaced.
    pub(super) fn for_good(token: String) -> Self {
        Self { token, lifetime: None }
    }

    /// An access token as RFC 6749 section 5.1 writes it; Azure writes its numbers as texts, or the
    /// moment of the end in place of the time until then.
    pub(super) fn of_json(body: &[u8], now: SystemTime) -> Option<Self> {
        let reply: Value = serde_json::from_slice(body).ok()?;
        let token = reply["access_token"].as_str()?.to_owned();
        // `N_A` is what RFC 8693 section 2.2.1 calls a token that is no access token. Any other kind
        // must be shown in another way than this.
        let kind = reply["token_type"].as_str()?;
        if !kind.eq_ignore_ascii_case("bearer") && kind != "N_A" {
            return None;
        }
        let left = seconds(&reply["expires_in"]).map(Duration::from_secs);
        let left = left.or_else(|| until(seconds(&reply["expires_on"])?, now));
        Some(Self { token, lifetime: Some(left.unwrap_or(LIFETIME).min(LIFETIME_MAX)) })
    }

    /// A signed token alone, which says itself how long it lasts.
    pub(super) fn of_jwt(body: &[u8], now: SystemTime) -> Option<Self> {
        let token = std::str::from_utf8(body).ok()?.trim().to_owned();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        let left = until(seconds(&claims["exp"])?, now)?;
        Some(Self { token, lifetime: Some(left.min(LIFETIME_MAX)) })
    }

    /// The value of the field that carries it.
    pub(super) fn value(&self, scheme: Option<&str>) -> Option<HeaderValue> {
        let token = self.token.as_str();
        let is_sendable = !token.is_empty()
            && token.len() <= TOKEN_BYTES_MAX
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_sendable {
            return None;
        }
        let mut value = match scheme {
            Some(scheme) => HeaderValue::try_from(format!("{scheme} {token}")).ok()?,
            None => HeaderValue::from_str(token).ok()?,
        };
        value.set_sensitive(true);
        Some(value)
    }
}

/// A whole number of seconds, which some write as text.
fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn until(unix_seconds: u64, now: SystemTime) -> Option<Duration> {
    let end = UNIX_EPOCH.checked_add(Duration::from_secs(unix_seconds))?;
    Some(end.duration_since(now).unwrap_or(Duration::ZERO))
}

/// The error of an answer, if it is one of those that OAuth knows (RFC 6749 section 5.2, RFC 8693
/// section 2.2.2, RFC 8707): anything else might repeat what was sent.
pub(super) fn error_of(body: &[u8]) -> &'static str {
    const KNOWN: [&str; 11] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
        "access_denied",
        "interaction_required",
        "temporarily_unavailable",
        "server_error",
    ];
    let reply: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = reply["error"].as_str().unwrap_or_default();
    KNOWN.into_iter().find(|known| *known == error).unwrap_or("no known error")
}

#[cfg(test)]
mod tests {
    use super::{Issued, URL_SAFE_NO_PAD, error_of};
    use base64::Engine as _;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn answers_are_read_as_different_issuers_write_them() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let check = |body: &str, expected: Option<(&str, u64)>| {
            let issued = Issued::of_json(body.as_bytes(), now);
            let found = issued.as_ref().map(|issued| {
                (issued.token.as_str(), issued.lifetime.expect("a lifetime").as_secs())
            });
            assert_eq!(found, expected, "{body}");
        };
        check(r#"{"access_token":"a","token_type":"Bearer","expires_in":60}"#, Some(("a", 60)));
        check(r#"{"access_token":"a","token_type":"bearer","expires_in":"61"}"#, Some(("a", 61)));
        check(r#"{"access_token":"a","token_type":"N_A","expires_on":"1060"}"#, Some(("a", 60)));
        check(r#"{"access_token":"a","token_type":"Bearer","expires_on":900}"#, Some(("a", 0)));
        check(r#"{"access_token":"a","token_type":"Bearer"}"#, Some(("a", 300)));
        let long = r#"{"access_token":"a","token_type":"Bearer","expires_in":99999999999}"#;
        check(long, Some(("a", 86_400)));
        check(r#"{"access_token":"a","token_type":"DPoP","expires_in":60}"#, None);
        check(r#"{"access_token":"a"}"#, None);
        check(r#"{"access_token":7,"token_type":"Bearer"}"#, None);
        check("[]", None);
        check("", None);
    }

    #[test]
    fn an_identity_token_says_when_it_ends() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let jwt = |claims: &str| format!("e30.{}.sig\n", URL_SAFE_NO_PAD.encode(claims));
        let issued = Issued::of_jwt(jwt(r#"{"exp":1600}"#).as_bytes(), now).expect("a token");
        assert_eq!(issued.lifetime, Some(Duration::from_secs(600)));
        assert!(!issued.token.ends_with('\n'));
        for bad in [jwt("{}"), jwt("x"), "abc".to_owned(), String::new()] {
            assert!(Issued::of_jwt(bad.as_bytes(), now).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_what_a_head_can_hold_becomes_a_value_and_it_is_never_shown() {
        let value = |token: &str, scheme| Issued::for_good(token.to_owned()).value(scheme);
        let bearer = value("abc", Some("Bearer")).expect("a value");
        assert_eq!(
            (bearer.to_str().ok(), format!("{bearer:?}").as_str()),
            (Some("Bearer abc"), "Sensitive")
        );
        assert_eq!(value("abc", None).expect("a value"), "abc");
        for bad in ["", "a b", "a\r\nx: y", "a\u{7f}", "ä", &"a".repeat(9000)] {
            assert!(value(bad, Some("Bearer")).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_is_repeated_only_if_everybody_knows_it() {
        assert_eq!(error_of(br#"{"error":"invalid_client"}"#), "invalid_client");
        assert_eq!(error_of(br#"{"error":"s3cret"}"#), "no known error");
        assert_eq!(error_of(b"<html>"), "no known error");
    }
}
