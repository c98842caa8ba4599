//! Whole processes on streams in memory.

use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use waystation_base::ShardId;
use waystation_net::{Address, Faults, Label, MemoryIo, NetConfig, Shard};
use waystation_service::limits::REQUESTS_IN_FLIGHT;
use waystation_service::{App, AppBuilder, Channel, RegisterError, Router};

use crate::demo::{depot, shop, shop_by_states};
use crate::event::PATIENCE;
use crate::services::{DepotService, ShopService, Stage};

/// A network in memory without faults.
pub fn memory() -> MemoryIo {
    MemoryIo::new(0, Faults::default())
}

/// Settings of a process on this network, with one shard.
pub fn config(io: &MemoryIo) -> NetConfig {
    NetConfig {
        io: Arc::new(io.clone()),
        ..NetConfig::default()
    }
}

fn listen(
    name: &str,
    config: NetConfig,
    routes: impl Fn(&mut Router) -> Result<(), RegisterError> + Send + Sync + 'static,
) -> AppBuilder {
    App::builder(format!("{name}-1"), config).listen(Address::Memory(name.to_owned()), routes)
}

/// A shop that listens on `shop` and asks the depot `depot`.
pub fn shop(io: &MemoryIo, stage: &Stage) -> AppBuilder {
    shop_with(io, stage, |_| ())
}

/// Like [`shop()`], with more settings of its router.
pub fn shop_with(
    io: &MemoryIo,
    stage: &Stage,
    settings: impl Fn(&mut Router) + Send + Sync + 'static,
) -> AppBuilder {
    shop_under(config(io), stage, settings)
}

/// Like [`shop_with`], under other settings of its process.
pub fn shop_under(
    config: NetConfig,
    stage: &Stage,
    settings: impl Fn(&mut Router) + Send + Sync + 'static,
) -> AppBuilder {
    let stage = stage.clone();
    listen("shop", config, move |router| {
        router.websocket("/ws");
        router.limits(REQUESTS_IN_FLIGHT, PATIENCE);
        let depot = Channel::new(router.shard(), Address::Memory("depot".to_owned()));
        let service = Rc::new(ShopService::new(stage.clone(), depot));
        let by_states = service.clone();
        router.machine::<shop_by_states::method::Order, _>(move || by_states.ordering())?;
        settings(router);
        shop::register(router, service)
    })
}

/// A depot that listens on `depot`.
pub fn depot(io: &MemoryIo, stage: &Stage) -> AppBuilder {
    let stage = stage.clone();
    listen("depot", config(io), move |router| {
        depot::register(router, Rc::new(DepotService::new(stage.clone())))
    })
}

/// A process that only calls.
///
/// # Panics
/// When it does not start.
pub fn client(io: &MemoryIo) -> App {
    let started = App::builder("client-1", config(io)).start();
    started.expect("a process without listeners starts")
}

/// Runs `work` on the first shard of a process and waits for its result.
///
/// # Panics
/// When it does not end within [`PATIENCE`].
#[track_caller]
pub fn run_on<T: Send + 'static, F: Future<Output = T> + 'static>(
    app: &App,
    work: impl FnOnce(Shard) -> F + Send + 'static,
) -> T {
    let (tx, rx) = mpsc::channel();
    let job = move |shard: &Shard| {
        let work = work(shard.clone());
        shard.spawn(Label::of("test"), async move {
            let result = work.await;
            // The test may have given up.
            let _ = tx.send(result);
        });
    };
    app.server()
        .remote()
        .run_on(ShardId(0), job)
        .expect("the shard runs");
    rx.recv_timeout(PATIENCE)
        .expect("the work on the shard ends in time")
}
