//! The faults that Lars' agent was seen to have, as far as they are in its
//! answers.

use proptest::prelude::*;
use waystation_membership::{Instance, InstanceId, Owner, ViewVersion};
use waystation_wire::lars::HEADER_LEN;

use std::sync::Arc;

use super::*;

fn at(ms: u64) -> Moment {
    Moment::from_millis(1_000 + ms)
}

fn view(hosts: impl IntoIterator<Item = u32>) -> View {
    let service = ServiceName::new("pay").unwrap();
    let mut view = View::empty(service.clone(), ViewVersion::default());
    for n in hosts {
        let id = InstanceId::new(&format!("pay-{n:05}")).unwrap();
        let address = format!("200.0.{}.{}:7000", n / 250, n % 250 + 1)
            .parse()
            .unwrap();
        let mut one = Instance::new(id.clone(), service.clone(), address, Owner::default());
        one.lars = Some(pair_of(-5, 7));
        view.instances.insert(id, Arc::new(one));
    }
    view
}

fn ask(pairs: &mut Pairs, ms: u64, message: &Message) -> Option<Message> {
    let (mut bytes, mut out) = (Vec::new(), Vec::new());
    message.encode_into(&mut bytes).unwrap();
    pairs.handle(at(ms), &bytes, &mut out);
    if out.is_empty() {
        return None;
    }
    assert!(out.len() <= DATAGRAM_LEN_MAX);
    let frame = datagram(&out).unwrap();
    Some(Message::parse(frame.id, frame.body).unwrap())
}

fn get_host(pairs: &mut Pairs, ms: u64, modid: i32) -> GetHostResponse {
    let ask_host = GetHostRequest {
        seq: 9,
        modid,
        cmdid: 7,
    };
    match ask(pairs, ms, &Message::GetHostRequest(ask_host)) {
        Some(Message::GetHostResponse(answer)) => {
            assert_eq!((answer.seq, answer.modid, answer.cmdid), (9, modid, 7));
            answer
        }
        other => panic!("{other:?}"),
    }
}

fn report(pairs: &mut Pairs, ms: u64, host: HostInfo, retcode: i32) {
    let report = Message::ReportRequest(ReportRequest {
        modid: -5,
        cmdid: 7,
        host: Some(host),
        retcode,
    });
    assert_eq!(ask(pairs, ms, &report), None);
}

fn pairs(hosts: u32) -> Pairs {
    let mut pairs = Pairs::new(LarsConfig::default(), 1);
    pairs.handle_view(at(0), &view(0..hosts));
    pairs
}

/// The view of another service with the pair of `view`, and one more host that has
/// another pair.
fn other_view(modid: i32) -> View {
    let service = ServiceName::new("refund").unwrap();
    let mut all = View::empty(service.clone(), ViewVersion::default());
    for (n, modid) in [(1, modid), (2, -6)] {
        let id = InstanceId::new(&format!("refund-{n}")).unwrap();
        let address = format!("201.0.0.{n}:7000").parse().unwrap();
        let mut one = Instance::new(id.clone(), service.clone(), address, Owner::default());
        one.lars = Some(pair_of(modid, 7));
        all.instances.insert(id, Arc::new(one));
    }
    all
}

fn hosts_of(pairs: &mut Pairs, modid: i32) -> usize {
    let told = (0..20).filter_map(|_| get_host(pairs, 1, modid).host);
    told.map(|host| host.ip)
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}

/// The last view of two services with one pair was all that there was of it, a
/// service that left a pair took the other's hosts along, and hosts with a second
/// pair were left out.
#[test]
fn services_share_a_pair_and_a_service_has_several() {
    let mut pairs = pairs(2);
    pairs.handle_view(at(1), &other_view(-5));
    assert_eq!(hosts_of(&mut pairs, -5), 3);
    assert_eq!(hosts_of(&mut pairs, -6), 1);
    // The other one goes to a pair of its own.
    pairs.handle_view(at(1), &other_view(-7));
    assert_eq!(hosts_of(&mut pairs, -5), 2);
    assert_eq!(hosts_of(&mut pairs, -7), 1);
    pairs.handle_view(at(1), &other_view(-5));
    pairs.forget(at(1), &ServiceName::new("pay").unwrap());
    assert_eq!(hosts_of(&mut pairs, -5), 1);
    assert_eq!(get_host(&mut pairs, 1, -7).retcode, 3);
    pairs.forget(at(1), &ServiceName::new("refund").unwrap());
    assert_eq!(get_host(&mut pairs, 1, -5).retcode, 3);
}

