//! `waystation up` as a process, without the chat: its directory, ports, signals.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use common::{Up, run, stderr, stdout, waystation};

fn get(at: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The arguments of an `up` that disturbs nobody.
macro_rules! quiet {
    ($folder:expr $(, $more:expr)*) => {
        &["--dir", $folder.path().to_str().unwrap(), "--no-demo", "--console", "127.0.0.1:0" $(, $more)*]
    };
}

#[test]
fn it_says_ready_when_the_console_answers_and_drains_on_a_signal() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut up = Up::start(quiet!(folder));
        let at = up.ready();
        let health = get(&at, "/healthz");
        assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
        assert!(health.contains(r#""status":"ok""#), "{health}");
        up.signal(signal);
        assert_eq!(up.wait(), (Some(0), String::new()), "after SIG{signal}");
    }
}

/// `up --no-demo` started nothing at all: whoever wanted the rest without the
/// chat had no registry, and was not told.
#[test]
fn without_the_chat_the_servers_run() {
    let folder = tempfile::tempdir().unwrap();
    let listen = common::chat::free_address();
    let config = folder.path().join("waystation.toml");
    std::fs::write(&config, format!("[registry]\nlisten = \"{listen}\"\n")).unwrap();
    let config = config.to_str().unwrap();
    let mut up = Up::start(quiet!(folder, "--config", config));
    let at = up.ready();
    let health = get(&at, "/healthz");
    for role in ["registry-1", "route-1", "agent-1", "report-1"] {
        assert!(health.contains(role), "{health}");
    }
    let url = format!("embedded://{listen}");
    let node = ["node", "list", "--json", "--registry", &url];
    let listed = run(&node);
    assert_eq!(listed.status.code(), Some(0), "{}", stderr(&listed));
    assert_eq!(stdout(&listed), "", "no role of the chat is there");
    up.signal("TERM");
    assert_eq!(up.wait(), (Some(0), String::new()));

    // With another registry, which need not be there, the rest runs.
    let elsewhere = ["--registry", "embedded://127.0.0.1:1"];
    let mut up = Up::start(&[quiet!(folder), &elsewhere[..]].concat());
    let health = get(&up.ready(), "/healthz");
    assert!(health.contains("route-1"), "{health}");
    assert!(!health.contains("registry-1"), "{health}");
}

/// A log that could not be written, on a disk that was full, made the
/// supervisor and every role panic: their own error was printed by a macro
/// that does.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let args = ["up", "--dir", dir, "--console", "127.0.0.1:0"];
    let mut up = waystation(&args);
    up.args(["--entry", "127.0.0.1:0", "--for", "0"]);
    let status = up.stdout(Stdio::null()).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn it_ends_by_itself_when_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut up = Up::start(quiet!(folder, "--for", "0"));
    up.ready();
    assert_eq!(up.wait(), (Some(0), String::new()));
}

#[test]
fn a_second_one_on_the_same_directory_is_refused_with_the_holder() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Up::start(quiet!(folder));
    let at = first.ready();
    let dir = folder.path().to_str().unwrap();
    let second = run(&["up", "--dir", dir, "--no-demo", "--console", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(stdout(&second), "");
    let message = stderr(&second);
    let holder = format!("process {}", first.pid());
    assert!(
        message.contains("is in use by another `waystation up`"),
        "{message}"
    );
    assert!(
        message.contains(&holder),
        "{message} does not name {holder}"
    );

    // The first goes on, and the lock dies with it even when it cannot say so.
    assert!(get(&at, "/healthz").starts_with("HTTP/1.1 200 "));
    first.signal("KILL");
    first.wait();
    let mut third = Up::start(quiet!(folder));
    third.ready();
}

#[test]
fn a_console_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let output = run(&["up", "--dir", dir, "--no-demo", "--console", &at]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.contains(&format!(
            "the console cannot listen on {at}: Address already in use"
        )),
        "{message}"
    );
}

#[test]
fn an_entry_port_in_use_is_named_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let output = run(&[
        "up",
        "--dir",
        dir,
        "--console",
        "127.0.0.1:0",
        "--entry",
        &at,
    ]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.contains(&format!(
            "entry-1 cannot listen on {at}: Address already in use"
        )),
        "{message}"
    );
    assert_eq!(stdout(&output), "");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("data");
    let output = run(&["up", "--dir", below.to_str().unwrap(), "--no-demo"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(below.to_str().unwrap()),
        "{}",
        stderr(&output)
    );

    let long = format!("/tmp/{}", "x".repeat(200));
    let output = run(&["up", "--dir", &long, "--no-demo"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("too long for Unix sockets"),
        "{}",
        stderr(&output)
    );
}
