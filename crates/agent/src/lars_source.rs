//! Routes from a route server of Lars: pairs only, by its own protocol.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waystation_base::{Backoff, BackoffConfig, Epoch, Moment, ServiceName, hash64};
use waystation_client::machine_now;
use waystation_membership::{
    Address, Content, Follower, FollowerConfig, FollowerOutput, Instance, InstanceId, LarsPair,
    Lifetime, Owner, SubscriberId, View, ViewVersion, Watch,
};
use waystation_net::{Label, Shard, until};
use waystation_wire::lars::{GetRouteRequest, GetRouteResponse, HostInfo, Message, Scan, scan};

use crate::desk::Desk;
use crate::limits::{LARS_PAUSE_MAX, LARS_WAIT, ROUTE_LOOK};
use crate::routes::Origin;

/// A pair that is asked for.
struct Asked {
    pair: LarsPair,
    /// Keeps for a while, as suspects, what is lost all at once.
    follower: Follower,
    /// Counts what the server said of it.
    number: u64,
    sent_at: Option<Moment>,
    /// The first question that the server has not answered yet.
    unanswered: Option<Moment>,
    /// Whether the server said anything of it over this connection.
    is_live: bool,
    /// Whether the server said anything of it since the start.
    is_heard: bool,
}

/// A route server of Lars, and what is asked of it.
struct LarsSource {
    shard: Shard,
    desk: Rc<RefCell<Desk>>,
    at: SocketAddr,
    epoch: Epoch,
    by_service: BTreeMap<ServiceName, Asked>,
    restored: BTreeMap<ServiceName, View>,
    is_connected: bool,
    /// The age at which a route is asked for again.
    refresh: Duration,
}

/// Asks the server for what is wanted here, for ever.
pub(crate) fn start(shard: &Shard, desk: &Rc<RefCell<Desk>>, at: SocketAddr, restored: Vec<View>) {
    let epoch = restored.iter().map(|view| view.at.epoch.0).max();
    let mut source = LarsSource {
        shard: shard.clone(),
        desk: Rc::clone(desk),
        at,
        epoch: Epoch(epoch.unwrap_or(0).saturating_add(1)),
        by_service: BTreeMap::new(),
        restored: BTreeMap::new(),
        is_connected: false,
        refresh: desk.borrow().lars_refresh(),
    };
    for view in restored {
        desk.borrow_mut().want(machine_now(), &view.service);
        source.restored.insert(view.service.clone(), view);
    }
    shard.spawn(Label::of("lars routes"), async move {
        let shard = source.shard.clone();
        tokio::select! {
            () = shard.drain_begun() => {}
            () = source.run() => {}
        }
    });
}

