//! Each kind of fault is made on purpose, and must be found as what it is.

use proptest::prelude::*;

use super::super::topology::Room;
use super::*;

/// Three users: a group of all, and a direct conversation of the first two.
struct World {
    topology: Topology,
    sent: Vec<Sent>,
    transcripts: Vec<Vec<Received>>,
    absent: Vec<bool>,
}

const GROUP: u32 = 0;
const DIRECT: u32 = 1;

impl World {
    /// Nine messages, alternating between the conversations, all delivered
    /// to all of their members by session 1.
    fn good() -> Self {
        let room = |name: &str, members: &[u32], is_group| Room {
            name: name.into(),
            members: members.to_vec(),
            is_group,
        };
        let rooms = vec![room("g:x", &[0, 1, 2], true), room("d:a:b", &[0, 1], false)];
        let uids = ["a", "b", "c"].map(String::from).to_vec();
        let mut world = Self {
            topology: Topology::from_rooms(uids, rooms),
            sent: Vec::new(),
            transcripts: vec![Vec::new(); 3],
            absent: vec![false; 3],
        };
        for number in 0..9 {
            let (room, sender) = (number % 2, number / 2 % 2);
            world.send(number, room, sender, number / 2 + 1);
        }
        world
    }

    fn send(&mut self, number: u32, room: u32, sender: u32, seq: u32) {
        let digest = 1000 + number;
        self.sent.push(Sent {
            number,
            room,
            sender,
            digest,
            seq: Some(seq),
        });
        for member in &self.topology.rooms[room as usize].members {
            self.transcripts[*member as usize].push(Received {
                session: 1,
                room,
                number,
                seq,
                digest,
            });
        }
    }

    fn check(&self) -> Verdict {
        check(&Evidence {
            topology: &self.topology,
            sent: &self.sent,
            transcripts: &self.transcripts,
            absent: &self.absent,
        })
    }

    fn place(&self, client: usize, number: u32) -> usize {
        let transcript = &self.transcripts[client];
        let mut places = transcript.iter();
        places.position(|r| r.number == number).unwrap()
    }
}

/// Checks a world with one thing changed; `expected` are the counts of lost,
/// duplicated, out of order, corrupted, misdelivered, disagreeing.
#[track_caller]
fn expect(change: impl FnOnce(&mut World), expected: [u64; 6]) {
    let mut world = World::good();
    change(&mut world);
    let verdict = world.check();
    let found = [
        verdict.lost,
        verdict.duplicated,
        verdict.out_of_order,
        verdict.corrupted,
        verdict.misdelivered,
        verdict.disagreeing,
    ];
    assert_eq!(found, expected, "{:#?}", verdict.examples);
    let total: u64 = expected.iter().sum();
    assert_eq!(verdict.examples.is_empty(), total == 0);
}

#[test]
fn a_good_run_has_no_fault() {
    expect(|_| {}, [0; 6]);
    // Five to three members and four to two.
    assert_eq!(World::good().check().delivered, 23);
}

/// After `up` had been stopped for good in the middle of a run, it printed
/// `lost: 41`: nobody could fetch what had not arrived, and nobody knows
/// whether it is lost.
#[test]
fn what_an_absent_member_lacks_is_not_verified() {
    let mut world = World::good();
    for client in [1, 2] {
        let place = world.place(client, 4);
        world.transcripts[client].remove(place);
    }
    world.absent[2] = true;
    let verdict = world.check();
    assert_eq!((verdict.lost, verdict.unverified), (1, 1));
    // A number that nobody saw may be of a message that was given up.
    let mut world = World::good();
    world.sent[4].seq = None;
    for transcript in &mut world.transcripts {
        transcript.retain(|received| received.number != 4);
    }
    assert_eq!(world.check().disagreeing, 1);
    world.absent[2] = true;
    let verdict = world.check();
    assert_eq!((verdict.disagreeing, verdict.unverified), (0, 1));
}

#[test]
fn a_message_missing_at_one_member_is_lost() {
    expect(
        |world| {
            let place = world.place(2, 4);
            world.transcripts[2].remove(place);
        },
        [1, 0, 0, 0, 0, 0],
    );
}

#[test]
fn a_message_missing_at_its_own_sender_is_lost() {
    expect(
        |world| {
            let place = world.place(1, 3);
            world.transcripts[1].remove(place);
        },
        [1, 0, 0, 0, 0, 0],
    );
}

#[test]
fn an_acknowledged_message_that_nobody_got_is_lost_to_all() {
    expect(
        |world| {
            for transcript in &mut world.transcripts {
                transcript.retain(|received| received.number != 8);
            }
        },
        [3, 0, 0, 0, 0, 0],
    );
}

#[test]
fn a_delivery_made_twice_in_one_session_is_a_duplicate() {
    expect(
        |world| {
            let place = world.place(0, 2);
            let again = world.transcripts[0][place];
            world.transcripts[0].insert(place + 1, again);
        },
        [0, 1, 0, 0, 0, 0],
    );
}

#[test]
fn a_delivery_repeated_by_a_resume_is_a_duplicate_and_nothing_else() {
    expect(
        |world| {
            let mut again = world.transcripts[0][0];
            again.session = 2;
            world.transcripts[0].push(again);
        },
        [0, 1, 0, 0, 0, 0],
    );
}

#[test]
fn a_message_stored_under_two_numbers_is_a_duplicate() {
    // Every member got both copies.
    expect(
        |world| {
            for client in 0..3 {
                let place = world.place(client, 8);
                let mut again = world.transcripts[client][place];
                again.seq = 6;
                world.transcripts[client].push(again);
            }
        },
        [0, 1 + 3, 0, 0, 0, 0],
    );
    // The sender was told another number than the members.
    expect(|world| world.sent[8].seq = Some(6), [0, 1, 0, 0, 0, 0]);
}

