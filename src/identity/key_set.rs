//! The public keys of an issuer (RFC 7517), and which of them a token may name.

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use serde_json::Value;

use crate::config::Algorithm;

/// More keys are a mistake, and would take long to try.
const KEYS_MAX: usize = 100;
/// How many keys of one name are tried.
const NAMESAKES_MAX: usize = 4;

/// The usable keys of an issuer.
#[derive(Debug)]
pub(super) struct KeySet {
    /// Counts up with every change, so that what an older set has proven is proven again.
    pub(super) number: u64,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
    /// As it was written, to see a change.
    source: Value,
}

/// Why a set of keys is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// It is not JSON with a list of keys.
    #[error("it is not a JSON Web Key Set")]
    Form,
    /// It is absurdly long.
    #[error("it holds more than {KEYS_MAX} keys")]
    TooMany,
    /// Nothing in it can check a signature that is accepted here.
    #[error("it holds no key for the algorithms that are accepted")]
    Empty,
}

impl KeySet {
    /// Reads a set. Keys that cannot be used are left out: a set may hold keys for other uses.
    pub(super) fn parse(json: &[u8], accepted: &[Algorithm]) -> Result<Self, Broken> {
        let set: Value = serde_json::from_slice(json).map_err(|_| Broken::Form)?;
        let list = set.get("keys").and_then(Value::as_array).ok_or(Broken::Form)?;
        if list.len() > KEYS_MAX {
            return Err(Broken::TooMany);
        }
        let keys: Vec<Key> = list.iter().filter_map(|source| Key::read(source, accepted)).collect();
        match keys.is_empty() {
            true => Err(Broken::Empty),
            false => Ok(Self { number: 0, keys }),
        }
    }

    /// Whether both hold the same keys.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let sources =
            |set: &Self| -> Vec<Value> { set.keys.iter().map(|key| key.source.clone()).collect() };
        sources(self) == sources(other)
    }

    /// The keys that may have signed a token of this header. A name is only compared: nothing is
    /// looked up by it. Without one there must be no choice.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let is_named = move |key: &Key| match (id, key.id.as_deref()) {
            (Some(id), Some(own)) => id == own,
            (Some(_), None) | (None, _) => self.keys.len() == 1,
        };
        self.keys
            .iter()
            .filter(move |key| is_named(key) && key.algorithms.contains(&algorithm))
            .take(NAMESAKES_MAX)
            .map(|key| &key.key)
    }

    /// Whether some key has this name, whatever it is for.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
            || (self.keys.len() == 1 && self.keys[0].id.is_none())
    }
}

impl Key {
    fn read(source: &Value, accepted: &[Algorithm]) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(source.clone()).ok()?;
        let is_for_signatures =
            jwk.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
        let may_verify = jwk
            .common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let algorithms: Vec<Algorithm> = accepted
            .iter()
            .copied()
            .filter(|algorithm| {
                fits(&jwk.algorithm, *algorithm)
                    && jwk.common.key_algorithm.is_none_or(|own| own == named(*algorithm))
            })
            .collect();
        if !is_for_signatures || !may_verify || algorithms.is_empty() {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, algorithms, key, source: source.clone() })
    }
}

/// Whether a key of this kind can check this algorithm. The kind of a key never depends on a token:
/// a public key is never the secret of an HMAC.
fn fits(parameters: &AlgorithmParameters, algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match (parameters, algorithm) {
        (AlgorithmParameters::RSA(_), RS256 | RS384 | RS512 | PS256 | PS384 | PS512) => true,
        (AlgorithmParameters::EllipticCurve(key), ES256) => key.curve == EllipticCurve::P256,
        (AlgorithmParameters::EllipticCurve(key), ES384) => key.curve == EllipticCurve::P384,
        (AlgorithmParameters::OctetKeyPair(key), EdDSA) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    }
}

fn named(algorithm: Algorithm) -> KeyAlgorithm {
    match algorithm {
        Algorithm::RS256 => KeyAlgorithm::RS256,
        Algorithm::RS384 => KeyAlgorithm::RS384,
        Algorithm::RS512 => KeyAlgorithm::RS512,
        Algorithm::PS256 => KeyAlgorithm::PS256,
        Algorithm::PS384 => KeyAlgorithm::PS384,
        Algorithm::PS512 => KeyAlgorithm::PS512,
        Algorithm::ES256 => KeyAlgorithm::ES256,
        Algorithm::ES384 => KeyAlgorithm::ES384,
        Algorithm::EdDSA => KeyAlgorithm::EdDSA,
    }
}

