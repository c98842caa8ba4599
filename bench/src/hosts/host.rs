//! One instance, as a process.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Semaphore;
use waystation_base::{MessageId, Rng};
use waystation_net::{Address, NetConfig, Termination};
use waystation_service::{App, Ctx, Method, Status};

/// Calls that an instance works on at a time.
const PERMITS: usize = 4;

/// The other processes of `bench hosts`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HostArgs {
    /// Which it is
    #[arg(long)]
    number: u32,
    /// The mean time of a call
    #[arg(long)]
    work_us: u32,
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
}

/// A call, and the number of who answers it.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
pub(super) struct Number {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
}

/// What the instances do.
pub(super) struct Work;

impl Method for Work {
    type Request = Number;
    type Reply = Number;
    const NAME: &'static str = "bench.Hosts/Work";
    const ID: MessageId = MessageId::of(Self::NAME);
    const IDEMPOTENT: bool = true;
}

/// What one thread has.
struct Desk {
    turns: Semaphore,
    rng: RefCell<Rng>,
    work_us: u32,
}

/// Serves until the process is killed.
///
/// # Errors
/// It cannot.
pub(crate) fn run_host(args: &HostArgs) -> Result<()> {
    let HostArgs {
        number, work_us, ..
    } = *args;
    let app = App::builder(format!("host-{number}"), NetConfig::default())
        .on_shard(move |shard| {
            shard.set_extension(Rc::new(Desk {
                turns: Semaphore::new(PERMITS),
                rng: RefCell::new(Rng::from_seed(number.into())),
                work_us,
            }));
        })
        .listen(Address::Tcp(args.listen), move |router| {
            router.method::<Work, _>(move |ctx: Ctx, _: Number| work(ctx, number))
        })
        .start()?;
    let signals = Termination::catch()?;
    println!("listening on {}", app.server().addresses()[0]);
    app.run(signals);
    Ok(())
}

async fn work(ctx: Ctx, number: u32) -> Result<Number, Status> {
    let desk = ctx.shard().extension::<Desk>();
    let desk = desk.ok_or_else(|| Status::unavailable("no desk"))?;
    let turn = desk.turns.acquire().await;
    let turn = turn.map_err(|error| Status::unavailable(error.to_string()))?;
    let seconds = desk
        .rng
        .borrow_mut()
        .exponential(f64::from(desk.work_us) / 1e6);
    ctx.shard().sleep(Duration::from_secs_f64(seconds)).await;
    drop(turn);
    Ok(Number { number })
}
