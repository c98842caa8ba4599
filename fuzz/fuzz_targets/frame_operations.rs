//! Lists of operations on the assembler, against a model that is a plain map.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use waystation_base::{CallId, MessageId};
use waystation_wire::{
    AssembleError, Assembler, BODY_LEN_MAX, Decoded, Flags, HEADER_LEN, Header, Kind,
    MESSAGE_LEN_MAX, PARTIAL_LEN_SUM_MAX, PARTIALS_MAX, Status, decode, encode_into, frames_len,
};

/// Bodies of a byte each, longer than a frame's: a turn slices one instead of
/// filling a megabyte, which made nearly all of its time.
static FILLS: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    (0..8u8)
        .map(|fill| vec![fill; BODY_LEN_MAX + 256].into())
        .collect()
});

/// Small ranges, so that operations meet on the same messages.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Name {
    kind: u8,
    call: u8,
    message: bool,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    /// A frame with a few bytes.
    Frame { name: Name, more: bool, len: u8 },
    /// A frame as large as one may be, so that lists reach the bounds in bytes.
    LargeFrame { name: Name, more: bool },
    /// A whole message, through the encoder and the decoder.
    Message { name: Name, len: u16 },
    /// A cancel frame has come.
    Cancel { call: u8 },
}

type Key = (Kind, CallId, MessageId);

/// What the assembler must do: lengths stand for bodies, the sum tells them apart.
#[derive(Default)]
struct Model {
    partials: BTreeMap<(u8, CallId, MessageId), Vec<(usize, usize)>>,
    failed: Option<AssembleError>,
}

fuzz_target!(|operations: Vec<Operation>| {
    let (mut assembler, mut model) = (Assembler::new(), Model::default());
    for (turn, operation) in operations.iter().enumerate() {
        let fill = turn % FILLS.len();
        match *operation {
            Operation::Frame { name, more, len } => {
                frame(
                    &mut assembler,
                    &mut model,
                    name,
                    more,
                    usize::from(len),
                    fill,
                );
            }
            Operation::LargeFrame { name, more } => {
                frame(&mut assembler, &mut model, name, more, BODY_LEN_MAX, fill);
            }
            Operation::Message { name, len } => {
                message(&mut assembler, &mut model, name, usize::from(len), fill);
            }
            Operation::Cancel { call } => {
                let call = CallId(u64::from(call % 24));
                assert_eq!(assembler.cancel(call), model.cancel(call));
            }
        }
        assert_eq!(assembler.partial_count(), model.partials.len());
        assert_eq!(assembler.held_len(), model.held_len());
        assert_eq!(assembler.is_idle(), model.partials.is_empty());
    }
});

fn header(name: Name) -> Header {
    let kind = Kind::ALL[usize::from(name.kind) % Kind::ALL.len()];
    let call = CallId(u64::from(name.call % 24));
    let message = MessageId(u32::from(name.message));
    Header {
        call,
        message,
        status: Status::Ok,
        ..Header::new(kind)
    }
}

fn frame(
    assembler: &mut Assembler,
    model: &mut Model,
    name: Name,
    more: bool,
    len: usize,
    fill: usize,
) {
    let header = Header {
        body_len: u32::try_from(len).expect("a frame"),
        ..header(name)
    };
    let header = if more {
        header.with_flags(Flags::MORE)
    } else {
        header
    };
    push(assembler, model, header, FILLS[fill].slice(..len), fill);
}

