use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use waystation_base::{Clock, Epoch, Moment, SiteId};
use waystation_replica::{ApplyBatch, ApplyFault, StoreChunk, Verdict};

use super::*;
use crate::adapter::{Apply, Fate};
use crate::limits::HANDLER_WAIT_MAX;

const WAIT: Duration = Duration::from_secs(30);

/// What came, and what is answered to what comes next; then everything is taken.
#[derive(Default)]
struct Log {
    came: Vec<(String, Bytes)>,
    chunks: u64,
    answers: Vec<Result<(), HandlerError>>,
}

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Log>>);

impl Handler for Recorder {
    fn deliver(&mut self, delivery: &Delivery<'_>) -> Result<(), HandlerError> {
        let mut log = self.0.lock().unwrap();
        log.came.push((delivery.key(), delivery.payload.clone()));
        log.answers.pop().unwrap_or(Ok(()))
    }

    fn restore(&mut self, chunk: &Chunk) -> Result<(), HandlerError> {
        self.0.lock().unwrap().chunks += chunk.rows;
        Ok(())
    }
}

impl Recorder {
    fn keys(&self) -> Vec<String> {
        let log = self.0.lock().unwrap();
        log.came.iter().map(|(key, _)| key.clone()).collect()
    }

    /// Answers this to the next entry after `after` that are taken.
    fn answer(&self, after: usize, answer: Result<(), HandlerError>) {
        let mut answers = vec![answer];
        answers.extend((0..after).map(|_| Ok(())));
        self.0.lock().unwrap().answers = answers;
    }
}

struct Place {
    folder: tempfile::TempDir,
    recorder: Recorder,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            recorder: Recorder::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn target(&self) -> HandlerTarget {
        HandlerTarget::new(&self.path(), self.recorder.clone())
    }

    /// Opens it at the beginning of the log.
    fn open(&self) -> Box<dyn Apply> {
        let mut apply = self.target().open(LifeId(1)).unwrap().apply;
        apply.apply(&batch(&[], 0)).unwrap();
        apply
    }

    fn holding(&self) -> Holding {
        self.target().open(LifeId(9)).unwrap().restored.holding
    }
}

fn at(seq: u64) -> Position {
    Position::new(7, seq)
}

fn batch(entries: &[(u64, &str, Verdict)], through: u64) -> ApplyBatch {
    let entry = |(seq, payload, verdict): &(u64, &str, Verdict)| {
        let entry = Entry {
            position: at(*seq),
            origin: Origin::Client { key: None },
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        };
        (Arc::new(entry), *verdict)
    };
    ApplyBatch {
        entries: entries.iter().map(entry).collect(),
        below: None,
        position: at(through),
        ahead: None,
        decision: None,
    }
}

fn three() -> ApplyBatch {
    let entry = |seq| (seq, "{}", Verdict::Apply);
    batch(&[entry(1), entry(2), entry(3)], 3)
}

fn holding(seq: u64) -> Holding {
    Holding::At {
        position: at(seq),
        ahead: None,
    }
}

#[test]
fn entries_come_in_order_with_their_keys_and_what_was_stored_comes_no_more() {
    let place = Place::new();
    let mut apply = place.open();
    apply.apply(&three()).unwrap();
    apply.apply(&three()).unwrap();
    assert_eq!(place.recorder.keys(), ["7-1", "7-2", "7-3"]);
    drop(apply);
    assert_eq!(place.holding(), holding(3));
    place.open().apply(&three()).unwrap();
    assert_eq!(place.recorder.keys().len(), 3);
}

/// Where a batch fails in the middle, what was taken is not delivered again: only a
/// crash between a delivery and its position does that.
#[test]
fn what_comes_before_an_entry_that_is_not_taken_is_stored() {
    let place = Place::new();
    let mut apply = place.open();
    place
        .recorder
        .answer(1, Err(HandlerError::Unavailable("away".to_owned())));
    let error = apply.apply(&three()).unwrap_err();
    assert_eq!(error.fault, ApplyFault::Transient);
    assert!(error.error.contains("away"), "{error}");
    assert_eq!(place.holding(), holding(1));
    place
        .recorder
        .answer(0, Err(HandlerError::Refused("no such room".to_owned())));
    let error = apply.apply(&three()).unwrap_err();
    assert_eq!(error.fault, ApplyFault::Poison(Seq(2)));
    apply.apply(&three()).unwrap();
    assert_eq!(place.recorder.keys(), ["7-1", "7-2", "7-2", "7-2", "7-3"]);
    assert_eq!(place.holding(), holding(3));
}

