//! Files that are put back in their place while they are open.

use super::super::known::{Found, Known};
use super::super::state::State;
use super::*;

const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)";

/// As `.backup` of the shell does.
fn back_up(copy: &Copy, name: &str) -> PathBuf {
    let path = copy.path().with_file_name(name);
    let none = None::<fn(rusqlite::backup::Progress)>;
    copy.app.backup("main", &path, none).unwrap();
    path
}

/// As `.restore` of the shell does: the file stays, its pages do not.
fn put_back(copy: &mut Copy, backup: &std::path::Path) {
    let none = None::<fn(rusqlite::backup::Progress)>;
    copy.app.restore("main", backup, none).unwrap();
}

fn insert(seq: u64) -> (Arc<Entry>, Verdict) {
    let sql = format!("INSERT INTO t VALUES ({seq}, 'x')");
    (entry(seq, sql), Verdict::Apply)
}

fn is_put_back<T>(result: Result<T, AdapterError>) -> bool {
    matches!(result, Err(AdapterError::Unavailable(error)) if error.contains("was put back"))
}

/// The story: a backup was put back in place below a running site. It applied what came
/// next over the gap, and passed for whole.
#[test]
fn nothing_is_applied_over_the_gap_of_a_file_that_was_put_back() {
    let (mut copy, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    apply.apply(&batch(vec![insert(1), insert(2)], 2)).unwrap();
    let backup = back_up(&copy, "backup");
    apply.apply(&batch(vec![insert(3), insert(4)], 4)).unwrap();
    put_back(&mut copy, &backup);
    let error = apply.apply(&batch(vec![insert(5)], 5)).unwrap_err();
    assert_eq!(error.fault, ApplyFault::Transient);
    let told = "the file is at 2, and not at 4: it was put back while the site ran";
    assert!(error.error.contains(told), "{error}");
    // Nor is anything else done with it, whatever it says by then.
    assert!(is_put_back(copy.target.open_snapshot().map(drop)));
    assert!(is_put_back(apply.set_repaired(Seq(9))));
    assert!(apply.give_up(LifeId(9)).is_err());
    assert!(apply.apply(&batch(vec![insert(3)], 3)).is_err());
    assert_eq!(dump(&copy, "t"), ["1,'x'", "2,'x'"]);
    drop(apply);
    let opened = copy.target.open(LifeId(3)).unwrap();
    let at = Holding::At {
        position: Position::new(1, 2),
        ahead: None,
    };
    assert_eq!(opened.restored.holding, at);
    let mut apply = opened.apply;
    let rest = (3..=5).map(insert).collect();
    apply.apply(&batch(rest, 5)).unwrap();
    assert_eq!(dump(&copy, "t").len(), 5);
}

/// A proof of equality comes before the next entry does.
#[test]
fn no_snapshot_is_opened_of_a_file_that_was_put_back() {
    let (mut copy, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    let backup = back_up(&copy, "backup");
    apply.apply(&batch(vec![insert(1)], 1)).unwrap();
    copy.target.open_snapshot().unwrap();
    put_back(&mut copy, &backup);
    assert!(is_put_back(copy.target.open_snapshot().map(drop)));
    assert!(apply.apply(&batch(vec![insert(2)], 2)).is_err());
}

/// The backup is one from before the first start, or of a copy that was given up.
#[test]
fn a_file_with_another_story_is_put_back_too() {
    let mut copy = Copy::new(SQL);
    let before = back_up(&copy, "before");
    let mut apply = copy.target.open(LifeId(2)).unwrap().apply;
    begin(&mut apply);
    let first = back_up(&copy, "first");
    put_back(&mut copy, &before);
    let error = apply_one(&mut apply, 1, "DELETE FROM t").unwrap_err();
    assert!(error.error.contains("the file has no position"), "{error}");
    put_back(&mut copy, &first);
    let mut apply = copy.target.open(LifeId(3)).unwrap().apply;
    apply.give_up(LifeId(4)).unwrap();
    put_back(&mut copy, &first);
    let error = apply_one(&mut apply, 1, "DELETE FROM t").unwrap_err();
    assert!(error.error.contains("at 0 of another copy"), "{error}");
}

/// Asks a lane for something; whether it says that the file was put back.
type Look = fn(&Copy, &mut Box<dyn Apply>, &mut Box<dyn Capture>) -> bool;

/// The story: captured writes after the one that the backup had got their numbers again,
/// were taken for those that the hub had, and erased.
#[test]
fn no_number_is_given_again_in_a_file_that_was_put_back() {
    let lanes: [Look; 4] = [
        |_, _, capture| is_put_back(capture.wait(2, Duration::ZERO)),
        |copy, _, _| is_put_back(copy.target.open_snapshot().map(drop)),
        |_, apply, _| is_put_back(apply.hold()),
        |_, apply, _| apply_one(apply, 1, "DELETE FROM t").is_err(),
    ];
    for (index, is_noticed) in lanes.iter().enumerate() {
        let (mut copy, mut apply, mut capture) = Copy::captured(SQL);
        begin(&mut apply);
        copy.write("INSERT INTO t VALUES (1, 'a')");
        assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
        let backup = back_up(&copy, "backup");
        copy.write("INSERT INTO t VALUES (2, 'b')");
        assert_eq!(capture.wait(1, WAIT).unwrap(), 2);
        put_back(&mut copy, &backup);
        copy.write("INSERT INTO t VALUES (3, 'c')");
        assert!(is_noticed(&copy, &mut apply, &mut capture), "lane {index}");
        assert!(is_put_back(capture.wait(2, Duration::ZERO)), "lane {index}");
        assert!(is_put_back(capture.read(1, 9, 1 << 20)), "lane {index}");
        assert!(is_put_back(capture.erase(2)), "lane {index}");
        let numbers = "SELECT quote(number) FROM _waystation_captured";
        assert_eq!(copy.rows(numbers), ["1"], "lane {index}");
        drop((apply, capture));
        // The hub knows more, and refuses what says so.
        let opened = copy.target.open(LifeId(3)).unwrap();
        assert_eq!(opened.restored.captured, 1);
    }
}

/// A backup that is put back before anything else happened takes nothing away.
#[test]
fn what_is_as_it_was_is_taken() {
    let (mut copy, mut apply, mut capture) = Copy::captured(SQL);
    begin(&mut apply);
    copy.write("INSERT INTO t VALUES (1, 'a')");
    assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
    let backup = back_up(&copy, "backup");
    put_back(&mut copy, &backup);
    copy.write("INSERT INTO t VALUES (2, 'b')");
    assert_eq!(capture.wait(1, WAIT).unwrap(), 2);
    // A copy that begins anew has numbers that do.
    apply.give_up(LifeId(7)).unwrap();
    begin(&mut apply);
    copy.write("INSERT INTO t VALUES (3, 'c')");
    assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
    assert_eq!(apply.hold().unwrap(), Some(1));
}

#[test]
fn a_commit_of_which_nothing_was_heard_is_known() {
    let (copy, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    let known = Known::default();
    let look = || Found::load(&copy.app, false);
    let before = State::load(&copy.app).unwrap().unwrap();
    known.begin(&before, 0);
    apply.apply(&batch(vec![insert(1)], 1)).unwrap();
    let after = State::load(&copy.app).unwrap().unwrap();
    // It is one of the two, and from then on the one that was found.
    known.trying(&after, false);
    let found = known.check(look).unwrap().state.unwrap();
    assert_eq!(found, after);
    known.settle(&found);
    known.check(look).unwrap();
    known.trying(&before, false);
    known.check(look).unwrap();
    known.settle(&before);
    assert!(is_put_back(known.check(look)));
}
