//! `[http]`, as meant.

use super::{DAY, HOUR, MINUTE, Meaning, SECOND, WEEK};
use crate::config::quantity::AsDuration;
use crate::config::written::{HttpWritten, Maybe};
use crate::config::{HttpConfig, ProxyProtocol};
use ipnet::IpNet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

impl Meaning<'_> {
    pub(super) fn http(&mut self, http: HttpWritten) -> HttpConfig {
        let default = HttpConfig::default();
        let head_bytes_max = u64::try_from(default.head_bytes_max).unwrap_or(u64::MAX);
        let head_bytes_max = self.size(http.head_bytes_max, 8 << 10..=1 << 20, head_bytes_max);
        let headers_max = self.number(http.headers_max, 10..=10_000, 100);
        let lanes = self.optional(http.lanes, &(1..=256), |lanes| lanes);
        let lanes = lanes
            .and_then(|lanes| u32::try_from(lanes).ok())
            .and_then(NonZeroU32::new);
        let trusted_proxies = self.networks(http.trusted_proxies);
        HttpConfig {
            lanes,
            hold: self.duration(http.hold, Duration::ZERO..=10 * MINUTE, default.hold),
            held_max: self.number(http.held_max, 0..=1_000_000, default.held_max),
            connections_max: self.number(
                http.connections_max,
                1..=1_000_000,
                default.connections_max,
            ),
            connections_per_address_max: self
                .optional(http.connections_per_address_max, &(1..=1_000_000), |max| {
                    max
                })
                .and_then(|max| u32::try_from(max).ok())
                .and_then(NonZeroU32::new),
            head_timeout: self.duration(http.head_timeout, SECOND..=HOUR, default.head_timeout),
            body_timeout: self.duration(http.body_timeout, SECOND..=HOUR, default.body_timeout),
            write_timeout: self.duration(http.write_timeout, SECOND..=HOUR, default.write_timeout),
            rate_min: self.size(http.rate_min, 0..=1 << 20, default.rate_min),
            idle_timeout: self.duration(http.idle_timeout, SECOND..=DAY, default.idle_timeout),
            response_timeout: self.duration(
                http.response_timeout,
                SECOND..=DAY,
                default.response_timeout,
            ),
            tunnels: self.duration(http.tunnels, Duration::ZERO..=DAY, default.tunnels),
            connect: http.connect.map_or(default.connect, |it| it.value),
            odd_field_names: http
                .odd_field_names
                .map_or(default.odd_field_names, |it| it.value),
            forwarded: http.forwarded.map_or(default.forwarded, |it| it.value),
            upgrade_drain: self.optional(http.upgrade_drain, &(SECOND..=WEEK), AsDuration),
            head_bytes_max: usize::try_from(head_bytes_max).unwrap_or(default.head_bytes_max),
            headers_max: usize::try_from(headers_max).unwrap_or(default.headers_max),
            buffer_requests: self.size(http.buffer_requests, 0..=1 << 30, default.buffer_requests),
            buffer_responses: self.size(
                http.buffer_responses,
                0..=1 << 30,
                default.buffer_responses,
            ),
            body_bytes_max: self.size(http.body_bytes_max, 0..=1 << 40, default.body_bytes_max),
            proxy_protocol: self.proxy_protocol(http.proxy_protocol, &trusted_proxies),
            trusted_proxies,
            retry_after_seconds: self.whole_seconds(http.retry_after, default.retry_after_seconds),
        }
    }

    /// Networks, and addresses, which are networks of one.
    fn networks(&mut self, written: Maybe<Vec<String>>) -> Vec<IpNet> {
        let Some(placed) = written else {
            return Vec::new();
        };
        let mut networks = Vec::new();
        for text in &placed.value {
            let address = text.parse::<IpAddr>().map(IpNet::from);
            if let Ok(network) = text.parse::<IpNet>().or(address) {
                networks.push(network);
                continue;
            }
            let message = format!("{}: {text:?} is no address or network", placed.key);
            let remedy = "write addresses or networks, no names: trusted_proxies = \
                          [\"127.0.0.1\", \"10.0.0.0/8\", \"fd00::/8\"]";
            self.report(&placed, message, None, remedy.to_owned());
        }
        networks
    }

    /// A PROXY header is believed from whom we trust; with nobody to trust, nobody could connect.
    fn proxy_protocol(&mut self, written: Maybe<String>, trusted: &[IpNet]) -> ProxyProtocol {
        let Some(placed) = written else {
            return ProxyProtocol::Off;
        };
        match placed.value.as_str() {
            "off" => ProxyProtocol::Off,
            "require" if trusted.is_empty() => {
                let message = format!("{} = \"require\" without trusted_proxies", placed.key);
                let hint = Some("who may send PROXY headers?".to_owned());
                let remedy = "name the load balancers: trusted_proxies = [\"10.0.0.5\"]; over a unix \
                              socket any header is taken, and \"127.0.0.1\" is as good as any";
                self.report(&placed, message, hint, remedy.to_owned());
                ProxyProtocol::Require
            }
            "require" => ProxyProtocol::Require,
            other => {
                let message = format!("{} = {other:?} is none of its choices", placed.key);
                let remedy = "write \"off\" (connections begin with HTTP) or \"require\" (each begins \
                              with a PROXY header of a trusted proxy)";
                self.report(&placed, message, None, remedy.to_owned());
                ProxyProtocol::Off
            }
        }
    }

    /// Retry-After has no fractions: RFC 9110, section 10.2.3.
    fn whole_seconds(&mut self, written: Maybe<Duration>, default: u32) -> u32 {
        let whole = written.filter(|placed| {
            let is_whole = placed.value.subsec_nanos() == 0;
            if !is_whole {
                let message = format!("{} is not in whole seconds", placed.key);
                let remedy = "HTTP has no parts of a second here: retry_after = \"1s\"".to_owned();
                self.report(placed, message, None, remedy);
            }
            is_whole
        });
        let default_duration = Duration::from_secs(u64::from(default));
        let seconds = self
            .duration(whole, SECOND..=HOUR, default_duration)
            .as_secs();
        u32::try_from(seconds).unwrap_or(default)
    }
}
