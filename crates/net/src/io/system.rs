//! The kernel's TCP and Unix sockets on tokio's event loop.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::system_stream::{Detached, Raw};
use super::{
    Address, Connecting, DatagramOptions, DetachedDatagrams, DetachedListener, DetachedStream, Io,
    Listener, Stream, system_datagram,
};

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 1024;

/// The kernel's sockets.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemIo;

impl Io for SystemIo {
    fn listen(&self, address: &Address) -> io::Result<Box<dyn DetachedListener>> {
        let socket = match address {
            Address::Tcp(address) => listen_tcp(*address)?,
            Address::Unix(path) => listen_unix(path)?,
            Address::Memory(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let address = match address {
            Address::Tcp(_) => local_tcp(&socket)?,
            other => other.clone(),
        };
        Ok(Box::new(SystemListener { socket, address }))
    }

    fn connect(&self, address: &Address) -> Connecting {
        match address.clone() {
            Address::Tcp(address) => Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                connected(stream.into_std()?, address.into())
            }),
            Address::Unix(path) => Box::pin(async move {
                let stream = UnixStream::connect(&path).await?;
                connected(stream.into_std()?, Address::Unix(path))
            }),
            Address::Memory(_) => Box::pin(async { Err(io::ErrorKind::Unsupported.into()) }),
        }
    }

    fn bind_datagrams(
        &self,
        address: &Address,
        options: &DatagramOptions,
    ) -> io::Result<Box<dyn DetachedDatagrams>> {
        system_datagram::bind(address, options)
    }

    fn connect_datagrams(&self, to: &Address) -> io::Result<Box<dyn DetachedDatagrams>> {
        system_datagram::connect(to)
    }
}

/// A connection that was made, off the event loop that made it, on the one
/// where it stays.
fn connected<S: Raw>(socket: S, peer: Address) -> io::Result<Box<dyn Stream>> {
    Box::new(Detached { socket, peer }).attach()
}

/// A listener from a socket that another process bound, for a restart without
/// a gap. `fd` must be a listening TCP or Unix stream socket.
///
/// # Errors
/// What the system answers when it is not.
pub fn listener_from_fd(fd: OwnedFd) -> io::Result<Box<dyn DetachedListener>> {
    let socket = Socket::from(fd);
    socket.set_nonblocking(true)?;
    if !socket.is_listener()? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket does not listen",
        ));
    }
    let local = socket.local_addr()?;
    let address = match local.as_socket() {
        Some(address) => Address::Tcp(address),
        None => Address::Unix(
            local
                .as_pathname()
                .map(Path::to_path_buf)
                .unwrap_or_default(),
        ),
    };
    Ok(Box::new(SystemListener { socket, address }))
}

fn listen_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Binds a Unix socket, replacing a socket file that nobody listens on.
fn listen_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let name = SockAddr::unix(path)?;
    if let Err(fault) = socket.bind(&name) {
        if fault.kind() != io::ErrorKind::AddrInUse || !is_stale(path)? {
            return Err(fault);
        }
        std::fs::remove_file(path)?;
        socket.bind(&name)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn is_stale(path: &Path) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener with a full backlog answers EAGAIN at once instead of waiting.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(fault) => Ok(fault.kind() == io::ErrorKind::ConnectionRefused),
        Ok(()) => Ok(false),
    }
}

pub(super) fn local_tcp(socket: &Socket) -> io::Result<Address> {
    let local = socket.local_addr()?;
    local
        .as_socket()
        .map(Address::Tcp)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

struct SystemListener {
    socket: Socket,
    address: Address,
}

impl DetachedListener for SystemListener {
    fn address(&self) -> Address {
        self.address.clone()
    }

    fn attach(self: Box<Self>) -> io::Result<Box<dyn Listener>> {
        #[allow(unsafe_code, reason = "the event loop keeps the raw descriptor")]
        // SAFETY: the socket owns its descriptor and never closes or replaces
        // it before it is dropped, which is after `AsyncFd` deregistered it.
        let socket = unsafe { AsyncFd::register(self.socket) }.map_err(io::Error::from)?;
        Ok(Box::new(AttachedListener { socket }))
    }
}

struct AttachedListener {
    socket: AsyncFd<Socket>,
}

impl Listener for AttachedListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Box<dyn DetachedStream>>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            match guard.try_io(|socket| socket.get_ref().accept()) {
                Ok(accepted) => {
                    let (socket, peer) = accepted?;
                    return Poll::Ready(detached(socket, &peer));
                }
                Err(_would_block) => {}
            }
        }
    }
}

fn detached(socket: Socket, peer: &SockAddr) -> io::Result<Box<dyn DetachedStream>> {
    socket.set_nonblocking(true)?;
    if let Some(peer) = peer.as_socket() {
        // It fails when the peer has reset already: that is its own matter,
        // and no reason to stop accepting.
        let _ = socket.set_tcp_nodelay(true);
        return Ok(Box::new(Detached {
            socket: std::net::TcpStream::from(socket),
            peer: peer.into(),
        }));
    }
    let path = peer
        .as_pathname()
        .map_or_else(PathBuf::new, Path::to_path_buf);
    Ok(Box::new(Detached {
        socket: std::os::unix::net::UnixStream::from(socket),
        peer: Address::Unix(path),
    }))
}
