//! Connected TCP and Unix sockets: on the shard's own reactor, or on tokio's
//! event loop where a thread has none.

use std::io::{self, IoSlice, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::reactor::{Reactor, Registration, Way};
use super::{Address, DetachedStream, Stream, TcpKeepalive};

/// A socket of the standard library that can be a [`Stream`].
pub(super) trait Raw: AsFd + Send + Unpin + Sized + 'static {
    /// The same socket on tokio's event loop.
    type OnTokio: AsyncRead + AsyncWrite + Unpin + 'static;

    fn on_tokio(self) -> io::Result<Self::OnTokio>;
    fn off_tokio(stream: Self::OnTokio) -> io::Result<Self>;
    fn poll_read_ready(stream: &Self::OnTokio, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn write_some(&self, bytes: &[u8]) -> io::Result<usize>;
    fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    fn end(&self) -> io::Result<()>;
    fn keepalive(socket: SockRef<'_>, keepalive: &TcpKeepalive) -> io::Result<()>;
    /// Who is at the other end; nobody's address when it is gone already.
    fn peer_of(&self) -> Address;
    fn on_tokio_ref(stream: &Self::OnTokio) -> SockRef<'_>;
}

macro_rules! raw {
    ($std:ty, $tokio:ty, $keepalive:path, $peer:path) => {
        impl Raw for $std {
            type OnTokio = $tokio;

            fn on_tokio(self) -> io::Result<$tokio> {
                <$tokio>::from_std(self)
            }

            fn off_tokio(stream: $tokio) -> io::Result<Self> {
                stream.into_std()
            }

            fn poll_read_ready(stream: &$tokio, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                stream.poll_read_ready(cx)
            }

            fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
                let mut stream = self;
                stream.write(bytes)
            }

            fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
                let mut stream = self;
                stream.write_vectored(parts)
            }

            fn end(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }

            fn keepalive(socket: SockRef<'_>, keepalive: &TcpKeepalive) -> io::Result<()> {
                $keepalive(&socket, keepalive)
            }

            fn peer_of(&self) -> Address {
                $peer(self)
            }

            fn on_tokio_ref(stream: &$tokio) -> SockRef<'_> {
                SockRef::from(stream)
            }
        }
    };
}

raw!(
    std::net::TcpStream,
    TcpStream,
    keepalive_of_tcp,
    peer_of_tcp
);
raw!(
    std::os::unix::net::UnixStream,
    UnixStream,
    keepalive_of_unix,
    peer_of_unix
);

fn peer_of_tcp(stream: &std::net::TcpStream) -> Address {
    let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    Address::Tcp(stream.peer_addr().unwrap_or(nobody))
}

fn peer_of_unix(stream: &std::os::unix::net::UnixStream) -> Address {
    let address = stream.peer_addr().ok();
    let path = address.as_ref().and_then(|address| address.as_pathname());
    Address::Unix(path.map(Path::to_path_buf).unwrap_or_default())
}

fn keepalive_of_tcp(socket: &SockRef<'_>, keepalive: &TcpKeepalive) -> io::Result<()> {
    let settings = socket2::TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.probes);
    socket.set_tcp_keepalive(&settings)
}

/// Both ends are on this machine: a peer that is gone has closed its end.
#[allow(clippy::unnecessary_wraps, reason = "its sibling may fail")]
fn keepalive_of_unix(_: &SockRef<'_>, _: &TcpKeepalive) -> io::Result<()> {
    Ok(())
}

/// A connected socket on its way between two event loops.
pub(super) struct Detached<S> {
    pub(super) socket: S,
    pub(super) peer: Address,
}

impl<S: Raw> DetachedStream for Detached<S> {
    fn attach(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        let Self { socket, peer } = *self;
        Ok(match Reactor::current() {
            Some(reactor) => Box::new(Own {
                registration: reactor.register(&socket)?,
                socket,
            }),
            None => Box::new(OnTokio::<S> {
                stream: socket.on_tokio()?,
                peer,
            }),
        })
    }
}

/// A socket on the reactor of its shard. Who is at its other end it asks the
/// system, which is done once: every connection has one of these.
struct Own<S> {
    /// Before the socket, so that it goes first.
    registration: Registration,
    socket: S,
}

impl<S: Raw> Stream for Own<S> {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.registration.poll_ready(Way::Read, cx).map(Ok)
    }

    fn peer(&self) -> Address {
        self.socket.peer_of()
    }

    fn set_keepalive(&mut self, keepalive: &TcpKeepalive) -> io::Result<()> {
        S::keepalive(SockRef::from(&self.socket), keepalive)
    }

    fn detach(self: Box<Self>) -> io::Result<Box<dyn DetachedStream>> {
        let Self {
            registration,
            socket,
        } = *self;
        let peer = socket.peer_of();
        registration.deregister(&socket)?;
        Ok(Box::new(Detached { socket, peer }))
    }
}

impl<S: Raw> AsyncRead for Own<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (socket, offered) = (SockRef::from(&self.socket), buffer.remaining());
        self.registration
            .poll_io(Way::Read, cx, offered, || {
                #[allow(unsafe_code, reason = "the kernel writes into the buffer")]
                // SAFETY: `recv` only ever initialises bytes, and says how
                // many it did from the front.
                unsafe {
                    let count = socket.recv(buffer.unfilled_mut())?;
                    buffer.assume_init(count);
                    buffer.advance(count);
                    Ok(count)
                }
            })
            .map_ok(drop)
    }
}

impl<S: Raw> AsyncWrite for Own<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self {
            registration,
            socket,
        } = &*self;
        registration.poll_io(Way::Write, cx, bytes.len(), || socket.write_some(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self {
            registration,
            socket,
        } = &*self;
        let offered = parts.iter().map(|part| part.len()).sum();
        registration.poll_io(Way::Write, cx, offered, || socket.write_parts(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.end())
    }
}

/// A socket on tokio's event loop.
pub(super) struct OnTokio<S: Raw> {
    pub(super) stream: S::OnTokio,
    pub(super) peer: Address,
}

impl<S: Raw> Stream for OnTokio<S> {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        S::poll_read_ready(&self.stream, cx)
    }

    fn peer(&self) -> Address {
        self.peer.clone()
    }

    fn set_keepalive(&mut self, keepalive: &TcpKeepalive) -> io::Result<()> {
        S::keepalive(S::on_tokio_ref(&self.stream), keepalive)
    }

    fn detach(self: Box<Self>) -> io::Result<Box<dyn DetachedStream>> {
        Ok(Box::new(Detached {
            socket: S::off_tokio(self.stream)?,
            peer: self.peer,
        }))
    }
}

impl<S: Raw> AsyncRead for OnTokio<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Raw> AsyncWrite for OnTokio<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
