use std::sync::Arc;

use waystation_base::{Epoch, FencingToken, Rng, Seq, SiteId};
use waystation_replica::{
    ApplyState, Chunk, ClientKey, Donor, Entry, Hello, Holding, JoinError, LifeId, Origin,
    Position, PublishRefusal, Refusal, Restoring, SiteName, SnapshotSize, Violation, Vitals,
    Welcome,
};

use super::*;
use crate::adapter::RangeHash;

fn name() -> SiteName {
    SiteName::new("room-b").unwrap()
}

fn ahead() -> Ahead {
    Ahead {
        site: SiteId(3),
        life: LifeId(1 << 100),
        source: 77,
    }
}

fn restoring() -> Restoring {
    Restoring {
        position: Position::new(4, 9),
        chunks: 3,
        cursor: Cursor::new(b"key"),
        ahead: Some(ahead()),
    }
}

fn chunk() -> Arc<Chunk> {
    let to = Some(Cursor::new(b"z"));
    Arc::new(Chunk::new(
        2,
        Cursor::new(b"m"),
        to,
        1,
        Bytes::from_static(b"row"),
    ))
}

fn pull() -> Pull {
    Pull {
        snapshot: SnapshotId(8),
        index: 2,
        from: Cursor::default(),
        until: 6,
        is_first: true,
    }
}

fn holdings() -> [Holding; 3] {
    let position = Position::new(1, 2);
    let ahead = None;
    [
        Holding::Fresh,
        Holding::Restoring(restoring()),
        Holding::At { position, ahead },
    ]
}

fn vitals() -> Vitals {
    Vitals {
        load_permille: 300,
        apply: ApplyState::Stopped,
        applied_per_second: 12,
        parked: 2,
        is_differing: true,
        is_capture_stopped: true,
        unpublished: 7,
        error: Some("no such table".into()),
    }
}

fn size() -> SnapshotSize {
    SnapshotSize {
        bytes: 1 << 40,
        rows: 77,
    }
}

fn from_site() -> Vec<FromSite> {
    let hello = |holding| {
        ToHub::Hello(Hello {
            name: name(),
            life: LifeId(5),
            holding,
            zone: "north".into(),
            has_rows: true,
            captured: Some(3),
        })
    };
    let mut all: Vec<ToHub> = holdings().map(hello).into();
    all.extend([
        ToHub::Join {
            donor: Donor::Best,
            except: Some(SiteId(2)),
            have: Some(restoring()),
        },
        ToHub::Join {
            donor: Donor::Named(name()),
            except: None,
            have: None,
        },
        ToHub::Ack {
            epoch: Epoch(1),
            seq: Seq(u64::MAX),
        },
        ToHub::Heartbeat(vitals()),
        ToHub::Heartbeat(Vitals::default()),
        ToHub::SnapshotPrepared {
            snapshot: SnapshotId(1),
            is_held: true,
        },
        ToHub::SnapshotOpened {
            snapshot: SnapshotId(1),
            position: Position::new(1, 1),
            ahead: None,
            size: size(),
        },
        ToHub::SnapshotFailed {
            snapshot: SnapshotId(1),
            error: "disk full".into(),
        },
        ToHub::CatchUp { after: Seq(3) },
        ToHub::Pull(pull()),
        ToHub::Chunk {
            snapshot: SnapshotId(1),
            joiner: SiteId(2),
            chunk: chunk(),
        },
        ToHub::Joined {
            position: Position::new(1, 4),
        },
        ToHub::Publish {
            token: FencingToken(3),
            first: 9,
            payloads: vec![Bytes::new(), Bytes::from_static(b"write")],
        },
    ]);
    let mut all: Vec<FromSite> = all.into_iter().map(FromSite::Core).collect();
    all.extend(answers());
    all
}

fn answers() -> Vec<FromSite> {
    let range = RangeHash {
        last: Cursor::new(b"k"),
        rows: 4,
        hash: 1 << 120,
    };
    let done = ProofSaid::Done {
        position: Position::new(1, 4),
        captured: Some(3),
    };
    let failed = ProofSaid::Failed("away".into());
    let mut all = Vec::new();
    for said in [
        ProofSaid::Ranges(vec![range]),
        done,
        failed,
        ProofSaid::NoRows,
        ProofSaid::Still { is_held: true },
    ] {
        all.push(FromSite::Proof(ProofAnswer { proof: 6, said }));
    }
    all
}

