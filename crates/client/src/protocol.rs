//! What callers say to the agent over its Unix socket: a length of 32 bits,
//! little-endian, and so many bytes of JSON, in both directions. Descriptors come
//! with the first byte of an answer.

use serde::{Deserialize, Serialize};
use waystation_balance::{CallEnd, Load};

use crate::error::Error;

/// Longest message in bytes. A longer one ends its connection.
pub const MESSAGE_MAX: usize = 1024 * 1024;

/// Hosts of one answer to [`Request::List`], which are as many as fit with long
/// names. The rest is told to the next question.
pub const PAGE_HOSTS: usize = 1_000;

/// What a caller asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A route segment and a ledger for a service. Both end with the connection.
    Attach {
        /// Its name.
        service: String,
    },
    /// What an agent gave for a service that is gone: with it come the descriptors
    /// of the route segment and the ledger, in this order. It counts what that one
    /// did not live to tell.
    HandOver {
        /// The service's name.
        service: String,
    },
    /// A host for the next call.
    Pick {
        /// The service's name.
        service: String,
        /// What the call is about, for a policy that knows affinity.
        #[serde(default)]
        key: Option<u64>,
    },
    /// How a call ended that was picked by [`Request::Pick`]. It is not answered.
    Report {
        /// The service's name.
        service: String,
        /// The host, as it was named.
        host: HostRef,
        /// How it ended.
        end: End,
        /// From the pick to the end.
        #[serde(default)]
        latency_us: Option<u64>,
        /// The load that the reply told.
        #[serde(default)]
        load: ToldLoad,
        /// The host's address, when it was picked over a connection that is gone,
        /// maybe with its agent: it says which host that was, and `host` nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// How a call ended that nobody picked here, by the host's address. It is
    /// answered.
    ReportAddress {
        /// The service's name.
        service: String,
        /// The host's address.
        address: String,
        /// How it ended.
        end: End,
    },
    /// Hosts and what is known of them, at most [`PAGE_HOSTS`] of them; see
    /// [`hosts`].
    List {
        /// The service's name.
        service: String,
        /// Those from here on: 0, then what the answer before calls `next`.
        #[serde(default)]
        from: u32,
    },
    /// Why the next pick would go as it would.
    Explain {
        /// The service's name.
        service: String,
    },
    /// As [`Request::List`], of those that callers of Lars by UDP are given.
    ListPair {
        /// The module.
        modid: i32,
        /// The command.
        cmdid: i32,
        /// Those from here on.
        #[serde(default)]
        from: u32,
    },
    /// As [`Request::Explain`], of the next question of a caller of Lars by UDP.
    ExplainPair {
        /// The module.
        modid: i32,
        /// The command.
        cmdid: i32,
    },
}

/// A host's place at its agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRef {
    /// The slot.
    pub slot: u32,
    /// Which host of the slot.
    pub generation: u32,
}

impl HostRef {
    /// The slot and its generation.
    pub(crate) const fn place(self) -> (u32, u32) {
        (self.slot, self.generation)
    }
}

/// A load, as the socket has it; nothing is told by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldLoad {
    /// Requests that the host works on.
    pub in_flight: u32,
    /// The median time of its recent answers.
    pub latency_us: u32,
}

impl From<Load> for ToldLoad {
    fn from(load: Load) -> Self {
        Self {
            in_flight: load.in_flight,
            latency_us: load.latency_us,
        }
    }
}

impl From<ToldLoad> for Load {
    fn from(load: ToldLoad) -> Self {
        Self {
            in_flight: load.in_flight,
            latency_us: load.latency_us,
        }
    }
}

/// How a call ended, as the socket has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "as `waystation_balance::CallEnd`")]
pub enum End {
    Ok,
    Failed,
    Overloaded,
    Refused,
    TimedOut,
    Cancelled,
}

/// What the agent answers. A report has no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Two descriptors come with it: the route segment and the ledger.
    Attached,
    /// What another agent gave is counted here from now on.
    TakenOver,
    /// The host.
    Picked {
        /// Its place.
        host: HostRef,
        /// Where to call it.
        address: String,
        /// What decided.
        reason: String,
    },
    /// The result was taken in.
    Reported,
    /// Hosts.
    Listed {
        /// They.
        hosts: Vec<ListedHost>,
        /// Where they come from: `live`, `kept` from before the source was lost,
        /// or `disk` while it has not answered since the agent's start.
        #[serde(default)]
        origin: String,
        /// Where the next ones are asked for; none when these are the last.
        #[serde(default)]
        next: Option<u32>,
    },
    /// Why.
    Explained {
        /// The policy.
        policy: String,
        /// What comes out, or why nothing.
        result: String,
        /// Hosts that serve.
        serving: usize,
        /// How many of them are suspect or ejected.
        unavailable: usize,
        /// Whether so few are available that all are used.
        is_panic: bool,
        /// Who was compared.
        candidates: Vec<Candidate>,
        /// Where the hosts come from, as in [`Answer::Listed`].
        #[serde(default)]
        origin: String,
    },
    /// It is not done, and why.
    Refused {
        /// A short word.
        code: Code,
        /// A text for people.
        text: String,
    },
}

