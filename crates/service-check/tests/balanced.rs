//! Calls to hosts that the agent of this machine picks: real sockets, real memory.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

#[path = "balanced/asked.rs"]
mod asked;
#[path = "balanced/shares.rs"]
mod shares;
#[path = "balanced/stopped.rs"]
mod stopped;

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use waystation_agent::{Agent, AgentConfig, Probes};
use waystation_balance::{CallEnd, Load, PolicyKind};
use waystation_base::{Epoch, MessageId, ServiceName};
use waystation_client::protocol::{ListedHost, hosts};
use waystation_client::{Caller, CallerConfig, Socket};
use waystation_membership::{Instance, InstanceId, Owner, Verdict, View, ViewVersion};
use waystation_net::{NetConfig, Shard};
use waystation_registry::instance_to_json;
use waystation_service::{
    App, Balanced, BalancedConfig, Channel, Code, Ctx, Group, Method, ProbeConfig, ProbeKind,
    Status, address_of,
};
use waystation_service_check::{PATIENCE, run_on};

#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
struct Name {
    #[prost(uint32, tag = "1")]
    number: u32,
}

/// Who answers; it may be asked twice.
struct Who;

impl Method for Who {
    type Request = Name;
    type Reply = Name;
    const NAME: &'static str = "test.Hosts/Who";
    const ID: MessageId = MessageId::of(Self::NAME);
    const IDEMPOTENT: bool = true;
}

/// The same, to be asked once.
struct Once;

impl Method for Once {
    type Request = Name;
    type Reply = Name;
    const NAME: &'static str = "test.Hosts/Once";
    const ID: MessageId = MessageId::of(Self::NAME);
    const IDEMPOTENT: bool = false;
}

/// Nobody has time for it; it may be asked again.
struct Busy;

impl Method for Busy {
    type Request = Name;
    type Reply = Name;
    const NAME: &'static str = "test.Hosts/Busy";
    const ID: MessageId = MessageId::of(Self::NAME);
    const IDEMPOTENT: bool = true;
}

/// A process that answers with its number, or not at all while it hangs.
struct Host {
    app: Option<App>,
    instance: Instance,
    hangs: Arc<AtomicBool>,
}

impl Host {
    fn start(number: u32) -> Self {
        let hangs = Arc::new(AtomicBool::new(false));
        let answers = hangs.clone();
        let answer = move |hangs: Arc<AtomicBool>| async move {
            if hangs.load(Ordering::Acquire) {
                std::future::pending::<()>().await;
            }
            Ok(Name { number })
        };
        let app = App::builder(format!("host-{number}"), NetConfig::default())
            .listen("127.0.0.1:0".parse().unwrap(), move |router| {
                let hangs = answers.clone();
                router
                    .method::<Busy, _>(async |_: Ctx, _: Name| Err(Status::unavailable("busy")))?;
                router.method::<Who, _>(move |_: Ctx, _: Name| answer(hangs.clone()))?;
                let hangs = answers.clone();
                router.method::<Once, _>(move |_: Ctx, _: Name| answer(hangs.clone()))
            })
            .start()
            .unwrap();
        let waystation_net::Address::Tcp(address) = app.server().addresses()[0].clone() else {
            panic!("it has a port");
        };
        let id = InstanceId::new(&format!("host-{number}")).unwrap();
        Self {
            app: Some(app),
            instance: Instance::new(id, service(), address.into(), Owner::default()),
            hangs,
        }
    }

    fn stop(&mut self) {
        if let Some(app) = self.app.take() {
            app.drain();
        }
    }
}

fn service() -> ServiceName {
    ServiceName::new("hosts").unwrap()
}

thread_local! {
    /// The policy of agents that a test on this thread starts.
    static POLICY: Cell<PolicyKind> = const { Cell::new(PolicyKind::Fresh) };
}

struct World {
    folder: TempDir,
    hosts: Vec<Host>,
    agent: Option<Agent>,
    client: App,
}

impl World {
    fn new(hosts: u32) -> Self {
        let mut world = Self::without_agent(hosts);
        world.start_agent();
        world
    }

