//! Lars' frames: golden bytes, streams cut anywhere, and agreement with an
//! independent proto3 codec.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use prost::Message as _;
use waystation_wire::lars::{
    BODY_LEN_MAX, BodyError, DATAGRAM_LEN_MAX, DatagramError, Frame, FrameError, GetHostRequest,
    GetHostResponse, GetRouteRequest, GetRouteResponse, HEADER_LEN, HostCallResult, HostInfo,
    Message, MessageId, ReportRequest, ReportStatusRequest, Scan, TooLarge, datagram, scan,
};

#[path = "lars/peer.rs"]
mod peer;

const GOLDEN: &str = include_str!("../testdata/lars-frames.hex");
const PAGE: &str = include_str!("../../../docs/formats/lars.md");

fn host(ip: [u8; 4], port: u16) -> HostInfo {
    HostInfo::new(Ipv4Addr::from(ip), port)
}

fn route(modid: i32, cmdid: i32, hosts: &[HostInfo]) -> GetRouteResponse {
    GetRouteResponse {
        modid,
        cmdid,
        hosts: hosts.to_vec(),
    }
}

fn status() -> Message {
    let low = host([10, 0, 0, 1], 7000);
    let high = host([192, 168, 1, 2], 65535);
    Message::ReportStatusRequest(ReportStatusRequest {
        modid: 1,
        cmdid: 2,
        caller: low.ip,
        results: vec![
            HostCallResult {
                ip: high.ip,
                port: high.port,
                succ: 300,
                err: u32::MAX,
                overload: true,
            },
            HostCallResult::default(),
        ],
        ts: 1_700_000_000,
    })
}

fn examples() -> BTreeMap<&'static str, Message> {
    let ask = |modid, cmdid| GetRouteRequest { modid, cmdid };
    let low = host([10, 0, 0, 1], 7000);
    // From 128.0.0.0 on the number is negative and takes ten bytes.
    let high = host([192, 168, 1, 2], 65535);
    let answer = GetHostResponse {
        seq: 5,
        modid: 1,
        cmdid: 2,
        retcode: 0,
        host: Some(high),
    };
    BTreeMap::from([
        ("get_route_request", Message::GetRouteRequest(ask(1, 1))),
        (
            "get_route_request_empty",
            Message::GetRouteRequest(ask(0, 0)),
        ),
        (
            "get_route_request_negative",
            Message::GetRouteRequest(ask(-1, i32::MIN)),
        ),
        (
            "get_route_response",
            Message::GetRouteResponse(route(1, 2, &[low, high])),
        ),
        ("report_status_request", status()),
        (
            "get_host_request",
            Message::GetHostRequest(GetHostRequest {
                seq: u32::MAX,
                modid: 1,
                cmdid: 2,
            }),
        ),
        ("get_host_response", Message::GetHostResponse(answer)),
        (
            "get_host_response_no_such_service",
            Message::GetHostResponse(GetHostResponse {
                seq: 0,
                modid: 1,
                cmdid: 3,
                retcode: 3,
                host: None,
            }),
        ),
        (
            "report_request",
            Message::ReportRequest(ReportRequest {
                modid: 1,
                cmdid: 2,
                host: Some(low),
                retcode: 2,
            }),
        ),
        (
            "api_get_route_request",
            Message::ApiGetRouteRequest(ask(7, 8)),
        ),
        (
            "api_get_route_response",
            Message::ApiGetRouteResponse(route(7, 8, &[])),
        ),
    ])
}

fn from_hex(line: &str) -> Option<Vec<u8>> {
    let byte = |digits: &str| {
        (digits.len() == 2)
            .then(|| u8::from_str_radix(digits, 16).ok())
            .flatten()
    };
    line.split_whitespace().map(byte).collect()
}

/// The named byte strings of the golden file.
fn golden() -> BTreeMap<&'static str, Vec<u8>> {
    let mut frames: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    let mut name = "";
    let is_text = |line: &&str| !line.is_empty() && !line.starts_with('#');
    for line in GOLDEN.lines().filter(is_text) {
        match from_hex(line) {
            Some(bytes) => frames.entry(name).or_default().extend(bytes),
            None => name = line,
        }
    }
    frames
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode_into(&mut out).unwrap();
    assert_eq!(out.len(), HEADER_LEN + message.body_len());
    out
}

/// Reads a stream as a connection does, a piece of `cut` bytes at a time.
fn read(stream: &[u8], cut: usize) -> (Vec<Message>, Option<FrameError>) {
    let (mut taken, mut arrived, mut messages) = (0, 0, Vec::new());
    loop {
        match scan(&stream[taken..arrived]) {
            Err(error) => return (messages, Some(error)),
            Ok(Scan::Frame(frame)) => {
                messages.push(Message::parse(frame.id, frame.body).unwrap());
                taken += frame.len();
            }
            Ok(Scan::Need(total)) => {
                assert!(total > arrived - taken && total <= HEADER_LEN + BODY_LEN_MAX);
                if arrived == stream.len() {
                    return (messages, None);
                }
                arrived = (arrived + cut).min(stream.len());
            }
        }
    }
}