fn refusals() -> Vec<Refusal> {
    let (ours, theirs) = (Epoch(1), Epoch(2));
    let life = LifeId(9);
    vec![
        Refusal::SecondMaster { life },
        Refusal::OtherEpoch { ours, theirs },
        Refusal::PastEnd {
            claimed: Seq(4),
            end: Seq(3),
        },
        Refusal::MustReseed {
            at: Seq(1),
            start: Seq(2),
        },
        Refusal::UnknownSite { name: name() },
        Refusal::OtherLife { name: name(), life },
        Refusal::Superseded,
        Refusal::Silent,
        Refusal::SitesFull,
        Refusal::LogFailed,
        Refusal::WasPastEnd { claimed: Seq(4) },
        Refusal::OlderCopy {
            at: Seq(4),
            acked: Seq(6),
            captured: 2,
            published: 3,
        },
        Refusal::Violation(Violation::Told {
            text: "a gap".into(),
        }),
    ]
}

fn publish_refusals() -> Vec<PublishRefusal> {
    let (found, bytes_max) = (9, 8);
    vec![
        PublishRefusal::TooLarge { found, bytes_max },
        PublishRefusal::KeyTooLong { found, bytes_max },
        PublishRefusal::Busy,
        PublishRefusal::Full,
        PublishRefusal::NotStored {
            error: "full".into(),
        },
        PublishRefusal::Unknown {
            error: "sync".into(),
        },
        PublishRefusal::Fenced {
            token: FencingToken(2),
        },
        PublishRefusal::SourceGap {
            expected: 2,
            found: 4,
        },
    ]
}

fn join_errors() -> Vec<JoinError> {
    vec![
        JoinError::UnknownDonor { name: name() },
        JoinError::DonorNotLive { name: name() },
        JoinError::NoDonor,
        JoinError::DumpFailed {
            error: "disk".into(),
        },
        JoinError::MustReseed {
            at: Seq(1),
            start: Seq(2),
        },
        JoinError::LogFailed,
    ]
}

fn entries() -> Arc<[Arc<Entry>]> {
    let origins = [
        Origin::Client { key: None },
        Origin::Client {
            key: Some(ClientKey::new(b"key")),
        },
        Origin::Site {
            site: SiteId(3),
            life: LifeId(9),
            source: 4,
        },
    ];
    let entry = |(origin, seq)| {
        Arc::new(Entry {
            position: Position::new(1, seq),
            origin,
            payload: Bytes::from(vec![7; usize::try_from(seq).unwrap()]),
        })
    };
    origins.into_iter().zip(5..).map(entry).collect()
}

fn from_hub() -> Vec<FromHub> {
    let welcome = |stream_after, token| {
        ToSite::Welcome(Welcome {
            site: SiteId(1),
            epoch: Epoch(2),
            end: Seq(3),
            stream_after,
            token,
            source: 8,
            is_first: true,
        })
    };
    let snapshot = SnapshotId(1 << 40);
    let mut all = vec![
        welcome(None, None),
        welcome(Some(Seq(0)), Some(FencingToken(1))),
        ToSite::Entries {
            entries: entries(),
            end: Seq(9),
        },
        ToSite::Entries {
            entries: Arc::from([]),
            end: Seq(9),
        },
        ToSite::Heartbeat {
            sent: Seq(1),
            end: Seq(2),
            is_live: true,
        },
        ToSite::PrepareSnapshot { snapshot },
        ToSite::OpenSnapshot { snapshot },
        ToSite::Pull {
            joiner: SiteId(4),
            pull: pull(),
        },
        ToSite::CloseSnapshot { snapshot },
        ToSite::JoinFrom {
            snapshot,
            donor: SiteId(2),
            position: Position::new(1, 7),
            ahead: Some(ahead()),
            size: size(),
        },
        ToSite::Chunk {
            snapshot,
            chunk: chunk(),
        },
        ToSite::DonorLost { snapshot },
        ToSite::Writer {
            token: Some(FencingToken(2)),
            source: 4,
        },
        ToSite::Published { through: 6 },
    ];
    all.extend(refusals().into_iter().map(ToSite::Refused));
    let failed = |error| ToSite::JoinFailed { error };
    all.extend(join_errors().into_iter().map(failed));
    let refused = |refusal| ToSite::PublishRefused { refusal };
    all.extend(publish_refusals().into_iter().map(refused));
    let mut all: Vec<FromHub> = all.into_iter().map(FromHub::Core).collect();
    for at in [None, Some(Seq(4))] {
        all.push(FromHub::Proof(Proof { proof: 3, at }));
    }
    all.push(FromHub::Equal(Seq(4)));
    all
}

#[test]
fn every_message_decodes_to_itself() {
    for message in from_site() {
        assert_eq!(FromSite::decode(message.encode().into()), Ok(message));
    }
    for message in from_hub() {
        assert_eq!(FromHub::decode(message.encode().into()), Ok(message));
    }
}

