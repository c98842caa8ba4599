//! Publishes and operations by native frames.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use waystation_base::{Epoch, Seq};
use waystation_net::native::{Handler, Inbound, Started, reply, reply_error};
use waystation_net::{CloseReason, Conn, Label};
use waystation_replica::limits::PAYLOAD_BYTES_MAX;
use waystation_replica::{ClientKey, Publish, PublishRefusal};
use waystation_wire::{Header, Status};

use super::operate::Operation;
use super::sessions::{Sessions, may_be_statement};
use crate::limits::{PARTS_BYTES_MAX, PAYLOADS_IN_PARTS_MAX};

/// The handlers' names, each looked up once: a look-up takes a lock that all shards
/// share.
pub(super) struct Labels {
    pub(super) site: Label,
    part: Label,
    publish: Label,
    operate: Label,
}

impl Default for Labels {
    fn default() -> Self {
        Self {
            site: Label::of("sync site"),
            part: Label::of("sync part"),
            publish: Label::of("sync publish"),
            operate: Label::of("sync operate"),
        }
    }
}

/// Payloads of one connection of which parts have come, by tag. One that is too
/// large holds nothing any more, and is refused when it is published.
#[derive(Default)]
pub(super) struct Parts {
    by_tag: BTreeMap<u64, Part>,
}

#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    length: usize,
}

impl Part {
    fn push(&mut self, more: &[u8]) {
        self.length = self.length.saturating_add(more.len());
        if self.length > PAYLOAD_BYTES_MAX {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(more);
        }
    }
}

impl Parts {
    /// False when there are too many payloads.
    fn push(&mut self, tag: u64, bytes: &[u8]) -> bool {
        let is_new = !self.by_tag.contains_key(&tag);
        if is_new && self.by_tag.len() >= PAYLOADS_IN_PARTS_MAX {
            return false;
        }
        self.by_tag.entry(tag).or_default().push(bytes);
        true
    }

    fn bytes(&self) -> usize {
        self.by_tag.values().map(|one| one.bytes.len()).sum()
    }

    /// The payload, ended by `rest`, and its length.
    fn take(&mut self, tag: u64, rest: &[u8]) -> (Vec<u8>, usize) {
        let mut part = self.by_tag.remove(&tag).unwrap_or_default();
        part.push(rest);
        (part.bytes, part.length)
    }
}

/// What stands in the body of a publish. It is read in place: the payload alone is
/// copied, once.
struct Head<'a> {
    /// Tells the parts of this payload from those of others.
    tag: u64,
    /// Of the whole payload.
    length: u64,
    may_differ: bool,
    key: &'a [u8],
    /// The last part of the payload.
    rest: &'a [u8],
}

impl<'a> Head<'a> {
    /// `None` for bytes that make no sense.
    fn of(body: &'a [u8]) -> Option<Self> {
        let (tag, body) = body.split_first_chunk()?;
        let (length, body) = body.split_first_chunk()?;
        let (may_differ, body) = body.split_first()?;
        let (key_bytes, body) = body.split_first_chunk()?;
        let key_bytes = usize::try_from(u32::from_le_bytes(*key_bytes)).ok()?;
        let (key, rest) = body.split_at_checked(key_bytes)?;
        Some(Self {
            tag: u64::from_le_bytes(*tag),
            length: u64::from_le_bytes(*length),
            may_differ: match may_differ {
                0 => false,
                1 => true,
                _ => return None,
            },
            key,
            rest,
        })
    }
}

/// Why a publish is not taken.
enum Unread {
    /// Its bytes make no sense.
    Invalid,
    /// Parts of it are missing: they went over another connection.
    Parted,
    Refused(PublishRefusal),
}

pub(super) struct PartHandler(pub(super) Rc<Sessions>);

