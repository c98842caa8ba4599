//! Partitions as the kernel makes them, in network namespaces where the machine
//! allows that: connections that nobody answers, bytes that nobody acknowledges.

use std::net::SocketAddr;
use std::path::Path;

use waystation_membership::View;
use waystation_registry::{Client, RegistryUrl, Session, SessionState};
use waystation_registry_check::{
    Embedded, Etcd, Fixture, Link, WAIT, World, ZooKeeper, etcd_program, has_zookeeper, on_a_link,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waystation-registry-check");

fn started<F: Fixture>() -> World<F> {
    let mut world = World::<F>::new(Path::new(PROGRAM), true);
    world.fixture.start();
    world
}

/// Where a registry is, as its URL says.
fn place(url: &RegistryUrl) -> String {
    let url = url.to_string();
    let (_, rest) = url.split_once("://").expect("it has a scheme");
    rest.split('/').next().expect("it has a host").to_owned()
}

/// The same registry at another place, or at several.
fn elsewhere(url: &RegistryUrl, places: &str) -> RegistryUrl {
    let there = url.to_string().replace(&place(url), places);
    there.parse().expect("it is a URL")
}

/// A client at the far end of the link.
fn far_client<F: Fixture>(world: &World<F>, link: &Link) -> Client {
    let url = world.fixture.url();
    let near: SocketAddr = place(&url).parse().expect("an address");
    let url = elsewhere(&url, &link.leads_to(near).to_string());
    link.at_far_end(|| Client::open(&url).expect("a client starts"))
}

fn is_lost(session: &Session) -> bool {
    session.state == SessionState::Connecting && session.fault.is_some()
}

/// A link that is down: the node at its end has fenced itself when the others see
/// it gone. When the link is up again, long after the lease, it is back under a
/// higher token.
fn down_and_up<F: Fixture>(link: &Link) {
    let world = started::<F>();
    let client = world.client();
    let far = far_client(&world, link);
    let registered = World::<F>::register(&far, World::<F>::instance("a", "a-1"));
    let _stays = World::<F>::register(&client, World::<F>::instance("a", "a-2"));
    let token = World::<F>::is_registered(&registered).instance.token;
    let (near_watch, far_watch) = (
        World::<F>::watch(&client, "a"),
        World::<F>::watch(&far, "a"),
    );
    World::<F>::shows(&near_watch, "a", &["a-1", "a-2"]);
    World::<F>::shows(&far_watch, "a", &["a-1", "a-2"]);
    World::<F>::record(&far_watch);
    link.cut();
    World::<F>::shows(&near_watch, "a", &["a-2"]);
    assert!(!registered.may_serve(), "evicted before it was fenced");
    far.wait_session(WAIT, is_lost)
        .expect("the loss is noticed");
    // What changes meanwhile is seen behind the cut.
    let _new = World::<F>::register(&client, World::<F>::instance("a", "a-3"));
    World::<F>::shows(&near_watch, "a", &["a-2", "a-3"]);
    link.heal();
    World::<F>::shows(&near_watch, "a", &["a-1", "a-2", "a-3"]);
    World::<F>::shows(&far_watch, "a", &["a-1", "a-2", "a-3"]);
    World::<F>::never_empty(&far_watch);
    let status = World::<F>::is_registered(&registered);
    assert!(
        status.instance.token > token,
        "what it wrote before is told from now"
    );
}

/// Nobody answers the first connection at all: it is given up in time, and tried
/// again.
fn unanswered<F: Fixture>(link: &Link) {
    let world = started::<F>();
    link.cut();
    let far = far_client(&world, link);
    let registered = World::<F>::register(&far, World::<F>::instance("a", "a-1"));
    far.wait_session(WAIT, is_lost).expect("it is given up");
    link.heal();
    World::<F>::is_registered(&registered);
}

/// A member that swallows connections stands beside one that answers. Clients
/// begin with either.
fn swallowed<F: Fixture>(link: &Link) {
    let world = started::<F>();
    let url = world.fixture.url();
    let places = format!("{},{}", link.hole(), place(&url));
    let url = elsewhere(&url, &places);
    let ids = ["a-1", "a-2", "a-3", "a-4", "a-5", "a-6"];
    let clients = ids.map(|_| Client::open(&url).expect("a client starts"));
    let nodes: Vec<_> = (clients.iter().zip(ids))
        .map(|(client, id)| World::<F>::register(client, World::<F>::instance("a", id)))
        .collect();
    for (client, node) in clients.iter().zip(&nodes) {
        World::<F>::is_registered(node);
        let watching = World::<F>::watch(client, "a");
        let has_all = |view: &View| view.instances.len() == ids.len();
        let view = watching.wait_view("a", WAIT, has_all);
        assert!(view.is_some(), "{:?}", watching.view("a"));
    }
}

#[test]
fn a_link_that_is_down_fences_a_node_and_brings_it_back() {
    let name = "a_link_that_is_down_fences_a_node_and_brings_it_back";
    on_a_link(name, |link| {
        down_and_up::<Embedded>(link);
        unanswered::<Embedded>(link);
    });
}

#[test]
fn needs_etcd_a_link_that_is_down_fences_a_node_and_brings_it_back() {
    let name = "needs_etcd_a_link_that_is_down_fences_a_node_and_brings_it_back";
    if etcd_program().is_some() {
        on_a_link(name, |link| {
            down_and_up::<Etcd>(link);
            unanswered::<Etcd>(link);
        });
    }
}

#[test]
fn needs_zookeeper_a_link_that_is_down_fences_a_node_and_brings_it_back() {
    let name = "needs_zookeeper_a_link_that_is_down_fences_a_node_and_brings_it_back";
    if has_zookeeper() {
        on_a_link(name, |link| {
            down_and_up::<ZooKeeper>(link);
            unanswered::<ZooKeeper>(link);
        });
    }
}

#[test]
fn needs_etcd_a_member_that_swallows_connections_is_passed_over() {
    let name = "needs_etcd_a_member_that_swallows_connections_is_passed_over";
    if etcd_program().is_some() {
        on_a_link(name, swallowed::<Etcd>);
    }
}

#[test]
fn needs_zookeeper_a_member_that_swallows_connections_is_passed_over() {
    let name = "needs_zookeeper_a_member_that_swallows_connections_is_passed_over";
    if has_zookeeper() {
        on_a_link(name, swallowed::<ZooKeeper>);
    }
}
