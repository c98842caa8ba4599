//! What holds for every header, every byte string and every way of cutting it.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use waystation_base::{CallId, FencingToken, MessageId, Sid, SiteId, TraceId};
use waystation_wire::{
    Assembler, BODY_LEN_MAX, Decoded, FRAME_LEN_MAX, Flags, FrameError, HEADER_LEN, Header, Kind,
    Load, Status, decode, encode_header, encode_into, frame_count,
};

fn header() -> impl Strategy<Value = Header> {
    let routing = (
        prop::sample::select(Kind::ALL.to_vec()),
        0..8u8,
        any::<u16>(),
        any::<u32>(),
        any::<u64>(),
        any::<u16>(),
    );
    let context = (
        any::<u128>(),
        any::<u128>(),
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
        any::<u64>(),
    );
    (routing, context).prop_map(|(routing, context)| {
        let (kind, flags, status, message, call, site) = routing;
        let (sid, trace, deadline_us, in_flight, latency_us, fencing) = context;
        Header {
            kind,
            flags: Flags::from_bits(flags).expect("three flags"),
            status: Status::from(status),
            message: MessageId(message),
            call: CallId(call),
            body_len: 0,
            sid: Sid(sid),
            trace: TraceId(trace),
            deadline_left: (deadline_us != 0)
                .then(|| Duration::from_micros(u64::from(deadline_us))),
            load: Load {
                in_flight,
                latency_us,
            },
            site: SiteId(site),
            fencing: FencingToken(fencing),
        }
    })
}

