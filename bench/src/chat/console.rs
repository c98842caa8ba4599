//! Reads the console of `waystation up`: its processes and metrics.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// Time for a connection, a write, and each read. The console itself waits for its roles for a
/// second.
const WAIT: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// One process of the system.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Process {
    /// Role and number, such as `logic-2`.
    pub(super) role: String,
    /// Its id; none while it does not run.
    pub(super) pid: Option<u32>,
    /// How often it was started again.
    pub(super) restarts: u64,
}

/// The processes of the system, apart from the supervisor.
///
/// # Errors
/// The console does not answer, or with something else.
pub(super) fn processes(console: SocketAddr) -> Result<Vec<Process>> {
    let body = get(console, "/api/v1/processes")?;
    serde_json::from_str(&body).with_context(|| format!("not a list of processes: {body}"))
}

/// The present values of one metric: for each process its role and number, and the sum over its
/// shards.
///
/// # Errors
/// The console does not answer.
pub(super) fn metric(console: SocketAddr, name: &str) -> Result<BTreeMap<String, f64>> {
    Ok(samples(&get(console, "/metrics")?, name))
}

fn get(console: SocketAddr, path: &str) -> Result<String> {
    let answer = exchange(console, path).with_context(|| format!("http://{console}{path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1) == Some("200"),
        "http://{console}{path}: {status}"
    );
    Ok(body.to_owned())
}

/// By HTTP/1.0, so that the end of the connection is the end of the answer.
fn exchange(console: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&console, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {console}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The samples `name{role="ROLE",…} VALUE` of an `OpenMetrics` page.
fn samples(page: &str, name: &str) -> BTreeMap<String, f64> {
    let found = page.lines().filter_map(|line| {
        let (labels, value) = line
            .strip_prefix(name)?
            .strip_prefix('{')?
            .rsplit_once("} ")?;
        let role = labels
            .split(',')
            .find_map(|label| label.strip_prefix("role="))?;
        let value: f64 = value.split(' ').next()?.parse().ok()?;
        Some((role.trim_matches('"').to_owned(), value))
    });
    let mut sums = BTreeMap::new();
    for (role, value) in found.filter(|(_, value)| value.is_finite()) {
        *sums.entry(role).or_insert(0.0) += value;
    }
    sums
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn samples_are_read_by_role_and_summed_over_shards() {
        let page = "\
            # TYPE x gauge\n\
            x{role=\"entry-1\",shard=\"0\"} 0.5\n\
            x{shard=\"1\",role=\"entry-1\"} 1.5 1700000000\n\
            x{role=\"das-1\",shard=\"0\"} NaN\n\
            x_total{role=\"das-1\",shard=\"0\"} 7\n\
            x{role=\"logic-2\",shard=\"0\"} 2e-4\n\
            # EOF\n";
        let expected = [("entry-1".to_owned(), 2.0), ("logic-2".to_owned(), 2e-4)];
        assert_eq!(samples(page, "x"), BTreeMap::from(expected));
        assert_eq!(samples(page, "y"), BTreeMap::new());
    }

    /// Answers one request with `answer`.
    fn served(answer: &'static str) -> Result<Vec<Process>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            // A request left unread would turn the close into a reset.
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        });
        let result = processes(at);
        server.join().unwrap();
        result
    }

    #[test]
    fn processes_are_read_and_anything_else_is_refused() {
        let good = "HTTP/1.0 200 OK\r\n\r\n\
                    [{\"role\":\"das-1\",\"pid\":7,\"restarts\":0,\"state\":\"serving\"},\
                     {\"role\":\"entry-1\",\"pid\":null,\"restarts\":2}]";
        let process = |role: &str, pid, restarts| Process {
            role: role.to_owned(),
            pid,
            restarts,
        };
        let expected = [process("das-1", Some(7), 0), process("entry-1", None, 2)];
        assert_eq!(served(good).unwrap(), expected);
        for bad in ["HTTP/1.0 503 No\r\n\r\n[]", "HTTP/1.0 200 OK\r\n\r\n{", ""] {
            assert!(served(bad).is_err(), "{bad}");
        }
    }
}
