//! The hub's process: hub, sessions, and the disk below them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{ConnName, Seq, SiteId};
use waystation_replica::{
    AppendFault, Batch, ClientKey, Hub, HubEvent, HubOutput, Notice, Publish, PublishRefusal,
    Session, SessionOutput, ToHub, ToSite, Unread,
};
use waystation_sync::{AppendError, ReadError};

use super::world::{Event, Mutant, Wish, World};

impl World {
    pub(super) fn start_hub(&mut self) {
        self.hub_start += 1;
        let base = self.hub_start << 32;
        let (mut restored, found) = self.disk.open(self.seed, self.now, base);
        self.note_stored(&found);
        self.check_log();
        if self.mutant == Mutant::KeysForgotten {
            restored.keys.clear();
        }
        if self.mutant == Mutant::FenceForgotten {
            restored
                .sites
                .iter_mut()
                .for_each(|site| site.may_write = true);
        }
        self.hub = Some(Hub::new(self.now, restored, self.hub_config()));
        // Clients ask again for what they got no answer to.
        let open: Vec<u64> = (self.wishes.iter())
            .filter(|(_, wish)| wish.acked.is_none())
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in open {
            if self.plan.is_tight && self.reference.has_nonce(nonce) {
                // Its key may be forgotten: the client must not ask again.
                self.wishes.remove(&nonce);
                continue;
            }
            let delay = self.delay(3000);
            self.after(delay, Event::Publish(nonce));
        }
    }

    /// The process is gone, or the power. A batch on its way is on the disk as a whole,
    /// or torn and therefore dropped when the log is opened.
    pub(super) fn crash_hub(&mut self) {
        if self.hub.take().is_none() {
            return;
        }
        let on_its_way = self.appending.take();
        self.disk.crash(&mut self.rng, on_its_way);
        self.sessions.clear();
        let conns: Vec<ConnName> = self.links.keys().copied().collect();
        for conn in conns {
            self.reset(conn);
        }
        self.hub_start += 1;
        let (delay, start) = (self.delay(8000), self.hub_start);
        self.after(delay, Event::RestartHub(start));
    }

    fn note_stored(&mut self, batch: &Batch) {
        self.reference.extend(&batch.entries);
        self.check_fences(&batch.entries);
    }

    pub(super) fn publish(&mut self, nonce: u64) {
        if nonce == 0 && self.is_healed {
            return;
        }
        let nonce = if nonce == 0 || nonce == u64::MAX {
            let write = self.new_write();
            let fresh = write.nonce;
            self.wishes.insert(fresh, Wish { write, acked: None });
            if nonce == 0 {
                let delay = Duration::from_millis(20 + self.rng.below(700));
                self.after(delay, Event::Publish(0));
            }
            fresh
        } else {
            nonce
        };
        let Some(wish) = self.wishes.get(&nonce) else {
            return;
        };
        let Some(hub) = &mut self.hub else { return };
        let publish = Publish {
            key: Some(ClientKey::new(&nonce.to_le_bytes())),
            payload: wish.write.encode(),
        };
        hub.handle_publish(self.now, nonce, publish);
        // Sent twice now and then, as after an answer that was lost.
        if !self.is_healed && !self.plan.is_tight && self.rng.chance(0.2) {
            let delay = self.delay(2000);
            self.after(delay, Event::Publish(nonce));
        }
    }

    fn acknowledged(&mut self, nonce: u64, seq: Seq) {
        let lost = !self.is_healed && !self.plan.is_tight && self.rng.chance(0.1);
        self.reference.check_acknowledged(self.seed, nonce, seq);
        if let Some(wish) = self.wishes.get_mut(&nonce) {
            let before = wish.acked.replace(seq);
            assert!(
                before.is_none_or(|before| before == seq),
                "seed {}: one publish, two sequences",
                self.seed
            );
            if lost {
                // The client did not hear it, and asks again.
                wish.acked = before;
                let delay = self.delay(4000);
                self.after(delay, Event::Publish(nonce));
            }
        }
    }