/// Negative ids indexed outside of the reference's arrays.
#[test]
fn a_negative_pair_is_served_and_an_unknown_one_is_told() {
    let mut pairs = pairs(3);
    let found = get_host(&mut pairs, 0, -5);
    assert_eq!(found.retcode, 0);
    assert!(found.host.unwrap().ip < 0, "200.0.0.0 is negative");
    for modid in [0, i32::MIN, i32::MAX, 5] {
        let answer = get_host(&mut pairs, 0, modid);
        assert_eq!((answer.retcode, answer.host), (3, None));
    }
    assert_eq!((pairs.counters.picks, pairs.counters.no_picks), (1, 4));
}

#[test]
fn hosts_take_turns_and_an_overloaded_one_is_tried_now_and_then() {
    let mut pairs = pairs(2);
    let first = get_host(&mut pairs, 0, -5).host.unwrap();
    assert_ne!(get_host(&mut pairs, 0, -5).host.unwrap(), first);
    for _ in 0..15 {
        report(&mut pairs, 0, first, 2);
    }
    let given = (0..22).map(|_| get_host(&mut pairs, 0, -5).host.unwrap());
    assert_eq!(
        given.filter(|host| *host == first).count(),
        2,
        "each eleventh"
    );
    // Both: nothing is given, except that each eleventh tries one.
    let other = get_host(&mut pairs, 0, -5).host.unwrap();
    for _ in 0..30 {
        report(&mut pairs, 0, other, 2);
    }
    let codes: Vec<i32> = (0..22)
        .map(|_| get_host(&mut pairs, 0, -5).retcode)
        .collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 2);
    assert_eq!(codes.iter().filter(|code| **code == 1).count(), 20);
}

/// A host without calls never recovered, since rules ran with its reports only.
#[test]
fn an_overloaded_host_is_back_after_its_time_without_any_report() {
    let mut pairs = pairs(1);
    let host = get_host(&mut pairs, 0, -5).host.unwrap();
    for _ in 0..15 {
        report(&mut pairs, 0, host, 2);
    }
    assert_eq!(get_host(&mut pairs, 1, -5).retcode, 1);
    pairs.handle_turn(at(15_100));
    assert_eq!(get_host(&mut pairs, 15_100, -5).retcode, 0);
}

/// After a host was removed the reference served garbage and died.
#[test]
fn a_removed_host_is_not_given_and_its_results_are_dropped() {
    let mut pairs = pairs(2);
    let hosts: Vec<_> = (0..2)
        .map(|_| get_host(&mut pairs, 0, -5).host.unwrap())
        .collect();
    pairs.handle_view(at(1), &view(1..2));
    let left = get_host(&mut pairs, 1, -5).host.unwrap();
    let gone = *hosts.iter().find(|host| **host != left).unwrap();
    for _ in 0..10 {
        assert_eq!(get_host(&mut pairs, 1, -5).host, Some(left));
        report(&mut pairs, 1, gone, 2);
    }
    assert_eq!(pairs.counters.stale_reports, 10);
    pairs.handle_view(at(2), &view([]));
    let answer = get_host(&mut pairs, 2, -5);
    assert_eq!((answer.retcode, answer.host), (3, None));
}

/// Routes over 64 KB could not be answered.
#[test]
fn a_large_route_is_told_in_parts_that_take_turns() {
    let mut pairs = pairs(10_000);
    let request = Message::ApiGetRouteRequest(GetRouteRequest {
        modid: -5,
        cmdid: 7,
    });
    let mut told = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let Some(Message::ApiGetRouteResponse(part)) = ask(&mut pairs, 0, &request) else {
            panic!("no answer");
        };
        assert!(part.hosts.len() > 3000);
        told.extend(part.hosts);
    }
    assert_eq!(told.len(), 10_000, "all of them within four answers");
    assert!(pairs.counters.left_out > 10_000);
    assert_eq!(get_host(&mut pairs, 0, -5).retcode, 0);
}

/// -5, which takes ten bytes.
const MODID: [u8; 10] = [0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];

/// 200.0.0.1:7000, as a field with that number before it.
const HOST: [u8; 15] = [
    14, 8, 0x81, 0x80, 0x80, 0xc0, 0xfc, 0xff, 0xff, 0xff, 0xff, 1, 16, 0xd8, 0x36,
];