#[test]
fn exchanged_deliveries_are_out_of_order() {
    expect(
        |world| {
            let (one, other) = (world.place(1, 5), world.place(1, 7));
            world.transcripts[1].swap(one, other);
        },
        [0, 0, 1, 0, 0, 0],
    );
}

#[test]
fn a_sender_s_messages_stored_in_another_order_are_out_of_order() {
    // 0 and 4 are the first client's in the group: exchange their places.
    expect(
        |world| {
            let (one, other) = (world.sent[0].seq, world.sent[4].seq);
            (world.sent[0].seq, world.sent[4].seq) = (other, one);
            for client in 0..3 {
                let (a, b) = (world.place(client, 0), world.place(client, 4));
                let transcript = &mut world.transcripts[client];
                (transcript[a].seq, transcript[b].seq) = (transcript[b].seq, transcript[a].seq);
                transcript.swap(a, b);
            }
        },
        [0, 0, 3, 0, 0, 0],
    );
}

#[test]
fn conversations_may_arrive_in_any_order_among_themselves() {
    expect(
        |world| world.transcripts[0].sort_by_key(|r| (r.room == GROUP, r.seq)),
        [0; 6],
    );
}

#[test]
fn a_given_up_message_may_be_stored_late_or_never() {
    // Stored where it was sent, delivered to all, never answered.
    expect(|world| world.sent[2].seq = None, [0; 6]);
    // Never stored: the later ones moved up.
    expect(
        |world| {
            world.sent.push(Sent {
                number: 9,
                room: DIRECT,
                sender: 0,
                digest: 1,
                seq: None,
            });
        },
        [0; 6],
    );
    // Stored behind its sender's next message.
    expect(
        |world| {
            world.send(9, DIRECT, 0, 6);
            world.send(10, DIRECT, 0, 5);
            world.sent[9].seq = None;
            for client in 0..2 {
                let (a, b) = (world.place(client, 9), world.place(client, 10));
                world.transcripts[client].swap(a, b);
            }
        },
        [0; 6],
    );
}

#[test]
fn a_given_up_message_that_only_some_members_got_is_a_disagreement() {
    expect(
        |world| {
            world.sent[2].seq = None;
            let place = world.place(1, 2);
            world.transcripts[1].remove(place);
        },
        [0, 0, 0, 0, 0, 1],
    );
    // Behind the last acknowledged one it may still be on its way.
    expect(
        |world| {
            world.sent[8].seq = None;
            let place = world.place(1, 8);
            world.transcripts[1].remove(place);
        },
        [0; 6],
    );
}

#[test]
fn a_changed_text_is_corrupted() {
    expect(
        |world| world.transcripts[1][3].digest += 1,
        [0, 0, 0, 1, 0, 0],
    );
}

#[test]
fn a_delivery_to_a_stranger_is_misdelivered() {
    expect(
        |world| {
            let place = world.place(0, 1);
            let foreign = world.transcripts[0][place];
            world.transcripts[2].push(foreign);
        },
        [0, 0, 0, 0, 1, 0],
    );
    // A message, or a conversation, that this run does not have.
    expect(
        |world| {
            let one = world.transcripts[0][0];
            world.transcripts[0].push(Received { number: 99, ..one });
            world.transcripts[0].push(Received {
                room: u32::MAX,
                ..one
            });
        },
        [0, 0, 0, 0, 2, 0],
    );
}

#[test]
fn two_messages_with_one_number_disagree() {
    expect(
        |world| {
            for client in 0..2 {
                let place = world.place(client, 7);
                world.transcripts[client][place].seq = 3;
            }
            world.sent[7].seq = Some(3);
        },
        // Each of the two members also sees the order broken.
        [0, 0, 2, 0, 0, 1],
    );
}

#[test]
fn a_number_without_a_message_is_a_disagreement() {
    expect(
        |world| world.send(9, DIRECT, 0, 7),
        // Five and six are nowhere.
        [0, 0, 0, 0, 0, 2],
    );
}

#[test]
fn descriptions_are_bounded() {
    let mut world = World::good();
    for transcript in &mut world.transcripts {
        let again = transcript.clone();
        (0..9).for_each(|_| transcript.extend(&again));
    }
    let verdict = world.check();
    assert_eq!(verdict.duplicated, 23 * 9);
    assert_eq!(verdict.examples.len(), EXAMPLES_MAX);
}

proptest! {
    /// However a single delivery is moved, dropped or repeated, a fault is
    /// found, unless the move changed no order within its conversation.
    #[test]
    fn no_single_change_goes_unseen(client in 0_usize..3, from in 0_usize..9, to in 0_usize..9, what in 0..3) {
        let mut world = World::good();
        let transcript = &mut world.transcripts[client];
        let (from, to) = (from % transcript.len(), to % transcript.len());
        let received = transcript[from];
        let before = transcript.clone();
        match what {
            0 => { transcript.remove(from); }
            1 => transcript.insert(to, received),
            _ => {
                transcript.remove(from);
                transcript.insert(to, received);
            }
        }
        let order = |list: &[Received], room| -> Vec<u32> {
            list.iter().filter(|r| r.room == room).map(|r| r.number).collect()
        };
        let after = &world.transcripts[client];
        let same = [GROUP, DIRECT].iter().all(|room| order(&before, *room) == order(after, *room));
        let verdict = world.check();
        let faults = verdict.lost + verdict.duplicated + verdict.out_of_order;
        prop_assert_eq!(faults == 0, same);
    }
}
