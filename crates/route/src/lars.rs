//! Agents of Lars: their questions, their subscriptions, and pushes to them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use bytes::Bytes;
use waystation_base::{ConnName, line_passes};
use waystation_membership::LarsPair;
use waystation_net::{CloseReason, Conn, Input, Session, Shard, Turn};
use waystation_wire::lars::{
    BODY_LEN_MAX, GetRouteRequest, GetRouteResponse, HEADER_LEN, HostInfo, Message, Scan, scan,
};

use crate::desk::Desk;
use crate::limits::{FRAMES_PER_TURN, PAIRS_PER_CONNECTION, SUBSCRIPTIONS_MAX};

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LarsCounters {
    /// Questions that were answered.
    pub questions: u64,
    /// Pushes that left, one for each subscriber.
    pub pushes: u64,
    /// Routes that were encoded to be pushed or answered.
    pub encoded: u64,
    /// Frames that are of no use to a route server, or no messages.
    pub skipped: u64,
    /// Questions that did not subscribe, since a bound is reached.
    pub unsubscribed: u64,
    /// Hosts of routes that did not fit a frame.
    pub left_out: u64,
}

/// The route of one pair, as agents of Lars get it.
#[derive(Debug, Default)]
struct Pair {
    hosts: Vec<HostInfo>,
    /// As a frame, for all who ask or are subscribed.
    frame: Option<Bytes>,
    /// Where the next frame with a part of the hosts begins.
    turn: usize,
    subscribers: BTreeSet<ConnName>,
}

/// All pairs that were asked for, or have hosts.
#[derive(Debug, Default)]
pub(crate) struct LarsTable {
    pairs: HashMap<LarsPair, Pair>,
    by_conn: HashMap<ConnName, HashSet<LarsPair>>,
    subscriptions: usize,
    pub(crate) counters: LarsCounters,
}

impl LarsTable {
    /// The hosts of a pair are these. Gives the frame and who is to get it, if
    /// that is anything new to anybody.
    pub(crate) fn put(
        &mut self,
        pair: LarsPair,
        hosts: Vec<HostInfo>,
    ) -> Option<(Bytes, Vec<ConnName>)> {
        let one = self.pairs.entry(pair).or_default();
        if one.hosts == hosts {
            self.forget_unused(pair);
            return None;
        }
        one.hosts = hosts;
        one.frame = None;
        if one.subscribers.is_empty() {
            self.forget_unused(pair);
            return None;
        }
        let subscribers = one.subscribers.iter().copied().collect();
        let frame = one.frame(pair, &mut self.counters);
        Some((frame, subscribers))
    }

    /// A connection asks for a pair, and is told of its changes from now on. One
    /// that does not exist yet may be asked for.
    pub(crate) fn ask(&mut self, conn: ConnName, pair: LarsPair) -> Bytes {
        self.counters.questions += 1;
        let mine = self.by_conn.entry(conn).or_default();
        let has_room = mine.len() < PAIRS_PER_CONNECTION && self.subscriptions < SUBSCRIPTIONS_MAX;
        let one = self.pairs.entry(pair).or_default();
        let frame = one.frame(pair, &mut self.counters);
        if mine.contains(&pair) {
            return frame;
        }
        if has_room {
            mine.insert(pair);
            one.subscribers.insert(conn);
            self.subscriptions += 1;
        } else {
            self.counters.unsubscribed += 1;
            self.forget_unused(pair);
        }
        frame
    }

    /// A connection has ended: nothing is for it any more.
    pub(crate) fn forget(&mut self, conn: ConnName) {
        for pair in self.by_conn.remove(&conn).into_iter().flatten() {
            if let Some(one) = self.pairs.get_mut(&pair) {
                one.subscribers.remove(&conn);
                self.subscriptions -= 1;
            }
            self.forget_unused(pair);
        }
    }

