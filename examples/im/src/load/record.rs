//! What a message of a run says, and what the transcripts keep of it.

use std::fmt::Write as _;

use waystation_base::{Moment, hash64};

use crate::im::{Message, SendRequest};

use super::topology::Topology;

/// Stands for a conversation or a message that is not of this run.
pub(super) const FOREIGN: u32 = u32::MAX;

/// A message as its sender knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) number: u32,
    pub(super) room: u32,
    pub(super) sender: u32,
    pub(super) digest: u32,
    /// Its number in the conversation, once it was acknowledged.
    pub(super) seq: Option<u32>,
}

/// A message as one member got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// By which of the member's connections.
    pub(super) session: u32,
    pub(super) room: u32,
    pub(super) number: u32,
    pub(super) seq: u32,
    pub(super) digest: u32,
}

/// Letters that bodies are filled with: of one, two, three and four bytes, so
/// that a cut in the wrong place shows.
const LETTERS: [&str; 8] = ["a", "ß", "7", "語", " ", "\u{1F600}", "\"", "é"];

/// The request that sends a message, and its digest. `intended` travels in
/// the body, since the recipient may be on another shard.
pub(super) fn compose(
    topology: &Topology,
    number: u32,
    (sender, room): (u32, u32),
    intended: Moment,
    body_bytes: usize,
) -> (SendRequest, u32) {
    let mut body = String::with_capacity(body_bytes + 20);
    // Writing into a string cannot fail.
    let _ = write!(body, "{:016x} ", intended.as_nanos());
    let mut letter = number as usize;
    while body.len() < body_bytes {
        body.push_str(LETTERS[letter % LETTERS.len()]);
        letter = letter / 3 + letter % 3 + 1;
    }
    let request = SendRequest {
        conversation: topology.rooms[room as usize].name.clone(),
        client_id: format!("m{number:x}"),
        body,
        ..SendRequest::default()
    };
    let sender = &topology.uids[sender as usize];
    let digest = digest(
        &request.conversation,
        sender,
        &request.client_id,
        &request.body,
    );
    (request, digest)
}

/// What a transcript keeps of a message. Cost: a hash of its text.
pub(super) fn record(topology: &Topology, session: u32, message: &Message) -> Received {
    Received {
        session,
        room: topology.room_of(&message.conversation).unwrap_or(FOREIGN),
        number: number_of(&message.client_id).unwrap_or(FOREIGN),
        // A number that does not fit is no number of this run.
        seq: u32::try_from(message.seq).unwrap_or(u32::MAX),
        digest: digest(
            &message.conversation,
            &message.sender,
            &message.client_id,
            &message.body,
        ),
    }
}

/// When a message was to be sent, from its body.
pub(super) fn intended_of(body: &str) -> Option<Moment> {
    let nanos = u64::from_str_radix(body.get(..16)?, 16).ok()?;
    Some(Moment::from_nanos(nanos))
}

fn number_of(client_id: &str) -> Option<u32> {
    u32::from_str_radix(client_id.strip_prefix('m')?, 16).ok()
}

/// A hash of all that must arrive as it was sent.
fn digest(conversation: &str, sender: &str, client_id: &str, body: &str) -> u32 {
    let parts = [conversation, sender, client_id, body];
    let hash = parts.iter().fold(0_u64, |hash, part| {
        (hash ^ hash64(part.as_bytes())).rotate_left(13)
    });
    #[expect(clippy::cast_possible_truncation, reason = "32 bits are kept")]
    let digest = hash as u32;
    digest
}

#[cfg(test)]
mod tests {
    use waystation_base::Rng;

    use super::*;

    fn delivered(topology: &Topology, sender: u32, request: &SendRequest) -> Message {
        Message {
            conversation: request.conversation.clone(),
            seq: 5,
            sender: topology.uids[sender as usize].clone(),
            client_id: request.client_id.clone(),
            body: request.body.clone(),
            at_ms: 1,
        }
    }

    #[test]
    fn what_arrives_unchanged_has_the_same_digest() {
        let topology = Topology::new("a", 4, &mut Rng::from_seed(1));
        let room = topology.places[2].direct[0];
        let intended = Moment::from_nanos(123_456_789_012);
        let (request, digest) = compose(&topology, 77, (2, room), intended, 64);
        assert!((64..70).contains(&request.body.len()));
        let message = delivered(&topology, 2, &request);
        let expected = Received {
            session: 3,
            room,
            number: 77,
            seq: 5,
            digest,
        };
        assert_eq!(record(&topology, 3, &message), expected);
        assert_eq!(intended_of(&message.body), Some(intended));
    }

    #[test]
    fn every_change_shows() {
        let topology = Topology::new("a", 4, &mut Rng::from_seed(1));
        let room = topology.places[0].direct[0];
        let (request, digest) = compose(&topology, 1, (0, room), Moment::ZERO, 64);
        let good = delivered(&topology, 0, &request);
        let changes: [fn(&mut Message); 5] = [
            |m| m.body.push('x'),
            |m| m.body.truncate(17),
            |m| m.sender.push('1'),
            |m| m.client_id.push('0'),
            |m| std::mem::swap(&mut m.sender, &mut m.client_id),
        ];
        for change in changes {
            let mut message = good.clone();
            change(&mut message);
            assert_ne!(record(&topology, 1, &message).digest, digest);
        }
    }

    #[test]
    fn what_is_not_ours_is_foreign() {
        let topology = Topology::new("a", 4, &mut Rng::from_seed(1));
        let message = Message {
            conversation: "g:elsewhere".into(),
            client_id: "c1".into(),
            seq: u64::MAX,
            ..Message::default()
        };
        let received = record(&topology, 1, &message);
        assert_eq!((received.room, received.number), (FOREIGN, FOREIGN));
        assert_eq!(received.seq, u32::MAX);
        for body in ["", "123", "zzzzzzzzzzzzzzzz ", "000000000000000\u{e9}"] {
            assert_eq!(intended_of(body), None);
        }
    }
}
