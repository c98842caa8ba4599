//! Logic: the chat's rules, and who is where.
//!
//! It keeps nothing that it cannot lose: messages are in Das, and who is
//! online is told again by each Entry when it connects.

mod handlers;
mod limits;
mod presence;

use std::rc::Rc;

use waystation_net::{Address, CloseReason};
use waystation_service::{App, Channel, Peer};

use self::handlers::Rules;
use crate::error::Error;
use crate::im::logic;
use crate::role::RoleConfig;

/// Settings of a Logic.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it stands.
    pub role: RoleConfig,
    /// Where its Das is.
    pub das: Address,
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`Error`] when it could not start.
pub fn run(config: &Config) -> Result<(), Error> {
    config.role.prepare()?;
    let role = &config.role;
    let (das, limits) = (config.das.clone(), role.clone());
    App::builder(role.name("logic"), role.net())
        .admin(role.admin("logic"))
        .on_shard(move |shard| {
            let das = Channel::new(shard, das.clone());
            shard.set_extension(Rc::new(Rules::new(das)));
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
        .start()?
        .run()?;
    Ok(())
}