#[test]
fn parked_and_skipped_entries_are_kept_and_replayed_with_their_keys() {
    let place = Place::new();
    let mut apply = place.open();
    let entries = [
        (1, "a", Verdict::Park),
        (2, "b", Verdict::Skip),
        (3, "c", Verdict::Apply),
    ];
    apply.apply(&batch(&entries, 3)).unwrap();
    assert_eq!(place.recorder.keys(), ["7-3"]);
    let restored = place.target().open(LifeId(9)).unwrap().restored;
    assert_eq!(restored.parked, [(Seq(1), Touches::Anything)]);
    assert!(restored.is_differing);
    apply.replay(Seq(1)).unwrap();
    apply.replay(Seq(1)).unwrap();
    assert_eq!(place.recorder.keys(), ["7-3", "7-1"]);
    let audit = apply.audit().unwrap();
    let fates: Vec<_> = audit.iter().map(|one| (one.seq.0, one.fate)).collect();
    assert_eq!(fates, [(1, Fate::Replayed), (2, Fate::Skipped)]);
    assert!(!apply.set_repaired(Seq(1)).unwrap());
    assert!(apply.set_repaired(Seq(u64::MAX)).unwrap());
    assert!(
        !place
            .target()
            .open(LifeId(9))
            .unwrap()
            .restored
            .is_differing
    );
}

/// Statements such as `NOW()` and `RAND()` diverge between sites.
#[test]
fn a_statement_that_would_differ_is_refused_unless_that_is_allowed() {
    let place = Place::new();
    let mut apply = place.open();
    let one = [(1, "INSERT INTO t VALUES (RAND())", Verdict::Apply)];
    let error = apply.apply(&batch(&one, 1)).unwrap_err();
    assert_eq!(error.fault, ApplyFault::Poison(Seq(1)));
    assert!(error.error.contains("rand()"), "{error}");
    assert_eq!(place.recorder.keys(), Vec::<String>::new());
    let target = place.target().allow_nondeterministic();
    let mut apply = target.open(LifeId(1)).unwrap().apply;
    apply.apply(&batch(&one, 1)).unwrap();
    let more = [(2, "RAND() in a text", Verdict::Apply)];
    place.open().apply(&batch(&more, 2)).unwrap();
    assert_eq!(place.recorder.keys(), ["7-1", "7-2"]);
}

#[test]
fn a_copy_begins_at_its_donors_place_and_rows_are_handed_on() {
    let donor = Place::new();
    donor.open().apply(&three()).unwrap();
    let snapshot = donor.target().open_snapshot().unwrap();
    assert_eq!(snapshot.position(), at(3));
    let mut snapshot = snapshot;
    let chunk = snapshot.read(0, &Cursor::default(), 1000).unwrap();
    assert_eq!((chunk.rows, chunk.to.is_none()), (0, true));
    assert_eq!(snapshot.hash(&Cursor::default()).unwrap(), None);

    let place = Place::new();
    let mut apply = place.target().open(LifeId(1)).unwrap().apply;
    let store = |chunk: Chunk| StoreChunk {
        chunk: Arc::new(chunk),
        holding: holding(3),
    };
    apply.store(&store(chunk), LifeId(5)).unwrap();
    let restored = place.target().open(LifeId(9)).unwrap().restored;
    assert_eq!((restored.life, restored.holding), (LifeId(5), holding(3)));
    assert_eq!(place.recorder.0.lock().unwrap().chunks, 0);
    let rows = Chunk::new(0, Cursor::default(), None, 4, Bytes::from_static(b"rows"));
    apply.store(&store(rows), LifeId(6)).unwrap();
    assert_eq!(place.recorder.0.lock().unwrap().chunks, 4);
    // No part of a copy can be brought forward.
    let mut part = three();
    part.below = Some(Cursor::new(b"x"));
    let error = apply.apply(&part).unwrap_err();
    assert_eq!(error.fault, ApplyFault::Unfilterable);
}

/// A server that answers what it is told, connection by connection, and tells what
/// came: the head in lower case, and the body.
struct Server {
    url: String,
    came: Receiver<(String, Vec<u8>)>,
}

/// What is done about one request.
#[derive(Clone, Copy)]
enum Do {
    Answer(&'static str),
    Close,
}

impl Server {
    fn start(script: Vec<Vec<Do>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/in?room=1", listener.local_addr().unwrap());
        let (told, came) = channel();
        std::thread::spawn(move || {
            for connection in script {
                let (stream, _) = listener.accept().unwrap();
                for what in connection {
                    if serve_one(&stream, what, &told).is_none() {
                        break;
                    }
                }
            }
        });
        Self { url, came }
    }

