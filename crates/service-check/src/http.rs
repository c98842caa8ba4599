//! A peer that speaks HTTP/1.1 by hand.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waystation_net::{MemoryIo, MemoryStream};

/// One HTTP connection that stays open.
pub struct HttpPeer {
    pub(crate) stream: MemoryStream,
    pub(crate) received: Vec<u8>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl HttpAnswer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl HttpPeer {
    /// Connects to a listener in memory.
    ///
    /// # Panics
    /// When nobody listens.
    #[track_caller]
    pub fn dial(io: &MemoryIo, name: &str) -> Self {
        Self {
            stream: io.dial(name).expect("someone listens"),
            received: Vec::new(),
        }
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) {
        // Whether they are taken shows in the answer.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends a request without waiting for its answer. `head` is the request
    /// line without its version, and further header lines.
    pub async fn request(&mut self, head: &str, body: &str) {
        let (line, headers) = match head.split_once('\n') {
            Some((line, headers)) => (line, headers.replace('\n', "\r\n") + "\r\n"),
            None => (head, String::new()),
        };
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{headers}\r\n");
        self.write(format!("{head}{body}").as_bytes()).await;
    }

    /// Posts JSON and waits for the answer.
    pub async fn post(&mut self, path: &str, body: &str) -> HttpAnswer {
        self.request(&format!("POST {path}"), body).await;
        self.answer().await
    }

    /// Sends a request without a body and waits for the answer.
    pub async fn ask(&mut self, head: &str) -> HttpAnswer {
        self.request(head, "").await;
        let has_no_body = head.starts_with("HEAD ");
        self.read_answer(has_no_body).await
    }

    /// The next answer.
    pub async fn answer(&mut self) -> HttpAnswer {
        self.read_answer(false).await
    }

    async fn read_answer(&mut self, has_no_body: bool) -> HttpAnswer {
        let end = loop {
            let found = self.received.windows(4).position(|at| at == b"\r\n\r\n");
            if let Some(found) = found {
                break found + 4;
            }
            assert!(self.fill().await, "the connection ended before an answer");
        };
        let head = String::from_utf8(self.received.drain(..end).collect()).expect("ASCII");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let mut answer = HttpAnswer {
            status: status.expect("a status"),
            headers: headers.collect(),
            body: String::new(),
        };
        let length = answer
            .header("content-length")
            .and_then(|value| value.parse().ok());
        let length = if has_no_body { 0 } else { length.unwrap_or(0) };
        while self.received.len() < length {
            assert!(self.fill().await, "the connection ended within an answer");
        }
        let body = self.received.drain(..length).collect();
        answer.body = String::from_utf8(body).expect("text");
        answer
    }

    /// Reads something more. False at the end.
    pub async fn fill(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.received).await, Ok(1..))
    }

    /// Breaks the connection in both directions.
    pub fn cut(self) {
        self.stream.cut();
    }

    /// What was received beyond the last answer.
    pub fn rest(&self) -> &[u8] {
        &self.received
    }
}
