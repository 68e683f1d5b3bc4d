//! The only place that turns an error into a status.

use super::body::OwnBody;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use std::borrow::Cow;

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The request cannot be served as it is.
    Client,
    /// The app failed.
    App,
    /// gapless, or whoever told it to.
    Us,
    /// All is as it should be.
    Nobody,
}

/// Why gapless answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing is live and nothing is expected soon.
    NoLiveGeneration,
    /// Nothing was ever deployed: a greeting, and no failure.
    NothingDeployed,
    /// Waited for `hold`.
    HeldTooLong,
    /// `held_max` wait already.
    HoldFull,
    /// No worker took a connection within `hold`.
    AppRefused,
    /// The connection to the app ended before its response began.
    AppDied,
    /// `response_timeout`.
    AppTimedOut,
    /// A response that is none.
    AppMalformed,
    /// The drain limit of its generation passed.
    Cut,
    /// `body_bytes_max`.
    BodyTooLarge,
    /// The client ended its body early, or wrote nonsense into it.
    BodyBroken,
    /// No `Host`, two of them, or an unusable one.
    BadHost,
    /// A target that is no path.
    BadTarget,
    /// CONNECT, and `connect` is not set.
    ConnectUnsupported,
    /// CONNECT to what is no host and port, or with a body.
    BadConnect,
    /// A method that no app can mean, or TRACE.
    BadMethod,
    /// An `Expect` other than `100-continue`.
    ExpectationUnknown,
}

/// What hyper refused on its own: it answers a head that it cannot parse.
pub(super) const MALFORMED_HEAD: &str = "malformed_head";

impl Refusal {
    /// All of them.
    pub(super) const ALL: [Refusal; 17] = [
        Refusal::NoLiveGeneration,
        Refusal::NothingDeployed,
        Refusal::HeldTooLong,
        Refusal::HoldFull,
        Refusal::AppRefused,
        Refusal::AppDied,
        Refusal::AppTimedOut,
        Refusal::AppMalformed,
        Refusal::Cut,
        Refusal::BodyTooLarge,
        Refusal::BodyBroken,
        Refusal::BadHost,
        Refusal::BadTarget,
        Refusal::ConnectUnsupported,
        Refusal::BadConnect,
        Refusal::BadMethod,
        Refusal::ExpectationUnknown,
    ];

