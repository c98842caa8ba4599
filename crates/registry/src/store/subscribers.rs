//! Who watches what, and which version of it each holds, told in the store so
//! that drains can wait for all of them.
//!
//! A client writes a key for each of its watches, attached to one lease. Before
//! it shows a watch its first view that key is there, so that no drain overlooks
//! it. What a watch holds is written at once while the service has an instance
//! that drains, and with the next sign of life else: nobody waits for it then.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waystation_base::{Epoch, ServiceName};
use waystation_membership::{InstanceId, SubscriberId, ViewVersion, Watch};

use crate::draining::Draining;
use crate::registry::Holder;

/// What a subscriber's key says.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Form {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    /// The process that it is in, for people.
    #[serde(default)]
    process: String,
    /// The instance that the same client registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(default)]
    holds: BTreeMap<String, HoldsForm>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct HoldsForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acknowledged: Option<String>,
}

/// What a subscriber holds of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Holds {
    sent: Option<ViewVersion>,
    acknowledged: Option<ViewVersion>,
}

/// A subscriber as it stands in the store.
#[derive(Debug, PartialEq)]
pub(crate) struct Subscriber {
    id: SubscriberId,
    watch: Watch,
    process: String,
    node: Option<InstanceId>,
    holds: BTreeMap<ServiceName, Holds>,
}

#[derive(Debug)]
struct Own {
    subscriber: Subscriber,
    is_written: bool,
    /// Whether it waits for its first views.
    is_new: bool,
    /// Whether it is to stand in the store for a while after this client.
    lingers: bool,
}

/// The subscribers of this client.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    own: BTreeMap<SubscriberId, Own>,
    gone: BTreeSet<SubscriberId>,
    /// The instances that drain.
    pub(crate) draining: Draining,
    /// The instance that this client registered first.
    node: Option<InstanceId>,
    /// The lease that the keys are attached to.
    pub(crate) lease: Option<i64>,
}

impl Subscribers {
    /// Somebody watches from now on, and waits for its first views.
    pub(crate) fn subscribe(&mut self, id: SubscriberId, watch: Watch) {
        let subscriber = Subscriber {
            id,
            watch,
            process: std::process::id().to_string(),
            node: self.node.clone(),
            holds: BTreeMap::new(),
        };
        let own = Own {
            subscriber,
            is_written: false,
            is_new: true,
            lingers: false,
        };
        self.own.insert(id, own);
        self.gone.remove(&id);
    }

    pub(crate) fn unsubscribe(&mut self, id: SubscriberId) {
        if self.own.remove(&id).is_some() {
            self.gone.insert(id);
        }
    }

    /// It is over, and stays what it was until the client closes.
    pub(crate) fn linger(&mut self, id: SubscriberId) {
        if let Some(own) = self.own.get_mut(&id) {
            own.lingers = true;
        }
    }

    /// The client closes: all go but those that linger. Whether there are any.
    pub(crate) fn close(&mut self) -> bool {
        let over = self.own.extract_if(.., |_, own| !own.lingers);
        self.gone.extend(over.map(|(id, _)| id));
        self.lingers()
    }

    /// Whether any are to stand in the store for a while after this client.
    pub(crate) fn lingers(&self) -> bool {
        self.own.values().any(|own| own.lingers)
    }

    /// This client registers an instance, by whose id people know it. The first
    /// one counts: with each change all is written again.
    pub(crate) fn set_node(&mut self, id: &InstanceId) {
        if self.node.is_none() {
            self.change_node(Some(id.clone()));
        }
    }

    /// This client's registration of an instance is over.
    pub(crate) fn unset_node(&mut self, id: &InstanceId) {
        if self.node.as_ref() == Some(id) {
            self.change_node(None);
        }
    }

    fn change_node(&mut self, node: Option<InstanceId>) {
        for own in self.own.values_mut() {
            own.subscriber.node.clone_from(&node);
            own.is_written = false;
        }
        self.node = node;
    }

    /// A version was pushed. True when somebody may wait to hear of it.
    pub(crate) fn sent(
        &mut self,
        id: SubscriberId,
        service: &ServiceName,
        at: ViewVersion,
    ) -> bool {
        self.note(id, service, |holds| holds.sent = Some(at))
    }

