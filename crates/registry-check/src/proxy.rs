//! A network under the test's control.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It carries everything.
    Pass,
    /// It carries everything, each piece so much later.
    Slow(Duration),
    /// It carries nothing and says nothing: connections stay, and what is sent
    /// arrives when it heals.
    BlackHole,
    /// It carries what clients send and holds back what they are answered: that
    /// arrives when it heals, and is lost when it is cut.
    Mute,
    /// It ends all connections, and every new one at once.
    Cut,
    /// It ends all connections, and answers every new one with what makes no
    /// sense there, as a server of another kind does.
    Nonsense,
}

/// What [`Mode::Nonsense`] answers: an error, in no registry's own protocol.
const NONSENSE: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";

/// A TCP proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    mode: watch::Sender<Mode>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy on this machine that passes, to nowhere yet.
    pub fn new() -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// The same at an address of one's own choice.
    ///
    /// # Panics
    /// When the address cannot be used.
    pub fn at(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("an event loop");
        let listener = runtime
            .block_on(TcpListener::bind(address))
            .expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let target = Arc::new(Mutex::new(None));
        let (mode, modes) = watch::channel(Mode::Pass);
        let (stop, mut stops) = watch::channel(false);
        let targets = Arc::clone(&target);
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, targets, modes) => {}
                    _ = stops.changed() => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("proxy".to_owned());
        Self {
            address,
            target,
            mode,
            stop,
            thread: Some(thread.spawn(serve).expect("a thread")),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it leads from now on; new connections to nowhere are closed.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// What it does from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Which way a piece goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the server.
    Out,
    /// To the client.
    Back,
}

async fn accept(
    listener: TcpListener,
    target: Arc<Mutex<Option<SocketAddr>>>,
    modes: watch::Receiver<Mode>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = target {
            tokio::spawn(carry(client, target, modes.clone()));
        }
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Nonsense {
        // Who has gone meanwhile needs no answer.
        let _ = client.write_all(NONSENSE).await;
        return;
    }
    if !passes(&mut mode, Way::Out).await {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    // Small messages are not to wait for each other.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    // Whichever side ends, both do.
    tokio::select! {
        () = pump(client_in, server_out, Way::Out, mode.clone()) => {}
        () = pump(server_in, client_out, Way::Back, mode.clone()) => {}
        () = cut(mode) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    mut mode: watch::Receiver<Mode>,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(count) = from.read(&mut bytes).await else {
            return;
        };
        let passes = passes(&mut mode, way).await;
        if !passes || count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits for as long as the network holds a piece back; false when it is cut.
async fn passes(mode: &mut watch::Receiver<Mode>, way: Way) -> bool {
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Pass => return true,
            Mode::Mute if way == Way::Out => return true,
            Mode::Slow(by) => {
                tokio::time::sleep(by).await;
                return true;
            }
            Mode::Cut | Mode::Nonsense => return false,
            Mode::BlackHole | Mode::Mute => {
                if mode.changed().await.is_err() {
                    return false;
                }
            }
        }
    }
}

async fn cut(mut mode: watch::Receiver<Mode>) {
    // An error means that the proxy is gone.
    let _ = mode
        .wait_for(|mode| matches!(mode, Mode::Cut | Mode::Nonsense))
        .await;
}