fn frame() -> impl Strategy<Value = (Header, Vec<u8>)> {
    (header(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(header, body)| {
        let body_len = u32::try_from(body.len()).expect("a small body");
        (Header { body_len, ..header }, body)
    })
}

fn stream_of(frames: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (header, body) in frames {
        stream.extend(encode_header(header));
        stream.extend(body);
    }
    stream
}

/// Decodes as a connection does: appends each piece as it arrives, takes what is
/// whole, asks again only when as many bytes are there as were needed, and looks
/// at what is left when the peer closes.
fn decode_in_pieces(stream: &[u8], cuts: &[usize]) -> (Vec<(Header, Vec<u8>)>, Option<FrameError>) {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.push(stream.len());
    cuts.sort_unstable();
    let (mut taken, mut needed, mut frames) = (0, 1, Vec::new());
    for arrived in cuts {
        while arrived - taken >= needed {
            let input = &stream[taken..arrived];
            match decode(input) {
                Err(error) => return (frames, Some(error)),
                Ok(Decoded::Need(len)) => {
                    assert!(len > input.len() && len <= FRAME_LEN_MAX, "needs {len}");
                    needed = len;
                }
                Ok(Decoded::Frame(header)) => {
                    assert!(header.frame_len() <= input.len());
                    frames.push((header, input[HEADER_LEN..header.frame_len()].to_vec()));
                    taken += header.frame_len();
                    needed = 1;
                }
            }
        }
    }
    (frames, decode(&stream[taken..]).err())
}

proptest! {
    #[test]
    fn a_frame_decodes_to_itself((header, body) in frame()) {
        let stream = stream_of(&[(header, body)]);
        prop_assert_eq!(decode(&stream), Ok(Decoded::Frame(header)));
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        mut input in prop::collection::vec(any::<u8>(), HEADER_LEN),
    ) {
        // Few random strings are headers, so the checked bytes are put right.
        (input[0], input[1], input[2]) = (0xF7, 1, input[2] % 7 + 1);
        input[3] &= 7;
        input[4..8].fill(0);
        let Ok(Decoded::Frame(header)) = decode(&input) else {
            return Err(TestCaseError::fail("a valid header did not decode"));
        };
        input[68..72].fill(0); // reserved
        prop_assert_eq!(&encode_header(&header)[..], &input[..]);
    }

    #[test]
    fn any_bytes_give_a_frame_or_a_need_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        decode_in_pieces(&bytes, &[]);
    }

    #[test]
    fn a_need_is_honest((header, body) in frame(), have in any::<prop::sample::Index>()) {
        let stream = stream_of(&[(header, body)]);
        let mut have = have.index(stream.len());
        let mut turns = 0;
        while let Decoded::Need(len) = decode(&stream[..have]).unwrap() {
            // As many bytes as were asked for always get further, and no frame
            // takes more than two turns: its first bytes, then the rest.
            prop_assert!(len > have && len <= stream.len());
            have = len;
            turns += 1;
        }
        prop_assert!(turns <= 2);
        prop_assert_eq!(have, stream.len());
    }

    #[test]
    fn the_cuts_do_not_matter(
        frames in prop::collection::vec(frame(), 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let stream = stream_of(&frames);
        prop_assert_eq!(decode_in_pieces(&stream, &cuts), (frames, None));
    }

    #[test]
    fn a_changed_byte_gives_the_same_end_for_every_cut(
        frames in prop::collection::vec(frame(), 1..4),
        place in any::<prop::sample::Index>(),
        change in 1..=255u8,
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut stream = stream_of(&frames);
        let place = place.index(stream.len());
        stream[place] ^= change;
        let whole = decode_in_pieces(&stream, &[]);
        prop_assert_eq!(decode_in_pieces(&stream, &cuts), whole);
    }

    #[test]
    fn a_fault_is_found_with_its_byte_and_stays(
        (header, body) in frame(),
        place in 0..4usize,
        byte in any::<u8>(),
    ) {
        let mut stream = stream_of(&[(header, body)]);
        stream[place] = byte;
        let first = decode(&stream[..=place]);
        for len in place + 1..=stream.len() {
            prop_assert_eq!(decode(&stream[..len]).is_err(), first.is_err());
        }
    }

    #[test]
    fn messages_of_any_kind_survive_the_assembler_in_any_interleaving(
        messages in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 1..5), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 60),
    ) {
        let mut queues: Vec<_> = messages.iter().map(|pieces| pieces.iter()).collect();
        let mut order = order.into_iter();
        let (mut assembler, mut finished) = (Assembler::new(), 0);
        loop {
            let open: Vec<_> = (0..queues.len()).filter(|at| queues[*at].len() > 0).collect();
            if open.is_empty() {
                break;
            }
            let at = open[order.next().map_or(0, |index| index.index(open.len()))];
            let piece = queues[at].next().expect("it is open");
            let last = queues[at].len() == 0;
            // Kinds alternate and calls repeat between them.
            let (call, message) = (CallId(at as u64 / 2), MessageId(7));
            let header = match at % 2 {
                0 => Header::request(message, call),
                _ => Header::reply(call, message, Status::Ok),
            };
            let header = if last { header } else { header.with_flags(Flags::MORE) };
            let got = assembler.push(header, Bytes::copy_from_slice(piece)).unwrap();
            prop_assert_eq!(got.is_some(), last);
            if let Some((got, body)) = got {
                prop_assert_eq!((got.kind, got.call), (header.kind, header.call));
                prop_assert_eq!(&body[..], &messages[at].concat()[..]);
                finished += 1;
            }
        }
        prop_assert_eq!(finished, messages.len());
        prop_assert!(assembler.is_idle());
        prop_assert_eq!(assembler.held_len(), 0);
    }
}

proptest! {
    // Each case moves megabytes.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_long_message_survives_splitting_and_joining(
        header in header(),
        kind in prop::sample::select(vec![Kind::Request, Kind::Reply, Kind::Push]),
        body_len in 0..4 * BODY_LEN_MAX,
        seed in any::<u8>(),
    ) {
        let header = Header { kind, ..header };
        // A period that divides no frame, so that lost or swapped pieces show.
        let period: Vec<u8> = (0..=250).map(|byte: u8| byte ^ seed).collect();
        let body: Vec<u8> = period.iter().copied().cycle().take(body_len).collect();
        let mut stream = Vec::new();
        encode_into(&header, &body, &mut stream).unwrap();
        let (frames, error) = decode_in_pieces(&stream, &[]);
        prop_assert_eq!(error, None);
        prop_assert_eq!(frames.len(), frame_count(body_len));
        let mut assembler = Assembler::new();
        let mut messages = Vec::new();
        for (header, body) in frames {
            messages.extend(assembler.push(header, Bytes::from(body)).unwrap());
        }
        let expected = Header {
            flags: header.flags.without(Flags::MORE),
            body_len: u32::try_from(body_len).unwrap(),
            ..header
        };
        prop_assert_eq!(messages.len(), 1);
        prop_assert_eq!(messages[0].0, expected);
        prop_assert!(messages[0].1 == body, "the body changed");
        prop_assert!(assembler.is_idle());
    }
}
