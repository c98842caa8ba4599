//! Three witnesses, one verdict.

/// What the registry knows of an instance's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseWord {
    /// It is renewed.
    Live,
    /// It was not renewed in time.
    Expired,
    /// The registry cannot be asked, or a guard keeps the instance.
    Unknown,
}

/// What an active probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeWord {
    /// It was answered.
    Ok,
    /// It was not.
    Failed,
    /// There is no probe, or it has no result yet.
    None,
}

/// What callers met lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallersWord {
    /// Answers.
    Ok,
    /// Failures beyond what is usual.
    Failing,
    /// Nobody called.
    None,
}

/// What to do with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Pick it.
    Use,
    /// Pick it only when too few others are left.
    Suspect,
    /// Never pick it.
    Gone,
}

/// Fuses the three witnesses; the crate's documentation shows the table.
///
/// Callers weigh most, for they do what matters; a probe stands in where nobody
/// called. A lease that lives does not save an instance that both find dead,
/// and one that expired makes even a well-spoken-of instance suspect, since its
/// owner fences itself. Not knowing the lease counts as a live one: a lost
/// registry says nothing about the instance.
pub const fn fuse(lease: LeaseWord, probe: ProbeWord, callers: CallersWord) -> Verdict {
    use CallersWord as C;
    use ProbeWord as P;
    let is_expired = matches!(lease, LeaseWord::Expired);
    match (probe, callers) {
        (P::Failed, C::Failing) => Verdict::Gone,
        (_, C::Ok) | (P::Ok, C::None) if is_expired => Verdict::Suspect,
        _ if is_expired => Verdict::Gone,
        (_, C::Failing) | (P::Failed, C::None) => Verdict::Suspect,
        (_, C::Ok) | (P::Ok | P::None, C::None) => Verdict::Use,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test a cell, named after it, so that a failure names the cell.
    macro_rules! cells {
        ($($name:ident: $lease:ident $probe:ident $callers:ident => $verdict:ident;)*) => {
            $(
                #[test]
                fn $name() {
                    let found = fuse(
                        LeaseWord::$lease,
                        ProbeWord::$probe,
                        CallersWord::$callers,
                    );
                    assert_eq!(found, Verdict::$verdict);
                }
            )*

            #[test]
            fn the_table_in_the_documentation_is_this_one() {
                let text = include_str!("lib.rs");
                let rows = [$((
                    stringify!($lease),
                    stringify!($probe),
                    stringify!($callers),
                    stringify!($verdict),
                )),*];
                assert_eq!(rows.len(), 27);
                for three in rows.chunks(3) {
                    let (lease, probe, _, _) = three[0];
                    let verdicts: Vec<&str> = three.iter().map(|row| row.3).collect();
                    let row = format!(
                        "//! | {} | {} | {} |",
                        lease.to_lowercase(),
                        probe.to_lowercase(),
                        verdicts.join(" | ")
                    );
                    assert!(text.contains(&row), "missing: {row}");
                }
            }
        };
    }

    cells! {
        live_ok_ok: Live Ok Ok => Use;
        live_ok_failing: Live Ok Failing => Suspect;
        live_ok_none: Live Ok None => Use;
        live_failed_ok: Live Failed Ok => Use;
        live_failed_failing: Live Failed Failing => Gone;
        live_failed_none: Live Failed None => Suspect;
        live_none_ok: Live None Ok => Use;
        live_none_failing: Live None Failing => Suspect;
        live_none_none: Live None None => Use;
        expired_ok_ok: Expired Ok Ok => Suspect;
        expired_ok_failing: Expired Ok Failing => Gone;
        expired_ok_none: Expired Ok None => Suspect;
        expired_failed_ok: Expired Failed Ok => Suspect;
        expired_failed_failing: Expired Failed Failing => Gone;
        expired_failed_none: Expired Failed None => Gone;
        expired_none_ok: Expired None Ok => Suspect;
        expired_none_failing: Expired None Failing => Gone;
        expired_none_none: Expired None None => Gone;
        unknown_ok_ok: Unknown Ok Ok => Use;
        unknown_ok_failing: Unknown Ok Failing => Suspect;
        unknown_ok_none: Unknown Ok None => Use;
        unknown_failed_ok: Unknown Failed Ok => Use;
        unknown_failed_failing: Unknown Failed Failing => Gone;
        unknown_failed_none: Unknown Failed None => Suspect;
        unknown_none_ok: Unknown None Ok => Use;
        unknown_none_failing: Unknown None Failing => Suspect;
        unknown_none_none: Unknown None None => Use;
    }
}