    /// In [`crate::link::Counters::refusals`]; fixed, for dashboards.
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::NoLiveGeneration | Self::HeldTooLong => "no_live_generation",
            Self::NothingDeployed => "nothing_deployed",
            Self::HoldFull => "hold_full",
            Self::AppRefused => "app_refused",
            Self::AppDied => "app_died",
            Self::AppTimedOut => "app_timed_out",
            Self::AppMalformed => "app_malformed",
            Self::Cut => "cut",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyBroken => "body_broken",
            Self::BadHost => "bad_host",
            Self::BadTarget => "bad_target",
            Self::ConnectUnsupported => "connect_unsupported",
            Self::BadConnect => "bad_connect",
            Self::BadMethod => "bad_method",
            Self::ExpectationUnknown => "expectation_unknown",
        }
    }

    /// In [`crate::link::Counters::lost`]; none when the client is to blame.
    pub(super) fn lost(self) -> Option<&'static str> {
        match (self.blame(), self) {
            (Blame::Client | Blame::Nobody, _) => None,
            (Blame::App | Blame::Us, Self::HeldTooLong) => Some("held_too_long"),
            (Blame::App | Blame::Us, other) => Some(other.cause()),
        }
    }

    pub(super) fn blame(self) -> Blame {
        match self {
            Self::NoLiveGeneration
            | Self::AppRefused
            | Self::AppDied
            | Self::AppTimedOut
            | Self::AppMalformed => Blame::App,
            Self::HeldTooLong | Self::HoldFull | Self::Cut => Blame::Us,
            Self::NothingDeployed => Blame::Nobody,
            Self::BodyTooLarge
            | Self::BodyBroken
            | Self::BadHost
            | Self::BadTarget
            | Self::ConnectUnsupported
            | Self::BadConnect
            | Self::BadMethod
            | Self::ExpectationUnknown => Blame::Client,
        }
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::NoLiveGeneration | Self::HeldTooLong | Self::HoldFull | Self::Cut => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NothingDeployed => StatusCode::OK,
            Self::AppRefused | Self::AppDied | Self::AppMalformed => StatusCode::BAD_GATEWAY,
            Self::AppTimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyBroken | Self::BadHost | Self::BadTarget | Self::BadConnect => {
                StatusCode::BAD_REQUEST
            }
            Self::ConnectUnsupported | Self::BadMethod => StatusCode::NOT_IMPLEMENTED,
            Self::ExpectationUnknown => StatusCode::EXPECTATION_FAILED,
        }
    }

    /// What the client sent can be read in two ways, or it is unlike what clients send: what follows on
    /// the connection may be meant otherwise than we would read it.
    pub(super) fn ends_connection(self) -> bool {
        match self {
            Self::BodyBroken
            | Self::BadHost
            | Self::BadTarget
            | Self::BadConnect
            | Self::BadMethod => true,
            Self::NoLiveGeneration
            | Self::NothingDeployed
            | Self::HeldTooLong
            | Self::HoldFull
            | Self::AppRefused
            | Self::AppDied
            | Self::AppTimedOut
            | Self::AppMalformed
            | Self::Cut
            | Self::BodyTooLarge
            // What was sent into the tunnel ends the connection, if anything was: see ClientStream.
            | Self::ConnectUnsupported
            | Self::ExpectationUnknown => false,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NoLiveGeneration => "the app is not running",
            Self::NothingDeployed => {
                "gapless runs, and waits for an app. Next, on this machine: sudo gapless deploy \
                 ./myapp"
            }
            Self::HeldTooLong => "the app did not become ready in time",
            Self::HoldFull => "too many requests wait for the app",
            Self::AppRefused => "the app accepts no connections",
            Self::AppDied => "the app ended before it answered",
            Self::AppTimedOut => "the app did not answer in time",
            Self::AppMalformed => {
                "the app's answer is not HTTP, or has more than 1000 fields or 64 KiB of them"
            }
            Self::Cut => "the app was replaced before it answered",
            Self::BodyTooLarge => "the request body is too large",
            Self::BodyBroken => "the request body ended early or is malformed",
            Self::BadHost => "the Host field is missing, repeated or malformed",
            Self::BadTarget => "the request target is not a path",
            Self::ConnectUnsupported => "CONNECT is not supported",
            Self::BadConnect => "CONNECT needs a host and a port, and no body",
            Self::BadMethod => "the method is TRACE, too long or not in capitals",
            Self::ExpectationUnknown => "only 100-continue can be expected",
        }
    }

    /// The greeting says how to deploy here, and not to another instance. Names need no escapes.
    fn text_of(self, instance: &str) -> Cow<'static, str> {
        if self == Self::NothingDeployed && instance != "gapless" {
            let deploy = format!("gapless --app {instance} deploy");
            return Cow::Owned(self.text().replace("gapless deploy", &deploy));
        }
        Cow::Borrowed(self.text())
    }

    /// `about` is the instance, and when to try again. `can_continue`: the request was read to its end, so another may follow. Nothing of the
    /// request is in it.
    pub(super) fn response(
        self,
        form: Form,
        (instance, retry_after_seconds): (&str, u32),
        can_continue: bool,
    ) -> Response<OwnBody> {
        let text = form.write(self.status(), &self.text_of(instance));
        let mut response = Response::new(OwnBody::text(&text));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
        // Caches may keep a 501 otherwise.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds));
        }
        if !can_continue || self.ends_connection() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Why gapless answered so: the cause of a refusal, written as text, if that is one.
pub fn cause_of(status: u16, text: &str) -> Option<&'static str> {
    let is_it = |it: &Refusal| it.status().as_u16() == status && it.text() == text.trim_end();
    Refusal::ALL.into_iter().find(is_it).map(Refusal::cause)
}

/// As what a refusal is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Html,
    /// RFC 9457.
    Json,
}

impl Form {
    /// What the client likes best; text if it does not mind.
    pub(super) fn wanted(accept: Option<&HeaderValue>) -> Self {
        let accept = accept.and_then(|accept| accept.to_str().ok()).unwrap_or("");
        let mut best = (0, Self::Text);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let form = match parts.next().map(str::to_ascii_lowercase).as_deref() {
                Some("text/html" | "application/xhtml+xml") => Self::Html,
                Some("application/json" | "application/problem+json" | "application/*") => {
                    Self::Json
                }
                Some("text/plain" | "text/*" | "*/*") => Self::Text,
                Some(_) | None => continue,
            };
            let quality = parts.find_map(thousandths).unwrap_or(1000);
            // Among equals the first; what is named is wanted more than what a wildcard allows.
            if quality > best.0 && !(range.contains("*/*") && best.0 > 0) {
                best = (quality, form);
            }
        }
        best.1
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/problem+json",
        }
    }

    fn write(self, status: StatusCode, text: &str) -> String {
        let title = status.canonical_reason().unwrap_or("Refused");
        let number = status.as_u16();
        match self {
            Self::Text => text.to_owned(),
            Self::Html => format!(
                "<!doctype html><title>{title}</title><h1>{number} {title}</h1><p>{text}</p>"
            ),
            // The texts are ours and need no escapes; a test says so.
            Self::Json => {
                format!(r#"{{"title":"{title}","status":{number},"detail":"{text}"}}"#)
            }
        }
    }
}

