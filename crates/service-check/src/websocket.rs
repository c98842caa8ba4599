//! A peer that speaks WebSocket (RFC 6455) by hand.

use waystation_net::MemoryIo;

use crate::http::HttpPeer;

/// One WebSocket connection of a client.
pub struct WebSocketPeer {
    http: HttpPeer,
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// What masks a client's frames. Any will do for a test.
const MASK: [u8; 4] = [1, 2, 3, 4];

impl WebSocketPeer {
    /// Connects and shakes hands on the path `/ws`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn dial(io: &MemoryIo, name: &str) -> Self {
        let mut http = HttpPeer::dial(io, name);
        let head = "GET /ws\nconnection: upgrade\nupgrade: websocket\n\
                    sec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
        let answer = http.ask(head).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        Self { http }
    }

    /// Sends one text message.
    pub async fn send(&mut self, text: &str) {
        self.send_frame(TEXT, text.as_bytes()).await;
    }

    /// Sends one binary message.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.send_frame(BINARY, bytes).await;
    }

    async fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | u8::try_from(length).expect("it is small")),
            length => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(
            payload
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.http.write(&frame).await;
    }

    /// The next text message; `None` when the server ends the connection.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn receive(&mut self) -> Option<String> {
        let (opcode, payload) = self.receive_frame().await?;
        if opcode == CLOSE {
            return None;
        }
        assert_eq!(opcode, TEXT);
        Some(String::from_utf8(payload).expect("the server sends UTF-8"))
    }

    /// Sends one text message and waits for the next one.
    ///
    /// # Panics
    /// When the connection ends.
    pub async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.receive().await.expect("the connection stays open")
    }

    /// The next binary message.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn receive_binary(&mut self) -> Vec<u8> {
        let (opcode, payload) = self
            .receive_frame()
            .await
            .expect("the connection stays open");
        assert_eq!(opcode, BINARY);
        payload
    }

    async fn receive_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        self.need(2).await?;
        let opcode = self.http.received[0] & 0x0F;
        let (length, head) = match self.http.received[1] {
            126 => {
                self.need(4).await?;
                let length = [self.http.received[2], self.http.received[3]];
                (usize::from(u16::from_be_bytes(length)), 4)
            }
            127 => {
                self.need(10).await?;
                let length = self.http.received[2..10].try_into().expect("8 bytes");
                let length = u64::from_be_bytes(length);
                (usize::try_from(length).expect("it fits memory"), 10)
            }
            length => (usize::from(length), 2),
        };
        self.need(head + length).await?;
        self.http.received.drain(..head);
        Some((opcode, self.http.received.drain(..length).collect()))
    }

    async fn need(&mut self, count: usize) -> Option<()> {
        while self.http.received.len() < count {
            if !self.http.fill().await {
                return None;
            }
        }
        Some(())
    }
}
