//! A blocking connection to the agent's Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    send, sendmsg, socket_with,
};
use waystation_base::Moment;

use crate::clock::machine_now;
use crate::error::Error;
use crate::protocol::{Answer, MESSAGE_MAX, Request};

/// Descriptors of one answer.
const DESCRIPTORS_MAX: usize = 2;

/// A connection to an agent. What the agent gave for it ends with it.
#[derive(Debug)]
pub struct Socket {
    stream: UnixStream,
    timeout: Duration,
    /// What is left of a message that was sent in part.
    rest: Vec<u8>,
}

impl Socket {
    /// Connects to the agent at `path`; every call over it waits `timeout` at
    /// most.
    ///
    /// # Errors
    /// [`Error::Unreachable`], by [`io::ErrorKind::WouldBlock`] when so many wait
    /// to be accepted that the agent must have stopped. It does not wait.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, Error> {
        let connected = connected(path).map_err(|error| Error::Unreachable(error.into()))?;
        let stream = UnixStream::from(connected);
        Ok(Self {
            stream,
            timeout,
            rest: Vec::new(),
        })
    }

    /// Whether the agent has closed it. Cost: a system call.
    pub fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let now = Timespec::default();
        let ended = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(ended)
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and [`Error::TimedOut`].
    pub fn tell(&mut self, request: &Request) -> Result<(), Error> {
        self.tell_until(request, &[], machine_now() + self.timeout)
    }

    /// As [`Socket::tell`], but it never waits: false when the agent does not read,
    /// and nothing is told. What is sent in part goes on with the next word.
    ///
    /// # Errors
    /// [`Error::Unreachable`]: the connection has ended.
    pub(crate) fn try_tell(&mut self, request: &Request) -> Result<bool, Error> {
        if !self.try_send_rest()? {
            return Ok(false);
        }
        let bytes = framed(request)?;
        let sent = self.try_send(&bytes)?;
        if sent > 0 {
            self.rest.extend_from_slice(&bytes[sent..]);
        }
        Ok(sent > 0)
    }

    /// Whether nothing is left of an earlier message. It never waits.
    fn try_send_rest(&mut self) -> Result<bool, Error> {
        let sent = self.try_send(&self.rest)?;
        self.rest.drain(..sent);
        Ok(self.rest.is_empty())
    }

    /// How many of these bytes the agent takes now.
    fn try_send(&self, bytes: &[u8]) -> Result<usize, Error> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.send(&bytes[sent..], &[]) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(Error::Unreachable(error.into())),
            }
        }
        Ok(sent)
    }

    fn tell_until(
        &mut self,
        request: &Request,
        files: &[BorrowedFd<'_>],
        until: Moment,
    ) -> Result<(), Error> {
        let bytes = framed(request)?;
        while !self.try_send_rest()? {
            self.wait(io::ErrorKind::WouldBlock.into(), PollFlags::OUT, until)?;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            // Descriptors go with the first byte.
            let files = if rest.len() == bytes.len() {
                files
            } else {
                &[]
            };
            match self.send(rest, files) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) => self.wait(error.into(), PollFlags::OUT, until)?,
            }
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        if files.is_empty() {
            return send(&self.stream, bytes, SendFlags::NOSIGNAL);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(files));
        let parts = [IoSlice::new(bytes)];
        sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL)
    }

    /// Asks and waits for the answer, with the descriptors that come with it.
    ///
    /// # Errors
    /// Any [`Error`] but a miss. After one other than a refusal the connection is
    /// of no more use.
    pub fn ask(&mut self, request: &Request) -> Result<(Answer, Vec<OwnedFd>), Error> {
        self.ask_until(request, machine_now() + self.timeout)
    }

    /// As [`Socket::ask`], with an answer until then.
    pub(crate) fn ask_until(
        &mut self,
        request: &Request,
        until: Moment,
    ) -> Result<(Answer, Vec<OwnedFd>), Error> {
        self.ask_with(request, &[], until)
    }

    /// As [`Socket::ask`], with descriptors, at most two, and an answer until then.
    pub(crate) fn ask_with(
        &mut self,
        request: &Request,
        files: &[BorrowedFd<'_>],
        until: Moment,
    ) -> Result<(Answer, Vec<OwnedFd>), Error> {
        if until <= machine_now() {
            // Nobody would hear the answer.
            return Err(Error::TimedOut);
        }
        self.tell_until(request, files, until)?;
        let mut descriptors = Vec::new();
        let mut length = [0; 4];
        self.fill(&mut length, &mut descriptors, until)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MESSAGE_MAX {
            return Err(Error::BadAnswer(format!("{length} bytes")));
        }
        let mut body = vec![0; length];
        self.fill(&mut body, &mut descriptors, until)?;
        let answer =
            serde_json::from_slice(&body).map_err(|error| Error::BadAnswer(error.to_string()))?;
        match answer {
            Answer::Refused { code, text } => Err(Error::Refused { code, text }),
            answer => Ok((answer, descriptors)),
        }
    }

    fn fill(
        &self,
        buffer: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
        until: Moment,
    ) -> Result<(), Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut buffer[filled..])];
            match recvmsg(
                &self.stream,
                &mut parts,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(files) = message {
                            descriptors.extend(files);
                        }
                    }
                    if received.bytes == 0 {
                        return Err(Error::Unreachable(io::ErrorKind::UnexpectedEof.into()));
                    }
                    filled += received.bytes;
                }
                Err(error) => self.wait(error.into(), PollFlags::IN, until)?,
            }
        }
        Ok(())
    }

    /// Waits until the socket can go on, if that is what the error says.
    fn wait(&self, error: io::Error, flags: PollFlags, until: Moment) -> Result<(), Error> {
        match error.kind() {
            io::ErrorKind::Interrupted => return Ok(()),
            io::ErrorKind::WouldBlock => {}
            _ => return Err(Error::Unreachable(error)),
        }
        let left = until.saturating_since(machine_now());
        if left.is_zero() {
            return Err(Error::TimedOut);
        }
        let left = Timespec::try_from(left).unwrap_or_default();
        let file = self.stream.as_fd();
        match poll(&mut [PollFd::from_borrowed_fd(file, flags)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Error::Unreachable(error.into())),
        }
    }
}

/// A connection that does not wait, neither now nor later: a backlog that is full
/// would be waited for as long as its owner does not accept.
fn connected(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// A message with its length before it.
///
/// # Errors
/// [`Error::BadAnswer`] for one that is too long.
pub fn framed(message: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)
        .map_err(|error| Error::BadAnswer(error.to_string()))?;
    let length = bytes.len() - 4;
    if length > MESSAGE_MAX {
        return Err(Error::BadAnswer(format!("{length} bytes")));
    }
    let length = u32::try_from(length).map_err(|_| Error::BadAnswer("too long".into()))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}
