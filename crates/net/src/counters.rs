//! Counters of a shard, written by its thread and read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only its shard writes, so that adding is a load and a
/// store, not a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owning shard may call it.
    pub fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// Takes `count` off. Only the owning shard may call it.
    pub fn sub(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_sub(count),
            Ordering::Relaxed,
        );
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ident $name:literal),* $(,)?) => {
        /// What a shard counts.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $field: Counter,)*
            /// Why connections ended.
            pub closed: ClosedCounters,
        }

        impl Counters {
            /// Name, help, kind and value of each, in a fixed order.
            pub fn list(&self) -> Vec<Sample> {
                vec![$(Sample {
                    name: $name,
                    help: concat!($($doc),+).trim(),
                    kind: Kind::$kind,
                    value: self.$field.get(),
                }),*]
            }
        }
    };
}

/// Whether a value only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One counter's value with what a metrics page says of it.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// The metric's name, without the `_total` of counters.
    pub name: &'static str,
    /// One sentence on it.
    pub help: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its value.
    pub value: u64,
}

counters! {
    /// Connections open now, accepted or made.
    connections_open: Gauge "waystation_net_connections_open",
    /// Slots whose socket is gone and whose owner has not released them yet.
    connections_closing: Gauge "waystation_net_connections_closing",
    /// Connections accepted.
    accepted: Counter "waystation_net_accepted",
    /// Connections refused because the limit was reached.
    refused: Counter "waystation_net_refused",
    /// Accepts that failed, for want of file descriptors or otherwise.
    accept_errors: Counter "waystation_net_accept_errors",
    /// Connections moved to the shard of their key before they opened.
    rehomed: Counter "waystation_net_rehomed",
    /// Reads that returned bytes.
    reads: Counter "waystation_net_reads",
    /// Writes that moved bytes.
    writes: Counter "waystation_net_writes",
    /// Bytes read.
    bytes_in: Counter "waystation_net_bytes_in",
    /// Bytes written.
    bytes_out: Counter "waystation_net_bytes_out",
    /// Messages decoded from connections.
    messages_in: Counter "waystation_net_messages_in",
    /// Messages sent on connections.
    messages_out: Counter "waystation_net_messages_out",
    /// Messages for a connection that was gone, or that takes none.
    stale_sends: Counter "waystation_net_stale_sends",
    /// Bytes received and not handled, messages that came in part included.
    received_bytes: Gauge "waystation_net_received_bytes",
    /// Bytes that wait to be written.
    queued_bytes: Gauge "waystation_net_queued_bytes",
    /// Times that a connection's output reached its high-water mark.
    output_high: Counter "waystation_net_output_high",
    /// Messages refused because a connection's output was full.
    output_refused: Counter "waystation_net_output_refused",
    /// Messages that arrived through the shard's mailbox.
    mailbox_in: Counter "waystation_net_mailbox_in",
    /// Timer functions that a shard called.
    alarms: Counter "waystation_net_alarms",
    /// Handlers that panicked; each answered an error.
    panics: Counter "waystation_net_panics",
    /// HTTP callers that left before their answer; their requests were
    /// cancelled.
    callers_left: Counter "waystation_net_callers_left",
    /// WebSocket handshakes refused because of the page that asked.
    origins_refused: Counter "waystation_net_origins_refused",
    /// Messages whose id no handler knows.
    unrouted: Counter "waystation_net_unrouted",
    /// Calls started on upstreams.
    calls: Counter "waystation_net_calls",
    /// Calls that ended without an answer: refused, timed out or lost.
    calls_failed: Counter "waystation_net_calls_failed",
    /// Calls refused because too many were in flight.
    calls_refused: Counter "waystation_net_calls_refused",
    /// Calls in flight or waiting now.
    calls_in_flight: Gauge "waystation_net_calls_in_flight",
    /// Answers that came after their call had ended. They are discarded.
    late_answers: Counter "waystation_net_late_answers",
    /// Sockets that this I/O shard of a split server serves now.
    split_pumps: Gauge "waystation_net_split_sockets",
    /// Times that a socket was not read because its receive queue was full.
    split_paused: Counter "waystation_net_split_paused",
    /// Heartbeats that the I/O side answered for its workers.
    split_heartbeats: Counter "waystation_net_split_heartbeats",
    /// Calls that received datagrams.
    udp_reads: Counter "waystation_net_udp_reads",
    /// Calls that sent datagrams.
    udp_writes: Counter "waystation_net_udp_writes",
    /// Datagrams received.
    udp_in: Counter "waystation_net_udp_in",
    /// Datagrams sent.
    udp_out: Counter "waystation_net_udp_out",
    /// Datagrams that were not sent: the queue was full, they were too large,
    /// or the system refused them.
    udp_dropped: Counter "waystation_net_udp_dropped",
    /// Received datagrams that were larger than they may be.
    udp_too_large: Counter "waystation_net_udp_too_large",
    /// Errors of UDP sockets, such as word that nobody listens at a peer.
    udp_errors: Counter "waystation_net_udp_errors",
    /// Connections made to upstreams.
    connects: Counter "waystation_net_connects",
    /// Attempts to connect to an upstream that failed.
    connect_errors: Counter "waystation_net_connect_errors",
}

macro_rules! closed {
    ($($field:ident),* $(,)?) => {
        /// Ended connections by reason; the labels of [`CloseReason`](crate::CloseReason).
        #[derive(Debug, Default)]
        pub struct ClosedCounters {
            $(pub(crate) $field: Counter,)*
        }

        impl ClosedCounters {
            /// Reason and count of each.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field.get())),*]
            }

            pub(crate) fn count(&self, label: &str) {
                match label {
                    $(stringify!($field) => self.$field.add(1),)*
                    _ => self.protocol.add(1),
                }
            }
        }
    };
}

closed! {
    peer, truncated, local, reset, slow_reader, idle, frame_timeout, protocol, bad_magic, unknown_version,
    unknown_kind, unknown_flags, too_large, message_too_large, too_many_partials,
    too_many_partial_bytes, more_on_control, empty_more, unknown_protocol, refused, draining, keepalive,
    handler_panic, home, http, websocket, stalled, unasked, memory,
}
