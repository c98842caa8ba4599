//! Messages from frames: joins what came in several.

use bytes::Bytes;
use waystation_base::{CallId, MessageId};

use crate::header::{Flags, Header, Kind};
use crate::limits::{MESSAGE_LEN_MAX, PARTIAL_LEN_SUM_MAX, PARTIALS_MAX};

/// Why the frames of a connection are no messages. The connection must be closed:
/// what was held is dropped, and every later frame gets the same error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// A message in several frames is larger than [`MESSAGE_LEN_MAX`].
    #[error("a message of at least {len} bytes is larger than {max}")]
    MessageTooLarge {
        /// Bytes that the message would have with the refused frame.
        len: usize,
        /// [`MESSAGE_LEN_MAX`].
        max: usize,
    },
    /// One more message was begun than may be unfinished at a time.
    #[error("more than {max} messages are unfinished")]
    TooManyPartials {
        /// [`PARTIALS_MAX`].
        max: usize,
    },
    /// The unfinished messages hold more than [`PARTIAL_LEN_SUM_MAX`] together.
    #[error("unfinished messages of {len} bytes together are larger than {max}")]
    TooManyBytes {
        /// Bytes that they would hold with the refused frame.
        len: usize,
        /// [`PARTIAL_LEN_SUM_MAX`].
        max: usize,
    },
    /// A kind that is always one frame has the flag MORE.
    #[error("a frame of kind {kind} cannot be continued")]
    MoreOnControl {
        /// The kind of the frame.
        kind: Kind,
    },
    /// A frame says that its message goes on, and brings nothing. Such frames
    /// could keep a message unfinished for ever without reaching a limit.
    #[error("a continued {kind} frame has no body")]
    EmptyMore {
        /// The kind of the frame.
        kind: Kind,
    },
}

impl AssembleError {
    /// A short stable label for counters, one per variant.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::MessageTooLarge { .. } => "message_too_large",
            Self::TooManyPartials { .. } => "too_many_partials",
            Self::TooManyBytes { .. } => "too_many_partial_bytes",
            Self::MoreOnControl { .. } => "more_on_control",
            Self::EmptyMore { .. } => "empty_more",
        }
    }
}

/// Joins the frames of one connection, one direction, into messages.
///
/// Give each decoded frame with its body to [`push`](Self::push), in the order
/// of arrival. A frame that is a message by itself comes back as it is, without
/// a copy; the frames of a longer one are copied together, and the message comes
/// back with its last. Frames of different messages may alternate. When the
/// connection closes, drop the assembler: what is unfinished has no meaning.
///
/// It holds no memory while no message is unfinished, and otherwise at most
/// twice [`PARTIAL_LEN_SUM_MAX`], as its buffers grow by doubling.
#[derive(Debug, Default)]
pub struct Assembler {
    /// At most [`PARTIALS_MAX`], so that a search is short and needs no hash.
    partials: Vec<Partial>,
    /// Bytes that all partials hold.
    held_len: usize,
    failed: Option<AssembleError>,
}

/// What the frames of one message have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    kind: Kind,
    call: CallId,
    message: MessageId,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    body: Vec<u8>,
}

impl Assembler {
    /// An assembler for a new connection; allocates nothing.
    pub const fn new() -> Self {
        Self {
            partials: Vec::new(),
            held_len: 0,
            failed: None,
        }
    }

    /// Takes the next frame, and gives the message that it completes, if it does.
    ///
    /// The message's header is that of its last frame, whose deadline and load
    /// are the newest, with the length of the whole body. Costs nothing for a
    /// message in one frame, and one copy of the body for a longer one.
    ///
    /// # Errors
    /// An [`AssembleError`] when the frame breaks a bound or the rule of MORE;
    /// the same one for every frame after that.
    #[inline]
    pub fn push(
        &mut self,
        header: Header,
        body: Bytes,
    ) -> Result<Option<(Header, Bytes)>, AssembleError> {
        if self.partials.is_empty() && !header.has_more() && self.failed.is_none() {
            return Ok(Some((header, body)));
        }
        self.push_slowly(header, body)
    }