#[cfg(test)]
mod tests {
    use super::{Broken, KeySet};
    use crate::config::Algorithm::{self, ES256, EdDSA, RS256};
    use serde_json::{Value, json};

    fn ed(id: Option<&str>) -> Value {
        let mut key = json!({
            "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        });
        if let Some(id) = id {
            key["kid"] = id.into();
        }
        key
    }

    fn set(keys: &[Value], accepted: &[Algorithm]) -> Result<KeySet, Broken> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), accepted)
    }

    #[test]
    fn only_keys_for_the_accepted_algorithms_are_kept() {
        let with = |name: &str, value: Value| {
            let mut key = ed(None);
            key[name] = value;
            set(&[key], &[EdDSA]).map(drop)
        };
        assert_eq!(with("use", json!("sig")), Ok(()));
        assert_eq!(with("use", json!("enc")), Err(Broken::Empty));
        assert_eq!(with("key_ops", json!(["verify"])), Ok(()));
        assert_eq!(with("key_ops", json!(["encrypt"])), Err(Broken::Empty));
        assert_eq!(with("alg", json!("EdDSA")), Ok(()));
        assert_eq!(with("alg", json!("ES256")), Err(Broken::Empty));
        assert_eq!(with("alg", json!("of the future")), Err(Broken::Empty));
        assert_eq!(with("kid", json!(7)), Err(Broken::Empty));
        assert_eq!(with("x", json!("*")), Err(Broken::Empty));
        assert_eq!(with("crv", json!("P-256")), Err(Broken::Empty));
        let oct = json!({ "kty": "oct", "k": "c2VjcmV0" });
        assert_eq!(
            set(std::slice::from_ref(&oct), &[RS256, ES256, EdDSA]).map(drop),
            Err(Broken::Empty)
        );
        assert_eq!(set(&[ed(None)], &[RS256]).map(drop), Err(Broken::Empty));
        // One key of another kind does not spoil the others.
        assert!(
            set(&[oct, json!("nonsense"), json!({ "kty": "new" }), ed(None)], &[EdDSA]).is_ok()
        );
        assert_eq!(set(&[], &[EdDSA]).map(drop), Err(Broken::Empty));
        assert_eq!(set(&vec![ed(None); 101], &[EdDSA]).map(drop), Err(Broken::TooMany));
        for broken in ["", "{}", "[]", "<html>", r#"{"keys":{}}"#] {
            let parsed = KeySet::parse(broken.as_bytes(), &[EdDSA]).map(drop);
            assert_eq!(parsed, Err(Broken::Form), "{broken}");
        }
    }

    #[test]
    fn a_token_must_name_its_key_where_there_is_a_choice() {
        let found = |keys: &[Value], id: Option<&str>, algorithm| {
            set(keys, &[EdDSA, ES256]).expect("a set").find(id, algorithm).count()
        };
        assert_eq!(found(&[ed(Some("a"))], None, EdDSA), 1);
        assert_eq!(found(&[ed(Some("a"))], Some("a"), EdDSA), 1);
        assert_eq!(found(&[ed(Some("a"))], Some("b"), EdDSA), 0);
        assert_eq!(found(&[ed(Some("a"))], Some("../a"), EdDSA), 0);
        assert_eq!(found(&[ed(Some("a"))], Some("a"), ES256), 0);
        assert_eq!(found(&[ed(None)], Some("a"), EdDSA), 1, "there is no other");
        assert_eq!(found(&[ed(Some("a")), ed(Some("b"))], None, EdDSA), 0);
        assert_eq!(found(&[ed(Some("a")), ed(Some("b"))], Some("b"), EdDSA), 1);
        assert_eq!(found(&[ed(None), ed(Some("b"))], Some("c"), EdDSA), 0);
        assert_eq!(found(&vec![ed(Some("a")); 9], Some("a"), EdDSA), 4);
    }
}
