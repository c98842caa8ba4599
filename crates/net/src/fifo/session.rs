//! What comes from the server: answers to those who wait for them, in order.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::line::{Answered, Line, Next};
use super::link::Lines;
use super::{FifoCodec, FifoScan};
use crate::conn::{CloseReason, Conn, Input, Session, Turn};
use crate::counters::Counters;
use crate::limits::MESSAGES_PER_TURN;

/// One connection's answers.
pub(super) struct FifoSession<C: FifoCodec> {
    codec: C,
    line: Weak<RefCell<Line<C::Answer>>>,
}

/// Answers of one batch that stand one behind the other, not yet handed over.
#[derive(Default)]
struct Run {
    start: usize,
    count: u32,
}

/// Why the reading of answers ends for now.
enum Pause {
    /// So many bytes are needed from where it stopped.
    Need(usize),
    /// Others come first.
    Yield,
}

impl<C: FifoCodec> FifoSession<C> {
    pub(super) fn new(codec: C, line: &Lines<C::Answer>) -> Self {
        Self {
            codec,
            line: Rc::downgrade(line),
        }
    }

    /// Reads whole answers from the front of `bytes`; `used` says how far.
    fn answers(
        &mut self,
        line: &RefCell<Line<C::Answer>>,
        counters: &Counters,
        bytes: &[u8],
        used: &mut usize,
    ) -> Result<Pause, CloseReason> {
        let mut run = Run::default();
        let mut pause = Ok(Pause::Yield);
        let mut count = 0;
        let mut next = line.borrow().next();
        for _ in 0..MESSAGES_PER_TURN {
            if *used == bytes.len() {
                pause = Ok(Pause::Need(1));
                break;
            }
            let length = match self.codec.scan(&bytes[*used..]) {
                Ok(FifoScan::Answer(length)) => length,
                Ok(FifoScan::Need(total)) => {
                    pause = Ok(Pause::Need(total));
                    break;
                }
                Err(label) => {
                    pause = Err(CloseReason::Protocol(label));
                    break;
                }
            };
            let answer = &bytes[*used..*used + length];
            *used += length;
            count += 1;
            match next {
                Next::Batch(left) => {
                    run.count += 1;
                    if run.count < left {
                        continue;
                    }
                    hand_over(line, &mut run, bytes, *used);
                }
                Next::Gone => {
                    line.borrow_mut().skip();
                    counters.late_answers.add(1);
                }
                Next::Caller => {
                    if let Err(reason) = self.answer(line, counters, answer) {
                        pause = Err(reason);
                        break;
                    }
                }
            }
            run.start = *used;
            next = line.borrow().next();
        }
        counters.messages_in.add(count);
        // What is whole goes out, whatever follows it.
        let end = *used;
        if run.count > 0 {
            hand_over(line, &mut run, bytes, end);
        }
        pause
    }

    /// Gives an answer to the caller that is next in line.
    fn answer(
        &mut self,
        line: &RefCell<Line<C::Answer>>,
        counters: &Counters,
        answer: &[u8],
    ) -> Result<(), CloseReason> {
        let bytes = answer.len();
        let answer = self.codec.read(answer).map_err(CloseReason::Protocol)?;
        let (became, waker) = line.borrow_mut().answer(answer, bytes);
        match became {
            Answered::Taken | Answered::Kept => {}
            Answered::Discarded => counters.late_answers.add(1),
            Answered::Unasked => return Err(CloseReason::Protocol("unasked")),
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

/// Gives the answers of a run to their sink, which may come back here.
fn hand_over<A>(line: &RefCell<Line<A>>, run: &mut Run, bytes: &[u8], end: usize) {
    let batch = line.borrow_mut().take(run.count);
    batch.hand_over(Ok(&bytes[run.start..end]));
    *run = Run {
        start: end,
        count: 0,
    };
}

impl<C: FifoCodec> Session for FifoSession<C> {
    fn handle_input(&mut self, conn: &Conn, input: &mut Input) -> Result<Turn, CloseReason> {
        let Some(line) = self.line.upgrade() else {
            return Err(CloseReason::Local);
        };
        let mut used = 0;
        let counters = conn.shard().counters();
        let pause = self.answers(&line, counters, input.bytes(), &mut used);
        input.consume(used);
        match pause? {
            Pause::Yield => Ok(Turn::Yield),
            Pause::Need(total) => {
                input.want(total);
                Ok(Turn::NeedMore)
            }
        }
    }

    fn times_messages(&self) -> bool {
        // The stall timeout looks after answers that are incomplete, and on a
        // lease its user's deadlines.
        true
    }
}
