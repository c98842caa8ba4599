//! Ends of calls that were picked by socket, on their way to the agent.

use std::time::Duration;

use waystation_balance::{CallEnd, Load};
use waystation_membership::Address;

use super::{Shared, State};
use crate::attempt::Outcome;
use crate::caller::PickedHost;
use crate::config::Source;
use crate::ends::{Ended, SENT_MAX};
use crate::socket::Socket;

impl Shared {
    /// The end of a call that was not picked from shared memory. It never waits:
    /// whoever has a word with the agent just now sends it afterwards.
    pub(crate) fn report(
        &self,
        picked: &PickedHost,
        end: CallEnd,
        latency: Option<Duration>,
        load: Load,
    ) {
        if self.is_child() {
            return;
        }
        match picked.source {
            Source::Socket => {}
            Source::Udp => {
                if let (Some(lars), Address::V4(address)) = (&self.config.lars, &picked.address) {
                    lars.report((*address).into(), end == CallEnd::Ok);
                }
                return;
            }
            // They are counted in shared memory, or nobody is there to count them.
            Source::Segment | Source::Kept => return,
        }
        let ended = Ended::of(picked, end, latency, load);
        let mut state = self.lock();
        state.ends.add(ended);
        if let Some((number, socket)) = state.socket.take() {
            state.keep(number, socket);
        }
        self.send_ends(&mut state);
    }

    /// How many ends of calls were lost, since too many waited for the agent.
    pub(crate) fn ends_lost(&self) -> u64 {
        self.lock().ends.lost()
    }

    /// Sends some of the ends of calls; whether there are more that can be sent now.
    pub(super) fn send_some(&self) -> bool {
        let mut state = self.lock();
        let before = state.ends.len();
        self.send_ends(&mut state);
        !state.ends.is_empty() && state.ends.len() < before
    }

    /// Sends ends of calls, not too many at once, unless somebody has the
    /// connection. It never waits. Over a connection that is there it heeds no
    /// pause: that has not failed.
    fn send_ends(&self, state: &mut State) {
        if state.ends.is_empty() || state.asking.is_under_way {
            return;
        }
        // One more for those that are left when the first one turns out to be over.
        for _ in 0..2 {
            let (number, mut socket) = match state.socket.take() {
                Some(kept) => kept,
                None if state.asking.rests() => return,
                None => match Socket::connect(&self.config.socket, self.config.timeout) {
                    Ok(socket) => {
                        state.sockets += 1;
                        (state.sockets, socket)
                    }
                    Err(_) => return state.asking.note(Outcome::Silence),
                },
            };
            let service = &self.config.service;
            if state
                .ends
                .send(service, number, &mut socket, SENT_MAX)
                .is_ok()
            {
                state.socket = Some((number, socket));
                return;
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.is_child() {
            return;
        }
        // Nobody comes after this.
        while self.send_some() {}
    }
}

impl State {
    /// Keeps a connection, unless an end was lost of a call that was picked over it:
    /// the agent gives up what it has of one that ends.
    pub(super) fn keep(&mut self, number: u64, socket: Socket) {
        if !self.ends.has_lost_of(number) {
            self.socket = Some((number, socket));
        }
    }
}