    /// A version is seen by callers. True when somebody may wait to hear of it.
    pub(crate) fn acknowledged(
        &mut self,
        id: SubscriberId,
        service: &ServiceName,
        at: ViewVersion,
    ) -> bool {
        self.note(id, service, |holds| holds.acknowledged = Some(at))
    }

    fn note(
        &mut self,
        id: SubscriberId,
        service: &ServiceName,
        change: impl FnOnce(&mut Holds),
    ) -> bool {
        let Some(own) = self.own.get_mut(&id) else {
            return false;
        };
        change(own.subscriber.holds.entry(service.clone()).or_default());
        own.is_written = false;
        self.draining.is_any(service)
    }

    /// Everything has to be written again: the lease was lost.
    pub(crate) fn lose(&mut self) {
        self.lease = None;
        self.gone.clear();
        for own in self.own.values_mut() {
            own.is_written = false;
        }
    }

    /// Whether something is to be written or deleted.
    #[cfg(test)]
    pub(crate) fn has_news(&self) -> bool {
        !self.gone.is_empty() || self.own.values().any(|own| !own.is_written)
    }

    /// The store does not take what is to be written.
    pub(crate) fn do_without(&mut self) {
        self.gone.clear();
        for own in self.own.values_mut() {
            own.is_written = true;
        }
    }

    /// At most so many subscribers to write, with their values, or to delete
    /// without one. They count as written from here on.
    pub(crate) fn take(&mut self, max: usize) -> Vec<(SubscriberId, Option<Vec<u8>>)> {
        let mut taken = Vec::new();
        while let Some(id) = self.gone.pop_first() {
            taken.push((id, None));
            if taken.len() >= max {
                return taken;
            }
        }
        let unwritten = self.own.values_mut().filter(|own| !own.is_written);
        for own in unwritten.take(max - taken.len()) {
            own.is_written = true;
            let id = own.subscriber.id;
            taken.push((id, Some(own.subscriber.value())));
        }
        taken
    }

    /// Nobody knows whether these were written or deleted: they are to be once more.
    fn put_back(&mut self, taken: &[SubscriberId]) {
        for id in taken {
            match self.own.get_mut(id) {
                Some(own) => own.is_written = false,
                None => drop(self.gone.insert(*id)),
            }
        }
    }

    /// Who waits for its first views, and stands in the store.
    pub(crate) fn take_new(&mut self) -> Vec<(SubscriberId, Watch)> {
        let new = self.own.values_mut();
        let new = new.filter(|own| own.is_new && own.is_written);
        let new = new.map(|own| {
            own.is_new = false;
            (own.subscriber.id, own.subscriber.watch.clone())
        });
        new.collect()
    }
}

/// Subscribers that are being written. Unless that comes to its end they count as
/// not written: the store did not answer, or who wrote them is gone.
pub(super) struct Writing<'a> {
    subscribers: &'a RefCell<Subscribers>,
    taken: Vec<SubscriberId>,
}

impl<'a> Writing<'a> {
    /// These were taken and are being written.
    pub(super) fn begin(
        subscribers: &'a RefCell<Subscribers>,
        taken: &[(SubscriberId, Option<Vec<u8>>)],
    ) -> Self {
        let taken = taken.iter().map(|(id, _)| *id).collect();
        Self { subscribers, taken }
    }

    /// The store has taken all of them.
    pub(super) fn end(mut self) {
        self.taken.clear();
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.taken.is_empty() {
            self.subscribers.borrow_mut().put_back(&self.taken);
        }
    }
}

impl Subscriber {
    fn value(&self) -> Vec<u8> {
        let text = |version: Option<ViewVersion>| version.map(|version| version.to_string());
        let (service, prefix) = match &self.watch {
            Watch::Service(service) => (Some(service.to_string()), None),
            Watch::Prefix(prefix) => (None, Some(prefix.to_string())),
        };
        let holds = self.holds.iter().map(|(service, holds)| {
            let form = HoldsForm {
                sent: text(holds.sent),
                acknowledged: text(holds.acknowledged),
            };
            (service.to_string(), form)
        });
        let form = Form {
            service,
            prefix,
            process: self.process.clone(),
            node: self.node.as_ref().map(ToString::to_string),
            holds: holds.collect(),
        };
        serde_json::to_vec(&form).expect("texts are JSON")
    }

