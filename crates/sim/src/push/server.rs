//! The cores of a route server, as its shell connects them.

use waystation_base::{Epoch, Moment};
use waystation_membership::{
    Content, Directory, DirectoryConfig, Output, SubscriberId, ViewAck, ViewVersion, Watch,
};
use waystation_registry::Pushes;
use waystation_route::Merge;
use waystation_wire::frames_len;

use super::model::{Change, Model};
use super::work::Work;

/// What a subscriber asks or tells.
pub(super) enum Question {
    Subscribe(SubscriberId, Watch, Option<ViewVersion>),
    Resync(SubscriberId, waystation_base::ServiceName),
    Ack(ViewAck),
    Lost(SubscriberId),
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) deltas: u64,
    /// Whole views.
    pub(super) wholes: u64,
    /// With the frames around them.
    pub(super) bytes: u64,
    /// What all of it cost.
    pub(super) work: Work,
}

/// A route server.
pub(super) struct Server {
    merge: Merge,
    pub(super) directory: Directory,
    pub(super) sent: Sent,
    pushes: Vec<(SubscriberId, Content)>,
}

impl Server {
    /// Reads its sources.
    pub(super) fn start(now: Moment, epoch: u64, model: &Model) -> Self {
        let directory = Directory::new(now, Epoch(epoch), DirectoryConfig::default());
        let mut server = Self {
            merge: Merge::default(),
            directory,
            sent: Sent::default(),
            pushes: Vec::new(),
        };
        for change in model.everything() {
            server.put(change);
        }
        server.settle(now);
        server
    }

    /// A source tells something. What is to be pushed.
    pub(super) fn handle_change(
        &mut self,
        now: Moment,
        change: Change,
    ) -> Vec<(SubscriberId, Content)> {
        self.measured(|server| {
            server.put(change);
            server.settle(now);
        })
    }

    /// Subscribers ask and tell. What is to be pushed.
    pub(super) fn handle_questions(
        &mut self,
        now: Moment,
        questions: Vec<Question>,
    ) -> Vec<(SubscriberId, Content)> {
        self.measured(|server| {
            for question in questions {
                server.handle(now, question);
            }
            server.directory.handle_timeout(now);
            server.flush();
        })
    }

    fn measured(&mut self, work: impl FnOnce(&mut Self)) -> Vec<(SubscriberId, Content)> {
        let mut cost = self.sent.work;
        let steps = |server: &Self| server.merge.steps() + server.directory.steps();
        let before = steps(self);
        cost.measure(|| work(self));
        cost.steps += steps(self) - before;
        self.sent.work = cost;
        std::mem::take(&mut self.pushes)
    }

    fn put(&mut self, change: Change) {
        match change {
            Change::Put(route) => self.merge.put_route(*route),
            Change::Drop(key) => self.merge.drop_route(&key),
            Change::Registered(view) => self.merge.put_registered(view),
        }
    }

    fn settle(&mut self, now: Moment) {
        while let Some(settled) = self.merge.settle() {
            for (id, why) in &settled.displaced {
                if self.directory.service_of(id) == Some(&settled.service) {
                    self.directory.handle_displace(now, id, *why);
                }
            }
            for one in &settled.placed {
                let placed = self.directory.handle_place(now, (**one).clone());
                placed.expect("there is room for it");
            }
        }
        self.flush();
    }

    fn handle(&mut self, now: Moment, question: Question) {
        let directory = &mut self.directory;
        match question {
            Question::Subscribe(subscriber, watch, have) => {
                let subscribed = directory.handle_subscribe(now, subscriber, &watch, have);
                subscribed.expect("there is room for it");
                self.flush();
            }
            Question::Resync(subscriber, service) => {
                directory.handle_resync(now, subscriber, &service);
            }
            Question::Ack(ack) => directory.handle_ack(now, &ack),
            Question::Lost(subscriber) => directory.handle_lost(now, subscriber),
        }
    }

    fn flush(&mut self) {
        let mut bodies = Pushes::default();
        while let Some(output) = self.directory.poll_output() {
            let Output::Push {
                subscriber,
                content,
            } = output
            else {
                continue;
            };
            let body = bodies.body(subscriber, &content);
            self.sent.bytes += frames_len(body.len()) as u64;
            match content {
                Content::Delta(_) => self.sent.deltas += 1,
                Content::View(_) => self.sent.wholes += 1,
            }
            self.pushes.push((subscriber, content));
        }
    }
}
