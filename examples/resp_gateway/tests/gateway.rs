//! The program between its clients and a real Redis server.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

#[path = "../../../crates/net/tests/common/redis.rs"]
mod redis;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::Redis;
use rustix::process::{Pid, Signal, kill_process};

/// No wait is longer; none is meant to come near it.
const WAIT: Duration = Duration::from_secs(30);

/// The program, on a port of its own. Ends when it is dropped.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    fn start(redis: &Redis) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_resp_gateway"))
            .args(["--listen", "127.0.0.1:0", "--upstream"])
            .arg(format!("unix:{}", redis.socket().display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        let program = Self {
            address: address.parse().unwrap(),
            child,
        };
        program.until_connected();
        program
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Everything that comes back for these bytes, to the end.
    fn exchange(&self, bytes: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        rest(&mut stream)
    }

    /// Each look is a request of its own.
    fn until_connected(&self) {
        for _ in 0..30_000 {
            if self.exchange("PING\r\n") == "+PONG\r\n" {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        panic!("the gateway does not reach the server");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rest(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    String::from_utf8(received).unwrap()
}

fn read(stream: &mut TcpStream, length: usize) -> String {
    let mut received = vec![0; length];
    stream.read_exact(&mut received).unwrap();
    String::from_utf8(received).unwrap()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Refusals are the gateway's own and ready at once; they came before the
/// answers of the server that belong before them.
#[test]
fn needs_redis_each_client_gets_its_answers_in_order() {
    let Some(program) = redis::program() else {
        return;
    };
    let redis = Redis::start(&program);
    let gateway = Program::start(&redis);
    let mut clients: Vec<(TcpStream, String)> = Vec::new();
    for client in 0..20 {
        let (mut requests, mut answers) = (String::new(), String::new());
        for index in 0..200 {
            let text = format!("{client}-{index}");
            match index % 10 {
                3 => {
                    requests += "SUBSCRIBE news\r\n";
                    answers += "-ERR the gateway does not relay `SUBSCRIBE`\r\n";
                }
                5 => {
                    let _ = write!(requests, "\r\necho {text}\r\n");
                    answers += &bulk(&text);
                }
                _ => {
                    let _ = write!(requests, "*2\r\n$4\r\nECHO\r\n{}", bulk(&text));
                    answers += &bulk(&text);
                }
            }
        }
        let mut stream = gateway.connect();
        stream.write_all(requests.as_bytes()).unwrap();
        clients.push((stream, answers));
    }
    for (mut stream, answers) in clients {
        assert_eq!(read(&mut stream, answers.len()), answers);
    }
}

/// A client that sends without end and reads nothing is not read any more; a
/// bad byte behind requests does not take their answers away.
#[test]
fn needs_redis_what_is_no_request_is_told_why_after_the_answers() {
    let Some(program) = redis::program() else {
        return;
    };
    let redis = Redis::start(&program);
    let gateway = Program::start(&redis);
    let requests = format!("{}*x\r\nPING\r\n", "PING\r\n".repeat(3000));
    let answers = gateway.exchange(&requests);
    let behind = answers.strip_prefix(&"+PONG\r\n".repeat(3000));
    let expected = "-ERR Protocol error: a RESP length is no number\r\n";
    assert_eq!(behind, Some(expected));
}

/// A client whose lengths the gateway read and the server did not ended the
/// connection to the server, and with it the requests of all others there.
#[test]
fn needs_redis_a_client_cannot_end_the_connection_of_the_others() {
    let Some(program) = redis::program() else {
        return;
    };
    let redis = Redis::start(&program);
    let gateway = Program::start(&redis);
    let mut beside = [gateway.connect(), gateway.connect()];
    for round in 1..=5 {
        for bad in [
            "*01\r\n$4\r\nPING\r\n",
            "*1\r\n$04\r\nPING\r\n",
            "*1\r\n$00004\r\nPING\r\n",
            "*2\r\n$3\r\nGET\r\n$-1\r\n",
        ] {
            // Each of the two connections to the server would have its turn.
            for _ in 0..2 {
                let answer = gateway.exchange(bad);
                assert!(
                    answer.starts_with("-ERR Protocol error: a RESP "),
                    "{answer}"
                );
            }
        }
        let answer = gateway.exchange("*1\r\n$0\r\n\r\n");
        assert_eq!(answer, "-ERR the gateway does not relay ``\r\n");
        for (index, stream) in beside.iter_mut().enumerate() {
            stream.write_all(b"INCR n\r\n").unwrap();
            let expected = format!(":{}\r\n", 2 * round - 1 + index);
            assert_eq!(read(stream, expected.len()), expected);
        }
    }
}

/// A client that asked for much at once, and read all of it at its own pace,
/// was closed as a slow reader: the answers came faster than it could read.
#[test]
fn needs_redis_who_reads_more_slowly_than_the_server_answers_gets_all() {
    const ANSWERS: usize = 300;
    let Some(program) = redis::program() else {
        return;
    };
    let redis = Redis::start(&program);
    let gateway = Program::start(&redis);
    let value = "v".repeat(100_000);
    let answer = bulk(&value);
    let mut stream = gateway.connect();
    write!(stream, "*3\r\n$3\r\nSET\r\n{}{answer}", bulk("k")).unwrap();
    assert_eq!(read(&mut stream, 5), "+OK\r\n");
    let ask = "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".repeat(ANSWERS);
    stream.write_all(ask.as_bytes()).unwrap();
    // Each is answered behind what was asked before on its connection to the
    // server, so that by the last the gateway has all answers.
    for _ in 0..20 {
        assert_eq!(gateway.exchange("PING\r\n"), "+PONG\r\n");
    }
    for _ in 0..ANSWERS {
        assert!(read(&mut stream, answer.len()) == answer);
    }
}

#[test]
fn needs_redis_a_killed_server_is_told_of_and_found_again() {
    let Some(program) = redis::program() else {
        return;
    };
    let mut redis = Redis::start(&program);
    let gateway = Program::start(&redis);
    redis.pause();
    let mut stream = gateway.connect();
    // The refusal shows that the request before it is in flight.
    stream.write_all(b"INCR n\r\nINCR n\r\n").unwrap();
    let mut other = gateway.connect();
    other.write_all(b"MONITOR\r\n").unwrap();
    let refused = "-ERR the gateway does not relay `MONITOR`\r\n";
    assert_eq!(read(&mut other, refused.len()), refused);
    redis.kill();
    let mut answers = BufReader::new(&mut stream);
    for _ in 0..2 {
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert!(line.starts_with("-ERR upstream: "), "{line}");
    }
    redis.restart();
    gateway.until_connected();
    stream.write_all(b"INCR n\r\n").unwrap();
    assert_eq!(read(&mut stream, 4), ":1\r\n");
}

/// The server answers only after the gateway was told to end.
#[test]
fn needs_redis_a_termination_waits_for_the_answers() {
    let Some(program) = redis::program() else {
        return;
    };
    let redis = Redis::start(&program);
    let mut gateway = Program::start(&redis);
    let mut stream = gateway.connect();
    stream.write_all(b"PING\r\n").unwrap();
    assert_eq!(read(&mut stream, 7), "+PONG\r\n");
    redis.pause();
    stream.write_all(b"INCR n\r\nMULTI\r\n").unwrap();
    // Another client's refusal shows that the request was read before it.
    let mut other = gateway.connect();
    other.write_all(b"MULTI\r\n").unwrap();
    read(&mut other, 37);
    drop(other);
    kill_process(Pid::from_child(&gateway.child), Signal::TERM).unwrap();
    // It listens no more: the drain has begun.
    while TcpStream::connect(gateway.address).is_ok() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    redis.go_on();
    let answers = rest(&mut stream);
    assert_eq!(answers, ":1\r\n-ERR the gateway does not relay `MULTI`\r\n");
    assert!(gateway.child.wait().unwrap().success());
}
