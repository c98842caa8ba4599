//! State machines at their edges. What they share with async functions is in
//! `steps`.

use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use waystation_base::CallId;
use waystation_net::{Address, MemoryIo};
use waystation_service::{App, Code, Ctx, Method, StateMachine, Status, Step};
use waystation_service_check::demo::Parcel;
use waystation_service_check::demo::shop::method::Echo;
use waystation_service_check::{
    Event, NativePeer, PATIENCE, block_on, config, memory, with_deadlines,
};
use waystation_wire::Header;

/// What a machine is to do, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    /// Waits for what never comes, and again after each timeout.
    WaitForEver,
    /// As above, with a step that is longer than the whole request.
    WaitTooLong,
    /// Goes from step to step without end.
    Spin,
    PanicAtOnce,
    PanicOnAnswer,
    /// As above, and then again in its end.
    PanicTwice,
    /// Ends well.
    Finish,
}

/// What has happened to machines. Clones share it.
#[derive(Clone, Default)]
struct Seen {
    waits_begun: Event,
    waits_dropped: Event,
    timeouts: Event,
    ends: Arc<Mutex<Vec<Option<Code>>>>,
    ended: Event,
}

struct Machine {
    plan: Plan,
    seen: Seen,
}

struct Dropped(Event);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.raise();
    }
}

impl Machine {
    fn wait_for_ever(&self) -> Step<(), Parcel> {
        let seen = self.seen.clone();
        Step::wait("waiting", async move {
            seen.waits_begun.raise();
            let _dropped = Dropped(seen.waits_dropped);
            std::future::pending::<()>().await;
        })
    }
}

impl StateMachine for Machine {
    type Request = Parcel;
    type Answer = ();
    type Reply = Parcel;

    fn on_request(&mut self, _: &Ctx, _: Parcel) -> Step<(), Parcel> {
        match self.plan {
            Plan::WaitForEver => self.wait_for_ever(),
            Plan::WaitTooLong => self.wait_for_ever().within(Duration::from_secs(1000)),
            Plan::PanicAtOnce => panic!("as planned"),
            _ => Step::wait("one", ready(())),
        }
    }

    fn on_answer(&mut self, _: &Ctx, (): ()) -> Step<(), Parcel> {
        match self.plan {
            Plan::Spin => Step::wait("another", ready(())),
            Plan::Finish => Step::Done(Parcel::default()),
            _ => panic!("as planned"),
        }
    }

    fn on_timeout(&mut self, _: &Ctx) -> Step<(), Parcel> {
        let (begun, dropped) = (
            self.seen.waits_begun.count(),
            self.seen.waits_dropped.count(),
        );
        assert_eq!(
            begun, dropped,
            "what was waited for is gone before the next step"
        );
        self.seen.timeouts.raise();
        self.wait_for_ever()
    }

    fn on_end(&mut self, _: &Ctx, outcome: Result<&Parcel, &Status>) {
        self.seen
            .ends
            .lock()
            .unwrap()
            .push(outcome.err().map(Status::code));
        self.seen.ended.raise();
        assert!(self.plan != Plan::PanicTwice, "as planned, once more");
    }
}

fn machines(io: &MemoryIo, plan: Plan, seen: &Seen) -> App {
    let seen = seen.clone();
    let app = App::builder("machines-1", config(io));
    let app = app.listen(Address::Memory("machines".to_owned()), move |router| {
        let seen = seen.clone();
        router.machine::<Echo, _>(move || Machine {
            plan,
            seen: seen.clone(),
        })
    });
    app.start().unwrap()
}

/// Runs one request through a machine with this plan.
fn run(plan: Plan, deadline: Duration) -> (Result<Parcel, Code>, Seen) {
    let (io, seen) = (memory(), Seen::default());
    let app = machines(&io, plan, &seen);
    let answer = block_on(async {
        let mut peer = NativePeer::dial(&io, "machines");
        let header = Header::request(Echo::ID, CallId(1)).with_deadline_left(Some(deadline));
        peer.send(&header, &[]).await;
        peer.answer::<Echo>().await.1
    });
    app.drain();
    (answer, seen)
}

/// A machine that waited again after its request's deadline began one call
/// after another, a thousand in all, each to be dropped at once.
#[test]
fn no_wait_is_begun_after_the_deadline() {
    for plan in [Plan::WaitForEver, Plan::WaitTooLong] {
        with_deadlines(|deadline| {
            let (answer, seen) = run(plan, deadline);
            assert_eq!(answer, Err(Code::DeadlineExceeded), "{plan:?}");
            let begun = seen.waits_begun.count();
            if begun == 1 {
                assert_eq!(seen.timeouts.count(), 1, "{plan:?}");
                let ends = seen.ends.lock().unwrap();
                assert_eq!(*ends, [Some(Code::DeadlineExceeded)], "{plan:?}");
            }
            assert!(begun <= 1, "{plan:?}: {begun}");
            begun == 1
        });
    }
}

#[test]
fn a_machine_that_goes_round_in_circles_is_ended() {
    let (answer, seen) = run(Plan::Spin, PATIENCE);
    assert_eq!(answer, Err(Code::Internal));
    assert_eq!(*seen.ends.lock().unwrap(), [Some(Code::Internal)]);
}

/// The end of a machine that has panicked runs while its task unwinds. When
/// it panicked, too, the whole process was aborted.
#[test]
fn a_machine_that_panics_in_its_end_as_well_ends_alone() {
    for plan in [Plan::PanicAtOnce, Plan::PanicOnAnswer, Plan::PanicTwice] {
        let (answer, seen) = run(plan, PATIENCE);
        assert_eq!(answer, Err(Code::Internal), "{plan:?}");
        assert_eq!(
            *seen.ends.lock().unwrap(),
            [Some(Code::Internal)],
            "{plan:?}"
        );
    }
}

#[test]
fn a_machine_that_ends_well_is_told_so_once() {
    let (answer, seen) = run(Plan::Finish, PATIENCE);
    assert_eq!(answer, Ok(Parcel::default()));
    assert_eq!(*seen.ends.lock().unwrap(), [None]);
}

#[test]
fn a_cancelled_machine_is_told_of_its_end_once() {
    let (io, seen) = (memory(), Seen::default());
    let app = machines(&io, Plan::WaitForEver, &seen);
    block_on(async {
        let mut peer = NativePeer::dial(&io, "machines");
        peer.request::<Echo>(1, &Parcel::default()).await;
        seen.waits_begun.happened(1).await;
        peer.cancel(1).await;
        seen.ended.happened(1).await;
    });
    app.drain();
    assert_eq!(*seen.ends.lock().unwrap(), [Some(Code::Cancelled)]);
    assert_eq!(seen.waits_dropped.count(), 1);
}
