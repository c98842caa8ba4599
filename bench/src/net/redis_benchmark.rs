//! `redis-benchmark` as the load: the one that everybody knows. Where the server is fast it is the
//! generator that saturates; then only the figures for a CPU second mean something.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::load::{Measured, Question};
use super::program::Program;
use crate::stats::number;
use crate::timing::now;

/// No run takes longer, or its server is gone.
const RUN_SECONDS_MAX: u32 = 60;

/// Runs it once.
///
/// # Errors
/// It is not installed, or fails.
pub(super) fn run(
    program: &Program,
    question: Question,
    connections: usize,
    pipeline: usize,
    requests: u64,
) -> Result<Measured> {
    let test = match question.name {
        "PING" => "ping_mbulk".to_owned(),
        name => name.to_lowercase(),
    };
    let (begin, cpu) = (now(), program.cpu_ns()?);
    // It spins for ever when its server goes away.
    let output = Command::new("timeout")
        .args(["-k", "1", &RUN_SECONDS_MAX.to_string(), "redis-benchmark"])
        .args(["-h", "127.0.0.1", "--csv", "-t", &test])
        .args(["-p", &program.address.port().to_string()])
        .args(["-c", &connections.to_string(), "-P", &pipeline.to_string()])
        .args(["-n", &requests.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("cannot start redis-benchmark; on Debian: apt-get install redis-tools")?;
    let cpu = number(program.cpu_ns()? - cpu) / 1e9;
    let wall = now().saturating_since(begin).as_secs_f64();
    ensure!(
        output.status.success(),
        "redis-benchmark: {}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let (rate, p99_ms) =
        figures(&text).with_context(|| format!("redis-benchmark says {text:?}"))?;
    ensure!(rate > 0.0 && wall > 0.0, "redis-benchmark measured nothing");
    Ok(Measured {
        requests_per_second: rate,
        requests_per_cpu_second: number(requests) / cpu.max(1e-9),
        p99_ms,
    })
}

/// Requests a second and the 99th percentile in ms: columns `rps` and `p99_latency_ms`.
fn figures(csv: &str) -> Option<(f64, f64)> {
    let mut lines = csv.lines().filter(|line| line.starts_with('"'));
    let cells = |line: &str| -> Vec<String> {
        let cells = line.split("\",\"");
        cells
            .map(|cell| cell.trim_matches('"').to_owned())
            .collect()
    };
    let (head, row) = (cells(lines.next()?), cells(lines.next()?));
    let value = |name: &str| {
        let place = head.iter().position(|cell| cell == name)?;
        row.get(place)?.parse::<f64>().ok()
    };
    Some((value("rps")?, value("p99_latency_ms")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_columns() {
        let csv = "WARNING: x\n\"test\",\"rps\",\"avg_latency_ms\",\"p99_latency_ms\"\n\
                   \"PING_MBULK\",\"1000.5\",\"0.1\",\"0.7\"\n";
        assert_eq!(figures(csv), Some((1000.5, 0.7)));
        assert_eq!(figures("\"test\"\n\"x\"\n"), None);
    }
}
