//! How calls ended, as callers say who were not given memory.

use std::time::Duration;

use waystation_balance::Outcome;
use waystation_base::{Moment, ServiceName};
use waystation_client::protocol::{Answer, Code, Request};

use super::{Desk, Reply};
use crate::held::Held;

impl Desk {
    /// Takes in how a call ended to a host of a service that is kept.
    pub(super) fn report(
        &mut self,
        now: Moment,
        request: Request,
        name: &ServiceName,
        held: &mut Held,
    ) -> Reply {
        let Some(service) = self.services.get_mut(name) else {
            return self.stale_report(false);
        };
        match request {
            Request::Report {
                host,
                end,
                latency_us,
                load,
                address,
                ..
            } => {
                let mut outcome = Outcome::of(end.into()).with_load(load.into());
                outcome.latency = latency_us.map(Duration::from_micros);
                let is_of_here = address.is_none() && held.end_pick(name, host);
                let named = address.map_or(Some(host), |address| service.find(&address));
                let Some(host) = named else {
                    return self.stale_report(false);
                };
                if !is_of_here {
                    // What another connection picked was given up with that, or
                    // will be.
                    service.handle_sent(now, host);
                }
                if !service.report(now, host, &outcome) {
                    return self.stale_report(false);
                }
                Reply::none()
            }
            Request::ReportAddress { address, end, .. } => {
                if let Some(host) = service.find(&address) {
                    // It was never picked here, and ends at once.
                    service.handle_sent(now, host);
                    service.report(now, host, &Outcome::of(end.into()));
                    return Reply::of(Answer::Reported);
                }
                let text = format!("{name} has no host at {address}");
                Reply::refused(Code::NoHosts, text)
            }
            _ => unreachable!("it is none of these"),
        }
    }

    /// A report of a call to nobody who is known. `is_early` when he may be in a
    /// moment; then it counts once nobody waits for that any more, see
    /// [`Desk::handle_given_up`].
    pub(super) fn stale_report(&mut self, is_early: bool) -> Reply {
        self.stale_reports += u64::from(!is_early);
        Reply {
            is_early,
            ..Reply::none()
        }
    }

    /// An answer is as it is: nobody waits for a later one any more.
    pub(crate) fn handle_given_up(&mut self, reply: &Reply) {
        // Only a report has none.
        self.stale_reports += u64::from(reply.is_early && reply.answer.is_none());
    }
}
