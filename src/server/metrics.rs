//! Metrics in Prometheus' text format, at `GET /metrics`. Names and labels are part of the interface
//! (docs/OPERATIONS.md).

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    operation: &'static str,
    code: &'static str,
}

/// What the server counts.
pub struct Metrics {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    seconds: Histogram,
    /// Connections that are open.
    pub connections: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("kmsfs");
        let requests = Family::<Outcome, Counter>::default();
        registry.register("requests", "Requests by operation and by error code, ok without one", requests.clone());
        // From 0.1 ms to 3 s.
        let seconds = Histogram::new(exponential_buckets(0.0001, 2.0, 16));
        let help = "Time from a request's last byte to its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, seconds.clone());
        let connections = Gauge::default();
        registry.register("connections", "Connections that are open", connections.clone());
        Self { registry, requests, seconds, connections }
    }

    /// Counts a request.
    pub fn request(&self, operation: &'static str, code: &'static str, took: Duration) {
        self.requests.get_or_create(&Outcome { operation, code }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// All of them.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry).map(|()| text)
    }
}
