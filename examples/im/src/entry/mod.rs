//! Entry: the users' connections.
//!
//! Each shard is an Entry of its own: it has its own connections to every
//! Logic and tells them of its own users, so shards share nothing.
//!
//! # Delivery
//!
//! For each connection Entry keeps the number of the last message that it has
//! delivered of each conversation. A message that follows it directly is
//! pushed; one that is not above it is dropped; one that leaves a gap makes
//! Entry fetch what is missing from the stored history. So a connection gets
//! each message once and in order, however often and in whatever order Logic
//! tells of it. What Logic could not tell, because a connection between the
//! two was lost, is found when it is made again: Entry then asks for the last
//! number of every conversation of its users.

mod delivery;
mod handlers;
mod limits;
mod link;
mod session;
mod shard;

use std::rc::Rc;

use bytes::Bytes;
use waystation_net::native::Origins;
use waystation_net::{Address, CloseReason};
use waystation_service::{App, Peer};

use self::handlers::Front;
use self::shard::EntryShard;
use crate::error::Error;
use crate::im::entry;
use crate::joined::{self, Entrant, Joined, instance_id};
use crate::role::RoleConfig;

/// Settings of an Entry.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it stands.
    pub role: RoleConfig,
    /// Where users connect: WebSocket, HTTP and native.
    pub listen: Vec<Address>,
    /// Users' connections at once.
    pub connections_max: usize,
    /// Which pages may open a WebSocket.
    pub origins: Origins,
}

/// Users' connections at once, unless it is set otherwise. One more is told
/// so and closed.
pub const CONNECTIONS_MAX: usize = 16_384;

/// The chat page and what belongs to it.
const PAGES: [(&str, &str, &[u8]); 5] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_bytes!("../../web/index.html"),
    ),
    (
        "/chat.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../web/chat.js"),
    ),
    (
        "/model.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../web/model.js"),
    ),
    (
        "/link.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../web/link.js"),
    ),
    (
        "/chat.css",
        "text/css; charset=utf-8",
        include_bytes!("../../web/chat.css"),
    ),
];

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`Error`] when it could not start.
pub fn run(config: &Config) -> Result<(), Error> {
    config.role.prepare()?;
    let role = &config.role;
    let mut net = role.net();
    net.connections_max = config.connections_max;
    let name = role.name("entry");
    let joined = Joined::open(role, &name, Some(joined::LOGIC))?;
    let follower = joined.follower();
    let probe = role.discovery.logic_probe.clone();
    let id = instance_id(&name)?;
    let mut app = App::builder(name, net)
        .admin(role.admin("entry"))
        .health(joined.health())
        .metrics(joined.metrics())
        .on_shard(move |shard| EntryShard::start(shard, &follower, probe.as_ref()));
    let origins = config.origins.clone();
    for address in config.listen.iter().cloned().chain([role.service("entry")]) {
        let limits = role.clone();
        let origins = origins.clone();
        app = app.listen(address, move |router| {
            limits.limit(router);
            let state = router
                .shard()
                .extension::<EntryShard>()
                .expect("set by on_shard");
            for (path, content_type, body) in PAGES {
                router.page(path, content_type, Bytes::from_static(body));
            }
            router.websocket("/ws");
            router.websocket_origins(origins.clone());
            let closed = state.clone();
            router.on_close(move |peer: &Peer, _: CloseReason| closed.session_ended(peer));
            entry::register(router, Rc::new(Front::new(state)))
        });
    }
    let app = app.start()?;
    let entrant = Entrant {
        role,
        id,
        service: joined::ENTRY,
        address: reachable(app.server().addresses()),
        when_taken: joined::TAKE_ANOTHER_INDEX,
        is_of_one_directory: false,
        after: None,
    };
    joined.run(app, &entrant)
}

/// Where users, or those beside it, reach an Entry that listens on these.
fn reachable(addresses: &[Address]) -> Address {
    let is_one =
        |address: &&Address| !matches!(address, Address::Tcp(at) if at.ip().is_unspecified());
    let mut addresses = addresses.iter().filter(is_one);
    addresses
        .next()
        .cloned()
        .expect("it listens for those beside it")
}
