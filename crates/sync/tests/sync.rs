//! Hub and sites as they run, over real sockets, files and threads; tables in
//! memory take the place of databases.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use common::{PATIENCE, Place, append, change, row, wait_for_row, wait_until};
use waystation_base::Seq;
use waystation_net::Address;
use waystation_replica::limits::PAYLOAD_BYTES_MAX;
use waystation_sync::adapter::{MemoryChange, MemoryDatabase, MemoryFaults};
use waystation_sync::client::ClientError;
use waystation_sync::codec::id;
use waystation_sync::hub::{HubServer, Operation};
use waystation_wire::{Header, Status, encode_into};

#[test]
fn what_is_published_reaches_every_site_in_order() {
    let place = Place::new();
    let _hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    first.write(&[change("base", "there")]);
    let _master = place.site("master", &first);
    let client = place.client();
    for number in 1..=5 {
        let payload = append("row", &number.to_string());
        let at = client.publish(None, &payload, PATIENCE).unwrap();
        assert_eq!(at.seq, Seq(number));
    }
    wait_for_row(&first, "row", "12345");
    let _room = place.site("room", &second);
    wait_for_row(&second, "row", "12345");
    wait_for_row(&second, "base", "there");
    client.publish(None, &append("row", "6"), PATIENCE).unwrap();
    wait_for_row(&first, "row", "123456");
    wait_for_row(&second, "row", "123456");
    let status = client.status(PATIENCE).unwrap();
    assert_eq!((status.start, status.end), (0, 6));
    let names: Vec<&str> = status.sites.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["master", "room"]);
    assert!(status.sites.iter().all(|one| one.phase == "live"));
}

#[test]
fn a_site_may_join_before_anything_was_published() {
    let place = Place::new();
    let _hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    first.write(&[change("base", "there")]);
    let _master = place.site("master", &first);
    let _room = place.site("room", &second);
    wait_for_row(&second, "base", "there");
    let client = place.client();
    client.publish(None, &append("row", "1"), PATIENCE).unwrap();
    wait_for_row(&second, "row", "1");
    let proof = client.verify(PATIENCE).unwrap();
    assert!(proof.is_equal, "{proof:?}");
}

#[test]
fn the_same_key_is_the_same_entry_after_a_restart_of_the_hub_too() {
    let place = Place::new();
    let hub = place.start();
    let table = MemoryDatabase::new();
    let _master = place.site("master", &table);
    let client = place.client();
    let publish = |key: &str| {
        let payload = append("row", key);
        client.publish(Some(key.as_bytes()), &payload, PATIENCE)
    };
    assert_eq!(publish("a").unwrap().seq, Seq(1));
    assert_eq!(publish("b").unwrap().seq, Seq(2));
    assert_eq!(publish("a").unwrap().seq, Seq(1));
    hub.drain();
    let hub = place.start();
    assert_eq!(publish("b").unwrap().seq, Seq(2));
    assert_eq!(publish("c").unwrap().seq, Seq(3));
    wait_for_row(&table, "row", "abc");
    drop(hub);
}

#[test]
fn sites_go_on_where_they_were_after_any_of_them_started_again() {
    let place = Place::new();
    let hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    let _master = place.site("master", &first);
    let client = place.client();
    client.publish(None, &append("row", "1"), PATIENCE).unwrap();
    let room = place.site("room", &second);
    wait_for_row(&second, "row", "1");
    room.stop();
    client.publish(None, &append("row", "2"), PATIENCE).unwrap();
    let _room = place.site("room", &second);
    wait_for_row(&second, "row", "12");
    drop(hub);
    let _hub = place.start();
    let payload = append("row", "3");
    client.publish(Some(b"k"), &payload, PATIENCE).unwrap();
    wait_for_row(&first, "row", "123");
    wait_for_row(&second, "row", "123");
}

