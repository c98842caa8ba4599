//! Several Entries: who is on one hears from who is on another, and one that is
//! added, drained or killed under load loses nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use common::chat::{look_until, post};
use common::load::{Size, load_of, size, stop};
use common::role::ids;
use common::user::User;
use common::world::World;
use common::{run, stderr};

/// Story: Logic keeps who is where by connection. With shards of its own each of
/// its connections was known to one of them, and who was on the others missed
/// what was said.
#[test]
fn who_is_on_one_entry_hears_from_who_is_on_another() {
    let lines = "[logic]\nshards = 2\n[entry]\nshards = 2\n";
    let roles = ["das-1", "logic-1", "logic-2", "entry-1", "entry-2"];
    let world = World::start(lines, &roles);
    for entry in ["entry-1", "entry-2"] {
        world.until_uses(entry, "im.logic", 2);
    }
    let entries = ["entry-1", "entry-2"].map(|name| world.entry_of(name));
    let users = ["ada", "bob", "cyd", "dan"];
    // Two on each Entry, each on a shard.
    let connected: Vec<User> = (users.iter().zip(entries.iter().cycle()))
        .map(|(uid, entry)| User::connect(entry, uid))
        .collect();
    for user in &connected {
        user.logged_in();
    }
    for (from, sender) in users.iter().enumerate() {
        for (to, recipient) in users.iter().enumerate() {
            if from == to {
                continue;
            }
            for (step, entry) in entries.iter().enumerate() {
                let text = format!("{sender} to {recipient} by {step}");
                post(entry, sender, recipient, &text);
                assert_eq!(connected[to].message(), text);
                // It is told to who sent it as well.
                assert_eq!(connected[from].message(), text);
            }
        }
    }
    connected.into_iter().for_each(User::leave);
}

/// Entries are added and drained like other nodes; who was on one that is gone
/// comes back where it listens again.
#[test]
fn entries_come_and_go_under_load() {
    let mut world = World::start("", &["das-1", "logic-1", "logic-2", "entry-1"]);
    // Two loads at a time: each with half of the messages.
    let size = Size {
        rate: "100",
        ..size()
    };
    let first = load_of(world.entry(), &size, "600");
    world.add("entry-2");
    let second = load_of(world.entry_of("entry-2"), &size, "600");
    let busy = |world: &World, name: &str| {
        let entry = world.role(name);
        let started = entry.metric("waystation_requests_started_total");
        look_until(&format!("{name} gets requests"), || {
            entry.metric("waystation_requests_started_total") > started + 200.0
        });
    };
    busy(&world, "entry-2");

    let registry = world.registry().to_owned();
    let drain = run(&["node", "drain", "entry-2", "--registry", &registry]);
    assert_eq!(drain.status.code(), Some(0), "{}", stderr(&drain));
    assert_eq!(world.end_of("entry-2"), Some(0));
    busy(&world, "entry-1");
    world.add("entry-2");
    busy(&world, "entry-2");

    world.kill("entry-2");
    busy(&world, "entry-1");
    look_until("the registry notices", || {
        !ids(&registry).contains(&"entry-2".to_owned())
    });
    world.add("entry-2");
    busy(&world, "entry-2");
    stop(second);
    stop(first);
}
