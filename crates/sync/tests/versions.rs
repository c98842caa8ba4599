//! Peers of an older release: they hear so, in words.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use common::{PATIENCE, Place, append, wait_for_row};
use waystation_base::CallId;
use waystation_net::Address;
use waystation_sync::adapter::MemoryDatabase;
use waystation_sync::codec::id;
use waystation_wire::{Header, encode_into};

/// Sends a frame on a connection of its own, and reads until these words come.
fn hears(place: &Place, header: &Header, body: &[u8], words: &str) {
    let Address::Unix(path) = place.address() else {
        panic!("hubs of tests listen on Unix sockets");
    };
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut frame = Vec::new();
    encode_into(header, body, &mut frame).unwrap();
    stream.write_all(&frame).unwrap();
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&said).contains(words) {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..count]);
    }
}

/// The story: the protocol had got new fields and kept its number. A site of the
/// release before was told that it made no sense, and a publish of it was read with
/// its key's length as a flag.
#[test]
fn peers_of_an_older_release_hear_which_one_the_hub_wants() {
    let place = Place::new();
    let _hub = place.start();
    let table = MemoryDatabase::new();
    let _master = place.site("master", &table);
    // A whole hello of version 1, in one piece: a name, a life, and nothing held.
    let mut hello = vec![0, 1, 1, 0, 4, 0, 0, 0];
    hello.extend(b"room");
    hello.extend([9; 16]);
    hello.push(0);
    let words = "version 1 of the sync protocol, but the hub speaks version 2";
    hears(&place, &Header::push(id::TO_HUB), &hello, words);
    // One of a release to come says more, behind its version.
    hello[2] = 3;
    hello.extend([7; 40]);
    let words = "version 3 of the sync protocol";
    hears(&place, &Header::push(id::TO_HUB), &hello, words);
    // A publish of version 1: tag, length, no key, the payload.
    let payload = append("row", "old");
    let mut publish = 1_u64.to_le_bytes().to_vec();
    publish.extend((payload.len() as u64).to_le_bytes());
    publish.extend([0; 4]);
    publish.extend_from_slice(&payload);
    let header = Header::request(id::PUBLISH_1, CallId(1));
    hears(&place, &header, &publish, "version 1 of publishing");
    // Nothing of that counts, and the hub goes on.
    let client = place.client();
    client.publish(None, &append("row", "1"), PATIENCE).unwrap();
    wait_for_row(&table, "row", "1");
    let status = client.status(PATIENCE).unwrap();
    assert_eq!((status.end, status.sites.len()), (1, 1));
}
