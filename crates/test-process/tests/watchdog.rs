//! A process that kills itself, so to speak, and what it has started.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use waystation_test_process::Watchdog;

/// Says that this process is the one that is killed.
const VICTIM: &str = "WAYSTATION_TEST_WATCHDOG_VICTIM";

/// Looks for a process to be gone, and between them.
const LOOKS: u32 = 600;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Whether a process runs; one that is dead and not waited for does not.
fn runs(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    !matches!(state, Some(b'Z' | b'X'))
}

#[allow(
    clippy::disallowed_methods,
    reason = "paces the looks at other processes"
)]
fn until_gone(pid: &str) {
    for _ in 0..LOOKS {
        if !runs(pid) {
            return;
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    panic!("{pid} was left running");
}

/// Starts a shell that starts a program, in a group of their own, on a thread
/// that then ends; prints both process ids, and waits to be killed.
fn be_killed() {
    let start = || {
        let shell = Command::new("/bin/sh")
            .args(["-c", "sleep 1000 & echo $$ $!; wait"])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::mem::forget(Watchdog::over(&shell));
        shell
    };
    let mut shell = std::thread::spawn(start).join().unwrap();
    let mut pids = String::new();
    let mut out = BufReader::new(shell.stdout.take().unwrap());
    out.read_line(&mut pids).unwrap();
    // Only now is there something to end, and somebody to do it.
    println!("victims {pids}");
    shell.wait().unwrap();
}

/// A test run that was ended with SIGKILL left its etcd, Redis and browser
/// running, which held ports, memory and files until somebody looked.
#[test]
fn what_a_killed_process_has_started_ends_with_it() {
    if std::env::var_os(VICTIM).is_some() {
        return be_killed();
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["what_a_killed_process_has_started_ends_with_it", "--exact"])
        .arg("--nocapture")
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let pids = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("victims ").map(|(_, pids)| pids.to_owned()))
        .unwrap();
    let (shell, program) = pids.split_once(' ').unwrap();
    assert!(
        runs(shell) && runs(program),
        "the thread's end ends nothing"
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
    until_gone(shell);
    until_gone(program);
}

/// A process that has ended by itself frees its id, and the next owner of the
/// id must not be killed.
#[test]
fn a_watchdog_that_is_dropped_kills_nobody() {
    let mut program = Command::new("sleep")
        .arg("1000")
        .process_group(0)
        .spawn()
        .unwrap();
    drop(Watchdog::over(&program));
    assert_eq!(program.try_wait().unwrap(), None);
    program.kill().unwrap();
    program.wait().unwrap();
}