#[test]
fn an_entry_of_the_largest_size_reaches_a_site_and_a_larger_one_is_refused() {
    let place = Place::new();
    let _hub = place.start();
    let table = MemoryDatabase::new();
    let _master = place.site("master", &table);
    let client = place.client();
    // Its kind and two lengths, and the key.
    let value = Bytes::from(vec![7; PAYLOAD_BYTES_MAX - 10]);
    let payload = MemoryChange::encode(&[MemoryChange::Put(b"a".to_vec(), value.clone())]);
    assert_eq!(payload.len(), PAYLOAD_BYTES_MAX);
    let patience = 4 * PATIENCE;
    let at = client.publish(Some(b"large"), &payload, patience).unwrap();
    assert_eq!(at.seq, Seq(1));
    wait_until("the largest entry is there", || {
        row(&table, "a").as_ref() == Some(&value)
    });
    let larger = vec![0; PAYLOAD_BYTES_MAX + 1];
    let refused = client.publish(None, &larger, PATIENCE);
    assert!(matches!(refused, Err(ClientError::TooLong { .. })));
    let empty = client.publish(None, &[], PATIENCE).unwrap();
    assert_eq!(empty.seq, Seq(2));
}

#[test]
fn what_a_target_refuses_or_loses_is_applied_once_all_the_same() {
    let place = Place::new();
    let _hub = place.start();
    let table = MemoryDatabase::new();
    table.set_faults(MemoryFaults {
        // The first ones concern the position that the copy begins with.
        transient: 4,
        committed_and_lost: 4,
        ..MemoryFaults::default()
    });
    let _master = place.site("master", &table);
    let client = place.client();
    for number in 1..=9 {
        let payload = append("row", &number.to_string());
        client.publish(None, &payload, PATIENCE).unwrap();
    }
    wait_for_row(&table, "row", "123456789");
}

#[test]
fn an_entry_that_is_refused_stops_its_site_until_an_operator_acts() {
    let place = Place::new();
    let _hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    let _master = place.site("master", &first);
    let client = place.client();
    client.publish(None, &append("row", "1"), PATIENCE).unwrap();
    let room = place.site("room", &second);
    wait_for_row(&second, "row", "1");
    second.set_faults(MemoryFaults {
        poisoned: [b"bad".to_vec()].into(),
        ..MemoryFaults::default()
    });
    client.publish(None, &append("bad", "x"), PATIENCE).unwrap();
    client.publish(None, &append("row", "2"), PATIENCE).unwrap();
    wait_for_row(&first, "row", "12");
    wait_until("the room is known to stand", || {
        let status = client.status(PATIENCE).unwrap();
        let room = status.sites.iter().find(|one| one.name == "room").unwrap();
        room.applier == "stopped" && room.error.is_some()
    });
    assert_eq!(row(&second, "row").unwrap(), "1");
    second.set_faults(MemoryFaults::default());
    room.resume().unwrap();
    wait_for_row(&second, "row", "12");
    wait_for_row(&second, "bad", "x");
}

#[test]
fn captured_writes_reach_the_others_once_and_do_not_come_back() {
    let place = Place::new();
    let _hub = place.start();
    let (first, second) = (MemoryDatabase::captured(), MemoryDatabase::new());
    let _master = place.site("master", &first);
    let client = place.client();
    client.publish(None, &append("row", "1"), PATIENCE).unwrap();
    wait_for_row(&first, "row", "1");
    let site = "master".to_owned();
    let granted: serde_json::Value = client.operate(Operation::Grant { site }, PATIENCE).unwrap();
    assert_eq!(granted["done"], true);
    for number in 0..20 {
        first.write(&[change("own", &format!("{number};"))]);
    }
    let _room = place.site("room", &second);
    first.write(&[change("own", "end")]);
    let own = row(&first, "own").unwrap();
    let own = std::str::from_utf8(&own).unwrap().to_owned();
    wait_for_row(&second, "own", &own);
    wait_for_row(&second, "row", "1");
    assert_eq!(row(&first, "own").unwrap(), own.as_bytes());
    wait_until("the copies are equal", || {
        client.verify(PATIENCE).unwrap().is_equal
    });
}

