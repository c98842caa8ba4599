//! The shop's order as a state machine.

use std::sync::PoisonError;
use std::time::Duration;

use waystation_service::{Ctx, StateMachine, Status, Step};

use crate::demo::depot::DepotClient;
use crate::demo::{OrderReply, OrderRequest, Receipt, Reservation};
use crate::services::Stage;

/// One order: `reserving`, then `charging`.
pub struct Ordering {
    depot: DepotClient,
    stage: Stage,
    reservation: Option<Reservation>,
}

/// What the depot answers to a step.
pub enum FromDepot {
    /// To `reserving`.
    Reserved(Result<Reservation, Status>),
    /// To `charging`.
    Charged(Result<Receipt, Status>),
}

impl Ordering {
    pub(crate) fn new(depot: DepotClient, stage: Stage) -> Self {
        Self {
            depot,
            stage,
            reservation: None,
        }
    }

    fn charge(&mut self, ctx: &Ctx, reservation: Reservation) -> Step<FromDepot, OrderReply> {
        self.reservation = Some(reservation);
        let (depot, ctx) = (self.depot.clone(), ctx.clone());
        Step::wait("charging", async move {
            FromDepot::Charged(depot.charge(&ctx, &reservation).await)
        })
    }
}

impl StateMachine for Ordering {
    type Request = OrderRequest;
    type Answer = FromDepot;
    type Reply = OrderReply;

    fn on_request(&mut self, ctx: &Ctx, request: OrderRequest) -> Step<FromDepot, OrderReply> {
        let (depot, ctx) = (self.depot.clone(), ctx.clone());
        let item = request.item.unwrap_or_default();
        let reserving = Step::wait("reserving", async move {
            FromDepot::Reserved(depot.reserve(&ctx, &item).await)
        });
        match request.reserve_ms {
            0 => reserving,
            ms => reserving.within(Duration::from_millis(u64::from(ms))),
        }
    }

    fn on_answer(&mut self, ctx: &Ctx, answer: FromDepot) -> Step<FromDepot, OrderReply> {
        match answer {
            FromDepot::Reserved(Ok(reservation)) => self.charge(ctx, reservation),
            FromDepot::Charged(Ok(receipt)) => Step::Done(OrderReply {
                reservation: self.reservation.map_or(0, |reservation| reservation.number),
                receipt: receipt.number,
            }),
            FromDepot::Reserved(Err(status)) | FromDepot::Charged(Err(status)) => {
                Step::Fail(status)
            }
        }
    }

    fn on_timeout(&mut self, ctx: &Ctx) -> Step<FromDepot, OrderReply> {
        if self.reservation.is_none() && !ctx.time_left().is_zero() {
            return self.charge(ctx, Reservation { number: 0 });
        }
        Step::Fail(Status::deadline_exceeded("the depot did not answer"))
    }

    fn on_end(&mut self, _: &Ctx, outcome: Result<&OrderReply, &Status>) {
        let mut ends = self
            .stage
            .ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ends.push(outcome.err().map(Status::code));
    }
}
