//! Who asks the admin API, and what the holder of a token may do.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use ring::digest::{SHA256, digest};

use super::answer::Denial;
use crate::config::{Role, Token};

/// What a request of the admin API needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs<'n> {
    /// To see.
    Read,
    /// To register endpoints of this server, and to drain them.
    Register(&'n str),
    /// To change everything.
    Operate,
}

/// The role of whoever sent these headers.
pub(super) fn role_of(headers: &HeaderMap, tokens: &[Token]) -> Result<Role, Denial> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return Err(Denial::unauthorized("send one Authorization: Bearer TOKEN"));
    };
    let token = field.as_bytes().split_at_checked(7).and_then(|(scheme, token)| {
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
    });
    let Some(token) = token else {
        return Err(Denial::unauthorized("send one Authorization: Bearer TOKEN"));
    };
    let found = digest(&SHA256, token);
    // Every token is compared to its end, so that the time says nothing about any.
    let mut role = None;
    for known in tokens {
        if are_equal(found.as_ref(), &known.sha256) {
            role = Some(&known.role);
        }
    }
    role.cloned().ok_or_else(|| Denial::unauthorized("this token is not known"))
}

/// Whether a role is enough.
pub(super) fn permit(role: &Role, needs: Needs<'_>) -> Result<(), Denial> {
    let enough = match (role, needs) {
        (Role::Operate, _) | (_, Needs::Read) => true,
        (Role::Register(own), Needs::Register(server)) => own == server,
        (Role::Read | Role::Register(_), _) => false,
    };
    match enough {
        true => Ok(()),
        false => Err(Denial::forbidden(format!("the role {} is not enough", name(role)))),
    }
}

/// The role as it stands in the configuration.
pub(super) fn name(role: &Role) -> String {
    match role {
        Role::Read => "read".to_owned(),
        Role::Register(server) => format!("register:{server}"),
        Role::Operate => "operate".to_owned(),
    }
}

fn are_equal(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |bits, (one, other)| bits | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::{Needs, permit, role_of};
    use crate::config::{Role, Token};
    use http::header::AUTHORIZATION;
    use http::{HeaderMap, HeaderValue};
    use ring::digest::{SHA256, digest};

    fn token(role: Role, text: &str) -> Token {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Token { role, sha256 }
    }

    #[test]
    fn a_token_has_a_role() {
        let tokens = [token(Role::Read, "one"), token(Role::Operate, "two")];
        let check = |fields: &[&str], expected: Option<Role>| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(AUTHORIZATION, HeaderValue::from_str(field).expect("a field"));
            }
            assert_eq!(role_of(&headers, &tokens).ok(), expected, "{fields:?}");
        };
        check(&["Bearer one"], Some(Role::Read));
        check(&["bearer two"], Some(Role::Operate));
        check(&["Bearer  two "], Some(Role::Operate));
        for bad in
            ["Bearer three", "Bearer ", "Bearer", "Basic two", "two", "", "Bearer one, Bearer two"]
        {
            check(&[bad], None);
        }
        check(&["Bearer one", "Bearer one"], None);
        check(&[], None);
    }

    #[test]
    fn roles_reach_as_far_as_they_say() {
        let check = |role: &Role, expected: [bool; 4]| {
            let needs = [Needs::Read, Needs::Register("a"), Needs::Register("b"), Needs::Operate];
            assert_eq!(needs.map(|needs| permit(role, needs).is_ok()), expected, "{role:?}");
        };
        check(&Role::Read, [true, false, false, false]);
        check(&Role::Register("a".to_owned()), [true, true, false, false]);
        check(&Role::Operate, [true; 4]);
    }
}
