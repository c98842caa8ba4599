//! No file descriptors left: accepting pauses instead of spinning, and goes on
//! when there are some again. In a process of its own, because the limit is
//! the whole process's.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::process::Command;
use std::time::Duration;

use common::log::Lines;
use common::{connect, eventually, run, start_tcp};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use waystation_base::Clock;
use waystation_net::limits::{ACCEPT_PAUSE, LOG_PERIOD};
use waystation_net::{MonotonicClock, NetConfig};

/// Says that this process is the one with the limit.
const CHILD: &str = "WAYSTATION_TEST_NO_DESCRIPTORS";
const CLIENTS: usize = 20;

/// Without descriptors the listener stays readable, and accept spun. Later it
/// paused, and wrote a line at each of twenty attempts a second: the log took
/// the disk while the process could not do its work.
#[test]
fn accept_pauses_without_descriptors_and_goes_on() {
    if std::env::var_os(CHILD).is_some() {
        return without_descriptors();
    }
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this)
        .args([
            "accept_pauses_without_descriptors_and_goes_on",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

fn limit_descriptors(current: Option<u64>) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

fn without_descriptors() {
    let lines = Lines::of_this_process();
    let (server, address) = start_tcp(NetConfig::default(), |_| common::echo_router());
    let errors = &common::accepting(&server).accept_errors;
    let usual = getrlimit(Resource::Nofile).current;
    run(async {
        let mut resident = connect(address).await;
        resident.check_echo().await;
        // The clients' own sockets exist before the limit.
        let sockets: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::net::TcpSocket::new_v4().unwrap())
            .collect();
        limit_descriptors(Some(3));
        let started = MonotonicClock.now();
        let mut clients = Vec::new();
        for socket in sockets {
            // The kernel completes it; it waits to be accepted.
            clients.push(common::Peer::new(socket.connect(address).await.unwrap()));
        }
        eventually("accepting fails", || errors.get() >= 4);
        let seen = u128::from(errors.get());
        let took = MonotonicClock.now().saturating_since(started);
        let pauses = took.as_millis() / ACCEPT_PAUSE.as_millis();
        assert!(seen <= pauses + 1, "{seen} attempts in {pauses} pauses");
        resident.check_echo().await;
        assert_eq!(common::accepting(&server).accepted.get(), 1);
        check_lines(&lines, errors.get(), took);
        assert_eq!(lines.with("accepts again").len(), 0);

        limit_descriptors(usual);
        for client in &mut clients {
            client.check_echo().await;
        }
        resident.check_echo().await;
    });
    let ends = lines.with("accepts again");
    let [end] = &ends[..] else {
        panic!("it is told once: {ends:?}")
    };
    assert!(end.contains(&format!("failures={}", errors.get())), "{end}");
    assert_eq!(
        common::accepting(&server).accepted.get(),
        1 + CLIENTS as u64
    );
    server.drain();
}

/// One line says that it begins, and one in each period that it goes on.
fn check_lines(lines: &Lines, errors: u64, took: Duration) {
    let begins = lines.with("cannot accept; pausing");
    assert_eq!(begins.len(), 1, "{begins:?}");
    let periods = took.as_nanos() / LOG_PERIOD.as_nanos();
    let goes_on = lines.with("still cannot accept");
    assert!(goes_on.len() as u128 <= periods, "{goes_on:?}");
    assert!(
        errors > 1 + goes_on.len() as u64,
        "more failed than was told"
    );
}
