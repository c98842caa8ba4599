//! A caller's memory, with arbitrary words in it, at a whole agent.
//!
//! The first byte says which memory: a segment and a ledger of a caller's own making,
//! which it hands over as those of an agent that is gone, or the ledger that the agent
//! gave to it. Changes follow: a place of 16 bits and a number of 64. One at the
//! place 65,535 is a call, as a caller counts it. Half of them are made before
//! the agent is told, and half while it looks.
#![no_main]

mod support;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use support::agent::{Host, SERVICE, answers};
use support::sockets;
use waystation_balance::{CallEnd, Load};
use waystation_base::Moment;
use waystation_client::protocol::{Answer, Code, Request, service_hash};
use waystation_client::{Access, Mapping, Socket, framed};
use waystation_segment::{
    Ledger, Memory as _, Route, RouteWriter, Routes, SegmentState, Word, create_ledger,
    ledger_words,
};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::start("agent-memory"));

/// The owner of a segment that the agent has not made.
const ANOTHER: u64 = 99;
/// A change at this place is a call.
const CALL: u16 = u16::MAX;
/// A connection that ended is noticed within this.
const WAIT: Duration = Duration::from_secs(20);

fuzz_target!(|input: &[u8]| {
    let Some((&shape, changes)) = input.split_first() else {
        return;
    };
    let changes: Vec<_> = changes.chunks_exact(10).map(Change::of).collect();
    let (before, after) = changes.split_at(changes.len() / 2);
    let host = &*HOST;
    if shape % 2 == 0 {
        hand_over(host, shape / 2, before, after);
    } else {
        use_given(host, before, after);
    }
    let end = Instant::now() + WAIT;
    while host.in_flight() != Some(0) {
        assert!(Instant::now() < end, "calls of who is gone are in flight");
        std::thread::yield_now();
    }
    host.check();
});

struct Change {
    place: u16,
    value: u64,
}

impl Change {
    fn of(bytes: &[u8]) -> Self {
        let (place, value) = bytes.split_at(2);
        Self {
            place: u16::from_le_bytes(place.try_into().expect("two bytes")),
            value: u64::from_le_bytes(value.try_into().expect("eight bytes")),
        }
    }

    const fn is_call(&self) -> bool {
        self.place == CALL
    }

    /// Makes it in one of these memories, of which the last one is a ledger.
    fn make(&self, memories: &[&[Word]], caller: &Ledger<&[Word]>) {
        if self.is_call() {
            let slot = u32::try_from(self.value % 8).expect("it is small");
            let end = [
                CallEnd::Ok,
                CallEnd::Failed,
                CallEnd::TimedOut,
                CallEnd::Cancelled,
            ];
            caller.handle_sent(slot);
            let end = end[usize::try_from(self.value / 8 % 4).expect("it is small")];
            caller.handle_ended(slot, end, Some(self.value), Load::default());
            caller.mark(slot);
            return;
        }
        let words: usize = memories.iter().map(|memory| memory.len()).sum();
        let mut place = usize::from(self.place) % words;
        for memory in memories {
            match place.checked_sub(memory.len()) {
                None => return memory[place].store(self.value, Ordering::Relaxed),
                Some(further) => place = further,
            }
        }
    }
}

/// Hands over memory that was made here.
fn hand_over(host: &Host, shape: u8, before: &[Change], after: &[Change]) {
    let capacities = [1 << (shape % 4), 1 << (shape / 4 % 4)];
    let names = (service_hash(SERVICE), ANOTHER);
    let (segment, segment_file) = memory(RouteWriter::<&[Word]>::words(capacities[0]));
    let (ledger, ledger_file) = memory(ledger_words(capacities[1]));
    let mut writer =
        RouteWriter::create(segment.words(), capacities[0], names.0, names.1).expect("it fits");
    let address = |slot| {
        (
            [10, 0, 0, 1],
            7000 + u16::try_from(slot).expect("it is small"),
        )
    };
    let hosts = (0..capacities[0]).map(|slot| Route {
        slot,
        generation: 1,
        place: std::net::SocketAddr::from(address(slot)).into(),
    });
    let hosts = hosts.collect();
    writer.publish_routes(&Routes {
        version: 1,
        hosts,
        ..Routes::default()
    });
    writer.set_state(SegmentState::Live);
    writer.beat(Moment::from_millis(1));
    create_ledger(&ledger, capacities[1], names).expect("it fits");
    let caller = Ledger::attach(ledger.words()).expect("it was made");
    let memories = [segment.words(), ledger.words()];
    for change in before {
        change.make(&memories, &caller);
    }
    let stdin = std::io::stdin();
    let files: Vec<BorrowedFd<'_>> = match shape / 16 % 4 {
        0 => vec![segment_file.as_fd(), ledger_file.as_fd()],
        1 => vec![ledger_file.as_fd(), segment_file.as_fd()],
        2 => vec![segment_file.as_fd()],
        _ => vec![segment_file.as_fd(), stdin.as_fd(), ledger_file.as_fd()],
    };
    let service = SERVICE.to_owned();
    let request = framed(&Request::HandOver { service }).expect("it is written");
    let stream = sockets::unix(&host.socket);
    sockets::send_with(&stream, &request, &files);
    for change in after {
        change.make(&memories, &caller);
    }
    let received = sockets::exchange(stream, &[], 1);
    let is_well = shape / 16 % 4 == 0 && before.iter().chain(after).all(Change::is_call);
    match answers(&received).as_slice() {
        [Answer::TakenOver] => {}
        [Answer::Refused { code, .. }] => {
            assert!(matches!(code, Code::BadRequest | Code::Busy));
            assert!(!is_well, "memory that is well is refused");
        }
        // More descriptors than there are end the connection.
        [] => assert_eq!(files.len(), 3),
        other => panic!("{other:?}"),
    }
}

/// Uses the ledger that the agent gives.
fn use_given(host: &Host, before: &[Change], after: &[Change]) {
    let mut socket = Socket::connect(&host.socket, WAIT).expect("it listens");
    let attach = Request::Attach {
        service: SERVICE.to_owned(),
    };
    let (answer, files) = socket.ask(&attach).expect("it answers");
    assert_eq!(answer, Answer::Attached);
    let ledger = Mapping::attach(files[1].as_fd(), Access::Write).expect("it is sealed");
    let caller = Ledger::attach(ledger.words()).expect("it was made");
    for change in before {
        change.make(&[ledger.words()], &caller);
    }
    // Something that makes the agent look.
    let list = Request::List {
        service: SERVICE.to_owned(),
        from: 0,
    };
    for changes in [&[][..], after] {
        for change in changes {
            change.make(&[ledger.words()], &caller);
        }
        let (answer, _) = socket.ask(&list).expect("it answers");
        assert!(matches!(answer, Answer::Listed { .. }));
    }
}

/// So many zero words that nobody can make shorter.
fn memory(words: usize) -> (Mapping, OwnedFd) {
    Mapping::create("fuzzed", words, Access::Write).expect("there is memory")
}
