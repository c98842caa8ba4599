//! The agent of this machine, as the callers on a shard use it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use waystation_balance::{CallEnd, Load};
use waystation_client::{CallGuard, Caller, CallerConfig};
use waystation_membership::Address;
use waystation_net::{Label, Shard};
use waystation_wire::Status as Code;

use crate::status::Status;

/// Picks and counts calls in memory that the agent shares. What may wait for the
/// agent runs beside the shard.
pub(crate) struct Agent {
    shard: Shard,
    config: CallerConfig,
    caller: RefCell<Caller>,
    is_attaching: Cell<bool>,
}

impl Agent {
    pub(crate) fn new(shard: &Shard, config: CallerConfig) -> Rc<Self> {
        let agent = Rc::new(Self {
            shard: shard.clone(),
            caller: RefCell::new(Caller::new(config.clone())),
            config,
            is_attaching: Cell::default(),
        });
        agent.attach();
        agent
    }

    /// Whether this process shares memory with an agent that lives. If not, it
    /// will.
    pub(crate) fn is_attached(self: &Rc<Self>) -> bool {
        let is_attached = self.caller.borrow_mut().hosts().is_some();
        if !is_attached {
            self.attach();
        }
        is_attached
    }

    /// A pick from shared memory. It does not wait.
    pub(crate) fn try_begin(&self) -> Option<CallGuard> {
        self.caller.borrow_mut().try_begin()
    }

    /// A pick by whatever way there is.
    pub(crate) async fn begin(&self) -> Result<CallGuard, Status> {
        let mut caller = self.caller.borrow().clone();
        let asked = self.shard.offload("pick a host", move || caller.begin());
        let service = &self.config.service;
        asked
            .await?
            .map_err(|error| Status::unavailable(format!("no host of {service}: {error}")))
    }

    /// Counts a call to a host that was chosen otherwise. It does not wait.
    pub(crate) fn begin_at(self: &Rc<Self>, address: &Address) -> Option<CallGuard> {
        let call = self.caller.borrow_mut().begin_at(address);
        if call.is_none() {
            self.is_attached();
        }
        call
    }

    /// Counts a call to any of these hosts that may be picked. It does not wait.
    /// Cost: O(hosts).
    pub(crate) fn begin_other(&self, is_one: impl Fn(&Address) -> bool) -> Option<CallGuard> {
        let mut caller = self.caller.borrow_mut();
        let hosts = caller.hosts()?;
        let others = hosts.iter();
        let others: Vec<_> = others
            .filter(|host| host.may_be_picked && is_one(&host.address))
            .collect();
        let drawn = usize::try_from(self.shard.random()).unwrap_or(0) % others.len().max(1);
        let other = others.get(drawn)?;
        caller.begin_at(&other.address)
    }

    /// Whether the agent knows of a reason not to call a host.
    pub(crate) fn advises_against(&self, address: &Address) -> bool {
        let may = self.caller.borrow_mut().may_be_picked(address);
        may == Some(false)
    }

    /// Attaches beside the shard, once at a time and with pauses.
    fn attach(self: &Rc<Self>) {
        if self.is_attaching.replace(true) {
            return;
        }
        let (agent, shard) = (Rc::downgrade(self), self.shard.clone());
        let (mut caller, pause) = (self.caller.borrow().clone(), self.config.pause);
        shard
            .clone()
            .spawn(Label::of("attach to the agent"), async move {
                // Why it fails is of no use here: without an agent, others pick.
                let _unheard = shard.offload("attach", move || caller.attach()).await;
                shard.sleep(pause).await;
                if let Some(agent) = agent.upgrade() {
                    agent.is_attaching.set(false);
                }
            });
    }
}

/// Reports how a call ended.
pub(crate) fn end<T>(call: CallGuard, result: &Result<T, Status>, load: waystation_wire::Load) {
    let load = match result {
        Err(status) if !status.is_answered() => Load::default(),
        _ => Load {
            in_flight: load.in_flight,
            latency_us: load.latency_us,
        },
    };
    call.end(end_of(result), load);
}

/// What a result says of the host. One that finds fault with the request has done
/// its work.
fn end_of<T>(result: &Result<T, Status>) -> CallEnd {
    let Err(status) = result else {
        return CallEnd::Ok;
    };
    match (status.code(), status.is_answered()) {
        // Overloaded is what is refused here: too many calls are out.
        (Code::Cancelled, _) | (Code::Overloaded | Code::TooLarge, false) => CallEnd::Cancelled,
        (Code::Overloaded, true) => CallEnd::Overloaded,
        (Code::DeadlineExceeded, _) => CallEnd::TimedOut,
        (Code::Unavailable | Code::OutcomeUnknown | Code::Draining, false) => CallEnd::Refused,
        (Code::Internal | Code::Unavailable | Code::OutcomeUnknown, _) => CallEnd::Failed,
        _ => CallEnd::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_judged_by_what_is_its_fault() {
        let here = |code| end_of::<()>(&Err(Status::new(code, "")));
        let there = |code| end_of::<()>(&Err(Status::answered(code, String::new(), false)));
        assert_eq!(end_of(&Ok(())), CallEnd::Ok);
        assert_eq!(there(Code::NotFound), CallEnd::Ok);
        assert_eq!(there(Code::Conflict), CallEnd::Ok);
        assert_eq!(there(Code::Internal), CallEnd::Failed);
        assert_eq!(there(Code::Overloaded), CallEnd::Overloaded);
        assert_eq!(here(Code::Overloaded), CallEnd::Cancelled, "it is ours");
        assert_eq!(here(Code::Unavailable), CallEnd::Refused);
        assert_eq!(
            here(Code::OutcomeUnknown),
            CallEnd::Refused,
            "a lost connection"
        );
        assert_eq!(there(Code::Unavailable), CallEnd::Failed, "it is up");
        assert_eq!(here(Code::DeadlineExceeded), CallEnd::TimedOut);
    }
}
