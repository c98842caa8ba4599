use waystation_base::{Epoch, Seq, SiteId};
use waystation_replica::{
    Ahead, ApplyBatch, ApplyFault, Cursor, Origin, Position, Restoring, StoreChunk, Verdict,
};

use super::*;

fn append(key: &str, value: &'static str) -> MemoryChange {
    MemoryChange::Append(key.into(), Bytes::from_static(value.as_bytes()))
}

fn entry(seq: u64, changes: &[MemoryChange]) -> Arc<Entry> {
    Arc::new(Entry {
        position: Position::new(1, seq),
        origin: Origin::Client { key: None },
        payload: MemoryChange::encode(changes),
    })
}

fn batch(entries: Vec<Arc<Entry>>, verdict: Verdict, last: u64) -> ApplyBatch {
    ApplyBatch {
        entries: entries.into_iter().map(|one| (one, verdict)).collect(),
        below: None,
        position: Position::new(1, last),
        ahead: None,
        decision: None,
    }
}

#[test]
fn a_batch_that_was_committed_and_is_tried_again_is_applied_once() {
    let table = MemoryDatabase::new();
    let mut apply = table.open(LifeId(1)).unwrap().apply;
    table.set_faults(MemoryFaults {
        committed_and_lost: 1,
        ..MemoryFaults::default()
    });
    let first = batch(vec![entry(1, &[append("a", "x")])], Verdict::Apply, 1);
    let lost = apply.apply(&first).unwrap_err();
    assert_eq!(lost.fault, ApplyFault::Transient);
    let both = vec![entry(1, &[append("a", "x")]), entry(2, &[append("a", "y")])];
    apply.apply(&batch(both, Verdict::Apply, 2)).unwrap();
    assert_eq!(table.rows()[b"a".as_slice()], "xy");
}

#[test]
fn a_batch_with_a_refused_entry_leaves_nothing_and_names_it() {
    let table = MemoryDatabase::new();
    let mut apply = table.open(LifeId(1)).unwrap().apply;
    table.set_faults(MemoryFaults {
        poisoned: [b"b".to_vec()].into(),
        ..MemoryFaults::default()
    });
    let both = vec![entry(1, &[append("a", "x")]), entry(2, &[append("b", "y")])];
    let refused = apply.apply(&batch(both, Verdict::Apply, 2)).unwrap_err();
    assert_eq!(refused.fault, ApplyFault::Poison(Seq(2)));
    assert!(table.rows().is_empty());
    assert_eq!(table.holding(), Holding::Fresh);
    let parked = batch(vec![entry(1, &[append("b", "y")])], Verdict::Park, 1);
    apply.apply(&parked).unwrap();
    assert!(apply.replay(Seq(1)).is_err());
    table.set_faults(MemoryFaults::default());
    apply.replay(Seq(1)).unwrap();
    apply.replay(Seq(1)).unwrap();
    assert_eq!(table.rows()[b"b".as_slice()], "y");
    assert_eq!(apply.audit().unwrap()[0].fate, Fate::Replayed);
}

