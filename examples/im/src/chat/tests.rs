//! Whole chats against an Entry in memory.

use std::io::{self, Cursor, Read};
use std::sync::Mutex;

use waystation_net::{Faults, MemoryIo};

use super::*;
use crate::client::stand_in::{Mischief, StandIn};

fn network() -> (Arc<MemoryIo>, StandIn) {
    let io = Arc::new(MemoryIo::new(1, Faults::default()));
    let entry = StandIn::start(&io);
    (io, entry)
}

fn config(io: &Arc<MemoryIo>, user: &str, place: impl Into<Option<Place>>) -> Config {
    Config {
        io: io.clone(),
        place: place.into(),
        ..Config::new(StandIn::address(), user)
    }
}

fn with(user: &str) -> impl Into<Option<Place>> {
    Place::User(user.to_owned())
}

/// Output that another thread waits on.
#[derive(Clone, Default)]
struct Screen {
    text: Arc<(Mutex<String>, std::sync::Condvar)>,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).expect("lines are written whole");
        self.text.0.lock().unwrap().push_str(text);
        self.text.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Screen {
    #[track_caller]
    fn wait_for(&self, part: &str) {
        let text = self.text.0.lock().unwrap();
        let wait = Duration::from_secs(20);
        let missing = |text: &mut String| !text.contains(part);
        let (text, waited) = self.text.1.wait_timeout_while(text, wait, missing).unwrap();
        assert!(!waited.timed_out(), "no {part:?} in {text:?}");
    }
}

/// Input that a test writes line by line; ends when the sender is dropped.
struct Keyboard {
    lines: Receiver<String>,
    rest: Cursor<Vec<u8>>,
}

impl Read for Keyboard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.rest.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            match self.lines.recv() {
                Ok(line) => self.rest = Cursor::new(line.into_bytes()),
                Err(_) => return Ok(0),
            }
        }
    }
}

/// A chat that a test reads and writes while it runs.
struct Terminal {
    screen: Screen,
    keys: Option<std::sync::mpsc::Sender<String>>,
    chat: std::thread::JoinHandle<Result<(), Error>>,
}

impl Terminal {
    fn open(config: Config) -> Self {
        let (keys, lines) = std::sync::mpsc::channel();
        let rest = Cursor::default();
        let input = io::BufReader::new(Keyboard { lines, rest });
        let screen = Screen::default();
        let mut output = screen.clone();
        let chat = std::thread::spawn(move || run(config, input, &mut output));
        Self {
            screen,
            keys: Some(keys),
            chat,
        }
    }

    fn type_line(&self, line: &str) {
        let keys = self.keys.as_ref().unwrap();
        keys.send(format!("{line}\n")).unwrap();
    }

    /// Ends the input; answers how the chat ended and what it printed.
    fn end(mut self) -> (Result<(), Error>, String) {
        drop(self.keys.take());
        let result = self.chat.join().unwrap();
        let text = self.screen.text.0.lock().unwrap().clone();
        (result, text)
    }
}

/// Runs a chat whose whole input is known.
fn pipe(config: Config, input: &[u8]) -> (Result<(), Error>, String) {
    let mut output = Vec::new();
    let result = run(config, Cursor::new(input.to_vec()), &mut output);
    (result, String::from_utf8(output).unwrap())
}

#[test]
fn two_terminals_talk() {
    let (io, _entry) = network();
    let ada = Terminal::open(config(&io, "ada", with("bob")));
    let bob = Terminal::open(config(&io, "bob", with("ada")));
    ada.screen.wait_for("* talking to bob");
    bob.screen.wait_for("* talking to ada");
    ada.type_line("hello \u{1b}[31mbob");
    bob.screen.wait_for("ada: hello \u{fffd}[31mbob\n");
    bob.type_line("/to eve");
    bob.screen.wait_for("talking to eve");
    ada.type_line("still there?");
    bob.screen.wait_for("[to you] ada: still there?\n");
    bob.type_line("/to ada");
    bob.type_line("yes");
    ada.screen.wait_for("bob: yes\n");
    bob.type_line("/who");
    bob.screen.wait_for("* ada is online");
    bob.type_line("/history 2");
    bob.screen.wait_for("bob: yes\n");
    let (result, text) = ada.end();
    result.unwrap();
    assert!(!text.contains("ada:"), "own lines are not repeated: {text}");
    bob.end().0.unwrap();
}