    /// The subscriber that stands so, if that makes sense.
    pub(crate) fn read(id: SubscriberId, value: &[u8]) -> Option<Self> {
        let form: Form = serde_json::from_slice(value).ok()?;
        let watch = match (form.service, form.prefix) {
            (Some(service), None) => Watch::Service(ServiceName::new(&service).ok()?),
            (None, Some(prefix)) => Watch::Prefix(prefix.into()),
            _ => return None,
        };
        let mut holds = BTreeMap::new();
        for (service, form) in form.holds {
            let service = ServiceName::new(&service).ok()?;
            let version = |text: Option<String>| text.as_deref().and_then(version);
            let of_service = Holds {
                sent: version(form.sent),
                acknowledged: version(form.acknowledged),
            };
            holds.insert(service, of_service);
        }
        Some(Self {
            id,
            watch,
            process: form.process,
            node: form.node.and_then(|node| InstanceId::new(&node).ok()),
            holds,
        })
    }

    /// Whether it watches `service` and its callers may not see `at` yet.
    pub(crate) fn is_behind(&self, service: &ServiceName, at: ViewVersion) -> bool {
        let held = self.holds.get(service).and_then(|holds| holds.acknowledged);
        self.watch.covers(service) && held < Some(at)
    }

    /// What it holds of a service, if it watches that.
    pub(crate) fn holder(&self, service: &ServiceName) -> Option<Holder> {
        self.watch.covers(service).then(|| {
            let holds = self.holds.get(service).copied().unwrap_or_default();
            Holder {
                subscriber: self.id,
                sent: holds.sent,
                acknowledged: holds.acknowledged,
                peer: Some(format!("process {}", self.process)),
                node: self.node.clone(),
            }
        })
    }
}

