//! Streams of a split server: their sockets stay on the I/O shards.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;
use waystation_base::ShardId;

use super::lanes::Outbox;
use super::pipe::Pipe;
use super::pump::Pump;
use super::stream::DetachedSplit;
use super::{MakeHeartbeat, datagrams};
use crate::io::{
    Address, Connecting, DatagramBounds, DatagramOptions, Datagrams, DetachedDatagrams,
    DetachedListener, DetachedStream, Io, Stream,
};
use crate::shard::{Label, Remote, Shard};

/// Connects on the I/O shards, in turn, for the workers.
pub(crate) struct SplitIo {
    inner: Arc<dyn Io>,
    /// Reaches the I/O shards.
    remote: Remote,
    window: usize,
    next: AtomicUsize,
}

impl SplitIo {
    pub(crate) fn new(inner: Arc<dyn Io>, remote: Remote, window: usize) -> Self {
        Self {
            inner,
            remote,
            window,
            next: AtomicUsize::new(0),
        }
    }

    /// The I/O shard whose turn it is.
    fn next(&self) -> ShardId {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.remote.shards();
        ShardId(u16::try_from(next).unwrap_or(0))
    }
}

impl Io for SplitIo {
    fn listen(&self, address: &Address) -> io::Result<Box<dyn DetachedListener>> {
        self.inner.listen(address)
    }

    fn connect(&self, address: &Address) -> Connecting {
        let shard = self.next();
        let (mut done, connected) = oneshot::channel::<io::Result<DetachedSplit>>();
        let (inner, address, window) = (self.inner.clone(), address.clone(), self.window);
        let posted = self.remote.run_on(shard, move |shard| {
            let connecting = inner.connect(&address);
            let task_shard = shard.clone();
            shard.spawn(Label::of("connect"), async move {
                let result = tokio::select! {
                    biased;
                    // The caller's deadline has passed.
                    () = done.closed() => return,
                    stream = connecting => stream,
                };
                let split = result.and_then(|stream| split(&task_shard, stream, window));
                // A caller that has gone drops its end, which closes the socket.
                let _ = done.send(split);
            });
        });
        Box::pin(async move {
            posted.map_err(io::Error::other)?;
            let lost = |_| io::Error::other("the I/O shard has ended");
            let split = connected.await.map_err(lost)??;
            Box::new(split).attach()
        })
    }

    // Made by whoever asks, since its address is the answer; used by an I/O
    // shard from then on.
    fn bind_datagrams(
        &self,
        address: &Address,
        options: &DatagramOptions,
    ) -> io::Result<Box<dyn DetachedDatagrams>> {
        self.inner.bind_datagrams(address, options)
    }

    fn connect_datagrams(&self, to: &Address) -> io::Result<Box<dyn DetachedDatagrams>> {
        self.inner.connect_datagrams(to)
    }

    fn attach_datagrams(
        &self,
        socket: Box<dyn DetachedDatagrams>,
        bounds: DatagramBounds,
    ) -> io::Result<Box<dyn Datagrams>> {
        let (here, there) = datagrams::ends(bounds)?;
        let posted = self
            .remote
            .run_on(self.next(), move |shard| there.serve(shard, socket));
        posted.map_err(io::Error::other)?;
        Ok(Box::new(here))
    }
}

/// Puts a pipe before a stream of this I/O shard.
fn split(shard: &Shard, stream: Box<dyn Stream>, window: usize) -> io::Result<DetachedSplit> {
    let outbox = Outbox::current().ok_or_else(|| io::Error::other("this is no I/O shard"))?;
    let pipe = Pipe::new(stream.peer(), window, outbox.home());
    let pump = Pump::new(shard, outbox, pipe.clone(), stream, None);
    shard.spawn(Label::of("socket"), pump.run());
    Ok(DetachedSplit::new(pipe, false))
}

/// Serves an accepted stream on this I/O shard; the answer is its worker's
/// end.
pub(crate) fn serve_accepted(
    shard: &Shard,
    stream: Box<dyn DetachedStream>,
    make_heartbeat: MakeHeartbeat,
) -> io::Result<Box<dyn DetachedStream>> {
    let stream = stream.attach()?;
    let outbox = Outbox::current().ok_or_else(|| io::Error::other("this is no I/O shard"))?;
    let window = shard.config().connection.input_queue;
    let heartbeat = make_heartbeat();
    let answers = heartbeat.is_some();
    let pipe = Pipe::new(stream.peer(), window, outbox.home());
    let pump = Pump::new(shard, outbox, pipe.clone(), stream, heartbeat);
    shard.spawn(Label::of("socket"), pump.run());
    Ok(Box::new(DetachedSplit::new(pipe, answers)))
}
