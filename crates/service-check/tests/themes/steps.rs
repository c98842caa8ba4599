//! A request in steps: what the answers, the losses and the silences of a
//! callee do to it, as an async function and as a state machine.

use std::cell::Cell;
use std::time::Duration;

use prost::Message;
use waystation_base::CallId;
use waystation_net::Address;
use waystation_service::{App, Channel, Code, Ctx, Method, Retry, Status, limits};
use waystation_service_check::demo::depot::DepotClient;
use waystation_service_check::demo::depot::method::{Charge, Reserve};
use waystation_service_check::demo::shop::ShopClient;
use waystation_service_check::demo::shop::method::Order;
use waystation_service_check::demo::shop_by_states::method::Order as OrderByStates;
use waystation_service_check::demo::{Act, Item, OrderReply, OrderRequest, Receipt, Reservation};
use waystation_service_check::{
    NativeListener, NativePeer, Stage, block_on, client, eventually, memory, run_on, shop,
    with_deadlines,
};
use waystation_wire::{Header, Kind};

const LATE: Reservation = Reservation { number: 666 };

const PLENTY: Duration = Duration::from_secs(15);

/// A shop, whoever orders there, and the depot, which is this test.
struct World {
    shop: App,
    stage: Stage,
    customer: NativePeer,
    listener: NativeListener,
    depot: Option<NativePeer>,
}

impl World {
    async fn new() -> Self {
        let (io, stage) = (memory(), Stage::default());
        let mut listener = NativeListener::bind(&io, "depot");
        let shop = shop(&io, &stage).start().expect("nobody else listens");
        let mut depot = listener.accept().await;
        // From now on a call is sent at once.
        depot.ping().await;
        let customer = NativePeer::dial(&io, "shop");
        Self {
            shop,
            stage,
            customer,
            listener,
            depot: Some(depot),
        }
    }

    fn depot(&mut self) -> &mut NativePeer {
        self.depot.as_mut().expect("it is lost for moments only")
    }

    /// The depot dies, and another takes its place.
    async fn restart_depot(&mut self) {
        self.depot.take().expect("it is there").hang_up();
        self.depot = Some(self.listener.accept().await);
    }

    /// Everyone leaves, so that the shop need not wait for them.
    fn end(self) {
        self.customer.hang_up();
        drop((self.depot, self.listener));
        self.shop.drain();
    }

    /// Orders with this much time for all and for the reservation.
    async fn order<M: Method>(&mut self, call: u64, all: Duration, reserve_ms: u32) {
        let item = Some(Item {
            name: "tea".to_owned(),
        });
        let request = OrderRequest { item, reserve_ms };
        let header = Header::request(M::ID, CallId(call)).with_deadline_left(Some(all));
        self.customer.send(&header, &request.encode_to_vec()).await;
    }

    /// The next request at the depot, which must be of this method. `None`
    /// when the customer was answered first: its deadline was too short for a
    /// machine under load.
    async fn asked<M: Method>(&mut self) -> Option<Header> {
        let depot = self.depot.as_mut().expect("it is lost for moments only");
        tokio::select! {
            biased;
            (header, _) = depot.receive_kind(Kind::Request) => {
                assert_eq!(header.message, M::ID);
                Some(header)
            }
            _ = self.customer.receive() => None,
        }
    }

    /// Answers under call ids that were never given, or that are over.
    /// Returns how many.
    async fn guess(&mut self, right: CallId) -> u64 {
        let slots = [0, 1, 2, 7].into_iter();
        let calls = slots.flat_map(|slot| [0, 1, 2, 3].map(|turn: u64| CallId(turn << 32 | slot)));
        let wrong = calls
            .chain([CallId(u64::MAX)])
            .filter(|call| *call != right);
        let mut count = 0;
        for call in wrong {
            let header = Header::request(Reserve::ID, call);
            self.depot().reply(&header, &LATE).await;
            count += 1;
        }
        count
    }
}

