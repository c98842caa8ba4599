//! Agents that are of no use: stopped ones, and ones that hand over nonsense.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{WAIT, connections, give_memory, next_request, picked, place, say};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use waystation_client::protocol::Request;
use waystation_client::{Access, Caller, CallerConfig, Error, Mapping, Socket, Source};

/// A socket whose owner has stopped: so many more connect, and nobody is accepted.
fn stopped(path: &Path, backlog: i32) -> UnixListener {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let socket = socket.unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&socket, backlog).unwrap();
    UnixListener::from(socket)
}

/// Story: who connected to an agent that had stopped waited for it for ever, once as
/// many waited as the system keeps.
#[test]
fn connecting_to_an_agent_that_stopped_never_waits() {
    let (_folder, config) = place();
    let _listener = stopped(&config.socket, 0);
    let (told, heard) = channel();
    let mut open = Vec::new();
    std::thread::spawn(move || {
        for _ in 0..8 {
            let connected = Socket::connect(&config.socket, WAIT);
            let _nobody = told.send(match &connected {
                Ok(_) => None,
                Err(Error::Unreachable(error)) => Some(error.kind()),
                Err(error) => panic!("{error}"),
            });
            open.push(connected);
        }
    });
    let kinds: Vec<_> = (0..8).map(|_| heard.recv_timeout(WAIT).unwrap()).collect();
    assert_eq!(kinds.last(), Some(&Some(std::io::ErrorKind::WouldBlock)));
}

/// Story: each pick tried a stopped agent anew, twice, and all threads one after the
/// other: the pause after a failure was counted from the begin of what had failed,
/// and had passed by then.
#[test]
fn threads_wait_for_a_stopped_agent_once_and_together() {
    let (_folder, mut config) = place();
    // Longer than the pause, as by default; the pause is longer than any thread here
    // is kept from running.
    (config.timeout, config.pause) = (Duration::from_secs(6), Duration::from_secs(5));
    let listener = stopped(&config.socket, 64);
    let caller = Caller::new(config);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mut caller = caller.clone();
            std::thread::spawn(move || {
                let first = caller.pick();
                (first, caller.pick())
            })
        })
        .collect();
    for thread in threads {
        let (first, second) = thread.join().unwrap();
        for picked in [first, second] {
            let is_right = matches!(picked, Err(Error::TimedOut | Error::Unreachable(_)));
            assert!(is_right, "{picked:?}");
        }
    }
    assert_eq!(connections(&listener), 1, "each pick tried it");
}

/// Answers one connection after the other: with `memory` who attaches, and with a
/// host who asks for one.
fn play(listener: &UnixListener, memory: &[OwnedFd; 2]) {
    let mut open = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        let memory = memory.each_ref().map(|one| one.try_clone().unwrap());
        open.push(std::thread::spawn(move || answer(stream, &memory)));
    }
}

fn answer(mut stream: UnixStream, memory: &[OwnedFd; 2]) {
    while let Some(request) = next_request(&mut stream) {
        match request {
            Request::Attach { .. } => give_memory(&stream, memory),
            Request::Pick { .. } => say(&mut stream, &picked()),
            other => panic!("{other:?}"),
        }
    }
}

/// Memory that is none of ours, of another layout or too short leads to the socket.
#[test]
fn memory_that_cannot_be_used_leads_to_the_socket() {
    let filled = |words: &[u64]| {
        let (mapping, file) = Mapping::create("nonsense", words.len(), Access::Write).unwrap();
        for (word, value) in waystation_segment::Memory::words(&mapping)
            .iter()
            .zip(words)
        {
            word.store(*value, std::sync::atomic::Ordering::Relaxed);
        }
        file
    };
    let zeros = vec![0; 4096];
    let ones = vec![u64::MAX; 4096];
    for words in [&zeros[..], &ones[..], &[1]] {
        let (_folder, config) = place();
        let listener = UnixListener::bind(&config.socket).unwrap();
        let memory = [filled(words), filled(words)];
        std::thread::spawn(move || play(&listener, &memory));
        let mut caller = Caller::new(CallerConfig {
            timeout: WAIT,
            ..config
        });
        let picked = caller.pick().unwrap();
        assert_eq!(picked.source, Source::Socket);
        assert_eq!(picked.address.to_string(), "10.0.0.1:80");
    }
}
