//! The shop and the depot as async functions.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use waystation_net::{Label, WaitsFor, waiting};
use waystation_service::{Channel, Code, Ctx, Retry, Status};

use crate::demo::depot::{Depot, DepotClient};
use crate::demo::shop::{self, Shop};
use crate::demo::{
    Act, Noted, OrderReply, OrderRequest, Parcel, Receipt, Report, Reservation, Script,
};
use crate::event::{Event, PATIENCE};
use crate::states::Ordering;

/// Bytes that [`Act::Large`] adds.
const LARGE: usize = 20_000;

/// What a test sees and steers of handlers. Clones share it.
#[derive(Clone, Default)]
pub struct Stage {
    /// A script has begun.
    pub begun: Event,
    /// A script is over, and its future is gone.
    pub gone: Event,
    /// A handler stands at the gate.
    pub gated: Event,
    /// The test raises it to open the gate, for good.
    pub gate: Event,
    /// A note has arrived.
    pub noted: Event,
    /// How state machines ended: `None` for well.
    pub ends: Arc<Mutex<Vec<Option<Code>>>>,
}

impl Stage {
    /// How state machines ended so far: `None` for well.
    pub fn ends(&self) -> Vec<Option<Code>> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.clone()
    }

    async fn act(
        &self,
        ctx: &Ctx,
        script: Script,
        depot: Option<&DepotClient>,
    ) -> Result<Report, Status> {
        self.begun.raise();
        let _gone = Raise(&self.gone);
        let mut report = Report {
            sid: ctx.sid().to_string(),
            left_us: u64::try_from(ctx.time_left().as_micros()).unwrap_or(u64::MAX),
            ..Report::default()
        };
        ctx.set_state("acting");
        let mut traps = Vec::new();
        let mut acts = script.acts().collect::<Vec<_>>().into_iter();
        while let Some(act) = acts.next() {
            match act {
                Act::None => {}
                Act::Yield => ctx.shard().sleep(Duration::ZERO).await,
                Act::Gate => {
                    self.gated.raise();
                    waiting(WaitsFor::plain("gate"), self.gate.happened(1)).await;
                }
                Act::Forever => std::future::pending().await,
                Act::Sleep5Ms => ctx.shard().sleep(Duration::from_millis(5)).await,
                Act::Fail => return Err(Status::conflict("as it was told")),
                Act::Panic => panic!("as it was told"),
                Act::PanicInDrop => traps.push(Trap),
                Act::Block => self.block(),
                Act::KeepCtx => keep(ctx),
                Act::Leave => {
                    ctx.close_after_answer();
                    return Err(Status::conflict("as it was told"));
                }
                Act::Large => report.filler.push_str(&"x".repeat(LARGE)),
                Act::Push => {
                    let peer = ctx.peer().expect("scripts come from peers");
                    let pushed = shop::push_note(&peer, &Parcel::default());
                    let reason = pushed.err().map(|error| error.to_string());
                    report.push_error = reason.unwrap_or_default();
                }
                Act::Name => {
                    let peer = ctx.peer().expect("scripts come from peers");
                    peer.set_caller(&script.name);
                }
                Act::Call | Act::CallAgain => {
                    let rest = Script {
                        acts: acts.by_ref().map(i32::from).collect(),
                        name: script.name.clone(),
                    };
                    let depot = depot.expect("only the shop calls");
                    let told = if act == Act::Call {
                        depot.act(ctx, &rest).await?
                    } else {
                        let retry = Retry::idempotent();
                        ctx.retry(&retry, async || depot.act(ctx, &rest).await)
                            .await?
                    };
                    report.depot = Some(Box::new(told));
                }
            }
        }
        Ok(report)
    }

    /// Keeps this thread until the gate opens.
    fn block(&self) {
        self.gated.raise();
        let step = Duration::from_millis(1);
        let mut left = PATIENCE;
        while self.gate.count() == 0 && !left.is_zero() {
            std::thread::park_timeout(step);
            left = left.saturating_sub(step);
        }
    }
}

/// Keeps a request's context for as long as its shard runs.
fn keep(ctx: &Ctx) {
    let kept = ctx.clone();
    ctx.shard().spawn(Label::of("keeps a context"), async move {
        let _kept = kept;
        std::future::pending::<()>().await;
    });
}

struct Raise<'a>(&'a Event);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.raise();
    }
}

struct Trap;

impl Drop for Trap {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "as it was told, in a drop");
    }
}

/// The shop's handlers.
pub struct ShopService {
    stage: Stage,
    depot: DepotClient,
}

impl ShopService {
    /// A shop that asks the depot at the other end of `depot`.
    pub fn new(stage: Stage, depot: Channel) -> Self {
        Self {
            stage,
            depot: DepotClient::new(depot),
        }
    }

    /// One order as a state machine.
    pub fn ordering(self: &Rc<Self>) -> Ordering {
        Ordering::new(self.depot.clone(), self.stage.clone())
    }
}

impl Shop for ShopService {
    async fn order(&self, ctx: &Ctx, request: OrderRequest) -> Result<OrderReply, Status> {
        ctx.set_state("reserving");
        let time = match request.reserve_ms {
            0 => ctx.time_left(),
            ms => Duration::from_millis(u64::from(ms)),
        };
        let item = request.item.unwrap_or_default();
        let reservation = match self.depot.reserve(&ctx.within(time), &item).await {
            Ok(reservation) => reservation,
            Err(status)
                if status.code() == Code::DeadlineExceeded && !ctx.time_left().is_zero() =>
            {
                Reservation { number: 0 }
            }
            Err(status) => return Err(status),
        };
        ctx.set_state("charging");
        let receipt = self.depot.charge(ctx, &reservation).await?;
        Ok(OrderReply {
            reservation: reservation.number,
            receipt: receipt.number,
        })
    }

    async fn act(&self, ctx: &Ctx, request: Script) -> Result<Report, Status> {
        self.stage.act(ctx, request, Some(&self.depot)).await
    }

    async fn echo(&self, _: &Ctx, request: Parcel) -> Result<Parcel, Status> {
        Ok(request)
    }

    async fn note(&self, _: &Ctx, _: Parcel) -> Result<Noted, Status> {
        self.stage.noted.raise();
        Ok(Noted {})
    }
}

/// The depot's handlers.
pub struct DepotService {
    stage: Stage,
}

impl DepotService {
    /// A depot that is steered by `stage`.
    pub fn new(stage: Stage) -> Self {
        Self { stage }
    }
}

impl Depot for DepotService {
    async fn reserve(&self, _: &Ctx, request: crate::demo::Item) -> Result<Reservation, Status> {
        let number = request.name.len() as u64;
        Ok(Reservation { number })
    }

    async fn charge(&self, _: &Ctx, request: Reservation) -> Result<Receipt, Status> {
        let number = request.number + 1000;
        Ok(Receipt { number })
    }

    async fn act(&self, ctx: &Ctx, request: Script) -> Result<Report, Status> {
        self.stage.act(ctx, request, None).await
    }
}
