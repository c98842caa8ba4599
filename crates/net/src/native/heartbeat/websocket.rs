//! WebSocket pings (RFC 6455, 5.5.2), answered where the socket is.

use crate::native::websocket::put_head;

/// First byte of a ping, which is never fragmented.
const PING: u8 = 0x89;

/// First byte of a pong.
pub(crate) const PONG: u8 = 0x8A;

/// The longest head of a frame: two bytes, eight of length, four of mask.
const HEAD_MAX: usize = 14;

/// The longest payload of a control frame.
const CONTROL_MAX: u64 = 125;

/// Follows a client's frames and answers the pings among them.
#[derive(Default)]
pub(super) struct Frames {
    /// The frame's head, as far as it has come.
    head: Vec<u8>,
    /// Bytes of its payload that are still to come.
    payload: u64,
    /// The ping at hand: its mask and what has come of its payload.
    ping: Option<([u8; 4], Vec<u8>)>,
}

/// These are no frames of a client.
pub(super) struct Broken;

impl Frames {
    /// Looks at the next bytes, and counts what it answers; see
    /// [`Heartbeat::look`](crate::Heartbeat::look).
    pub(super) fn look(
        &mut self,
        received: &[u8],
        answers: &mut Vec<u8>,
        answered: &mut u64,
    ) -> Result<(), Broken> {
        let mut rest = received;
        while let Some((&first, behind)) = rest.split_first() {
            if self.payload > 0 {
                let most = usize::try_from(self.payload).unwrap_or(usize::MAX);
                let (part, behind) = rest.split_at(most.min(rest.len()));
                self.payload -= part.len() as u64;
                if let Some((_, payload)) = &mut self.ping {
                    payload.extend_from_slice(part);
                }
                rest = behind;
            } else {
                self.head.push(first);
                rest = behind;
                self.begin()?;
            }
            if self.payload == 0
                && self.head.is_empty()
                && let Some((mask, payload)) = self.ping.take()
            {
                put_head(answers, PONG, payload.len());
                let unmasked = payload.iter().zip(mask.iter().cycle());
                answers.extend(unmasked.map(|(byte, mask)| byte ^ mask));
                *answered += 1;
            }
        }
        Ok(())
    }

    /// Goes over to the payload when the head is complete.
    fn begin(&mut self) -> Result<(), Broken> {
        let [first, second, length @ ..] = self.head.as_slice() else {
            return Ok(());
        };
        if second & 0x80 == 0 {
            // A client's frames are masked.
            return Err(Broken);
        }
        let extended = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(mask) = length.get(extended..).and_then(<[u8]>::first_chunk::<4>) else {
            debug_assert!(self.head.len() < HEAD_MAX, "a head has at most 14 bytes");
            return Ok(());
        };
        let number = length[..extended]
            .iter()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        self.payload = if extended == 0 {
            u64::from(second & 0x7F)
        } else {
            number
        };
        if *first == PING {
            if self.payload > CONTROL_MAX {
                return Err(Broken);
            }
            self.ping = Some((*mask, Vec::new()));
        }
        self.head.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        put_head(&mut frame, first, payload.len());
        frame[1] |= 0x80;
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        frame
    }

    /// A ping between two fragments of a message is answered with its own
    /// payload, and one inside a payload is no ping, however they are cut.
    #[test]
    fn pings_are_found_however_the_stream_is_cut() {
        let ping = frame(PING, [9, 8, 7, 6], b"are you there");
        let mut stream = frame(0x01, [1, 2, 3, 4], &vec![7; 70_000]);
        stream.extend(&ping);
        stream.extend(frame(0x80, [0; 4], &ping));
        stream.extend(frame(PING, [1; 4], b""));
        stream.extend(frame(0x8A, [1; 4], b"a pong"));
        stream.extend(frame(0x82, [5; 4], &[1; 300]));
        let mut expected = vec![PONG, 13];
        expected.extend(b"are you there");
        expected.extend([PONG, 0]);
        for step in [1, 2, 3, 5, 7, 14, 126, 4096, stream.len()] {
            let mut frames = Frames::default();
            let (mut answers, mut answered) = (Vec::new(), 0);
            for part in stream.chunks(step) {
                let looked = frames.look(part, &mut answers, &mut answered);
                assert!(looked.is_ok());
            }
            assert_eq!((&answers, answered), (&expected, 2), "in steps of {step}");
        }
    }

    /// What was answered before a fault in the same bytes was not counted.
    #[test]
    fn what_no_client_may_send_ends_the_answers() {
        let mut unmasked = frame(PING, [1; 4], b"");
        put_head(&mut unmasked, PING, 3);
        let mut long = frame(PING, [1; 4], b"");
        long.extend(frame(PING, [1; 4], &[0; 126]));
        for stream in [unmasked, long] {
            let (mut answers, mut answered) = (Vec::new(), 0);
            let looked = Frames::default().look(&stream, &mut answers, &mut answered);
            assert!(looked.is_err());
            assert_eq!((answers, answered), (vec![PONG, 0], 1));
        }
    }
}
