//! Tokens that only their issuer understands: it is asked about each of them once in a while (RFC 7662).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::caller::Method;
use super::claims::{self, moment};
use super::vouched::Vouched;
use crate::config;
use crate::outbound::{Outbound, Request};
use crate::telemetry::Metrics;

/// A larger answer says more than who somebody is.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How many answers are kept.
const ANSWERS_MAX: usize = 16 * 1024;
/// How many questions may be open; more wait.
const QUESTIONS_MAX: usize = 64;
/// A token that was not good may become so, and anybody can send such tokens.
const BAD_BELIEVED_MAX: Duration = Duration::from_secs(10);
/// How long an issuer that did not answer is not asked again about the same token.
const SILENCE_BELIEVED: Duration = Duration::from_secs(1);

/// A token's digest: the token itself is not kept.
pub(super) type Digest = [u8; 32];

/// An issuer that is asked, as long as its settings stay the same.
pub(super) struct Introspector {
    pub(super) settings: config::Introspection,
    answers: Cache<Digest, Arc<Answer>>,
    questions: Semaphore,
    /// How often it is asked: whoever makes up tokens must not make the gateway flood it.
    rate: DefaultDirectRateLimiter,
    /// Whether the log says that it does not answer: once is enough.
    is_told_silent: AtomicBool,
}

/// What an issuer said of a token, and how long that is believed.
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    until: Instant,
}

/// What an issuer says of a token.
pub(super) enum Verdict {
    /// It is good.
    Good(Vouched),
    /// It is not, or is unknown, or speaks of nobody.
    Bad,
    /// The issuer did not say.
    Silent,
}

/// The digest of a token.
pub(super) fn digest_of(token: &[u8]) -> Digest {
    let mut own = [0; 32];
    own.copy_from_slice(digest(&SHA256, token).as_ref());
    own
}

impl Introspector {
    pub(super) fn new(settings: config::Introspection) -> Self {
        let (answers, questions) = (Cache::new(ANSWERS_MAX), Semaphore::new(QUESTIONS_MAX));
        let burst = settings.rate.count;
        // An interval is never zero; `check` has seen to it.
        let quota = Quota::with_period(settings.rate.interval())
            .map_or_else(|| Quota::per_second(burst), |quota| quota.allow_burst(burst));
        let rate = RateLimiter::direct(quota);
        Self { settings, answers, questions, rate, is_told_silent: AtomicBool::new(false) }
    }

    /// What it said a moment ago.
    pub(super) fn answered(&self, token: &Digest, now: Instant, now_s: u64) -> Option<Arc<Answer>> {
        self.answers.get(token).filter(|answer| answer.is_believed(now, now_s))
    }

    /// Asks, or waits for who asks the same at this moment.
    pub(super) async fn ask(
        &self,
        token: &str,
        digest: &Digest,
        outbound: &Outbound,
        metrics: &Metrics,
    ) -> Arc<Answer> {
        let (now, now_s) = (Instant::now(), seconds(SystemTime::now()));
        self.answers.remove_if(digest, |answer| !answer.is_believed(now, now_s));
        match self.answers.get_value_or_guard_async(digest).await {
            Ok(answer) => answer,
            Err(guard) => {
                let answer = Arc::new(self.ask_now(token, outbound, metrics).await);
                // Only another answer to the same question can have come first.
                drop(guard.insert(Arc::clone(&answer)));
                answer
            }
        }
    }

    async fn ask_now(&self, token: &str, outbound: &Outbound, metrics: &Metrics) -> Answer {
        let settings = &self.settings;
        let asked = timeout(settings.timeout, async {
            self.rate.check().map_err(|_| "it is asked too often".to_owned())?;
            let _open = self.questions.acquire().await.map_err(|error| error.to_string())?;
            let form = vec![
                ("token", Cow::Borrowed(token)),
                ("token_type_hint", Cow::Borrowed("access_token")),
            ];
            let mut request = Request::post_form(settings.url.as_str(), form)
                .time_max(settings.timeout)
                .body_bytes_max(ANSWER_BYTES_MAX);
            if let Some(client_id) = &settings.client_id {
                let secret = settings.client_secret.as_ref().map_or("", config::Secret::expose);
                request = request.basic(client_id, secret);
            }
            match outbound.ask(request).await {
                Ok(reply) if reply.is_ok() => Ok(reply.body),
                Ok(reply) => Err(format!("status {}", reply.status)),
                Err(fault) => Err(fault.to_string()),
            }
        });
        let answered =
            asked.await.unwrap_or_else(|_| Err("too many questions are open".to_owned()));
        let verdict = match &answered {
            Ok(body) => self.judge(body, seconds(SystemTime::now())),
            Err(_) => Verdict::Silent,
        };
        let is_silent = matches!(verdict, Verdict::Silent);
        if self.is_told_silent.swap(is_silent, Ordering::Relaxed) != is_silent && is_silent {
            let why = answered.err().unwrap_or_else(|| "its answer is no answer".to_owned());
            tracing::warn!(issuer = settings.issuer, why, "an issuer does not answer about tokens");
        }
        metrics.identity.introspected(&settings.issuer, verdict.as_str());
        let believed = match &verdict {
            Verdict::Good(_) => settings.cache,
            Verdict::Bad => settings.cache.min(BAD_BELIEVED_MAX),
            Verdict::Silent => SILENCE_BELIEVED,
        };
        Answer { verdict, until: Instant::now() + believed }
    }

