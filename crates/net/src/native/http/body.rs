//! The body of an answer, whole or piece by piece.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::LocalBoxStream;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::limit::State;
use crate::conn::Conn;

/// The body of an answer.
pub(super) enum AnswerBody {
    Whole(Full<Bytes>),
    Pieces(Pieces),
}

/// A body whose end is not known yet.
pub(super) struct Pieces {
    conn: Conn,
    state: Rc<State>,
    /// None after the last piece.
    rest: Option<LocalBoxStream<'static, Bytes>>,
}

impl AnswerBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }

    pub(super) fn pieces(
        conn: &Conn,
        state: &Rc<State>,
        pieces: LocalBoxStream<'static, Bytes>,
    ) -> Self {
        Self::Pieces(Pieces {
            conn: conn.clone(),
            state: Rc::clone(state),
            rest: Some(pieces),
        })
    }

    pub(super) const fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

impl Pieces {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        // The driver of the connection polls this when the process goes away.
        if !self.conn.is_draining()
            && let Some(piece) = ready!(rest.as_mut().poll_next(cx))
        {
            return Poll::Ready(Some(piece));
        }
        self.rest = None;
        self.conn.shard().counters().messages_out.add(1);
        // The mark of the end is written behind this, in the same turn.
        self.state.answered();
        Poll::Ready(None)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Pieces(pieces) => {
                let piece = ready!(pieces.poll_next(cx));
                Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}
