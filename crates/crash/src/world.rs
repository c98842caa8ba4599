//! A run: starts everything, kills, starts again, and compares.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use waystation_base::Rng;
use waystation_sync::client::HubClient;
use waystation_sync::hub::{Operation, StatusReport};

use crate::load::Load;
use crate::place::{Place, Role, now, pause};
use crate::report::Report;
use crate::{Options, check, load};

/// Kills between two proofs of equality under load.
const KILLS_PER_PROOF: u32 = 25;

/// Between two looks at something that is to come about.
const LOOK: Duration = Duration::from_millis(50);

/// How long one question to the hub may take; it may be dead.
const ASK: Duration = Duration::from_millis(400);

/// Sites with a copy each.
const COPIES: usize = 4;

const HUB: usize = 0;
const MASTER: usize = 1;
const DONOR: usize = 2;
const APPLIER: usize = 3;
const JOINER: usize = 4;

/// Who is killed how often, in hundredths.
const SHARES: [(usize, u64); 5] = [
    (HUB, 20),
    (MASTER, 15),
    (DONOR, 25),
    (APPLIER, 15),
    (JOINER, 25),
];

struct World<'o> {
    options: &'o Options,
    place: &'o Place,
    rng: Rng,
    roles: [Role; 5],
    client: HubClient,
    report: Report,
}

pub(crate) fn run(options: &Options, tell: &mut dyn FnMut(&str)) -> Result<Report> {
    let mut place = Place::new(&options.binary)?;
    let result = World::new(options, &place).and_then(|world| world.run(tell));
    result.map_err(|error| {
        let path = place.keep().display().to_string();
        error.context(format!("all files and logs are in {path}"))
    })
}

impl<'o> World<'o> {
    fn new(options: &'o Options, place: &'o Place) -> Result<Self> {
        let address: std::net::SocketAddr = place.hub.parse()?;
        Ok(Self {
            options,
            place,
            rng: Rng::from_seed(options.seed),
            roles: [
                place.hub_role(),
                place.site_role("master", &["--capture"]),
                place.site_role("donor", &["--join", "master"]),
                place.site_role("applier", &["--join", "donor"]),
                place.site_role("joiner", &["--join", "donor"]),
            ],
            client: HubClient::start(address.into())?,
            report: Report::new(options),
        })
    }

    fn run(mut self, tell: &mut dyn FnMut(&str)) -> Result<Report> {
        let began = now();
        load::base(&self.place.open("master")?, self.options.rows)?;
        self.start()?;
        let writer = load::write(self.place.open("master")?, self.options.rows);
        let publisher = load::publish(&self.place.hub, self.options.patience)?;
        tell("all sites are live; killing under load");
        let killed = self.kill_all(&writer, tell);
        let (written, published) = (writer.stop(), publisher.stop());
        killed?;
        self.report.written = written?;
        self.report.published = published?;
        tell("the load has stopped; comparing");
        self.compare()?;
        self.report.took = now().saturating_since(began);
        for role in &self.roles {
            self.report.ended += role.ended;
        }
        Ok(self.report)
    }

    /// Waits for something; what is not up is started again meanwhile.
    fn wait_until(
        &mut self,
        what: &str,
        mut is_done: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = now() + self.options.patience;
        loop {
            self.keep_up()?;
            if is_done(self)? {
                return Ok(());
            }
            if now() > deadline {
                bail!("waited in vain until {what}");
            }
            pause(LOOK);
        }
    }

