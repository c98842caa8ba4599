//! Models of the writer, readers, callers and the reaper, under every order of
//! their steps: `cargo xtask test` runs them with `--cfg loom`.

#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::net::{Ipv4Addr, SocketAddr};

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;
use waystation_balance::{CallEnd, Load};
use waystation_segment::{
    Ledger, LedgerWatch, Memory, Place, Route, RouteReader, RouteWriter, Routes, Spill, Word,
    create_ledger, ledger_words, zeroed,
};

const CAPACITY: u32 = 1;

/// Loom's `Arc` over words.
#[derive(Clone)]
struct Shared(Arc<Vec<Word>>);

impl Memory for Shared {
    fn words(&self) -> &[Word] {
        &self.0
    }
}

fn shared(words: usize) -> Shared {
    Shared(Arc::new(zeroed(words)))
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 20_000;
    builder.check(model);
}

fn routes(number: u16) -> Routes {
    Routes {
        version: number.into(),
        hosts: vec![Route {
            slot: 0,
            generation: number.into(),
            place: SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), number).into(),
        }],
        former: Vec::new(),
        paths: Vec::new(),
        eligible: [vec![0], Vec::new(), Vec::new()],
        shares: [1.0, 0.0, 0.0],
        spill: Spill::default(),
    }
}

/// The path of a socket, two words long.
fn socket(number: u16) -> String {
    format!("/{number:011}")
}

/// The one host is at a Unix socket.
fn routes_to_socket(number: u16) -> Routes {
    let mut routes = routes(number);
    routes.hosts[0].place = Place::Unix(0);
    routes.paths.push(socket(number).into());
    routes
}

fn segment() -> (Shared, RouteWriter<Shared>) {
    segment_with(&routes(1))
}

fn segment_with(routes: &Routes) -> (Shared, RouteWriter<Shared>) {
    let memory = shared(RouteWriter::<Shared>::words(CAPACITY));
    let mut writer = RouteWriter::create(memory.clone(), CAPACITY, 1, 1).unwrap();
    writer.publish_routes(routes);
    (memory, writer)
}

/// The generation of the one host, which must be that of its address.
fn seen(reader: &RouteReader<Shared>) -> Option<u32> {
    let (generation, place) = reader.host(0)?;
    let Place::Ip(address) = place else {
        panic!("it has no socket");
    };
    assert_eq!(generation, u32::from(address.port()), "two contents in one");
    Some(generation)
}

/// While the writer writes twice, a reader sees one of the contents, whole.
#[test]
fn a_reader_sees_whole_contents_only() {
    check(|| {
        let (memory, mut writer) = segment();
        let reader = RouteReader::attach(memory).unwrap();
        let thread = thread::spawn(move || {
            writer.publish_routes(&routes(2));
            writer.publish_routes(&routes(3));
        });
        if let Some(generation) = seen(&reader) {
            assert!((1..=3).contains(&generation));
        }
        thread.join().unwrap();
        assert_eq!(seen(&reader), Some(3));
    });
}

/// A path takes several words: none of another content is among them.
#[test]
fn a_path_is_that_of_its_host() {
    check(|| {
        let (memory, mut writer) = segment_with(&routes_to_socket(1));
        let reader = RouteReader::attach(memory).unwrap();
        let thread = thread::spawn(move || {
            writer.publish_routes(&routes_to_socket(2));
            writer.publish_routes(&routes_to_socket(3));
        });
        if let Some(path) = reader.path(0, 1) {
            assert_eq!(path, socket(1));
        }
        thread.join().unwrap();
        assert_eq!(reader.path(0, 3), Some(socket(3)));
    });
}

/// A writer that died at any step, and another that goes on.
#[test]
fn a_second_writer_goes_on_where_the_first_one_died() {
    check(|| {
        let (memory, _first) = segment();
        let reader = RouteReader::attach(memory.clone()).unwrap();
        // It stopped within a content: the sequence stays odd.
        memory.words()[10].fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
        // Its host, in the area that was being written: the first of two, which
        // end with the one path.
        let end = RouteWriter::<Shared>::words(CAPACITY) - (8 + 1 + 4 + 16) - 16;
        for word in &memory.words()[end - 4..end] {
            word.store(u64::MAX, loom::sync::atomic::Ordering::Relaxed);
        }
        let mut writer = RouteWriter::adopt(memory).unwrap();
        let thread = thread::spawn(move || {
            writer.publish_routes(&routes(2));
        });
        let generation = seen(&reader).expect("one content is always whole");
        assert!((1..=2).contains(&generation));
        thread.join().unwrap();
        assert_eq!(seen(&reader), Some(2));
    });
}

