//! Whatever handlers do, callers cancel and networks break: each request gets
//! exactly one answer, is counted once, and leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use waystation_base::CallId;
use waystation_net::{Address, Faults, MemoryIo, SlowReader};
use waystation_service::{App, Code, ContextInfo, MessageId, Method};
use waystation_service_check::demo::shop::method::{Act as Acting, Note};
use waystation_service_check::demo::{Act, Script};
use waystation_service_check::{
    NativePeer, Stage, WebSocketPeer, block_on, config, depot, eventually, metric, run_on,
    shop_under, wait_for_metric,
};
use waystation_wire::{Flags, Header, Kind};

use crate::script;

/// What a caller does next.
#[derive(Debug, Clone)]
enum Move {
    /// Asks for a script, with its own deadline in ms or the default.
    Ask(Vec<Act>, Option<u64>),
    /// Gives up the request that is so many moves back.
    Cancel(usize),
    /// Asks with a body that is none.
    Nonsense,
    /// Asks for a method that nobody has.
    Nowhere,
    /// Asks for the load.
    Probe,
    /// Sends a script that is not to be answered.
    Push(Vec<Act>),
}

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    moves: Vec<Move>,
    concurrency: u32,
    in_flight: usize,
    /// Faults of every connection, also of that to the depot.
    faults: Faults,
    /// The caller leaves after its moves without waiting for answers.
    leaves: bool,
    /// The caller is a browser: text over WebSocket.
    text: bool,
    /// What is to become of a caller that reads slowly.
    slow_reader: SlowReader,
}

/// The deadline of requests that bring none: what waits for ever ends then.
const DEADLINE: Duration = Duration::from_millis(25);

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => Just(Act::Yield),
        2 => Just(Act::Sleep5Ms),
        2 => Just(Act::Gate),
        1 => Just(Act::Forever),
        2 => Just(Act::Fail),
        1 => Just(Act::Panic),
        1 => Just(Act::PanicInDrop),
        3 => Just(Act::Call),
        1 => Just(Act::KeepCtx),
        3 => Just(Act::Large),
    ];
    // The depot calls nobody: one call in a script at most.
    prop::collection::vec(act, 0..4).prop_map(|mut acts| {
        let mut calls = 0;
        acts.retain(|act| {
            *act != Act::Call || {
                calls += 1;
                calls == 1
            }
        });
        acts
    })
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (acts(), prop::option::of(0..40_u64)).prop_map(|(acts, ms)| Move::Ask(acts, ms)),
        3 => (1..6_usize).prop_map(Move::Cancel),
        1 => Just(Move::Nonsense),
        1 => Just(Move::Nowhere),
        1 => Just(Move::Probe),
        1 => acts().prop_map(Move::Push),
    ];
    prop::collection::vec(one, 1..24)
}

