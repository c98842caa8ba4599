use super::*;
use crate::limits::BODY_LEN_MAX;
use crate::status::Status;

fn request(call: u64) -> Header {
    Header::request(MessageId(7), CallId(call))
}

fn push(
    assembler: &mut Assembler,
    header: Header,
    body: &'static [u8],
) -> Result<Option<(Header, Bytes)>, AssembleError> {
    let body_len = u32::try_from(body.len()).expect("a small body");
    assembler.push(Header { body_len, ..header }, Bytes::from_static(body))
}

fn begin(assembler: &mut Assembler, header: Header, body: &'static [u8]) {
    assert_eq!(
        push(assembler, header.with_flags(Flags::MORE), body),
        Ok(None)
    );
}

#[test]
fn a_message_in_one_frame_is_not_copied() {
    let mut assembler = Assembler::new();
    let body = Bytes::from(vec![1, 2, 3]);
    let header = Header {
        body_len: 3,
        ..request(1)
    };
    let (got_header, got) = assembler
        .push(header, body.clone())
        .unwrap()
        .expect("a message");
    assert_eq!(got_header, header);
    assert_eq!(got.as_ptr(), body.as_ptr());

    // Nor is it while another message is unfinished.
    begin(&mut assembler, request(2), b"begun");
    let (_, got) = assembler
        .push(header, body.clone())
        .unwrap()
        .expect("a message");
    assert_eq!(got.as_ptr(), body.as_ptr());
}

#[test]
fn frames_of_two_messages_may_alternate() {
    let mut assembler = Assembler::new();
    begin(&mut assembler, request(1), b"way");
    begin(&mut assembler, request(2), b"post ");
    begin(&mut assembler, request(1), b"sta");
    assert_eq!(assembler.partial_count(), 2);
    assert_eq!(assembler.held_len(), 11);
    let (header, body) = push(&mut assembler, request(2), b"rider")
        .unwrap()
        .expect("a message");
    assert_eq!(
        (header.call, header.body_len, &body[..]),
        (CallId(2), 10, &b"post rider"[..])
    );
    let (header, body) = push(&mut assembler, request(1), b"tion")
        .unwrap()
        .expect("a message");
    assert_eq!(
        (header.call, header.body_len, &body[..]),
        (CallId(1), 10, &b"waystation"[..])
    );
    assert!(!header.has_more());
    assert!(assembler.is_idle());
}

#[test]
fn a_reply_and_a_request_with_one_call_id_are_two_messages() {
    // Each side numbers its own calls, so that both can have a call 1.
    let mut assembler = Assembler::new();
    let reply = Header::reply(CallId(1), MessageId(7), Status::Ok);
    begin(&mut assembler, request(1), b"question, ");
    begin(&mut assembler, reply, b"answer, ");
    let (_, body) = push(&mut assembler, reply, b"end")
        .unwrap()
        .expect("a message");
    assert_eq!(&body[..], b"answer, end");

    // The peer's cancel takes its request, and never our own call's reply.
    begin(&mut assembler, reply, b"again, ");
    assert!(assembler.cancel(CallId(1)));
    assert!(!assembler.cancel(CallId(1)));
    assert_eq!(assembler.held_len(), 7);
    let (_, body) = push(&mut assembler, reply, b"end")
        .unwrap()
        .expect("a message");
    assert_eq!(&body[..], b"again, end");
}

#[test]
fn the_last_frame_gives_the_header() {
    let mut assembler = Assembler::new();
    let at = |us| request(1).with_deadline_left(Some(std::time::Duration::from_micros(us)));
    begin(&mut assembler, at(500), b"a");
    let (header, _) = push(&mut assembler, at(400), b"b")
        .unwrap()
        .expect("a message");
    assert_eq!(
        header,
        Header {
            body_len: 2,
            ..at(400)
        }
    );
}

#[test]
fn an_idle_assembler_holds_no_memory() {
    let mut assembler = Assembler::new();
    begin(&mut assembler, request(1), b"a");
    assert!(!assembler.is_idle());
    assert!(assembler.cancel(CallId(1)));
    assert_eq!((assembler.partials.capacity(), assembler.held_len), (0, 0));
    begin(&mut assembler, request(1), b"a");
    assert!(push(&mut assembler, request(1), b"").unwrap().is_some());
    assert_eq!((assembler.partials.capacity(), assembler.held_len), (0, 0));
    begin(&mut assembler, request(1), b"a");
    assert!(push(&mut assembler, request(1).with_flags(Flags::MORE), b"").is_err());
    assert_eq!((assembler.partials.capacity(), assembler.held_len), (0, 0));
}

