//! Messages in pieces, each the body of one native frame.

use bytes::Bytes;
use thiserror::Error;

use crate::limits::{PIECE_BYTES, SYNC_MESSAGE_BYTES_MAX};

/// Set in a piece's first byte when the message goes on.
const MORE: u8 = 1;

/// Why a piece cannot be taken. The connection has lost its place and ends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PieceError {
    /// Its first byte is none that a piece begins with.
    #[error("a piece without a head")]
    Head,
    /// A message would be longer than [`SYNC_MESSAGE_BYTES_MAX`].
    #[error("a message of more than {SYNC_MESSAGE_BYTES_MAX} bytes")]
    TooLong,
}

/// Puts the pieces of one connection together, in the order in which they come.
#[derive(Debug, Default)]
pub struct Pieces {
    held: Vec<u8>,
}

impl Pieces {
    /// Nothing is held.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece: the message, if it is the last one of it.
    ///
    /// # Errors
    /// [`PieceError`].
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Bytes>, PieceError> {
        let (head, rest) = piece.split_first().ok_or(PieceError::Head)?;
        if *head > MORE {
            return Err(PieceError::Head);
        }
        if self.held.len() + rest.len() > SYNC_MESSAGE_BYTES_MAX {
            return Err(PieceError::TooLong);
        }
        self.held.extend_from_slice(rest);
        if *head == MORE {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.held).into()))
    }

    /// Bytes of the message that has begun.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }
}

/// Cuts a message into pieces: the head of each, and its bytes.
pub fn for_each_piece(message: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let count = message.len().div_ceil(PIECE_BYTES).max(1);
    (0..count).map(move |at| {
        let begin = at * PIECE_BYTES;
        let end = message.len().min(begin + PIECE_BYTES);
        let head = if at + 1 < count { MORE } else { 0 };
        (head, &message[begin..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(message: &[u8]) -> Bytes {
        let mut pieces = Pieces::new();
        let mut found = None;
        for (head, bytes) in for_each_piece(message) {
            assert!(found.is_none());
            let piece = [&[head], bytes].concat();
            found = pieces.push(&piece).unwrap();
        }
        assert_eq!(pieces.held_bytes(), 0);
        found.unwrap()
    }

    #[test]
    fn a_message_of_any_length_is_put_together_from_its_pieces() {
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let message: Vec<u8> = (0..length)
                .map(|at| u8::try_from(at % 251).unwrap())
                .collect();
            assert_eq!(through(&message), message, "{length} bytes");
        }
    }

    #[test]
    fn a_message_that_never_ends_is_refused_at_its_bound() {
        let mut pieces = Pieces::new();
        let piece = [&[MORE], vec![7; 1 << 20].as_slice()].concat();
        let refused = loop {
            match pieces.push(&piece) {
                Ok(message) => assert_eq!(message, None),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, PieceError::TooLong);
        assert!(pieces.held_bytes() <= SYNC_MESSAGE_BYTES_MAX);
        assert_eq!(Pieces::new().push(&[]), Err(PieceError::Head));
        assert_eq!(Pieces::new().push(&[2, 1]), Err(PieceError::Head));
    }
}
