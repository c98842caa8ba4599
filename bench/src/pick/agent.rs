//! The agent's side: a segment, its keeper, and a socket that hands them over.

use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;
use waystation_balance::{Balancer, BalancerConfig, Load, PolicyKind};
use waystation_base::{Rng, ServiceName};
use waystation_client::protocol::{Answer, Request, service_hash};
use waystation_client::{Access, Mapping, framed, machine_now};
use waystation_membership::{Instance, InstanceId, Owner, View, ViewVersion};
use waystation_segment::{Keeper, RouteWriter, create_ledger, ledger_words};

/// The service that is picked for.
pub(super) const SERVICE: &str = "bench";

/// Whose segment it is.
const OWNER: u64 = 1;

/// What an agent keeps for one service, and one ledger.
pub(super) struct Side {
    keeper: Keeper<Mapping, Mapping>,
    rng: Rng,
    /// The route segment and the ledger.
    pub(super) files: [OwnedFd; 2],
}

impl Side {
    pub(super) fn new(hosts: u32) -> Result<Self> {
        let names = (service_hash(SERVICE), OWNER);
        let capacity = Keeper::<Mapping, Mapping>::capacity_for(hosts as usize);
        let words = RouteWriter::<Mapping>::words(capacity);
        let (memory, routes) = Mapping::create("bench-routes", words, Access::Read)?;
        let writer = RouteWriter::create(memory, capacity, names.0, names.1)?;
        let balancer = Balancer::new(BalancerConfig::default(), PolicyKind::Fresh.build(1), 1);
        let mut keeper = Keeper::new(balancer, writer);
        keeper.handle_view(machine_now(), &view(hosts)?);
        let words = ledger_words(capacity);
        let (memory, ledger) = Mapping::create("bench-ledger", words, Access::Write)?;
        create_ledger(&memory, capacity, names)?;
        keeper.attach(memory)?;
        Ok(Self {
            keeper,
            rng: Rng::from_seed(7),
            files: [routes, ledger],
        })
    }

    /// A turn of the agent, with answers to its probes.
    pub(super) fn handle_turn(&mut self) {
        let now = machine_now();
        self.keeper.handle_turn(now);
        while let Some(name) = self.keeper.poll_probe(now) {
            let load = Load {
                in_flight: u32::try_from(self.rng.below(8)).unwrap_or(0),
                latency_us: 1_000 + u32::try_from(self.rng.below(1_000)).unwrap_or(0),
            };
            let balancer = self.keeper.balancer_mut();
            balancer.handle_probe_answered(now, name, load);
        }
    }
}

fn view(hosts: u32) -> Result<View> {
    let service = ServiceName::new(SERVICE)?;
    let mut view = View::empty(service.clone(), ViewVersion::default());
    for n in 0..hosts {
        let id = InstanceId::new(&format!("host-{n}"))?;
        let address = format!("10.0.{}.{}:7000", n / 250, n % 250 + 1).parse()?;
        let one = Instance::new(id.clone(), service.clone(), address, Owner::default());
        view.instances.insert(id, Arc::new(one));
    }
    Ok(view)
}

/// A socket at which one caller attaches.
pub(super) struct Door {
    _folder: TempDir,
    path: PathBuf,
    listener: UnixListener,
}

impl Door {
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&path)?;
        Ok(Self {
            _folder: folder,
            path,
            listener,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the files to the first who asks, and keeps the connection until that one
    /// is gone: a caller takes its end for the agent's.
    ///
    /// # Errors
    /// It asks for something else.
    pub(super) fn serve(&self, files: &[OwnedFd; 2]) -> Result<()> {
        let (mut stream, _) = self.listener.accept()?;
        loop {
            let mut length = [0; 4];
            if stream.read_exact(&mut length).is_err() {
                return Ok(());
            }
            let mut body = vec![0; usize::try_from(u32::from_le_bytes(length))?];
            stream.read_exact(&mut body)?;
            match serde_json::from_slice(&body).context("no request")? {
                Request::Attach { .. } => attach(&stream, files)?,
                other => bail!("the caller does not pick from shared memory: {other:?}"),
            }
        }
    }
}

fn attach(stream: &UnixStream, files: &[OwnedFd; 2]) -> Result<()> {
    let bytes = framed(&Answer::Attached)?;
    let files = files.each_ref().map(|file| file.as_fd());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(
        stream,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}
