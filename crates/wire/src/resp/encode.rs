//! Values and commands to bytes.

use std::io::Write as _;

fn put_head(out: &mut Vec<u8>, kind: u8, value: impl std::fmt::Display) {
    out.push(kind);
    // Writing to a vector does not fail.
    let _ = write!(out, "{value}\r\n");
}

/// Appends `+text`. Line ends in `text` become spaces.
pub fn put_simple(out: &mut Vec<u8>, text: &str) {
    put_line(out, b'+', text);
}

/// Appends `-text`. Line ends in `text` become spaces.
pub fn put_error(out: &mut Vec<u8>, text: &str) {
    put_line(out, b'-', text);
}

fn put_line(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    let safe = |byte: u8| {
        if matches!(byte, b'\r' | b'\n') {
            b' '
        } else {
            byte
        }
    };
    out.extend(text.bytes().map(safe));
    out.extend_from_slice(b"\r\n");
}

/// Appends an integer.
pub fn put_integer(out: &mut Vec<u8>, value: i64) {
    put_head(out, b':', value);
}

/// Appends a bulk string.
pub fn put_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    put_head(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends the null of RESP2.
pub fn put_null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"$-1\r\n");
}

/// Appends the head of an array; its elements follow.
pub fn put_array(out: &mut Vec<u8>, elements: usize) {
    put_head(out, b'*', elements);
}

/// Appends a command: an array of bulk strings.
pub fn put_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    put_array(out, arguments.len());
    for argument in arguments {
        put_bulk(out, argument);
    }
}
