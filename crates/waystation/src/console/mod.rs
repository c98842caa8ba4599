//! The console of `up`: health, metrics, contexts and the status page on one
//! port.
//!
//! It only reads: nothing here changes a process. What it shows of the roles it
//! asks of them at that moment, all at once and each with a deadline.

mod copies;
mod gather;
mod metrics;
mod openmetrics;
mod page;
mod registries;
mod routes;
mod serve;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use waystation_base::Clock;

pub(crate) use gather::Endpoint;
pub(crate) use gather::{Answer, ask_all, merge_arrays};
pub(crate) use page::text_of;
pub(crate) use serve::serve;

use crate::clock::Uptime;
use crate::supervise::Snapshot;

/// What every request can see.
#[derive(Debug)]
pub(crate) struct Console {
    /// The processes, as the supervisor last published them.
    pub(crate) snapshots: watch::Receiver<Snapshot>,
    /// Where the roles answer.
    pub(crate) endpoints: Vec<Endpoint>,
    /// How long a role may take.
    pub(crate) scrape_timeout: Duration,
    /// The page of the chat, when it runs.
    pub(crate) chat_url: Option<String>,
    /// The clock of the snapshots.
    pub(crate) clock: Uptime,
    /// What the console counts of itself.
    pub(crate) counters: Counters,
}

/// What the console counts of itself. One thread writes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    connections: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    accept_failures: AtomicU64,
    requests: AtomicU64,
    rejected_lines: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// One process as `/api/v1/processes` and the page show it.
#[derive(Debug, serde::Serialize)]
struct ProcessRow {
    role: String,
    pid: Option<u32>,
    state: &'static str,
    reason: Option<String>,
    uptime_s: Option<f64>,
    restarts: u64,
    last_exit: Option<String>,
    connections: Option<u64>,
    requests_in_flight: Option<u64>,
}

/// The samples that give a process's two figures on the page, summed over its
/// shards.
const CONNECTIONS: &str = "waystation_net_connections_open";
const REQUESTS_IN_FLIGHT: &str = "waystation_requests_in_flight";

impl Console {
    /// Shares it between requests.
    pub(crate) fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }

    async fn ask<'a>(&'a self, path: &str) -> Vec<Answer<'a>> {
        ask_all(&self.endpoints, path, self.scrape_timeout).await
    }

    async fn process_rows(&self) -> Vec<ProcessRow> {
        self.rows_of(&self.ask("/metrics").await)
    }

    fn rows_of(&self, answers: &[Answer<'_>]) -> Vec<ProcessRow> {
        let now = self.clock.now();
        let snapshot = self.snapshots.borrow();
        let row = |process: &crate::supervise::ProcessView| {
            let text = answers
                .iter()
                .find(|answer| answer.role == process.role)
                .and_then(|answer| std::str::from_utf8(answer.body.as_ref().ok()?).ok());
            let exposition = openmetrics::Exposition::parse(text.unwrap_or_default());
            ProcessRow {
                role: process.role.clone(),
                pid: process.pid,
                state: process.state,
                reason: process.reason.clone(),
                uptime_s: process
                    .started_at
                    .map(|at| now.saturating_since(at).as_secs_f64()),
                restarts: process.restarts,
                last_exit: process.last_exit.clone(),
                connections: exposition.sum(CONNECTIONS).map(whole),
                requests_in_flight: exposition.sum(REQUESTS_IN_FLIGHT).map(whole),
            }
        };
        snapshot.processes.iter().map(row).collect()
    }
}

/// A figure of a role as a whole number; nonsense becomes zero.
fn whole(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and NaN becomes zero"
    )]
    let whole = value.round() as u64;
    whole
}

#[cfg(test)]
mod tests;