    pub(super) fn hub_hears(&mut self, conn: ConnName, message: ToHub) {
        if !self.links.contains_key(&conn) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&conn) {
            return session.handle_message(self.now, message);
        }
        if let (ToHub::Hello(hello), Some(hub)) = (message, &mut self.hub) {
            hub.handle_hello(self.now, conn, &hello);
        }
    }

    pub(super) fn hub_loses(&mut self, conn: ConnName) {
        self.sessions.remove(&conn);
        if let Some(hub) = &mut self.hub {
            hub.handle_lost(self.now, conn);
        }
    }

    pub(super) fn appended(&mut self, start: u64) {
        if start != self.hub_start {
            return;
        }
        let Some(batch) = self.appending.take() else {
            return;
        };
        let is_faulty = !self.is_healed;
        let fault = if is_faulty && self.rng.chance(self.plan.full_disk) {
            Some(io::ErrorKind::StorageFull)
        } else if is_faulty && self.rng.chance(self.plan.failed_sync) {
            Some(io::ErrorKind::Other)
        } else {
            None
        };
        let appended = self.disk.append(&mut self.rng, &batch, fault);
        if let Err(error) = appended {
            let is_known = matches!(error, AppendError::NotStored(_));
            let fault = if is_known {
                AppendFault::NotStored
            } else {
                AppendFault::Unknown
            };
            if let Some(hub) = &mut self.hub {
                let error = Arc::from(error.to_string());
                hub.handle_append_failed(self.now, fault, &error);
            }
            if !is_known {
                self.drain();
                self.crash_hub();
            }
            return;
        }
        self.note_stored(&batch);
        // A crash just after the write and before anyone hears of it.
        if is_faulty && self.rng.chance(self.plan.crash_at_commit) {
            return self.crash_hub();
        }
        if self.mutant != Mutant::DurableTooEarly
            && let Some(hub) = &mut self.hub
        {
            hub.handle_durable(self.now);
        }
    }

    pub(super) fn read(
        &mut self,
        start: u64,
        conn: ConnName,
        after: Seq,
        through: Seq,
        bytes_max: u64,
    ) {
        if start != self.hub_start {
            return;
        }
        let read = self.disk.read(after, through, bytes_max);
        let is_unread = !self.is_healed && self.rng.chance(0.002);
        let Some(session) = self.sessions.get_mut(&conn) else {
            return;
        };
        match read {
            Err(ReadError::Trimmed { start }) => {
                session.handle_unread(self.now, &Unread::Trimmed { start });
            }
            Ok(entries) if !is_unread && !entries.is_empty() => {
                session.handle_read(self.now, entries.into());
            }
            _ => session.handle_unread(self.now, &Unread::Failed),
        }
    }

    /// Performs everything that the cores want done.
    pub(super) fn drain(&mut self) {
        loop {
            let mut is_idle = true;
            while let Some(output) = self.hub.as_mut().and_then(Hub::poll_output) {
                is_idle = false;
                self.perform_hub(output);
            }
            let conns: Vec<ConnName> = self.sessions.keys().copied().collect();
            for conn in conns {
                while let Some(output) = self.sessions.get_mut(&conn).and_then(Session::poll_output)
                {
                    is_idle = false;
                    self.perform_session(conn, output);
                }
            }
            is_idle &= !self.drain_sites();
            if is_idle {
                return;
            }
        }
    }

    fn perform_hub(&mut self, output: HubOutput) {
        match output {
            HubOutput::Append(batch) => {
                assert!(self.appending.is_none(), "two batches at a time");
                if self.mutant == Mutant::DurableTooEarly {
                    self.appending = Some(batch);
                    let delay = self.delay(100);
                    self.after(delay, Event::Appended(self.hub_start));
                    if let Some(hub) = &mut self.hub {
                        hub.handle_durable(self.now);
                    }
                    return;
                }
                self.appending = Some(batch);
                let delay = self.delay(100);
                self.after(delay, Event::Appended(self.hub_start));
            }
            HubOutput::Published { ticket, seq } => self.acknowledged(ticket, seq),
            HubOutput::PublishRefused { ticket, refusal } => {
                if !matches!(refusal, PublishRefusal::Unknown { .. }) {
                    let delay = self.delay(2000);
                    self.after(delay, Event::Publish(ticket));
                }
            }
            HubOutput::Admit { conn, welcome } => {
                let session = Session::new(self.now, welcome, self.session_config());
                self.sessions.insert(conn, session);
            }
            HubOutput::Refuse { conn, refusal } => {
                self.send(conn, Event::ToSite(conn, ToSite::Refused(refusal)));
                self.close_later(conn);
            }
            HubOutput::Notify { conn, notice } => {
                if let Some(session) = self.sessions.get_mut(&conn) {
                    session.handle_notice(self.now, notice);
                }
            }
            HubOutput::End(end) => {
                for session in self.sessions.values_mut() {
                    session.handle_notice(self.now, Notice::End(end));
                }
            }
            HubOutput::Trim { through } => self.trim(through),
            HubOutput::Event(HubEvent::Fenced { site, .. }) => self.note_fenced(site),
            HubOutput::Changed { .. } | HubOutput::ChangeRefused { .. } | HubOutput::Event(_) => {}
        }
    }

    fn trim(&mut self, through: Seq) {
        let extra = if self.mutant == Mutant::TrimTooMuch {
            3
        } else {
            0
        };
        let through = Seq(through.0 + extra).min(self.disk.end);
        self.check_trim(through);
        self.disk.trim(&mut self.rng, through, !self.is_healed);
    }

    fn perform_session(&mut self, conn: ConnName, output: SessionOutput) {
        match output {
            SessionOutput::Send(message) => self.send(conn, Event::ToSite(conn, message)),
            SessionOutput::Read {
                after,
                through,
                bytes_max,
            } => {
                let read = Event::Read {
                    start: self.hub_start,
                    conn,
                    after,
                    through,
                    bytes_max,
                };
                let delay = self.delay(50);
                self.after(delay, read);
            }
            SessionOutput::Report(report) => {
                if let Some(hub) = &mut self.hub {
                    hub.handle_report(self.now, conn, report);
                }
            }
            SessionOutput::Close(refusal) => {
                self.send(conn, Event::ToSite(conn, ToSite::Refused(refusal)));
                self.sessions.remove(&conn);
                if let Some(hub) = &mut self.hub {
                    hub.handle_lost(self.now, conn);
                }
                self.close_later(conn);
            }
        }
    }

    /// The hub closes its end; what it sent before still arrives.
    fn close_later(&mut self, conn: ConnName) {
        if let Some(link) = self.links.get(&conn) {
            let site = link.site;
            let delay = Duration::from_secs(3);
            self.after(delay, Event::SiteLost(site, conn));
        }
    }

    /// The operator gives a capturing site the right to write.
    pub(super) fn grant(&mut self, n: usize, site: SiteId) {
        if let Some(hub) = &mut self.hub {
            hub.handle_grant_writer(self.now, 0, site);
            self.granted.insert(n);
            self.fenced.remove(&n);
        }
    }

    /// The operator takes it away.
    pub(super) fn fence(&mut self, n: usize, site: SiteId) {
        if let Some(hub) = &mut self.hub {
            hub.handle_fence_writer(self.now, 0, site);
            self.granted.remove(&n);
        }
    }

    /// That is durable, unless the right was given again meanwhile.
    fn note_fenced(&mut self, site: SiteId) {
        let n = self.site_of(site);
        self.fenced.extend(n.filter(|n| !self.granted.contains(n)));
    }
}