impl Handler for PartHandler {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        let mut all = self.0.parts.borrow_mut();
        let parts = all.entry(conn.name()).or_default();
        let taken = message.body.split_first_chunk();
        let taken = taken.is_some_and(|(tag, rest)| parts.push(u64::from_le_bytes(*tag), rest));
        let bytes: usize = all.values().map(Parts::bytes).sum();
        if !taken || bytes > PARTS_BYTES_MAX {
            // A push cannot be answered.
            conn.close(CloseReason::Protocol("sync part"));
        }
        None
    }

    fn label(&self) -> Label {
        self.0.labels.part
    }
}

pub(super) struct PublishHandler(pub(super) Rc<Sessions>);

impl PublishHandler {
    /// The publish, and whether it may be a statement that would do something else
    /// at each site.
    fn read(&self, conn: &Conn, body: &[u8]) -> Result<(Publish, bool), Unread> {
        let head = Head::of(body).ok_or(Unread::Invalid)?;
        let mut parts = self.0.parts.borrow_mut();
        let (payload, found) = match parts.get_mut(&conn.name()) {
            Some(parts) => {
                let (payload, found) = parts.take(head.tag, head.rest);
                (payload.into(), found)
            }
            None => (Bytes::copy_from_slice(head.rest), head.rest.len()),
        };
        if found as u64 != head.length {
            return Err(Unread::Parted);
        }
        if found > PAYLOAD_BYTES_MAX {
            let bytes_max = PAYLOAD_BYTES_MAX;
            return Err(Unread::Refused(PublishRefusal::TooLarge {
                found,
                bytes_max,
            }));
        }
        let publish = Publish {
            key: (!head.key.is_empty()).then(|| ClientKey::new(head.key)),
            payload,
        };
        Ok((publish, head.may_differ))
    }
}

impl Handler for PublishHandler {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        let header = *message.header;
        let (publish, may_differ) = match self.read(conn, message.body) {
            Ok(publish) => publish,
            Err(Unread::Refused(refusal)) => {
                answer(conn, &header, Err(refusal));
                return None;
            }
            // A connection that closes meanwhile counts it itself.
            Err(Unread::Invalid) => {
                let reason = "a publish that makes no sense";
                let _ = reply_error(conn, &header, Status::InvalidRequest, reason);
                return None;
            }
            Err(Unread::Parted) => {
                let reason = "parts of the payload are missing";
                let _ = reply_error(conn, &header, Status::Unavailable, reason);
                return None;
            }
        };
        if may_differ || !may_be_statement(&publish.payload) {
            self.0.publish_from(conn, header, publish);
            return None;
        }
        let (conn, sessions) = (conn.clone(), Rc::clone(&self.0));
        Some(Box::pin(async move {
            match sessions.check_statement(&publish.payload).await {
                Ok(()) => {
                    let published = sessions.publish_checked(publish).await;
                    answer(&conn, &header, published);
                }
                Err(unable) => {
                    // A connection that closes meanwhile counts it itself.
                    let _ = reply_error(&conn, &header, unable.status, &unable.error);
                }
            }
        }))
    }

    fn label(&self) -> Label {
        self.0.labels.publish
    }
}

/// A publish as version 1 had it, which could not say whether a statement may do
/// something else at each site.
pub(super) struct OldPublishHandler;

impl Handler for OldPublishHandler {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        let reason = "version 1 of publishing, but the hub speaks version 2: \
            run the same release here and there";
        // A connection that closes meanwhile counts it itself.
        let _ = reply_error(conn, message.header, Status::Unimplemented, reason);
        None
    }

    fn label(&self) -> Label {
        Label::of("sync publish")
    }
}

/// Answers a publish that came in a frame.
pub(super) fn answer(
    conn: &Conn,
    header: &Header,
    published: Result<(Epoch, Seq), PublishRefusal>,
) {
    // A connection that closes meanwhile counts it itself.
    let _ = match published {
        Ok((epoch, seq)) => {
            let mut body = [0; 16];
            body[..8].copy_from_slice(&epoch.0.to_le_bytes());
            body[8..].copy_from_slice(&seq.0.to_le_bytes());
            let answer = Header::reply(header.call, header.message, Status::Ok)
                .with_sid(header.sid)
                .with_trace(header.trace);
            reply(conn, &answer, &body)
        }
        Err(refusal) => reply_error(conn, header, status_of(&refusal), &refusal.to_string()),
    };
}

