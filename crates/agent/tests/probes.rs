//! Hosts tell the agent what they have to do when it asks.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;

use common::{World, done, tcp};
use waystation_balance::{CallEnd, Load, PolicyKind};
use waystation_client::Source;
use waystation_membership::Address;
use waystation_net::native::{NativeProtocol, Router};
use waystation_net::{NetConfig, Server};

/// A server without handlers, that says it has so much to do.
fn host(in_flight: u32) -> (Server, Address) {
    host_at(in_flight, "127.0.0.1:0".parse().unwrap())
}

fn host_at(in_flight: u32, at: SocketAddr) -> (Server, Address) {
    let config = NetConfig {
        shards: 1,
        ..NetConfig::default()
    };
    let server = Server::builder(config)
        .listen(waystation_net::Address::Tcp(at), |_| {
            NativeProtocol::new(Rc::new(Router::new()))
        })
        .on_shard(move |shard| {
            shard.load_place().tell(waystation_wire::Load {
                in_flight,
                latency_us: 1000 * in_flight,
            });
        })
        .start()
        .unwrap();
    let waystation_net::Address::Tcp(address) = server.addresses()[0].clone() else {
        panic!("it has a port");
    };
    (server, address.into())
}

const TOLD: Load = Load {
    in_flight: 1,
    latency_us: 500,
};

/// Which hosts have told the agent so many requests.
fn told(world: &World) -> Vec<u32> {
    let hosts = world.list().unwrap();
    hosts.iter().map(|host| host.reported_in_flight).collect()
}

#[test]
fn hosts_are_asked_once_a_reply_has_told_a_load() {
    let hosts = [host(40), host(50)];
    let world = World::at(hosts.iter().map(|host| host.1.clone()));
    let mut caller = world.caller();
    // Calls alone make nobody ask.
    for _ in 0..100 {
        done(&mut caller);
    }
    world.until(|world| world.in_flight() == 0);
    assert_eq!(told(&world), [0, 0]);
    caller.begin().unwrap().end(CallEnd::Ok, TOLD);
    // No call told that.
    world.until(|world| {
        done(&mut caller);
        told(world) == [40, 50]
    });
    // And it decides: the one with more to do gets less.
    let mut counts = [0, 0];
    world.until(|_| {
        let call = caller.begin().unwrap();
        let at = hosts.iter().position(|host| host.1 == *call.address());
        counts[at.unwrap()] += 1;
        call.end(CallEnd::Ok, Load::default());
        counts[0] > 300
    });
    assert!(counts[1] < counts[0], "{counts:?}");
}

/// Under a policy that callers ask the agent for, what replies told was lost on
/// the way, and nobody was ever asked.
#[test]
fn hosts_are_asked_for_callers_that_ask_the_agent() {
    let hosts = [host(40), host(50)];
    let world = World::with_policy_at(PolicyKind::Prequal, hosts.iter().map(|host| host.1.clone()));
    let mut caller = world.caller();
    caller.begin().unwrap().end(CallEnd::Ok, TOLD);
    assert_eq!(caller.source(), Some(Source::Socket));
    world.until(|world| {
        done(&mut caller);
        told(world) == [40, 50]
    });
}

/// A host that speaks another protocol got frames that it took for noise.
#[test]
fn hosts_that_never_told_anything_are_left_alone() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    silent.set_nonblocking(true).unwrap();
    let address: SocketAddr = silent.local_addr().unwrap();
    let world = World::at([address.into()]);
    let mut caller = world.caller();
    for _ in 0..200 {
        done(&mut caller);
    }
    world.until(|world| world.in_flight() == 0);
    assert_eq!(
        silent.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    // With a reply that tells one it is asked, so that this could have failed.
    caller.begin().unwrap().end(CallEnd::Ok, TOLD);
    world.until(|_| {
        done(&mut caller);
        silent.accept().is_ok()
    });
}

/// A host that is gone is found out by probes, without a call that fails.
#[test]
fn a_host_that_is_gone_is_found_out_by_probes() {
    let ((_stays, first), (server, second)) = (host(5), host(5));
    let world = World::at([first, second]);
    let mut caller = world.caller();
    caller.begin().unwrap().end(CallEnd::Ok, TOLD);
    world.until(|world| {
        done(&mut caller);
        told(world)[1] == 5
    });
    drop(server);
    world.until(|world| {
        done(&mut caller);
        world.list().unwrap()[1].error_share > 0.0
    });
}

/// Story: a list told the verdict of discovery alone, which says `use` for as long
/// as a lease lives; and of several hosts that had died ejection left one out.
#[test]
fn hosts_that_probes_and_callers_find_dead_are_left_out_whatever_their_leases_say() {
    let mut hosts: Vec<_> = (0..5).map(|_| host(5)).collect();
    let world = World::at(hosts.iter().map(|host| host.1.clone()));
    let mut caller = world.caller();
    caller.begin().unwrap().end(CallEnd::Ok, TOLD);
    let is = |world: &World, at: usize, verdict: &str, eligible: bool| {
        let host = &world.list().unwrap()[at];
        host.verdict == verdict && host.eligible == eligible
    };
    world.until(|world| {
        done(&mut caller);
        (0..5).all(|at| world.list().unwrap()[at].probe == "ok" && is(world, at, "use", true))
    });
    // Two of them die; what is sent there is refused.
    let places: Vec<Address> = hosts.iter().map(|host| host.1.clone()).collect();
    hosts.truncate(3);
    world.until(|world| {
        let call = caller.begin().unwrap();
        let is_there = places[..3].contains(call.address());
        let end = if is_there {
            CallEnd::Ok
        } else {
            CallEnd::Refused
        };
        call.end(end, Load::default());
        for at in [3, 4] {
            // Callers that choose by a key go there all the same.
            if let Some(call) = caller.begin_at(&places[at]) {
                call.end(CallEnd::Refused, Load::default());
            }
        }
        [3, 4].iter().all(|at| is(world, *at, "gone", false))
    });
    assert!((0..3).all(|at| is(&world, at, "use", true)));
    let dead = &world.list().unwrap()[3];
    assert_eq!((&*dead.probe, &*dead.callers), ("failed", "failing"));
    // Who is back answers a probe, and is used again.
    let _back: Vec<_> = places[3..]
        .iter()
        .map(|place| host_at(5, tcp(place)))
        .collect();
    world.until(|world| {
        done(&mut caller);
        [3, 4].iter().all(|at| is(world, *at, "use", true))
    });
}
