//! The program as its clients see it.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// No wait is longer; none is meant to come near it.
const WAIT: Duration = Duration::from_secs(30);

/// The program, on a port of its own. Ends when it is dropped.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_resp_server"))
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        Self {
            address: address.parse().unwrap(),
            child,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Everything that comes back for these bytes, to the end.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        rest(&mut stream)
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

#[test]
fn pipelined_requests_are_answered_in_order() {
    answers_in_order(&Program::start(&[]));
}

/// The same with the sockets on threads of their own.
#[test]
fn pipelined_requests_are_answered_in_order_beside_their_io() {
    answers_in_order(&Program::start(&["--io-shards", "2"]));
}

fn answers_in_order(program: &Program) {
    let requests = "PING\r\n*1\r\n$4\r\nping\r\n\r\nPING  hello\n\
        *3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nv\n\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\
        get none\r\nincr n\r\nincr n\r\nset n x\r\nincr n\r\ndel k n k\r\n\
        del\r\nget a b\r\nwhat 1\r\n*5\r\n$3\r\nDEL\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n";
    let expected = "+PONG\r\n+PONG\r\n$5\r\nhello\r\n+OK\r\n$2\r\nv\n\r\n$-1\r\n:1\r\n:2\r\n+OK\r\n\
        -ERR value is not an integer or out of range\r\n:2\r\n\
        -ERR wrong number of arguments for `del`\r\n-ERR wrong number of arguments for `get`\r\n\
        -ERR unknown command `what`\r\n:0\r\n";
    assert_eq!(program.exchange(requests.as_bytes()), expected);
}

/// Requests that come in two pieces, cut at every byte.
#[test]
fn requests_may_come_in_pieces() {
    let program = Program::start(&[]);
    let requests = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\na\r\n\r\nGET k\r\n*1\r\n$4\r\nPING\r\n";
    let mut stream = program.connect();
    for cut in 1..requests.len() {
        let (first, second) = requests.split_at(cut);
        stream.write_all(first).unwrap();
        stream.write_all(second).unwrap();
        let expected = "+OK\r\n$3\r\na\r\n\r\n+PONG\r\n";
        assert_eq!(read(&mut stream, expected.len()), expected, "cut at {cut}");
    }
}

/// Small requests for large answers filled the memory at once.
#[test]
fn many_large_answers_come_as_fast_as_the_peer_reads() {
    let program = Program::start(&[]);
    let value = "v".repeat(1024 * 1024);
    let mut stream = program.connect();
    write!(
        stream,
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n{value}\r\n"
    )
    .unwrap();
    stream.write_all(&b"GET k\r\n".repeat(64)).unwrap();
    assert_eq!(read(&mut stream, 5), "+OK\r\n");
    let answer = format!("$1048576\r\n{value}\r\n");
    for _ in 0..64 {
        assert!(read(&mut stream, answer.len()) == answer);
    }
}

#[test]
fn what_is_no_request_is_told_why_and_ends_only_its_own_connection() {
    let program = Program::start(&[]);
    let mut beside = program.connect();
    for (bad, why) in [
        ("*x\r\n", "a RESP length is no number"),
        ("*-1\r\n", "not an array of bulk strings"),
        ("*1\r\n:5\r\n", "not an array of bulk strings"),
        ("*1\r\n$3\r\nabcd\r\n", "does not end in CR LF"),
        ("*1\r\n$9999999\r\n", "passes the bound on its bytes"),
    ] {
        let answers = program.exchange(format!("PING\r\n{bad}").as_bytes());
        let fault = answers.strip_prefix("+PONG\r\n-ERR Protocol error: ");
        assert!(fault.is_some_and(|text| text.contains(why)), "{answers}");
    }
    beside.write_all(b"PING\r\n").unwrap();
    assert_eq!(read(&mut beside, 7), "+PONG\r\n");
}

#[test]
fn the_store_is_bounded() {
    let program = Program::start(&["--memory", "1"]);
    let mut stream = program.connect();
    for index in 0..3 {
        let value = "v".repeat(400_000);
        write!(
            stream,
            "*3\r\n$3\r\nSET\r\n$1\r\n{index}\r\n$400000\r\n{value}\r\n"
        )
        .unwrap();
    }
    let expected = "+OK\r\n+OK\r\n-OOM the store is full\r\n";
    assert_eq!(read(&mut stream, expected.len()), expected);
}

/// "cannot listen" was all that was said.
#[test]
fn who_cannot_listen_is_told_why() {
    let program = Program::start(&[]);
    let second = Command::new(env!("CARGO_BIN_EXE_resp_server"))
        .args(["--listen", &program.address.to_string()])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    let expected = format!("error: cannot listen on {}: ", program.address);
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.contains("in use"), "{said}");
}

/// A termination killed what was in the middle of an exchange.
#[test]
fn a_termination_answers_what_was_sent_and_exits_well() {
    let mut program = Program::start(&[]);
    let mut stream = program.connect();
    stream.write_all(b"PING\r\n").unwrap();
    assert_eq!(read(&mut stream, 7), "+PONG\r\n");
    stream.write_all(&b"PING\r\n".repeat(1000)).unwrap();
    let pid = Pid::from_child(&program.child);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(rest(&mut stream), "+PONG\r\n".repeat(1000));
    assert!(program.child.wait().unwrap().success());
}
