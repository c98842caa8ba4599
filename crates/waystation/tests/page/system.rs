//! A chat on private ports, whose processes can be killed.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::Up;

/// Looks at the processes until a killed one serves again, and between them.
const LOOKS: u32 = 600;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Time for an answer over HTTP.
const ANSWER: Duration = Duration::from_secs(30);

/// `waystation up` with the chat.
pub(crate) struct System {
    entry: String,
    console: String,
    _up: Up,
    _dir: TempDir,
}

impl System {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free until a moment ago; should another take it first, `up` says so.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let entry = free.local_addr().unwrap().to_string();
        drop(free);
        let place = dir.path().to_str().unwrap();
        let mut up = Up::start(&[
            "--dir",
            place,
            "--entry",
            &entry,
            "--console",
            "127.0.0.1:0",
        ]);
        let console = up.ready();
        Self {
            entry,
            console,
            _up: up,
            _dir: dir,
        }
    }

    /// The address of the chat page, with what follows its `?`.
    pub(crate) fn page(&self, query: &str) -> String {
        format!("http://{}/?{query}", self.entry)
    }

    /// Sends a message over HTTP, as somebody who has no page.
    pub(crate) fn post(&self, uid: &str, to: &str, body: &str) {
        let id = format!("{uid} {body}");
        let message = json!({ "uid": uid, "to": to, "clientId": id, "body": body }).to_string();
        let length = message.len();
        let head = format!("POST /im.Entry/Send HTTP/1.1\r\ncontent-length: {length}");
        let answer = exchange(&self.entry, &head, &message);
        assert_eq!(answer["duplicate"], Value::Null, "{answer}");
        assert_ne!(answer["seq"], Value::Null, "{answer}");
    }

    /// Kills a role with SIGKILL; returns its process id for [`Self::await_successor`].
    pub(crate) fn kill(&self, role: &str) -> u64 {
        let pid = self.serving()[role];
        let status = Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        pid
    }

    /// Waits until another process than `killed` serves as `role`.
    #[allow(
        clippy::disallowed_methods,
        reason = "paces the looks at another process"
    )]
    pub(crate) fn await_successor(&self, role: &str, killed: u64) {
        for _ in 0..LOOKS {
            if self.serving().get(role).is_some_and(|pid| *pid != killed) {
                return;
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        panic!("nothing took the place of {role}");
    }

    /// The process ids of the roles that serve.
    fn serving(&self) -> HashMap<String, u64> {
        let rows = exchange(&self.console, "GET /api/v1/processes HTTP/1.1", "");
        let rows = rows.as_array().unwrap().iter();
        let serving = rows.filter(|row| row["state"] == "healthy");
        serving
            .map(|row| {
                let role = row["role"].as_str().unwrap().to_owned();
                (role, row["pid"].as_u64().unwrap())
            })
            .collect()
    }
}

/// One request over HTTP; the body of its answer, which is JSON.
fn exchange(address: &str, head: &str, body: &str) -> Value {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    write!(
        stream,
        "{head}\r\nhost: x\r\nconnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}
