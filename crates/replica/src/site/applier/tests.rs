//! Tests of an applier: order, once, and each policy.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use waystation_base::SiteId;

use super::*;
use crate::entry::Origin;
use crate::ids::LifeId;
use crate::test_support::{NOW, at, entries, entry};

/// An entry touches the key that is its sequence's last digit.
fn last_digit(entry: &Entry) -> Touches {
    Touches::Keys(vec![entry.position.seq.0 % 10])
}

fn applier(policy: Policy) -> Applier {
    let config = ApplierConfig {
        policy,
        tries_max: 2,
        batch_entries_max: 4,
        ..ApplierConfig::default()
    };
    let mut applier = Applier::new(config, TouchesOf::new(last_digit), 1);
    applier.reset(at(0), None, None);
    applier
}

fn seqs(batch: &ApplyBatch) -> Vec<(u64, Verdict)> {
    let all = batch.entries.iter();
    all.map(|(entry, verdict)| (entry.position.seq.0, *verdict))
        .collect()
}

/// Runs against a database that refuses `bad`, and returns what was committed.
fn run(applier: &mut Applier, bad: &[u64], mut now: Moment) -> Vec<(u64, Verdict)> {
    let mut committed = Vec::new();
    for _ in 0..200 {
        let Some(batch) = applier.poll_batch(now) else {
            let Some(at) = applier.retry_at() else { break };
            now = at;
            continue;
        };
        let refused = seqs(&batch)
            .into_iter()
            .find(|(seq, verdict)| *verdict == Verdict::Apply && bad.contains(seq));
        if let Some((seq, _)) = refused {
            applier.failed(now, ApplyFault::Poison(Seq(seq)), "constraint failed");
        } else {
            committed.extend(seqs(&batch));
            applier.committed();
        }
    }
    committed
}

const APPLY: Verdict = Verdict::Apply;

#[test]
fn a_gap_is_seen_and_what_came_before_is_ignored() {
    let mut applier = applier(Policy::Stop);
    applier.receive(&entries(1..=3)).unwrap();
    applier.receive(&entries(2..=4)).unwrap();
    let (expected, found) = (Seq(5), Seq(6));
    assert_eq!(
        applier.receive(&[entry(6)]),
        Err(Violation::Gap { expected, found })
    );
    let batch = applier.poll_batch(NOW).unwrap();
    assert_eq!(seqs(&batch), [1, 2, 3, 4].map(|seq| (seq, APPLY)));
    assert_eq!(batch.position, at(4));
    assert_eq!(applier.poll_batch(NOW), None, "one transaction at a time");
    assert_eq!(applier.committed(), Some(at(4)));
}

#[test]
fn more_than_the_queue_takes_is_a_violation() {
    let mut applier = applier(Policy::Stop);
    let window = applier.config.queue_entries_max;
    let refused = applier.receive(&entries(1..=window + 1));
    assert_eq!(refused, Err(Violation::WindowExceeded { window }));
}

/// The story: apply and acknowledge were not atomic: what was killed in between
/// was applied twice, failed, and was sent again for ever.
#[test]
fn a_transaction_that_outlives_its_connection_is_not_begun_again() {
    let mut applier = applier(Policy::Stop);
    applier.receive(&entries(1..=6)).unwrap();
    applier.poll_batch(NOW).unwrap();
    applier.drop_waiting();
    applier.receive(&entries(1..=6)).unwrap();
    assert_eq!(applier.poll_batch(NOW), None);
    applier.committed();
    let batch = applier.poll_batch(NOW).unwrap();
    assert_eq!(seqs(&batch), [(5, APPLY), (6, APPLY)]);
}

#[test]
fn a_database_that_is_locked_or_away_is_waited_for() {
    let mut applier = applier(Policy::Skip);
    applier.receive(&entries(1..=2)).unwrap();
    let mut now = NOW;
    for _ in 0..50 {
        applier.poll_batch(now).unwrap();
        applier.failed(now, ApplyFault::Transient, "database is locked");
        assert_eq!(applier.state(), ApplyState::Retrying);
        assert_eq!(applier.poll_batch(now), None, "not at once");
        now = applier.retry_at().unwrap();
    }
    assert_eq!(run(&mut applier, &[], now), [(1, APPLY), (2, APPLY)]);
    assert_eq!(applier.error(), None);
}

