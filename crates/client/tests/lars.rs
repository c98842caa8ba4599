//! A caller of Lars beside an agent that the test plays, byte by byte.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;
use std::time::Duration;

use common::{WAIT, next_request, place, say};
use waystation_client::protocol::{Answer, Code};
use waystation_client::{Caller, Error, LarsCaller};

/// 10.0.0.1:7000 as a message of Lars.
const HOST: [u8; 8] = [0x08, 0x81, 0x80, 0x80, 0x50, 0x10, 0xd8, 0x36];

/// A socket where the agent is expected, and a caller of (1, 3).
fn agent() -> (UdpSocket, LarsCaller) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    let mut caller = LarsCaller::new(1, 3);
    caller.ports = [socket.local_addr().unwrap().port(); 3];
    caller.timeout = WAIT;
    (socket, caller)
}

/// The next datagram, and who sent it.
fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 1024];
    let (length, from) = socket.recv_from(&mut bytes).unwrap();
    (bytes[..length].to_vec(), from)
}

/// A datagram of this kind.
fn datagram(id: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    let mut bytes = vec![id, 0, 0, 0, length, 0, 0, 0];
    bytes.extend(body);
    bytes
}

/// Answers one question for a host with these bodies, of which it is told the
/// question's number.
fn answer(
    socket: UdpSocket,
    bodies: impl Fn(u8) -> Vec<Vec<u8>> + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (question, from) = receive(&socket);
        // The numbers of a few questions are a byte each.
        let number = question[9];
        assert_eq!(question, datagram(4, &[0x08, number, 0x10, 1, 0x18, 3]));
        for body in bodies(number) {
            socket.send_to(&datagram(5, &body), from).unwrap();
        }
    })
}

/// The answer to a question of this number: 10.0.0.1:7000.
fn found(number: u8) -> Vec<u8> {
    let head = [0x08, number, 0x10, 1, 0x18, 3, 0x2a, 8];
    [&head[..], &HOST].concat()
}

/// A lost reply hung the reference's caller for ever.
#[test]
fn a_lost_answer_ends_with_its_time() {
    let (_silent, mut caller) = agent();
    caller.timeout = Duration::from_millis(20);
    assert!(matches!(caller.get_host(), Err(Error::TimedOut)));
    assert!(matches!(caller.get_route(), Err(Error::TimedOut)));
}

#[test]
fn questions_for_a_host_and_their_answers_have_the_golden_bytes() {
    let (socket, caller) = agent();
    let answered = answer(socket, |number| vec![found(number)]);
    assert_eq!(caller.get_host().unwrap(), "10.0.0.1:7000".parse().unwrap());
    answered.join().unwrap();
    // No such service: the return code 3, and no host.
    let (socket, caller) = agent();
    let answered = answer(socket, |number| {
        vec![vec![0x08, number, 0x10, 1, 0x18, 3, 0x20, 3]]
    });
    let code = |error| match error {
        Error::Refused { code, .. } => code,
        other => panic!("{other}"),
    };
    assert_eq!(caller.get_host().map_err(code), Err(Code::NoSuchService));
    answered.join().unwrap();
}

/// An answer that came too late, and noise, are not taken for the next one's.
#[test]
fn only_the_answer_to_the_question_is_one() {
    let (socket, caller) = agent();
    let answered = answer(socket, |number| {
        let late = vec![0x08, number.wrapping_sub(1), 0x10, 1, 0x18, 3, 0x20, 1];
        vec![late, vec![0xff; 9], Vec::new(), found(number)]
    });
    assert_eq!(caller.get_host().unwrap(), "10.0.0.1:7000".parse().unwrap());
    answered.join().unwrap();
}

/// A datagram is whole or nothing: a part of an answer is none.
#[test]
fn an_answer_that_was_cut_anywhere_is_none() {
    let (socket, caller) = agent();
    let answered = std::thread::spawn(move || {
        let (question, from) = receive(&socket);
        let whole = datagram(5, &found(question[9]));
        for cut in 0..=whole.len() {
            socket.send_to(&whole[..cut], from).unwrap();
        }
        let (question, from) = receive(&socket);
        assert_eq!(question, datagram(7, &[0x08, 1, 0x10, 3]));
        let body = [&[0x08, 1, 0x10, 3, 0x1a, 8][..], &HOST].concat();
        let whole = datagram(8, &body);
        for cut in 0..=whole.len() {
            socket.send_to(&whole[..cut], from).unwrap();
        }
    });
    let host: SocketAddr = "10.0.0.1:7000".parse().unwrap();
    assert_eq!(caller.get_host().unwrap(), host);
    assert_eq!(caller.get_route().unwrap(), [host]);
    answered.join().unwrap();
}

#[test]
fn routes_and_reports_have_the_golden_bytes() {
    let (socket, caller) = agent();
    let answered = std::thread::spawn(move || {
        let (question, from) = receive(&socket);
        assert_eq!(question, datagram(7, &[0x08, 1, 0x10, 3]));
        let body = [&[0x08, 1, 0x10, 3, 0x1a, 8][..], &HOST].concat();
        socket.send_to(&datagram(8, &body), from).unwrap();
        let told = [&[0x08, 1, 0x10, 3, 0x1a, 8][..], &HOST].concat();
        // A success is the return code 0, which proto3 leaves out.
        assert_eq!(receive(&socket).0, datagram(6, &told));
        let failed = [&told[..], &[0x20, 2]].concat();
        assert_eq!(receive(&socket).0, datagram(6, &failed));
    });
    let host: SocketAddr = "10.0.0.1:7000".parse().unwrap();
    assert_eq!(caller.get_route().unwrap(), [host]);
    caller.report(host, true);
    caller.report(host, false);
    answered.join().unwrap();
}

/// Story: who asked for the route had an error from an agent whose registry was away,
/// and its UDP port was not asked.
#[test]
fn a_route_is_asked_for_by_udp_where_the_socket_has_none_yet() {
    let (udp, lars) = agent();
    let (_folder, mut config) = place();
    config.pause = Duration::from_millis(1);
    config.lars = Some(lars);
    let listener = UnixListener::bind(&config.socket).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                while next_request(&mut stream).is_some() {
                    let not_yet = Answer::Refused {
                        code: Code::NotYet,
                        text: "the registry is away".to_owned(),
                    };
                    say(&mut stream, &not_yet);
                }
            });
        }
    });
    let answered = std::thread::spawn(move || {
        let one = [&[0x1a, 8][..], &HOST].concat();
        for hosts in [&[][..], &one, &one] {
            let (question, from) = receive(&udp);
            assert_eq!(question, datagram(7, &[0x08, 1, 0x10, 3]));
            let body = [&[0x08, 1, 0x10, 3], hosts].concat();
            udp.send_to(&datagram(8, &body), from).unwrap();
        }
    });
    let mut caller = Caller::new(config);
    // By UDP too nobody is heard of yet.
    let refused = caller.get_route().unwrap_err();
    let is_not_yet = matches!(
        refused,
        Error::Refused {
            code: Code::NotYet,
            ..
        }
    );
    assert!(is_not_yet, "{refused:?}");
    let host = "10.0.0.1:7000".parse().unwrap();
    assert_eq!(caller.get_route().unwrap(), [host]);
    assert_eq!(caller.reg_init().unwrap().len(), 1);
    answered.join().unwrap();
}