fn faults() -> impl Strategy<Value = Faults> {
    let share = || prop_oneof![Just(0.0), Just(0.3)];
    let cut = prop_oneof![3 => Just(0.0), 1 => Just(0.02)];
    let capacity = prop_oneof![Just(Faults::default().capacity), Just(4000)];
    (share(), share(), share(), cut, capacity).prop_map(
        |(short, spurious, delay, cut, capacity)| Faults {
            short,
            spurious,
            delay,
            cut,
            capacity,
            ..Faults::default()
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let bounds = (
        prop_oneof![Just(1_u32), Just(3), Just(256)],
        prop_oneof![Just(2_usize), Just(1000)],
    );
    let policy = prop_oneof![Just(SlowReader::Close), Just(SlowReader::Refuse)];
    let rest = (prop::bool::weighted(0.2), prop::bool::weighted(0.3), policy);
    (any::<u64>(), moves(), bounds, faults(), rest).prop_map(
        |(seed, moves, (concurrency, in_flight), faults, (leaves, text, slow_reader))| Case {
            seed,
            moves,
            concurrency,
            in_flight,
            faults,
            leaves,
            text,
            slow_reader,
        },
    )
}

/// What a caller has learnt.
#[derive(Default, Debug)]
struct Transcript {
    /// By call, in the order of arrival.
    answers: BTreeMap<u64, Vec<Code>>,
    /// Calls that are to be answered.
    asked: BTreeSet<u64>,
    cancelled: BTreeSet<u64>,
    /// The connection was lost.
    lost: bool,
}

impl Transcript {
    fn is_complete(&self) -> bool {
        let open = |call: &u64| !self.answers.contains_key(call) && !self.cancelled.contains(call);
        !self.asked.iter().any(open)
    }
}

/// A caller that speaks native frames, through all its moves.
async fn play_native(case: &Case, io: &MemoryIo, stage: &Stage) -> Transcript {
    let mut seen = Transcript::default();
    let mut peer = NativePeer::dial(io, "shop");
    for (call, next) in (1..).zip(&case.moves) {
        let (header, body) = match next {
            Move::Ask(acts, ms) => {
                let header = Header::request(Acting::ID, CallId(call))
                    .with_deadline_left(ms.map(Duration::from_millis));
                (header, script(acts).encode_to_vec())
            }
            Move::Push(acts) => (Header::push(Acting::ID), script(acts).encode_to_vec()),
            Move::Nonsense => (Header::request(Note::ID, CallId(call)), vec![0xFF]),
            Move::Nowhere => (Header::request(MessageId(7), CallId(call)), Vec::new()),
            Move::Probe => {
                let header = Header::request(MessageId(0), CallId(call));
                (header.with_flags(Flags::PROBE), Vec::new())
            }
            Move::Cancel(back) => {
                let target = call.saturating_sub(*back as u64);
                seen.cancelled.insert(target);
                (Header::cancel(CallId(target)), Vec::new())
            }
        };
        if header.kind == Kind::Request {
            seen.asked.insert(call);
        }
        seen.lost |= !peer.send(&header, &body).await;
    }
    stage.gate.raise();
    if case.leaves {
        return seen;
    }
    let mut pinged = false;
    loop {
        if seen.is_complete() && !pinged {
            // What comes twice comes before the answer to this.
            pinged = true;
            seen.lost |= !peer.send(&Header::ping(CallId(0)), &[]).await;
        }
        let Some((header, _)) = peer.receive().await else {
            seen.lost = true;
            return seen;
        };
        match header.kind {
            Kind::Reply => seen
                .answers
                .entry(header.call.0)
                .or_default()
                .push(header.status),
            Kind::Pong => return seen,
            other => panic!("nobody asked for a {other}"),
        }
    }
}

/// A browser, through those of its moves that it can make.
async fn play_text(case: &Case, io: &MemoryIo, stage: &Stage) -> Transcript {
    let mut seen = Transcript::default();
    // Streams under faults may not live through the handshake: it is played
    // by a test of its own.
    io.set_faults(Faults {
        cut: 0.0,
        ..case.faults
    });
    let mut peer = WebSocketPeer::dial(io, "shop").await;
    for (call, next) in (1..).zip(&case.moves) {
        let (method, body) = match next {
            Move::Ask(acts, _) => {
                let names: Vec<&str> = acts.iter().map(Act::as_str_name).collect();
                ("demo.Shop/Act", serde_json::json!({ "acts": names }))
            }
            Move::Nonsense => ("demo.Shop/Act", serde_json::json!([1])),
            Move::Nowhere => ("demo.Shop/Nowhere", serde_json::json!({})),
            Move::Probe | Move::Push(_) | Move::Cancel(_) => continue,
        };
        let mut text = serde_json::json!({ "call": call, "method": method, "body": body });
        if let Move::Ask(_, Some(ms)) = next {
            text["deadline_ms"] = (*ms).into();
        }
        seen.asked.insert(call);
        peer.send(&text.to_string()).await;
    }
    stage.gate.raise();
    while !case.leaves && !seen.is_complete() {
        let text = peer.receive().await.expect("this connection is not cut");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let name = answer["error"]["code"].as_str().unwrap_or("ok");
        let code = Code::ALL
            .into_iter()
            .find(|code| code.name() == name)
            .expect("a known code");
        seen.answers
            .entry(answer["call"].as_u64().expect("a call"))
            .or_default()
            .push(code);
    }
    seen
}

/// What a script may be answered.
fn may_end_so(case: &Case, next: &Move, code: Code) -> bool {
    let (acts, deadline) = match next {
        Move::Ask(acts, deadline) => (acts, deadline),
        Move::Nonsense => return matches!(code, Code::InvalidRequest | Code::Overloaded),
        Move::Nowhere => return code == Code::Unimplemented,
        Move::Probe => return code == Code::Ok,
        Move::Cancel(_) | Move::Push(_) => return false,
    };
    let has = |act| acts.contains(&act);
    match code {
        Code::Ok => {
            let fatal = [Act::Fail, Act::Panic, Act::PanicInDrop, Act::Forever];
            !fatal.into_iter().any(has) && *deadline != Some(0)
        }
        Code::Conflict => has(Act::Fail),
        Code::Internal => has(Act::Panic) || has(Act::PanicInDrop),
        Code::Overloaded => case.in_flight == 2,
        Code::OutcomeUnknown => has(Act::Call) && case.faults.cut > 0.0,
        Code::Unavailable => has(Act::Call),
        // The machine may be slow.
        Code::DeadlineExceeded => true,
        _ => false,
    }
}

fn check_answers(case: &Case, seen: &Transcript) -> Result<(), TestCaseError> {
    for (call, codes) in &seen.answers {
        prop_assert!(seen.asked.contains(call), "{call} was not asked: {seen:?}");
        prop_assert_eq!(codes.len(), 1, "call {}: {:?}", call, seen);
        let next = &case.moves[usize::try_from(*call).expect("it is small") - 1];
        prop_assert!(may_end_so(case, next, codes[0]), "{next:?}: {codes:?}");
    }
    let answered = seen.is_complete() || seen.lost || case.leaves;
    prop_assert!(answered, "{seen:?}");
    prop_assert!(!seen.lost || case.faults.cut > 0.0, "{seen:?}");
    Ok(())
}

/// Every request is accounted for, and nothing of it is left.
fn check_accounts(app: &App, socket: &Path) -> Result<(), TestCaseError> {
    // What a caller that has left sent before may still be on its way in.
    wait_for_metric(socket, "waystation_net_accepted_total", 1);
    eventually(|| {
        let callers = run_on(app, |shard| async move {
            let conns = shard.connections();
            conns.iter().filter(|conn| conn.is_accepted()).count()
        });
        (callers == 0).then_some(())
    });
    wait_for_metric(socket, "waystation_requests_in_flight", 0);
    let [started, answered, failed, cancelled] = ["started", "answered", "failed", "cancelled"]
        .map(|name| metric(socket, &format!("waystation_requests_{name}_total")));
    prop_assert_eq!(started, answered + failed + cancelled);
    let left = run_on(app, |shard| async move { ContextInfo::list(&shard) });
    prop_assert!(left.is_empty(), "{left:?}");
    Ok(())
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let (io, stage) = (MemoryIo::new(case.seed, case.faults), Stage::default());
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("shop.sock");
    let (concurrency, in_flight) = (case.concurrency, case.in_flight);
    let mut config = config(&io);
    // A large answer or two are more than a slow reader's share.
    config.connection.output_high_water = 16_000;
    config.connection.output_bytes_max = 48_000;
    config.connection.slow_reader = case.slow_reader;
    let shop = shop_under(config, &stage, move |router| {
        router.concurrency(concurrency);
        router.limits(in_flight, DEADLINE);
    });
    let shop = shop
        .admin(Address::Unix(socket.clone()))
        .start()
        .expect("the shop starts");
    let depot = depot(&io, &stage).start().expect("the depot starts");
    let seen = block_on(async {
        if case.text {
            play_text(case, &io, &stage).await
        } else {
            play_native(case, &io, &stage).await
        }
    });
    check_answers(case, &seen)?;
    check_accounts(&shop, &socket)?;
    // What came in before is no reason to refuse what comes now.
    io.set_faults(Faults::default());
    let again = block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        peer.request::<Acting>(1, &Script::default()).await;
        peer.answer::<Acting>().await.1
    });
    prop_assert!(again.is_ok(), "{again:?}");
    shop.drain();
    depot.drain();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_request_gets_exactly_one_answer(case in cases()) {
        check(&case)?;
    }
}

/// The property must be able to fail: a transcript with a second answer, or
/// without one, is a fault.
#[test]
fn the_property_sees_missing_and_double_answers() {
    let case = Case {
        seed: 0,
        moves: vec![Move::Ask(Vec::new(), None)],
        concurrency: 1,
        in_flight: 1000,
        faults: Faults::default(),
        leaves: false,
        text: false,
        slow_reader: SlowReader::Close,
    };
    let with = |answers: &[(u64, &[Code])]| Transcript {
        answers: answers
            .iter()
            .map(|(call, codes)| (*call, codes.to_vec()))
            .collect(),
        asked: [1].into(),
        ..Transcript::default()
    };
    assert!(check_answers(&case, &with(&[(1, &[Code::Ok])])).is_ok());
    assert!(check_answers(&case, &with(&[])).is_err());
    assert!(check_answers(&case, &with(&[(1, &[Code::Ok, Code::Ok])])).is_err());
    assert!(check_answers(&case, &with(&[(1, &[Code::Conflict])])).is_err());
    assert!(check_answers(&case, &with(&[(1, &[Code::Ok]), (2, &[Code::Ok])])).is_err());
}
