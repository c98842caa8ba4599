//! Agents of Lars that report at a steady rate.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use waystation_base::Moment;
use waystation_wire::lars::{HostCallResult, Message, ReportStatusRequest};

use crate::timing;

/// What is told.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Results a second.
    pub(crate) rate: u32,
    /// Agents.
    pub(crate) connections: u32,
    /// Services of each.
    pub(crate) services: u32,
    /// Hosts of each service.
    pub(crate) hosts: u32,
    /// How long.
    pub(crate) seconds: u32,
}

impl Plan {
    /// Keys in all.
    pub(crate) fn keys(&self) -> u64 {
        u64::from(self.connections) * u64::from(self.services) * u64::from(self.hosts)
    }

    /// The pause between two turns of one agent, in which it tells of each host once.
    fn period(&self) -> Duration {
        Duration::from_secs_f64(crate::stats::number(self.keys()) / f64::from(self.rate))
    }
}

/// What was told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) results: u64,
    /// The sum over all keys of the last totals.
    pub(crate) last_totals: u64,
    /// How late the latest turn was.
    pub(crate) late_ms: u64,
}

/// Tells for as long as the plan says, agent by agent, each at its place in the period.
///
/// # Errors
/// A connection fails.
pub(crate) fn run(plan: &Plan, address: SocketAddr, began: Moment) -> Result<Sent> {
    let mut streams = Vec::new();
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(address).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(super::WAIT))?;
        streams.push(stream);
    }
    let end = began + Duration::from_secs(plan.seconds.into());
    let slot = plan.period() / plan.connections;
    let mut due = timing::now();
    let (mut sent, mut bytes) = (Sent::default(), Vec::new());
    let mut last = vec![0; streams.len()];
    while due < end {
        for (agent, stream) in (0..).zip(&mut streams) {
            let now = timing::now();
            if now < due {
                std::thread::park_timeout(due.saturating_since(now));
            }
            let now = timing::now();
            let late = now.saturating_since(due).as_millis();
            sent.late_ms = sent.late_ms.max(u64::try_from(late).unwrap_or(u64::MAX));
            let total = u32::try_from(now.saturating_since(began).as_millis()).unwrap_or(u32::MAX);
            bytes.clear();
            for service in 0..plan.services {
                let message = message(plan, agent, service, total);
                message.encode_into(&mut bytes)?;
            }
            stream
                .write_all(&bytes)
                .context("the report server does not read")?;
            last[agent as usize] = u64::from(total);
            sent.results += u64::from(plan.services) * u64::from(plan.hosts);
            due += slot;
        }
    }
    let each = u64::from(plan.services) * u64::from(plan.hosts);
    sent.last_totals = last.iter().map(|total| total * each).sum();
    Ok(sent)
}

fn message(plan: &Plan, agent: u32, service: u32, total: u32) -> Message {
    let number = |value: u32| value.cast_signed();
    let results = (0..plan.hosts).map(|host| HostCallResult {
        ip: number(0xc0a8_0000 | (service << 8) | host),
        port: 7000,
        succ: total,
        err: 0,
        overload: false,
    });
    Message::ReportStatusRequest(ReportStatusRequest {
        modid: 1,
        cmdid: number(service),
        caller: number(0x0a00_0000 | agent),
        results: results.collect(),
        ts: 1_700_000_000,
    })
}
