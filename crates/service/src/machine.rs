//! Requests as explicit state machines, for those who want to enumerate
//! states: on request, on each upstream answer, on timeout, end.
//!
//! They run over the same contexts, deadlines and calls as async functions.
//! A step's answer can only reach the step that asked for it: when a step
//! times out, its call is dropped, and with it any late answer.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use waystation_net::until;

use crate::ctx::Ctx;
use crate::limits::{MACHINE_STEPS, TIMEOUT_GRACE};
use crate::status::Status;

/// What a state machine does next.
pub enum Step<A, R> {
    /// Waits for an answer in this state.
    Wait {
        /// The state's name, shown in lists of contexts.
        state: &'static str,
        /// Time for this step; it never passes the request's own deadline.
        within: Option<Duration>,
        /// What is waited for, such as a client stub's call.
        answer: LocalBoxFuture<'static, A>,
    },
    /// Answers the request.
    Done(R),
    /// Refuses or fails the request.
    Fail(Status),
}

impl<A, R> Step<A, R> {
    /// Waits for `answer` in `state`.
    pub fn wait(state: &'static str, answer: impl Future<Output = A> + 'static) -> Self {
        Self::Wait {
            state,
            within: None,
            answer: Box::pin(answer),
        }
    }

    /// The same step with a time limit of its own.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        match self {
            Self::Wait { state, answer, .. } => Self::Wait {
                state,
                within: Some(time),
                answer,
            },
            other => other,
        }
    }
}

/// One request as a state machine. Calls come in this order: `on_request`,
/// then one of `on_answer` and `on_timeout` for each [`Step::Wait`], and
/// `on_end` once, with what was answered.
///
/// ```
/// # use waystation_service::{Method, MessageId, Router, RegisterError};
/// # #[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
/// # struct Text { #[prost(string, tag = "1")] text: String }
/// # macro_rules! method { ($marker:ident $name:literal) => {
/// #     struct $marker;
/// #     impl Method for $marker {
/// #         type Request = Text;
/// #         type Reply = Text;
/// #         const NAME: &'static str = $name;
/// #         const ID: MessageId = MessageId::of($name);
/// #         const IDEMPOTENT: bool = true;
/// #     }
/// # } }
/// # method!(Greet "demo.Hall/Greet");
/// # method!(LookUp "demo.Names/LookUp");
/// use std::time::Duration;
/// use waystation_service::{Channel, Ctx, StateMachine, Status, Step};
///
/// /// Greets by a name that is looked up, or without one when that is slow.
/// struct Greeting { names: Channel }
///
/// fn greet(name: &str) -> Step<Result<Text, Status>, Text> {
///     Step::Done(Text { text: format!("welcome, {name}") })
/// }
///
/// impl StateMachine for Greeting {
///     type Request = Text;
///     type Answer = Result<Text, Status>;
///     type Reply = Text;
///
///     fn on_request(&mut self, ctx: &Ctx, request: Text) -> Step<Self::Answer, Text> {
///         let (names, ctx) = (self.names.clone(), ctx.clone());
///         let name = async move { names.call::<LookUp>(&ctx, &request).await };
///         Step::wait("looking up", name).within(Duration::from_millis(50))
///     }
///
///     fn on_answer(&mut self, _: &Ctx, name: Self::Answer) -> Step<Self::Answer, Text> {
///         name.map_or_else(Step::Fail, |name| greet(&name.text))
///     }
///
///     fn on_timeout(&mut self, _: &Ctx) -> Step<Self::Answer, Text> {
///         greet("stranger")
///     }
/// }
///
/// fn routes(router: &mut Router, names: Channel) -> Result<(), RegisterError> {
///     router.machine::<Greet, _>(move || Greeting { names: names.clone() })
/// }
/// ```
pub trait StateMachine: Sized + 'static {
    /// The request's message.
    type Request: 'static;
    /// What steps wait for: usually an enum with a variant for each upstream.
    type Answer: 'static;
    /// The answer's message.
    type Reply: 'static;

    /// The request has arrived.
    fn on_request(&mut self, ctx: &Ctx, request: Self::Request) -> Step<Self::Answer, Self::Reply>;

    /// The answer that the current state waited for has arrived.
    fn on_answer(&mut self, ctx: &Ctx, answer: Self::Answer) -> Step<Self::Answer, Self::Reply>;

    /// The current state's answer did not come in time. When the request's
    /// own deadline has passed, only `Done` and `Fail` are still possible, and
    /// a `Wait` fails the request.
    fn on_timeout(&mut self, ctx: &Ctx) -> Step<Self::Answer, Self::Reply> {
        Step::Fail(Status::deadline_exceeded(format!(
            "{ctx:?} missed its deadline"
        )))
    }

    /// The request has ended so: called exactly once for each `on_request`,
    /// also when the request was cancelled or the machine panicked.
    fn on_end(&mut self, ctx: &Ctx, outcome: Result<&Self::Reply, &Status>) {
        let _ = (ctx, outcome);
    }
}

