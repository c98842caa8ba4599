//! Publishes a second, and what the disk allows.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use waystation_base::{Moment, ShardId};
use waystation_net::{Address, Label, NetConfig, Server, Shard};
use waystation_sync::client::Publisher;

use super::stores::Store;
use super::{Load, WAIT};
use crate::stats::number;
use crate::timing::now;

/// Bytes of an entry.
const PAYLOAD_BYTES: usize = 256;

/// Before anything is counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// What one side did under one load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// What the tasks of one load share.
#[derive(Default)]
struct Shared {
    is_counted: Cell<bool>,
    is_over: Cell<bool>,
    took_us: RefCell<Vec<f64>>,
    failed: RefCell<Option<String>>,
}

/// Publishes to a hub over a store.
///
/// # Errors
/// The hub does not start, or refuses.
pub(crate) fn measure(store: Store, load: Load, window: Duration) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let hub = store.hub(folder.path())?;
    let address = hub.address().clone();
    let client = Server::builder(NetConfig::default()).start()?;
    let asked = client
        .remote()
        .ask(ShardId(0), window + WAIT, move |shard| {
            let shard = shard.clone();
            Box::pin(async move { publish(shard, address, load, window).await })
        });
    client.drain();
    hub.drain();
    let (mut took, over) = asked?.map_err(|error| anyhow!(error))?;
    ensure!(!took.is_empty(), "nothing was published");
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100).max(1) - 1];
    Ok(Figures {
        per_second: number(took.len() as u64) / over.as_secs_f64(),
        p50_us: at(50),
        p99_us: at(99),
    })
}

type Published = Result<(Vec<f64>, Duration), String>;

async fn publish(shard: Shard, hub: Address, load: Load, window: Duration) -> Published {
    let shared = Rc::new(Shared::default());
    for _ in 0..load.connections {
        let publisher = Publisher::new(&shard, hub.clone());
        for _ in 0..load.outstanding {
            let (publisher, shared, shard) = (publisher.clone(), Rc::clone(&shared), shard.clone());
            let label = Label::of("publish");
            shard.clone().spawn(label, async move {
                repeat(&shard, &publisher, &shared).await;
            });
        }
    }
    shard.sleep(WARM_UP).await;
    let began = now();
    shared.is_counted.set(true);
    shard.sleep(window).await;
    shared.is_counted.set(false);
    let over = now().saturating_since(began);
    shared.is_over.set(true);
    if let Some(error) = shared.failed.take() {
        return Err(error);
    }
    Ok((shared.took_us.take(), over))
}

async fn repeat(shard: &Shard, publisher: &Publisher, shared: &Shared) {
    let payload = [7; PAYLOAD_BYTES];
    while !shared.is_over.get() {
        let began = now();
        let deadline: Moment = shard.now() + WAIT;
        if let Err(error) = publisher.publish(None, &payload, deadline).await {
            if !shared.is_over.get() {
                shared.failed.replace(Some(error.to_string()));
            }
            return;
        }
        if shared.is_counted.get() {
            let took = now().saturating_since(began);
            shared.took_us.borrow_mut().push(took.as_secs_f64() * 1e6);
        }
    }
}

/// How often a second 256 B can be written and synced, one after another.
///
/// # Errors
/// The disk.
pub(crate) fn fdatasync(window: Duration) -> Result<f64> {
    const LENGTH: u64 = 16 << 20;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("raw");
    std::fs::write(&path, vec![0; usize::try_from(LENGTH)?])?;
    let file = OpenOptions::new().write(true).open(path)?;
    file.sync_all()?;
    let bytes = [7; PAYLOAD_BYTES];
    let (began, mut count, mut at) = (now(), 0_u64, 0);
    while now().saturating_since(began) < window {
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        at = (at + bytes.len() as u64) % LENGTH;
        count += 1;
    }
    Ok(number(count) / now().saturating_since(began).as_secs_f64())
}
