//! What a hub asks the system for before it acknowledges, as the system sees it.
//!
//! The tests of power loss replay writes and syncs; the hub makes one call of the two,
//! a write with the flag `RWF_DSYNC`. That the flag is there no replay can tell.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;

use common::sync::{PATIENCE, Server, wait_until};
use common::waystation;

/// The flag, as it stands in a trace.
const FLAG: &str = "RWF_DSYNC";

/// Publishers at a time, and entries of each.
const PUBLISHERS: usize = 4;
const EACH: usize = 12;

/// A system call that began, and ended, at these lines of a trace.
struct Call {
    name: String,
    text: String,
    begin: usize,
    end: usize,
}

impl Call {
    /// The file of a segment that it is about.
    fn segment(&self) -> Option<&str> {
        let (_, path) = self.text.split_once('<')?;
        let (path, _) = path.split_once('>')?;
        let ending = Path::new(path).extension();
        ending
            .is_some_and(|ending| ending == "segment")
            .then_some(path)
    }

    fn is_ok(&self) -> bool {
        // As `…)   = 512`, or `…) = -1 EIO (…)`.
        let result = self.text.rsplit_once(" = ").map(|(_, result)| result);
        result.is_some_and(|result| result.starts_with(|one: char| one.is_ascii_digit()))
    }

    fn is_write(&self) -> bool {
        self.name.starts_with("pwrite")
    }

    fn is_sync(&self) -> bool {
        self.name == "fdatasync" || self.name == "fsync"
    }
}

/// The calls of a trace of several threads, by the lines at which they end. One that
/// another thread's line comes between is told in two lines.
fn calls(trace: &str) -> Vec<Call> {
    let (mut open, mut all) = (BTreeMap::new(), Vec::new());
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, said)) = line.split_once(' ') else {
            continue;
        };
        let said = said.trim_start();
        let (begin, text) = if let Some(begun) = said.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (number, begun));
            continue;
        } else if said.starts_with("<... ") {
            let Some((begin, begun)) = open.remove(thread) else {
                continue;
            };
            let (_, rest) = said.split_once("resumed>").unwrap();
            (begin, format!("{begun}{rest}"))
        } else {
            (number, said.to_owned())
        };
        if let Some((name, _)) = text.split_once('(') {
            all.push(Call {
                name: name.to_owned(),
                begin,
                end: number,
                text,
            });
        }
    }
    all
}

/// Those of the acknowledged entries, by what they say and their sequence, that the
/// system was not asked to make durable before the answer began to be sent; and how
/// many writes had the flag.
fn late(trace: &str, acknowledged: &[(String, u64)]) -> (Vec<u64>, usize) {
    let calls = calls(trace);
    let is_durable = |write: &Call, by: usize| {
        if write.text.contains(FLAG) {
            return write.end < by;
        }
        calls.iter().any(|sync| {
            let is_behind = sync.begin > write.end && sync.end < by;
            sync.is_sync() && sync.is_ok() && is_behind && sync.segment() == write.segment()
        })
    };
    let mut late = Vec::new();
    for (said, seq) in acknowledged {
        let answer = format!("\\\"seq\\\":{seq}}}");
        let answer = calls.iter().find(|call| call.text.contains(&answer));
        let by = answer
            .unwrap_or_else(|| panic!("no answer has {seq}"))
            .begin;
        let mut writes = calls.iter().filter(|call| {
            call.is_write() && call.is_ok() && call.segment().is_some() && call.text.contains(said)
        });
        if !writes.any(|write| is_durable(write, by)) {
            late.push(*seq);
        }
    }
    let flagged = |call: &&Call| call.is_write() && call.is_ok() && call.text.contains(FLAG);
    (late, calls.iter().filter(flagged).count())
}

/// Publishes by HTTP: the entry's sequence.
fn publish(hub: &str, said: &str) -> u64 {
    let mut stream = TcpStream::connect(hub).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = said.len();
    let request = format!(
        "POST /v1/publish HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{said}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, seq) = answer.rsplit_once("\"seq\":").unwrap();
    seq.trim_end_matches('}').parse().unwrap()
}

/// Runs a hub under `strace`, and publishes: the trace, and what was acknowledged.
fn traced(strace: &Path, more: &[&str]) -> (String, Vec<(String, u64)>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    let dir = folder.path().join("hub");
    let hub = waystation(&[
        "sync",
        "hub",
        "--dir",
        dir.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ]);
    let mut command = Command::new(strace);
    // The hub is this process's child all the same, so that it is ended like others.
    command.args(["-D", "-f", "-y", "-s", "4096", "-e", "signal=none", "-o"]);
    let calls = "pwritev2,pwritev,pwrite64,fdatasync,fsync,write,writev,sendto,sendmsg";
    command.arg(&file).args(["-e", &format!("trace={calls}")]);
    command
        .args(more)
        .arg(hub.get_program())
        .args(hub.get_args());
    for (name, value) in hub.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let server = Server::begin_as(command).ready();
    let address = server.ready.clone();
    let publishers = (0..PUBLISHERS).map(|who| {
        let address = address.clone();
        thread::spawn(move || {
            let publish = |number| {
                let said = format!("entry {who}-{number};");
                let seq = publish(&address, &said);
                (said, seq)
            };
            (0..EACH).map(publish).collect::<Vec<_>>()
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let all = publishers.into_iter().flat_map(|one| one.join().unwrap());
    let all: Vec<_> = all.collect();
    let hub = server.id();
    assert_eq!(server.end("TERM"), Some(0));
    let mut trace = String::new();
    // The tracer ends behind the hub.
    wait_until("the trace is whole", || {
        trace = std::fs::read_to_string(&file).unwrap();
        let mut lines = trace.lines();
        lines.any(|line| line.starts_with(&hub.to_string()) && line.contains("+++ exited"))
    });
    (trace, all)
}

/// The story: a log asked for durability by a flag of the call that writes, and every
/// test of power loss replayed a write and a sync in its place. Without the flag all
/// of them would have passed.
#[test]
fn needs_strace_every_acknowledged_entry_was_asked_to_be_durable_before() {
    let Some(strace) = waystation_test_process::component::find("strace", "/usr/bin/strace") else {
        return;
    };
    let entries = PUBLISHERS * EACH;
    let (trace, acknowledged) = traced(&strace, &[]);
    assert_eq!(acknowledged.len(), entries);
    let (found, flagged) = late(&trace, &acknowledged);
    assert_eq!(found, Vec::<u64>::new());
    // A file system may not know it.
    if !trace.contains("EOPNOTSUPP") {
        assert!(flagged > 0, "no write had the flag");
        // The same calls without it: nothing was durable in time.
        let without = trace.replace(FLAG, "0");
        assert_eq!(late(&without, &acknowledged).0.len(), entries);
    }
    // A system that does not know the flag gets a sync behind each write.
    let refused = ["-e", "inject=pwritev2:error=EOPNOTSUPP"];
    let (trace, acknowledged) = traced(&strace, &refused);
    assert_eq!(late(&trace, &acknowledged), (Vec::new(), 0));
    let without = trace.replace(" fdatasync(", " getpid(");
    assert_eq!(late(&without, &acknowledged).0.len(), entries);
}
