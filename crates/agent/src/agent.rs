//! The agent's thread.

use std::cell::RefCell;
use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use waystation_base::hash64;
use waystation_client::{Error as AskError, Socket, machine_now};
use waystation_membership::{View, Watch};
use waystation_net::udp::{Udp, UdpConfig, UdpListener};
use waystation_net::{Address, Label, NetConfig, Server, Shard};
use waystation_registry::{
    Acks, Client, Registries, Registry as _, RegistryUrl, WatchOptions, Watching,
};
use waystation_segment::TURN_EVERY;

use crate::config::{AgentConfig, ReportTo, SocketAccess};
use crate::desk::Desk;
use crate::error::Error;
use crate::figures::FigureBoard;
use crate::limits::{FIGURES_EVERY, IDLE_TURN, PROBE_LINKS_LOOK, RETIRED_FOR};
use crate::probes::Prober;
use crate::{lars_source, reports, routes, unix};

/// A running agent: one thread, and one for each registry's client. Dropping it
/// ends both; callers go on by what they know, for a while.
pub struct Agent {
    server: Option<Server>,
    udp: Vec<SocketAddr>,
    socket: PathBuf,
    /// Whoever has it has the socket.
    _lock: File,
    figures: FigureBoard,
    /// None with a route server of Lars.
    registries: Option<Registries>,
}

