//! What an agent says of a service's hosts.

mod reader;
mod writer;

use std::net::{IpAddr, SocketAddr};

use waystation_balance::limits::TIERS;

pub use reader::RouteReader;
pub(crate) use reader::Summary;
pub use writer::RouteWriter;

/// Whether a segment may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// It is being made.
    New,
    /// Callers pick from it.
    Live,
    /// The service's hosts need the agent's help to be picked.
    AskAgent,
    /// Another one has taken its place.
    Retired,
}

impl SegmentState {
    pub(crate) const fn code(self) -> u64 {
        self as u64
    }

    pub(crate) const fn of(code: u64) -> Self {
        match code {
            1 => Self::Live,
            2 => Self::AskAgent,
            3 => Self::Retired,
            _ => Self::New,
        }
    }
}

/// A host of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it is in the segment and in ledgers.
    pub slot: u32,
    /// Which host of the slot.
    pub generation: u32,
    /// Where to call it.
    pub address: SocketAddr,
}

/// All hosts, and who of them may be picked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// The version of the view.
    pub version: u64,
    /// The hosts, in any order.
    pub hosts: Vec<Route>,
    /// The slots of each tier that may be picked.
    pub eligible: [Vec<u32>; TIERS],
    /// The share of calls that begins in each tier.
    pub shares: [f64; TIERS],
}

/// A host in the comparison that most picks make.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    /// The host's slot.
    pub slot: u32,
    /// Which host of the slot.
    pub generation: u32,
    /// Cost is `unit` × `level`³.
    pub unit: f32,
    /// Requests on the host with the one to be sent.
    pub level: f32,
    /// What a call that is sent adds to `level`.
    pub step: f32,
    /// The share of its calls that it gets while it warms up, of [`WARM`].
    pub warm: u32,
}

/// The share of a host that is warm.
pub const WARM: u32 = u32::MAX;

/// What is known of a host without a recent report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Note {
    /// What a call costs while no other is on its way, in nanoseconds; `None`
    /// when nothing is known.
    pub unit: Option<f32>,
    /// Calls in flight from this machine, at most 2^24 - 1.
    pub in_flight: u32,
    /// The share of its calls that it gets while it warms up, of 255.
    pub warm: u8,
}

impl Note {
    pub(crate) fn pack(self) -> u64 {
        let unit = self
            .unit
            .map_or(0, |unit| unit.max(f32::MIN_POSITIVE).to_bits());
        let in_flight = u64::from(self.in_flight.min((1 << 24) - 1));
        u64::from(unit) << 32 | in_flight << 8 | u64::from(self.warm)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    pub(crate) const fn unpack(word: u64) -> Self {
        let unit = f32::from_bits((word >> 32) as u32);
        Self {
            unit: if unit > 0.0 { Some(unit) } else { None },
            in_flight: (word >> 8) as u32 & ((1 << 24) - 1),
            warm: word as u8,
        }
    }
}

/// An address in three words: kind and port, then the bytes.
pub(crate) fn pack_address(address: SocketAddr) -> (u32, [u64; 2]) {
    let (kind, bytes) = match address.ip() {
        IpAddr::V4(ip) => (4, ip.to_ipv6_mapped().to_bits()),
        IpAddr::V6(ip) => (6, ip.to_bits()),
    };
    #[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
    let halves = [(bytes >> 64) as u64, bytes as u64];
    (kind << 16 | u32::from(address.port()), halves)
}

/// The address in three words, if they are one.
pub(crate) fn unpack_address(kind: u32, halves: [u64; 2]) -> Option<SocketAddr> {
    let bits = u128::from(halves[0]) << 64 | u128::from(halves[1]);
    let ip = std::net::Ipv6Addr::from_bits(bits);
    let ip = match kind >> 16 {
        4 => IpAddr::V4(ip.to_ipv4_mapped()?),
        6 => IpAddr::V6(ip),
        _ => return None,
    };
    let port = u16::try_from(kind & 0xffff).ok()?;
    Some(SocketAddr::new(ip, port))
}
