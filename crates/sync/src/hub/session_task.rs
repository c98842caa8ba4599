//! The task of a site, and the one that writes to it.

use std::rc::Rc;
use std::sync::Arc;

use waystation_base::MessageId;
use waystation_net::{CloseReason, Conn, SendError};
use waystation_replica::{Notice, Session, SessionOutput, Unread, Welcome};
use waystation_wire::{Header, encode_into, frames_len};

use super::letters::ToDesk;
use super::sessions::{Input, Seat, Sessions};
use crate::codec::{FromHub, for_each_piece, id};
use crate::log::ReadError;

/// Runs a session from its welcome to the end of its connection.
pub(super) async fn run(sessions: Rc<Sessions>, seat: Rc<Seat>, welcome: Welcome) {
    let shard = &sessions.shard;
    let mut session = Session::new(shard.now(), welcome, sessions.config.clone());
    while !seat.is_over.get() {
        while let Some(output) = session.poll_output() {
            perform(&sessions, &seat, output);
        }
        let now = shard.now();
        let wake = session.poll_timeout();
        let sleep = shard.sleep_until(wake.unwrap_or(now + sessions.config.silence_max));
        tokio::select! {
            biased;
            () = seat.woken.notified() => {}
            () = sleep => {}
        }
        let now = shard.now();
        loop {
            let Some(input) = seat.inputs.borrow_mut().pop_front() else {
                break;
            };
            match input {
                Input::Message(message) => session.handle_message(now, message),
                Input::Notice(notice) => session.handle_notice(now, notice),
                Input::Read(Ok(entries)) => session.handle_read(now, entries),
                Input::Read(Err(unread)) => session.handle_unread(now, &unread),
                Input::Say(message) => seat.send(message),
            }
        }
        // After the inputs: a proof wants nothing sent before it that is later.
        if let Some(end) = seat.end.take() {
            session.handle_notice(now, Notice::End(end));
        }
        if session.poll_timeout().is_some_and(|at| at <= now) {
            session.handle_timeout(now);
        }
    }
}

fn perform(sessions: &Rc<Sessions>, seat: &Rc<Seat>, output: SessionOutput) {
    match output {
        SessionOutput::Send(message) => seat.send(FromHub::Core(message)),
        SessionOutput::Report(report) => {
            let letter = ToDesk::Report(seat.conn.name(), report);
            sessions.tell(&seat.conn, letter);
        }
        SessionOutput::Close(refusal) => {
            seat.refuse(refusal);
            sessions.tell(&seat.conn, ToDesk::Lost(seat.conn.name()));
        }
        SessionOutput::Read {
            after,
            through,
            bytes_max,
        } => {
            if let Some(entries) = sessions.tail.read(after, through, bytes_max) {
                return put(seat, Ok(entries));
            }
            let reader = sessions.tail.reader();
            let (shard, seat) = (sessions.shard.clone(), Rc::clone(seat));
            let label = waystation_net::Label::of("sync read");
            sessions.shard.spawn(label, async move {
                let read = move || reader.read(after, through, bytes_max);
                let found = match shard.offload("read the log", read).await {
                    Ok(Ok(entries)) if !entries.is_empty() => Ok(entries.into()),
                    Ok(Err(ReadError::Trimmed { start })) => Err(Unread::Trimmed { start }),
                    Ok(Err(error)) => {
                        tracing::error!(%error, "cannot read the log");
                        Err(Unread::Failed)
                    }
                    Ok(Ok(_)) | Err(_) => Err(Unread::Failed),
                };
                put(&seat, found);
            });
        }
    }
}

fn put(seat: &Seat, found: Result<Arc<[Arc<waystation_replica::Entry>]>, Unread>) {
    // One read is asked for at a time, so that this needs no bound.
    seat.inputs.borrow_mut().push_back(Input::Read(found));
    seat.woken.notify_one();
}

/// Writes what is to be written, as fast as the peer reads, until the end.
pub(super) async fn write(seat: Rc<Seat>) {
    while !seat.is_over.get() {
        let next = seat.out.borrow_mut().pop_front();
        match next {
            Some(message) => {
                let written = write_message(&seat.conn, id::TO_SITE, &message.encode()).await;
                if written.is_err() {
                    return seat.conn.close(CloseReason::SlowReader);
                }
            }
            None if seat.is_closing.get() => return seat.conn.close(CloseReason::Local),
            None => seat.out_woken.notified().await,
        }
    }
}

/// Writes a message in pieces, each once the peer has taken most of those before.
pub(crate) async fn write_message(
    conn: &Conn,
    message: MessageId,
    bytes: &[u8],
) -> Result<(), SendError> {
    let header = Header::push(message);
    for (head, piece) in for_each_piece(bytes) {
        let mut body = Vec::with_capacity(piece.len() + 1);
        body.push(head);
        body.extend_from_slice(piece);
        conn.writable().await?;
        conn.send_with(frames_len(body.len()), |out| {
            // A piece is far below the bound of a message.
            let _ = encode_into(&header, &body, out);
        })?;
    }
    Ok(())
}
