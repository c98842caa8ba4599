//! A server that answers in the order of requests, played by the test, and
//! FIFO clients of it on a paused shard.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waystation_base::BackoffConfig;
use waystation_net::fifo::{Fifo, FifoCall, FifoConfig, FifoError, FifoSink, RespCodec};
use waystation_net::{Address, Io, Label, Listener, MemoryIo, Shard, Stream};
use waystation_wire::resp::{Command, RespLimits, Scanner, put_command};

use super::{Memory, Setup, back_at, echo_router, figures, on_shard};

pub(crate) const REDIS: &str = "redis";
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The other side, played by the test.
pub(crate) struct Played {
    listener: Box<dyn Listener>,
}

impl Played {
    pub(crate) fn listen(io: &MemoryIo) -> Self {
        let listener = io.listen(&Address::Memory(REDIS.into())).unwrap();
        Self {
            listener: listener.attach().unwrap(),
        }
    }

    pub(crate) async fn accept(&mut self) -> Peer {
        let stream = poll_fn(|cx| self.listener.poll_accept(cx)).await.unwrap();
        Peer {
            stream: stream.attach().unwrap(),
            received: Vec::new(),
        }
    }
}

pub(crate) struct Peer {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) received: Vec<u8>,
}

impl Peer {
    /// The next command's last argument.
    pub(crate) async fn asked(&mut self) -> String {
        self.asked_or_end().await.expect("closed")
    }

    /// The next command's last argument; nothing when the client has closed.
    pub(crate) async fn asked_or_end(&mut self) -> Option<String> {
        loop {
            let read = Command::read(&mut Scanner::new(), &self.received, &RespLimits::default());
            if let Ok(command) = read.unwrap() {
                let last = String::from_utf8(command.arguments.last().unwrap().to_vec()).unwrap();
                let length = command.length;
                self.received.drain(..length);
                return Some(last);
            }
            let read = self.stream.read_buf(&mut self.received).await;
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }

    pub(crate) async fn write(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// False when the client has closed.
    pub(crate) async fn try_write(&mut self, bytes: &str) -> bool {
        self.stream.write_all(bytes.as_bytes()).await.is_ok()
    }

    /// Waits until the client has closed the connection.
    pub(crate) async fn closed(mut self) {
        while !matches!(
            self.stream.read_buf(&mut self.received).await,
            Ok(0) | Err(_)
        ) {}
    }
}

pub(crate) fn config() -> FifoConfig {
    FifoConfig::new(Address::Memory(REDIS.into()))
}

pub(crate) fn client(shard: &Shard, config: FifoConfig) -> Fifo<RespCodec> {
    Fifo::new(shard, config, RespCodec::default)
}

pub(crate) fn command(argument: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_command(&mut out, &[b"ECHO", argument.as_bytes()]);
    out
}

pub(crate) fn within(shard: &Shard, time: Duration, idempotent: bool) -> FifoCall {
    FifoCall {
        deadline: shard.now() + time,
        idempotent,
        label: Label::of("ECHO"),
    }
}

pub(crate) type Running = tokio::task::JoinHandle<Result<Bytes, FifoError>>;

/// A call that runs by itself.
pub(crate) fn start(
    shard: &Shard,
    fifo: &Fifo<RespCodec>,
    argument: &str,
    call: FifoCall,
) -> Running {
    let (fifo, request, _shard) = (fifo.clone(), command(argument), shard.clone());
    tokio::task::spawn_local(async move { fifo.call(&request, &call).await })
}

pub(crate) async fn end(running: Running) -> Result<String, FifoError> {
    let bytes = running.await.unwrap()?;
    Ok(String::from_utf8(bytes.to_vec())
        .unwrap()
        .trim_end()
        .to_owned())
}

/// Runs a test on a paused shard, then looks for what it left behind.
pub(crate) fn check_with(
    setup: Setup,
    test: impl FnOnce(Shard, MemoryIo) -> LocalBoxFuture<'static, ()> + Send + 'static,
) -> Memory {
    let memory = setup.start(|_| echo_router());
    let (baseline, io) = (figures(&memory.server), memory.io.clone());
    on_shard(&memory.server, 0, move |shard| test(shard, io));
    back_at(&memory.server, &baseline);
    assert_eq!(memory.server.counters()[0].calls_in_flight.get(), 0);
    memory
}

pub(crate) fn check(
    test: impl FnOnce(Shard, MemoryIo) -> LocalBoxFuture<'static, ()> + Send + 'static,
) {
    check_with(Setup::paused(), test).server.drain();
}

/// Short pauses, so that a flapping server costs little virtual time.
pub(crate) fn hasty() -> FifoConfig {
    FifoConfig {
        stall_timeout: SECOND,
        backoff: BackoffConfig {
            base: Duration::from_millis(1),
            max: Duration::from_millis(20),
            ..BackoffConfig::default()
        },
        ..config()
    }
}

/// Polls `future` so many times, then drops it; what it answered, if it did.
pub(crate) async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Notes what it is answered: for each request a text or a failure.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) answers: RefCell<Vec<(u64, Result<String, FifoError>)>>,
}

impl FifoSink for Notes {
    fn handle_answers(&self, first: u64, count: u32, answers: Result<&[u8], FifoError>) {
        let mut notes = self.answers.borrow_mut();
        let numbers = first..first + u64::from(count);
        match answers {
            Err(error) => notes.extend(numbers.map(|number| (number, Err(error)))),
            Ok(bytes) => {
                // Each answer is a bulk of one line.
                let text = std::str::from_utf8(bytes).unwrap();
                let lines: Vec<&str> = text.split_terminator("\r\n").collect();
                assert_eq!(lines.len(), 2 * count as usize, "whole answers: {text:?}");
                let texts = lines.chunks(2).map(|pair| Ok(pair[1].to_owned()));
                notes.extend(numbers.zip(texts));
            }
        }
    }
}

/// Answers each command with its own argument.
pub(crate) async fn echo_until_closed(mut peer: Peer) {
    while let Some(asked) = peer.asked_or_end().await {
        if !peer
            .try_write(&format!("${}\r\n{asked}\r\n", asked.len()))
            .await
        {
            return;
        }
    }
}
