//! The sections of the parts that take over from Lars. `config import-lars`
//! fills them from Lars' own files.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use waystation_balance::{LarsConfig, Locality, PolicyKind};
use waystation_membership::Label;

use super::field::{Kind, section};

/// How hosts may be chosen.
const POLICIES: &[&str] = &[
    "fresh",
    "prequal",
    "p2c",
    "lars",
    "weighted",
    "round-robin",
    "maglev",
];

/// What a route server may speak.
const ROUTE_PROTOCOLS: &[&str] = &["native", "lars"];

/// Who may connect to the agent's socket.
const SOCKET_ACCESS: &[&str] = &["owner", "group", "all"];

section! {
    /// The route server, `waystation route serve`: which hosts serve what.
    struct Route as "route" {
        /// Where agents ask, by Lars' protocol and natively.
        listen: SocketAddr = Text("127.0.0.1:7778"), Kind::Address,
            "an address that is not loopback shows routes to the network";
        /// Threads that serve: one knows the routes, the others move bytes for it.
        shards: u16 = Integer(1), Kind::Integer { unit: "threads", min: 1, max: 256 },
            "a thread, and from the second on a hand-off for each batch of messages";
        /// Connections at a time; one more is told so and closed.
        connections_max: usize = Integer(16_384), Kind::Integer { unit: "connections", min: 1, max: 1_000_000 },
            "a file descriptor and some KiB each";
        /// Where routes are stored: `sqlite://PATH`, `mysql://…` or
        /// `postgres://…`; empty for a file below `up.dir`.
        store: String = Text(""), Kind::Url,
            "none";
        /// How often a store that cannot notify is asked whether it changed.
        poll_ms: u64 = Integer(1_000), Kind::Integer { unit: "ms", min: 10, max: 3_600_000 },
            "changes by others are seen later; a lower value asks the database more often";
        /// How often all of the store is read, whatever it says.
        reload_ms: u64 = Integer(8_000), Kind::Integer { unit: "ms", min: 100, max: 3_600_000 },
            "changes by writers that tell nobody are seen later; a lower value reads more often";
    }
}

impl Route {
    /// [`Self::poll_ms`] as a duration.
    pub(crate) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    /// [`Self::reload_ms`] as a duration.
    pub(crate) fn reload(&self) -> Duration {
        Duration::from_millis(self.reload_ms)
    }
}

section! {
    /// The report server, `waystation report serve`: call statistics.
    struct Report as "report" {
        /// Where agents report, by Lars' protocol and natively.
        listen: SocketAddr = Text("127.0.0.1:7779"), Kind::Address,
            "an address that is not loopback takes reports from the network";
        /// Threads that serve.
        shards: u16 = Integer(1), Kind::Integer { unit: "threads", min: 1, max: 256 },
            "a thread";
        /// Connections at a time; one more is told so and closed.
        connections_max: usize = Integer(16_384), Kind::Integer { unit: "connections", min: 1, max: 1_000_000 },
            "a file descriptor and some KiB each";
        /// Where statistics are stored: `sqlite://PATH` or `mysql://…`; empty
        /// for a file below `up.dir`.
        store: String = Text(""), Kind::Url,
            "none";
        /// Pause between two batches to the store.
        flush_ms: u64 = Integer(500), Kind::Integer { unit: "ms", min: 10, max: 60_000 },
            "a higher value shows counts later, a lower one writes more rows";
        /// For how long history of 10 s is kept.
        keep_10s_s: u64 = Integer(7_200), Kind::Integer { unit: "s", min: 60, max: 31_536_000 },
            "a row in the store for each 10 s of each key that is called";
        /// For how long history of 1 min is kept.
        keep_1m_s: u64 = Integer(172_800), Kind::Integer { unit: "s", min: 600, max: 315_360_000 },
            "a row in the store for each minute of each key that is called";
        /// For how long history of 1 h is kept, and keys that are not called.
        keep_1h_s: u64 = Integer(7_776_000), Kind::Integer { unit: "s", min: 172_800, max: 3_153_600_000 },
            "a row in the store for each hour of each key that is called";
    }
}

