//! Files that may not grow: whatever is refused leaves nothing, and is done with room.

use rusqlite::TransactionBehavior;

use super::super::apply::SqliteApply;
use super::super::outbox;
use super::super::place::Place;
use super::super::plans::Heads;
use super::super::statement::Guard;
use super::*;

/// Lets a file grow by a few pages more, as far as this connection is concerned.
fn leave_room(connection: &Connection, pages: i64) {
    let count: i64 = connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    let sql = format!("PRAGMA max_page_count = {}", count + pages);
    connection.execute_batch(&sql).unwrap();
}

/// A lane over a file that may grow by a few pages more.
fn with_room(copy: &Copy, pages: i64) -> Box<dyn Apply> {
    let mut connection = copy.target.connect_to_apply().unwrap();
    leave_room(&connection, pages);
    Box::new(SqliteApply {
        target: copy.target.clone(),
        guard: Guard::install(&mut connection).unwrap(),
        connection,
        place: Place::of(&copy.path()).unwrap(),
        heads: Heads::default(),
        is_held: false,
    })
}

/// The database has no room at every page that a batch needs: nothing of it is there,
/// its position neither, and with room it is applied once.
#[test]
fn a_full_disk_leaves_nothing_of_a_batch() {
    let (copy, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY, v)");
    begin(&mut apply);
    drop(apply);
    let insert = |id| format!("INSERT INTO t VALUES ({id}, zeroblob(20000))");
    let entries = |from| (from..from + 3).map(|id| (entry(id, insert(id)), Verdict::Apply));
    let mut refused = 0;
    for pages in 0..40 {
        let mut apply = with_room(&copy, pages);
        match apply.apply(&batch(entries(1).collect(), 3)) {
            Err(error) => {
                assert_eq!(error.fault, ApplyFault::Transient, "{error}");
                assert!(error.error.contains("full"), "{error}");
                assert_eq!(dump(&copy, "t"), Vec::<String>::new());
                refused += 1;
            }
            Ok(()) => break,
        }
    }
    assert!((1..40).contains(&refused), "{refused}");
    let ids = "SELECT quote(id) FROM t";
    assert_eq!(copy.rows(ids), ["1", "2", "3"]);
    let mut apply = with_room(&copy, 100);
    apply.apply(&batch(entries(1).collect(), 3)).unwrap();
    apply.apply(&batch(entries(2).collect(), 4)).unwrap();
    assert_eq!(copy.rows(ids), ["1", "2", "3", "4"]);
}

/// Tries something with no room, with one page, and so on, until there is enough: how
/// often there was not. What failed for another reason is wrong.
fn until_there_is_room<E: std::fmt::Display>(mut run: impl FnMut(i64) -> Result<(), E>) -> usize {
    for pages in 0..60 {
        match run(pages) {
            Ok(()) => return usize::try_from(pages).unwrap(),
            Err(error) => assert!(error.to_string().contains("full"), "{error}"),
        }
    }
    panic!("60 pages are not enough")
}

/// What is there but our own tables, and the state.
fn picture(copy: &Copy) -> Vec<String> {
    let mut all = dump(copy, "t");
    all.extend(dump(copy, "_waystation_state"));
    all.extend(dump(copy, "_waystation_parked"));
    all.extend(dump(copy, "_waystation_audit"));
    all
}

/// What is tried.
type Run = dyn Fn(&mut Box<dyn Apply>) -> Result<(), ApplyError>;

/// The same for a chunk of a copy, for a copy that is given up, and for the lists.
#[test]
fn a_full_disk_leaves_nothing_of_a_chunk_or_of_a_list() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)";
    let (donor, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    donor.write(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9)
         INSERT INTO t SELECT i, zeroblob(9000) FROM n",
    );
    let mut snapshot = donor.target.open_snapshot().unwrap();
    let position = snapshot.position();
    let chunks = chunks(&mut snapshot, 30_000);
    assert!(chunks.len() > 2);
    let (copy, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    drop(apply);
    let mut refused = 0;
    let mut try_all = |run: &Run| {
        let before = picture(&copy);
        refused += until_there_is_room(|pages| {
            let result = run(&mut with_room(&copy, pages));
            if let Err(error) = &result {
                assert_eq!(error.fault, ApplyFault::Transient);
                assert_eq!(picture(&copy), before, "with {pages} pages");
            }
            result
        });
        assert_ne!(picture(&copy), before);
    };
    for chunk in &chunks {
        let holding = match &chunk.to {
            None => at(position),
            Some(to) => Holding::Restoring(Restoring {
                position,
                chunks: chunk.index + 1,
                cursor: to.clone(),
                ahead: None,
            }),
        };
        let chunk = Arc::clone(chunk);
        let store = StoreChunk { chunk, holding };
        try_all(&move |apply| apply.store(&store, LifeId(5)));
    }
    assert_eq!(dump(&copy, "t"), dump(&donor, "t"));
    let large = format!("INSERT INTO none VALUES ('{}')", "x".repeat(20_000));
    for (seq, verdict) in [(1, Verdict::Park), (2, Verdict::Skip)] {
        let one = batch(vec![(entry(seq, large.clone()), verdict)], seq);
        try_all(&move |apply| apply.apply(&one));
    }
    // To erase takes pages of the journal only: it never lacks room in the file.
    try_all(&|apply| apply.give_up(LifeId(6)));
    assert!(refused > 8, "{refused}");
}

