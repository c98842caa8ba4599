//! Ends of calls that were picked by socket, on their way to the agent.
//!
//! Who ends a call sends what there is, and so does whoever has had a word with the
//! agent. For what is left then, and nobody may come, there is a thread, as long as
//! something waits.

use std::sync::Weak;
use std::time::Duration;

use waystation_balance::{CallEnd, Load};
use waystation_base::{Backoff, BackoffConfig};
use waystation_membership::Address;

use super::{Shared, State};
use crate::attempt::Outcome;
use crate::caller::PickedHost;
use crate::clock::pause;
use crate::config::Source;
use crate::ends::{Ended, SENT_MAX};
use crate::socket::Socket;

/// Between two attempts to send what waits for an agent that does not read, or is
/// gone: at first, and after many. So long after it is there again, and after the
/// pause that attempts make, what waits is sent.
const SEND_PAUSE: Duration = Duration::from_millis(20);
const SEND_PAUSE_MAX: Duration = Duration::from_millis(500);

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
        self.send_later(&mut state);
    }

    /// How many ends of calls were lost, since too many waited for the agent.
    pub(crate) fn ends_lost(&self) -> u64 {
        // Whoever held the lock as this process was forked is not in it.
        if self.is_child() {
            return 0;
        }
        self.lock().ends.lost()
    }

    /// Sends some of the ends of calls; whether there are more that can be sent now.
    pub(super) fn send_some(&self) -> bool {
        let mut state = self.lock();
        let before = state.ends.len();
        self.send_ends(&mut state);
        let is_more = !state.ends.is_empty() && state.ends.len() < before;
        if !is_more {
            self.send_later(&mut state);
        }
        is_more
    }

    /// Has a thread send what is left, unless somebody has a word with the agent and
    /// does it afterwards.
    fn send_later(&self, state: &mut State) {
        if state.ends.is_empty() || state.asking.is_under_way || state.is_sent_later {
            return;
        }
        let me = Weak::clone(&self.me);
        if me.strong_count() == 0 {
            // The last caller goes.
            return;
        }
        let thread = std::thread::Builder::new().name("ends of calls".to_owned());
        // Without a thread the next call does it.
        state.is_sent_later = thread.spawn(move || send_until_done(&me)).is_ok();
    }

    /// Whether nothing is left to send. Else whether some was sent.
    fn send_all(&self) -> Result<(), bool> {
        let before = self.lock().ends.len();
        while self.send_some() {}
        let mut state = self.lock();
        if state.ends.is_empty() {
            state.is_sent_later = false;
            return Ok(());
        }
        Err(state.ends.len() < before)
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

/// Sends what waits until nothing does, or nobody calls any more.
fn send_until_done(of: &Weak<Shared>) {
    let config = BackoffConfig {
        base: SEND_PAUSE,
        max: SEND_PAUSE_MAX,
        ..BackoffConfig::default()
    };
    let mut backoff = Backoff::new(config, of.as_ptr().addr() as u64);
    loop {
        pause(backoff.next_delay());
        let Some(shared) = of.upgrade() else { return };
        match shared.send_all() {
            Ok(()) => return,
            Err(true) => backoff.reset(),
            Err(false) => {}
        }
    }
}
