//! Callers of an agent that says nothing: nobody waits who need not, and no end of a
//! call is lost.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use common::{HOST, WAIT, connections, give_memory, next_request, no_memory, picked, place, say};
use waystation_balance::{CallEnd, Load};
use waystation_base::Moment;
use waystation_client::protocol::{End, Request, service_hash};
use waystation_client::{Access, Caller, Error, Mapping, Source, machine_now};
use waystation_segment::{
    Place, Route, RouteWriter, Routes, SegmentState, create_ledger, ledger_words,
};

/// Accepts one that asks for memory, and has none for it.
fn refuse_memory(listener: &UnixListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let asked = next_request(&mut stream);
    assert!(matches!(asked, Some(Request::Attach { .. })), "{asked:?}");
    say(&mut stream, &no_memory());
}

fn expect_pick(stream: &mut UnixStream) {
    let asked = next_request(stream);
    assert!(matches!(asked, Some(Request::Pick { .. })), "{asked:?}");
}

/// How a call ended that is told next, and its address if it is told by that.
fn next_report(stream: &mut UnixStream) -> Option<(End, Option<String>)> {
    match next_request(stream)? {
        Request::Report { end, address, .. } => Some((end, address)),
        other => panic!("{other:?}"),
    }
}

/// Story: the end of a call waited for the connection while another thread waited for
/// an answer over it. On a shard it held up all connections there, for each call that
/// ended, as long as the agent was stopped.
#[test]
fn the_end_of_a_call_waits_for_nobody() {
    let (_folder, mut config) = place();
    (config.timeout, config.pause) = (2 * WAIT, 10 * WAIT);
    let listener = UnixListener::bind(&config.socket).unwrap();
    let ((asked, is_asked), (go_on, may_go_on)) = (channel(), channel());
    let agent = std::thread::spawn(move || {
        refuse_memory(&listener);
        let (mut stream, _) = listener.accept().unwrap();
        expect_pick(&mut stream);
        say(&mut stream, &picked());
        expect_pick(&mut stream);
        asked.send(()).unwrap();
        let _either = may_go_on.recv_timeout(2 * WAIT);
        say(&mut stream, &picked());
        next_report(&mut stream)
    });
    let mut caller = Caller::new(config);
    let call = caller.begin().unwrap();
    assert_eq!(call.source(), Source::Socket);
    let mut other = caller.clone();
    let asking = std::thread::spawn(move || other.pick());
    is_asked.recv_timeout(WAIT).unwrap();
    let (ended, is_ended) = channel();
    std::thread::spawn(move || {
        call.end(CallEnd::Failed, Load::default());
        let _nobody = ended.send(());
    });
    let waited = is_ended.recv_timeout(WAIT);
    assert_eq!(waited, Ok(()), "it waits for another's answer");
    assert!(!asking.is_finished());
    go_on.send(()).unwrap();
    asking.join().unwrap().unwrap();
    // Whoever had the connection has sent it.
    assert_eq!(agent.join().unwrap(), Some((End::Failed, None)));
}

/// What waits for an agent that does not read is bounded, and what does not fit is
/// counted. Its calls must not stay in flight at the agent: their connection ends.
#[test]
fn more_ends_than_there_is_room_for_are_counted_and_end_their_connection() {
    let (_folder, mut config) = place();
    (config.timeout, config.pause) = (WAIT, 10 * WAIT);
    let listener = UnixListener::bind(&config.socket).unwrap();
    let (go_on, may_go_on) = channel();
    let agent = std::thread::spawn(move || {
        refuse_memory(&listener);
        let (mut stream, _) = listener.accept().unwrap();
        expect_pick(&mut stream);
        say(&mut stream, &picked());
        let _either = may_go_on.recv_timeout(2 * WAIT);
        while let Some(told) = next_report(&mut stream) {
            assert_eq!(told, (End::Failed, None));
        }
        // They are told by their host's address over the next one.
        let (mut stream, _) = listener.accept().unwrap();
        next_report(&mut stream)
    });
    let mut caller = Caller::new(config);
    let one = caller.pick().unwrap();
    assert_eq!(one.source, Source::Socket);
    for _ in 0..20_000 {
        caller.report(&one, CallEnd::Failed, None, Load::default());
    }
    assert!(caller.ends_lost() > 0);
    go_on.send(()).unwrap();
    let told = agent.join().unwrap();
    assert_eq!(told, Some((End::Failed, Some(HOST.to_owned()))));
}

