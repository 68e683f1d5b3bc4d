//! `/metrics`, in the OpenMetrics text format that Prometheus reads. No label comes from a request.
//! gapless(1) names every one of them; `tests/metrics.rs` compares.

mod families;

use super::supervisor::Keeper;
use crate::link::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// Durations are counted in microseconds, and told in seconds.
const MICROS: f64 = 1e6;

type Labels = Vec<(&'static str, String)>;

/// A value with labels, measured at the time of the scrape.
type Row<T> = (Labels, T);

/// All that one name stands for.
#[derive(Debug)]
enum Values {
    Counter(Vec<Row<u64>>),
    /// A counter with a fraction.
    Time(Vec<Row<f64>>),
    Gauge(Vec<Row<f64>>),
    Info(Labels),
    Histogram(Histogram, &'static [f64]),
}

/// One metric, without `gapless_` and the suffix of its type.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    values: Values,
}

#[derive(Debug)]
struct Picture(Vec<Family>);

impl Keeper {
    /// Answer to `GET /metrics`.
    pub(super) fn metrics(&self) -> String {
        let mut registry = Registry::with_prefix("gapless");
        registry.register_collector(Box::new(Picture(self.families())));
        let mut out = String::new();
        if text::encode(&mut out, &registry).is_err() {
            tracing::error!("metrics could not be encoded");
        }
        out
    }
}

impl Collector for Picture {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for Family { name, help, values } in &self.0 {
            values.encode(encoder.encode_descriptor(name, help, None, values.metric_type())?)?;
        }
        Ok(())
    }
}

impl Values {
    fn metric_type(&self) -> MetricType {
        match self {
            Self::Counter(_) | Self::Time(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
            Self::Info(_) => MetricType::Info,
            Self::Histogram(..) => MetricType::Histogram,
        }
    }

    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        match self {
            Self::Counter(rows) => {
                for (labels, value) in rows {
                    ConstCounter::new(*value).encode(encoder.encode_family(labels)?)?;
                }
            }
            Self::Time(rows) => {
                for (labels, value) in rows {
                    ConstCounter::new(*value).encode(encoder.encode_family(labels)?)?;
                }
            }
            Self::Gauge(rows) => {
                for (labels, value) in rows {
                    ConstGauge::new(*value).encode(encoder.encode_family(labels)?)?;
                }
            }
            Self::Info(labels) => encoder.encode_info(labels)?,
            Self::Histogram(histogram, bounds) => {
                // The format demands a bucket +Inf, which holds all.
                let bounds = bounds.iter().copied().chain([f64::INFINITY]);
                let counts = histogram.counts.iter().copied().chain(std::iter::repeat(0));
                let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
                let total = buckets.iter().map(|(_, count)| count).sum();
                let sum = number(histogram.micros) / MICROS;
                encoder.encode_histogram::<NoLabelSet>(sum, total, &buckets, None)?;
            }
        }
        Ok(())
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
