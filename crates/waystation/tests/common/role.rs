//! Roles that are started by hand, and what they and a registry tell.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdout, Command};
use std::time::Duration;

use serde_json::Value;
use waystation_test_process::Watchdog;

use super::chat::{look_until, signal};
use super::{run, stderr, stdout, waystation};

/// A role that was started by hand, killed when it is dropped.
pub(crate) struct Role {
    pub(crate) child: process::Child,
    _watchdog: Watchdog,
    socket: PathBuf,
}

impl Role {
    pub(crate) fn start(dir: &Path, role: &str, index: &str, args: &[&str]) -> Self {
        let place = dir.to_str().unwrap();
        let all = [&["im", role, "--dir", place, "--index", index], args].concat();
        let child = waystation(&all).spawn().unwrap();
        Self {
            _watchdog: Watchdog::over(&child),
            child,
            socket: dir.join("run").join(format!("{role}-{index}.sock")),
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id().into(), name);
    }

    /// What it answers its admins, nothing while it does not.
    pub(crate) fn page(&self, path: &str) -> Option<String> {
        page(&self.socket, path)
    }

    /// A figure of its metrics, all shards together.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        metric(&self.socket, name)
    }

    /// Where it answers its admins.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until each of its shards uses so many nodes of a service, and knows
    /// of no others.
    pub(crate) fn until_uses(&self, service: &str, nodes: u32) {
        let of_service = format!("service=\"{service}\"");
        look_until("it uses the nodes", || {
            let mut all = samples(&self.socket, "waystation_im_nodes");
            all.retain(|labels, _| labels.contains(&of_service));
            let is_so = |(labels, count): (&String, &f64)| {
                let is_used = labels.contains("verdict=\"use\"");
                let wanted = if is_used { f64::from(nodes) } else { 0.0 };
                (count - wanted).abs() < 0.5
            };
            !all.is_empty() && all.iter().all(is_so)
        });
    }

    /// Waits until a figure of its metrics has grown by so much.
    pub(crate) fn until_grows(&self, name: &str, by: f64) {
        let wanted = self.metric(name) + by;
        look_until(name, || self.metric(name) >= wanted);
    }

    pub(crate) fn serves(&self) {
        look_until("it serves", || {
            self.page("/healthz")
                .is_some_and(|page| page.starts_with("HTTP/1.1 200 "))
        });
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The nodes that a registry lists, by id, each with its state.
pub(crate) fn nodes(registry: &str) -> Vec<(String, String)> {
    let output = run(&["node", "list", "--json", "--registry", registry]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        (text("id"), text("state"))
    })
    .collect()
}

pub(crate) fn ids(registry: &str) -> Vec<String> {
    nodes(registry).into_iter().map(|(id, _)| id).collect()
}

/// What whoever serves an admin socket answers, nothing while nobody does.
pub(crate) fn page(socket: &Path, path: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    // One that hangs is looked at again.
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A figure of the metrics there, all shards together; 0 while nobody answers.
pub(crate) fn metric(socket: &Path, name: &str) -> f64 {
    samples(socket, name).values().sum()
}

/// A figure of the metrics there by its labels; nothing while nobody answers.
pub(crate) fn samples(socket: &Path, name: &str) -> BTreeMap<String, f64> {
    let page = page(socket, "/metrics").unwrap_or_default();
    let sample = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_it = labels.is_empty() || labels.starts_with('{');
        Some((labels.to_owned(), is_it.then(|| value.parse().ok())??))
    };
    page.lines().filter_map(sample).collect()
}

/// Another process, killed when it is dropped.
pub(crate) struct Process {
    child: process::Child,
    _watchdog: Watchdog,
    out: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it; its output is piped.
    pub(crate) fn new(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self {
            _watchdog: Watchdog::over(&child),
            child,
            out,
        }
    }

    /// Its next line of output.
    pub(crate) fn first_line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