/// Tells the machine of its end in whatever way it ends.
struct Ending<S: StateMachine> {
    machine: S,
    ctx: Ctx,
    ended: bool,
}

impl<S: StateMachine> Ending<S> {
    fn end(&mut self, outcome: Result<&S::Reply, &Status>) {
        if !self.ended {
            self.ended = true;
            self.machine.on_end(&self.ctx, outcome);
        }
    }
}

impl<S: StateMachine> Drop for Ending<S> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let status = match self.ctx.ended_as() {
            Some(status) => status.clone(),
            None if std::thread::panicking() => Status::internal("the state machine panicked"),
            None => Status::cancelled("the request was dropped"),
        };
        // A machine that has just panicked may well panic again in its end,
        // which would end the process if it left this drop.
        let end = AssertUnwindSafe(|| self.end(Err(&status)));
        if catch_unwind(end).is_err() {
            let _ = self.ctx.panicked();
        }
    }
}

/// The step after a timeout. When no time is left for another wait, what it
/// would wait for is not even begun.
fn timed_out<S: StateMachine>(machine: &mut S, ctx: &Ctx) -> Step<S::Answer, S::Reply> {
    match machine.on_timeout(ctx) {
        Step::Wait { state, .. } if ctx.time_left().is_zero() => Step::Fail(
            Status::deadline_exceeded(format!("no time is left to wait in `{state}`")),
        ),
        step => step,
    }
}

/// Runs a state machine over one request.
pub(crate) async fn drive<S: StateMachine>(
    machine: S,
    ctx: Ctx,
    request: S::Request,
) -> Result<S::Reply, Status> {
    ctx.allow_grace(TIMEOUT_GRACE);
    let mut run = Ending {
        machine,
        ctx: ctx.clone(),
        ended: false,
    };
    let mut step = run.machine.on_request(&ctx, request);
    for _ in 0..MACHINE_STEPS {
        let (state, within, answer) = match step {
            Step::Done(reply) => {
                run.end(Ok(&reply));
                return Ok(reply);
            }
            Step::Fail(status) => {
                run.end(Err(&status));
                return Err(status);
            }
            Step::Wait {
                state,
                within,
                answer,
            } => (state, within, answer),
        };
        ctx.set_state(state);
        let at = within.map_or(ctx.deadline(), |time| {
            (ctx.shard().now() + time).min(ctx.deadline())
        });
        // `until` drops a late call before the machine moves on.
        let result = until(ctx.shard(), at, answer).await;
        step = match result {
            Ok(answer) => run.machine.on_answer(&ctx, answer),
            Err(_) => timed_out(&mut run.machine, &ctx),
        };
    }
    let status = Status::internal(format!(
        "a state machine took more than {MACHINE_STEPS} steps"
    ));
    run.end(Err(&status));
    Err(status)
}
