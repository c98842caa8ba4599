use super::*;
use proptest::prelude::*;

fn poll(line: &mut Line<u32>, seat: usize) -> Poll<Result<u32, FifoError>> {
    line.poll_seat(seat, &Context::from_waker(Waker::noop()))
}

/// A caller that gave up took its place in the queue along, and everyone
/// behind it got the answer of the one before.
#[test]
fn a_place_lives_until_its_answer_is_read() {
    let mut line = Line::new(8, 0);
    let first = line.push(Moment::ZERO).unwrap();
    let second = line.push(Moment::ZERO).unwrap();
    line.leave(first);
    assert_eq!(line.len(), 2);
    assert_eq!(line.answer(1, 1).0, Answered::Discarded);
    assert!(poll(&mut line, second).is_pending());
    assert_eq!(line.answer(2, 1).0, Answered::Taken);
    assert_eq!(poll(&mut line, second), Poll::Ready(Ok(2)));
    assert_eq!(line.answer(3, 1).0, Answered::Unasked);
}

#[test]
fn a_lost_connection_fails_everyone_and_takes_nobody_more() {
    let mut line = Line::<u32>::new(2, 0);
    let first = line.push(Moment::ZERO).unwrap();
    let second = line.push(Moment::ZERO).unwrap();
    assert_eq!(line.push(Moment::ZERO), Err(FifoError::Overloaded(2)));
    line.leave(second);
    line.fail(FifoError::OutcomeUnknown);
    assert_eq!(
        poll(&mut line, first),
        Poll::Ready(Err(FifoError::OutcomeUnknown))
    );
    assert_eq!(line.push(Moment::ZERO), Err(FifoError::NotConnected));
    assert_eq!((line.len(), line.free.len()), (0, 2));
}

/// A message of a subscription that came before it was waited for was
/// taken for a fault.
#[test]
fn answers_that_come_unasked_wait_where_that_is_allowed() {
    let mut line = Line::new(8, 1);
    assert_eq!(line.answer(1, 1).0, Answered::Kept);
    assert_eq!(line.answer(2, 1).0, Answered::Unasked);
    let seat = line.push_unasked(Moment::ZERO).unwrap();
    assert_eq!(poll(&mut line, seat), Poll::Ready(Ok(1)));
    let seat = line.push_unasked(Moment::ZERO).unwrap();
    assert!(poll(&mut line, seat).is_pending());
    assert_eq!(line.answer(3, 1).0, Answered::Taken);
    assert_eq!(poll(&mut line, seat), Poll::Ready(Ok(3)));
}

/// A user of a subscription that gave up at its deadline took the next
/// message along.
#[test]
fn who_waits_for_an_unasked_answer_and_leaves_takes_nothing_along() {
    let mut line = Line::new(8, 8);
    let [gone, late, stays] = [(); 3].map(|()| line.push_unasked(Moment::ZERO).unwrap());
    assert!(line.leave_unasked(gone).is_none());
    assert_eq!(line.len(), 2);
    // One that has its answer and did not look hands it on.
    assert_eq!(line.answer(1, 1).0, Answered::Taken);
    assert!(poll(&mut line, stays).is_pending());
    assert!(line.leave_unasked(late).is_some(), "the next one is woken");
    assert_eq!(poll(&mut line, stays), Poll::Ready(Ok(1)));
    // Where nobody waits it is kept, in front.
    let seat = line.push_unasked(Moment::ZERO).unwrap();
    assert_eq!(line.answer(2, 1).0, Answered::Taken);
    assert_eq!(line.answer(3, 1).0, Answered::Kept);
    assert!(line.leave_unasked(seat).is_none());
    for number in [2, 3] {
        let seat = line.push_unasked(Moment::ZERO).unwrap();
        assert_eq!(poll(&mut line, seat), Poll::Ready(Ok(number)));
    }
    assert_eq!((line.len(), line.has_spare()), (0, false));
    assert_eq!(line.free.len(), line.seats.len());
}

/// A request's place stays in line though someone before it leaves.
#[test]
fn a_request_keeps_its_place_when_others_leave() {
    let mut line = Line::new(8, 8);
    let unasked = line.push_unasked(Moment::ZERO).unwrap();
    let asked = line.push(Moment::ZERO).unwrap();
    assert!(line.leave_unasked(unasked).is_none());
    assert_eq!(line.answer(7, 1).0, Answered::Taken);
    assert_eq!(poll(&mut line, asked), Poll::Ready(Ok(7)));
}

/// Four thousand messages of a megabyte each were kept for whoever might
/// ask for them.
#[test]
fn what_comes_unasked_is_bounded_in_bytes() {
    let mut line = Line::new(8, 100);
    let large = FIFO_SPARE_BYTES;
    assert_eq!(line.answer(1, large + 1).0, Answered::Kept, "one fits");
    assert_eq!(line.answer(2, 1).0, Answered::Unasked);
    let seat = line.push_unasked(Moment::ZERO).unwrap();
    assert_eq!(poll(&mut line, seat), Poll::Ready(Ok(1)));
    assert_eq!(line.answer(3, large / 2).0, Answered::Kept);
    assert_eq!(line.answer(4, large / 2).0, Answered::Kept);
    assert_eq!(line.answer(5, 1).0, Answered::Unasked);
}

#[derive(Debug, Clone)]
enum Operation {
    Push,
    Answer,
    Leave(prop::sample::Index),
    Take(prop::sample::Index),
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => Just(Operation::Push),
        3 => Just(Operation::Answer),
        1 => any::<prop::sample::Index>().prop_map(Operation::Leave),
        2 => any::<prop::sample::Index>().prop_map(Operation::Take),
    ]
}

proptest! {
    /// Whoever leaves whenever, the n-th answer belongs to the n-th
    /// request, and every seat comes back.
    #[test]
    fn answers_match_requests(list in prop::collection::vec(operations(), 0..200)) {
        let mut line = Line::new(64, 0);
        let (mut asked, mut answered) = (0_u32, 0_u32);
        let mut held: Vec<(usize, u32)> = Vec::new();
        for operation in list {
            match operation {
                Operation::Push => if let Ok(seat) = line.push(Moment::ZERO) {
                    held.push((seat, asked));
                    asked += 1;
                },
                Operation::Answer => {
                    let became = line.answer(answered, 1).0;
                    if asked == answered {
                        prop_assert_eq!(became, Answered::Unasked);
                    } else {
                        let wanted = held.iter().any(|(_, number)| *number == answered);
                        let expected = if wanted { Answered::Taken } else { Answered::Discarded };
                        prop_assert_eq!(became, expected);
                        answered += 1;
                    }
                }
                Operation::Leave(index) => if !held.is_empty() {
                    let (seat, _) = held.swap_remove(index.index(held.len()));
                    line.leave(seat);
                },
                Operation::Take(index) => if !held.is_empty() {
                    let place = index.index(held.len());
                    let (seat, number) = held[place];
                    match poll(&mut line, seat) {
                        Poll::Ready(result) => {
                            prop_assert_eq!(result, Ok(number));
                            held.swap_remove(place);
                        }
                        Poll::Pending => prop_assert!(number >= answered),
                    }
                },
            }
        }
        line.fail(FifoError::OutcomeUnknown);
        for (seat, number) in held {
            let expected = if number < answered { Ok(number) } else { Err(FifoError::OutcomeUnknown) };
            prop_assert_eq!(poll(&mut line, seat), Poll::Ready(expected));
        }
        prop_assert_eq!(line.free.len(), line.seats.len());
    }
}
