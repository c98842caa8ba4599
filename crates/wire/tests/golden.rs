//! The bytes on the wire do not change: nodes of different builds talk to each
//! other, and the format's page shows what other implementations rely on.

use std::collections::BTreeMap;
use std::time::Duration;

use waystation_base::{CallId, FencingToken, MessageId, Sid, SiteId, TraceId};
use waystation_wire::{
    BODY_LEN_MAX, Decoded, Flags, HEADER_LEN, Header, Kind, Load, Status, decode, encode_header,
    encode_into,
};

const GOLDEN: &str = include_str!("../testdata/native-frames.hex");
const PAGE: &str = include_str!("../../../docs/formats/native-frame.md");

/// A frame's header and body, as the example names them.
type Frames = Vec<(Header, &'static [u8])>;

fn examples() -> BTreeMap<&'static str, Frames> {
    let call = CallId(0x1112_1314_1516_1718);
    let message = MessageId(0x0102_0304);
    let origin = |header: Header| {
        header
            .with_sid(Sid(0x2021_2223_2425_2627_2829_2a2b_2c2d_2e2f))
            .with_trace(TraceId(0x3031_3233_3435_3637_3839_3a3b_3c3d_3e3f))
            .with_site(SiteId(0x0506))
    };
    let request = origin(Header::request(message, call))
        .with_flags(Flags::IDEMPOTENT)
        .with_deadline_left(Some(Duration::from_millis(250)))
        .with_load(Load {
            in_flight: 3,
            latency_us: 420,
        })
        .with_fencing(FencingToken(0x4142_4344_4546_4748));
    let reply = origin(Header::reply(call, message, Status::Conflict)).with_load(Load {
        in_flight: 17,
        latency_us: 1500,
    });
    let probe = Header::request(MessageId(0), CallId(2))
        .with_flags(Flags::PROBE)
        .with_deadline_left(Some(Duration::from_micros(1)));
    let two_frames = Header::request(MessageId(7), CallId(4));
    BTreeMap::from([
        ("request", vec![(request, &b"hello"[..])]),
        ("reply", vec![(reply, &b"late"[..])]),
        ("push", vec![(Header::push(MessageId(9)), &b""[..])]),
        ("cancel", vec![(Header::cancel(call), &b""[..])]),
        ("ping", vec![(Header::ping(CallId(0x61)), &b""[..])]),
        ("pong", vec![(Header::pong(CallId(0x61)), &b""[..])]),
        ("go_away", vec![(Header::go_away(), &b""[..])]),
        ("probe", vec![(probe, &b""[..])]),
        (
            "unknown_status",
            vec![(
                Header::reply(CallId(3), MessageId(7), Status::from(0x7fff)),
                &b""[..],
            )],
        ),
        (
            "two_frames",
            vec![
                (two_frames.with_flags(Flags::MORE), &b"way"[..]),
                (two_frames, &b"station"[..]),
            ],
        ),
    ])
}

/// The named byte strings of the golden file.
fn golden() -> BTreeMap<&'static str, Vec<u8>> {
    let mut frames: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    let mut name = "";
    for line in GOLDEN
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match from_hex(line) {
            Some(bytes) => frames.entry(name).or_default().extend(bytes),
            None => name = line,
        }
    }
    frames
}

/// The byte strings of the page's code blocks whose info string is `hex NAME`.
fn page() -> BTreeMap<&'static str, Vec<u8>> {
    let mut frames = BTreeMap::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```hex ") else {
            continue;
        };
        let rows = lines.by_ref().take_while(|line| *line != "```");
        let bytes = rows
            .flat_map(|row| from_hex(row).expect("a row of hex bytes"))
            .collect();
        assert!(
            frames.insert(name, bytes).is_none(),
            "the page shows {name} twice"
        );
    }
    frames
}

/// Pairs of hex digits with blanks between them; `None` for any other line.
fn from_hex(line: &str) -> Option<Vec<u8>> {
    let byte = |digits: &str| {
        (digits.len() == 2)
            .then(|| u8::from_str_radix(digits, 16).ok())
            .flatten()
    };
    line.split_whitespace().map(byte).collect()
}

fn encoded(frames: &Frames) -> Vec<u8> {
    let mut out = Vec::new();
    for (header, body) in frames {
        let body_len = u32::try_from(body.len()).expect("a small body");
        out.extend(encode_header(&Header {
            body_len,
            ..*header
        }));
        out.extend_from_slice(body);
    }
    out
}

#[test]
fn every_kind_has_an_example() {
    let mut kinds: Vec<_> = Kind::ALL.map(Kind::name).to_vec();
    kinds.retain(|name| !golden().contains_key(name));
    assert!(kinds.is_empty(), "no golden bytes for {kinds:?}");
    assert!(
        golden().keys().eq(examples().keys()),
        "{:?}",
        golden().keys()
    );
}

#[test]
fn frames_encode_to_the_golden_bytes() {
    let golden = golden();
    for (name, frames) in examples() {
        assert_eq!(encoded(&frames), golden[name], "{name}");
    }
}

#[test]
fn whole_messages_encode_to_the_golden_bytes() {
    let golden = golden();
    for (name, frames) in examples() {
        if let [(header, body)] = frames[..] {
            let mut out = Vec::new();
            encode_into(&header, body, &mut out).unwrap();
            assert_eq!(out, golden[name], "{name}");
        }
    }
}

#[test]
fn the_golden_bytes_decode_to_the_frames() {
    let golden = golden();
    for (name, frames) in examples() {
        let mut rest = golden[name].as_slice();
        for (header, body) in frames {
            let body_len = u32::try_from(body.len()).unwrap();
            let expected = Header { body_len, ..header };
            assert_eq!(decode(rest), Ok(Decoded::Frame(expected)), "{name}");
            assert_eq!(&rest[HEADER_LEN..expected.frame_len()], body, "{name}");
            rest = &rest[expected.frame_len()..];
        }
        assert!(rest.is_empty(), "{name}: bytes are left over");
    }
}

#[test]
fn the_page_shows_the_golden_bytes() {
    assert_eq!(page(), golden());
}

#[test]
fn the_page_lists_every_kind_and_status_and_limit() {
    for kind in Kind::ALL {
        let row = format!("| {} | `{}` |", kind.code(), kind.name());
        assert!(PAGE.contains(&row), "the page lacks {row}");
    }
    for status in Status::ALL {
        let again = match status {
            Status::Ok => "",
            _ if status.may_retry() => "yes ",
            _ if status.may_retry_idempotent() => "if idempotent ",
            _ => "no ",
        };
        let (code, name, http) = (status.code(), status.name(), status.http_code());
        let row = format!("| {code} | `{name}` | {http} | {again}|");
        assert!(PAGE.contains(&row), "the page lacks {row}");
    }
    assert_eq!(BODY_LEN_MAX, 1_048_496);
    assert!(PAGE.contains("1,048,496"));
}

#[test]
fn the_fuzz_seeds_are_the_golden_bytes() {
    // A seed of `frame_decode` is a byte that asks for no split, then the stream.
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/frame_decode");
    for (name, bytes) in golden() {
        let seed = std::fs::read(format!("{seeds}/{name}")).unwrap_or_default();
        assert_eq!(seed.split_first(), Some((&0, &bytes[..])), "seed {name}");
    }
}