    fn next(&self) -> (String, Vec<u8>) {
        self.came.recv_timeout(WAIT).unwrap()
    }
}

fn serve_one(stream: &TcpStream, what: Do, told: &Sender<(String, Vec<u8>)>) -> Option<()> {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    told.send((head, body)).ok()?;
    let Do::Answer(status) = what else {
        return None;
    };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 3\r\n\r\nwhy");
    (&*stream).write_all(answer.as_bytes()).ok()
}

fn deliver(handler: &mut HttpHandler, seq: u64, payload: &'static str) -> Result<(), HandlerError> {
    let origin = Origin::Site {
        site: SiteId(4),
        life: LifeId(1),
        source: 1,
    };
    handler.deliver(&Delivery {
        position: Position {
            epoch: Epoch(7),
            seq: Seq(seq),
        },
        origin: Some(&origin),
        payload: &Bytes::from_static(payload.as_bytes()),
    })
}

#[test]
fn an_entry_is_posted_with_its_key_and_a_statement_is_labelled() {
    let answers = ["200 OK", "503 Busy", "422 No"].map(Do::Answer).to_vec();
    let server = Server::start(vec![answers]);
    let mut handler = HttpHandler::new(&server.url).unwrap();
    deliver(&mut handler, 1, "{\"a\":1}").unwrap();
    let (head, body) = server.next();
    assert!(head.starts_with("post /in?room=1 http/1.1"), "{head}");
    for line in [
        "idempotency-key: 7-1\r\n",
        "waystation-kind: entry\r\n",
        "waystation-epoch: 7\r\n",
        "waystation-sequence: 1\r\n",
        "waystation-origin: site 4\r\n",
    ] {
        assert!(head.contains(line), "{line} {head}");
    }
    assert!(!head.contains("waystation-unsafe"));
    assert_eq!(body, b"{\"a\":1}");
    let later = deliver(&mut handler, 2, "DELETE FROM t").unwrap_err();
    assert!(matches!(&later, HandlerError::Unavailable(text) if text.ends_with(": why")));
    assert!(server.next().0.contains("waystation-unsafe: statement\r\n"));
    let never = deliver(&mut handler, 2, "").unwrap_err();
    assert!(matches!(never, HandlerError::Refused(_)));
}

/// A connection that was kept open ended between two entries, and the next one
/// counted as not taken though nothing was wrong.
#[test]
fn a_connection_that_ended_meanwhile_is_made_anew_at_once() {
    let ok = Do::Answer("200 OK");
    let server = Server::start(vec![vec![ok], vec![Do::Close], vec![ok]]);
    let mut handler = HttpHandler::new(&server.url).unwrap();
    deliver(&mut handler, 1, "a").unwrap();
    // The server ends its connection, then another one without an answer.
    let lost = deliver(&mut handler, 2, "b").unwrap_err();
    assert!(matches!(lost, HandlerError::Unavailable(_)));
    deliver(&mut handler, 2, "b").unwrap();
    let keys: Vec<_> = (0..3).map(|_| server.next().1).collect();
    assert_eq!(keys, [b"a", b"b", b"b"]);
}

#[test]
fn a_server_that_is_not_there_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut handler = HttpHandler::new(&url).unwrap();
    let error = deliver(&mut handler, 1, "a").unwrap_err();
    assert!(matches!(error, HandlerError::Unavailable(_)), "{error}");
}

/// A clock that a handler moves.
#[derive(Clone, Default)]
struct Hands(Arc<Mutex<Moment>>);

impl Clock for Hands {
    fn now(&self) -> Moment {
        *self.0.lock().unwrap()
    }
}

/// A slow handler had 32 entries delivered before a position was stored, which took
/// minutes; after a crash all of them came again.
#[test]
fn a_slow_handler_has_its_position_stored_in_between() {
    let place = Place::new();
    let hands = Hands::default();
    let (log, moved) = (place.recorder.clone(), hands.clone());
    let mut target = HandlerTarget::new(&place.path(), move |delivery: &Delivery<'_>| {
        *moved.0.lock().unwrap() += HANDLER_WAIT_MAX / 6;
        Handler::deliver(&mut log.clone(), delivery)
    });
    target.clock = Arc::new(hands);
    let mut apply = target.open(LifeId(1)).unwrap().apply;
    apply.apply(&batch(&[], 0)).unwrap();
    let error = apply.apply(&three()).unwrap_err();
    assert_eq!(error.fault, ApplyFault::Transient);
    assert!(error.error.contains("takes long"), "{error}");
    assert_eq!(place.holding(), holding(2));
    apply.apply(&three()).unwrap();
    assert_eq!(place.holding(), holding(3));
    assert_eq!(place.recorder.keys(), ["7-1", "7-2", "7-3"]);
}
