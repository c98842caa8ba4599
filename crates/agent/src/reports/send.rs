//! The two connections to a report server: native, and Lars'.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use waystation_base::{Backoff, BackoffConfig, Moment};
use waystation_client::machine_now;
use waystation_net::native::{Router, Upstream, UpstreamConfig, UpstreamEvents, UpstreamState};
use waystation_net::{Address, Conn, Label, Shard, unix_time, until};
use waystation_wire::calls::{CALL_COUNTS, NAME_LEN_MAX};
use waystation_wire::lars::{Message, ReportStatusRequest};

use crate::config::ReportTo;
use crate::desk::Desk;
use crate::limits::{REPORT_EVERY, REPORT_WAIT};

/// How often a connection that ends is looked at for what has not left.
const FLUSH_LOOK: std::time::Duration = std::time::Duration::from_millis(5);

type Shared = Rc<RefCell<Desk>>;

/// Begins to tell a report server.
pub(crate) fn start(shard: &Shard, desk: &Shared, to: ReportTo) {
    if to.is_native {
        start_native(shard, desk, &to);
    }
    let (inner, its) = (shard.clone(), Rc::clone(desk));
    shard.spawn(Label::of("reports of Lars"), async move {
        Lars::new(inner, its, to).run().await;
    });
}

/// Tells all again over each new connection.
struct TellAll {
    desk: Shared,
    is_new: Rc<Cell<bool>>,
}

impl UpstreamEvents for TellAll {
    fn on_up(&self, _: &Upstream, _: &Conn) {
        self.desk.borrow_mut().totals.mark_untold();
        self.is_new.set(true);
    }
}

fn start_native(shard: &Shard, desk: &Shared, to: &ReportTo) {
    let is_new = Rc::new(Cell::new(false));
    let upstream = Upstream::with_events(
        shard,
        UpstreamConfig::new(Address::Tcp(to.address)),
        Rc::new(Router::new()),
        Rc::new(TellAll {
            desk: Rc::clone(desk),
            is_new: Rc::clone(&is_new),
        }),
    );
    let caller = caller_name(&to.caller);
    let (its, up, name) = (Rc::clone(desk), upstream.clone(), caller.clone());
    shard.on_drain(move |shard| {
        let shard = shard.clone();
        Box::pin(async move {
            tell(&its, &up, &name);
            let end = shard.now() + REPORT_WAIT;
            let left = |up: &Upstream| up.conn().map_or(0, |conn| conn.output_len());
            while left(&up) > 0 && shard.now() < end {
                shard.sleep(FLUSH_LOOK).await;
            }
        })
    });
    let (inner, its) = (shard.clone(), Rc::clone(desk));
    shard.spawn(Label::of("counts"), async move {
        loop {
            tokio::select! {
                () = inner.drain_begun() => return,
                () = inner.sleep(REPORT_EVERY) => {}
            }
            // A second later what was sent is taken, or the connection is gone.
            if !is_new.take() && upstream.conn().is_some_and(|conn| conn.output_len() == 0) {
                its.borrow_mut().totals.make_room(machine_now());
            }
            tell(&its, &upstream, &caller);
        }
    });
}

/// Sends what is untold, unless the server is not there or reads too slowly.
fn tell(desk: &Shared, upstream: &Upstream, caller: &str) {
    let mut desk = desk.borrow_mut();
    desk.collect_ends(machine_now());
    let takes = upstream.conn().is_some_and(|conn| !conn.is_behind());
    if upstream.state() != UpstreamState::Up || !takes {
        return;
    }
    // Before it is told: what is noted and not told is lost with this agent, what is
    // told and not noted the next one would count again.
    desk.note_told();
    for counts in desk.totals.untold(caller) {
        let mut body = Vec::with_capacity(counts.body_len());
        counts.encode_into(&mut body);
        if upstream.push(CALL_COUNTS, &body).is_err() {
            return;
        }
    }
    desk.totals.mark_told(machine_now());
}

