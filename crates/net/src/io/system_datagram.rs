//! The kernel's UDP sockets, many datagrams a system call.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::datagram::{Batch, Datagrams, DetachedDatagrams, Outgoing};
use super::{Address, DatagramOptions};

/// Datagrams of one system call.
const MOST: usize = 64;

/// Binds a socket.
pub(super) fn bind(
    address: &Address,
    options: &DatagramOptions,
) -> io::Result<Box<dyn DetachedDatagrams>> {
    let Address::Tcp(address) = address else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let socket = Socket::new(Domain::for_address(*address), Type::DGRAM, None)?;
    if options.shared {
        socket.set_reuse_port(true)?;
    }
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&(*address).into())?;
    detached(socket, None)
}

/// A socket that sends to one peer, and receives from it alone.
pub(super) fn connect(to: &Address) -> io::Result<Box<dyn DetachedDatagrams>> {
    let Address::Tcp(peer) = to else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let socket = Socket::new(Domain::for_address(*peer), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&(*peer).into())?;
    detached(socket, Some(*peer))
}

fn detached(socket: Socket, peer: Option<SocketAddr>) -> io::Result<Box<dyn DetachedDatagrams>> {
    let address = super::system::local_tcp(&socket)?;
    Ok(Box::new(Detached {
        socket: socket.into(),
        address,
        peer,
    }))
}

struct Detached {
    socket: StdSocket,
    address: Address,
    peer: Option<SocketAddr>,
}

impl DetachedDatagrams for Detached {
    fn address(&self) -> Address {
        self.address.clone()
    }

    fn attach(self: Box<Self>) -> io::Result<Box<dyn Datagrams>> {
        Ok(Box::new(System {
            socket: UdpSocket::from_std(self.socket)?,
            peer: self.peer.map(Address::Tcp),
        }))
    }
}

struct System {
    socket: UdpSocket,
    /// The only peer, when it is connected.
    peer: Option<Address>,
}

impl Datagrams for System {
    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            let read = || receive(self.socket.as_fd(), self.peer.as_ref(), batch);
            match self.socket.try_io(Interest::READABLE, read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &[Outgoing<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_send_ready(cx))?;
            let write = || send(self.socket.as_fd(), queue);
            match self.socket.try_io(Interest::WRITABLE, write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

fn no_head() -> libc::mmsghdr {
    #[allow(unsafe_code, reason = "the C struct has no constructor")]
    // SAFETY: all zeros are a valid `mmsghdr`: lengths of 0 and null pointers.
    unsafe {
        std::mem::zeroed()
    }
}

fn part_of(pointer: *mut u8, length: usize) -> libc::iovec {
    libc::iovec {
        iov_base: pointer.cast(),
        iov_len: length,
    }
}

/// Receives what is there, without waiting.
fn receive(fd: BorrowedFd<'_>, peer: Option<&Address>, batch: &mut Batch) -> io::Result<()> {
    let most = batch.most().min(MOST);
    let mut names: [SockAddrStorage; MOST] = std::array::from_fn(|_| SockAddrStorage::zeroed());
    let mut parts = [part_of(std::ptr::null_mut(), 0); MOST];
    let mut heads = [no_head(); MOST];
    let places = batch.places().zip(&mut parts).zip(&mut names);
    for (((place, part), name), head) in places.zip(&mut heads).take(most) {
        *part = part_of(place.as_mut_ptr(), place.len());
        head.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
        head.msg_hdr.msg_namelen = name.size_of();
        head.msg_hdr.msg_iov = part;
        head.msg_hdr.msg_iovlen = 1;
    }
    #[allow(unsafe_code, reason = "no safe crate receives several datagrams")]
    // SAFETY: the first `most` heads point to names and parts that live until
    // the end of this function, each part to a place of the batch of its
    // length that nothing else refers to; the descriptor is open.
    let count = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            heads.as_mut_ptr(),
            u32::try_from(most).unwrap_or(1),
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    for (head, name) in heads.iter().zip(names).take(count) {
        let whole = head.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        let length = usize::try_from(head.msg_len).unwrap_or(0);
        #[allow(unsafe_code, reason = "the kernel wrote the name")]
        // SAFETY: the kernel filled the zeroed storage with an address of its
        // family and told its length.
        let name = unsafe { SockAddr::new(name, head.msg_hdr.msg_namelen) };
        // A connected socket hears of nobody else.
        let from = name.as_socket().map(Address::Tcp).or(peer.cloned());
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        batch.note(from, length, whole);
    }
    Ok(())
}

/// Sends as many as the system takes now.
fn send(fd: BorrowedFd<'_>, queue: &[Outgoing<'_>]) -> io::Result<usize> {
    let most = queue.len().min(MOST);
    let mut names: [Option<SockAddr>; MOST] = [const { None }; MOST];
    let mut parts = [part_of(std::ptr::null_mut(), 0); MOST];
    let mut heads = [no_head(); MOST];
    let slots = names.iter_mut().zip(&mut parts).zip(&mut heads);
    for (outgoing, ((name, part), head)) in queue.iter().zip(slots) {
        match outgoing.to {
            Some(Address::Tcp(to)) => {
                let to = name.insert((*to).into());
                head.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
                head.msg_hdr.msg_namelen = to.len();
            }
            Some(_) => return Err(io::ErrorKind::Unsupported.into()),
            None => {}
        }
        // The kernel only reads from it.
        *part = part_of(outgoing.bytes.as_ptr().cast_mut(), outgoing.bytes.len());
        head.msg_hdr.msg_iov = part;
        head.msg_hdr.msg_iovlen = 1;
    }
    #[allow(unsafe_code, reason = "no safe crate sends several datagrams")]
    // SAFETY: the first `most` heads point to names and parts that live until
    // the end of this function, each part to bytes that the caller lends; the
    // kernel reads them and writes only the heads' lengths.
    let count = unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            heads.as_mut_ptr(),
            u32::try_from(most).unwrap_or(1),
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