#[test]
fn a_proof_under_load_is_about_one_sequence_and_finds_a_row_that_differs() {
    let place = Place::new();
    let _hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    let rows: Vec<MemoryChange> = (0..5000)
        .map(|n| change(&format!("row{n}"), "base"))
        .collect();
    first.write(&rows);
    let _master = place.site("master", &first);
    let _room = place.site("room", &second);
    let client = place.client();
    wait_until("both sites are live", || {
        let status = client.status(PATIENCE).unwrap();
        let live = status.sites.iter().filter(|one| one.phase == "live");
        live.count() == 2
    });
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..300 {
                let payload = append(&format!("row{}", n % 50), "x");
                client.publish(None, &payload, PATIENCE).unwrap();
            }
        });
        for _ in 0..5 {
            let proof = client.verify(PATIENCE).unwrap();
            assert!(proof.is_equal, "{proof:?}");
            assert!(proof.sites.iter().all(|one| one.rows == 5000));
        }
        writer.join().unwrap();
    });
    // Somebody writes to a copy behind the log's back.
    second.write(&[change("row77", "y")]);
    let proof = client.verify(PATIENCE).unwrap();
    assert!(!proof.is_equal);
    // Whichever came to the hub first is what the other is compared with.
    let other = proof.sites.iter().find(|one| one.result == "differs");
    let differing = &other.unwrap_or_else(|| panic!("{proof:?}")).differing;
    assert_eq!(differing.len(), 1, "one range differs");
}

/// The story: a site was away, the others were equal, and `verify` said that all were.
#[test]
fn a_proof_names_a_live_site_that_is_not_connected_and_is_not_equal() {
    let place = Place::new();
    let _hub = place.start();
    let tables = [(); 3].map(|()| MemoryDatabase::new());
    let names = ["master", "room-1", "room-2"].into_iter();
    let sites = names
        .zip(&tables)
        .map(|(name, table)| place.site(name, table));
    let mut sites: Vec<_> = sites.collect();
    let client = place.client();
    client.publish(None, &append("row", "1"), PATIENCE).unwrap();
    for table in &tables {
        wait_for_row(table, "row", "1");
    }
    wait_until("all three are equal", || {
        let proof = client.verify(PATIENCE).unwrap();
        proof.is_equal && proof.sites.len() == 3
    });
    sites.pop().unwrap().stop();
    wait_until("it is known to be away", || {
        let status = client.status(PATIENCE).unwrap();
        status.sites.iter().any(|one| !one.is_connected)
    });
    let proof = client.verify(PATIENCE).unwrap();
    assert!(!proof.is_equal, "{proof:?}");
    let away = proof.sites.iter().find(|one| one.site == "room-2").unwrap();
    assert_eq!(away.result, "failed");
    assert_eq!(away.error.as_deref(), Some("it is not connected"));
    // An operator who has it forgotten asks about the others.
    let site = "room-2".to_owned();
    let forget = Operation::Forget { site };
    client
        .operate::<serde_json::Value>(forget, PATIENCE)
        .unwrap();
    let proof = client.verify(PATIENCE).unwrap();
    assert!(proof.is_equal, "{proof:?}");
}

#[test]
fn a_second_hub_on_the_folder_is_refused() {
    let place = Place::new();
    let _hub = place.start();
    let mut options = place.options.clone();
    options.listen = Address::Unix(place.folder.path().join("other.sock"));
    let refused = HubServer::start(&options).err().unwrap();
    let source = std::error::Error::source(&refused).unwrap();
    let source = std::error::Error::source(source).unwrap();
    assert!(source.to_string().contains("another hub"), "{source}");
}

#[test]
fn a_second_master_is_refused_and_stays_as_it_was() {
    let place = Place::new();
    let _hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    let _master = place.site("master", &first);
    let client = place.client();
    client.publish(None, &append("row", "1"), PATIENCE).unwrap();
    wait_for_row(&first, "row", "1");
    let other = place.site("master", &second);
    wait_until("the second master is refused", || {
        other.view().unwrap().is_barred
    });
    assert!(second.rows().is_empty());
}

