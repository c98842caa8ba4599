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
//!
//! # Other sites
//!
//! Where several sites keep copies of the chat, a conversation is written at its
//! home. What changes one with another home is passed on to a Logic there, which
//! knows it by Das; what only reads is read here. Users here are told of a message
//! once it is in the copy, and never before: Das says so, and Entry finds what it
//! asks for. So an answer may be there a moment before the message is. Das tells one
//! shard, which tells the others.

mod arrivals;
mod counts;
mod fanout;
mod handlers;
mod limits;
mod others;
mod presence;
mod siblings;
mod sites;
#[cfg(test)]
mod tests;

use std::rc::{Rc, Weak};
use std::sync::Arc;

use waystation_base::ShardId;
use waystation_membership::Instance;
use waystation_net::{CloseReason, Shard};
use waystation_service::{App, Channel, Group, Peer, ProbeConfig, address_of};

use self::arrivals::das_channel;
use self::counts::Counts;
use self::handlers::Rules;
use self::others::Others;
use self::sites::Sites;
use crate::error::Error;
use crate::im::logic;
use crate::joined::{self, Entrant, Follower, Joined, instance_id};
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
            let sites = Sites::new(shard, &follower, probes.logic_probe.as_ref());
            let logics = Group::following(joined::LOGIC, connect(shard));
            let logic_probe = probes.logic_probe.as_ref();
            follower.follow(shard, joined::LOGIC, &logics, logic_probe, |_| {});
            let others = Others::new(own.clone(), logics, counts.clone());
            let parts = (others, sites, counts.clone());
            start(shard, &follower, probes.das_probe.as_ref(), parts);
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
        after: None,
    };
    joined.run(app, &entrant)
}

fn connect(shard: &Shard) -> impl Fn(&Instance) -> Channel + 'static {
    let shard = shard.clone();
    move |instance| Channel::new(&shard, address_of(instance))
}

/// Makes the shard's rules, which follow Das. Where there are other sites, Das is told
/// at once that it is to tell what they write.
fn start(
    shard: &Shard,
    follower: &Follower,
    probe: Option<&ProbeConfig>,
    (others, sites, counts): (Others, Option<Sites>, Arc<Counts>),
) {
    let watches = sites.is_some() && shard.id() == ShardId(0);
    let rules = Rc::new_cyclic(|rules: &Weak<Rules>| {
        let das = if watches {
            let (shard, rules) = (shard.clone(), rules.clone());
            Group::following(joined::DAS, move |instance| {
                das_channel(&shard, &rules, instance)
            })
        } else {
            Group::following(joined::DAS, connect(shard))
        };
        Rules::new(shard, das, others, sites, &counts)
    });
    let (das, opened) = (rules.das_group().clone(), rules.das_group().clone());
    follower.follow(shard, joined::DAS, &das, probe, move |updated| {
        let came = updated.came.iter().filter(|_| watches);
        came.for_each(|member| drop(opened.channel(member)));
    });
    shard.set_extension(rules);
}
