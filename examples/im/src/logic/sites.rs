//! Other sites: where a conversation is written, and requests passed on to there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use waystation_membership::Instance;
use waystation_net::Shard;
use waystation_service::{Channel, Code, Ctx, Group, Pick, ProbeConfig, Retry, Status, address_of};

use super::handlers::Rules;
use super::limits::{ANOTHER_SITE, HOMES_KEPT};
use crate::im::HomeRequest;
use crate::joined::{Follower, logics_at};

/// The site of this Logic and all others, as far as they were needed.
pub(super) struct Sites {
    own: Rc<str>,
    shard: Shard,
    follower: Follower,
    probe: Option<ProbeConfig>,
    /// Where conversations are written, as Das said.
    homes: RefCell<HashMap<String, Rc<str>>>,
    /// The Logics of other sites. Each site has a name in the store, so that there
    /// are only so many.
    others: RefCell<HashMap<Rc<str>, Group>>,
}

/// Another site, at which a conversation is written.
pub(super) struct Away {
    site: Rc<str>,
    logics: Group,
}

impl Sites {
    /// None where the chat has one site.
    pub(super) fn new(
        shard: &Shard,
        follower: &Follower,
        probe: Option<&ProbeConfig>,
    ) -> Option<Self> {
        Some(Self {
            own: follower.site()?.into(),
            shard: shard.clone(),
            follower: follower.clone(),
            probe: probe.cloned(),
            homes: RefCell::default(),
            others: RefCell::default(),
        })
    }

    /// Where a conversation is written, if that was asked before.
    pub(super) fn home(&self, conversation: &str) -> Option<Rc<str>> {
        self.homes.borrow().get(conversation).cloned()
    }

    /// Das has said where a conversation is written.
    pub(super) fn learn(&self, conversation: &str, site: &str) -> Rc<str> {
        let mut homes = self.homes.borrow_mut();
        if homes.len() >= HOMES_KEPT {
            homes.clear();
        }
        let site: Rc<str> = if *site == *self.own {
            self.own.clone()
        } else {
            site.into()
        };
        homes.insert(conversation.to_owned(), site.clone());
        site
    }

    /// What was known of a conversation may be wrong.
    pub(super) fn forget(&self, conversation: &str) {
        self.homes.borrow_mut().remove(conversation);
    }

    /// The Logics of a site; none if it is this one. From the first time on they
    /// are followed.
    pub(super) fn away(&self, site: Rc<str>) -> Option<Away> {
        if site == self.own {
            return None;
        }
        let mut others = self.others.borrow_mut();
        let logics = others.entry(site.clone()).or_insert_with(|| {
            let service = logics_at(&site);
            let shard = self.shard.clone();
            let connect = move |instance: &Instance| Channel::new(&shard, address_of(instance));
            let group = Group::following(&service, connect);
            let probe = self.probe.as_ref();
            (self.follower).follow_named(&self.shard, &service, &group, probe, |_| {});
            group
        });
        let logics = logics.clone();
        Some(Away { site, logics })
    }
}

impl Away {
    /// Asks the Logic there that a conversation belongs to, and another one when it
    /// dies.
    ///
    /// # Errors
    /// What it answered, or that the site cannot be reached.
    pub(super) async fn ask<T>(
        &self,
        ctx: &Ctx,
        conversation: &str,
        mut question: impl AsyncFnMut(Pick, &Ctx) -> Result<T, Status>,
    ) -> Result<T, Status> {
        ctx.set_state("passing on to another site");
        let retry = Retry::idempotent();
        let asked = ctx.retry(&retry, async || {
            // What it answers has to come back in time.
            let part = ctx.within(ANOTHER_SITE.min(ctx.time_left() * 3 / 4));
            let pick = self.logics.wait(&part, conversation.as_bytes()).await?;
            question(pick, &part).await
        });
        asked.await.map_err(|status| self.explain(&status))
    }

    /// Says which site it is about, unless the request itself is wrong.
    fn explain(&self, status: &Status) -> Status {
        let code = status.code();
        let is_late = matches!(code, Code::DeadlineExceeded | Code::OutcomeUnknown);
        if !code.may_retry_idempotent() && !is_late {
            return status.clone();
        }
        let site = &self.site;
        let why = status.message();
        let explained = Status::new(code, format!("it is written at site {site}: {why}"));
        if status.is_retried() {
            explained.retried()
        } else {
            explained
        }
    }
}

impl Rules {
    /// The site at which a conversation is written, if that is another one.
    ///
    /// # Errors
    /// Das does not say; or another site believed that it is this one.
    pub(super) async fn away(
        &self,
        ctx: &Ctx,
        conversation: &str,
        forwarded: bool,
    ) -> Result<Option<Away>, Status> {
        let Some(sites) = &self.sites else {
            return Ok(None);
        };
        let home = if let Some(home) = sites.home(conversation) {
            home
        } else {
            ctx.set_state("asking for its home");
            let request = HomeRequest {
                conversation: conversation.to_owned(),
            };
            let retry = Retry::idempotent();
            let asked = ctx.retry(&retry, async || {
                self.das(ctx).await?.home(ctx, &request).await
            });
            sites.learn(conversation, &asked.await?.site)
        };
        match sites.away(home) {
            Some(_) if forwarded => {
                sites.forget(conversation);
                Err(Status::unavailable("two sites differ on its home"))
            }
            away => Ok(away),
        }
    }

    /// The answer to what changed a conversation. After a failure nobody goes by
    /// what was known of its home.
    pub(super) fn settled<T>(
        &self,
        conversation: &str,
        answer: Result<T, Status>,
    ) -> Result<T, Status> {
        if let (Err(_), Some(sites)) = (&answer, &self.sites) {
            sites.forget(conversation);
        }
        answer
    }
}