#[test]
fn a_cut_connection_is_announced_and_nothing_is_lost() {
    let (io, entry) = network();
    let ada = Terminal::open(config(&io, "ada", with("bob")));
    let bob = Terminal::open(config(&io, "bob", with("ada")));
    ada.screen.wait_for("* talking to bob");
    bob.screen.wait_for("* talking to ada");
    entry.cut_all();
    bob.screen.wait_for("* connection lost");
    ada.type_line("after the cut");
    bob.screen.wait_for("* connected again");
    bob.screen.wait_for("ada: after the cut\n");
    ada.end().0.unwrap();
    bob.end().0.unwrap();
}

/// The last lines of a pipe were lost, because the end of the input ended
/// the process before they were sent.
#[test]
fn the_end_of_a_pipe_waits_for_acknowledgements() {
    let (io, entry) = network();
    entry.set(Mischief::CutBeforeAnswer);
    let (result, text) = pipe(config(&io, "ada", with("bob")), b"one\ntwo\nthree\nlast");
    result.unwrap();
    assert!(!text.contains('!'), "{text}");
    let stored = entry.script.lock().unwrap().stored["d:ada:bob"].len();
    assert_eq!(stored, 4);
}

#[test]
fn commands_after_quit_are_not_read() {
    let (io, entry) = network();
    let (result, _) = pipe(config(&io, "ada", with("bob")), b"one\n/quit\ntwo\n");
    result.unwrap();
    assert_eq!(entry.script.lock().unwrap().stored["d:ada:bob"].len(), 1);
}

/// What a pipe had just said was missing from the history it then asked for.
#[test]
fn a_pipe_reads_what_it_wrote() {
    let (io, entry) = network();
    entry.set(Mischief::RefuseSome);
    let input = b"one\ntwo\nthree\n/history\n";
    let (result, text) = pipe(config(&io, "ada", with("bob")), input);
    result.unwrap();
    let bodies: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once("ada: "))
        .map(|line| line.1)
        .collect();
    assert_eq!(bodies, ["one", "two", "three"], "{text}");
}

#[test]
fn groups_are_made_and_lines_go_there() {
    let (io, entry) = network();
    let input = b"/group team bob eve\nhi all\n/group\n/conversations\n";
    let (result, text) = pipe(config(&io, "ada", None), input);
    // The second `/group` names none.
    let rejected = matches!(result, Err(Error::NotSent { count: 1 }));
    assert!(rejected, "{result:?}");
    assert!(
        text.contains("* made the group team: ada, bob, eve\n* talking in team\n"),
        "{text}"
    );
    assert!(text.contains("! name the group"), "{text}");
    assert!(text.contains("* no conversations yet"), "{text}");
    assert_eq!(entry.script.lock().unwrap().stored["g:team"].len(), 1);
}

/// Lines that were rejected left no trace in the exit code, so that a script
/// took half of its input for sent.
#[test]
fn mistakes_are_shown_and_unsent_lines_fail_the_pipe() {
    let (io, _entry) = network();
    let mut input = b"to nobody\n/nonsense\n\xff\n".to_vec();
    input.extend(vec![b'x'; LINE_BYTES_MAX + 1]);
    let (result, text) = pipe(config(&io, "ada", None), &input);
    assert!(
        matches!(result, Err(Error::NotSent { count: 4 })),
        "{result:?}"
    );
    for part in [
        "! with whom?",
        "no command /nonsense",
        "not UTF-8",
        "at most 32768 bytes",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn wrong_names_fail_before_anything_starts() {
    let (io, _entry) = network();
    for config in [config(&io, "Ada", None), config(&io, "ada", with("b b"))] {
        let (result, text) = pipe(config, b"x\n");
        assert!(matches!(result, Err(Error::Name(_))), "{result:?}");
        assert_eq!(text, "");
    }
}

#[test]
fn an_output_that_fails_ends_the_chat() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (io, _entry) = network();
    let result = run(
        config(&io, "ada", with("bob")),
        Cursor::new("x\n"),
        &mut Closed,
    );
    let Err(Error::Io { source, .. }) = result else {
        panic!("{result:?}")
    };
    assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
}