#[test]
fn messages_encode_to_the_golden_bytes_and_back() {
    let golden = golden();
    for (name, message) in examples() {
        assert_eq!(encoded(&message), golden[name], "{name}");
        let frame = datagram(&golden[name]).unwrap();
        assert_eq!(Message::parse(frame.id, frame.body), Ok(message), "{name}");
    }
    assert!(golden.keys().eq(examples().keys()), "{:?}", golden.keys());
    for id in MessageId::ALL {
        assert!(examples().values().any(|one| one.id() == id), "{id:?}");
        assert_eq!(MessageId::of(id.code()), Some(id));
        let row = format!("| {} | `{id:?}` |", id.code());
        assert!(PAGE.contains(&row), "the page lacks {row}");
    }
}

/// The bytes that the reference was seen to send.
#[test]
fn the_golden_bytes_are_those_of_lars() {
    let golden = golden();
    let seen = [
        ("get_route_request", "01 00 00 00 04 00 00 00 08 01 10 01"),
        ("get_route_request_empty", "01 00 00 00 00 00 00 00"),
        (
            "get_host_response_no_such_service",
            "05 00 00 00 06 00 00 00 10 01 18 03 20 03",
        ),
    ];
    for (name, bytes) in seen {
        assert_eq!(Some(&golden[name]), from_hex(bytes).as_ref(), "{name}");
        assert!(PAGE.contains(bytes), "the page lacks {name}");
    }
}

#[test]
fn the_fuzz_seeds_are_the_golden_bytes() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/lars_frames");
    for (name, bytes) in golden() {
        let seed = std::fs::read(format!("{seeds}/{name}")).unwrap_or_default();
        assert_eq!(seed.split_first(), Some((&1, &bytes[..])), "seed {name}");
    }
}

/// A reply that arrived in two reads killed the reference's agent.
#[test]
fn a_stream_reads_the_same_wherever_it_is_split() {
    let all: Vec<Message> = examples().into_values().collect();
    let stream: Vec<u8> = all.iter().flat_map(encoded).collect();
    for cut in 1..=stream.len() {
        assert_eq!(read(&stream, cut), (all.clone(), None), "cut {cut}");
    }
    // Each frame, in two parts at every byte.
    for message in &all {
        let bytes = encoded(message);
        for cut in 1..bytes.len() {
            let needed = if cut < HEADER_LEN {
                HEADER_LEN
            } else {
                bytes.len()
            };
            assert_eq!(scan(&bytes[..cut]), Ok(Scan::Need(needed)));
        }
    }
}

#[test]
fn lengths_are_refused_at_the_eighth_byte() {
    for length in [-1, i32::MIN, 65_528, i32::MAX] {
        let bytes = [1_i32.to_le_bytes(), length.to_le_bytes()].concat();
        assert_eq!(scan(&bytes[..7]), Ok(Scan::Need(8)));
        assert_eq!(scan(&bytes), Err(FrameError::BadLength { length }));
    }
    let bytes = [1_i32.to_le_bytes(), 65_527_i32.to_le_bytes()].concat();
    assert_eq!(scan(&bytes), Ok(Scan::Need(65_535)));
}

/// An empty body killed the reference's route server and report server.
#[test]
fn an_empty_body_is_a_message_of_zeros() {
    for id in MessageId::ALL {
        let message = Message::parse(id.code(), &[]).unwrap();
        assert_eq!(message.body_len(), 0);
        assert_eq!(encoded(&message).len(), HEADER_LEN);
    }
    assert_eq!(Message::parse(0, &[]), Err(BodyError::UnknownId(0)));
    assert_eq!(Message::parse(9, &[]), Err(BodyError::UnknownId(9)));
    let least = i32::MIN;
    assert_eq!(Message::parse(least, &[]), Err(BodyError::UnknownId(least)));
}

#[test]
fn a_datagram_is_one_frame_exactly() {
    let bytes = encoded(&examples()["get_host_request"]);
    let body = &bytes[HEADER_LEN..];
    assert_eq!(datagram(&bytes), Ok(Frame { id: 4, body }));
    let announced = i32::try_from(body.len()).unwrap();
    for cut in 0..bytes.len() {
        let expected = if cut < HEADER_LEN {
            DatagramError::NoHeader(cut)
        } else {
            DatagramError::LengthMismatch {
                announced,
                actual: cut - HEADER_LEN,
            }
        };
        assert_eq!(datagram(&bytes[..cut]), Err(expected));
    }
    let longer = [&bytes[..], &[0]].concat();
    let actual = body.len() + 1;
    let expected = DatagramError::LengthMismatch { announced, actual };
    assert_eq!(datagram(&longer), Err(expected));
}

