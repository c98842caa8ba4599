//! RESP: whole values, values in pieces, and bytes that are none.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use bytes::Bytes;
use proptest::prelude::*;
use waystation_wire::resp::{
    Arguments, Command, RespError, RespLimits, Scan, Scanner, Value, parse, put_array, put_bulk,
    put_command, put_error, put_integer, put_null, put_simple,
};

fn limits() -> RespLimits {
    RespLimits::default()
}

/// Any value that RESP2 has, written by our encoder.
fn values() -> impl Strategy<Value = Value> {
    let text = "[a-zA-Z0-9 ]{0,12}";
    let leaf = prop_oneof![
        Just(Value::Null),
        text.prop_map(|text| Value::Simple(text.into())),
        text.prop_map(|text| Value::Error(text.into())),
        any::<i64>().prop_map(Value::Integer),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Bulk(bytes.into())),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop::collection::vec(inner, 0..6).prop_map(Value::Array)
    })
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    match value {
        Value::Null => put_null(out),
        Value::Simple(bytes) => put_simple(out, &text(bytes)),
        Value::Error(bytes) => put_error(out, &text(bytes)),
        Value::Integer(number) => put_integer(out, *number),
        Value::Bulk(bytes) => put_bulk(out, bytes),
        Value::Array(values) => {
            put_array(out, values.len());
            for value in values {
                encode(value, out);
            }
        }
        other => unreachable!("not generated: {other:?}"),
    }
}

proptest! {
    /// However the bytes are cut, the scanner finds the same end.
    #[test]
    fn pieces_give_the_same_values(list in prop::collection::vec(values(), 1..5), cut in 1..9_usize) {
        let mut bytes = Vec::new();
        for value in &list {
            encode(value, &mut bytes);
        }
        let (mut scanner, mut start, mut end) = (Scanner::new(), 0, 0);
        let mut found = Vec::new();
        while start < bytes.len() {
            match scanner.scan(&bytes[start..end], &limits()).unwrap() {
                Scan::Complete(length) => {
                    found.push(parse(&Bytes::copy_from_slice(&bytes[start..start + length])).unwrap());
                    start += length;
                }
                Scan::Need(need) => {
                    prop_assert!(start + need > end, "a need must ask for more");
                    prop_assert!(start + need <= bytes.len() || need == end - start + 1);
                    end = (end + cut).min(bytes.len());
                }
            }
        }
        prop_assert_eq!(found, list);
    }

    #[test]
    fn any_bytes_give_a_value_or_a_need_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Scanner::new().scan(&bytes, &limits());
        let _ = parse(&Bytes::from(bytes.clone()));
        let _ = Command::read(&mut Scanner::new(), &bytes, &limits());
    }

    #[test]
    fn near_resp_never_panics(text in "[+:$*%|>~#,(!=_\\-0-9\\r\\n]{0,60}") {
        let bytes = text.into_bytes();
        let _ = Scanner::new().scan(&bytes, &limits());
        let _ = parse(&Bytes::from(bytes.clone()));
        let _ = Command::read(&mut Scanner::new(), &bytes, &limits());
    }

    #[test]
    fn commands_come_back(arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..6)) {
        let list: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let mut bytes = Vec::new();
        put_command(&mut bytes, &list);
        for end in 0..bytes.len() {
            let partial = Command::read(&mut Scanner::new(), &bytes[..end], &limits()).unwrap();
            prop_assert!(partial.is_err(), "{end} of {}", bytes.len());
        }
        let command = Command::read(&mut Scanner::new(), &bytes, &limits()).unwrap().unwrap();
        prop_assert_eq!(&*command.arguments, &list[..]);
        prop_assert_eq!(command.length, bytes.len());
    }

    /// Short commands that are there as a whole take a way of their own: it
    /// must find what the scanner finds, and judge nothing itself.
    #[test]
    fn whole_commands_are_read_as_those_in_pieces(
        head in "[*][0-5]\r\n",
        parts in prop::collection::vec("[$][0-9]{1,2}\r\n[a-c]{0,11}(\r\n|\n|)", 0..6),
        cut in 1..4_usize,
    ) {
        let bytes = (head + &parts.concat()).into_bytes();
        let whole = Command::read(&mut Scanner::new(), &bytes, &limits());
        let mut scanner = Scanner::new();
        let first = Command::read(&mut scanner, &bytes[..cut], &limits());
        prop_assert!(matches!(first, Ok(Err(_))), "it is no whole command: {first:?}");
        prop_assert_eq!(whole, Command::read(&mut scanner, &bytes, &limits()));
    }

    /// The arguments of one command must not reach the next, whatever came
    /// between: a long one, a line, half of one, or a fault.
    #[test]
    fn arguments_that_are_read_again_hold_nothing_of_the_last(
        list in prop::collection::vec(
            (prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..8), 0..4_u8),
            1..8,
        ),
    ) {
        let streams: Vec<Vec<u8>> = list
            .iter()
            .map(|(arguments, kind)| {
                let mut bytes = Vec::new();
                let words: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
                put_command(&mut bytes, &words);
                match kind {
                    0 => bytes.truncate(bytes.len() - 1),
                    1 => bytes = b"PING it now\r\n".to_vec(),
                    2 => bytes = b"*1\r\n:1\r\n".to_vec(),
                    _ => {}
                }
                bytes
            })
            .collect();
        let mut again = Arguments::new();
        for bytes in &streams {
            let whole = Command::read(&mut Scanner::new(), bytes, &limits());
            let read = again.read(&mut Scanner::new(), bytes, &limits());
            match (whole, read) {
                (Ok(Ok(command)), Ok(Ok(length))) => {
                    prop_assert_eq!(command.length, length);
                    prop_assert_eq!(&command.arguments, &again);
                }
                (Ok(Err(need)), Ok(Err(other))) => {
                    prop_assert_eq!(need, other);
                    prop_assert!(again.is_empty());
                }
                (Err(error), Err(other)) => {
                    prop_assert_eq!(error, other);
                    prop_assert!(again.is_empty());
                }
                (one, other) => prop_assert!(false, "{one:?} and {other:?}"),
            }
        }
    }
}

