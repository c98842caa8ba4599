//! One registry, or several as one.

use std::sync::Arc;

use waystation_membership::{Instance, InstanceId, Watch};
use waystation_net::Sample;

use crate::client::Client;
use crate::combined::Combined;
use crate::error::Error;
use crate::handle::{Draining, Listing, Registered, Watching};
use crate::registry::{RegistrationOptions, Registry, Session, WatchOptions};
use crate::url::RegistryUrl;

/// A [`Client`] of one registry, or several registries as one: for programs
/// whose users say which. Clones share it.
#[derive(Clone)]
pub struct Registries(Kind);

#[derive(Clone)]
enum Kind {
    One(Client),
    Several(Arc<Combined>),
}

impl Registries {
    /// A client of these, which need not be there yet; a thread each. Blocks
    /// while names of hosts are looked up.
    ///
    /// # Errors
    /// There is no URL, one stands there twice, or its client cannot be started.
    pub fn open(urls: &[RegistryUrl]) -> Result<Self, Error> {
        Ok(Self(match urls {
            [url] => Kind::One(Client::open(url)?),
            urls => Kind::Several(Arc::new(Combined::open(urls)?)),
        }))
    }

    /// Closes it, as [`Client::close`] does, everywhere at a time.
    pub async fn close(&self) {
        match &self.0 {
            Kind::One(client) => client.close().await,
            Kind::Several(combined) => combined.close().await,
        }
    }

    /// Closes it and blocks the thread until that is done, at most
    /// [`CLOSE_WAIT`](crate::limits::CLOSE_WAIT) for each. Not for shards.
    pub fn close_and_wait(&self) {
        match &self.0 {
            Kind::One(client) => client.close_and_wait(),
            Kind::Several(combined) => combined.close_and_wait(),
        }
    }

    /// What a page of metrics shows of each registry, by its URL.
    pub fn samples(&self) -> Vec<(String, Vec<Sample>)> {
        match &self.0 {
            Kind::One(client) => vec![(client.url().to_owned(), client.session().samples())],
            Kind::Several(combined) => {
                let sessions = combined.sessions().into_iter();
                let samples = sessions.map(|(url, session)| (url.to_string(), session.samples()));
                samples.collect()
            }
        }
    }

    fn inner(&self) -> &dyn Registry {
        match &self.0 {
            Kind::One(client) => client,
            Kind::Several(combined) => &**combined,
        }
    }
}

impl From<Client> for Registries {
    fn from(client: Client) -> Self {
        Self(Kind::One(client))
    }
}

impl Registry for Registries {
    fn register(
        &self,
        instance: Instance,
        options: RegistrationOptions,
    ) -> Result<Registered, Error> {
        self.inner().register(instance, options)
    }

    fn watch(&self, watch: Watch, options: WatchOptions) -> Result<Watching, Error> {
        self.inner().watch(watch, options)
    }

    fn list(&self, watch: Watch, with_holders: bool) -> Result<Listing, Error> {
        self.inner().list(watch, with_holders)
    }

    fn drain(&self, id: InstanceId) -> Result<Draining, Error> {
        self.inner().drain(id)
    }

    fn session(&self) -> Session {
        self.inner().session()
    }
}
