//! Since when messages in several frames are incomplete.

use waystation_base::{CallId, MessageId, Moment};
use waystation_wire::{Header, Kind};

/// What the frames of one message have in common.
type Key = (Kind, CallId, MessageId);

fn key(header: &Header) -> Key {
    (header.kind, header.call, header.message)
}

/// When each message began that the assembler holds in part. The assembler
/// bounds how many they are, so that a search is short.
#[derive(Default)]
pub(super) struct Unfinished {
    begun: Vec<(Key, Moment)>,
}

impl Unfinished {
    /// A frame came whose message goes on.
    pub(super) fn goes_on(&mut self, header: &Header, now: Moment) {
        let key = key(header);
        if !self.begun.iter().any(|(begun, _)| *begun == key) {
            self.begun.push((key, now));
        }
    }

    /// The last frame of a message came.
    pub(super) fn ends(&mut self, header: &Header) {
        let key = key(header);
        self.begun.retain(|(begun, _)| *begun != key);
        self.rest();
    }

    /// The caller gave up a request, whose rest does not come.
    pub(super) fn cancel(&mut self, call: CallId) {
        self.begun
            .retain(|((kind, begun, _), _)| *kind != Kind::Request || *begun != call);
        self.rest();
    }

    /// When the oldest began.
    pub(super) fn since(&self) -> Option<Moment> {
        self.begun.iter().map(|(_, since)| *since).min()
    }

    fn rest(&mut self) {
        if self.begun.is_empty() {
            self.begun = Vec::new();
        }
    }
}
