//! `waystation report` as a user runs it.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::chat::look_until;
use common::{on_small_disk, run, set_room, stderr, stdout, waystation};
use waystation_test_process::Watchdog;

/// A report server, killed when it is dropped.
struct Server {
    child: Child,
    _watchdog: Watchdog,
    address: String,
}

impl Server {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let dir = dir.to_str().unwrap();
        let serve = ["report", "serve", "--dir", dir, "--listen", "127.0.0.1:0"];
        Self::of(waystation(&[&serve, args].concat()))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let watchdog = Watchdog::over(&child);
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("ready ");
        let address = address.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self {
            child,
            _watchdog: watchdog,
            address,
        }
    }

    /// Tells, by Lars' protocol, so many successes of (1, 2) at 10.0.0.1:7000 by
    /// 10.0.0.9.
    fn tell(&self, successes: u8) {
        assert!(successes < 128);
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = [
            8, 1, 16, 2, 24, 0x89, 0x80, 0x80, 0x50, 34, 10, 8, 0x81, 0x80, 0x80, 0x50, 16, 0xd8,
            0x36, 24, successes,
        ];
        let mut frame = vec![3, 0, 0, 0, 21, 0, 0, 0];
        frame.extend(body);
        stream.write_all(&frame).unwrap();
    }

    fn show(&self, args: &[&str]) -> String {
        let all = [&["report", "show", "--server", &self.address], args].concat();
        let output = run(&all);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }

    /// What its history says in all.
    fn counted(&self) -> u64 {
        let rows = self.show(&["--history", "10s", "--json", "1/2"]);
        let ok = |line: &str| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            row["ok"].as_u64().unwrap()
        };
        rows.lines().map(ok).sum()
    }

    fn end(&mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(kill.unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn reports_are_taken_shown_and_there_after_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &[]);
    server.tell(5);
    look_until("it is shown", || server.show(&["1/2"]).contains(" 5 "));
    let table = server.show(&["1/2"]);
    assert!(table.starts_with("service"), "{table}");
    assert!(
        table.contains("1/2") && table.contains("10.0.0.1:7000"),
        "{table}"
    );
    let row: serde_json::Value = serde_json::from_str(&server.show(&["--json"])).unwrap();
    assert_eq!(
        (&row["caller"], &row["ok"]),
        (&"10.0.0.9".into(), &5.into())
    );
    assert_eq!(server.show(&["other", "--json"]), "");
    assert_eq!(server.end("TERM"), Some(0));
    // Killed before, too: nothing is counted twice, and what was lost is told
    // again.
    for (successes, signal) in [(5, "KILL"), (7, "TERM"), (9, "KILL"), (12, "TERM")] {
        let mut server = Server::start(folder.path(), &[]);
        server.tell(successes);
        look_until("it is in history", || {
            server.counted() == u64::from(successes)
        });
        server.end(signal);
    }
}

#[test]
fn a_store_that_makes_no_sense_is_a_fault_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let store = "postgres://ada:secret@host/lars";
    let output = run(&["report", "serve", "--dir", dir, "--store", store]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains("report.store") && said.contains("mysql://"),
        "{said}"
    );
    assert!(!said.contains("secret"), "{said}");
    let nobody = run(&["report", "show", "--server", "127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        stderr(&nobody).contains("127.0.0.1:1"),
        "{}",
        stderr(&nobody)
    );
}

/// Only `/metrics` said that results were refused: who looked at the counts took
/// them for all there were.
#[test]
fn what_is_not_counted_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    server.tell(5);
    look_until("it is shown", || server.show(&["1/2"]).contains(" 5 "));
    let status = |args: &[&str]| {
        let ask = ["report", "status", "--server", &server.address];
        let output = run(&[&ask, args].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let nothing = status(&[]);
    assert!(nothing.contains("store        takes counts"), "{nothing}");
    assert!(nothing.contains("1 results in 1 messages"), "{nothing}");
    assert!(nothing.contains("not counted  nothing"), "{nothing}");
    assert!(!server.show(&["1/2"]).contains("not counted"));
    // A report whose body is none, and a frame of a length that is none.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let body_and_frame = [
        [3, 0, 0, 0, 1, 0, 0, 0, 8].as_slice(),
        &[3, 0, 0, 0, 255, 255, 255, 255],
    ];
    stream.write_all(&body_and_frame.concat()).unwrap();
    look_until("they are seen", || {
        let page: serde_json::Value = serde_json::from_str(&status(&["--json"])).unwrap();
        page["bad_bodies"] == 1 && page["bad_frames"] == 1
    });
    let lost = [
        "1 messages that make no sense",
        "1 connections that ended with a frame that makes no sense",
    ];
    let (told, table) = (status(&[]), server.show(&["1/2"]));
    for loss in lost {
        assert!(told.contains(&format!("not counted  {loss}")), "{told}");
        assert!(table.contains(&format!("… not counted: {loss}")), "{table}");
    }
    assert!(!told.contains("nothing"), "{told}");
    // Rows stay rows for programs, who are told beside them.
    let rows = run(&["report", "show", "--server", &server.address, "--json"]);
    assert_eq!(stdout(&rows).lines().count(), 1);
    for loss in lost {
        assert!(stderr(&rows).contains(loss), "{}", stderr(&rows));
    }
}

/// A disk without room: writes fail, counts wait, and are stored when there is
/// room again.
#[test]
fn a_full_disk_costs_time_and_no_counts() {
    let folder = tempfile::tempdir().unwrap();
    // Its tables are made while there is room.
    assert_eq!(Server::start(folder.path(), &[]).end("TERM"), Some(0));
    let dir = folder.path().to_str().unwrap();
    let serve = waystation(&["report", "serve", "--dir", dir, "--listen", "127.0.0.1:0"]);
    let server = Server::of(on_small_disk(&serve));
    set_room(server.child.id(), false);
    for successes in [3, 4, 50] {
        server.tell(successes);
    }
    look_until("the store refuses", || {
        let page = get(&server.address, "/v1/status");
        page.contains("\"is_up\":false") && page.contains("\"records\":3")
    });
    assert!(server.show(&["1/2"]).contains(" 50 "));
    set_room(server.child.id(), true);
    look_until("it is in history", || server.counted() == 50);
}

fn get(address: &str, path: &str) -> String {
    use std::io::Read as _;
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