fn fault(bytes: &[u8]) -> RespError {
    Scanner::new().scan(bytes, &limits()).unwrap_err()
}

#[test]
fn resp3_types_are_read() {
    let bytes = Bytes::from_static(
        b"%2\r\n+a\r\n#t\r\n+b\r\n|1\r\n+ttl\r\n:9\r\n~3\r\n_\r\n,1.5\r\n(123456789012345678901\r\n",
    );
    let set = vec![
        Value::Null,
        Value::Double(1.5),
        Value::BigNumber("123456789012345678901".into()),
    ];
    let expected = Value::Map(vec![
        (Value::Simple("a".into()), Value::Boolean(true)),
        (Value::Simple("b".into()), Value::Array(set)),
    ]);
    assert_eq!(parse(&bytes), Ok(expected));
    assert_eq!(
        parse(&Bytes::from_static(b"=7\r\ntxt:abc\r\n")),
        Ok(Value::Bulk("abc".into()))
    );
    assert_eq!(
        parse(&Bytes::from_static(b"!3\r\nERR\r\n")),
        Ok(Value::Error("ERR".into()))
    );
}

/// A length with a sign or an overflow was trusted and overran the buffer. One
/// with a zero in front was read, and handed on to a server that takes none:
/// whoever sent it ended the connection that all clients of a proxy shared.
#[test]
fn lengths_are_plain_numbers() {
    for bytes in [
        "$-2\r\n",
        "$+1\r\n",
        "$ 1\r\n",
        "$\r\n",
        "*9999999999999999999\r\n",
        "%-1\r\n",
        "$00\r\n\r\n",
        "$01\r\na\r\n",
        "$012\r\nabcdefghijkl\r\n",
        "*01\r\n$1\r\na\r\n",
        "*1\r\n$01\r\na\r\n",
    ] {
        assert_eq!(fault(bytes.as_bytes()), RespError::BadLength, "{bytes:?}");
        if bytes.starts_with('*') {
            let read = Command::read(&mut Scanner::new(), bytes.as_bytes(), &limits());
            assert_eq!(read, Err(RespError::BadLength), "{bytes:?}");
        }
    }
    let empty = Scanner::new().scan(b"$0\r\n\r\n", &limits());
    assert_eq!(empty, Ok(Scan::Complete(6)));
    assert_eq!(fault(b"$3\r\nabcd\r\n"), RespError::BadEnd);
    assert_eq!(fault(b"+ok\n"), RespError::BadEnd);
    assert_eq!(fault(b"\x01"), RespError::UnknownType(1));
}

fn long_line() -> Vec<u8> {
    vec![b'x'; 70_000]
}

#[test]
fn every_bound_holds() {
    assert_eq!(fault(b"$999999999999\r\n"), RespError::TooLarge("bytes"));
    assert_eq!(fault(b"*2000000\r\n"), RespError::TooLarge("elements"));
    assert_eq!(fault(&b"*1\r\n".repeat(100)), RespError::TooLarge("depth"));
    assert_eq!(
        fault(&[b"+", long_line().as_slice()].concat()),
        RespError::TooLarge("line")
    );
    let long = long_line();
    let line = Command::read(&mut Scanner::new(), &long, &limits());
    assert_eq!(line, Err(RespError::TooLarge("line")));
}

#[test]
fn inline_commands_are_read() {
    let command = Command::read(&mut Scanner::new(), b"PING  hello\r\nrest", &limits());
    let expected = Command {
        arguments: [&b"PING"[..], b"hello"].into_iter().collect(),
        length: 13,
    };
    assert_eq!(command, Ok(Ok(expected)));
    let nested = Command::read(&mut Scanner::new(), b"*1\r\n*1\r\n$1\r\na\r\n", &limits());
    assert_eq!(nested, Err(RespError::NotACommand));
}