section! {
    /// The agent of a host, `waystation agent`: it answers the callers there.
    struct Agent as "agent" {
        /// The route server.
        route: SocketAddr = Text("127.0.0.1:7778"), Kind::Address,
            "none";
        /// What it speaks: `native`, or `lars` for a route server of Lars, which
        /// knows pairs only.
        route_protocol: String = Text("native"), Kind::Choice(ROUTE_PROTOCOLS),
            "none";
        /// The report server.
        report: SocketAddr = Text("127.0.0.1:7779"), Kind::Address,
            "none";
        /// The first of three UDP ports of loopback, one after the other, where
        /// callers of Lars ask, who expect this one; 0 for any three.
        udp_port: u16 = Integer(8_888), Kind::Integer { unit: "port", min: 0, max: 65_533 },
            "none";
        /// How hosts are chosen for native callers; those of Lars have the rule of
        /// Lars, with the settings of its own section. By `fresh` and `p2c` callers
        /// pick from shared memory. By `maglev` calls that are picked with one key
        /// go to one host, and those without a key to any.
        policy: String = Text("fresh"), Kind::Choice(POLICIES),
            "by any other than `fresh` and `p2c` callers ask the agent for each pick";
        /// Which users of this machine may connect to the agent's socket: its
        /// `owner`, the owner's `group`, or `all`. The socket in the data directory
        /// stands below a folder that only the owner may look into: for others say
        /// `--socket` with another place, to the agent and to who asks it.
        socket_access: String = Text("owner"), Kind::Choice(SOCKET_ACCESS),
            "other users fill the 256 places for processes, too";
        /// The machine room that this machine stands in: hosts there come first.
        site: String = Text(""), Kind::Place,
            "none";
        /// Its part of the machine room, whose hosts come before others there.
        zone: String = Text(""), Kind::Place,
            "none";
    }
}

impl Agent {
    /// How hosts are chosen.
    pub(crate) fn policy(&self) -> PolicyKind {
        // The text is one of the words.
        self.policy.parse().unwrap_or_default()
    }

    /// Where this machine stands.
    pub(crate) fn locality(&self) -> Locality {
        let label = |text: &str| Label::new(text).ok();
        Locality {
            site: label(&self.site),
            zone: label(&self.zone),
        }
    }

    /// Where callers of Lars ask.
    pub(crate) fn udp(&self) -> [SocketAddr; 3] {
        // Port 0 is any free one, for each of them.
        let step = u16::from(self.udp_port != 0);
        [0, 1, 2].map(|index| {
            let port = self.udp_port.saturating_add(index * step);
            (Ipv4Addr::LOCALHOST, port).into()
        })
    }
}

section! {
    /// The balance of services that are asked for by Lars' protocol, under
    /// Lars' own names.
    struct Lars as "lars" {
        /// Picks between two of overloaded hosts.
        probe_num: u32 = Integer(10), Kind::Integer { unit: "picks", min: 0, max: 1_000_000 },
            "a lower value sends more calls to hosts that are overloaded";
        /// Successes that an idle host begins with.
        init_succ_cnt: u32 = Integer(180), Kind::Integer { unit: "calls", min: 0, max: 1_000_000 },
            "a higher value takes more errors before a host is overloaded";
        /// Errors that an overloaded host begins with.
        init_err_cnt: u32 = Integer(5), Kind::Integer { unit: "calls", min: 0, max: 1_000_000 },
            "a higher value takes more successes before a host is idle";
        /// Above this share of errors an idle host is overloaded.
        err_rate: f64 = Share(0.1), Kind::Share,
            "a higher value keeps failing hosts for longer";
        /// Above this share of successes an overloaded host is idle.
        succ_rate: f64 = Share(0.5), Kind::Share,
            "a higher value keeps hosts away for longer";
        /// Errors in a row that overload an idle host.
        contin_err_limit: u32 = Integer(15), Kind::Integer { unit: "calls", min: 1, max: 1_000_000 },
            "a higher value keeps failing hosts for longer";
        /// Successes in a row that make an overloaded host idle.
        contin_succ_limit: u32 = Integer(15), Kind::Integer { unit: "calls", min: 1, max: 1_000_000 },
            "a higher value keeps hosts away for longer";
        /// From this real share of errors in a window an idle host is
        /// overloaded.
        window_err_rate: f64 = Share(0.7), Kind::Share,
            "a higher value keeps failing hosts for longer";
        /// Length of an idle host's window.
        idle_timeout_s: u32 = Integer(15), Kind::Integer { unit: "s", min: 1, max: 86_400 },
            "a higher value forgets errors later";
        /// How long a host stays overloaded at most.
        overload_timeout_s: u32 = Integer(15), Kind::Integer { unit: "s", min: 1, max: 86_400 },
            "a higher value keeps hosts away for longer";
        /// The age at which a route is asked for again.
        update_timeout_s: u32 = Integer(15), Kind::Integer { unit: "s", min: 1, max: 86_400 },
            "a higher value leaves lost pushes unnoticed for longer";
    }
}

impl Lars {
    /// The rule as crate `balance` has it.
    pub(crate) fn rules(&self) -> LarsConfig {
        LarsConfig {
            probe_num: self.probe_num,
            init_succ_cnt: self.init_succ_cnt,
            init_err_cnt: self.init_err_cnt,
            err_rate: self.err_rate,
            succ_rate: self.succ_rate,
            contin_err_limit: self.contin_err_limit,
            contin_succ_limit: self.contin_succ_limit,
            window_err_rate: self.window_err_rate,
            idle_timeout: Duration::from_secs(self.idle_timeout_s.into()),
            overload_timeout: Duration::from_secs(self.overload_timeout_s.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy that could not be named could not be used.
    #[test]
    fn every_policy_may_be_chosen() {
        let names = PolicyKind::ALL.map(PolicyKind::name);
        assert_eq!(POLICIES, names);
    }
}