    /// Pairs that are subscribed to, over all connections.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Who asks for what does not exist must not fill the memory.
    fn forget_unused(&mut self, pair: LarsPair) {
        let one = self.pairs.get(&pair);
        if one.is_some_and(|one| one.subscribers.is_empty() && one.hosts.is_empty()) {
            self.pairs.remove(&pair);
        }
    }
}

impl Pair {
    /// The frame, encoded once for each change. A route that does not fit one is
    /// told in parts that take turns.
    fn frame(&mut self, pair: LarsPair, counters: &mut LarsCounters) -> Bytes {
        if let Some(frame) = &self.frame {
            return frame.clone();
        }
        let count = self.hosts.len();
        let LarsPair { modid, cmdid } = pair;
        let mut hosts = self.hosts.clone();
        hosts.rotate_left(self.turn.checked_rem(count).unwrap_or(0));
        let fitting = GetRouteResponse::fitting(modid, cmdid, &hosts, HEADER_LEN + BODY_LEN_MAX);
        hosts.truncate(fitting);
        let message = Message::GetRouteResponse(GetRouteResponse {
            modid,
            cmdid,
            hosts,
        });
        let mut frame = Vec::new();
        message
            .encode_into(&mut frame)
            .expect("as many hosts as fit");
        counters.encoded += 1;
        counters.left_out += (count - fitting) as u64;
        let frame = Bytes::from(frame);
        if fitting < count {
            self.turn = (self.turn + fitting) % count;
        } else {
            self.frame = Some(frame.clone());
        }
        frame
    }
}

/// Sends a frame to those who are still there. A name whose connection is gone
/// leads to nobody, whoever has its descriptor now.
pub(crate) fn push(shard: &Shard, frame: &Bytes, to: &[ConnName]) -> u64 {
    let mut pushes = 0;
    for name in to {
        let Ok(conn) = shard.connection(*name) else {
            continue;
        };
        match conn.send(frame) {
            Ok(()) => pushes += 1,
            // It would miss a push: it has to ask again.
            Err(_) => conn.close(CloseReason::SlowReader),
        }
    }
    pushes
}

/// One connection of an agent of Lars.
pub(crate) struct LarsSession {
    desk: Rc<Desk>,
}

impl LarsSession {
    pub(crate) fn new(desk: Rc<Desk>) -> Self {
        Self { desk }
    }

    fn handle_frame(&self, conn: &Conn, id: i32, body: &[u8]) {
        let Ok(Message::GetRouteRequest(question)) = Message::parse(id, body) else {
            self.desk.lars.borrow_mut().counters.skipped += 1;
            if let Some(unsaid) = line_passes!(conn.shard().now()) {
                tracing::warn!(peer = %conn.peer(), id, unsaid, "skipped a frame");
            }
            return;
        };
        let GetRouteRequest { modid, cmdid } = question;
        let pair = LarsPair { modid, cmdid };
        let frame = self.desk.lars.borrow_mut().ask(conn.name(), pair);
        if conn.send(&frame).is_err() {
            conn.close(CloseReason::SlowReader);
        }
    }
}

impl Session for LarsSession {
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason> {
        for _ in 0..FRAMES_PER_TURN {
            if input.is_empty() {
                return Ok(Turn::NeedMore);
            }
            match scan(input.bytes()) {
                Ok(Scan::Frame(frame)) => {
                    self.handle_frame(conn, frame.id, frame.body);
                    let length = frame.len();
                    conn.shard().counters().messages_in.add(1);
                    input.consume(length);
                }
                Ok(Scan::Need(total)) => {
                    input.want(total);
                    return Ok(Turn::NeedMore);
                }
                Err(error) => {
                    tracing::debug!(peer = %conn.peer(), %error, "not a frame of Lars");
                    return Err(CloseReason::Protocol("lars"));
                }
            }
        }
        Ok(Turn::Yield)
    }
}

#[cfg(test)]
#[path = "lars_tests.rs"]
mod tests;
