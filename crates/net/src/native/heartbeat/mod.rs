//! Pings and probes, answered where the socket is while the worker computes.

mod websocket;

use waystation_wire::{
    Decoded, Flags, HEADER_LEN, Header, Kind, Load, Status, decode, encode_header,
};

use self::websocket::Frames;
pub(super) use self::websocket::PONG;
use crate::split::Heartbeat;

/// Where a header has the length of its body: `docs/formats/native-frame.md`.
const BODY_LEN: std::ops::Range<usize> = 4..8;

/// Where a header has the frame's kind.
const KIND: usize = 2;

/// Where a header has the frame's flags.
const FLAGS: usize = 3;

/// The answer to a probe, but for the load.
pub(super) fn probed(probe: &Header) -> Header {
    Header::reply(probe.call, probe.message, Status::Ok)
        .with_sid(probe.sid)
        .with_trace(probe.trace)
}

/// Follows the frames of one connection and answers its pings and probes. It
/// decides by the same decoder as the worker, which leaves exactly those
/// unanswered. Of a probe in several frames the last one decides, here and there.
///
/// On a connection that speaks HTTP, and behind a broken frame, it answers
/// nothing; of one that became a WebSocket it answers that protocol's pings,
/// not those in its messages.
#[derive(Default)]
pub(super) struct NativeHeartbeat {
    /// The beginning of a header whose end has not come.
    partial: Vec<u8>,
    /// Bytes of a body that are still to come.
    body: usize,
    /// What answers the ping or probe that the body belongs to, but for the
    /// load.
    answer: Option<Header>,
    /// These are no native frames.
    blind: bool,
    /// The last bytes of what is no native frame: an HTTP head, perhaps.
    tail: [u8; 4],
    websocket: Option<Frames>,
}

impl NativeHeartbeat {
    /// Goes on behind a header.
    fn header(&mut self, head: &[u8; HEADER_LEN]) {
        self.body = match decode(head) {
            Ok(Decoded::Frame(_)) => 0,
            Ok(Decoded::Need(total)) => total.saturating_sub(HEADER_LEN),
            Err(_) => {
                self.blind = true;
                return;
            }
        };
        let is_request = head[KIND] == Kind::Request.code();
        let is_probe = is_request && head[FLAGS] & Flags::PROBE.bits() != 0;
        if head[KIND] != Kind::Ping.code() && !is_probe {
            return;
        }
        let mut bare = *head;
        bare[BODY_LEN].fill(0);
        match decode(&bare) {
            Ok(Decoded::Frame(header)) if header.has_more() && is_probe => {}
            Ok(Decoded::Frame(header)) if is_probe => self.answer = Some(probed(&header)),
            Ok(Decoded::Frame(header)) if !header.has_more() => {
                self.answer = Some(Header::pong(header.call));
            }
            // A ping that continues is a fault, which the worker names.
            _ => self.blind = true,
        }
    }

    /// Takes what is there of a header off the front of `rest`.
    fn begin<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        if let (true, Some((head, rest))) = (self.partial.is_empty(), rest.split_first_chunk()) {
            self.header(head);
            return rest;
        }
        let missing = HEADER_LEN - self.partial.len();
        let (more, rest) = rest.split_at(missing.min(rest.len()));
        self.partial.extend_from_slice(more);
        if let Some(&head) = self.partial.first_chunk() {
            self.partial = Vec::new();
            self.header(&head);
        } else if decode(&self.partial).is_err() {
            self.blind = true;
        }
        rest
    }
}

impl Heartbeat for NativeHeartbeat {
    fn look(&mut self, received: &[u8], load: &dyn Fn() -> Load, answers: &mut Vec<u8>) -> u64 {
        for &byte in &received[received.len().saturating_sub(4)..] {
            self.tail.rotate_left(1);
            self.tail[3] = byte;
        }
        let mut answered = 0;
        if let Some(frames) = &mut self.websocket {
            if frames.look(received, answers, &mut answered).is_err() {
                self.websocket = None;
            }
            return answered;
        }
        let mut rest = received;
        while !rest.is_empty() && !self.blind {
            if self.body > 0 {
                let step = self.body.min(rest.len());
                self.body -= step;
                rest = &rest[step..];
            } else {
                rest = self.begin(rest);
            }
            let ended = self.body == 0 && !self.blind;
            if let Some(answer) = self.answer.take_if(|_| ended) {
                answers.extend_from_slice(&encode_header(&answer.with_load(load())));
                answered += 1;
            }
        }
        answered
    }

    fn begin_websocket(&mut self) -> bool {
        // A client that sent frames before it was told that it may is served
        // by the worker: here nobody knows where they begin.
        let begins = self.blind && self.tail == *b"\r\n\r\n";
        self.websocket = begins.then(Frames::default);
        begins
    }
}

#[cfg(test)]
mod tests {
    use waystation_base::{CallId, MessageId};
    use waystation_wire::encode_into;

    use super::*;

    fn frame(header: &Header, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        encode_into(header, body, &mut frame).unwrap();
        frame
    }

    const LOAD: Load = Load {
        in_flight: 7,
        latency_us: 1500,
    };

    fn answers(stream: &[u8], step: usize) -> Vec<u8> {
        let mut heartbeat = NativeHeartbeat::default();
        let mut answers = Vec::new();
        let mut answered = 0;
        for part in stream.chunks(step) {
            answered += heartbeat.look(part, &|| LOAD, &mut answers);
        }
        assert_eq!(answers.len() as u64, answered * HEADER_LEN as u64);
        answers
    }

    /// A ping inside a body is no ping, and one between two pieces of the
    /// socket's bytes is one: however the stream is cut, the worker's decoder
    /// and this one find the same.
    #[test]
    fn pings_are_found_however_the_stream_is_cut() {
        let ping = |call| encode_header(&Header::ping(CallId(call)));
        let request = Header::request(MessageId::of("test/Echo"), CallId(7));
        let mut stream = ping(1).to_vec();
        stream.extend(frame(&request, &ping(99)));
        stream.extend(ping(2));
        stream.extend(frame(&Header::ping(CallId(3)), b"with a body"));
        stream.extend(frame(&request, b""));
        let probe = request.with_flags(Flags::PROBE);
        stream.extend(frame(&probe, b"with a body"));
        let mut expected = Vec::new();
        for call in [1, 2, 3] {
            expected.extend(encode_header(&Header::pong(CallId(call)).with_load(LOAD)));
        }
        expected.extend(encode_header(&probed(&probe).with_load(LOAD)));
        for step in 1..=stream.len() {
            assert_eq!(answers(&stream, step), expected, "in steps of {step}");
        }
    }

    #[test]
    fn other_protocols_and_broken_frames_are_left_alone() {
        let ping = encode_header(&Header::ping(CallId(1)));
        for first in ["GET / HTTP/1.1\r\n\r\n", "\u{1}\u{2}", "x"] {
            let mut stream = first.as_bytes().to_vec();
            stream.extend(ping);
            for step in [1, 3, stream.len()] {
                assert_eq!(answers(&stream, step), []);
            }
        }
        let mut broken = ping.to_vec();
        broken[1] = 0xEE;
        broken.extend(ping);
        assert_eq!(answers(&broken, 7), []);
    }
}