/// Encodes a message, decodes its frames and pushes each.
fn message(assembler: &mut Assembler, model: &mut Model, name: Name, len: usize, fill: usize) {
    // The highest lengths stand for those around a frame's limit.
    let len = if len < 0xFF00 {
        len % 512
    } else {
        BODY_LEN_MAX - 128 + len % 256
    };
    let (header, body) = (header(name), &FILLS[fill][..len]);
    let mut stream = Vec::new();
    match encode_into(&header, body, &mut stream) {
        Ok(()) => assert_eq!(stream.len(), frames_len(len)),
        Err(refused) => {
            assert!(!header.kind.may_continue() && len > BODY_LEN_MAX && refused.len == len);
            assert!(stream.is_empty());
        }
    }
    let mut rest = Bytes::from(stream);
    while !rest.is_empty() {
        let Ok(Decoded::Frame(header)) = decode(&rest) else {
            panic!("what was encoded decodes")
        };
        push(
            assembler,
            model,
            header,
            rest.slice(HEADER_LEN..header.frame_len()),
            fill,
        );
        rest = rest.slice(header.frame_len()..);
    }
}

fn push(assembler: &mut Assembler, model: &mut Model, header: Header, body: Bytes, fill: usize) {
    let expected = model.push(&header, body.len(), fill);
    let got = assembler.push(header, body);
    match (expected, got) {
        (Err(expected), Err(got)) => assert_eq!(got, expected),
        (Ok(None), Ok(None)) => {}
        (Ok(Some(pieces)), Ok(Some((whole, body)))) => {
            let len: usize = pieces.iter().map(|(len, _)| len).sum();
            assert_eq!((whole.body_len as usize, body.len()), (len, len));
            assert_eq!((whole.kind, whole.call), (header.kind, header.call));
            assert!(!whole.has_more());
            let mut rest = &body[..];
            for (len, fill) in pieces {
                let (piece, tail) = rest.split_at(len);
                assert!(piece == &FILLS[fill][..len], "a piece has moved");
                rest = tail;
            }
        }
        (expected, got) => panic!("expected {expected:?}, got {:?}", got.map(|_| "other")),
    }
}

impl Model {
    fn held_len(&self) -> usize {
        self.partials.values().flatten().map(|(len, _)| len).sum()
    }

    fn cancel(&mut self, call: CallId) -> bool {
        let before = self.partials.len();
        self.partials
            .retain(|(kind, of, _), _| *kind != Kind::Request.code() || *of != call);
        self.partials.len() < before
    }

    fn push(
        &mut self,
        header: &Header,
        len: usize,
        fill: usize,
    ) -> Result<Option<Vec<(usize, usize)>>, AssembleError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(error) = self.fault(header, len) {
            self.partials.clear();
            self.failed = Some(error);
            return Err(error);
        }
        let (kind, call, message): Key = (header.kind, header.call, header.message);
        let key = (kind.code(), call, message);
        if header.has_more() {
            self.partials.entry(key).or_default().push((len, fill));
            return Ok(None);
        }
        let mut pieces = self.partials.remove(&key).unwrap_or_default();
        pieces.push((len, fill));
        Ok(Some(pieces))
    }

    /// The rule that a frame breaks, in the order in which they are documented to hold.
    fn fault(&self, header: &Header, len: usize) -> Option<AssembleError> {
        let kind = header.kind;
        let begun = self
            .partials
            .get(&(kind.code(), header.call, header.message));
        if header.has_more() {
            if !kind.may_continue() {
                return Some(AssembleError::MoreOnControl { kind });
            }
            if len == 0 {
                return Some(AssembleError::EmptyMore { kind });
            }
            if begun.is_none() && self.partials.len() == PARTIALS_MAX {
                return Some(AssembleError::TooManyPartials { max: PARTIALS_MAX });
            }
        } else if begun.is_none() {
            return None;
        }
        let begun_len: usize = begun.into_iter().flatten().map(|(len, _)| len).sum();
        let (message_len, sum_len) = (begun_len + len, self.held_len() + len);
        if message_len > MESSAGE_LEN_MAX {
            return Some(AssembleError::MessageTooLarge {
                len: message_len,
                max: MESSAGE_LEN_MAX,
            });
        }
        (sum_len > PARTIAL_LEN_SUM_MAX).then_some(AssembleError::TooManyBytes {
            len: sum_len,
            max: PARTIAL_LEN_SUM_MAX,
        })
    }
}