/// A datagram is whole or nothing: what was cut on its way is not answered, and
/// counts for no host.
#[test]
fn answers_have_the_golden_bytes_and_parts_of_questions_have_none() {
    let mut pairs = pairs(1);
    let whose = [&MODID[..], &[24, 7]].concat();
    let get_host = [&[4, 0, 0, 0, 15, 0, 0, 0, 8, 9, 16], &whose[..]].concat();
    let host = [
        &[5, 0, 0, 0, 31, 0, 0, 0, 8, 9, 16],
        &whose[..],
        &[42],
        &HOST,
    ]
    .concat();
    let whose = [&[8], &MODID[..], &[16, 7]].concat();
    let get_route = [&[7, 0, 0, 0, 13, 0, 0, 0], &whose[..]].concat();
    let route = [&[8, 0, 0, 0, 29, 0, 0, 0], &whose[..], &[26], &HOST].concat();
    let failed = [
        &[6, 0, 0, 0, 31, 0, 0, 0],
        &whose[..],
        &[26],
        &HOST[..],
        &[32, 2],
    ]
    .concat();
    let mut dropped = 0;
    for (said, answer) in [(get_host, host), (get_route, route), (failed, Vec::new())] {
        let mut out = Vec::new();
        for cut in 0..said.len() {
            pairs.handle(at(0), &said[..cut], &mut out);
            assert!(out.is_empty(), "cut at {cut}: {out:?}");
            dropped += 1;
        }
        assert_eq!(pairs.counters.reports, 0);
        pairs.handle(at(0), &said, &mut out);
        assert_eq!(out, answer);
    }
    assert_eq!(
        (pairs.counters.dropped, pairs.counters.reports),
        (dropped, 1)
    );
}

#[test]
fn noise_is_dropped_and_counted() {
    let mut pairs = pairs(1);
    let mut out = vec![1];
    let mut longest = vec![0xff; HEADER_LEN + 20];
    longest[..HEADER_LEN].copy_from_slice(&[6, 0, 0, 0, 20, 0, 0, 0]);
    let noise: [&[u8]; 5] = [
        &[],
        &[4, 0, 0, 0, 9, 0, 0, 0],
        &[99, 0, 0, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0],
        &longest,
    ];
    for bytes in noise {
        pairs.handle(at(0), bytes, &mut out);
        assert!(out.is_empty());
    }
    assert_eq!(pairs.counters.dropped, 5);
    // A report of nothing is one of a host that is not there.
    pairs.handle(at(0), &[6, 0, 0, 0, 0, 0, 0, 0], &mut out);
    assert_eq!(pairs.counters.stale_reports, 1);
}

/// Datagrams that are nearly some: with the head of one, cut, or of any bytes.
fn datagrams() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    (0..10_i32, bytes, any::<bool>()).prop_map(|(id, body, has_head)| {
        if !has_head {
            return body;
        }
        let length = u32::try_from(body.len()).unwrap();
        [&id.to_le_bytes()[..], &length.to_le_bytes(), &body].concat()
    })
}

/// A report of any host, with any code, and questions of any pair.
fn messages() -> impl Strategy<Value = Message> {
    let pair = (prop_oneof![Just(-5), any::<i32>()], any::<i32>());
    let host = prop::option::of((any::<i32>(), any::<i32>()));
    (0..3, pair, host, any::<i32>()).prop_map(|(kind, (modid, cmdid), host, number)| match kind {
        0 => Message::GetHostRequest(GetHostRequest {
            seq: number.cast_unsigned(),
            modid,
            cmdid,
        }),
        1 => Message::ApiGetRouteRequest(GetRouteRequest { modid, cmdid }),
        _ => Message::ReportRequest(ReportRequest {
            modid,
            cmdid,
            host: host.map(|(ip, port)| HostInfo { ip, port }),
            retcode: number,
        }),
    })
}

proptest! {
    /// Whatever comes, the agent answers with a datagram or not at all, and goes on.
    #[test]
    fn any_datagrams_are_answered_or_dropped(
        noise in prop::collection::vec(datagrams(), 0..20),
        said in prop::collection::vec(messages(), 0..20),
    ) {
        let mut pairs = pairs(3);
        let mut out = Vec::new();
        for bytes in noise {
            out.clear();
            pairs.handle(at(0), &bytes, &mut out);
            prop_assert!(out.is_empty() || datagram(&out).is_ok());
        }
        for message in &said {
            if let Some(answer) = ask(&mut pairs, 0, message) {
                prop_assert!(matches!(
                    answer,
                    Message::GetHostResponse(_) | Message::ApiGetRouteResponse(_)
                ));
            }
        }
        let answer = get_host(&mut pairs, 1, -5);
        prop_assert!(answer.retcode == 0 && answer.host.is_some());
    }
}
