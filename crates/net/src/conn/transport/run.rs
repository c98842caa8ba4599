//! A session's turns, from the first to the connection's end.

use std::future::{Future, poll_fn};
use std::task::{Context, Poll, ready};

use futures_util::future::LocalBoxFuture;
use waystation_base::Moment;

use super::super::{CloseReason, Session, Turn};
use super::{Filled, Since, Transport};
use crate::shard::{WaitsFor, note_wait};

/// Where a session stands between two polls. It is no `async fn`: the places
/// of futures within futures take several times as much, in every connection.
enum Stage {
    /// There may be something to handle.
    Turn,
    /// Everything was handled but perhaps a part of a message.
    Input { partial: bool },
    /// A handler runs.
    Handler(LocalBoxFuture<'static, ()>),
    /// There is more to handle, but others come first.
    Others(LocalBoxFuture<'static, ()>),
    /// The peer is to take some of its answers first.
    Output,
    /// The peer sends nothing more, but handlers still work for it.
    Handlers { partial: bool },
}

/// What a session holds between two of its turns.
struct Between {
    held: usize,
    mid_message: bool,
    times_messages: bool,
    unfinished_since: Option<Moment>,
}

impl Between {
    fn of(session: &impl Session) -> Self {
        Self {
            held: session.held_len(),
            mid_message: session.is_mid_message(),
            times_messages: session.times_messages(),
            unfinished_since: session.unfinished_since(),
        }
    }
}

// What does not need the session is no part of the generic code, which is
// compiled with each session, where this crate's functions are calls.
impl Transport {
    /// Runs a session to the connection's end and says why it ended.
    pub fn run(&mut self, session: &mut impl Session) -> impl Future<Output = CloseReason> {
        let mut stage = Stage::Turn;
        poll_fn(move |cx| {
            let reason = loop {
                let went_on = match &mut stage {
                    Stage::Turn => self.turn(session, &mut stage),
                    Stage::Handler(handler) => {
                        let ended = ready!(self.poll_handler(cx, handler, session));
                        stage = Stage::Turn;
                        ended
                    }
                    _ => {
                        let reader = self.conn.is_reading_paused() && session.has_reader();
                        ready!(self.poll_stage(cx, &mut stage, reader)).map(|drain| {
                            if drain {
                                session.handle_drain(&self.conn);
                            }
                        })
                    }
                };
                if let Err(reason) = went_on {
                    break reason;
                }
            };
            stage = Stage::Turn;
            if self.ending_reason().is_none() {
                session.handle_end(&self.conn, reason);
            }
            Poll::Ready(reason)
        })
    }

    /// Handles what is there.
    fn turn(&mut self, session: &mut impl Session, stage: &mut Stage) -> Result<(), CloseReason> {
        if !self.begin_turn()? {
            *stage = Stage::Output;
            return Ok(());
        }
        let turn = session.handle_input(&self.conn, &mut self.input);
        self.end_turn(turn, &Between::of(session), stage)
    }

    /// Whether there may be a turn now; else the peer takes some of its
    /// answers first.
    fn begin_turn(&mut self) -> Result<bool, CloseReason> {
        if let Some(reason) = self.conn.close_reason() {
            return Err(reason);
        }
        if self.conn.holds_back() {
            // It is we who do not read.
            self.partial = Since::NEVER;
            self.set_unfinished(None);
            self.hold();
            return Ok(false);
        }
        self.conn.shared.driver_runs.set(true);
        Ok(true)
    }

    fn end_turn(
        &mut self,
        turn: Result<Turn, CloseReason>,
        between: &Between,
        stage: &mut Stage,
    ) -> Result<(), CloseReason> {
        self.conn.shared.driver_runs.set(false);
        self.set_held(between.held);
        *stage = match turn? {
            Turn::Suspended(handler) => {
                self.hold();
                self.input.begin_look();
                Stage::Handler(handler)
            }
            Turn::Yield => {
                self.hold();
                Stage::Others(Box::pin(tokio::task::yield_now()))
            }
            Turn::NeedMore => Stage::Input {
                partial: self.more(between)?,
            },
        };
        Ok(())
    }

    /// Nothing can be handled before there is more. Answers whether a message
    /// has begun.
    fn more(&mut self, between: &Between) -> Result<bool, CloseReason> {
        let partial = !self.input.is_empty() || between.mid_message;
        self.set_unfinished(between.unfinished_since);
        let progressed = self.input.take_progress();
        if !partial {
            self.partial = Since::NEVER;
            self.rest_rare();
            return Ok(false);
        }
        if between.times_messages {
            self.partial = Since::NEVER;
        } else if progressed || self.partial.get().is_none() {
            self.partial = Since(self.shard().now());
        }
        self.check_held()?;
        Ok(true)
    }

    /// Goes on at a stage without a session, which is read in spite of a pause
    /// where it has a `reader`. True when the session is to be told of a drain.
    fn poll_stage(
        &mut self,
        cx: &mut Context<'_>,
        stage: &mut Stage,
        reader: bool,
    ) -> Poll<Result<bool, CloseReason>> {
        let next = match stage {
            Stage::Turn | Stage::Handler(_) => return Poll::Ready(Ok(false)),
            Stage::Input { partial } => {
                let filled = self.poll_fill(cx, *partial || reader);
                match ready!(note_wait(WaitsFor::plain("input"), filled))? {
                    Filled::Bytes => Stage::Turn,
                    Filled::Drain => {
                        *stage = Stage::Turn;
                        return Poll::Ready(Ok(true));
                    }
                    Filled::End => {
                        self.conn.shared.awaits_handlers.set(true);
                        self.hold();
                        Stage::Handlers { partial: *partial }
                    }
                }
            }
            Stage::Others(others) => {
                ready!(others.as_mut().poll(cx));
                self.flush_some(cx)?;
                Stage::Turn
            }
            Stage::Output => {
                let below = self.poll_below_high_water(cx);
                ready!(note_wait(WaitsFor::plain("slow reader"), below))?;
                Stage::Turn
            }
            Stage::Handlers { partial } => {
                let ended = self.poll_handlers_end(cx);
                ready!(note_wait(WaitsFor::plain("its handlers"), ended))?;
                return Poll::Ready(Err(if *partial {
                    CloseReason::Protocol("truncated")
                } else {
                    CloseReason::Peer
                }));
            }
        };
        *stage = next;
        Poll::Ready(Ok(false))
    }

    /// Writes what can be written now.
    fn flush_some(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        self.register(cx);
        // What the peer does not take now leaves later.
        let _ = self.poll_write(cx)?;
        self.conn.close_reason().map_or(Ok(()), Err)
    }
}