fn at(position: Position) -> Holding {
    Holding::At {
        position,
        ahead: None,
    }
}

/// The same for captured writes that get their numbers, and for those that go.
#[test]
fn a_full_disk_leaves_captured_writes_as_they_were() {
    let (copy, _apply, mut capture) = Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY, v)");
    let rows = || {
        let mut all = dump(&copy, "_waystation_outbox");
        all.extend(dump(&copy, "_waystation_numbers"));
        all.extend(dump(&copy, "_waystation_captured"));
        all.extend(dump(&copy, "_waystation_tables"));
        all
    };
    // What is numbered with the rows of a table that is new.
    copy.write(
        "CREATE TABLE u (id INTEGER PRIMARY KEY, v);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9)
         INSERT INTO u SELECT i, zeroblob(9000) FROM n",
    );
    let before = rows();
    let refused = until_there_is_room(|pages| {
        let mut connection = copy.target.connect().unwrap();
        leave_room(&connection, pages);
        let behavior = TransactionBehavior::Immediate;
        let transaction = connection.transaction_with_behavior(behavior).unwrap();
        let numbered = outbox::number(&transaction, &[]);
        let result = numbered.and_then(|_| Ok(transaction.commit()?));
        if result.is_err() {
            assert_eq!(rows(), before, "with {pages} pages");
        }
        result
    });
    assert!(refused > 1, "{refused}");
    assert_eq!(capture.wait(0, Duration::ZERO).unwrap(), 1);
    let (target, mut apply) = Copy::opened("");
    begin(&mut apply);
    ship(&mut capture, &mut 0, &mut apply);
    assert_eq!(dump(&target, "u"), dump(&copy, "u"));
    let numbered = rows();
    until_there_is_room(|pages| {
        let mut connection = copy.target.connect().unwrap();
        leave_room(&connection, pages);
        let transaction = connection.transaction().unwrap();
        let result = outbox::erase(&transaction, 1, 1000).and_then(|_| transaction.commit());
        if result.is_err() {
            assert_eq!(rows(), numbered);
        }
        result
    });
    assert_eq!(capture.read(0, 9, 1 << 20).unwrap(), Vec::<Bytes>::new());
}

/// Room that lacked for our own triggers counted as a fault of the entry that made or
/// altered their table: the site's policy left out an entry at which nothing was wrong.
#[test]
fn a_full_disk_while_triggers_are_made_is_no_fault_of_the_entry() {
    let (source, _apply, mut capture) = Copy::captured("");
    let (copy, mut apply, lane) = Copy::captured("");
    begin(&mut apply);
    drop((apply, lane));
    let columns: Vec<_> = (0..90).map(|index| format!("column_{index}")).collect();
    let make = format!(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, {})",
        columns.join(", ")
    );
    let mut refused = 0;
    for (seq, sql) in [(1, make.as_str()), (2, "ALTER TABLE t ADD COLUMN more")] {
        source.write(sql);
        assert_eq!(capture.wait(seq - 1, WAIT).unwrap(), seq);
        let payload = capture.read(seq - 1, 1, 1 << 20).unwrap().remove(0);
        refused += until_there_is_room(|pages| {
            let result = apply_one(&mut with_room(&copy, pages), seq, payload.clone());
            if let Err(error) = &result {
                assert_eq!(
                    error.fault,
                    ApplyFault::Transient,
                    "with {pages} pages: {error}"
                );
            }
            result
        });
    }
    assert!(refused > 2, "{refused}");
    assert_eq!(dump(&copy, "t"), dump(&source, "t"));
}