/// The hub was told of the next copy before the target knew that the old one is given
/// up. Killed in between, the site came back with the old one, and was refused.
#[test]
fn a_hub_hears_of_the_next_copy_only_when_the_old_one_is_given_up() {
    let place = Place::new();
    let _hub = place.start();
    let (first, second) = (MemoryDatabase::new(), MemoryDatabase::new());
    first.write(&[change("base", "there")]);
    let _master = place.site("master", &first);
    let room = place.site("room", &second);
    wait_for_row(&second, "base", "there");
    // Nothing can be written to it for a while.
    second.set_faults(MemoryFaults {
        transient: 2,
        ..MemoryFaults::default()
    });
    room.begin_rejoin().unwrap();
    room.stop();
    // Whether it was given up or not: it is one copy to the hub and to itself.
    let room = place.site("room", &second);
    let client = place.client();
    client.publish(None, &append("row", "1"), PATIENCE).unwrap();
    wait_for_row(&second, "row", "1");
    assert!(!room.view().unwrap().is_barred);
    room.rejoin().unwrap();
    client.publish(None, &append("row", "2"), PATIENCE).unwrap();
    wait_for_row(&second, "row", "12");
    wait_until("the copies are equal", || {
        client.verify(PATIENCE).unwrap().is_equal
    });
}

/// One HTTP request on a connection of its own: the answer's head and body.
fn http(place: &Place, request: &str) -> String {
    let Address::Unix(path) = place.address() else {
        panic!("hubs of tests listen on Unix sockets");
    };
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn http_publishes_and_tells_the_status() {
    let place = Place::new();
    let hub = place.start();
    let publish = "POST /v1/publish HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\
        idempotency-key: k1\r\ncontent-length: 5\r\n\r\nhello";
    let epoch = hub.epoch().0;
    for _ in 0..2 {
        let answer = http(&place, publish);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let body = format!("{{\"epoch\":{epoch},\"seq\":1}}");
        assert!(answer.ends_with(&body), "{answer}");
    }
    let get = "GET /v1/status HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n";
    let answer = http(&place, get);
    assert!(answer.contains("\"end\":1"), "{answer}");
    let long = "k".repeat(65);
    let refused = publish.replace("k1", &long);
    assert!(http(&place, &refused).starts_with("HTTP/1.1 400"));
    let unknown = get.replace("/v1/status", "/v1/nothing");
    assert!(http(&place, &unknown).starts_with("HTTP/1.1 404"));
}

/// The story: payloads of more than 1 MiB were refused by HTTP, and by nothing else.
#[test]
fn http_takes_the_largest_entry_and_refuses_a_larger_one() {
    let place = Place::new();
    let _hub = place.start();
    let Address::Unix(path) = place.address() else {
        panic!("hubs of tests listen on Unix sockets");
    };
    for (length, code) in [(PAYLOAD_BYTES_MAX, 200), (PAYLOAD_BYTES_MAX + 1, 413)] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(4 * PATIENCE)).unwrap();
        let head = format!(
            "POST /v1/publish HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // It may be cut off once the answer is out.
        let _ = stream.write_all(&vec![7; length]);
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        let answer = std::str::from_utf8(&answer).unwrap();
        assert_eq!(answer, format!("HTTP/1.1 {code}"));
    }
    let status = place.client().status(PATIENCE).unwrap();
    assert_eq!(status.end, 1);
}