#[test]
fn a_message_that_is_cut_anywhere_or_goes_on_never_panics_and_is_refused() {
    let refuse = |bytes: &[u8], decode: &dyn Fn(Bytes) -> bool| {
        for cut in 0..bytes.len() {
            let _ = decode(Bytes::copy_from_slice(&bytes[..cut]));
        }
    };
    for message in from_site() {
        refuse(&message.encode(), &|bytes| FromSite::decode(bytes).is_ok());
    }
    for message in from_hub() {
        refuse(&message.encode(), &|bytes| FromHub::decode(bytes).is_ok());
    }
    let welcome = from_hub().remove(0).encode();
    for cut in 0..welcome.len() {
        let cut = Bytes::copy_from_slice(&welcome[..cut]);
        assert_eq!(FromHub::decode(cut), Err(DecodeError::Malformed));
    }
    let longer = [welcome.as_slice(), &[0]].concat();
    assert_eq!(FromHub::decode(longer.into()), Err(DecodeError::Malformed));
}

#[test]
fn what_is_changed_decodes_to_a_message_of_its_own_or_is_refused() {
    let mut rng = Rng::from_seed(7);
    let messages: Vec<Vec<u8>> = from_site().iter().map(FromSite::encode).collect();
    for _ in 0..20_000 {
        let at = usize::try_from(rng.below(messages.len() as u64)).unwrap();
        let mut bytes = messages[at].clone();
        let byte = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
        bytes[byte] = u8::try_from(rng.below(256)).unwrap();
        if let Ok(message) = FromSite::decode(bytes.clone().into()) {
            assert_eq!(message.encode(), bytes, "one encoding for a message");
        }
    }
}

#[test]
fn another_version_is_told_apart_from_nonsense() {
    let mut hello = from_site().remove(0).encode();
    hello[1] = 9;
    let refused = FromSite::decode(hello.into());
    assert_eq!(refused, Err(DecodeError::Version { found: 9 }));
}

#[test]
fn a_long_error_is_cut_between_characters() {
    let error: Arc<str> = "ü".repeat(400).into();
    let snapshot = SnapshotId(1);
    let message = FromSite::Core(ToHub::SnapshotFailed { snapshot, error });
    let FromSite::Core(ToHub::SnapshotFailed { error, .. }) =
        FromSite::decode(message.encode().into()).unwrap()
    else {
        panic!("another message");
    };
    assert_eq!(error.chars().count(), 256);
}

/// The story: hello, welcome and heartbeat had got new fields, and the version stayed
/// what it was: peers of two releases took each other's bytes for nonsense.
#[test]
fn what_a_connection_begins_with_has_the_golden_bytes_of_its_version() {
    assert_eq!(SYNC_VERSION, 2, "new fields want a new version");
    let mut golden = vec![1, 2, 0, 6, 0, 0, 0];
    golden.extend(b"room-b");
    golden.push(5);
    golden.extend([0; 15]);
    golden.extend([0, 5, 0, 0, 0]);
    golden.extend(b"north");
    golden.extend([1, 1, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(from_site()[0].encode(), golden);
    let heartbeat = FromSite::Core(ToHub::Heartbeat(vitals()));
    let mut golden = vec![4, 44, 1, 2, 12, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 1];
    golden.extend([7, 0, 0, 0, 0, 0, 0, 0, 1, 13, 0, 0, 0]);
    golden.extend(b"no such table");
    assert_eq!(heartbeat.encode(), golden);
    let mut golden = vec![1, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    golden.extend([0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(from_hub()[0].encode(), golden);
    let equal = FromHub::Equal(Seq(4));
    assert_eq!(equal.encode(), [65, 4, 0, 0, 0, 0, 0, 0, 0]);
}

/// The bytes of version 2. They never change: peers of another release read them.
#[test]
fn messages_have_the_golden_bytes() {
    let ack = FromSite::Core(ToHub::Ack {
        epoch: Epoch(2),
        seq: Seq(0x0102),
    });
    let golden = [3, 2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(ack.encode(), golden);
    let heartbeat = FromHub::Core(ToSite::Heartbeat {
        sent: Seq(1),
        end: Seq(2),
        is_live: true,
    });
    let golden = [4, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(heartbeat.encode(), golden);
    let entry = Arc::new(Entry {
        position: Position::new(1, 5),
        origin: Origin::Client { key: None },
        payload: Bytes::from_static(b"ab"),
    });
    let entries = FromHub::Core(ToSite::Entries {
        entries: Arc::from([entry]),
        end: Seq(6),
    });
    let mut golden = vec![3, 6, 0, 0, 0, 0, 0, 0, 0];
    golden.extend([1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend([1, 2, 0, 0, 0, b'a', b'b']);
    assert_eq!(entries.encode(), golden);
}
