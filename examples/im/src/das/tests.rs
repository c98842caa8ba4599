//! What is seen of a Das from outside while its store is busy.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use waystation_net::{Address, NetConfig};
use waystation_service::App;

use super::handlers::DataAccess;
use crate::im::das;
use crate::ousted::Ousted;
use crate::store::{
    Addressees, ChatReader, ChatStore, ConversationState, ConversationsQuery, HistoryQuery,
    MessagePage, StoreError, StoreHandle, StoreOptions, WriteOperation, WriteOutcome,
};

/// Far more than anything here takes; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store whose disk stands still until it is let go; then it fails.
struct Standstill {
    entered: Sender<()>,
    gate: Receiver<()>,
}

/// A reader that has nothing.
struct Nothing;

impl ChatStore for Standstill {
    fn write(&mut self, batch: Vec<WriteOperation>) -> Vec<Result<WriteOutcome, StoreError>> {
        let _ = self.entered.send(());
        let _ = self.gate.recv_timeout(PATIENCE);
        batch.iter().map(|_| Err(StoreError::Closed)).collect()
    }

    fn reader(&self) -> Result<Box<dyn ChatReader>, StoreError> {
        Ok(Box::new(Nothing))
    }
}

impl ChatReader for Nothing {
    fn conversations(
        &mut self,
        _: &ConversationsQuery,
    ) -> Result<Vec<ConversationState>, StoreError> {
        Err(StoreError::Closed)
    }

    fn history(&mut self, _: &HistoryQuery) -> Result<MessagePage, StoreError> {
        Err(StoreError::Closed)
    }

    fn members(&mut self, _: &str) -> Result<Vec<String>, StoreError> {
        Err(StoreError::Closed)
    }

    fn home(&mut self, _: &str) -> Result<String, StoreError> {
        Err(StoreError::Closed)
    }

    fn addressees(&mut self, _: i64) -> Result<Option<Addressees>, StoreError> {
        Err(StoreError::Closed)
    }
}

fn send(socket: &Path, head: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: das\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Under load, `waystation ctx` showed `im.Das/Append` with an empty state and
/// nothing that it waits for, since the handlers awaited the store bare: who
/// looked for the bottleneck found a request that waits for nothing. The disk
/// stands still here while the list is read.
#[test]
fn a_request_that_waits_for_the_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (rpc, admin) = (folder.path().join("rpc"), folder.path().join("admin"));
    let (entered, arrived) = channel();
    let (release, gate) = channel();
    let standstill = Standstill { entered, gate };
    let store = StoreHandle::start(Box::new(standstill), StoreOptions::default()).unwrap();
    let app = App::builder("das-1", NetConfig::default())
        .admin(Address::Unix(admin.clone()))
        .listen(Address::Unix(rpc.clone()), move |router| {
            das::register(
                router,
                Rc::new(DataAccess::new(store.clone(), None, Ousted::default())),
            )
        })
        .start()
        .unwrap();

    let body = r#"{"uid":"ada","conversation":"dm:ada:bob","clientId":"1","body":"aGk="}"#;
    let asked = send(&rpc, "POST /im.Das/Append", body);
    let begun = arrived.recv_timeout(PATIENCE);
    let listed = answer(send(&admin, "GET /api/v1/contexts", ""));
    release.send(()).unwrap();
    let answered = answer(asked);
    app.drain();

    assert_eq!(begun, Ok(()), "{answered}");
    assert!(listed.contains("im.Das/Append"), "{listed}");
    assert!(listed.contains(r#""state":"writing""#), "{listed}");
    let waits = r#""waiting_for":"a commit of the store""#;
    assert!(listed.contains(waits), "{listed}");
    assert!(answered.contains("503"), "{answered}");
}

/// Two Das each took the chat's messages for a while: the one that had lost its
/// place did not care.
#[test]
fn who_has_lost_its_place_writes_nothing_until_it_has_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let rpc = folder.path().join("rpc");
    let (entered, arrived) = channel();
    let (release, gate) = channel();
    let standstill = Standstill { entered, gate };
    let store = StoreHandle::start(Box::new(standstill), StoreOptions::default()).unwrap();
    let ousted = Ousted::default();
    ousted.set(true);
    let heeded = ousted.clone();
    let app = App::builder("das-1", NetConfig::default())
        .listen(Address::Unix(rpc.clone()), move |router| {
            let access = DataAccess::new(store.clone(), None, heeded.clone());
            das::register(router, Rc::new(access))
        })
        .start()
        .unwrap();
    let body = r#"{"uid":"ada","conversation":"dm:ada:bob","clientId":"1","body":"aGk="}"#;
    let append = || send(&rpc, "POST /im.Das/Append", body);
    let refused = answer(append());
    assert!(
        refused.contains("another node has this one's place"),
        "{refused}"
    );
    assert!(arrived.try_recv().is_err(), "it reached the store");
    ousted.set(false);
    let asked = append();
    arrived.recv_timeout(PATIENCE).unwrap();
    release.send(()).unwrap();
    answer(asked);
    app.drain();
}