fn version(text: &str) -> Option<ViewVersion> {
    let (epoch, number) = text.split_once('.')?;
    Some(ViewVersion {
        epoch: Epoch(epoch.parse().ok()?),
        number: number.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use waystation_membership::State;

    use super::*;
    use crate::test_support::instance;

    fn service(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    fn at(number: u64) -> ViewVersion {
        let epoch = Epoch(2);
        ViewVersion { epoch, number }
    }

    fn read(taken: &[(SubscriberId, Option<Vec<u8>>)]) -> Subscriber {
        let (id, value) = &taken[0];
        Subscriber::read(*id, value.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn a_subscriber_stands_in_the_store_before_it_is_shown_anything() {
        let mut all = Subscribers::default();
        all.subscribe(SubscriberId(7), Watch::Service(service("a")));
        assert_eq!(all.take_new(), []);
        let taken = all.take(10);
        assert_eq!(taken.len(), 1);
        let stands = read(&taken);
        assert!(stands.is_behind(&service("a"), at(1)));
        assert!(!stands.is_behind(&service("b"), at(1)), "it does not watch");
        assert_eq!(all.take_new().len(), 1);
        assert_eq!(all.take_new(), []);
        assert_eq!(all.take(10), []);
    }

    #[test]
    fn what_it_holds_is_urgent_while_an_instance_drains() {
        let mut all = Subscribers::default();
        let id = SubscriberId(7);
        all.subscribe(id, Watch::Prefix("".into()));
        assert!(!all.sent(id, &service("a"), at(3)));
        let mut drains = instance("a", "a-1");
        drains.state = State::Draining;
        all.draining.put(&drains);
        assert!(all.sent(id, &service("a"), at(4)));
        assert!(!all.sent(id, &service("b"), at(4)));
        let stands = read(&all.take(10));
        assert!(stands.is_behind(&service("a"), at(4)));
        assert!(all.acknowledged(id, &service("a"), at(4)));
        let stands = read(&all.take(10));
        assert!(!stands.is_behind(&service("a"), at(4)));
        assert!(stands.is_behind(&service("a"), at(5)));
        let holder = stands.holder(&service("a")).unwrap();
        assert_eq!(
            (holder.sent, holder.acknowledged),
            (Some(at(4)), Some(at(4)))
        );
        all.draining.take_out(&drains.service, &drains.id);
        assert!(!all.acknowledged(id, &service("a"), at(5)));
    }

    #[test]
    fn who_is_gone_is_deleted_and_a_lost_lease_writes_all_again() {
        let mut all = Subscribers::default();
        for id in 1..=3 {
            all.subscribe(SubscriberId(id), Watch::Prefix("".into()));
        }
        assert_eq!(all.take(2).len(), 2, "a bounded number at once");
        assert_eq!(all.take(2).len(), 1);
        all.unsubscribe(SubscriberId(2));
        assert_eq!(all.take(2), [(SubscriberId(2), None)]);
        all.lose();
        assert_eq!(all.take(9).len(), 2);
    }

    /// A write that had no answer counted as one that was made. A drain waited for an
    /// acknowledgement that was never written again, and for who was gone, until its
    /// time was over.
    #[test]
    fn what_was_not_written_is_written_once_more() {
        let all = RefCell::new(Subscribers::default());
        let [stays, goes] = [SubscriberId(1), SubscriberId(2)];
        for id in [stays, goes] {
            let mut all = all.borrow_mut();
            all.subscribe(id, Watch::Prefix("".into()));
        }
        let write = |is_answered: bool| {
            let taken = all.borrow_mut().take(9);
            let writing = Writing::begin(&all, &taken);
            if is_answered {
                writing.end();
            }
            taken
        };
        let first = write(false);
        assert_eq!(first.len(), 2);
        assert_eq!(all.borrow_mut().take_new(), [], "they may not stand there");
        assert_eq!(write(true), first);
        assert!(!all.borrow().has_news());
        assert_eq!(all.borrow_mut().take_new().len(), 2);
        all.borrow_mut().unsubscribe(goes);
        all.borrow_mut().acknowledged(stays, &service("a"), at(3));
        let second = write(false);
        assert_eq!(second[0], (goes, None));
        assert!(!read(&second[1..]).is_behind(&service("a"), at(3)));
        assert_eq!(write(true), second);
        assert!(!all.borrow().has_news());
    }

    #[test]
    fn who_lingers_stays_behind_when_its_client_closes() {
        let mut all = Subscribers::default();
        for id in 1..=3 {
            all.subscribe(SubscriberId(id), Watch::Prefix("".into()));
        }
        assert_eq!(all.take(9).len(), 3);
        all.linger(SubscriberId(2));
        all.linger(SubscriberId(4));
        assert!(all.lingers());
        assert_eq!(all.take(9), []);
        assert!(all.close());
        assert_eq!(
            all.take(9),
            [(SubscriberId(1), None), (SubscriberId(3), None)]
        );
        all.unsubscribe(SubscriberId(2));
        assert!(!all.close());
    }

    /// Story: the holders of a version were told by addresses and process ids,
    /// and nobody knew whose they were.
    #[test]
    fn a_subscriber_goes_by_the_first_instance_of_its_client() {
        let mut all = Subscribers::default();
        all.subscribe(SubscriberId(7), Watch::Service(service("a")));
        let node_of = |taken: &[_]| read(taken).holder(&service("a")).unwrap().node;
        assert_eq!(node_of(&all.take(9)), None);
        let (first, second) = ("a-1".parse().unwrap(), "a-2".parse().unwrap());
        all.set_node(&first);
        all.set_node(&second);
        assert_eq!(node_of(&all.take(9)), Some(first.clone()));
        assert!(!all.has_news());
        all.unset_node(&second);
        assert!(!all.has_news());
        all.unset_node(&first);
        assert_eq!(node_of(&all.take(9)), None);
    }

    #[test]
    fn nonsense_is_no_subscriber() {
        let id = SubscriberId(1);
        for value in [
            "",
            "{}",
            r#"{"service":"A B"}"#,
            r#"{"service":"a","prefix":""}"#,
        ] {
            assert_eq!(Subscriber::read(id, value.as_bytes()), None);
        }
        let good = br#"{"service":"a","holds":{"a":{"acknowledged":"x"}}}"#;
        let one = Subscriber::read(id, good).unwrap();
        assert!(one.is_behind(&service("a"), at(1)));
    }
}
