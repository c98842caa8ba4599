//! What an agent says of a service's hosts.

mod reader;
mod writer;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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

/// Where a host is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At an IP address.
    Ip(SocketAddr),
    /// At a Unix socket of this machine: which of the segment's paths it has, see
    /// [`RouteReader::path`].
    Unix(u32),
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
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
    pub place: Place,
}

/// All hosts, and who of them may be picked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// The version of the view.
    pub version: u64,
    /// The hosts, in any order.
    pub hosts: Vec<Route>,
    /// Slots whose host left, with its generation: how calls to it ended is still
    /// counted there.
    pub former: Vec<(u32, u32)>,
    /// The paths of those at Unix sockets, at most
    /// [`PATHS_MAX`](crate::limits::PATHS_MAX).
    pub paths: Vec<Arc<str>>,
    /// The slots of each tier that may be picked.
    pub eligible: [Vec<u32>; TIERS],
    /// The share of calls that begins in each tier.
    pub shares: [f64; TIERS],
    /// When a call goes to the next tier.
    pub spill: Spill,
}

/// When a call goes to a host of the next tier: the near host has at least `from`
/// requests, and `ratio` times as many as the far one with this call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spill {
    /// 0 for never.
    pub from: u32,
    /// See above.
    pub ratio: u32,
}

impl Spill {
    /// Whether a host with so much work is too busy for a farther one not to be
    /// asked.
    #[inline]
    pub(crate) const fn asks(self, near_work: u32) -> bool {
        self.from > 0 && near_work >= self.from
    }

    /// Whether the far one gets the call.
    pub(crate) const fn goes(self, near_work: u32, far_work: u32) -> bool {
        far_work.saturating_add(1).saturating_mul(self.ratio) <= near_work
    }
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
    /// Requests on the host, for [`Spill`].
    pub work: u32,
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

/// The kind of a host at a Unix socket.
const UNIX: u32 = 1;

/// A place in three words: kind and port, then the bytes, or the path's place.
pub(crate) fn pack_place(place: Place) -> (u32, [u64; 2]) {
    let address = match place {
        Place::Unix(path) => return (UNIX << 16, [0, path.into()]),
        Place::Ip(address) => address,
    };
    let (kind, bytes) = match address.ip() {
        IpAddr::V4(ip) => (4, ip.to_ipv6_mapped().to_bits()),
        IpAddr::V6(ip) => (6, ip.to_bits()),
    };
    #[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
    let halves = [(bytes >> 64) as u64, bytes as u64];
    (kind << 16 | u32::from(address.port()), halves)
}

/// The place in three words, if they are one.
pub(crate) fn unpack_place(kind: u32, halves: [u64; 2]) -> Option<Place> {
    if kind >> 16 == UNIX {
        return Some(Place::Unix(u32::try_from(halves[1]).ok()?));
    }
    let bits = u128::from(halves[0]) << 64 | u128::from(halves[1]);
    let ip = std::net::Ipv6Addr::from_bits(bits);
    let ip = match kind >> 16 {
        4 => IpAddr::V4(ip.to_ipv4_mapped()?),
        6 => IpAddr::V6(ip),
        _ => return None,
    };
    let port = u16::try_from(kind & 0xffff).ok()?;
    Some(Place::Ip(SocketAddr::new(ip, port)))
}
