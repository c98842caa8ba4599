//! Asks a process's admin socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::event::{PATIENCE, eventually};

/// What the admin side answered.
#[derive(Debug, Clone)]
pub struct AdminAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Asks for a path.
///
/// # Panics
/// When there is no answer.
#[track_caller]
pub fn admin(socket: &Path, path: &str) -> AdminAnswer {
    let mut stream = UnixStream::connect(socket).expect("the admin side listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .expect("the admin side reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the admin side answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    AdminAnswer {
        status: status.expect("a status"),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// The sum of a metric over all shards.
///
/// # Panics
/// When it is missing.
#[track_caller]
pub fn metric(socket: &Path, name: &str) -> u64 {
    let page = admin(socket, "/metrics").body;
    let samples = page.lines().filter_map(|line| {
        let (sample, value) = line.rsplit_once(' ')?;
        let is_it = sample.split('{').next() == Some(name) && !line.starts_with('#');
        is_it.then(|| value.parse::<u64>().expect("a whole number"))
    });
    let samples: Vec<u64> = samples.collect();
    assert!(!samples.is_empty(), "no metric {name}");
    samples.iter().sum()
}

/// Waits until a metric has a value.
///
/// # Panics
/// When it never has.
#[track_caller]
pub fn wait_for_metric(socket: &Path, name: &str, value: u64) {
    eventually(|| (metric(socket, name) == value).then_some(()));
}
