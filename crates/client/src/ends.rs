//! Ends of calls that were picked by the agent's socket, until it is told of them.

use std::collections::VecDeque;
use std::time::Duration;

use waystation_balance::{CallEnd, Load};

use crate::caller::PickedHost;
use crate::error::Error;
use crate::protocol::{HostRef, Request};
use crate::socket::Socket;

/// Ends that wait for the agent. The oldest is lost for one more, and counted as
/// that; see [`Caller::ends_lost`](crate::Caller::ends_lost).
pub(crate) const ENDS_MAX: usize = 4096;

/// Most ends that are sent at once, while others wait who report theirs. The rest
/// is sent with the next.
pub(crate) const SENT_MAX: usize = 64;

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The connection that it was picked over.
    connection: u64,
    host: HostRef,
    address: String,
    end: CallEnd,
    latency_us: Option<u64>,
    load: Load,
}

impl Ended {
    pub(crate) fn of(
        picked: &PickedHost,
        end: CallEnd,
        latency: Option<Duration>,
        load: Load,
    ) -> Self {
        Self {
            connection: picked.attachment,
            host: picked.host,
            address: picked.address.to_string(),
            end,
            latency_us: latency.and_then(|one| u64::try_from(one.as_micros()).ok()),
            load,
        }
    }

    /// What is told of it over a connection. Where the one is gone that it was
    /// picked over, the agent has given the call up with that: its result counts
    /// all the same, and that it was given up is known.
    fn told(&self, service: &str, connection: u64) -> Option<Request> {
        let is_same = connection == self.connection;
        if !is_same && self.end == CallEnd::Cancelled {
            return None;
        }
        Some(Request::Report {
            service: service.to_owned(),
            host: self.host,
            end: self.end.into(),
            latency_us: self.latency_us,
            load: self.load.into(),
            address: (!is_same).then(|| self.address.clone()),
        })
    }
}

/// Ends that wait for the agent.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    waiting: VecDeque<Ended>,
    lost: u64,
    /// The last connection of which one was lost. Those before it are gone.
    lost_of: u64,
}

impl Ends {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many were lost.
    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether an end was lost of a call that was picked over this connection: for
    /// the agent that is in flight for as long as the connection is open.
    pub(crate) const fn has_lost_of(&self, connection: u64) -> bool {
        self.lost > 0 && connection <= self.lost_of
    }

    /// One more.
    pub(crate) fn add(&mut self, ended: Ended) {
        if self.waiting.len() >= ENDS_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.lost += 1;
            self.lost_of = self.lost_of.max(oldest.connection);
        }
        self.waiting.push_back(ended);
    }

    /// Sends so many over the connection of this number, as far as that goes
    /// without waiting.
    ///
    /// # Errors
    /// As [`Socket::try_tell`]; the connection is of no more use.
    pub(crate) fn send(
        &mut self,
        service: &str,
        number: u64,
        socket: &mut Socket,
        most: usize,
    ) -> Result<(), Error> {
        for _ in 0..most {
            let Some(first) = self.waiting.front() else {
                break;
            };
            if let Some(request) = first.told(service, number)
                && !socket.try_tell(&request)?
            {
                break;
            }
            self.waiting.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(connection: u64, end: CallEnd) -> Ended {
        Ended {
            connection,
            host: HostRef::default(),
            address: "10.0.0.1:80".to_owned(),
            end,
            latency_us: None,
            load: Load::default(),
        }
    }

    /// The address in what is told, if anything is.
    fn addresses(told: Option<Request>) -> Vec<Option<String>> {
        let address = |request| match request {
            Request::Report { address, .. } => address,
            other => panic!("{other:?}"),
        };
        told.into_iter().map(address).collect()
    }

    #[test]
    fn over_another_connection_a_host_is_named_by_its_address() {
        let (failed, given_up) = (ended(1, CallEnd::Failed), ended(1, CallEnd::Cancelled));
        assert_eq!(addresses(failed.told("pay", 1)), [None]);
        let elsewhere = Some("10.0.0.1:80".to_owned());
        assert_eq!(addresses(failed.told("pay", 2)), [elsewhere]);
        assert_eq!(addresses(given_up.told("pay", 1)), [None]);
        assert_eq!(addresses(given_up.told("pay", 2)), []);
    }

    #[test]
    fn the_oldest_is_lost_for_one_more_than_there_is_room_for() {
        let mut ends = Ends::default();
        for number in 0..ENDS_MAX as u64 {
            ends.add(ended(number, CallEnd::Ok));
        }
        assert!(!ends.has_lost_of(0));
        for lost in 0..2 {
            ends.add(ended(9, CallEnd::Ok));
            assert!(ends.has_lost_of(lost) && !ends.has_lost_of(lost + 1));
        }
        assert_eq!((ends.lost(), ends.waiting.len()), (2, ENDS_MAX));
        // One of an earlier connection that came late does not hide that.
        ends.waiting.push_front(ended(0, CallEnd::Ok));
        ends.add(ended(9, CallEnd::Ok));
        assert!(ends.has_lost_of(1) && !ends.has_lost_of(2));
    }
}
