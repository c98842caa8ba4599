//! The Redis protocol on FIFO connections.

use bytes::Bytes;
use waystation_wire::resp::{RespLimits, Scan, Scanner};

use super::{FifoCodec, FifoScan};

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

    #[inline]
    fn scan(&mut self, input: &[u8]) -> Result<FifoScan, &'static str> {
        match self.scanner.scan(input, &self.limits) {
            Ok(Scan::Complete(length)) => Ok(FifoScan::Answer(length)),
            Ok(Scan::Need(total)) => Ok(FifoScan::Need(total)),
            Err(error) => Err(error.reason()),
        }
    }

    fn read(&mut self, answer: &[u8]) -> Result<Bytes, &'static str> {
        Ok(Bytes::copy_from_slice(answer))
    }
}