#[test]
fn stop_stands_at_the_entry_until_an_operator_acts() {
    let mut applier = applier(Policy::Stop);
    applier.receive(&entries(1..=4)).unwrap();
    let committed = run(&mut applier, &[3], NOW);
    assert_eq!(committed, [(1, APPLY), (2, APPLY)], "those before it go on");
    assert_eq!(applier.state(), ApplyState::Stopped);
    assert_eq!(applier.error().as_deref(), Some("constraint failed"));
    applier.resume();
    assert_eq!(run(&mut applier, &[], NOW), [(3, APPLY), (4, APPLY)]);
}

#[test]
fn an_operator_decides_about_the_entry_that_failed_and_no_other() {
    let mut applier = applier(Policy::Stop);
    applier.receive(&entries(1..=4)).unwrap();
    run(&mut applier, &[2], NOW);
    assert!(!applier.decide(Seq(3), Verdict::Skip));
    assert!(applier.decide(Seq(2), Verdict::Skip));
    let committed = run(&mut applier, &[2], NOW);
    assert_eq!(committed[0], (2, Verdict::Skip));
    assert!(applier.is_differing());
}

/// Nobody knew afterwards why an entry had been left out, and who had wanted that.
#[test]
fn a_decision_tells_who_made_it_and_why() {
    let decision = |applier: &mut Applier| {
        let mut now = NOW;
        loop {
            let batch = applier.poll_batch(now).unwrap();
            if batch.entries.iter().all(|(_, one)| *one != APPLY) {
                return batch.decision;
            }
            assert_eq!(batch.decision, None);
            applier.failed(now, ApplyFault::Poison(Seq(1)), "constraint failed");
            if applier.state() == ApplyState::Stopped {
                assert!(applier.decide(Seq(1), Verdict::Park));
            }
            now = applier.retry_at().unwrap_or(now);
        }
    };
    let error: Arc<str> = "constraint failed".into();
    for (policy, by) in [
        (Policy::Skip, Decider::Policy),
        (Policy::Stop, Decider::Operator),
    ] {
        let mut applier = applier(policy);
        applier.receive(&entries(1..=1)).unwrap();
        let error = Arc::clone(&error);
        assert_eq!(decision(&mut applier), Some(Decision { by, error }));
    }
}

/// A database that had been away a few times in a day was waited for ever longer.
#[test]
fn pauses_begin_anew_after_a_transaction() {
    let mut applier = applier(Policy::Stop);
    let mut longest = Duration::ZERO;
    for seq in 1..=20 {
        applier.receive(&entries(seq..=seq)).unwrap();
        applier.poll_batch(NOW).unwrap();
        applier.failed(NOW, ApplyFault::Transient, "database is locked");
        let at = applier.retry_at().unwrap();
        longest = longest.max(at.saturating_since(NOW));
        applier.poll_batch(at).unwrap();
        applier.committed();
    }
    let first = ApplierConfig::default().backoff.base;
    assert!(longest <= first, "{longest:?}");
}

#[test]
fn skip_leaves_the_entry_out_and_marks_the_copy_until_it_is_repaired() {
    let mut applier = applier(Policy::Skip);
    applier.receive(&entries(1..=3)).unwrap();
    let committed = run(&mut applier, &[2], NOW);
    assert_eq!(committed, [(1, APPLY), (2, Verdict::Skip), (3, APPLY)]);
    assert!(applier.is_differing());
    applier.repaired();
    assert!(!applier.is_differing());
}

#[test]
fn park_holds_back_later_writes_to_the_same_keys_only() {
    let mut applier = applier(Policy::Park);
    applier.receive(&entries(1..=23)).unwrap();
    let committed = run(&mut applier, &[2], NOW);
    let parked: Vec<u64> = (committed.iter())
        .filter(|(_, verdict)| *verdict == Verdict::Park)
        .map(|(seq, _)| *seq)
        .collect();
    assert_eq!(parked, [2, 12, 22]);
    assert_eq!(committed.len(), 23);
    let (seq, by) = (Seq(12), Seq(2));
    assert_eq!(
        applier.replay(seq),
        Err(ReplayRefusal::HeldBack { seq, by })
    );
    for seq in [2, 12, 22] {
        applier.replay(Seq(seq)).unwrap();
        assert_eq!(applier.replay(Seq(99)), Err(ReplayRefusal::Busy));
        applier.replayed(true);
    }
    assert_eq!(applier.parked_count(), 0);
    applier.receive(&entries(24..=32)).unwrap();
    assert!(run(&mut applier, &[], NOW).contains(&(32, APPLY)));
}

