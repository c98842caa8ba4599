//! The agent's side of its socket, word by word.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each file of tests uses a part of it"
)]

use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;
use waystation_client::protocol::{Answer, Code, HostRef, Request};
use waystation_client::{CallerConfig, framed};

/// For conditions; never reached when all is well.
pub const WAIT: Duration = Duration::from_secs(30);

pub fn place() -> (TempDir, CallerConfig) {
    let folder = tempfile::tempdir().unwrap();
    let config = CallerConfig::new("pay", folder.path().join("agent.sock"));
    (folder, config)
}

/// How many connected and wait to be accepted. They are closed.
pub fn connections(listener: &UnixListener) -> usize {
    listener.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| listener.accept().ok()).count()
}

/// What the caller says next; nothing when it has closed the connection.
pub fn next_request(stream: &mut UnixStream) -> Option<Request> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).unwrap())
}

pub fn say(stream: &mut UnixStream, answer: &Answer) {
    stream.write_all(&framed(answer).unwrap()).unwrap();
}

/// The host that is picked each time.
pub const HOST: &str = "10.0.0.1:80";

pub fn picked() -> Answer {
    Answer::Picked {
        host: HostRef::default(),
        address: HOST.to_owned(),
        reason: "turn".to_owned(),
    }
}

pub fn no_memory() -> Answer {
    Answer::Refused {
        code: Code::Busy,
        text: "there is no memory".to_owned(),
    }
}

pub fn give_memory(stream: &UnixStream, memory: &[OwnedFd; 2]) {
    let bytes = framed(&Answer::Attached).unwrap();
    let files = memory.each_ref().map(|one| one.as_fd());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    let parts = [IoSlice::new(&bytes)];
    sendmsg(stream, &parts, &mut control, SendFlags::NOSIGNAL).unwrap();
}
