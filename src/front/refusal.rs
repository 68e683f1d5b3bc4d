//! The only place that turns an error into a status.

use super::body::OwnBody;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The request cannot be served as it is.
    Client,
    /// The app failed.
    App,
    /// gapless, or whoever told it to.
    Us,
}

/// Why gapless answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing is live and nothing is expected soon.
    NoLiveGeneration,
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
    /// CONNECT.
    ConnectUnsupported,
}

/// What hyper refused on its own: it answers a head that it cannot parse.
pub(super) const MALFORMED_HEAD: &str = "malformed_head";

impl Refusal {
    /// In [`crate::link::Counters::refusals`]; fixed, for dashboards.
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::NoLiveGeneration | Self::HeldTooLong => "no_live_generation",
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
        }
    }

    /// In [`crate::link::Counters::lost`]; none when the client is to blame.
    pub(super) fn lost(self) -> Option<&'static str> {
        match (self.blame(), self) {
            (Blame::Client, _) => None,
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
            Self::BodyTooLarge
            | Self::BodyBroken
            | Self::BadHost
            | Self::BadTarget
            | Self::ConnectUnsupported => Blame::Client,
        }
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::NoLiveGeneration | Self::HeldTooLong | Self::HoldFull | Self::Cut => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::AppRefused | Self::AppDied | Self::AppMalformed => StatusCode::BAD_GATEWAY,
            Self::AppTimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyBroken | Self::BadHost | Self::BadTarget => StatusCode::BAD_REQUEST,
            Self::ConnectUnsupported => StatusCode::NOT_IMPLEMENTED,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NoLiveGeneration => "the app is not running",
            Self::HeldTooLong => "the app did not become ready in time",
            Self::HoldFull => "too many requests wait for the app",
            Self::AppRefused => "the app accepts no connections",
            Self::AppDied => "the app ended before it answered",
            Self::AppTimedOut => "the app did not answer in time",
            Self::AppMalformed => "the app's answer is not HTTP",
            Self::Cut => "the app was replaced before it answered",
            Self::BodyTooLarge => "the request body is too large",
            Self::BodyBroken => "the request body ended early or is malformed",
            Self::BadHost => "the Host field is missing, repeated or malformed",
            Self::BadTarget => "the request target is not a path",
            Self::ConnectUnsupported => "CONNECT is not supported",
        }
    }

    /// `can_continue`: the request was read to its end, so another may follow.
    pub(super) fn response(
        self,
        retry_after_seconds: u32,
        can_continue: bool,
    ) -> Response<OwnBody> {
        let mut response = Response::new(OwnBody::text(self.text()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds));
        }
        if !can_continue {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Refusal; 13] = [
        Refusal::NoLiveGeneration,
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
    ];

    #[test]
    fn a_status_says_whose_fault_it_is() {
        for refusal in ALL {
            let by_client = refusal.blame() == Blame::Client;
            assert_eq!(refusal.lost().is_none(), by_client, "{refusal:?}");
            let excused = refusal == Refusal::ConnectUnsupported;
            assert_eq!(
                refusal.status().is_client_error() || excused,
                by_client,
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn only_503_says_when_to_try_again() {
        for refusal in ALL {
            let response = refusal.response(7, true);
            let is_503 = response.status() == 503;
            assert_eq!(
                response.headers().contains_key(RETRY_AFTER),
                is_503,
                "{refusal:?}"
            );
            assert!(!response.headers().contains_key(CONNECTION));
        }
    }

    #[test]
    fn an_unread_body_closes_the_connection() {
        let response = Refusal::BodyTooLarge.response(1, false);
        assert_eq!(response.headers()[CONNECTION], "close");
    }
}
