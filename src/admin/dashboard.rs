//! The dashboard: one page that holds nothing, so that whoever reaches the listener may have it; what
//! it shows it asks of the API, with the token that is typed into it.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Method, Response, StatusCode};
use ring::digest::{SHA256, digest};

const PAGE: &str = include_str!("dashboard.html");
/// Says in the page whether there is an API to ask.
const API_ON: &str = r#"data-api="on""#;
const API_OFF: &str = r#"data-api="off""#;

/// Nothing but what stands in the page itself, which nobody may frame, and requests to where it came from.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (script, style) = (hash("script"), hash("style"));
    format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    )
});

/// Whether this is where the page lies.
pub(super) fn is_at(path: &str) -> bool {
    matches!(path, "/" | "/dashboard")
}

/// Whether the listener has an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    Api,
    ProbesOnly,
}

/// The page as HTTP.
pub(super) fn respond(method: &Method, served: Served) -> Response<Vec<u8>> {
    let response = Response::builder()
        .header(CACHE_CONTROL, "no-store")
        .header(CONTENT_SECURITY_POLICY, &*POLICY)
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(X_FRAME_OPTIONS, "DENY")
        .header(REFERRER_POLICY, "no-referrer")
        .header("Cross-Origin-Opener-Policy", "same-origin")
        .header("Cross-Origin-Resource-Policy", "same-origin")
        .header("Permissions-Policy", "camera=(), geolocation=(), microphone=()");
    let (response, media, body) = match *method {
        Method::GET | Method::HEAD => (response, "text/html; charset=utf-8", page(served)),
        _ => (
            response.status(StatusCode::METHOD_NOT_ALLOWED).header(ALLOW, "GET, HEAD"),
            "text/plain; charset=utf-8",
            "method not allowed\n".to_owned(),
        ),
    };
    let response = response.header(CONTENT_TYPE, media).header(CONTENT_LENGTH, body.len());
    let body = if method == Method::HEAD { String::new() } else { body };
    response.body(body.into_bytes()).unwrap_or_default()
}

fn page(served: Served) -> String {
    match served {
        Served::Api => PAGE.to_owned(),
        Served::ProbesOnly => PAGE.replacen(API_ON, API_OFF, 1),
    }
}

/// The hash of the only element of this name, as a policy names it.
fn hash(element: &str) -> String {
    let text = inside(element).unwrap_or_default();
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

fn inside(element: &str) -> Option<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("<{element}>"))?;
    Some(rest.split_once(&format!("</{element}>"))?.0)
}

#[cfg(test)]
mod tests {
    use super::{API_OFF, PAGE, POLICY, Served, inside, is_at, page, respond};
    use http::Method;

    #[test]
    fn the_page_has_one_script_and_one_style_and_asks_nobody_else() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert!(inside(element).is_some_and(|text| text.len() > 100), "{element}");
        }
        // What the policy would not let run must not be there.
        for never in
            [" style=\"", " onclick", "innerHTML", "eval(", "http://", "https://", "localStorage"]
        {
            assert!(!PAGE.contains(never), "{never}");
        }
        assert!(page(Served::ProbesOnly).contains(API_OFF) && !PAGE.contains(API_OFF));
        assert_eq!(POLICY.matches("'sha256-").count(), 2);
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn the_page_lies_at_two_paths_and_is_only_read() {
        assert!(is_at("/") && is_at("/dashboard") && !is_at("/dashboard/") && !is_at("/v1/live"));
        assert_eq!(respond(&Method::POST, Served::Api).status(), 405);
        let head = respond(&Method::HEAD, Served::Api);
        assert_eq!(head.headers()["content-length"], PAGE.len().to_string().as_str());
        assert!(head.body().is_empty());
    }
}
