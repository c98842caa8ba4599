//! What an idle connection holds: no buffer, whatever it speaks. Every
//! allocation of the process is counted, so this binary has one test.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;
mod held;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{WAIT, echo_router, eventually, request, start_tcp};
use held::held;
use waystation_base::{Clock, ShardId};
use waystation_net::fifo::{Fifo, FifoCall, FifoConfig, RespCodec};
use waystation_net::limits::{POOLED_BUFFERS, READ_CHUNK_BYTES};
use waystation_net::{Blocking, Label, MonotonicClock, NetConfig, Server};

const CONNECTIONS: usize = 100;

/// How much more an idle connection may hold than one that was only accepted:
/// less than any buffer. Of ours the smallest has 16 KiB, of the WebSocket
/// library 2 KiB, of the HTTP library 8 KiB.
const MORE_BYTES: usize = 1024;

/// What a native connection may hold in all, in bytes as they are asked of the
/// allocator, without its places in tables. It holds 756, or 740 beside an I/O
/// shard; with what the allocator adds, that is the bar of `bench idle`.
const NATIVE_BYTES_MAX: usize = 800;

/// A connection that has exchanged something, by the standard library's
/// sockets, which hold no memory.
fn exchanged(address: SocketAddr, steps: &[(Vec<u8>, usize)]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    for (say, hear) in steps {
        stream.write_all(say).unwrap();
        let mut heard = [0; 1024];
        stream.read_exact(&mut heard[..*hear]).unwrap();
    }
    stream
}

/// What is held, in bytes, once the shard has nothing left to do: a connection
/// is counted as open or gone a moment before all of it is set up or freed.
fn settled() -> isize {
    let mut before = held();
    let mut same = 0;
    while same < 50 {
        std::thread::park_timeout(Duration::from_millis(1));
        let now = held();
        same = if now == before { same + 1 } else { 0 };
        before = now;
    }
    before
}

/// What a connection holds after these exchanges, in bytes.
fn idle_bytes(server: &Server, address: SocketAddr, steps: &[(Vec<u8>, usize)]) -> usize {
    let counters = server.counters()[0].clone();
    let open = &counters.connections_open;
    let gone = || {
        eventually("they are gone", || {
            open.get() == 0 && counters.connections_closing.get() == 0
        });
        settled()
    };
    // Pools and tables have grown to their size.
    let warm: Vec<_> = (0..2 * CONNECTIONS)
        .map(|_| exchanged(address, steps))
        .collect();
    drop(warm);
    let before = gone();
    let streams: Vec<_> = (0..CONNECTIONS)
        .map(|_| exchanged(address, steps))
        .collect();
    let count = CONNECTIONS as u64;
    eventually("all are accepted", || open.get() == count);
    eventually("nothing is held", || {
        counters.received_bytes.get() == 0 && counters.queued_bytes.get() == 0
    });
    let held = settled() - before;
    drop(streams);
    gone();
    usize::try_from(held).unwrap() / CONNECTIONS
}

/// Makes the shard's pool of free buffers as large as it gets, so that it does
/// not grow while connections are measured.
fn fill_pool(server: &Server, address: SocketAddr) {
    let counters = server.counters()[0].clone();
    let begun: Vec<_> = (0..2 * POOLED_BUFFERS)
        .map(|_| exchanged(address, &[(vec![0xF7], 0)]))
        .collect();
    let most = (2 * POOLED_BUFFERS * READ_CHUNK_BYTES) as u64;
    eventually("all hold a buffer", || {
        counters.received_bytes.get() >= most
    });
    drop(begun);
    eventually("they are gone", || {
        counters.connections_open.get() == 0 && counters.connections_closing.get() == 0
    });
}

/// A hundred thousand idle connections kept a buffer each for the message
/// that they might send.
#[test]
fn an_idle_connection_holds_no_buffer() {
    held::count_this_thread();
    let (server, address) = start_tcp(NetConfig::default(), |_| {
        held::count_this_thread();
        let mut router = echo_router();
        router.set_websocket_path("/ws");
        router
    });
    fill_pool(&server, address);
    let accepted = idle_bytes(&server, address, &[]);
    let most = accepted + MORE_BYTES;

    let native = request(1, "test/Echo", b"hello");
    let native = idle_bytes(&server, address, &[(native.clone(), native.len())]);

    let get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    let answer = http_length(address, &get);
    let http = idle_bytes(&server, address, &[(get.clone(), answer), (get, answer)]);

    let handshake = b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut shake = http_length(address, handshake);
    // A masked ping of three bytes, and its pong.
    let ping = vec![0x89, 0x83, 0, 0, 0, 0, b'a', b'b', b'c'];
    let steps = [(handshake.to_vec(), shake), (ping, 5)];
    shake = idle_bytes(&server, address, &steps);
    println!(
        "bytes for a connection: accepted {accepted}; idle: native {native}, HTTP {http}, \
         WebSocket {shake}"
    );
    assert!(native <= most && http <= most && shake <= most);
    assert!(native <= NATIVE_BYTES_MAX);
    fifo_connections_hold_no_buffer(&server);
}

/// How long the answer to a request is that has no body, or one whose length
/// is told.
fn http_length(address: SocketAddr, request: &[u8]) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all(request).unwrap();
    let mut heard = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        heard.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&heard);
        let Some(head) = text.find("\r\n\r\n") else {
            continue;
        };
        let length = text[..head]
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        if heard.len() >= head + 4 + length {
            assert_eq!(heard.len(), head + 4 + length);
            return heard.len();
        }
    }
}

/// The connections of a client hold none either.
fn fifo_connections_hold_no_buffer(server: &Server) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        let mut streams: Vec<TcpStream> = (0..CONNECTIONS)
            .map(|_| listener.accept().unwrap().0)
            .collect();
        let mut buffer = [0; 100];
        for stream in &mut streams {
            stream.set_read_timeout(Some(WAIT)).unwrap();
            stream.read_exact(&mut buffer[..14]).unwrap();
            stream.write_all(b"+PONG\r\n").unwrap();
        }
        streams
    });
    let config = FifoConfig {
        connections: CONNECTIONS,
        ..FifoConfig::new(address.into())
    };
    let fifo = Blocking::<Fifo<RespCodec>>::connect(
        server.remote(),
        ShardId(0),
        config,
        RespCodec::default,
        WAIT,
    )
    .unwrap();
    let up = || fifo.run(WAIT, |fifo, _| Box::pin(async move { fifo.up() }));
    eventually("all are up", || up() == Ok(CONNECTIONS));
    let before = settled();
    let deadline = MonotonicClock.now() + WAIT;
    let call = FifoCall {
        deadline,
        idempotent: false,
        label: Label::of("PING"),
    };
    // All at once, so that each goes by another connection.
    let pings = fifo.run(WAIT, move |fifo, _| {
        Box::pin(async move {
            let pings = (0..CONNECTIONS).map(|_| {
                let fifo = fifo.clone();
                async move { fifo.call(b"*1\r\n$4\r\nPING\r\n", &call).await.is_ok() }
            });
            futures_util::future::join_all(pings).await
        })
    });
    assert_eq!(pings.unwrap(), [true; CONNECTIONS]);
    let streams = answers.join().unwrap();
    let counters = server.counters()[0].clone();
    eventually("nothing is held", || {
        counters.received_bytes.get() == 0 && counters.queued_bytes.get() == 0
    });
    let each = (settled() - before) / CONNECTIONS.cast_signed();
    assert!(each <= MORE_BYTES.cast_signed(), "{each} bytes each");
    drop(streams);
}
