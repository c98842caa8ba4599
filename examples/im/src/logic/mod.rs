//! Logic: the chat's rules, and who is where.
//!
//! It keeps nothing that it cannot lose: messages are in Das, and who is
//! online is told again by each Entry when it connects.
//!
//! # Who serves a conversation
//!
//! Each belongs to one Logic, by its name and the view of `im.logic`, so that
//! its messages are fanned out in the order of their numbers. Views differ for
//! a moment when nodes come and go. A Logic that is asked for another one's
//! conversation passes the request on, once; if that one cannot be reached it
//! serves the request itself. Either way nothing is stored twice, since Das
//! knows what it has, and nothing is delivered out of order, since Entry goes
//! by Das' numbers: to belong to one Logic makes it fast, not right.
//!
//! Within the process each conversation belongs to one shard, by the same hash
//! of its name. A request that comes to another one is given to it by its
//! mailbox. Who is where all shards know: the one that an Entry is connected to
//! hears it and tells the others, and Entry's request is answered when all go by
//! it. A message goes to the shards of the connections that it is for.

mod counts;
mod fanout;
mod handlers;
mod limits;
mod others;
mod presence;
mod siblings;

use std::rc::Rc;
use std::sync::Arc;

use waystation_membership::Instance;
use waystation_net::CloseReason;
use waystation_service::{App, Channel, Group, Peer, address_of};

use self::counts::Counts;
use self::handlers::Rules;
use self::others::Others;
use crate::error::Error;
use crate::im::logic;
use crate::joined::{self, Entrant, Joined, instance_id};
use crate::role::RoleConfig;

/// Settings of a Logic.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it stands.
    pub role: RoleConfig,
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`Error`] when it could not start.
pub fn run(config: &Config) -> Result<(), Error> {
    config.role.prepare()?;
    let role = &config.role;
    let (limits, probes) = (role.clone(), role.discovery.clone());
    let name = role.name("logic");
    let joined = Joined::open(role, &name, Some(joined::DAS))?;
    let follower = joined.follower();
    let id = instance_id(&name)?;
    let own = id.to_string();
    let counts = Arc::new(Counts::new(role.serving.shards));
    let counted = counts.clone();
    let app = App::builder(name, role.net())
        .admin(role.admin("logic"))
        .health(joined.health())
        .metrics(joined.metrics())
        .metrics(Arc::new(move |page| counted.show(page)))
        .on_shard(move |shard| {
            let connect = {
                let shard = shard.clone();
                move |instance: &Instance| Channel::new(&shard, address_of(instance))
            };
            let das = Group::following(joined::DAS, connect.clone());
            let logics = Group::following(joined::LOGIC, connect);
            let (das_probe, logic_probe) = (&probes.das_probe, &probes.logic_probe);
            follower.follow(shard, joined::DAS, &das, das_probe.as_ref(), |_| {});
            follower.follow(shard, joined::LOGIC, &logics, logic_probe.as_ref(), |_| {});
            let others = Others::new(own.clone(), logics, counts.clone());
            shard.set_extension(Rc::new(Rules::new(shard, das, others, &counts)));
        })
        .listen(role.service("logic"), move |router| {
            limits.limit_within(router);
            let rules = router
                .shard()
                .extension::<Rules>()
                .expect("set by on_shard");
            let closed = rules.clone();
            router.on_close(move |peer: &Peer, _: CloseReason| closed.entry_left(peer));
            logic::register(router, rules)
        })
        .start()?;
    let entrant = Entrant {
        role,
        id,
        service: joined::LOGIC,
        address: app.server().addresses()[0].clone(),
        when_taken: joined::TAKE_ANOTHER_INDEX,
        is_of_one_directory: false,
    };
    joined.run(app, &entrant)
}