/// How a refusal is told in the protocol that it came by.
pub(super) fn status_of(refusal: &PublishRefusal) -> Status {
    match refusal {
        PublishRefusal::TooLarge { .. } => Status::TooLarge,
        PublishRefusal::KeyTooLong { .. } | PublishRefusal::SourceGap { .. } => {
            Status::InvalidRequest
        }
        PublishRefusal::Busy | PublishRefusal::Full => Status::Overloaded,
        PublishRefusal::NotStored { .. } => Status::Unavailable,
        PublishRefusal::Unknown { .. } => Status::OutcomeUnknown,
        PublishRefusal::Fenced { .. } => Status::PermissionDenied,
        _ => Status::Internal,
    }
}

pub(super) struct OperateHandler(pub(super) Rc<Sessions>);

impl Handler for OperateHandler {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        let header = *message.header;
        let operation = match serde_json::from_slice::<Operation>(message.body) {
            Ok(operation) => operation,
            Err(error) => {
                let reason = error.to_string();
                // A connection that closes meanwhile counts it itself.
                let _ = reply_error(conn, &header, Status::InvalidRequest, &reason);
                return None;
            }
        };
        let (conn, sessions) = (conn.clone(), Rc::clone(&self.0));
        Some(Box::pin(async move {
            // As above.
            let _ = match sessions.operate(operation).await {
                Ok(body) => {
                    let answer = Header::reply(header.call, header.message, Status::Ok)
                        .with_sid(header.sid)
                        .with_trace(header.trace);
                    reply(&conn, &answer, &body)
                }
                Err(unable) => reply_error(&conn, &header, unable.status, &unable.error),
            };
        }))
    }

    fn label(&self) -> Label {
        self.0.labels.operate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_a_payload_and_one_that_is_too_large_holds_no_memory() {
        let mut parts = Parts::default();
        assert!(parts.push(1, b"ab") && parts.push(2, b"x") && parts.push(1, b"cd"));
        assert_eq!(parts.take(1, b"ef"), (b"abcdef".to_vec(), 6));
        assert_eq!(parts.take(7, b"only"), (b"only".to_vec(), 4));
        let piece = vec![0; 1 << 20];
        for _ in 0..65 {
            assert!(parts.push(3, &piece));
        }
        assert_eq!(parts.by_tag[&3].bytes.capacity(), 0);
        assert_eq!(parts.bytes(), 1, "what tag 2 has");
        assert_eq!(parts.take(3, b""), (Vec::new(), 65 << 20));
    }

    #[test]
    fn a_publish_that_is_cut_or_lies_about_its_key_makes_no_sense() {
        let mut body = 7_u64.to_le_bytes().to_vec();
        body.extend(9_u64.to_le_bytes());
        body.push(1);
        body.extend(3_u32.to_le_bytes());
        body.extend(b"keypayload");
        let head = Head::of(&body).unwrap();
        assert_eq!((head.tag, head.length, head.may_differ), (7, 9, true));
        assert_eq!((head.key, head.rest), (&b"key"[..], &b"payload"[..]));
        // Without its payload it is whole.
        assert!((0..24).all(|cut| Head::of(&body[..cut]).is_none()));
        assert!(Head::of(&body[..24]).is_some());
        let flag = [&body[..16], &[2], &body[17..]].concat();
        assert!(Head::of(&flag).is_none());
        let key = [&body[..17], &[0xff; 4], &body[21..]].concat();
        assert!(Head::of(&key).is_none());
    }

    #[test]
    fn too_many_payloads_in_parts_are_refused() {
        let mut parts = Parts::default();
        let most = PAYLOADS_IN_PARTS_MAX as u64;
        assert!((0..most).all(|tag| parts.push(tag, b"a")));
        assert!(!parts.push(most, b"a"));
        assert!(parts.push(0, b"b"));
    }
}