    fn keep_up(&mut self) -> Result<()> {
        for role in &mut self.roles {
            role.keep_up(self.place)?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.wait_until("the master may write", |world| {
            let site = "master".to_owned();
            let granted = world
                .client
                .operate::<Granted>(Operation::Grant { site }, ASK);
            Ok(granted.is_ok())
        })?;
        self.wait_until("all sites are live", |world| Ok(world.are_all_live()))
    }

    fn status(&self) -> Option<StatusReport> {
        self.client.status(ASK).ok()
    }

    fn are_all_live(&self) -> bool {
        let Some(status) = self.status() else {
            return false;
        };
        let live = status
            .sites
            .iter()
            .filter(|one| one.phase == "live" && one.is_connected);
        live.count() == self.roles.len() - 1
    }

    /// The joiner's phase, if the hub answers.
    fn joiner_phase(&self) -> Option<String> {
        let status = self.status()?;
        let joiner = status.sites.into_iter().find(|one| one.name == "joiner")?;
        Some(joiner.phase)
    }

    fn kill_all(&mut self, writer: &Load, tell: &mut dyn FnMut(&str)) -> Result<()> {
        for number in 1..=self.options.kills {
            let rest = self.rng.range(20..500);
            pause(Duration::from_millis(rest));
            self.keep_up()?;
            self.begin_copy();
            self.kill_one()?;
            if number.is_multiple_of(KILLS_PER_PROOF) || number == self.options.kills {
                self.prove()?;
                let copies = self.report.copies;
                let written = writer.done();
                tell(&format!(
                    "{number} kills, {copies} copies, {written} transactions; all copies are equal"
                ));
            }
        }
        Ok(())
    }

    /// Has the joiner take its copy anew, if it is whole.
    fn begin_copy(&mut self) {
        let may = self.rng.chance(0.8);
        let wait = self.rng.range(10..250);
        if !may || self.joiner_phase().as_deref() != Some("live") {
            return;
        }
        // It may have just been started, and not answer yet.
        if self.place.ask_site("rejoin", "joiner").unwrap_or(false) {
            self.report.copies += 1;
            pause(Duration::from_millis(wait));
        }
    }

    fn kill_one(&mut self) -> Result<()> {
        let mut drawn = self.rng.below(100);
        let mut victim = HUB;
        for (role, share) in SHARES {
            victim = role;
            if drawn < share {
                break;
            }
            drawn -= share;
        }
        let is_copying = self.joiner_phase().as_deref() == Some("restoring");
        self.roles[victim].kill();
        self.report.note_kill(self.roles[victim].name, is_copying);
        if victim == JOINER {
            // The master's file is written to while it is copied.
            let donor = if self.rng.chance(0.5) {
                "master"
            } else {
                "donor"
            };
            self.roles[JOINER].set_last_argument(donor);
        }
        let rest = self.rng.below(150);
        pause(Duration::from_millis(rest));
        self.roles[victim].start(self.place)
    }

    /// All sites become live, and prove at one sequence that they are equal, while
    /// writes go on.
    fn prove(&mut self) -> Result<()> {
        self.wait_until("all sites are live again", |world| Ok(world.are_all_live()))?;
        let mut last = String::new();
        let proven = self.wait_until("all copies are proven equal", |world| {
            match world.client.verify(Duration::from_secs(20)) {
                Ok(proof) => {
                    last = format!("{:?}", proof.sites);
                    let differs = proof.sites.iter().find(|one| one.result == "differs");
                    if let Some(site) = differs {
                        bail!("copies differ at {}: {site:?}", proof.at);
                    }
                    Ok(proof.is_equal && proof.sites.len() == COPIES)
                }
                Err(error) => {
                    last = error.to_string();
                    Ok(false)
                }
            }
        });
        proven.with_context(|| last)?;
        self.report.proofs += 1;
        Ok(())
    }

    /// The files as they are once everything has arrived, read by the checker.
    fn compare(&mut self) -> Result<()> {
        let published = self.report.published;
        let mut last = anyhow!("nothing was compared");
        let arrived = self.wait_until("all files are equal", |world| {
            match world.compare_files(published) {
                Ok(rows) => {
                    world.report.rows = rows;
                    Ok(true)
                }
                Err(error) => {
                    last = error;
                    Ok(false)
                }
            }
        });
        if arrived.is_err() {
            return Err(last.context("all files are to be equal in the end"));
        }
        self.prove()?;
        self.compare_files(published).map(drop)
    }

    fn compare_files(&self, published: u64) -> Result<u64> {
        let master = self.place.open("master")?;
        check::tallies(&master, published).context("master")?;
        let mut rows = 0;
        for role in [DONOR, APPLIER, JOINER] {
            let name = self.roles[role].name;
            let copy = self.place.open(name)?;
            rows = check::compare(&master, &copy, &[]).context(name)?;
            check::tallies(&copy, published).context(name)?;
        }
        Ok(rows)
    }
}

/// The hub's answer, of which only that there is one counts.
type Granted = std::collections::BTreeMap<String, bool>;
