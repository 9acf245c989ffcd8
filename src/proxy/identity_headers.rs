//! What a server is told of who calls, where it is told. Fields of these names that come from a
//! client go nowhere.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use pingora::http::RequestHeader;

use crate::config::IdentityHeaders;
use crate::identity::{Caller, Method, bearer};
use crate::upstream::{Pool, Subject};

/// The caller, if this server is told.
pub(super) fn told<'c>(pool: &Pool, caller: Option<&'c Caller>) -> Option<&'c Caller> {
    match pool.settings().identity_headers {
        IdentityHeaders::On => caller,
        IdentityHeaders::Off => None,
    }
}

/// For whom a request of this head is made. Only a token that proved its caller is one to exchange.
pub(super) fn subject<'h>(head: &'h RequestHeader, caller: Option<&Caller>) -> Subject<'h> {
    let token = match caller.map(Caller::method) {
        Some(Method::Jwt | Method::Introspection) => {
            head.headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()))
        }
        Some(Method::Anonymous | Method::ApiKey | Method::Certificate) | None => None,
    };
    Subject::Caller(token.map(str::as_bytes))
}

/// The fields that tell of a caller. An identity may hold any characters, a field may not.
pub(super) fn each(caller: &Caller, mut emit: impl FnMut(&'static str, &[u8])) {
    emit("x-toolgate-caller", encoded(caller.id()).as_bytes());
    if let Some(tenant) = caller.tenant() {
        emit("x-toolgate-tenant", encoded(tenant).as_bytes());
    }
    match caller.scopes() {
        [] => {}
        [scope] => emit("x-toolgate-scopes", encoded(scope).as_bytes()),
        scopes => {
            let scopes: Vec<_> = scopes.iter().map(|scope| encoded(scope)).collect();
            emit("x-toolgate-scopes", scopes.join(" ").as_bytes());
        }
    }
    emit("x-toolgate-method", caller.method().as_str().as_bytes());
}

/// The text with `%XX` for every byte that is no visible character of ASCII, and for `%` itself.
fn encoded(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%';
    if text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let encoded = text.bytes().map(|byte| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    Cow::Owned(encoded.collect())
}

#[cfg(test)]
mod tests {
    use super::{each, encoded, subject};
    use crate::identity::{Caller, Method, Proven};
    use crate::upstream::Subject;
    use pingora::http::RequestHeader;
    use serde_json::Map;

    fn caller(id: &str, method: Method, scopes: &[&str]) -> Caller {
        Caller::new(Proven {
            id: id.to_owned(),
            issuer: None,
            tenant: Some("t 1".to_owned()),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            claims: Map::new(),
            method,
        })
    }

    #[test]
    fn an_identity_cannot_write_fields_of_its_own() {
        let mut fields = Vec::new();
        let caller = caller("a\r\nx-toolgate-tenant: b", Method::Jwt, &["write", "read%"]);
        each(&caller, |name, value| {
            fields.push(format!("{name}: {}", String::from_utf8_lossy(value)));
        });
        assert_eq!(
            fields,
            [
                "x-toolgate-caller: a%0D%0Ax-toolgate-tenant:%20b",
                "x-toolgate-tenant: t%201",
                "x-toolgate-scopes: read%25 write",
                "x-toolgate-method: jwt",
            ]
        );
        for (text, expected) in
            [("bob@h", "bob@h"), ("bo b", "bo%20b"), ("bö", "b%C3%B6"), ("", "")]
        {
            assert_eq!(encoded(text), expected);
        }
    }

    #[test]
    fn only_a_token_that_proved_its_caller_is_exchanged() {
        let mut head = RequestHeader::build("POST", b"/", None).expect("a head");
        head.insert_header("authorization", "Bearer abc").expect("a field");
        let rows = [
            (Method::Jwt, Some(&b"abc"[..])),
            (Method::Introspection, Some(b"abc")),
            (Method::ApiKey, None),
            (Method::Certificate, None),
            (Method::Anonymous, None),
        ];
        for (method, expected) in rows {
            let Subject::Caller(token) = subject(&head, Some(&caller("a", method, &[]))) else {
                panic!("a request of a client is of a caller");
            };
            assert_eq!(token, expected, "{method:?}");
        }
    }
}