/// A trouble, what becomes of the order, and answers that nobody waits for.
type Trouble = (&'static str, Result<OrderReply, Code>, u64);

const WELL: OrderReply = OrderReply {
    reservation: 3,
    receipt: 9,
};
const WITHOUT: OrderReply = OrderReply {
    reservation: 0,
    receipt: 9,
};

const TROUBLES: [Trouble; 8] = [
    ("none", Ok(WELL), 0),
    ("two answers", Ok(WELL), 1),
    ("late", Ok(WITHOUT), 1),
    ("guesses", Ok(WELL), 16),
    ("refused", Err(Code::NotFound), 0),
    ("nonsense", Err(Code::Internal), 0),
    ("silent", Err(Code::DeadlineExceeded), 0),
    ("lost", Err(Code::OutcomeUnknown), 0),
];

/// Plays the depot's part, and returns what the customer got; `None` when its
/// time was too short for the trouble to come.
async fn play<M>(
    world: &mut World,
    trouble: &str,
    time: Duration,
) -> Option<Result<OrderReply, Code>>
where
    M: Method<Reply = OrderReply>,
{
    let reserve_ms = if trouble == "late" { 20 } else { 0 };
    world.order::<M>(1, time, reserve_ms).await;
    let reserve = world.asked::<Reserve>().await?;
    match trouble {
        "refused" => {
            world.depot().refuse(&reserve, Code::NotFound).await;
            return Some(world.customer.answer::<M>().await.1);
        }
        "nonsense" => {
            let header = Header::reply(reserve.call, reserve.message, Code::Ok);
            world.depot().send(&header, &[0xFF]).await;
            return Some(world.customer.answer::<M>().await.1);
        }
        // The step gives up by itself.
        "late" => {}
        "guesses" => {
            assert_eq!(world.guess(reserve.call).await, 16);
            world
                .depot()
                .reply(&reserve, &Reservation { number: 3 })
                .await;
        }
        _ => {
            world
                .depot()
                .reply(&reserve, &Reservation { number: 3 })
                .await;
        }
    }
    let charge = world.asked::<Charge>().await?;
    assert_ne!(charge.call, reserve.call, "each step has a call of its own");
    assert_eq!(charge.sid, reserve.sid, "and both are of one request");
    match trouble {
        "silent" => {}
        "lost" => world.restart_depot().await,
        "late" => {
            world.depot().reply(&reserve, &LATE).await;
            world.depot().reply(&charge, &Receipt { number: 9 }).await;
        }
        "two answers" => {
            world.depot().reply(&charge, &Receipt { number: 9 }).await;
            world.depot().reply(&charge, &Receipt { number: 10 }).await;
        }
        _ => {
            world.depot().reply(&charge, &Receipt { number: 9 }).await;
        }
    }
    Some(world.customer.answer::<M>().await.1)
}

fn play_all<M: Method<Reply = OrderReply>>(check: impl Fn(&World, &Trouble)) {
    for trouble in &TROUBLES {
        if trouble.0 == "silent" {
            with_deadlines(|time| play_one::<M>(trouble, time, &check));
        } else {
            assert!(play_one::<M>(trouble, PLENTY, &check), "{trouble:?}");
        }
    }
}

fn play_one<M>(trouble: &Trouble, time: Duration, check: impl Fn(&World, &Trouble)) -> bool
where
    M: Method<Reply = OrderReply>,
{
    let (world, end) = block_on(async {
        let mut world = World::new().await;
        let end = play::<M>(&mut world, trouble.0, time).await;
        (world, end)
    });
    let Some(end) = end else { return false };
    assert_eq!(end, trouble.1, "{trouble:?}");
    let counters = world.shop.server().counters()[0].clone();
    eventually(|| (counters.late_answers.get() >= trouble.2).then_some(()));
    assert_eq!(counters.late_answers.get(), trouble.2, "{trouble:?}");
    check(&world, trouble);
    world.end();
    true
}

/// The answer of step 1 that came late was taken for step 2's; a peer that
/// guessed a number completed another's request; a lost or silent callee left
/// its caller waiting for ever. As an async function.
#[test]
fn a_step_is_continued_by_its_own_answer_only() {
    play_all::<Order>(|_, _| ());
}

/// The same, by the same callee, as a state machine: it gives the same
/// answers, and is told of its end once.
#[test]
fn a_state_machine_gives_what_the_async_function_gives() {
    play_all::<OrderByStates>(|world, trouble| {
        assert_eq!(world.stage.ends(), [trouble.1.err()], "{trouble:?}");
    });
}

/// An answer that comes when the whole request is over reaches no later one.
#[test]
fn the_answer_of_a_request_that_is_over_reaches_no_later_request() {
    with_deadlines(|time| {
        block_on(async {
            let mut world = World::new().await;
            world.order::<Order>(1, time, 0).await;
            let Some(first) = world.asked::<Reserve>().await else {
                return false;
            };
            let end = world.customer.answer::<Order>().await;
            assert_eq!(end, (1, Err(Code::DeadlineExceeded)));
            world.order::<Order>(2, PLENTY, 0).await;
            let second = world.asked::<Reserve>().await.expect("there is time");
            assert_ne!(second.sid, first.sid);
            world.depot().reply(&first, &LATE).await;
            world
                .depot()
                .reply(&second, &Reservation { number: 3 })
                .await;
            let charge = world.asked::<Charge>().await.expect("there is time");
            world.depot().reply(&charge, &Receipt { number: 9 }).await;
            assert_eq!(world.customer.answer::<Order>().await, (2, Ok(WELL)));
            world.end();
            true
        })
    });
}

/// What the depot does to each try: answers it, refuses it, dies, or nothing.
#[derive(Clone, Copy)]
enum Try {
    Answer,
    Refuse(Code),
    Die,
    Ignore,
}

async fn serve_tries(mut listener: NativeListener, tries: &[Try]) {
    let mut depot = None;
    for what in tries {
        let mut peer = match depot.take() {
            Some(peer) => peer,
            None => listener.accept().await,
        };
        let (request, _) = peer.receive_kind(Kind::Request).await;
        match what {
            Try::Answer => {
                peer.reply(&request, &Receipt { number: 5 }).await;
            }
            Try::Refuse(code) => {
                peer.refuse(&request, *code).await;
            }
            Try::Die => {
                peer.hang_up();
                continue;
            }
            Try::Ignore => {}
        }
        depot = Some(peer);
    }
    // It stays until the caller leaves.
    if let Some(mut peer) = depot {
        while peer.receive().await.is_some() {}
    }
}

/// Tries a step against such a depot. Returns its end and the tries it took.
fn try_step(retry: Retry, tries: &'static [Try]) -> (Result<u64, Code>, u32) {
    let io = memory();
    let network = io.clone();
    let depot = std::thread::spawn(move || {
        // The client finds it once it listens.
        block_on(serve_tries(NativeListener::bind(&network, "depot"), tries));
    });
    let app = client(&io);
    let (result, count) = run_on(&app, move |shard| async move {
        let channel = Channel::new(&shard, Address::Memory("depot".to_owned()));
        // Connected, so that each try is sent in the turn that begins it.
        let connected = channel.upstream().up().await;
        connected.expect("the depot listens soon");
        let depot = DepotClient::new(channel);
        let ctx = Ctx::background(&shard, "test", PLENTY);
        let mut count = 0;
        let step = async || -> Result<Receipt, Status> {
            count += 1;
            let ignored = matches!(tries.get(count as usize - 1), Some(Try::Ignore));
            let time = if ignored {
                Duration::from_millis(20)
            } else {
                PLENTY
            };
            depot
                .charge(&ctx.within(time), &Reservation { number: 1 })
                .await
        };
        let result = ctx.retry(&retry, step).await;
        (
            result
                .map(|receipt| receipt.number)
                .map_err(|status| status.code()),
            count,
        )
    });
    app.drain();
    depot.join().expect("the depot sees what it should");
    (result, count)
}

/// A retry of what may have been done is done twice; what was surely not
/// begun may always be tried again.
#[test]
fn only_what_may_be_repeated_is_tried_again() {
    const REFUSALS: &[Try] = &[
        Try::Refuse(Code::Overloaded),
        Try::Refuse(Code::Unavailable),
        Try::Refuse(Code::Draining),
        Try::Answer,
    ];
    assert_eq!(try_step(Retry::unsent(), REFUSALS), (Ok(5), 4));
    assert_eq!(try_step(Retry::idempotent(), REFUSALS), (Ok(5), 4));
    let died = try_step(Retry::unsent(), &[Try::Die]);
    assert_eq!(died, (Err(Code::OutcomeUnknown), 1));
    let late = try_step(Retry::unsent(), &[Try::Ignore]);
    assert_eq!(late, (Err(Code::DeadlineExceeded), 1));
    for code in [
        Code::InvalidRequest,
        Code::NotFound,
        Code::Internal,
        Code::Conflict,
    ] {
        let tries: &'static [Try] = Vec::leak(vec![Try::Refuse(code)]);
        assert_eq!(try_step(Retry::idempotent(), tries), (Err(code), 1));
    }
}

/// The client of an upstream that dies learns that the outcome is unknown; a
/// step that may be repeated succeeds once the upstream is back.
#[test]
fn an_idempotent_step_survives_the_death_of_its_callee() {
    let result = try_step(Retry::idempotent(), &[Try::Die, Try::Die, Try::Answer]);
    assert_eq!(result, (Ok(5), 3));
    let result = try_step(Retry::idempotent(), &[Try::Ignore, Try::Answer]);
    assert_eq!(result, (Ok(5), 2));
}

#[test]
fn tries_are_bounded() {
    const BUSY: &[Try] = &[Try::Refuse(Code::Overloaded); 4];
    let result = try_step(Retry::idempotent().tries(4), BUSY);
    assert_eq!(result, (Err(Code::Overloaded), 4));
    let result = try_step(Retry::unsent().tries(0), &BUSY[..1]);
    assert_eq!(
        result,
        (Err(Code::Overloaded), 1),
        "it is tried at least once"
    );
}

/// Entry and Logic each tried again for as long as a request had time: a Das
/// in trouble got many times its load. All steps of a shard share a budget.
#[test]
fn a_callee_in_trouble_gets_little_more_than_its_load() {
    const STEPS: u64 = 400;
    let app = client(&memory());
    let asked = run_on(&app, |shard| async move {
        let ctx = Ctx::background(&shard, "test", Duration::from_mins(1));
        let asked = Cell::new(0);
        for _ in 0..STEPS {
            let step = async || -> Result<(), Status> {
                asked.set(asked.get() + 1);
                Err(Status::unavailable("in trouble"))
            };
            let retry = Retry {
                pause: Duration::ZERO,
                ..Retry::idempotent()
            };
            ctx.retry(&retry, step).await.unwrap_err();
        }
        asked.get()
    });
    // The test may take more than one window on a slow machine.
    let most = STEPS + STEPS / 5 + 100 * 2;
    assert!((STEPS + 100..=most).contains(&asked), "{asked}");
    app.drain();
}

/// What a depot did that was asked through a shop which tries again, by a
/// caller which tries again, too.
fn ask_in_layers(answers: impl Fn(u32) -> Try + Send + 'static, part: Duration) -> (Status, u32) {
    let (io, stage) = (memory(), Stage::default());
    let network = io.clone();
    let depot = std::thread::spawn(move || {
        block_on(async {
            // The shop finds it once it listens.
            let mut peer = NativeListener::bind(&network, "depot").accept().await;
            let mut tries = 0;
            while let Some((header, _)) = peer.receive().await {
                if header.kind != Kind::Request {
                    if header.kind == Kind::Ping {
                        peer.send(&Header::pong(header.call), &[]).await;
                    }
                    continue;
                }
                tries += 1;
                if let Try::Refuse(code) = answers(tries) {
                    let header = Header::reply(header.call, header.message, code);
                    peer.send(&header, b"the storage failed").await;
                }
            }
            tries
        })
    });
    let shop = shop(&io, &stage).start().expect("nobody else listens");
    let app = client(&io);
    let status = run_on(&app, move |shard| async move {
        let shop = ShopClient::new(Channel::new(&shard, Address::Memory("shop".to_owned())));
        let ctx = Ctx::background(&shard, "test", PLENTY);
        let script = crate::script(&[Act::CallAgain]);
        let retry = Retry::idempotent();
        let asked = ctx.retry(&retry, async || shop.act(&ctx.within(part), &script).await);
        asked.await.unwrap_err()
    });
    app.drain();
    shop.drain();
    (status, depot.join().expect("the depot sees what it should"))
}

/// Entry and Logic each tried ten times: a Das in trouble was asked a hundred
/// times for one request. The layer next to the fault tries, and no other.
#[test]
fn tries_do_not_multiply_from_layer_to_layer() {
    let (status, tries) = ask_in_layers(|_| Try::Refuse(Code::Unavailable), PLENTY);
    assert_eq!(status, Status::unavailable("the storage failed"));
    assert!(status.is_retried());
    assert_eq!(tries, limits::RETRY_TRIES);
}

/// On a full disk some tries failed and others hung: who had asked read that a
/// deadline had passed, and nothing of the storage.
#[test]
fn the_reason_of_a_failure_gets_to_the_top() {
    // The shop gives up the second try. Its caller, if that was too late for
    // it, asks anew.
    let answers = |tries| match tries % 2 {
        1 => Try::Refuse(Code::Unavailable),
        _ => Try::Ignore,
    };
    let (status, _) = ask_in_layers(answers, Duration::from_secs(1));
    assert_eq!(status, Status::unavailable("the storage failed"));
}

/// A step is not tried for ever, however much time its request has.
#[test]
fn tries_have_a_bound_of_their_own() {
    const BUSY: &[Try] = &[Try::Refuse(Code::Unavailable); limits::RETRY_TRIES as usize];
    let result = try_step(Retry::idempotent(), BUSY);
    assert_eq!(result, (Err(Code::Unavailable), limits::RETRY_TRIES));
}

/// Without a bound of its own a retry ends with its request.
#[test]
fn tries_end_with_the_deadline() {
    let app = client(&memory());
    let (code, tries) = run_on(&app, |shard| async move {
        let ctx = Ctx::background(&shard, "test", Duration::from_millis(50));
        let mut tries = 0;
        let step = async || -> Result<(), Status> {
            tries += 1;
            Err(Status::unavailable("never"))
        };
        let status = ctx.retry(&Retry::idempotent(), step).await.unwrap_err();
        (status.code(), tries)
    });
    assert_eq!(code, Code::Unavailable);
    assert!(tries > 1, "{tries}");
    app.drain();
}