impl Answer {
    /// The same about hosts that come from there.
    #[must_use]
    pub fn from(mut self, from: String) -> Self {
        if let Self::Listed { origin, .. } | Self::Explained { origin, .. } = &mut self {
            *origin = from;
        }
        self
    }
}

/// All hosts of a service and where they come from, by as many questions as that
/// takes.
///
/// # Errors
/// Those of `ask`, and [`Error::BadAnswer`].
pub fn hosts(
    service: &str,
    ask: impl FnMut(&Request) -> Result<Answer, Error>,
) -> Result<(Vec<ListedHost>, String), Error> {
    let page = |from| Request::List {
        service: service.to_owned(),
        from,
    };
    pages(page, ask)
}

/// As [`hosts`], of those that callers of Lars are given for a pair.
///
/// # Errors
/// As [`hosts`].
pub fn pair_hosts(
    (modid, cmdid): (i32, i32),
    ask: impl FnMut(&Request) -> Result<Answer, Error>,
) -> Result<(Vec<ListedHost>, String), Error> {
    let page = |from| Request::ListPair { modid, cmdid, from };
    pages(page, ask)
}

fn pages(
    page: impl Fn(u32) -> Request,
    mut ask: impl FnMut(&Request) -> Result<Answer, Error>,
) -> Result<(Vec<ListedHost>, String), Error> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        match ask(&page(from))? {
            Answer::Listed {
                hosts,
                origin,
                next,
            } => {
                all.extend(hosts);
                match next {
                    // Places only rise, so that this ends.
                    Some(next) if next > from => from = next,
                    Some(next) => return Err(Error::BadAnswer(format!("{next} after {from}"))),
                    None => return Ok((all, origin)),
                }
            }
            other => return Err(Error::BadAnswer(format!("{other:?}"))),
        }
    }
}

/// Why the agent refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Nobody offers the service.
    NoSuchService,
    /// Nothing was heard of the service: the agent has only begun, or what tells it
    /// of services is away. Who had hosts of it goes on with those.
    NotYet,
    /// No host of it may be picked.
    NoHosts,
    /// A bound is reached, or the agent has a fault.
    Busy,
    /// The message makes no sense.
    BadRequest,
}

/// A host in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListedHost {
    /// The instance.
    pub id: String,
    /// Its address.
    pub address: String,
    /// `starting`, `serving` or `draining`.
    pub state: String,
    /// What the source of routes, probes and callers say together: `use`,
    /// `suspect` or `gone`. For callers of Lars `idle` or `overloaded`.
    pub verdict: String,
    /// What probes found: `ok`, `failed` or `none`.
    #[serde(default)]
    pub probe: String,
    /// What callers met in the last ten seconds: `ok`, `failing` or `none`.
    #[serde(default)]
    pub callers: String,
    /// Its share.
    pub weight: u32,
    /// How near it is.
    pub tier: u8,
    /// Whether it is ejected.
    pub ejected: bool,
    /// Whether it may be picked now.
    pub eligible: bool,
    /// Calls in flight from this machine.
    pub in_flight: u32,
    /// Moving peak average of the times of calls.
    pub latency_us: u64,
    /// Moving average of the share of failures.
    pub error_share: f64,
    /// Requests that the host reported last.
    pub reported_in_flight: u32,
    /// The median that it reported last.
    pub reported_latency_us: u32,
}

/// Who was compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The instance.
    pub id: String,
    /// Its address.
    pub address: String,
    /// What it costs, if it was compared by cost.
    pub cost: Option<f64>,
    /// Why it is in the list.
    pub note: String,
}

/// The number by which segments tell services apart.
pub fn service_hash(service: &str) -> u64 {
    waystation_base::hash64(service.as_bytes())
}

impl From<CallEnd> for End {
    fn from(end: CallEnd) -> Self {
        match end {
            CallEnd::Ok => Self::Ok,
            CallEnd::Failed => Self::Failed,
            CallEnd::Overloaded => Self::Overloaded,
            CallEnd::Refused => Self::Refused,
            CallEnd::TimedOut => Self::TimedOut,
            CallEnd::Cancelled => Self::Cancelled,
        }
    }
}

impl From<End> for CallEnd {
    fn from(end: End) -> Self {
        match end {
            End::Ok => Self::Ok,
            End::Failed => Self::Failed,
            End::Overloaded => Self::Overloaded,
            End::Refused => Self::Refused,
            End::TimedOut => Self::TimedOut,
            End::Cancelled => Self::Cancelled,
        }
    }
}
