//! Servers behind real sockets, for handlers that have no other door.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A server that says nothing and does not close for so long hangs.
const WAIT: Duration = Duration::from_secs(20);

/// Pieces of one input, at most: each is a system call.
const PIECES_MAX: usize = 64;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

unsafe extern "C" {
    fn atexit(run: extern "C" fn()) -> i32;
}

extern "C" fn remove_folder() {
    if let Some(folder) = FOLDER.get() {
        let _gone = std::fs::remove_dir_all(folder);
    }
}

/// A folder of this process, which goes with it: statics are never dropped.
pub fn folder(name: &str) -> &'static Path {
    FOLDER.get_or_init(|| {
        let name = format!("waystation-fuzz-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
        // SAFETY: the function touches nothing but its folder, and is called once.
        let is_kept = unsafe { atexit(remove_folder) };
        assert_eq!(
            is_kept, 0,
            "at the end of the process there is room for one more"
        );
        folder
    })
}

/// A connected socket.
pub trait Peer: Read + Write {
    /// Says nothing more.
    fn end(&self);
}

impl Peer for TcpStream {
    fn end(&self) {
        // It may have been closed by the other side.
        let _gone = self.shutdown(Shutdown::Write);
    }
}

impl Peer for UnixStream {
    fn end(&self) {
        let _gone = self.shutdown(Shutdown::Write);
    }
}

/// A connection to a server on this machine.
pub fn tcp(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).expect("it listens");
    stream.set_nodelay(true).expect("a socket has no delay");
    stream.set_read_timeout(Some(WAIT)).expect("reads end");
    stream.set_write_timeout(Some(WAIT)).expect("writes end");
    stream
}

/// The same at a Unix socket.
pub fn unix(at: &Path) -> UnixStream {
    let stream = UnixStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(WAIT)).expect("reads end");
    stream.set_write_timeout(Some(WAIT)).expect("writes end");
    stream
}

/// Sends `bytes` in pieces of `cut`, but not too many, ends that side, and answers
/// all that came back until the server closed.
pub fn exchange(mut peer: impl Peer, bytes: &[u8], cut: usize) -> Vec<u8> {
    let piece = cut.max(bytes.len() / PIECES_MAX + 1);
    for piece in bytes.chunks(piece) {
        // It may have been closed for what was sent before.
        if let Err(error) = peer.write_all(piece) {
            assert_ne!(
                error.kind(),
                ErrorKind::WouldBlock,
                "the server does not read"
            );
            break;
        }
    }
    peer.end();
    let (mut received, mut room) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match peer.read(&mut room) {
            Ok(0) => return received,
            Ok(count) => received.extend_from_slice(&room[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // It closed before it had read all.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return received,
            Err(error) => panic!("the connection hangs: {error}"),
        }
    }
}

/// Sends a short message whole, with these descriptors, at most three.
pub fn send_with(peer: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = control.push(SendAncillaryMessage::ScmRights(files));
    assert!(fits, "too many descriptors");
    let sent = sendmsg(
        peer,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
    assert_eq!(sent, Ok(bytes.len()), "it is sent");
}
