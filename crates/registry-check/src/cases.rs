//! The cases: what every backend promises, under every fault.

mod basics;
mod drains;
mod losses;
mod network;
mod pairs;
mod sources;

use std::time::Duration;

use crate::fixture::{Ability, Fixture};
use crate::world::World;

/// One promise.
pub struct Case<F> {
    /// Its name in the table.
    pub name: &'static str,
    /// What a backend needs for it.
    pub needs: &'static [Ability],
    /// Whether it kills its registry, which then must be its own.
    pub is_alone: bool,
    /// Carries it out, and gives the time that it is about. It panics where the
    /// promise is broken.
    pub run: fn(&mut World<F>) -> Duration,
}

const NOTHING: &[Ability] = &[];
const REGISTER: &[Ability] = &[Ability::Register];
const NETWORK: &[Ability] = &[Ability::Register, Ability::Network];
const HOLDERS: &[Ability] = &[Ability::Register, Ability::Holders];
const EPOCHS: &[Ability] = &[Ability::Register, Ability::Epochs];

/// All cases.
pub fn cases<F: Fixture>() -> Vec<Case<F>> {
    let mut all = nodes();
    all.extend(faults());
    all
}

/// One that does not kill its registry.
fn case<F>(
    name: &'static str,
    needs: &'static [Ability],
    run: fn(&mut World<F>) -> Duration,
) -> Case<F> {
    Case {
        name,
        needs,
        is_alone: false,
        run,
    }
}

/// One that does.
fn alone<F>(
    name: &'static str,
    needs: &'static [Ability],
    run: fn(&mut World<F>) -> Duration,
) -> Case<F> {
    Case {
        is_alone: true,
        ..case(name, needs, run)
    }
}

/// What nodes do.
fn nodes<F: Fixture>() -> Vec<Case<F>> {
    vec![
        case("a node is seen", NOTHING, basics::seen),
        case("a registration is granted", REGISTER, basics::granted),
        case("a prefix is watched", NOTHING, basics::prefix),
        case(
            "watched before its first node",
            NOTHING,
            basics::before_first,
        ),
        case("an update is seen", REGISTER, basics::update),
        case("no change waits for a tick", REGISTER, basics::no_tick),
        case("a node leaves", NOTHING, basics::leaves),
        case(
            "an id is left and taken at once",
            REGISTER,
            basics::left_and_taken,
        ),
        case("an empty registry says so", NOTHING, basics::empty),
        case("a lease is never too short", REGISTER, basics::short_lease),
        case(
            "what is out of rule is refused",
            REGISTER,
            basics::out_of_rule,
        ),
        case("a duplicate id is refused", REGISTER, basics::duplicate),
        case(
            "own stale entry is replaced",
            NETWORK,
            basics::own_stale_entry,
        ),
        case("an older start stays out", NETWORK, basics::superseded),
        case(
            "a drain waits for subscribers",
            HOLDERS,
            drains::acknowledged,
        ),
        case("a drain outlasts who hangs", HOLDERS, drains::overdue),
        case("a drain waits for who lingers", HOLDERS, drains::lingering),
        case("an operator drains a node", HOLDERS, drains::operator),
        case("a drain that nobody watches", REGISTER, drains::unwatched),
    ]
}

/// What happens to nodes, networks and registries.
fn faults<F: Fixture>() -> Vec<Case<F>> {
    vec![
        case("a killed node goes", REGISTER, losses::killed),
        case(
            "mass expiry is doubted, then believed",
            NETWORK,
            losses::mass_expiry,
        ),
        case(
            "black hole: fenced before evicted",
            NETWORK,
            network::black_hole,
        ),
        case(
            "cut within the lease loses nothing",
            NETWORK,
            network::short_cut,
        ),
        case(
            "cut beyond the lease: registered again",
            NETWORK,
            network::long_cut,
        ),
        case(
            "a node leaves while the registry is away",
            NETWORK,
            network::left_while_away,
        ),
        case("a gap is caught up", NETWORK, network::gap),
        case(
            "a read that is lost is made again",
            NETWORK,
            network::lost_reads,
        ),
        case("a slow registry is borne", NETWORK, network::slow),
        case(
            "one that answers nonsense is borne",
            NETWORK,
            network::nonsense,
        ),
        alone("absent at start", NOTHING, sources::absent),
        alone(
            "restart longer than the lease",
            REGISTER,
            sources::long_restart,
        ),
        alone("views outlive the registry", NOTHING, sources::lost),
        case("emptied by hand, nodes come back", REGISTER, sources::wiped),
        alone(
            "emptied by hand is doubted, then believed",
            NOTHING,
            sources::emptied,
        ),
        case("foreign data is skipped", NOTHING, sources::foreign),
        alone("restored from a backup", EPOCHS, sources::backup),
        alone("two at once, of which one ends", REGISTER, pairs::ends),
    ]
}
