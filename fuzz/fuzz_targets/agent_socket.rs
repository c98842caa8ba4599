//! A caller's bytes to the Unix socket of a whole agent.
//!
//! The first byte is the size of the pieces; from 128 on the rest is the stream as it
//! is, below it each line is a request with its length before it. Each request has
//! exactly one answer of its kind, but a report has none, whatever the cut; and once
//! the connection is gone nothing of it is in flight.
#![no_main]

mod support;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use support::agent::{Host, answers, bodies};
use support::sockets;
use waystation_agent::limits::REQUEST_MAX;
use waystation_client::protocol::{Answer, Code, Request};

/// From here on the first byte means a stream as it is.
const RAW: u8 = 128;

static HOST: LazyLock<Host> = LazyLock::new(|| Host::start("agent-socket"));

fuzz_target!(|input: &[u8]| {
    let Some((&first, bytes)) = input.split_first() else {
        return;
    };
    let stream = if first >= RAW {
        bytes.to_vec()
    } else {
        lines(bytes)
    };
    let host = &*HOST;
    let requests = requests(&stream);
    for cut in [stream.len(), usize::from(first % RAW)] {
        let received = sockets::exchange(sockets::unix(&host.socket), &stream, cut);
        let answers = answers(&received);
        let answered = requests
            .iter()
            .filter(|one| !matches!(one, Some(Request::Report { .. })));
        assert_eq!(answers.len(), answered.clone().count());
        for (request, answer) in answered.zip(&answers) {
            assert!(fits(request.as_ref(), answer), "{request:?}: {answer:?}");
        }
        assert_eq!(host.in_flight(), Some(0));
    }
    host.check();
});

fn lines(bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let length = u32::try_from(line.len()).expect("a fuzzer's input is short");
        stream.extend(length.to_le_bytes());
        stream.extend_from_slice(line);
    }
    stream
}

/// What is asked; nothing for a body that is no request.
fn requests(stream: &[u8]) -> Vec<Option<Request>> {
    let bodies = bodies(stream, REQUEST_MAX);
    bodies
        .into_iter()
        .map(|body| serde_json::from_slice(body).ok())
        .collect()
}

/// Whether an answer is one to that request.
fn fits(request: Option<&Request>, answer: &Answer) -> bool {
    match (request, answer) {
        (None, Answer::Refused { code, .. }) => *code == Code::BadRequest,
        (Some(_), Answer::Refused { .. }) => true,
        (Some(Request::Attach { .. }), other) => *other == Answer::Attached,
        (Some(Request::Pick { .. }), other) => matches!(other, Answer::Picked { .. }),
        (Some(Request::ReportAddress { .. }), other) => *other == Answer::Reported,
        (Some(Request::List { .. } | Request::ListPair { .. }), other) => {
            matches!(other, Answer::Listed { .. })
        }
        (Some(Request::Explain { .. } | Request::ExplainPair { .. }), other) => {
            matches!(other, Answer::Explained { .. })
        }
        _ => false,
    }
}