/// What a mark stands for is seen by who takes the mark, or marked again.
#[test]
fn the_agent_misses_no_end() {
    check(|| {
        let memory = shared(ledger_words(CAPACITY));
        create_ledger(&memory, CAPACITY, (1, 1)).unwrap();
        let ledger = Ledger::attach(memory.clone()).unwrap();
        let mut watch = LedgerWatch::attach(memory).unwrap();
        let thread = thread::spawn(move || {
            for _ in 0..2 {
                ledger.handle_sent(0);
                ledger.handle_ended(0, CallEnd::Ok, Some(384), Load::default());
            }
        });
        let mut ended = 0;
        let mut take = |watch: &mut LedgerWatch<Shared>| {
            let mut is_marked = false;
            watch.take_marks(|_| is_marked = true);
            if is_marked {
                let added = watch.look(0);
                assert_eq!(added.latency_ns, u64::from(384 * added.timed));
                ended += added.ended[0];
            }
        };
        take(&mut watch);
        thread.join().unwrap();
        take(&mut watch);
        assert_eq!(ended, 2);
        assert_eq!(watch.in_flight(0), 0);
    });
}

/// The reaper looks while two threads of a caller work: no end without its
/// begin, no load after the end that told it.
#[test]
fn an_end_is_never_seen_before_what_was_sent() {
    check(|| {
        let memory = shared(ledger_words(CAPACITY));
        create_ledger(&memory, CAPACITY, (1, 1)).unwrap();
        let mut watch = LedgerWatch::attach(memory.clone()).unwrap();
        let load = Load {
            in_flight: 1,
            latency_us: 2,
        };
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let ledger = Ledger::attach(memory.clone()).unwrap();
                thread::spawn(move || {
                    ledger.handle_sent(0);
                    ledger.handle_ended(0, CallEnd::Failed, None, load);
                })
            })
            .collect();
        let added = watch.look(0);
        assert!(added.ended[1] <= added.sent);
        assert!(added.ended[1] == 0 || added.load == Some(load));
        for caller in callers {
            caller.join().unwrap();
        }
        watch.look(0);
        assert_eq!(watch.in_flight(0), 0);
    });
}

/// An agent took a ledger over while its caller goes on: it counts what the last one
/// had not noted, and each end once.
#[test]
fn who_takes_a_ledger_over_counts_each_end_once() {
    check(|| {
        let memory = shared(ledger_words(CAPACITY));
        create_ledger(&memory, CAPACITY, (1, 1)).unwrap();
        let ledger = Ledger::attach(memory.clone()).unwrap();
        let call = |ledger: &Ledger<Shared>| {
            ledger.handle_sent(0);
            ledger.handle_ended(0, CallEnd::Ok, None, Load::default());
        };
        call(&ledger);
        let mut first = LedgerWatch::attach(memory.clone()).unwrap();
        assert_eq!(first.look(0).ok_and_failed(), (1, 0));
        first.note_told();
        call(&ledger);
        assert_eq!(first.look(0).ok_and_failed(), (1, 0));
        drop(first);
        let caller = thread::spawn(move || call(&ledger));
        let mut next = LedgerWatch::take_over(memory.clone(), 2).unwrap();
        // It looks at all slots once, and then at those with a mark.
        let mut counted = next.look(0).ok_and_failed().0;
        let mut take = |next: &mut LedgerWatch<Shared>| {
            let mut is_marked = false;
            next.take_marks(|_| is_marked = true);
            if is_marked {
                counted += next.look(0).ok_and_failed().0;
                next.note_told();
            }
        };
        take(&mut next);
        caller.join().unwrap();
        take(&mut next);
        assert_eq!(counted, 2);
        next.let_go();
        let mut last = LedgerWatch::take_over(memory, 3).unwrap();
        assert!(last.look(0).ok_and_failed() == (0, 0));
    });
}