/// The machine's name, as a caller's name may be.
fn caller_name(given: &str) -> String {
    let own = rustix::system::uname();
    let name = if given.is_empty() {
        own.nodename().to_string_lossy().into_owned()
    } else {
        given.to_owned()
    };
    let named: String = name.chars().filter(char::is_ascii_graphic).collect();
    let cut = &named[..named.len().min(NAME_LEN_MAX)];
    if cut.is_empty() { "localhost" } else { cut }.to_owned()
}

/// Reports by Lars' protocol: one connection, made when there is something to
/// tell, and again whenever it is lost.
struct Lars {
    shard: Shard,
    desk: Shared,
    to: ReportTo,
    stream: Option<TcpStream>,
    backoff: Backoff,
    next_try: Moment,
}

impl Lars {
    fn new(shard: Shard, desk: Shared, to: ReportTo) -> Self {
        let backoff = Backoff::new(BackoffConfig::default(), shard.random());
        Self {
            shard,
            desk,
            to,
            stream: None,
            backoff,
            next_try: Moment::ZERO,
        }
    }

    async fn run(mut self) {
        loop {
            let is_end = tokio::select! {
                () = self.shard.drain_begun() => true,
                () = self.shard.sleep(REPORT_EVERY) => false,
            };
            if let Err(error) = self.turn().await {
                tracing::debug!(address = %self.to.address, %error, "reports wait for the report server");
                self.stream = None;
                self.desk.borrow_mut().pairs.totals.mark_untold();
                self.next_try = self.shard.now() + self.backoff.next_delay();
            }
            if is_end {
                return;
            }
        }
    }

    async fn turn(&mut self) -> io::Result<()> {
        if self.shard.now() < self.next_try {
            return Ok(());
        }
        if self.stream.as_ref().is_some_and(is_closed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let caller = self
            .to
            .caller_ip
            .unwrap_or_else(|| own_address(self.to.address));
        let ts = u32::try_from(unix_time().as_secs()).unwrap_or(u32::MAX);
        let untold = {
            let (mut desk, now) = (self.desk.borrow_mut(), machine_now());
            if self.stream.is_some() {
                // It has not broken since, so that what was sent is taken.
                desk.pairs.totals.make_room(now);
            }
            desk.pairs.totals.take_untold(now, caller, ts)
        };
        if untold.is_empty() {
            return Ok(());
        }
        let bytes = frames(untold);
        let deadline = self.shard.now() + REPORT_WAIT;
        if self.stream.is_none() {
            let connecting = TcpStream::connect(self.to.address);
            let connected = until(&self.shard, deadline, connecting).await;
            self.stream = Some(connected.map_err(|_| io::ErrorKind::TimedOut)??);
        }
        if let Some(stream) = &mut self.stream {
            let written = until(&self.shard, deadline, stream.write_all(&bytes)).await;
            written.map_err(|_| io::ErrorKind::TimedOut)??;
        }
        self.backoff.reset();
        Ok(())
    }
}

/// Whether a connection that says nothing has ended.
fn is_closed(stream: &TcpStream) -> bool {
    let mut bytes = [0; 64];
    loop {
        match stream.try_read(&mut bytes) {
            Ok(0) => return true,
            // A report server has no answers; whatever this is, it is skipped.
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

fn frames(messages: Vec<ReportStatusRequest>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        // A thousand results are far below the bound of a frame.
        let _ = Message::ReportStatusRequest(message).encode_into(&mut bytes);
    }
    bytes
}

/// This machine's address towards another; loopback where there is no way.
fn own_address(to: SocketAddr) -> Ipv4Addr {
    // Connecting a UDP socket sends nothing.
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    match found.map(|address| address.ip()) {
        Ok(IpAddr::V4(address)) => address,
        _ => Ipv4Addr::LOCALHOST,
    }
}