    /// Reads the answer of the issuer (RFC 7662 section 2.2).
    fn judge(&self, body: &[u8], now_s: u64) -> Verdict {
        let Some(claims) = claims::parse(body) else { return Verdict::Silent };
        match claims.get("active") {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Verdict::Bad,
            _ => return Verdict::Silent,
        }
        let settings = &self.settings;
        let text = |name: &str| claims.get(name).map(|value| value.as_str().unwrap_or_default());
        let is_other_issuer = text("iss").is_some_and(|issuer| issuer != settings.issuer);
        // A refresh token, or one that is bound to a key, must not be taken for a bearer token.
        let is_other_kind = text("token_type").is_some_and(|kind| {
            !kind.eq_ignore_ascii_case("bearer") && !kind.eq_ignore_ascii_case("access_token")
        });
        let until_s = match claims.get("exp") {
            Some(until) => moment(until),
            None => Some(u64::MAX),
        };
        let from_s = match claims.get("nbf") {
            Some(from) => moment(from),
            None => Some(0),
        };
        let Some((until_s, from_s)) = until_s.zip(from_s) else { return Verdict::Bad };
        if is_other_issuer || is_other_kind || until_s <= now_s || from_s > now_s {
            return Verdict::Bad;
        }
        let (issuer, meaning) = (&settings.issuer, &settings.meaning);
        claims::vouched(claims, issuer, meaning, Method::Introspection, until_s)
            .map_or(Verdict::Bad, Verdict::Good)
    }
}

impl Answer {
    fn is_believed(&self, now: Instant, now_s: u64) -> bool {
        let holds = match &self.verdict {
            Verdict::Good(vouched) => vouched.holds(now_s),
            Verdict::Bad | Verdict::Silent => true,
        };
        now < self.until && holds
    }
}

impl Verdict {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Good(_) => "active",
            Self::Bad => "inactive",
            Self::Silent => "unavailable",
        }
    }
}

/// The time of day as tokens write it.
pub(super) fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::{Introspector, Verdict};
    use crate::config::{Introspection, Meaning, Rate};
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn introspector() -> Introspector {
        Introspector::new(Introspection {
            issuer: "https://idp".to_owned(),
            url: "https://idp/introspect".to_owned(),
            client_id: None,
            client_secret: None,
            cache: Duration::from_secs(60),
            timeout: Duration::from_secs(1),
            rate: Rate { count: NonZeroU32::MIN, period: Duration::from_secs(3600) },
            meaning: Meaning {
                caller: "sub".to_owned(),
                caller_prefix: String::new(),
                tenant: None,
                audiences: Vec::new(),
            },
        })
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        let introspector = introspector();
        let rows = [
            (r#"{"active":true,"sub":"ann","aud":"a"}"#, "active"),
            (r#"{"active":true,"sub":"ann","aud":"a","exp":1001,"nbf":1000}"#, "active"),
            (r#"{"active":true,"sub":"ann","aud":"a","token_type":"Bearer"}"#, "active"),
            (r#"{"active":true,"sub":"ann","aud":"a","iss":"https://idp"}"#, "active"),
            (r#"{"active":true,"sub":"ann","aud":"a","iss":"https://other"}"#, "inactive"),
            (r#"{"active":true,"sub":"ann","aud":"a","iss":7}"#, "inactive"),
            (r#"{"active":true,"sub":"ann","aud":"a","exp":1000}"#, "inactive"),
            (r#"{"active":true,"sub":"ann","aud":"a","exp":"2000"}"#, "inactive"),
            (r#"{"active":true,"sub":"ann","aud":"a","nbf":1001}"#, "inactive"),
            (r#"{"active":true,"sub":"ann","aud":"a","token_type":"DPoP"}"#, "inactive"),
            (r#"{"active":true,"sub":"ann","aud":"a","token_type":"refresh_token"}"#, "inactive"),
            (r#"{"active":true,"sub":"ann"}"#, "inactive"),
            (r#"{"active":true,"aud":"a"}"#, "inactive"),
            (r#"{"active":false,"sub":"ann","aud":"a"}"#, "inactive"),
            (r#"{"active":false}"#, "inactive"),
            (r#"{"active":"true","sub":"ann","aud":"a"}"#, "unavailable"),
            (r#"{"active":false,"active":true,"sub":"ann","aud":"a"}"#, "unavailable"),
            ("{}", "unavailable"),
            ("<html>", "unavailable"),
        ];
        for (body, expected) in rows {
            let verdict = introspector.judge(body.as_bytes(), 1000);
            assert_eq!(verdict.as_str(), expected, "{body}");
            if let Verdict::Good(vouched) = verdict {
                assert_eq!(vouched.caller.id(), "ann");
            }
        }
    }
}