impl Agent {
    /// Binds and starts. The registry need not be there yet.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(config: AgentConfig) -> Result<Self, Error> {
        let fault = |source| Error::Socket {
            path: config.socket.clone(),
            source,
        };
        let (source, registries) = Source::open(&config)?;
        let net = NetConfig {
            seed: config.seed,
            ..NetConfig::default()
        };
        let mut udp = Vec::new();
        let mut sockets = Vec::new();
        for &at in &config.udp {
            let socket = UdpListener::bind(&net, &Address::Tcp(at), UdpConfig::default())?;
            if let Address::Tcp(address) = socket.address() {
                udp.push(address);
            }
            sockets.push(socket);
        }
        // After what fails most: until here nobody's socket is touched.
        let lock = lock(&config.socket).map_err(fault)?;
        let listener = listen(&config.socket, config.access).map_err(fault)?;
        let path = config.socket.clone();
        // Another agent's segments have another owner, those of an earlier one
        // too.
        let owner = hash64(&machine_now().as_nanos().to_le_bytes())
            ^ hash64(&std::process::id().to_le_bytes());
        let parts = Mutex::new(Some((config, listener, source)));
        let figures = FigureBoard::default();
        let board = figures.clone();
        let mut builder = Server::builder(net).on_shard(move |shard| {
            let parts = parts.lock().ok().and_then(|mut parts| parts.take());
            if let Some((config, listener, source)) = parts {
                let copy = config.copy.clone();
                let report = config.report.clone();
                let desk = Rc::new(RefCell::new(Desk::new(config, owner)));
                shard.set_extension(Rc::clone(&desk));
                if let Some(path) = copy {
                    let copying = routes::copy(shard.clone(), Rc::clone(&desk), path);
                    shard.spawn(Label::of("route copy"), copying);
                }
                source.start(shard, &desk);
                start(shard, &desk, listener, report);
                show_figures(shard, desk, board.clone());
            }
        });
        for socket in sockets {
            builder = builder.serve_udp(socket, |shard| {
                let desk = shard.extension::<RefCell<Desk>>();
                let out = RefCell::new(Vec::new());
                move |socket: &Udp, from: &Address, bytes: &[u8]| {
                    let Some(desk) = &desk else { return };
                    let mut out = out.borrow_mut();
                    let mut desk = desk.borrow_mut();
                    desk.handle_datagram(machine_now(), bytes, &mut out);
                    if !out.is_empty() {
                        // A full queue is counted by the socket.
                        let _dropped = socket.send(from, &out);
                    }
                }
            });
        }
        Ok(Self {
            server: Some(builder.start()?),
            udp,
            socket: path,
            _lock: lock,
            figures,
            registries,
        })
    }

    /// Where callers of Lars ask.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// What it counts.
    pub const fn figures(&self) -> &FigureBoard {
        &self.figures
    }

    /// What its routes come from; none with a route server of Lars.
    pub const fn registries(&self) -> Option<&Registries> {
        self.registries.as_ref()
    }

    /// The server below; none once it has ended.
    pub const fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// The Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it: callers let go of its memory at once, what they did is told, the
    /// socket is closed, and they fall back. What they do from then on the next
    /// agent counts.
    pub fn drain(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(server) = self.server.take() {
            server.drain();
            if let Some(registries) = &self.registries {
                registries.close_and_wait();
            }
            // Somebody without a lock may have replaced it already.
            if !is_served(&self.socket) {
                let _gone = std::fs::remove_file(&self.socket);
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether somebody has the socket, be it one that has stopped: connections to
/// that wait until they are too many. It does not wait itself.
fn is_served(path: &Path) -> bool {
    match Socket::connect(path, Duration::ZERO) {
        Ok(_) => true,
        Err(AskError::Unreachable(error)) => error.kind() == io::ErrorKind::WouldBlock,
        Err(_) => false,
    }
}

/// Takes the lock beside the socket, which ends with this process: of two that find
/// the socket of one that is gone, each would take the other's for that.
fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = File::create(name)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::AddrInUse.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Binds the socket, in place of one whose agent is gone.
fn listen(path: &Path, access: SocketAccess) -> io::Result<UnixListener> {
    if is_served(path) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(access.mode()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What is known of hosts comes from here.
enum Source {
    /// A route server, and the copy of what it had.
    Routes(Client, Vec<View>),
    /// A route server of Lars, and the copy of what it had.
    Lars(SocketAddr, Vec<View>),
    /// A registry, all of it, or several as one.
    Whole(Watching),
}

impl Source {
    /// With the client that it is of, which is to be closed at the end.
    fn open(config: &AgentConfig) -> Result<(Self, Option<Registries>), Error> {
        let copy = config.copy.as_deref();
        let restored = copy.map(routes::read_copy).unwrap_or_default();
        if let Some(at) = config.lars_route {
            return Ok((Self::Lars(at, restored), None));
        }
        let is_route = |url: &RegistryUrl| matches!(url, RegistryUrl::Route { .. });
        match &config.registries[..] {
            [url] if is_route(url) => {
                let client = Client::open(url)?;
                let source = Self::Routes(client.clone(), restored);
                return Ok((source, Some(client.into())));
            }
            urls if urls.iter().any(is_route) => return Err(Error::RouteAmongOthers),
            _ => {}
        }
        let registries = Registries::open(&config.registries)?;
        let options = WatchOptions {
            acks: Acks::ByCaller,
            restored,
            ..WatchOptions::default()
        };
        let watching = registries.watch(Watch::Prefix("".into()), options)?;
        Ok((Self::Whole(watching), Some(registries)))
    }

    fn start(self, shard: &Shard, desk: &Rc<RefCell<Desk>>) {
        let watching = match self {
            Self::Routes(client, restored) => return routes::start(shard, desk, client, restored),
            Self::Lars(at, restored) => return lars_source::start(shard, desk, at, restored),
            Self::Whole(watching) => Rc::new(watching),
        };
        desk.borrow_mut().set_whole(Rc::clone(&watching));
        let (inner, its) = (shard.clone(), Rc::clone(desk));
        shard.spawn(Label::of("routes"), async move {
            loop {
                let changes = tokio::select! {
                    () = inner.drain_begun() => return,
                    changes = watching.changes() => changes,
                };
                for change in changes {
                    its.borrow_mut().handle_view(machine_now(), &change.view);
                    // Callers see it in their segments from here on.
                    watching.acknowledge(&change.view.service, change.view.at);
                }
            }
        });
    }
}

fn start(
    shard: &Shard,
    desk: &Rc<RefCell<Desk>>,
    listener: UnixListener,
    report: Option<ReportTo>,
) {
    let (inner, its) = (shard.clone(), Rc::clone(desk));
    shard.spawn(Label::of("callers"), async move {
        match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => unix::accept(inner, listener, its).await,
            Err(error) => tracing::error!(%error, "the socket could not join its thread"),
        }
    });
    // Before what reports is told at the end.
    let its = Rc::clone(desk);
    shard.on_drain(move |shard| Box::pin(retire(shard.clone(), its)));
    if let Some(to) = report {
        reports::start(shard, desk, to);
    }
    let (inner, its) = (shard.clone(), Rc::clone(desk));
    shard.spawn(Label::of("turns"), async move {
        let mut wait = IDLE_TURN;
        let prober = Prober::new(&inner, &its);
        let mut looked_at = machine_now();
        loop {
            tokio::select! {
                () = inner.drain_begun() => return,
                () = inner.sleep(wait) => {}
            }
            let now = machine_now();
            let is_busy = its.borrow_mut().handle_turn(now);
            prober.handle_turn(now);
            if now.saturating_since(looked_at) >= PROBE_LINKS_LOOK {
                looked_at = now;
                prober.drop_idle(now);
            }
            wait = if is_busy { TURN_EVERY } else { IDLE_TURN };
        }
    });
}

/// Lets callers go, while everything goes on: who finds this agent gone without
/// that takes it for silent only after two seconds, in which nobody tells him of
/// hosts that leave.
async fn retire(shard: Shard, desk: Rc<RefCell<Desk>>) {
    let has_callers = desk.borrow_mut().retire();
    if has_callers {
        shard.sleep(RETIRED_FOR).await;
    }
}

/// Shows what is counted, every second.
fn show_figures(shard: &Shard, desk: Rc<RefCell<Desk>>, board: FigureBoard) {
    let inner = shard.clone();
    shard.spawn(Label::of("figures"), async move {
        loop {
            let figures = desk.borrow().figures();
            desk.borrow_mut().drop_untold();
            board.show(figures);
            tokio::select! {
                () = inner.drain_begun() => return,
                () = inner.sleep(FIGURES_EVERY) => {}
            }
        }
    });
}
