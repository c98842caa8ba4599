//! An agent that is stopped while it is asked.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use futures_util::future::{Either, join_all, select};
use waystation_test_process::Watchdog;

use super::*;

/// Says that this process is an agent, and in which folder.
const AGENT: &str = "WAYSTATION_TEST_STOPPED_AGENT";

const CALLS: u32 = 4;

/// An agent in a process of its own.
struct AgentProcess {
    child: Child,
    _watchdog: Watchdog,
}

impl AgentProcess {
    fn start(folder: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["stopped::calls_that_end_wait_for_no_agent", "--exact"])
            .env(AGENT, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let watchdog = Watchdog::over(&child);
        Self {
            child,
            _watchdog: watchdog,
        }
    }

    /// Runs in that process, until its input ends.
    fn run(folder: &Path) {
        let registry = format!("file://{}", folder.join("nodes").display());
        let mut config = AgentConfig::new(folder.join("agent.sock"), registry.parse().unwrap(), 7);
        config.udp.clear();
        config.policy = PolicyKind::RoundRobin;
        let agent = Agent::start(config).unwrap();
        let _end = std::io::stdin().read(&mut [0]);
        agent.drain();
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
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
    if let Some(folder) = std::env::var_os(AGENT) {
        return AgentProcess::run(Path::new(&folder));
    }
    let world = World::without_agent(1);
    let agent = AgentProcess::start(world.folder.path());
    let mut caller = Caller::new(world.caller());
    until(|| caller.get_route().is_ok_and(|hosts| !hosts.is_empty()));
    world.hang(0);
    let mut config = BalancedConfig::new(world.caller());
    config.caller.timeout = 3 * PATIENCE;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (socket, process) = (world.socket(), agent.child.id());
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
    signal(agent.child.id(), "CONT");
    until(|| in_flight(&world.socket()) == 0);
}
