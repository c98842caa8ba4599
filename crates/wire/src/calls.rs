//! Counts of calls, from an agent to a report server.
//!
//! The body of a push in native frames, in proto3; `docs/formats/calls.md` shows
//! it. Counts are running totals: they rise from 0 on since the agent began to count
//! them, and [`CallCounts::source`] names that beginning. So a message that is lost, comes
//! twice or comes late does no harm, and the next one says it all.

use std::str;

use thiserror::Error;
use waystation_base::MessageId;

use crate::lars::BodyError;
use crate::lars::body::{Fields, Value, message_len, number_len, put_message, put_number};

/// The message that carries [`CallCounts`]: a push.
pub const CALL_COUNTS: MessageId = MessageId::of("waystation.report.v1/CallCounts");

/// Bytes of a name of a service, a host or a caller. Counts under a longer one
/// are [`CallsError::LongName`].
pub const NAME_LEN_MAX: usize = 128;

/// What one agent counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// A random number that the agent drew when it began to count.
    pub source: u64,
    /// Who called: the agent's machine.
    pub caller: String,
    /// By service called.
    pub services: Vec<ServiceCounts>,
}

/// Counts of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// Its name.
    pub service: String,
    /// By host called.
    pub hosts: Vec<HostCounts>,
}

/// Counts of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCounts {
    /// Its address.
    pub host: String,
    /// Calls that went well, since the source began.
    pub ok: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Whether the agent leaves it out at present.
    pub is_out: bool,
}

/// Why a body is no [`CallCounts`]. The message is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallsError {
    /// It is no proto3.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A name is not UTF-8.
    #[error("name that is not UTF-8")]
    BadText,
    /// A name is longer than [`NAME_LEN_MAX`].
    #[error("name of {0} bytes, at most {NAME_LEN_MAX}")]
    LongName(usize),
}

impl CallCounts {
    /// Appends the body. Cost: O(length).
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        put_number(1, self.source, out);
        put_text(2, &self.caller, out);
        for service in &self.services {
            put_message(3, service.body_len(), out, |out| service.write(out));
        }
    }

    /// Bytes of the body. Cost: O(hosts).
    pub fn body_len(&self) -> usize {
        let services = self.services.iter();
        let services: usize = services.map(|one| message_len(one.body_len())).sum();
        number_len(self.source) + text_len(&self.caller) + services
    }

    /// Reads a body. Fields come in any order, the last of one that comes twice,
    /// unknown ones are skipped. Cost: O(length).
    ///
    /// # Errors
    /// [`CallsError`].
    pub fn parse(body: &[u8]) -> Result<Self, CallsError> {
        let mut one = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => one.source = number,
                (2, Value::Bytes(bytes)) => one.caller = text(bytes)?,
                (3, Value::Bytes(bytes)) => one.services.push(ServiceCounts::parse(bytes)?),
                _ => {}
            }
        }
        Ok(one)
    }
}

impl ServiceCounts {
    fn body_len(&self) -> usize {
        let hosts = self.hosts.iter();
        let hosts: usize = hosts.map(|one| message_len(one.body_len())).sum();
        text_len(&self.service) + hosts
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_text(1, &self.service, out);
        for host in &self.hosts {
            put_message(2, host.body_len(), out, |out| host.write(out));
        }
    }

    fn parse(body: &[u8]) -> Result<Self, CallsError> {
        let mut one = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(bytes)) => one.service = text(bytes)?,
                (2, Value::Bytes(bytes)) => one.hosts.push(HostCounts::parse(bytes)?),
                _ => {}
            }
        }
        Ok(one)
    }
}

impl HostCounts {
    fn body_len(&self) -> usize {
        text_len(&self.host)
            + number_len(self.ok)
            + number_len(self.failed)
            + number_len(self.is_out.into())
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_text(1, &self.host, out);
        put_number(2, self.ok, out);
        put_number(3, self.failed, out);
        put_number(4, self.is_out.into(), out);
    }

    fn parse(body: &[u8]) -> Result<Self, CallsError> {
        let mut one = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(bytes)) => one.host = text(bytes)?,
                (2, Value::Number(number)) => one.ok = number,
                (3, Value::Number(number)) => one.failed = number,
                (4, Value::Number(number)) => one.is_out = number != 0,
                _ => {}
            }
        }
        Ok(one)
    }
}

fn text(bytes: &[u8]) -> Result<String, CallsError> {
    if bytes.len() > NAME_LEN_MAX {
        return Err(CallsError::LongName(bytes.len()));
    }
    let text = str::from_utf8(bytes).map_err(|_| CallsError::BadText)?;
    Ok(text.to_owned())
}

fn put_text(field: u8, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        put_message(field, text.len(), out, |out| {
            out.extend_from_slice(text.as_bytes());
        });
    }
}

const fn text_len(text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        message_len(text.len())
    }
}