/// Story: ends that an agent did not take at once waited for the next call of their
/// process, and were lost with it when there was none.
#[test]
fn ends_that_wait_are_sent_though_nobody_calls_any_more() {
    const ENDS: usize = 2000;
    let (_folder, mut config) = place();
    (config.timeout, config.pause) = (WAIT, Duration::from_millis(1));
    let listener = UnixListener::bind(&config.socket).unwrap();
    let mut caller = Caller::new(config.clone());
    let mut other = caller.clone();
    let picking = std::thread::spawn(move || other.pick().unwrap());
    refuse_memory(&listener);
    let (mut stream, _) = listener.accept().unwrap();
    expect_pick(&mut stream);
    say(&mut stream, &picked());
    let call = picking.join().unwrap();
    // More than fit into the socket of an agent that does not read.
    for _ in 0..ENDS {
        caller.report(&call, CallEnd::Failed, None, Load::default());
    }
    stream.set_read_timeout(Some(WAIT)).unwrap();
    for number in 0..ENDS {
        let told = next_report(&mut stream);
        assert_eq!(told, Some((End::Failed, None)), "{number}");
    }
    // It goes, and another one comes.
    drop((listener, stream));
    std::fs::remove_file(&config.socket).unwrap();
    caller.report(&call, CallEnd::Failed, None, Load::default());
    let listener = UnixListener::bind(&config.socket).unwrap();
    let (told, heard) = channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _nobody = told.send(next_report(&mut stream));
    });
    let by_address = (End::Failed, Some(HOST.to_owned()));
    assert_eq!(heard.recv_timeout(WAIT), Ok(Some(by_address)));
    assert_eq!(caller.ends_lost(), 0);
}