#[test]
fn bodies_that_are_none_are_typed_errors() {
    let parse = |hex| Message::parse(1, &from_hex(hex).unwrap());
    assert_eq!(parse("08"), Err(BodyError::Truncated));
    assert_eq!(parse("08 80"), Err(BodyError::Truncated));
    assert_eq!(parse("1a 05 08"), Err(BodyError::Truncated));
    assert_eq!(parse("00 01"), Err(BodyError::BadField(0)));
    assert_eq!(parse("0e"), Err(BodyError::BadType(6)));
    assert_eq!(parse("0c"), Err(BodyError::BadType(4)));
    let long = "08 ff ff ff ff ff ff ff ff ff ff 01";
    assert_eq!(parse(long), Err(BodyError::LongNumber));
    assert_eq!(
        Message::parse(1, &[0x1b; 200]),
        Err(BodyError::TooDeep),
        "groups without end"
    );
}

#[test]
fn unknown_fields_and_repeated_ones_are_read_as_proto3_has_it() {
    let parse = |id, hex| Message::parse(id, &from_hex(hex).unwrap());
    let expected = GetRouteRequest { modid: 5, cmdid: 2 };
    // A group, 64 bits, 32 bits, a text, and `modid` twice.
    let hex = "08 01 1b 08 07 1c 21 01 02 03 04 05 06 07 08 2d 01 02 03 04 32 02 68 69 10 02 08 05";
    assert_eq!(parse(1, hex), Ok(Message::GetRouteRequest(expected)));
    // A host in two parts.
    let Ok(Message::ReportRequest(report)) = parse(6, "1a 02 08 01 1a 02 10 02") else {
        panic!("no report");
    };
    assert_eq!(report.host, Some(HostInfo { ip: 1, port: 2 }));
}

/// Routes over 64 KB could not be answered at all.
#[test]
fn of_a_large_route_goes_what_fits() {
    let hosts: Vec<_> = (0..10_000_u16).map(|n| host([200, 0, 0, 1], n)).collect();
    let all = Message::GetRouteResponse(route(-1, 1, &hosts));
    let mut out = Vec::new();
    let body_len = all.body_len();
    assert_eq!(all.encode_into(&mut out), Err(TooLarge { body_len }));
    assert!(out.is_empty());
    for frame_len_max in [HEADER_LEN, 40, 1400, DATAGRAM_LEN_MAX, usize::MAX] {
        let count = GetRouteResponse::fitting(-1, 1, &hosts, frame_len_max);
        let bytes = |count: usize| {
            let mut out = Vec::new();
            let part = route(-1, 1, &hosts[..count]);
            let _ = Message::ApiGetRouteResponse(part).encode_into(&mut out);
            out.len()
        };
        let frame_len_max = frame_len_max.min(HEADER_LEN + BODY_LEN_MAX);
        assert!(count == 0 || bytes(count) <= frame_len_max);
        let more = bytes(count + 1);
        assert!(more == 0 || more > frame_len_max, "room for one more");
    }
    assert_eq!(GetRouteResponse::fitting(1, 1, &hosts[..3], 1400), 3);
}

proptest! {
    #[test]
    fn messages_are_those_of_an_independent_codec(message in peer::message()) {
        let bytes = encoded(&message);
        prop_assert_eq!(&bytes[HEADER_LEN..], &peer::encode(&message)[..]);
        prop_assert_eq!(Message::parse(message.id().code(), &bytes[HEADER_LEN..]), Ok(message));
    }

    #[test]
    fn what_the_other_codec_reads_is_read_the_same(
        id in 1..9_i32,
        body in prop::collection::vec(prop_oneof![0..50_u8, any::<u8>()], 0..40),
    ) {
        let ours = Message::parse(id, &body);
        if let Some(theirs) = peer::decode(id, &body) {
            prop_assert_eq!(ours, Ok(theirs));
        }
    }

    #[test]
    fn any_bytes_give_a_message_or_an_error(id: i32, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::parse(id, &bytes);
        let _ = datagram(&bytes);
        if let Ok(Scan::Need(total)) = scan(&bytes) {
            prop_assert!(total > bytes.len());
        }
    }
}

#[test]
fn the_other_codec_is_another_one() {
    let body = peer::Route {
        modid: 1,
        ..peer::Route::default()
    };
    assert_eq!(body.encode_to_vec(), [8, 1]);
}
