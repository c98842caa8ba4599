//! `kill -9` of real processes that write to one file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;
use crate::store::{StoreHandle, StoreOptions};

/// Set for the processes that this test starts from its own binary.
const CHILD_FILE: &str = "WAYSTATION_IM_STORE_TEST_FILE";
const CHILD_SEED: &str = "WAYSTATION_IM_STORE_TEST_SEED";
const ROUNDS: u64 = 12;
/// Most acknowledgements before a process is killed.
const KILL_AFTER_MAX: u64 = 600;
/// What a process writes before it ends by itself, if nobody kills it.
const CHILD_APPENDS: u64 = 20_000;
/// Appends that a process keeps in flight, and so mixes into its commits.
const CHILD_IN_FLIGHT: usize = 48;
/// Small enough that processes and rounds often send the same id again.
const IDS: u64 = 3_000;
const CONVERSATIONS: [&str; 3] = ["d:alice:bob", "g:team", "d:alice:alice"];

/// An acknowledged append: conversation, id, number.
type Acknowledged = (String, String, u64);

/// Two processes write to one file and both are killed, again and again, at points
/// counted in acknowledgements: what was acknowledged is there exactly once, under
/// the number that was told, and numbers have no gaps.
#[test]
fn acknowledged_messages_survive_kill() {
    if let Some(file) = std::env::var_os(CHILD_FILE) {
        return child(Path::new(&file));
    }
    let mut chat = TestStore::new();
    chat.create(group("team", "alice", &["bob"])).unwrap();
    let mut random = SplitMix::new(0x00c4_a54e);
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut killed = [0, 1].map(|number| {
            let kill_after = 1 + random.below(KILL_AFTER_MAX);
            KilledWriter::start(&chat.file(), round * 2 + number, kill_after)
        });
        // Alternately, so that both run at the same time.
        while killed.iter_mut().map(KilledWriter::step).max() == Some(true) {}
        for writer in killed {
            acknowledged.extend(writer.finish());
        }
        chat.reopen();
        check(&chat, &acknowledged, round);
    }
}

/// Everything acknowledged is there once, and every conversation is dense.
fn check(chat: &TestStore, acknowledged: &BTreeSet<Acknowledged>, round: u64) {
    let mut stored = BTreeMap::new();
    for conversation in CONVERSATIONS {
        let messages = chat.whole_history("alice", conversation);
        for (expected, message) in (1..).zip(&messages) {
            assert_eq!(
                message.seq, expected,
                "round {round}: a gap in {conversation}"
            );
            let place = (conversation.to_owned(), message.client_id.clone());
            let earlier = stored.insert(place, message.seq);
            assert_eq!(earlier, None, "round {round}: {message:?} is there twice");
        }
        let last = chat
            .state("alice", conversation)
            .map_or(0, |state| state.last_seq);
        assert_eq!(last, messages.len() as u64, "round {round}: {conversation}");
    }
    for (conversation, id, seq) in acknowledged {
        let place = (conversation.clone(), id.clone());
        let found = stored.get(&place);
        assert_eq!(
            found,
            Some(seq),
            "round {round}: {place:?} was acknowledged"
        );
    }
}

/// A writing process that is killed once it has acknowledged so much.
struct KilledWriter {
    process: Child,
    lines: BufReader<ChildStdout>,
    kill_after: u64,
    acknowledged: Vec<Acknowledged>,
    running: bool,
}

impl KilledWriter {
    fn start(file: &Path, seed: u64, kill_after: u64) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::crash::acknowledged_messages_survive_kill",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(CHILD_FILE, file)
            .env(CHILD_SEED, seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            lines,
            kill_after,
            acknowledged: Vec::new(),
            running: true,
        }
    }

    /// Reads one line; kills when it is time. False at the end of the output, which
    /// is reached although nobody kills the process, since it ends by itself.
    fn step(&mut self) -> bool {
        let mut line = String::new();
        if !self.running || self.lines.read_line(&mut line).unwrap() == 0 {
            self.running = false;
            return false;
        }
        // A line that the kill cut short was not acknowledged to anyone.
        let whole = line
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix("ack "));
        if let Some(fields) = whole {
            let fields: Vec<&str> = fields.split(' ').collect();
            let seq = fields[2].parse().unwrap();
            self.acknowledged
                .push((fields[0].to_owned(), fields[1].to_owned(), seq));
            if self.acknowledged.len() as u64 == self.kill_after {
                self.process.kill().unwrap();
            }
        }
        true
    }

    fn finish(mut self) -> Vec<Acknowledged> {
        let status = self.process.wait().unwrap();
        assert!(!status.success(), "the process ended before it was killed");
        assert!(
            self.acknowledged.len() as u64 >= self.kill_after,
            "it ended by itself: {status}"
        );
        self.acknowledged
    }
}

/// Writes with many appends in flight, and prints each acknowledgement.
fn child(file: &Path) {
    let seed = std::env::var_os(CHILD_SEED).unwrap();
    let mut random = SplitMix::new(seed.to_str().unwrap().parse().unwrap());
    let options = StoreOptions {
        readers: 1,
        ..StoreOptions::default()
    };
    let store = StoreHandle::open(file, options).unwrap();
    // The test runner leaves an unfinished line.
    println!();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut in_flight = tokio::task::JoinSet::new();
        for _ in 0..CHILD_APPENDS {
            if in_flight.len() == CHILD_IN_FLIGHT {
                acknowledge(in_flight.join_next().await.unwrap().unwrap());
            }
            let conversation = CONVERSATIONS[usize::try_from(random.below(3)).unwrap()];
            let append = message(conversation, "alice", &random.below(IDS).to_string());
            let store = store.clone();
            in_flight.spawn(async move {
                let stored = store.append(append.clone()).await.unwrap();
                (append.conversation, append.client_id, stored.seq)
            });
        }
    });
}

fn acknowledge((conversation, id, seq): Acknowledged) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "ack {conversation} {id} {seq}").unwrap();
    output.flush().unwrap();
}