    /// Drops the unfinished request `call`, whose caller has cancelled it, and
    /// says whether there was one.
    ///
    /// Only a request ends in this way: its sender writes no more of it after the
    /// cancel frame. A reply that was begun is finished, also when nobody waits
    /// for it any more, since its later frames would otherwise look like a new
    /// message; the calls of the two directions are numbered apart, so that an
    /// unfinished reply with the same number belongs to another call.
    pub fn cancel(&mut self, call: CallId) -> bool {
        let before = self.partials.len();
        self.partials.retain(|partial| {
            let stays = partial.key.kind != Kind::Request || partial.key.call != call;
            if !stays {
                self.held_len -= partial.body.len();
            }
            stays
        });
        let dropped = self.partials.len() < before;
        self.release_when_idle();
        dropped
    }

    /// Whether no message is unfinished. Then it holds no memory either.
    pub const fn is_idle(&self) -> bool {
        self.partials.is_empty()
    }

    /// How many messages are unfinished.
    pub const fn partial_count(&self) -> usize {
        self.partials.len()
    }

    /// Bytes of bodies that the unfinished messages hold.
    pub const fn held_len(&self) -> usize {
        self.held_len
    }

    #[cold]
    fn push_slowly(
        &mut self,
        header: Header,
        body: Bytes,
    ) -> Result<Option<(Header, Bytes)>, AssembleError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.join(header, body);
        if let Err(error) = result {
            *self = Self {
                failed: Some(error),
                ..Self::new()
            };
        }
        result
    }

    fn join(
        &mut self,
        header: Header,
        body: Bytes,
    ) -> Result<Option<(Header, Bytes)>, AssembleError> {
        let Header {
            kind,
            call,
            message,
            ..
        } = header;
        let key = Key {
            kind,
            call,
            message,
        };
        let place = self.partials.iter().position(|partial| partial.key == key);
        if !header.has_more() {
            return match place {
                None => Ok(Some((header, body))),
                Some(place) => self.finish(place, header, &body).map(Some),
            };
        }
        if !kind.may_continue() {
            return Err(AssembleError::MoreOnControl { kind });
        }
        if body.is_empty() {
            return Err(AssembleError::EmptyMore { kind });
        }
        let place = match place {
            Some(place) => place,
            None if self.partials.len() == PARTIALS_MAX => {
                return Err(AssembleError::TooManyPartials { max: PARTIALS_MAX });
            }
            None => {
                self.partials.push(Partial {
                    key,
                    body: Vec::new(),
                });
                self.partials.len() - 1
            }
        };
        self.append(place, &body)?;
        Ok(None)
    }

    fn finish(
        &mut self,
        place: usize,
        header: Header,
        body: &[u8],
    ) -> Result<(Header, Bytes), AssembleError> {
        self.append(place, body)?;
        let whole = self.partials.swap_remove(place).body;
        self.held_len -= whole.len();
        self.release_when_idle();
        let body_len = u32::try_from(whole.len()).expect("a message is at most MESSAGE_LEN_MAX");
        let flags = header.flags.without(Flags::MORE);
        Ok((
            Header {
                flags,
                body_len,
                ..header
            },
            Bytes::from(whole),
        ))
    }

    fn append(&mut self, place: usize, body: &[u8]) -> Result<(), AssembleError> {
        let held = &mut self.partials[place].body;
        let message_len = held.len().saturating_add(body.len());
        if message_len > MESSAGE_LEN_MAX {
            return Err(AssembleError::MessageTooLarge {
                len: message_len,
                max: MESSAGE_LEN_MAX,
            });
        }
        let sum_len = self.held_len.saturating_add(body.len());
        if sum_len > PARTIAL_LEN_SUM_MAX {
            return Err(AssembleError::TooManyBytes {
                len: sum_len,
                max: PARTIAL_LEN_SUM_MAX,
            });
        }
        held.extend_from_slice(body);
        self.held_len = sum_len;
        Ok(())
    }

    fn release_when_idle(&mut self) {
        if self.partials.is_empty() {
            self.partials = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests;