impl LarsSource {
    async fn run(&mut self) {
        let config = BackoffConfig {
            max: LARS_PAUSE_MAX,
            ..BackoffConfig::default()
        };
        let mut backoff = Backoff::new(config, self.shard.random());
        loop {
            let deadline = self.shard.now() + LARS_WAIT;
            let connected = until(&self.shard, deadline, TcpStream::connect(self.at)).await;
            let fault = match connected {
                Ok(Ok(stream)) => {
                    let heard = self.serve(stream, &mut backoff).await;
                    heard.unwrap_or_else(|fault| fault)
                }
                Ok(Err(fault)) => fault,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            tracing::warn!(at = %self.at, %fault, "the route server of Lars is lost; routes stay");
            self.is_connected = false;
            for asked in self.by_service.values_mut() {
                asked.follower.handle_disconnected();
                asked.sent_at = None;
                asked.unanswered = None;
                asked.is_live = false;
            }
            self.show();
            self.wait(backoff.next_delay()).await;
        }
    }

    /// Waits without a server; what is on disk is shown meanwhile.
    async fn wait(&mut self, pause: Duration) {
        let news = self.desk.borrow().asking().news();
        let end = self.shard.now() + pause;
        loop {
            self.take_new();
            tokio::select! {
                () = news.notified() => {}
                () = self.shard.sleep_until(end) => return,
            }
        }
    }

    /// Follows one connection to its end.
    async fn serve(&mut self, stream: TcpStream, backoff: &mut Backoff) -> io::Result<io::Error> {
        let _ = stream.set_nodelay(true);
        let (mut reading, mut writing) = stream.into_split();
        let news = self.desk.borrow().asking().news();
        let shard = self.shard.clone();
        let mut received = Vec::new();
        let mut piece = vec![0; 16 * 1024];
        self.is_connected = true;
        let now = machine_now();
        for asked in self.by_service.values_mut() {
            asked.follower.handle_connected(now);
        }
        loop {
            self.take_new();
            let questions = self.questions();
            if !questions.is_empty() {
                let deadline = shard.now() + LARS_WAIT;
                let written = until(&shard, deadline, writing.write_all(&questions)).await;
                written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            }
            let Some(left) = self.patience() else {
                return Ok(io::ErrorKind::TimedOut.into());
            };
            tokio::select! {
                count = reading.read(&mut piece) => match count? {
                    0 => return Ok(io::ErrorKind::UnexpectedEof.into()),
                    count => received.extend_from_slice(&piece[..count]),
                },
                () = news.notified() => {}
                () = shard.sleep(left.min(ROUTE_LOOK)) => {}
            }
            // An answer may come in any number of pieces.
            while let Scan::Frame(frame) = scan(&received).map_err(io::Error::other)? {
                if let Ok(Message::GetRouteResponse(route)) = Message::parse(frame.id, frame.body) {
                    self.handle_route(&route);
                    backoff.reset();
                }
                let length = frame.len();
                received.drain(..length);
            }
            self.handle_time();
            self.show();
        }
    }

    /// Begins with what somebody wants for the first time.
    fn take_new(&mut self) {
        let new = self.desk.borrow_mut().asking_mut().take_new();
        for service in new {
            let Some(pair) = LarsPair::of_service(&service) else {
                // Lars knows no names.
                self.desk.borrow_mut().asking_mut().forget(&service);
                continue;
            };
            let watch = Watch::Service(service.clone());
            let mut follower = Follower::new(SubscriberId(0), watch, FollowerConfig::default());
            if let Some(view) = self.restored.remove(&service) {
                follower.restore(view);
            }
            if self.is_connected {
                follower.handle_connected(machine_now());
            }
            let asked = Asked {
                pair,
                follower,
                number: 0,
                sent_at: None,
                unanswered: None,
                is_live: false,
                is_heard: false,
            };
            self.by_service.insert(service, asked);
        }
        self.show();
    }

    /// How long answers are waited for from now on; none when one is overdue. A
    /// route server of Lars answers every question, so that one which is silent is
    /// lost, though its connection may stay open for a quarter of an hour.
    fn patience(&self) -> Option<Duration> {
        let now = machine_now();
        let oldest = self.by_service.values().filter_map(|one| one.unanswered);
        let waited = oldest.min().map(|since| now.saturating_since(since));
        let left = LARS_WAIT.checked_sub(waited.unwrap_or_default())?;
        (!left.is_zero()).then_some(left)
    }

    /// Questions that are due, as frames.
    fn questions(&mut self) -> Vec<u8> {
        let now = machine_now();
        let mut out = Vec::new();
        for asked in self.by_service.values_mut() {
            let is_fresh = |at: Moment| now.saturating_since(at) < self.refresh;
            if asked.sent_at.is_some_and(is_fresh) {
                continue;
            }
            asked.sent_at = Some(now);
            asked.unanswered.get_or_insert(now);
            let LarsPair { modid, cmdid } = asked.pair;
            let question = Message::GetRouteRequest(GetRouteRequest { modid, cmdid });
            question.encode_into(&mut out).expect("two numbers fit");
        }
        out
    }

    /// An answer or a push. One about what nobody wants is nobody's.
    fn handle_route(&mut self, route: &GetRouteResponse) {
        let pair = LarsPair {
            modid: route.modid,
            cmdid: route.cmdid,
        };
        let service = pair.service();
        let Some(asked) = self.by_service.get_mut(&service) else {
            return;
        };
        asked.number += 1;
        asked.is_heard = true;
        asked.is_live = true;
        asked.unanswered = None;
        let at = ViewVersion {
            epoch: self.epoch,
            number: asked.number,
        };
        let view = view_of(pair, at, &route.hosts);
        let content = Content::View(Arc::new(view));
        asked.follower.handle_push(machine_now(), &content);
    }

    /// Ends guards whose time is over, and forgets what nobody wants.
    fn handle_time(&mut self) {
        let now = machine_now();
        let desk = &self.desk;
        self.by_service.retain(|service, asked| {
            if asked.follower.poll_timeout().is_some_and(|at| at <= now) {
                asked.follower.handle_timeout(now);
            }
            !desk.borrow_mut().forget_unwanted(now, service)
        });
    }

    /// Shows callers what is new, and where it comes from.
    fn show(&mut self) {
        let mut desk = self.desk.borrow_mut();
        for (service, asked) in &mut self.by_service {
            while let Some(output) = asked.follower.poll_output() {
                if let FollowerOutput::Changed { view, .. } = output {
                    desk.handle_view(machine_now(), &view);
                }
            }
            let origin = match (asked.is_heard, asked.is_live) {
                (false, _) => Origin::Disk,
                (true, true) => Origin::Live,
                (true, false) => Origin::Kept,
            };
            desk.asking_mut().set_origin(service, origin);
        }
    }
}

/// The hosts of a pair, without those that nobody can connect to.
fn view_of(pair: LarsPair, at: ViewVersion, hosts: &[HostInfo]) -> View {
    let service = pair.service();
    let mut view = View::empty(service.clone(), at);
    for host in hosts {
        let address = address_of(*host).filter(|address| address.validate().is_ok());
        let Some(address) = address else {
            tracing::warn!(%service, ?host, "a host that cannot be connected to is left out");
            continue;
        };
        let text = format!("{service} {address}");
        let id = format!("l-{:016x}", hash64(text.as_bytes()));
        let id = InstanceId::new(&id).expect("digits and letters are an id");
        let mut one = Instance::new(id.clone(), service.clone(), address, Owner::default());
        one.lars = Some(pair);
        one.lifetime = Lifetime::Permanent;
        view.instances.insert(id, Arc::new(one));
    }
    view
}

fn address_of(host: HostInfo) -> Option<Address> {
    let port = u16::try_from(host.port).ok()?;
    let ip: Ipv4Addr = host.address();
    Some(Address::V4(SocketAddrV4::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_nobody_can_connect_to_are_left_out() {
        let pair = LarsPair {
            modid: -5,
            cmdid: 7,
        };
        let good = HostInfo::new(Ipv4Addr::new(200, 0, 0, 1), 80);
        let host = |ip: i32, port: i32| HostInfo { ip, port };
        let hosts = [
            good,
            host(0, 80),
            host(1, 0),
            host(1, -1),
            host(1, 65_536),
            good,
        ];
        let view = view_of(pair, ViewVersion::default(), &hosts);
        assert_eq!(view.instances.len(), 1);
        let one = view.instances.values().next().unwrap();
        assert_eq!(one.address.to_string(), "200.0.0.1:80");
        assert!(one.validate().is_ok());
    }
}
