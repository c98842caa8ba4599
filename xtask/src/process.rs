//! Running other programs: their output is passed on line by line, and one that falls silent is
//! ended.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// A program that prints nothing for so long is taken to hang. The longest silence of a healthy
/// run is one crate that compiles, well under three minutes on two cores.
pub(crate) const SILENCE_MAX: Duration = Duration::from_mins(15);

/// Lines read ahead of the one being handled; when it is full the program's pipe fills and it
/// waits.
const LINES_AHEAD_MAX: usize = 1024;

/// A longer line is handed on in pieces of this size.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Out,
    Err,
}

enum Event {
    Line(Origin, String),
    End,
}

/// Runs the command to its end without standard input and gives each line to `on_line`.
///
/// # Errors
/// The program cannot be started, or it printed nothing for `silence_max`; then it and all its
/// descendants have been killed.
pub(crate) fn stream(
    command: &mut Command,
    silence_max: Duration,
    mut on_line: impl FnMut(Origin, &str),
) -> Result<ExitStatus> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    let events = read(&mut child);
    let mut open = 2;
    while open > 0 {
        match events.recv_timeout(silence_max) {
            Ok(Event::Line(origin, line)) => on_line(origin, &line),
            Ok(Event::End) => open -= 1,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                kill_tree(&mut child);
                bail!(
                    "`{name}` printed nothing for {} s and was killed",
                    silence_max.as_secs()
                );
            }
        }
    }
    child
        .wait()
        .with_context(|| format!("cannot wait for `{name}`"))
}

/// Runs the command to its end with its output passed on; true when it exited with 0.
///
/// # Errors
/// As [`stream`].
pub(crate) fn run(command: &mut Command) -> Result<bool> {
    Ok(stream(command, SILENCE_MAX, echo)?.success())
}

/// Passes a line on to where it would have gone.
pub(crate) fn echo(origin: Origin, line: &str) {
    match origin {
        Origin::Out => println!("{line}"),
        Origin::Err => eprintln!("{line}"),
    }
}

/// True when the command can be started and exits with 0; its output is dropped.
pub(crate) fn works(command: &mut Command) -> bool {
    stream(command, SILENCE_MAX, |_, _| {}).is_ok_and(|status| status.success())
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn read(child: &mut Child) -> Receiver<Event> {
    let (tx, rx) = sync_channel(LINES_AHEAD_MAX);
    let out = child.stdout.take().expect("stdout is piped");
    let err = child.stderr.take().expect("stderr is piped");
    let tx_err = tx.clone();
    thread::spawn(move || read_lines(out, Origin::Out, &tx));
    thread::spawn(move || read_lines(err, Origin::Err, &tx_err));
    rx
}

fn read_lines(from: impl Read, origin: Origin, tx: &SyncSender<Event>) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => break,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                let event = Event::Line(origin, text.trim_end_matches(['\n', '\r']).to_owned());
                if tx.send(event).is_err() {
                    return;
                }
            }
        }
    }
    // The receiver may have given up already; then nobody counts the ends.
    let _ = tx.send(Event::End);
}

/// Rounds of stopping before the kill. Each round needs a process that forked since the last.
const STOP_ROUNDS_MAX: usize = 64;

/// Kills the child and everything below it. Cargo does not pass a signal on to the test programs
/// that it started, and once a parent is gone its children cannot be told from others. So all are
/// stopped first, until a look finds nobody new: one that is stopped forks no more.
fn kill_tree(child: &mut Child) {
    let mut victims: Vec<u32> = Vec::new();
    for _ in 0..STOP_ROUNDS_MAX {
        let mut present = descendants(child.id(), &process_parents());
        present.push(child.id());
        present.retain(|pid| !victims.contains(pid));
        if present.is_empty() {
            break;
        }
        signal("-STOP", &present);
        victims.extend(present);
    }
    signal("-KILL", &victims);
    let _ = child.kill();
    let _ = child.wait();
}

/// Sends a signal; a process that is gone already is no fault.
fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(ToString::to_string);
    let _ = Command::new("kill")
        .arg(name)
        .args(pids)
        .stderr(Stdio::null())
        .status();
}

/// All (process, parent) pairs of the machine; empty where there is no `/proc`.
fn process_parents() -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parent_in_stat(&stat)?))
        })
        .collect()
}

/// The parent's id in a `/proc/PID/stat` line. The name in brackets may itself hold brackets and
/// spaces, so the fields are counted from the last bracket.
fn parent_in_stat(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

fn descendants(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        let children = parents
            .iter()
            .filter(|(pid, of)| *of == parent && !found.contains(pid));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        found.extend(children);
        next += 1;
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_of_both_streams_arrive_with_their_origin() {
        let mut seen = Vec::new();
        let status = stream(
            &mut shell("echo one; echo two >&2; exit 3"),
            SILENCE_MAX,
            |origin, line| {
                seen.push((origin, line.to_owned()));
            },
        );
        seen.sort_by_key(|(_, line)| line.clone());
        assert_eq!(
            seen,
            [
                (Origin::Out, "one".to_owned()),
                (Origin::Err, "two".to_owned())
            ]
        );
        assert_eq!(status.unwrap().code(), Some(3));
    }

    #[test]
    fn a_program_that_falls_silent_is_an_error() {
        let result = stream(
            &mut shell("exec sleep 600"),
            Duration::from_millis(20),
            |_, _| {},
        );
        assert!(result.unwrap_err().to_string().contains("was killed"));
    }

    /// Cargo passes no signal on, so a test program that hangs outlived a killed cargo. Here some
    /// processes are still being forked when the tree is read; one of them once survived.
    #[test]
    fn killing_a_program_kills_what_it_started() {
        let mut command = shell("for n in 1 2 3 4; do (sleep 600; :) & done; echo started; wait");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "started\n");
        kill_tree(&mut child);
        // The output ends when the last process that holds it is gone.
        let (tx, rx) = sync_channel(1);
        thread::spawn(move || tx.send(output.read_line(&mut String::new()).unwrap()));
        let bytes_after = rx.recv_timeout(Duration::from_mins(1));
        assert_eq!(bytes_after, Ok(0), "a process that it started still runs");
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let error = run(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/program"));
    }

    #[test]
    fn descendants_are_found_through_all_generations() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1), (9, 8)];
        let mut found = descendants(2, &parents);
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert!(descendants(7, &parents).is_empty());
    }

    #[test]
    fn the_parent_is_found_behind_an_odd_name() {
        assert_eq!(parent_in_stat("12 (a b) c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in_stat("nonsense"), None);
    }
}
