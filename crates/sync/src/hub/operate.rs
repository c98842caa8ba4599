//! What operators ask for, in JSON.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use waystation_base::{Moment, SiteId};
use waystation_replica::{ApplyState, ChangeRefusal, Hub, Phase, SiteName, SiteStatus};
use waystation_wire::Status;

use super::desk::Desk;
use super::letters::{Ticket, ToShard, Unable};

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// How the hub and all sites fare: [`StatusReport`].
    Status,
    /// Whether all live sites are equal: [`ProofReport`](super::ProofReport).
    Verify {
        /// For how long to wait for the slowest site, in milliseconds, at most
        /// [`PROOF_WAIT_MAX`](crate::limits::PROOF_WAIT_MAX).
        wait_ms: u64,
    },
    /// Have gone what all sites have: [`TrimReport`].
    Trim,
    /// Give a site the right to write.
    Grant {
        /// Its name.
        site: String,
    },
    /// Take a site's right to write away.
    Fence {
        /// Its name.
        site: String,
    },
    /// Forget a site and what it pins.
    Forget {
        /// Its name.
        site: String,
    },
}

/// How a hub and all its sites fare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The log's history.
    pub epoch: u64,
    /// The log has what comes after this.
    pub start: u64,
    /// The last durable entry.
    pub end: u64,
    /// All known sites.
    pub sites: Vec<SiteReport>,
}

/// How a site fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; any of them may hold with any other"
)]
pub struct SiteReport {
    /// Its id.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Whether it has a database, and not a handler.
    #[serde(default)]
    pub has_rows: bool,
    /// `fresh`, `restoring`, `live`, `evicted` or `past end`; the last two must join
    /// anew.
    pub phase: String,
    /// Whether it is connected.
    pub is_connected: bool,
    /// The last sequence it applied.
    pub at: u64,
    /// Entries that it lacks.
    pub lag_entries: u64,
    /// Bytes that it lacks, about.
    pub lag_bytes: u64,
    /// How old the first entry that it lacks is, in seconds.
    pub lag_seconds: u64,
    /// When it will have caught up at its present rate, in seconds.
    pub eta_seconds: Option<u64>,
    /// Entries applied a second.
    pub applied_per_second: u64,
    /// `running`, `retrying` or `stopped`.
    pub applier: String,
    /// How busy its machine is, in thousandths.
    #[serde(default)]
    pub load_permille: u16,
    /// Entries that are parked.
    pub parked: u32,
    /// Whether an entry was skipped and not repaired.
    pub is_differing: bool,
    /// Whether it has the right to write.
    pub may_write: bool,
    /// How often it was given that right.
    pub grants: u64,
    /// Whether what is written there is not captured, or not read, for now.
    #[serde(default)]
    pub is_capture_stopped: bool,
    /// Captured writes that the log has not yet: they wait in the site's own database.
    #[serde(default)]
    pub unpublished: u64,
    /// Why it does not go on: the last error of its applier, of the capture of writes,
    /// or of the copy that it takes, as long as it lasts.
    pub error: Option<String>,
}

impl From<SiteStatus> for SiteReport {
    fn from(one: SiteStatus) -> Self {
        Self {
            id: one.site.0,
            name: one.name.to_string(),
            has_rows: one.has_rows,
            phase: match one.phase {
                Phase::Fresh => "fresh",
                Phase::Restoring => "restoring",
                Phase::Live => "live",
                Phase::Evicted => "evicted",
                Phase::Beyond => "past end",
            }
            .to_owned(),
            is_connected: one.is_connected,
            at: one.at.0,
            lag_entries: one.lag_entries,
            lag_bytes: one.lag_bytes,
            lag_seconds: one.lag.as_secs(),
            eta_seconds: one.eta.map(|eta| eta.as_secs()),
            applied_per_second: one.vitals.applied_per_second,
            applier: match one.vitals.apply {
                ApplyState::Running => "running",
                ApplyState::Retrying => "retrying",
                ApplyState::Stopped => "stopped",
            }
            .to_owned(),
            load_permille: one.vitals.load_permille,
            parked: one.vitals.parked,
            is_differing: one.vitals.is_differing,
            may_write: one.may_write,
            is_capture_stopped: one.vitals.is_capture_stopped,
            unpublished: one.vitals.unpublished,
            grants: one.grants,
            error: one.vitals.error.map(|error| error.to_string()),
        }
    }
}