#[test]
fn an_error_is_final() {
    let mut assembler = Assembler::new();
    let error = AssembleError::EmptyMore {
        kind: Kind::Request,
    };
    assert_eq!(
        push(&mut assembler, request(1).with_flags(Flags::MORE), b""),
        Err(error)
    );
    assert_eq!(push(&mut assembler, request(2), b"whole"), Err(error));
    assert_eq!(
        push(&mut assembler, request(2).with_flags(Flags::MORE), b"part"),
        Err(error)
    );
    assert!(assembler.is_idle());
}

#[test]
fn a_control_frame_cannot_be_continued() {
    for kind in [Kind::Cancel, Kind::Ping, Kind::Pong, Kind::GoAway] {
        let header = Header::new(kind).with_flags(Flags::MORE);
        let refused = push(&mut Assembler::new(), header, b"x");
        assert_eq!(refused, Err(AssembleError::MoreOnControl { kind }));
    }
}

#[test]
fn one_unfinished_message_too_many_is_refused() {
    let mut assembler = Assembler::new();
    for call in 0..PARTIALS_MAX as u64 {
        begin(&mut assembler, request(call), b"x");
    }
    // Those that are begun go on, and whole ones pass between them.
    begin(&mut assembler, request(0), b"y");
    assert!(
        push(&mut assembler, request(99), b"whole")
            .unwrap()
            .is_some()
    );
    let refused = push(&mut assembler, request(100).with_flags(Flags::MORE), b"x");
    assert_eq!(
        refused,
        Err(AssembleError::TooManyPartials { max: PARTIALS_MAX })
    );
}

#[test]
fn a_message_may_have_exactly_its_limit() {
    let piece = Bytes::from(vec![7; BODY_LEN_MAX]);
    let last_len = MESSAGE_LEN_MAX % BODY_LEN_MAX;
    let fill = |assembler: &mut Assembler| {
        for _ in 0..MESSAGE_LEN_MAX / BODY_LEN_MAX {
            let header = request(1).with_flags(Flags::MORE);
            assert_eq!(assembler.push(header, piece.clone()), Ok(None));
        }
    };
    let mut assembler = Assembler::new();
    fill(&mut assembler);
    let (header, body) = assembler
        .push(request(1), piece.slice(..last_len))
        .unwrap()
        .expect("a message");
    assert_eq!(
        (header.body_len as usize, body.len()),
        (MESSAGE_LEN_MAX, MESSAGE_LEN_MAX)
    );

    fill(&mut assembler);
    let refused = assembler
        .push(request(1), piece.slice(..=last_len))
        .unwrap_err();
    assert_eq!(
        refused,
        AssembleError::MessageTooLarge {
            len: MESSAGE_LEN_MAX + 1,
            max: MESSAGE_LEN_MAX
        }
    );
    assert!(assembler.is_idle());
}

#[test]
fn unfinished_messages_share_one_bound() {
    let mut assembler = Assembler::new();
    let piece = Bytes::from(vec![7; BODY_LEN_MAX]);
    let mut add = |nth: usize, piece: Bytes| {
        assembler.push(request(nth as u64 % 3).with_flags(Flags::MORE), piece)
    };
    let whole_count = PARTIAL_LEN_SUM_MAX / BODY_LEN_MAX;
    for nth in 0..whole_count {
        assert_eq!(add(nth, piece.clone()), Ok(None));
    }
    // The bound itself may be reached, and not a byte more.
    assert_eq!(
        add(0, piece.slice(..PARTIAL_LEN_SUM_MAX % BODY_LEN_MAX)),
        Ok(None)
    );
    let len = PARTIAL_LEN_SUM_MAX + 1;
    let refused = AssembleError::TooManyBytes {
        len,
        max: PARTIAL_LEN_SUM_MAX,
    };
    assert_eq!(add(1, piece.slice(..1)), Err(refused));
    assert_eq!(assembler.held_len(), 0);
}

#[test]
fn two_pushes_are_told_apart_by_their_message_id() {
    // Pushes have no call id of their own.
    let mut assembler = Assembler::new();
    begin(&mut assembler, Header::push(MessageId(1)), b"a");
    begin(&mut assembler, Header::push(MessageId(2)), b"b");
    let (_, body) = push(&mut assembler, Header::push(MessageId(1)), b"c")
        .unwrap()
        .expect("whole");
    assert_eq!(&body[..], b"ac");
}
