//! Parts of a request on other shards of the process.

use std::future::Future;

use tokio::sync::oneshot;
use waystation_base::{Moment, ShardId, Sid, TraceId};
use waystation_net::{Label, RemoteError, Shard, WaitsFor, waiting};

use crate::contexts::Contexts;
use crate::ctx::{Ctx, Opening};
use crate::status::Status;

/// What travels of a context.
struct Part {
    sid: Sid,
    trace: TraceId,
    method: Label,
    deadline: Moment,
}

impl Part {
    fn open(&self, shard: &Shard) -> Ctx {
        let opening = Opening {
            sid: Some(self.sid),
            trace: self.trace,
            method: self.method,
            deadline_left: Some(self.deadline.saturating_since(shard.now())),
            conn: None,
        };
        Ctx::open(shard, &Contexts::of(shard), opening, None)
    }
}

impl Ctx {
    /// Does a part of this request on another shard of the process, under the
    /// same id and deadline, and gives its answer. `work` gets a context of
    /// that shard, which has no peer; what it makes stays there. On the shard
    /// of this context the part runs here and now.
    ///
    /// Dropping the future ends the part, as the end of the request does, and a
    /// drain waits for it. Parts from one shard to another begin in the order
    /// in which they were asked for. A part counts as a request of the shard
    /// that it came from, whose bounds therefore hold for it.
    ///
    /// Cost: a box, a message each way, and a thread's wake-up where the other
    /// one sleeps.
    ///
    /// # Errors
    /// What the part answers; [`Status`] `overloaded` or `unavailable` when the
    /// shard does not take it, so that nothing was begun; `outcome_unknown` when
    /// the shard ended before the part did.
    pub async fn on_shard<T, F>(
        &self,
        to: ShardId,
        work: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + 'static,
    {
        if to == self.shard().id() {
            return work(self.clone()).await;
        }
        let part = Part {
            sid: self.sid(),
            trace: self.trace(),
            method: self.shared.method,
            deadline: self.deadline(),
        };
        let (tell, told) = oneshot::channel();
        let begin = move |shard: &Shard| begin(shard, &part, work, tell);
        let sent = self.shard().remote().run_on(to, begin);
        sent.map_err(|error| match error {
            RemoteError::Full(_) => Status::overloaded(error.to_string()),
            _ => Status::unavailable(error.to_string()),
        })?;
        let reason = WaitsFor {
            what: "another shard for",
            of: self.shared.method,
        };
        let ended = |_| Status::outcome_unknown(format!("shard {to} ended before it answered"));
        waiting(reason, told).await.map_err(ended)?
    }
}

/// Starts a part on this shard.
fn begin<T, F>(
    shard: &Shard,
    part: &Part,
    work: impl FnOnce(Ctx) -> F + 'static,
    mut tell: oneshot::Sender<Result<T, Status>>,
) where
    T: 'static,
    F: Future<Output = Result<T, Status>> + 'static,
{
    let (ctx, guard) = (part.open(shard), shard.work_guard());
    shard.spawn(part.method, async move {
        let _guard = guard;
        let own = ctx.clone();
        // Within, so that its panic is the part's.
        let working = ctx.run(async move { work(own).await });
        let answer = tokio::select! {
            answer = working => Some(answer),
            () = tell.closed() => None,
        };
        ctx.leave();
        if let Some(answer) = answer {
            // Whoever asked may have given up in this moment.
            let _ = tell.send(answer);
        }
    });
}