impl StatusReport {
    /// The sites with a database, one behind the other; none without one. Each would
    /// stand at an entry that is no statement
    /// ([`is_opaque`](crate::statement::is_opaque)).
    pub fn databases(&self) -> Option<String> {
        let sites = self.sites.iter().filter(|site| site.has_rows);
        let names: Vec<&str> = sites.map(|site| site.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

/// What a trim left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimReport {
    /// Entries up to here may go. They go by whole segments.
    pub through: u64,
    /// The last durable entry.
    pub end: u64,
}

/// Something was done, and there is nothing to tell of it.
#[derive(Serialize)]
struct Done {
    done: bool,
}

impl Desk {
    pub(super) fn operate(&mut self, ticket: Ticket, operation: Operation) {
        let now = self.shard.now();
        match operation {
            Operation::Status => self.answer(ticket, &self.status(now)),
            Operation::Verify { wait_ms } => self.verify(ticket, wait_ms),
            Operation::Trim => {
                let through = self.hub.handle_trim(now).0;
                let end = self.hub.end().0;
                self.answer(ticket, &TrimReport { through, end });
            }
            Operation::Grant { site } => self.change(ticket, &site, Hub::handle_grant_writer),
            Operation::Fence { site } => self.change(ticket, &site, Hub::handle_fence_writer),
            Operation::Forget { site } if self.is_connected(now, &site) => {
                let error = format!("{site} is connected: stop it, then forget it");
                self.refuse(ticket, Unable::new(Status::Conflict, error));
            }
            Operation::Forget { site } => self.change(ticket, &site, Hub::handle_forget),
        }
    }

    pub(super) fn status(&self, now: Moment) -> StatusReport {
        StatusReport {
            epoch: self.hub.epoch().0,
            start: self.hub.start().0,
            end: self.hub.end().0,
            sites: self.hub.status(now).into_iter().map(Into::into).collect(),
        }
    }

    /// Whether a site is there. One that is would go on serving, and be given and
    /// publish nothing, if it were forgotten.
    fn is_connected(&self, now: Moment, name: &str) -> bool {
        let sites = self.status(now).sites;
        sites.iter().any(|one| one.name == name && one.is_connected)
    }

    /// Has the core change something; it is answered when it is durable.
    fn change(
        &mut self,
        ticket: Ticket,
        name: &str,
        change: impl FnOnce(&mut Hub, Moment, u64, SiteId),
    ) {
        let site = SiteName::new(name).ok();
        let Some(site) = site.and_then(|name| self.hub.site(&name)) else {
            let error = format!("no site has the name {name}");
            return self.refuse(ticket, Unable::new(Status::NotFound, error));
        };
        change(&mut self.hub, self.shard.now(), ticket.number(), site);
    }

    /// What an operator changed is durable.
    pub(super) fn changed(&mut self, ticket: u64) {
        self.answer(Ticket::of_number(ticket), &Done { done: true });
    }

    pub(super) fn refuse_change(&mut self, ticket: u64, refusal: &ChangeRefusal) {
        let status = match refusal {
            ChangeRefusal::UnknownSite => Status::NotFound,
            ChangeRefusal::LogFailed => Status::Unavailable,
            ChangeRefusal::Unknown { .. } => Status::OutcomeUnknown,
            _ => Status::Internal,
        };
        let unable = Unable::new(status, refusal.to_string());
        self.refuse(Ticket::of_number(ticket), unable);
    }

    pub(super) fn refuse(&mut self, ticket: Ticket, unable: Unable) {
        self.post(ticket.shard, ToShard::Operated(ticket.wait, Err(unable)));
    }

    pub(super) fn answer(&mut self, ticket: Ticket, report: &impl Serialize) {
        let answer = serde_json::to_vec(report).map(Bytes::from);
        let answer = answer.map_err(|error| Unable::new(Status::Internal, error.to_string()));
        self.post(ticket.shard, ToShard::Operated(ticket.wait, answer));
    }
}
