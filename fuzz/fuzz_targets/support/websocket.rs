//! The client's side of WebSocket, by hand (RFC 6455).

/// Asks for WebSocket on the path `/ws`.
pub const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One text message, unfragmented, under a mask that changes nothing.
pub fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | 127];
    frame.extend_from_slice(&(text.len() as u64).to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The server's messages (RFC 6455, 5.2): whole, unmasked, and none behind a
/// close frame.
pub fn frames(received: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let end = received.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, mut rest) = received.split_at(end.expect("the handshake is answered") + 4);
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(head)
    );
    let mut frames: Vec<(u8, Vec<u8>)> = Vec::new();
    while let Some((&first, tail)) = rest.split_first() {
        assert!(
            frames.last().is_none_or(|(first, _)| *first != 0x88),
            "behind the end"
        );
        assert!([0x81, 0x82, 0x88, 0x8A].contains(&first), "{first:#x}");
        let (&short, tail) = tail.split_first().expect("a length");
        let (length, tail) = match short {
            126 => {
                let (length, tail) = tail.split_first_chunk().expect("a length of 16 bits");
                (u64::from(u16::from_be_bytes(*length)), tail)
            }
            127 => {
                let (length, tail) = tail.split_first_chunk().expect("a length of 64 bits");
                (u64::from_be_bytes(*length), tail)
            }
            short => (u64::from(short), tail),
        };
        assert!(short < 128, "a server masks nothing");
        let length = usize::try_from(length).expect("a length");
        let (payload, tail) = tail.split_at_checked(length).expect("a whole message");
        frames.push((first, payload.to_vec()));
        rest = tail;
    }
    frames
}
