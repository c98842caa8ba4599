//! An agent that is stopped while it is asked.

use std::process::Command;

use futures_util::future::{Either, join_all, select};
use waystation_test_process::Part;

use super::*;

const CALLS: u32 = 4;

/// Runs an agent, as a process of its own, until it is to end.
fn run_agent(folder: &Path) {
    let registry = format!("file://{}", folder.join("nodes").display());
    let mut config = AgentConfig::new(folder.join("agent.sock"), registry.parse().unwrap(), 7);
    config.udp.clear();
    config.policy = PolicyKind::RoundRobin;
    let agent = Agent::start(config).unwrap();
    Part::wait_for_the_end();
    agent.drain();
}

fn signal(process: u32, name: &str) {
    let process = process.to_string();
    let sent = Command::new("kill").args(["-s", name, &process]).status();
    assert!(sent.unwrap().success());
}

fn in_flight(socket: &Path) -> u32 {
    list_at(socket).iter().map(|host| host.in_flight).sum()
}

/// Story: the end of each call waited on its shard for whoever asked the agent just
/// then, so that an agent that was stopped stopped all connections there, for half a
/// second or one for each call that ended.
#[test]
fn calls_that_end_wait_for_no_agent() {
    if let Some(folder) = Part::given() {
        return run_agent(Path::new(&folder));
    }
    let world = World::without_agent(1);
    let this = "stopped::calls_that_end_wait_for_no_agent";
    let agent = Part::start(this, world.folder.path().to_str().unwrap());
    let mut caller = Caller::new(world.caller());
    until(|| caller.get_route().is_ok_and(|hosts| !hosts.is_empty()));
    world.hang(0);
    let mut config = BalancedConfig::new(world.caller());
    config.caller.timeout = 3 * PATIENCE;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (socket, process) = (world.socket(), agent.id());
    let stopping = std::thread::spawn(move || {
        until(|| in_flight(&socket) == CALLS);
        signal(process, "STOP");
        stop.send(()).unwrap();
    });
    run_on(&world.client, move |shard| async move {
        let balanced = Balanced::new(&shard, config);
        let call = async || {
            let ctx = Ctx::background(&shard, "ask", PATIENCE);
            balanced.call::<Who>(&ctx, &Name::default()).await
        };
        let calling = Box::pin(join_all((0..CALLS).map(|_| call())));
        let calling = match select(calling, stopped).await {
            Either::Left((answers, _)) => panic!("{answers:?}"),
            Either::Right((stopped, calling)) => stopped.map(|()| calling).unwrap(),
        };
        // Somebody asks it.
        let (asking, while_it_asks) = (Box::pin(call()), shard.sleep(PATIENCE / 100));
        let asking = match select(asking, Box::pin(while_it_asks)).await {
            Either::Left((answer, _)) => panic!("{answer:?}"),
            Either::Right(((), asking)) => asking,
        };
        // They are given up, and end so.
        drop(calling);
        drop(asking);
    });
    stopping.join().unwrap();
    signal(agent.id(), "CONT");
    until(|| in_flight(&world.socket()) == 0);
}
