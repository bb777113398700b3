//! The status as OpenMetrics text, for Prometheus.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

use super::{EngineStatus, State};

type Labels = Vec<(&'static str, String)>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// Renders the metrics. Counters are given as gauges, since they are copied from the status and not
/// counted here; their names end in `_total` all the same.
pub(super) fn render(status: &EngineStatus) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("twinlog");
    let mut add = |name: &str, help: &str, values: Vec<(Labels, f64)>| {
        let family = Family::<Labels, FloatGauge>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        registry.register(name, help, family);
    };
    let links = |value: &dyn Fn(&super::LinkStatus) -> f64| -> Vec<(Labels, f64)> {
        status
            .links
            .iter()
            .map(|link| {
                (
                    vec![
                        ("origin", link.origin.clone()),
                        ("target", link.target.clone()),
                    ],
                    value(link),
                )
            })
            .collect()
    };
    let node = || vec![("node", status.node.clone())];
    add(
        "window_keys",
        "Keys written locally that the peer has not yet been seen to have",
        vec![(node(), status.tailer.window_keys as f64)],
    );
    add(
        "tailer_halted",
        "1 when the tailer of the node's own log needs a person",
        vec![(node(), f64::from(status.tailer.state == State::Halted))],
    );
    add(
        "tailer_running",
        "1 while the node's own log is read",
        vec![(node(), f64::from(status.tailer.state.is_well()))],
    );
    add(
        "uptime_seconds",
        "Seconds since the engine started",
        vec![(node(), status.uptime_seconds as f64)],
    );
    for (name, help, value) in [
        (
            "memory_resident_bytes",
            "Memory of the process",
            status.memory.resident_bytes,
        ),
        (
            "memory_peak_bytes",
            "Most that the process ever had",
            status.memory.peak_bytes,
        ),
        (
            "memory_limit_bytes",
            "What it is to stay under",
            status.memory.limit_bytes,
        ),
    ] {
        add(name, help, vec![(node(), value as f64)]);
    }
    add(
        "link_halted",
        "1 when the link needs a person",
        links(&|link| f64::from(link.state == State::Halted)),
    );
    add(
        "link_running",
        "1 while the link reads and applies",
        links(&|link| f64::from(link.state.is_well())),
    );
    add(
        "lag_seconds",
        "Age of the oldest transaction that is not applied, 0 when the link is not behind",
        links(&|link| link.lag_seconds),
    );
    add(
        "lag_transactions",
        "Transactions received and not yet applied",
        links(&|link| link.lag_transactions as f64),
    );
    add(
        "source_crashed",
        "Whether the origin's server crashed since the engine's start and may have lost what its log has",
        links(&|link| f64::from(u8::from(link.source_crash.is_some()))),
    );
    let asked = |value: fn(&super::LinkStatus) -> Option<u64>| -> Vec<(Labels, f64)> {
        let all = status.links.iter();
        let known = all.filter_map(|link| {
            let labels = vec![
                ("origin", link.origin.clone()),
                ("target", link.target.clone()),
            ];
            Some((labels, value(link)? as f64))
        });
        known.collect()
    };
    add(
        "xa_prepared",
        "XA transactions that are prepared at the origin and not decided",
        asked(|link| link.xa_prepared),
    );
    add(
        "xa_oldest_seconds",
        "For how long the oldest of them has been seen",
        asked(|link| link.xa_oldest_seconds),
    );
    for (name, help, value) in [
        (
            "applied_transactions_total",
            "Origin transactions applied",
            (|link| link.applied_transactions) as fn(&super::LinkStatus) -> u64,
        ),
        ("applied_rows_total", "Row changes applied", |link| {
            link.applied_rows
        }),
        ("commits_total", "Commits at the target", |link| {
            link.commits
        }),
        (
            "huge_transactions_total",
            "Transactions applied from disk, since they did not fit into memory",
            |link| link.huge_transactions,
        ),
        ("ddl_statements_total", "DDL statements run", |link| {
            link.ddl_statements
        }),
        (
            "loops_prevented_total",
            "Transactions of an engine that were not sent back",
            |link| link.loops_prevented,
        ),
        (
            "returned_total",
            "Changes that came back by another way than an engine",
            |link| link.returned,
        ),
        ("left_out_total", "Transactions left out by rule", |link| {
            link.left_out
        }),
        (
            "auto_increment_strays_total",
            "AUTO_INCREMENT values outside their origin's class",
            |link| link.auto_increment_strays,
        ),
        ("retries_total", "Attempts repeated", |link| link.retries),
    ] {
        add(name, help, links(&|link| value(link) as f64));
    }
    let conflicts = status.links.iter().flat_map(|link| {
        link.conflicts.iter().map(|conflict| {
            let labels = vec![
                ("origin", link.origin.clone()),
                ("target", link.target.clone()),
                ("kind", conflict.kind.clone()),
                ("winner", conflict.winner.clone()),
            ];
            (labels, conflict.count as f64)
        })
    });
    add(
        "conflicts_total",
        "Conflicts settled, and drift repaired",
        conflicts.collect(),
    );
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