/// The story: `NOW()` was refused by the command only. What came by HTTP or from a
/// program was durable, and every site stood at it.
#[test]
fn statements_that_would_differ_are_refused_however_they_come() {
    let place = Place::new();
    let _hub = place.start();
    let client = place.client();
    let statement = "UPDATE t SET at = NOW()";
    // More than is looked at in passing.
    let long = format!("{statement} WHERE name = '{}'", "x".repeat(8 << 10));
    // It is no matter what comes before it.
    let behind = format!("BEGIN; {statement}; COMMIT");
    for sql in [statement, &long, &behind] {
        let refused = client.publish(None, sql.as_bytes(), PATIENCE);
        let invalid = Status::InvalidRequest;
        assert!(
            matches!(&refused, Err(ClientError::Refused { status, text })
                if *status == invalid && text.contains("now()")),
            "{refused:?}"
        );
    }
    let request = |header: &str| {
        let length = statement.len();
        format!(
            "POST /v1/publish HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n{header}\
             content-length: {length}\r\n\r\n{statement}"
        )
    };
    let answer = http(&place, &request(""));
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(client.status(PATIENCE).unwrap().end, 0);
    // Whoever wants it all the same gets it.
    let answer = http(&place, &request("allow-nondeterministic: true\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let client = client.allow_nondeterministic();
    let at = client.publish(None, long.as_bytes(), PATIENCE).unwrap();
    assert_eq!(at.seq, Seq(2));
    let same = "UPDATE t SET n = n + 1";
    let client = place.client();
    assert_eq!(
        client.publish(None, same.as_bytes(), PATIENCE).unwrap().seq,
        Seq(3)
    );
}

#[test]
fn trimming_keeps_what_a_site_lacks_and_an_unknown_site_is_named() {
    let place = Place::new();
    let _hub = place.start();
    let table = MemoryDatabase::new();
    let _master = place.site("master", &table);
    let client = place.client();
    for _ in 0..4 {
        client.publish(None, &append("row", "x"), PATIENCE).unwrap();
    }
    wait_until("all is applied and may go", || {
        let trimmed = client.trim(PATIENCE).unwrap();
        trimmed.through == 4 && trimmed.end == 4
    });
    let site = "nobody".to_owned();
    let refused = client.operate::<serde_json::Value>(Operation::Forget { site }, PATIENCE);
    assert!(matches!(
        refused,
        Err(ClientError::Refused { status: Status::NotFound, text }) if text.contains("nobody")
    ));
    // One that is there would serve on, and be given nothing.
    let site = "master".to_owned();
    let refused = client.operate::<serde_json::Value>(Operation::Forget { site }, PATIENCE);
    assert!(matches!(
        refused,
        Err(ClientError::Refused { status: Status::Conflict, text }) if text.contains("stop it")
    ));
    client.publish(None, &append("row", "y"), PATIENCE).unwrap();
    wait_for_row(&table, "row", "xxxxy");
}

#[test]
fn sites_on_several_shards_receive_the_same_entries() {
    let mut place = Place::new();
    place.options.shards = 3;
    let _hub = place.start();
    let tables: Vec<MemoryDatabase> = (0..4).map(|_| MemoryDatabase::new()).collect();
    let names = ["master", "room-1", "room-2", "room-3"];
    let client = place.client();
    let mut expected = String::new();
    // The second time each is known, and served by the shard that its id names.
    for round in 0..2 {
        let mut sites = Vec::new();
        for (name, table) in names.iter().zip(&tables) {
            sites.push(place.site(name, table));
            let value = format!("{name}{round};");
            client
                .publish(None, &append("row", &value), PATIENCE)
                .unwrap();
            expected.push_str(&value);
            wait_for_row(table, "row", &expected);
        }
        for table in &tables {
            wait_for_row(table, "row", &expected);
        }
    }
}

/// A connection says what no site says: it ends, and the hub goes on.
#[test]
fn bytes_that_make_no_sense_end_their_own_connection_only() {
    let place = Place::new();
    let _hub = place.start();
    let table = MemoryDatabase::new();
    let _master = place.site("master", &table);
    let Address::Unix(path) = place.address() else {
        panic!("hubs of tests listen on Unix sockets");
    };
    let frame = |body: &[u8]| {
        let mut frame = Vec::new();
        encode_into(&Header::push(id::TO_HUB), body, &mut frame).unwrap();
        frame
    };
    let mut endless = vec![7; 100_000];
    endless[0] = 1;
    let early = [0, 3, 0, 0];
    for said in [frame(&[]), frame(&[9, 9]), frame(&early), frame(&endless)] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&said).unwrap();
        // The end, behind a refusal where there is something to say.
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
    }
    let client = place.client();
    client.publish(None, &append("row", "1"), PATIENCE).unwrap();
    wait_for_row(&table, "row", "1");
}
