//! The Redis protocol on FIFO connections.

use bytes::Bytes;
use waystation_wire::resp::{RespLimits, Scan, Scanner};

use super::{FifoCodec, FifoDecoded};

/// Finds RESP answers. An answer is its raw bytes, so that a gateway can hand
/// it on as it is; [`waystation_wire::resp::parse`] reads it.
#[derive(Debug, Default)]
pub struct RespCodec {
    scanner: Scanner,
    limits: RespLimits,
}

impl RespCodec {
    /// A codec with these bounds on answers.
    pub fn new(limits: RespLimits) -> Self {
        Self {
            scanner: Scanner::new(),
            limits,
        }
    }
}

impl FifoCodec for RespCodec {
    type Answer = Bytes;

    fn decode(&mut self, input: &[u8]) -> Result<FifoDecoded<Bytes>, &'static str> {
        match self.scanner.scan(input, &self.limits) {
            Ok(Scan::Complete(length)) => Ok(FifoDecoded::Answer(
                Bytes::copy_from_slice(&input[..length]),
                length,
            )),
            Ok(Scan::Need(total)) => Ok(FifoDecoded::Need(total)),
            Err(error) => Err(error.reason()),
        }
    }
}
