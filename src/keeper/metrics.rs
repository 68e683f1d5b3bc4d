//! `/metrics`, in the OpenMetrics text format that Prometheus reads. No label comes from a request.

use super::supervisor::Keeper;
use super::{status, usage};
use crate::link::message::DURATION_BOUNDS;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// Upper bounds count as microseconds in the sum.
const MICROS: f64 = 1e6;

/// A value with labels, measured at the time of the scrape.
type Row<T> = (Vec<(&'static str, String)>, T);

#[derive(Debug, Default)]
struct Picture {
    counters: Vec<(&'static str, &'static str, Vec<Row<u64>>)>,
    gauges: Vec<(&'static str, &'static str, Vec<Row<f64>>)>,
    durations: Vec<u64>,
    duration_sum: f64,
}

impl Keeper {
    /// Answer to `GET /metrics`.
    pub(super) fn metrics(&self) -> String {
        let mut registry = Registry::with_prefix("gapless");
        registry.register_collector(Box::new(self.picture()));
        let mut out = String::new();
        if text::encode(&mut out, &registry).is_err() {
            tracing::error!("metrics could not be encoded");
        }
        out
    }

    fn picture(&self) -> Picture {
        let totals = self.fronts.counters();
        let counters = &totals.counters;
        let causes = |map: &std::collections::BTreeMap<String, u64>| -> Vec<Row<u64>> {
            map.iter()
                .map(|(cause, count)| (vec![("cause", cause.clone())], *count))
                .collect()
        };
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let by_class = classes
            .into_iter()
            .zip(counters.responses)
            .map(|(class, count)| (vec![("class", class.to_owned())], count));
        let one = |value| vec![(Vec::new(), value)];
        Picture {
            counters: vec![
                (
                    "requests",
                    "Finished requests by status class",
                    by_class.collect(),
                ),
                (
                    "requests_lost",
                    "Requests lost by gapless or the app, by cause",
                    causes(&counters.lost),
                ),
                (
                    "refusals",
                    "Responses that gapless wrote itself, by cause",
                    causes(&counters.refusals),
                ),
                (
                    "connections_refused",
                    "Connections closed before a request, to protect the others, by cause",
                    causes(&counters.connections_refused),
                ),
                (
                    "requests_held",
                    "Requests that had to wait for a live generation",
                    one(counters.held),
                ),
                (
                    "retries",
                    "Requests sent a second time",
                    one(counters.retries),
                ),
                (
                    "tunnels_ended",
                    "Tunnels told to end because their generation or front had to go",
                    one(counters.tunnels_ended),
                ),
                (
                    "access_log_dropped",
                    "Entries of the access log that nobody took in time",
                    one(counters.access_dropped),
                ),
                (
                    "connections_accepted",
                    "Client connections accepted",
                    one(counters.connections_accepted),
                ),
                (
                    "connections_inherited",
                    "Client connections taken over from an older front",
                    one(counters.connections_inherited),
                ),
                (
                    "worker_respawns",
                    "Workers started again after their death",
                    one(totals.respawns),
                ),
                (
                    "front_deaths",
                    "Fronts that ended though they were wanted",
                    one(totals.front_deaths),
                ),
                ("swaps", "Generations that went live", one(totals.swaps)),
                (
                    "failed_starts",
                    "Generations that did not",
                    one(totals.failed_starts),
                ),
            ],
            gauges: self.gauges(),
            durations: counters.duration_counts.clone(),
            #[expect(
                clippy::as_conversions,
                clippy::cast_precision_loss,
                reason = "the format has floats"
            )]
            duration_sum: counters.duration_micros as f64 / MICROS,
        }
    }

    fn gauges(&self) -> Vec<(&'static str, &'static str, Vec<Row<f64>>)> {
        let fronts = self.fronts.status();
        let sum = |of: fn(&crate::api::FrontStatus) -> u64| -> Vec<Row<f64>> {
            vec![(Vec::new(), number(fronts.iter().map(of).sum()))]
        };
        let states = [
            "waiting", "starting", "settling", "settled", "live", "draining", "stopping",
        ];
        let by_state = states.into_iter().map(|state| {
            let count = self
                .plan
                .generations()
                .filter(|g| status::phase_word(g.phase) == state)
                .count();
            (
                vec![("state", state.to_owned())],
                number(u64::try_from(count).unwrap_or(u64::MAX)),
            )
        });
        let (mut memory, mut cpu, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for (labels, pid) in self.processes() {
            if let Some(usage) = usage::of(pid) {
                memory.push((labels.clone(), number(usage.memory_bytes)));
                cpu.push((labels.clone(), usage.cpu.as_secs_f64()));
                threads.push((labels, number(usage.threads)));
            }
        }
        let is_degraded = if self.plan.is_degraded() { 1.0 } else { 0.0 };
        vec![
            (
                "degraded",
                "Whether the restart budget is spent, so that tries grow rare",
                vec![(Vec::new(), is_degraded)],
            ),
            (
                "connections",
                "Open client connections",
                sum(|front| front.connections),
            ),
            (
                "tunnels",
                "Open client connections that switched protocols",
                sum(|front| front.tunnels),
            ),
            (
                "requests_in_flight",
                "Requests in flight",
                sum(|front| front.in_flight),
            ),
            (
                "requests_waiting",
                "Requests waiting for a live generation",
                sum(|front| front.held),
            ),
            ("generations", "Generations by state", by_state.collect()),
            ("process_memory_bytes", "Resident memory", memory),
            ("process_cpu_seconds", "CPU time used since its start", cpu),
            ("process_threads", "Threads", threads),
        ]
    }

    fn processes(&self) -> Vec<(Vec<(&'static str, String)>, u32)> {
        let keeper = (vec![("process", "keeper".to_owned())], std::process::id());
        let workers = self.crews.iter().flat_map(|(id, crew)| {
            crew.pids_by_slot().map(move |(slot, pid)| {
                let labels = vec![
                    ("process", "worker".to_owned()),
                    ("generation", id.0.to_string()),
                    ("worker", slot.0.to_string()),
                ];
                (labels, pid)
            })
        });
        std::iter::once(keeper).chain(workers).collect()
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "the format has floats"
)]
fn number(value: u64) -> f64 {
    value as f64
}

impl prometheus_client::collector::Collector for Picture {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for (name, help, rows) in &self.counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, value) in rows {
                ConstCounter::new(*value).encode(family.encode_family(labels)?)?;
            }
        }
        for (name, help, rows) in &self.gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in rows {
                ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
            }
        }
        let help = "Time from the whole request head to the end of the response";
        let seconds = Some(&Unit::Seconds);
        let family =
            encoder.encode_descriptor("request_duration", help, seconds, MetricType::Histogram)?;
        self.encode_durations(family)
    }
}

impl Picture {
    fn encode_durations(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let bounds = DURATION_BOUNDS.into_iter().chain([f64::MAX]);
        let counts = self.durations.iter().copied().chain(std::iter::repeat(0));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let total = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.duration_sum, total, &buckets, None)
    }
}
