//! A process that cannot serve says so instead of seeming to.

use waystation_base::ShardId;
use waystation_net::{Address, NetConfig, StartError};
use waystation_service::{App, AppError, Ctx, MessageId, Method, RegisterError, Status};
use waystation_service_check::demo::Parcel;
use waystation_service_check::demo::shop::method::Echo;
use waystation_service_check::{
    Event, NativePeer, Stage, block_on, config, memory, shop, shop_with,
};

/// Another name with the id of `Echo`.
struct Forged;

impl Method for Forged {
    type Request = Parcel;
    type Reply = Parcel;
    const NAME: &'static str = "demo.Forge/Echo";
    const ID: MessageId = Echo::ID;
    const IDEMPOTENT: bool = true;
}

async fn echo(_: Ctx, request: Parcel) -> Result<Parcel, Status> {
    Ok(request)
}

/// A collision of methods panicked on the shard's thread: the process stayed,
/// and no connection to it was ever accepted.
#[test]
fn methods_that_cannot_stand_together_fail_the_start() {
    let app = shop_with(&memory(), &Stage::default(), |router| {
        router.method::<Forged, _>(echo).unwrap();
    });
    match app.start() {
        Err(AppError::Routes(error)) => assert_eq!(
            error,
            RegisterError::SameId {
                id: Echo::ID,
                old: Forged::NAME,
                new: Echo::NAME
            }
        ),
        other => panic!("{:?}", other.err()),
    }
    let app = shop_with(&memory(), &Stage::default(), |router| {
        router.method::<Echo, _>(echo).unwrap();
    });
    match app.start() {
        Err(AppError::Routes(error)) => assert_eq!(error, RegisterError::Twice(Echo::NAME)),
        other => panic!("{:?}", other.err()),
    }
}

/// As above, for a panic while a shard's state was built.
#[test]
fn a_panic_before_a_shard_is_ready_fails_the_start() {
    let io = memory();
    let config = NetConfig {
        shards: 3,
        ..config(&io)
    };
    let app = App::builder("broken-1", config).on_shard(|shard| {
        assert!(shard.id() != ShardId(1), "as it must");
    });
    let app = app.listen(Address::Memory("shop".to_owned()), |_| Ok(()));
    match app.start() {
        Err(AppError::Start(StartError::Shard(shard, _))) => assert_eq!(shard, ShardId(1)),
        other => panic!("{:?}", other.err()),
    }
    let app = shop(&io, &Stage::default());
    let app = app.start().expect("the failed one has let go of the name");
    app.drain();
}

#[test]
fn a_name_in_use_is_named() {
    let io = memory();
    let first = shop(&io, &Stage::default()).start().unwrap();
    let error = shop(&io, &Stage::default()).start().err().unwrap();
    assert!(
        matches!(error, AppError::Start(StartError::Listen { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("memory:shop"), "{error}");
    first.drain();
}

/// On return every shard has its state, and routes are there for the first
/// connection.
#[test]
fn a_process_that_has_started_serves() {
    let (io, built) = (memory(), Event::default());
    let count = built.clone();
    let config = NetConfig {
        shards: 3,
        ..config(&io)
    };
    let app = App::builder("ready-1", config)
        .on_shard(move |_| count.raise())
        .listen(Address::Memory("shop".to_owned()), |router| {
            router.method::<Echo, _>(echo)
        });
    let app = app.start().unwrap();
    assert_eq!(built.count(), 3);
    block_on(async {
        for _ in 0..6 {
            let mut peer = NativePeer::dial(&io, "shop");
            peer.request::<Echo>(1, &Parcel::default()).await;
            assert!(peer.answer::<Echo>().await.1.is_ok());
        }
    });
    // Dropped without a word it drains, too.
    drop(app);
    assert!(io.dial("shop").is_err());
}