/// The story: of two bad entries in one batch, each took back what was decided
/// about the other, for ever.
#[test]
fn several_bad_entries_in_a_batch_are_decided_one_by_one() {
    let mut applier = applier(Policy::Skip);
    applier.receive(&entries(1..=4)).unwrap();
    let committed = run(&mut applier, &[1, 3, 4], NOW);
    let skip = Verdict::Skip;
    assert_eq!(committed, [(1, skip), (2, APPLY), (3, skip), (4, skip)]);
}

#[test]
fn retry_tries_for_ever() {
    let mut applier = applier(Policy::Retry);
    applier.receive(&entries(1..=2)).unwrap();
    assert_eq!(run(&mut applier, &[1], NOW), []);
    assert_eq!(applier.state(), ApplyState::Retrying);
    assert_eq!(run(&mut applier, &[], NOW).len(), 2);
}

fn captured(seq: u64, source: u64) -> Arc<Entry> {
    let (site, life) = (SiteId(3), LifeId(9));
    Arc::new(Entry {
        position: at(seq),
        origin: Origin::Site { site, life, source },
        payload: Bytes::from_static(b"row"),
    })
}

#[test]
fn what_was_captured_here_is_not_applied_again() {
    let mut applier = applier(Policy::Stop);
    let (site, life) = (SiteId(3), LifeId(9));
    applier.set_own(Ahead {
        site,
        life,
        source: u64::MAX,
    });
    applier
        .receive(&[entry(1), captured(2, 1), entry(3)])
        .unwrap();
    let committed = run(&mut applier, &[], NOW);
    assert_eq!(committed[1], (2, Verdict::Contained));
    assert_eq!(committed[2], (3, APPLY));
}

#[test]
fn what_came_with_the_snapshot_is_not_applied_again_and_what_follows_is() {
    let mut applier = applier(Policy::Stop);
    let (site, life) = (SiteId(3), LifeId(9));
    let ahead = Some(Ahead {
        site,
        life,
        source: 2,
    });
    applier.reset(at(0), ahead, None);
    applier.receive(&[captured(1, 1), entry(2)]).unwrap();
    let batch = applier.poll_batch(NOW).unwrap();
    assert_eq!(
        (seqs(&batch)[0].1, batch.ahead),
        (Verdict::Contained, ahead)
    );
    applier.committed();
    applier.receive(&[captured(3, 2), captured(4, 3)]).unwrap();
    let batch = applier.poll_batch(NOW).unwrap();
    assert_eq!(seqs(&batch), [(3, Verdict::Contained), (4, APPLY)]);
    assert_eq!(batch.ahead, None, "the log has passed it");
}

#[test]
fn a_copy_that_began_anew_ignores_the_transaction_of_the_old_one() {
    let mut applier = applier(Policy::Stop);
    applier.receive(&entries(1..=2)).unwrap();
    applier.poll_batch(NOW).unwrap();
    applier.reset(at(7), None, None);
    assert_eq!(applier.committed(), None);
    assert_eq!(applier.position(), at(7));
}

proptest! {
    /// Whatever fails, and however the entries come, each gets one verdict, in
    /// order.
    #[test]
    fn each_entry_is_decided_once_and_in_order(
        cuts in prop::collection::vec(1..6_u64, 1..12),
        bad in prop::collection::vec(1..40_u64, 0..6),
        policy in prop_oneof![Just(Policy::Skip), Just(Policy::Park)],
    ) {
        let mut applier = applier(policy);
        let mut committed = Vec::new();
        let mut last = 0;
        for cut in cuts {
            // Some of it comes again.
            let first = last.max(2) - 1;
            last += cut;
            applier.receive(&entries(first.min(last)..=last)).unwrap();
            committed.extend(run(&mut applier, &bad, NOW));
        }
        let seqs: Vec<u64> = committed.iter().map(|(seq, _)| *seq).collect();
        prop_assert_eq!(seqs, (1..=last).collect::<Vec<u64>>());
        for (seq, verdict) in committed {
            let must_fail = bad.contains(&seq);
            prop_assert!(!must_fail || verdict != Verdict::Apply);
        }
        prop_assert_eq!(applier.position(), at(last));
    }
}