/// `q=0.5`: RFC 9110 section 12.4.2.
fn thousandths(parameter: &str) -> Option<u32> {
    let value = parameter
        .strip_prefix("q=")
        .or_else(|| parameter.strip_prefix("Q="))?;
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let part: u32 = format!("{part:0<3}")
        .parse()
        .ok()
        .filter(|part| *part < 1000)?;
    match whole {
        "0" => Some(part),
        "1" => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_status_says_whose_fault_it_is() {
        for refusal in Refusal::ALL {
            let by_client = refusal.blame() == Blame::Client;
            let by_nobody = refusal.blame() == Blame::Nobody;
            assert_eq!(refusal.status().is_success(), by_nobody, "{refusal:?}");
            assert_eq!(
                refusal.lost().is_none(),
                by_client || by_nobody,
                "{refusal:?}"
            );
            let excused = refusal.status() == StatusCode::NOT_IMPLEMENTED;
            assert_eq!(
                refusal.status().is_client_error() || excused,
                by_client,
                "{refusal:?}"
            );
        }
    }

    /// What gapless(1) lists for a metric; what stands in brackets explains the one before.
    fn documented(metric: &str) -> BTreeSet<&'static str> {
        let manual = include_str!("../../packaging/man/gapless.1");
        let (_, entry) = manual.split_once(metric).unwrap();
        let list = entry.lines().nth(1).unwrap().rsplit_once(": ").unwrap().1;
        let causes = list.trim_end_matches('.').split(", ");
        causes.map(|it| it.split(' ').next().unwrap()).collect()
    }

    #[test]
    fn the_manual_lists_every_cause() {
        let mut refused: BTreeSet<_> = Refusal::ALL.into_iter().map(Refusal::cause).collect();
        refused.insert(MALFORMED_HEAD);
        assert_eq!(documented("gapless_refusals_total"), refused);
        let mut lost: BTreeSet<_> = Refusal::ALL.into_iter().filter_map(Refusal::lost).collect();
        // Those of requests that were answered in part, and of fronts.
        lost.extend(["app_died_mid_response", "front_died", "buffer_lost"]);
        assert_eq!(documented("gapless_requests_lost_total"), lost);
    }

    #[test]
    fn every_cause_has_a_text() {
        let causes = documented("gapless_refusals_total");
        let lost = documented("gapless_requests_lost_total");
        for cause in causes.into_iter().chain(lost) {
            let topic = explain::find(cause).unwrap_or_else(|| panic!("{cause}"));
            assert_eq!(topic.code, cause);
        }
    }

    #[test]
    fn only_503_says_when_to_try_again() {
        for refusal in Refusal::ALL {
            let response = refusal.response(Form::Text, ("shop", 7), true);
            let is_503 = response.status() == 503;
            assert_eq!(
                response.headers().contains_key(RETRY_AFTER),
                is_503,
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_ends_the_connection_and_nothing_else_does() {
        for refusal in Refusal::ALL {
            let response = refusal.response(Form::Text, ("shop", 7), true);
            let is_doubtful = response.status() == 400 || refusal == Refusal::BadMethod;
            let closes = response.headers().contains_key(CONNECTION);
            assert_eq!(closes, is_doubtful, "{refusal:?}");
        }
    }

    #[test]
    fn the_greeting_says_how_to_deploy_to_this_instance() {
        let greeting = |instance| Refusal::NothingDeployed.text_of(instance);
        assert!(greeting("gapless").ends_with("sudo gapless deploy ./myapp"));
        assert!(greeting("shop").ends_with("sudo gapless --app shop deploy ./myapp"));
        assert_eq!(Refusal::Cut.text_of("shop"), Refusal::Cut.text());
    }

    #[test]
    fn an_unread_body_closes_the_connection() {
        let response = Refusal::BodyTooLarge.response(Form::Text, ("shop", 1), false);
        assert_eq!(response.headers()[CONNECTION], "close");
    }

    fn form(accept: &str) -> Form {
        Form::wanted(Some(&HeaderValue::from_str(accept).unwrap()))
    }

    #[test]
    fn a_refusal_is_written_as_the_client_likes_it() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(form(browser), Form::Html);
        assert_eq!(form("application/json, text/plain, */*"), Form::Json);
        assert_eq!(form("text/html;q=0.4, application/json;q=0.9"), Form::Json);
        assert_eq!(form("*/*"), Form::Text);
        assert_eq!(form("*/*, application/json;q=0.5"), Form::Text);
        assert_eq!(
            form("application/json;q=0, text/html;level=1;q=0.001"),
            Form::Html
        );
        assert_eq!(form("Application/Problem+JSON"), Form::Json);
        assert_eq!(form("image/png"), Form::Text);
        assert_eq!(Form::wanted(None), Form::Text);
    }

    #[test]
    fn every_refusal_is_small_in_every_form_and_its_json_can_be_read() {
        for refusal in Refusal::ALL {
            for form in [Form::Text, Form::Html, Form::Json] {
                let written = form.write(refusal.status(), refusal.text());
                assert!(written.len() < 200, "{written}");
                assert!(written.contains(refusal.text()), "{written}");
            }
            let json = Form::Json.write(refusal.status(), refusal.text());
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(json["status"], refusal.status().as_u16());
            assert_eq!(json["detail"], refusal.text());
            assert!(!refusal.text().contains(['<', '&']));
        }
    }

    proptest! {
        #[test]
        fn no_accept_field_makes_us_fail(accept in "[ -~]{0,60}") {
            form(&accept);
        }
    }
}
