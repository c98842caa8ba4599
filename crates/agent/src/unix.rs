//! Callers at the Unix socket.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use waystation_base::{Moment, line_passes};
use waystation_client::protocol::{Code, Request};
use waystation_client::{framed, machine_now};
use waystation_net::{Label, Shard, until};

use crate::desk::{Desk, Reply};
use crate::held::Held;
use crate::limits::{
    ANSWER_WAIT, CONNECTIONS_MAX, FILES_MAX, FIRST_WORD_WAIT, IMPATIENT_FOR, REQUEST_MAX,
};

/// Takes connections until the agent drains.
pub(crate) async fn accept(shard: Shard, listener: UnixListener, desk: Rc<RefCell<Desk>>) {
    let open = Rc::new(Cell::new(0_usize));
    loop {
        let accepted = tokio::select! {
            () = shard.drain_begun() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if open.get() < CONNECTIONS_MAX => {
                open.set(open.get() + 1);
                let (desk, open) = (Rc::clone(&desk), Rc::clone(&open));
                let inner = shard.clone();
                shard.spawn(Label::of("caller"), async move {
                    let mut caller = Caller {
                        stream,
                        held: Held::default(),
                        desk,
                        impatient_until: Moment::ZERO,
                    };
                    let served = tokio::select! {
                        () = inner.drain_begun() => Ok(()),
                        served = caller.serve(&inner) => served,
                    };
                    if let Err(error) = served {
                        tracing::debug!(%error, "a caller's connection ended");
                    }
                    open.set(open.get() - 1);
                });
            }
            Ok(_) => {
                if let Some(unsaid) = line_passes!(shard.now()) {
                    tracing::warn!(unsaid, "too many callers; one is closed");
                }
            }
            Err(error) => {
                // Without descriptors an accept fails at once, for ever.
                if let Some(unsaid) = line_passes!(shard.now()) {
                    tracing::warn!(%error, unsaid, "cannot accept a caller");
                }
                shard.sleep(crate::limits::IDLE_TURN).await;
            }
        }
    }
}

struct Caller {
    stream: UnixStream,
    held: Held,
    desk: Rc<RefCell<Desk>>,
    /// Until when no end of a call waits for the first word about its service.
    impatient_until: Moment,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.desk.borrow_mut().handle_gone(machine_now(), held);
    }
}

impl Caller {
    /// Answers one request after the other until the caller is gone.
    async fn serve(&mut self, shard: &Shard) -> io::Result<()> {
        let mut received = Vec::new();
        loop {
            while let Some(length) = whole(&received)? {
                let request = serde_json::from_slice::<Request>(&received[4..4 + length]);
                received.drain(..4 + length);
                let reply = match request {
                    Ok(request) => self.handle(shard, &request).await,
                    Err(error) => Reply::refused(Code::BadRequest, error.to_string()),
                };
                self.answer(shard, reply).await?;
            }
            let deadline = shard.now() + self.desk.borrow().silent_max();
            let is_more = match until(shard, deadline, self.read(&mut received)).await {
                Ok(read) => read?,
                // One that holds something may be silent for as long as it likes.
                Err(_) => !self.desk.borrow_mut().is_over(machine_now(), &self.held),
            };
            if !is_more {
                return Ok(());
            }
        }
    }

    /// The answer to a request: that to the first one about a service waits until
    /// something was heard of that. Ends of calls, which nobody waits for, do that
    /// once and then not for a while: questions may stand behind them.
    async fn handle(&mut self, shard: &Shard, request: &Request) -> Reply {
        let deadline = shard.now() + FIRST_WORD_WAIT;
        let is_impatient = shard.now() < self.impatient_until;
        let arrived = self.desk.borrow().asking().arrived();
        loop {
            let view = arrived.notified();
            tokio::pin!(view);
            // From here on no view is missed.
            view.as_mut().enable();
            let reply = {
                let mut desk = self.desk.borrow_mut();
                desk.handle(machine_now(), request.clone(), &mut self.held)
            };
            let is_end = reply.answer.is_none();
            if !reply.is_early || is_end && is_impatient {
                self.desk.borrow_mut().handle_given_up(&reply);
                return reply;
            }
            if until(shard, deadline, view).await.is_err() {
                if is_end {
                    self.impatient_until = shard.now() + IMPATIENT_FOR;
                }
                self.desk.borrow_mut().handle_given_up(&reply);
                return reply;
            }
        }
    }

    /// Reads what is there, and descriptors with it; false at the end.
    async fn read(&mut self, received: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            self.stream.readable().await?;
            let mut piece = [0; 4096];
            let mut files = Vec::new();
            let some = || receive(self.stream.as_fd(), &mut piece, &mut files);
            match self.stream.try_io(Interest::READABLE, some) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    received.extend_from_slice(&piece[..count]);
                    if !files.into_iter().all(|file| self.held.add_file(file)) {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn answer(&self, shard: &Shard, reply: Reply) -> io::Result<()> {
        let Some(answer) = reply.answer else {
            return Ok(());
        };
        let bytes = framed(&answer).map_err(io::Error::other)?;
        let deadline = shard.now() + ANSWER_WAIT;
        let written = self.write(&bytes, &reply.files);
        match until(shard, deadline, written).await {
            Ok(written) => written,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn write(&self, bytes: &[u8], files: &[OwnedFd]) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            self.stream.writable().await?;
            // Descriptors go with the first byte.
            let files = if sent == 0 { files } else { &[] };
            let some = || send(self.stream.as_fd(), &bytes[sent..], files);
            match self.stream.try_io(Interest::WRITABLE, some) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Receives bytes and descriptors. Of more than fit the kernel closes the rest.
fn receive(
    socket: BorrowedFd<'_>,
    piece: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(piece)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            files.extend(some);
        }
    }
    Ok(received.bytes)
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], files: &[OwnedFd]) -> io::Result<usize> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&files));
    }
    let parts = [IoSlice::new(bytes)];
    Ok(sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?)
}

/// The length of the first request, if all of it is there.
fn whole(received: &[u8]) -> io::Result<Option<usize>> {
    let Some((length, rest)) = received.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > REQUEST_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((rest.len() >= length).then_some(length))
}