    fn without_agent(hosts: u32) -> Self {
        let hosts: Vec<Host> = (0..hosts).map(Host::start).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for host in &hosts {
            writeln!(text, "{}", instance_to_json(&host.instance)).unwrap();
        }
        std::fs::write(folder.path().join("nodes"), text).unwrap();
        let client = App::builder("client-1", NetConfig::default()).start();
        Self {
            folder,
            hosts,
            agent: None,
            client: client.unwrap(),
        }
    }

    fn start_agent(&mut self) {
        self.start_agent_with(|_| {});
    }

    fn start_agent_with(&mut self, set: impl FnOnce(&mut AgentConfig)) {
        let registry = format!("file://{}", self.folder.path().join("nodes").display());
        let mut config = AgentConfig::new(self.socket(), registry.parse().unwrap(), 7);
        config.udp.clear();
        config.policy = POLICY.get();
        set(&mut config);
        self.agent = Some(Agent::start(config).unwrap());
        // Until it knows its routes.
        let mut caller = Caller::new(self.caller());
        until(|| caller.get_route().is_ok_and(|hosts| !hosts.is_empty()));
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn caller(&self) -> CallerConfig {
        let mut config = CallerConfig::new("hosts", self.socket());
        config.timeout = PATIENCE;
        config.pause = Duration::from_millis(1);
        config
    }

    fn list(&self) -> Vec<ListedHost> {
        list_at(&self.socket())
    }

    /// Discovery's view.
    fn view(&self) -> View {
        let at = ViewVersion {
            epoch: Epoch(1),
            number: 1,
        };
        let mut view = View::empty(service(), at);
        for host in &self.hosts {
            let instance = host.instance.clone();
            view.instances
                .insert(instance.id.clone(), Arc::new(instance));
        }
        view
    }

    fn hang(&self, host: usize) {
        self.hosts[host].hangs.store(true, Ordering::Release);
    }
}

/// The hosts that the agent at this socket knows.
fn list_at(socket: &Path) -> Vec<ListedHost> {
    let mut socket = Socket::connect(socket, PATIENCE).unwrap();
    let listed = hosts("hosts", |request| Ok(socket.ask(request)?.0));
    listed.unwrap().0
}

fn until(mut is_so: impl FnMut() -> bool) {
    // Waiting on it is the pause between two looks.
    let (_silent, pause) = std::sync::mpsc::channel::<()>();
    let looks = PATIENCE.as_millis() / 5;
    let is_found = (0..looks).any(|_| {
        let is_so = is_so();
        if !is_so {
            let _nothing = pause.recv_timeout(Duration::from_millis(5));
        }
        is_so
    });
    assert!(is_found, "it did not come about");
}

/// A group that follows a view, whose members are reached by their addresses.
fn group(shard: &Shard, view: &View) -> Group {
    let dialling = shard.clone();
    let group = Group::following("hosts", move |instance| {
        Channel::new(&dialling, address_of(instance))
    });
    group.update(view, &[]);
    group
}

/// Calls that many times, and says who answered.
async fn ask(shard: &Shard, balanced: &Balanced, calls: u32) -> Vec<Result<u32, Status>> {
    let mut answers = Vec::new();
    for _ in 0..calls {
        let ctx = Ctx::background(shard, "ask", PATIENCE);
        let answer = balanced.call::<Who>(&ctx, &Name::default()).await;
        answers.push(answer.map(|name| name.number));
    }
    answers
}

#[test]
fn calls_go_to_picked_hosts_and_the_agent_hears_how_they_end() {
    let world = World::new(2);
    let config = BalancedConfig::new(world.caller());
    let (answers, counters) = run_on(&world.client, move |shard| async move {
        let balanced = Balanced::new(&shard, config);
        let answers = ask(&shard, &balanced, 100).await;
        (answers, balanced.counters())
    });
    let numbers: Vec<u32> = answers.into_iter().map(Result::unwrap).collect();
    assert!(numbers.contains(&0) && numbers.contains(&1), "{numbers:?}");
    assert_eq!((counters.picked, counters.fallen_back), (100, 0));
    // What the replies told has come to the agent, which asks hosts by now.
    until(|| {
        world
            .list()
            .iter()
            .all(|host| host.in_flight == 0 && host.latency_us > 0)
    });
    until(|| world.list().iter().any(|host| host.reported_latency_us > 0));
}

#[test]
fn a_call_that_fails_is_tried_at_another_host() {
    let mut world = World::new(2);
    let mut config = BalancedConfig::new(world.caller());
    // Whoever waits for a connection to it for ever waits in vain.
    config.try_wait = Some(Duration::from_millis(100));
    world.hosts[0].stop();
    let answers = run_on(&world.client, move |shard| async move {
        let balanced = Balanced::new(&shard, config);
        let mut answers = Vec::new();
        for _ in 0..100 {
            let ctx = Ctx::background(&shard, "ask", PATIENCE);
            let answer = balanced.call::<Who>(&ctx, &Name::default()).await;
            answers.push(answer.map(|name| name.number));
        }
        answers
    });
    assert!(answers.iter().all(|answer| *answer == Ok(1)), "{answers:?}");
}

/// Story: whoever passed over a host whose connection it knew to be down reported a
/// refusal each time, so that statistics showed failed calls that nobody had made.
#[test]
fn a_host_that_is_known_to_be_away_is_passed_over_without_a_word() {
    let mut world = World::without_agent(2);
    world.start_agent_with(|config| config.probes = Probes::Never);
    let (config, view) = (world.caller(), world.view());
    let left = world.hosts[0].instance.id.clone();
    world.hosts[0].stop();
    run_on(&world.client, move |shard| async move {
        let group = group(&shard, &view);
        let key = (0_u32..).map(u32::to_le_bytes);
        let mut key = key.filter(|key| group.home(key).as_deref() == Some(left.as_str()));
        let key = key.next().unwrap();
        // Until its connection is found to be down.
        while group.pick(&key).unwrap().is_home {
            shard.sleep(Duration::from_millis(5)).await;
        }
        let balanced = Balanced::over(&shard, BalancedConfig::new(config), group);
        while balanced.counters().picked < 100 {
            assert_eq!(ask(&shard, &balanced, 1).await, [Ok(1)]);
        }
    });
    until(|| world.list().iter().all(|host| host.in_flight == 0));
    let hosts = world.list();
    let words = hosts.iter().map(|host| (host.error_share, &*host.callers));
    let words: Vec<_> = words.collect();
    assert_eq!(words, [(0.0, "none"), (0.0, "ok")], "{hosts:?}");
}

/// A process whose agent was away called nobody.
#[test]
fn without_an_agent_discovery_says_where_to_call() {
    let mut world = World::without_agent(2);
    let (config, view) = (BalancedConfig::new(world.caller()), world.view());
    let balanced = move |shard: &Shard| Balanced::over(shard, config.clone(), group(shard, &view));
    let first = balanced.clone();
    run_on(&world.client, move |shard| async move {
        let balanced = first(&shard);
        assert!(ask(&shard, &balanced, 30).await.iter().all(Result::is_ok));
        let counters = balanced.counters();
        assert_eq!((counters.picked, counters.fallen_back), (0, 30));
    });
    world.start_agent();
    run_on(&world.client, move |shard| async move {
        let balanced = balanced(&shard);
        while balanced.counters().picked < 30 {
            assert!(ask(&shard, &balanced, 1).await[0].is_ok());
        }
    });
    // An agent that ends takes nobody along.
    world.agent = None;
    let (config, view) = (BalancedConfig::new(world.caller()), world.view());
    run_on(&world.client, move |shard| async move {
        let balanced = Balanced::over(&shard, config, group(&shard, &view));
        assert!(ask(&shard, &balanced, 30).await.iter().all(Result::is_ok));
    });
    let (config, view) = (
        BalancedConfig::new(world.caller()),
        View::empty(service(), ViewVersion::default()),
    );
    let error = run_on(&world.client, move |shard| async move {
        let balanced = Balanced::over(&shard, config, group(&shard, &view));
        let ctx = Ctx::background(&shard, "ask", Duration::from_millis(50));
        balanced
            .call::<Who>(&ctx, &Name::default())
            .await
            .unwrap_err()
    });
    assert_eq!(error.code(), Code::Unavailable);
}

/// Callers that pick by a key learnt of a host that fails only by failing there
/// themselves.
#[test]
fn keys_move_from_a_host_at_which_others_failed() {
    let world = World::new(3);
    let (config, view) = (world.caller(), world.view());
    let mut other = Caller::new(config.clone());
    other.attach().unwrap();
    let left = world.hosts[0].instance.clone();
    run_on(&world.client, move |shard| async move {
        let group = group(&shard, &view);
        group.follow_agent(&shard, config);
        let key = (0_u32..).map(u32::to_le_bytes);
        let mut key = key.filter(|key| group.home(key).as_deref() == Some(left.id.as_str()));
        let key = key.next().unwrap();
        assert!(group.pick(&key).unwrap().is_home);
        for _ in 0..20 {
            let call = other.begin_at(&left.address).unwrap();
            call.end(CallEnd::Refused, Load::default());
        }
        while group.pick(&key).unwrap().is_home {
            shard.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(group.home(&key).unwrap(), left.id.as_str(), "it comes back");
    });
}

/// What callers elsewhere met only moved keys: that and a probe that fails are two
/// witnesses, and who both find dead was called all the same when nobody else was
/// there.
#[test]
fn what_the_agent_heard_of_callers_is_one_of_three_witnesses() {
    let world = World::new(3);
    let (config, view) = (world.caller(), world.view());
    let mut other = Caller::new(config.clone());
    other.attach().unwrap();
    let dead = world.hosts[0].instance.clone();
    run_on(&world.client, move |shard| async move {
        let followed = |probe: Option<ProbeKind>| {
            let group = group(&shard, &view);
            group.follow_agent(&shard, config.clone());
            if let Some(kind) = probe {
                let interval = Duration::from_millis(2);
                let probe = ProbeConfig::new(kind);
                group.probe(&shard, ProbeConfig { interval, ..probe });
            }
            group
        };
        let path = "/a/page/that/no/host/has".to_owned();
        let unasked = followed(None);
        let answers = followed(Some(ProbeKind::Native));
        let silent = followed(Some(ProbeKind::Http { path }));
        let mut stands = async |group: &Group, wanted: Verdict, calls: u32| {
            let id = dead.id.as_str();
            while group.member(id).unwrap().verdict() != wanted {
                // Again and again: the agent lets it back in after a while.
                for _ in 0..calls {
                    let call = other.begin_at(&dead.address).unwrap();
                    call.end(CallEnd::Refused, Load::default());
                }
                shard.sleep(Duration::from_millis(5)).await;
            }
        };
        stands(&answers, Verdict::Use, 0).await;
        stands(&silent, Verdict::Suspect, 0).await;
        stands(&unasked, Verdict::Suspect, 20).await;
        stands(&answers, Verdict::Suspect, 20).await;
        stands(&silent, Verdict::Gone, 20).await;
        let well = unasked.member("host-1").unwrap();
        assert_eq!(well.verdict(), Verdict::Use);
    });
}

/// Calls by key were unknown to the agent, so that it took a busy host for an idle
/// one.
#[test]
fn calls_by_key_are_counted_by_the_agent() {
    let world = World::new(1);
    world.hang(0);
    let (config, view) = (world.caller(), world.view());
    let (tx, rx) = std::sync::mpsc::channel();
    let (done, waits) = tokio::sync::oneshot::channel::<()>();
    let job = move |shard: &Shard| {
        let group = group(shard, &view);
        group.follow_agent(shard, config);
        let own = shard.clone();
        shard.spawn(waystation_net::Label::of("test"), async move {
            let calling = async {
                loop {
                    let ctx = Ctx::background(&own, "ask", Duration::from_secs(1));
                    let channel = group.by_key(b"key").unwrap();
                    let _late = channel.call::<Who>(&ctx, &Name::default()).await;
                }
            };
            tokio::select! {
                () = calling => {}
                _ = waits => {}
            }
            let _unheard = tx.send(());
        });
    };
    let remote = world.client.server().remote().clone();
    remote.run_on(waystation_base::ShardId(0), job).unwrap();
    until(|| world.list()[0].in_flight == 1);
    done.send(()).unwrap();
    rx.recv_timeout(PATIENCE).unwrap();
    until(|| world.list()[0].in_flight == 0);
}