#[test]
fn a_copy_in_chunks_is_the_snapshot_and_replaces_what_was_there() {
    let donor = MemoryDatabase::new();
    let row = |n: u32| MemoryChange::Put(n.to_be_bytes().to_vec(), Bytes::from(vec![7; 50]));
    donor.write(&(0..100).map(row).collect::<Vec<_>>());
    let mut from = donor.open(LifeId(1)).unwrap().apply;
    from.apply(&batch(Vec::new(), Verdict::Apply, 5)).unwrap();
    let mut snapshot = donor.open_snapshot().unwrap();
    donor.write(&[append("later", "x")]);
    let joiner = MemoryDatabase::captured();
    joiner.write(&[append("old", "x")]);
    let mut to = joiner.open(LifeId(2)).unwrap().apply;
    let (mut cursor, mut index) = (Cursor::default(), 0);
    loop {
        let chunk = snapshot.read(index, &cursor, 500).unwrap();
        index += 1;
        let next = chunk.to.clone();
        let position = snapshot.position();
        let holding = match &next {
            None => Holding::At {
                position,
                ahead: None,
            },
            Some(to) => Holding::Restoring(Restoring {
                position,
                chunks: index,
                cursor: to.clone(),
                ahead: None,
            }),
        };
        let chunk = Arc::new(chunk);
        let store = StoreChunk { chunk, holding };
        // Twice, as when nobody knows whether it was committed.
        to.store(&store, LifeId(3)).unwrap();
        to.store(&store, LifeId(3)).unwrap();
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert!(index > 5);
    assert_eq!(joiner.rows().len(), 100);
    let restored = joiner.open(LifeId(9)).unwrap().restored;
    assert_eq!(restored.life, LifeId(3));
    let mut copy = joiner.open_snapshot().unwrap();
    assert_eq!(
        copy.captured(),
        None,
        "captured writes went with the old copy"
    );
    assert_eq!(
        copy.hash(&Cursor::default()).unwrap(),
        snapshot.hash(&Cursor::default()).unwrap()
    );
}

#[test]
fn captured_writes_are_numbered_and_known_to_have_come_back() {
    let table = MemoryDatabase::captured();
    let mut opened = table.open(LifeId(1)).unwrap();
    let mut capture = opened.capture.take().unwrap();
    table.write(&[append("a", "1")]);
    table.write(&[append("a", "2")]);
    let wait = std::time::Duration::from_secs(30);
    assert_eq!(capture.wait(0, wait).unwrap(), 2);
    assert_eq!(capture.read(0, 1, 1 << 20).unwrap().len(), 1);
    let payloads = capture.read(0, 9, 1 << 20).unwrap();
    let own = |source: u64| {
        let number = usize::try_from(source).unwrap();
        Arc::new(Entry {
            position: Position {
                epoch: Epoch(1),
                seq: Seq(source),
            },
            origin: Origin::Site {
                site: SiteId(4),
                life: LifeId(1),
                source,
            },
            payload: payloads[number - 1].clone(),
        })
    };
    let contained = batch(vec![own(1)], Verdict::Contained, 1);
    opened.apply.apply(&contained).unwrap();
    assert_eq!(table.open_snapshot().unwrap().captured(), Some(2));
    let contained = batch(vec![own(2)], Verdict::Contained, 2);
    opened.apply.apply(&contained).unwrap();
    assert_eq!(table.open_snapshot().unwrap().captured(), None);
    assert_eq!(table.rows()[b"a".as_slice()], "12");
    capture.erase(2).unwrap();
    assert!(capture.read(0, 9, 1 << 20).unwrap().is_empty());
    let ahead: Option<Ahead> = None;
    assert_eq!(
        table.holding(),
        Holding::At {
            position: Position::new(1, 2),
            ahead
        }
    );
}

#[test]
fn only_rows_below_the_cursor_are_changed() {
    let table = MemoryDatabase::new();
    let mut apply = table.open(LifeId(1)).unwrap().apply;
    let mut one = batch(
        vec![entry(1, &[append("a", "x"), append("m", "y")])],
        Verdict::Apply,
        1,
    );
    one.below = Some(Cursor::new(b"m"));
    apply.apply(&one).unwrap();
    assert_eq!(table.rows().len(), 1);
}

#[test]
fn changes_decode_to_what_was_encoded_and_nonsense_is_refused() {
    let changes = [
        append("a", "x"),
        MemoryChange::Delete(b"b".to_vec()),
        MemoryChange::Put(Vec::new(), Bytes::new()),
    ];
    let payload = MemoryChange::encode(&changes);
    assert_eq!(MemoryChange::decode(&payload).unwrap(), changes);
    for cut in 1..payload.len() {
        let _ = MemoryChange::decode(&payload[..cut]);
    }
    assert!(MemoryChange::decode(&[1, 255, 255, 255, 255]).is_err());
    assert!(MemoryChange::decode(&[9, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
}