/// Answers picks over each connection, and says what is told there; refuses memory
/// once, and then leaves those who ask for it without an answer.
fn refuse_memory_once(listener: &UnixListener, told: &Sender<(End, Option<String>)>) {
    refuse_memory(listener);
    while let Ok((mut stream, _)) = listener.accept() {
        let told = told.clone();
        std::thread::spawn(move || {
            while let Some(request) = next_request(&mut stream) {
                match request {
                    Request::Attach { .. } => {}
                    Request::Pick { .. } => say(&mut stream, &picked()),
                    Request::Report { end, address, .. } => {
                        let _nobody = told.send((end, address));
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
    }
}

/// Story: when an attempt to attach had failed, ends of calls were dropped without a
/// word for 200 ms, although the connection was there that they had been picked over.
/// For the agent these calls were in flight for as long as the caller ran.
#[test]
fn an_end_in_the_pause_after_a_failed_attach_is_told() {
    let (_folder, mut config) = place();
    config.timeout = Duration::from_secs(2);
    let listener = UnixListener::bind(&config.socket).unwrap();
    let (told, heard) = channel();
    std::thread::spawn(move || refuse_memory_once(&listener, &told));
    let mut caller = Caller::new(config);
    let call = caller.begin().unwrap();
    assert_eq!(call.source(), Source::Socket);
    let end = machine_now() + WAIT;
    // The pause after the refusal passes first.
    while !matches!(caller.attach(), Err(Error::TimedOut)) {
        assert!(machine_now() < end, "nobody asks for memory again");
        let nothing = heard.recv_timeout(Duration::from_millis(5));
        assert_eq!(nothing, Err(RecvTimeoutError::Timeout));
    }
    call.end(CallEnd::Failed, Load::default());
    assert_eq!(heard.recv_timeout(WAIT), Ok((End::Failed, None)));
}

/// Memory with one host, of an agent that is well for so long.
fn memory(until: Moment) -> (RouteWriter<Mapping>, [OwnedFd; 2]) {
    const HOSTS: u32 = 64;
    let names = (service_hash("pay"), 7);
    let words = RouteWriter::<Mapping>::words(HOSTS);
    let (mapping, routes) = Mapping::create("routes", words, Access::Read).unwrap();
    let mut writer = RouteWriter::create(mapping, HOSTS, names.0, names.1).unwrap();
    let mut all = Routes::default();
    all.hosts.push(Route {
        slot: 0,
        generation: 1,
        place: Place::Ip(HOST.parse().unwrap()),
    });
    all.eligible[0].push(0);
    all.shares[0] = 1.0;
    writer.publish_routes(&all);
    writer.set_state(SegmentState::Live);
    writer.beat(until);
    let words = ledger_words(HOSTS);
    let (mapping, ledger) = Mapping::create("ledger", words, Access::Write).unwrap();
    create_ledger(&mapping, HOSTS, names).unwrap();
    (writer, [routes, ledger])
}

/// Story: all threads waited for whoever tried a stopped agent, half a second of each
/// 700 ms, although there were hosts that they could have called.
#[test]
fn one_thread_waits_for_a_silent_agent_and_others_call_hosts_that_are_kept() {
    let (_folder, mut config) = place();
    (config.timeout, config.pause) = (2 * WAIT, 10 * WAIT);
    let listener = UnixListener::bind(&config.socket).unwrap();
    let (writer, memory) = memory(machine_now() + 100 * WAIT);
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let asked = next_request(&mut stream);
        assert!(matches!(asked, Some(Request::Attach { .. })), "{asked:?}");
        give_memory(&stream, &memory);
        (listener, stream)
    });
    let mut caller = Caller::new(config);
    assert_eq!(caller.pick().unwrap().source, Source::Segment);
    let (listener, _open) = agent.join().unwrap();
    // Its agent stopped long ago.
    writer.beat(Moment::ZERO);
    let (told, heard) = channel();
    for _ in 0..8 {
        let (mut caller, told) = (caller.clone(), told.clone());
        std::thread::spawn(move || {
            let is_kept = |_| caller.pick().unwrap().source == Source::Kept;
            let _nobody = told.send((0..100).all(is_kept));
        });
    }
    for _ in 0..7 {
        let is_kept = heard.recv_timeout(WAIT);
        assert_eq!(is_kept, Ok(true), "it waits for another's attempt");
    }
    assert!(heard.try_recv().is_err(), "somebody looks after the agent");
    // Which ends the attempt of that one, once it has got so far.
    let (end, mut tries) = (machine_now() + WAIT, 0);
    while tries == 0 {
        assert!(machine_now() < end, "nobody tries it");
        tries = connections(&listener);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert_eq!(tries, 1);
    assert_eq!(heard.recv_timeout(WAIT), Ok(true));
    assert_eq!(connections(&listener), 0, "it is tried again too soon");
}

/// Accepts one that asks for memory.
fn accept_attach(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = listener.accept().unwrap();
    let asked = next_request(&mut stream);
    assert!(matches!(asked, Some(Request::Attach { .. })), "{asked:?}");
    stream
}

/// Whether its peer has neither closed it nor said anything.
fn is_quiet(stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = std::io::Read::read(&mut &*stream, &mut [0]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Story: after an agent had slept for more than two seconds each of its callers asked
/// it for another ledger and kept the one before as well. With some hundreds of them
/// the agent had none left, and no connection, and that never changed.
#[test]
fn a_caller_whose_agent_slept_goes_on_in_the_ledger_that_it_has() {
    let (_folder, mut config) = place();
    (config.timeout, config.pause) = (WAIT, 10 * WAIT);
    let listener = UnixListener::bind(&config.socket).unwrap();
    let well_until = machine_now() + 100 * WAIT;
    let (writer, memory) = memory(well_until);
    let (slept, has_slept) = channel();
    let agent = std::thread::spawn(move || {
        let stream = accept_attach(&listener);
        give_memory(&stream, &memory);
        has_slept.recv_timeout(WAIT).unwrap();
        // Nobody could attach to it any more.
        drop(listener);
        stream
    });
    let mut caller = Caller::new(config.clone());
    let mut other = caller.clone();
    let call = caller.begin().unwrap();
    assert_eq!(call.source(), Source::Segment);
    slept.send(()).unwrap();
    let stream = agent.join().unwrap();
    for _ in 0..3 {
        writer.beat(Moment::ZERO);
        let kept = caller.begin().unwrap();
        assert_eq!(kept.source(), Source::Kept);
        assert_eq!(other.pick().unwrap().source, Source::Kept);
        writer.beat(well_until);
        for caller in [&mut caller, &mut other] {
            assert_eq!(caller.pick().unwrap().source, Source::Segment);
            assert!(caller.try_pick().is_some() && caller.hosts().is_some());
        }
        kept.end(CallEnd::Ok, Load::default());
    }
    call.end(CallEnd::Ok, Load::default());
    assert!(is_quiet(&stream), "it let go of its ledger");
    drop((caller, other));
    assert!(!is_quiet(&stream));
}

/// As above, of who asks for memory as the agent wakes up.
#[test]
fn a_ledger_that_comes_as_the_agent_wakes_up_is_given_back() {
    let (_folder, mut config) = place();
    (config.timeout, config.pause) = (2 * WAIT, 10 * WAIT);
    let listener = UnixListener::bind(&config.socket).unwrap();
    let well_until = machine_now() + 100 * WAIT;
    let (writer, memory) = memory(well_until);
    let caller = Caller::new(config);
    let source = || {
        let mut caller = caller.clone();
        std::thread::spawn(move || caller.pick().unwrap().source)
    };
    let picking = source();
    let first = accept_attach(&listener);
    give_memory(&first, &memory);
    assert_eq!(picking.join().unwrap(), Source::Segment);
    writer.beat(Moment::ZERO);
    let picking = source();
    let second = accept_attach(&listener);
    writer.beat(well_until);
    give_memory(&second, &memory);
    assert_eq!(picking.join().unwrap(), Source::Segment);
    second.set_read_timeout(Some(WAIT)).unwrap();
    let read = std::io::Read::read(&mut &second, &mut [0]);
    assert_eq!(read.unwrap(), 0, "it is closed");
    assert!(is_quiet(&first));
    assert_eq!(source().join().unwrap(), Source::Segment);
    assert_eq!(connections(&listener), 0);
}
