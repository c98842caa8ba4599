//! What a run found, for people and for programs.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::checker::Verdict;

/// What a run found. As JSON it is one object with these names.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Messages that were to be sent.
    pub sent: u64,
    /// Those that Entry said are stored.
    pub acknowledged: u64,
    /// Pairs of message and member that arrived, each counted once.
    pub delivered: u64,
    /// Pairs of acknowledged message and member that never arrived.
    pub lost: u64,
    /// Deliveries beyond the first, and messages stored under two numbers.
    pub duplicated: u64,
    /// Deliveries that came before an earlier message of their conversation.
    pub out_of_order: u64,
    /// From the intended time of a send to a delivery, the median, in µs.
    pub p50_us: u64,
    /// The same for all but the slowest hundredth, in µs.
    pub p99_us: u64,
    /// Sends that were given up; nobody knows whether they were stored.
    pub errors: u64,
    /// How long messages were sent.
    pub seconds: f64,
    /// From the intended time of a send to its acknowledgement, the median,
    /// in µs.
    pub ack_p50_us: u64,
    /// The same for all but the slowest hundredth, in µs.
    pub ack_p99_us: u64,
    /// The slowest delivery, in µs.
    pub max_us: u64,
    /// Deliveries that are not what was sent.
    pub corrupted: u64,
    /// Deliveries to someone who is no member.
    pub misdelivered: u64,
    /// Members that lack a stored message which others have; numbers with
    /// two messages, or none.
    pub disagreeing: u64,
    /// Pairs of stored message and member that had not arrived when the member
    /// could fetch nothing any more: neither delivered nor known to be lost.
    pub unverified: u64,
    /// Connections that were made again after they were lost.
    pub reconnects: u64,
    /// Requests that were sent again after a failure.
    pub retries: u64,
    /// Messages that the generator itself sent late; with many of them the
    /// latencies speak of the generator.
    pub late_sends: u64,
    /// Users that were connected.
    pub clients: u32,
    /// Where its randomness started.
    pub seed: u64,
    /// The word in all of the run's names.
    pub run: String,
    /// Descriptions of the first faults, and of the last failed send.
    pub faults: Vec<String>,
}

impl Report {
    pub(super) fn empty(clients: u32, seed: u64) -> Self {
        Self {
            clients,
            seed,
            ..Self::default()
        }
    }

    /// Whether all that was acknowledged arrived once, whole and in order, as
    /// far as anyone could see it, and anything was.
    pub fn is_clean(&self) -> bool {
        let faults = [
            self.lost,
            self.duplicated,
            self.out_of_order,
            self.corrupted,
            self.misdelivered,
            self.disagreeing,
            self.unverified,
        ];
        faults.iter().all(|count| *count == 0) && self.acknowledged > 0
    }

    pub(super) fn set_verdict(&mut self, verdict: Verdict) {
        self.delivered = verdict.delivered;
        self.lost = verdict.lost;
        self.duplicated = verdict.duplicated;
        self.out_of_order = verdict.out_of_order;
        self.corrupted = verdict.corrupted;
        self.misdelivered = verdict.misdelivered;
        self.disagreeing = verdict.disagreeing;
        self.unverified = verdict.unverified;
        if verdict.unverified > 0 {
            let count = verdict.unverified;
            self.faults.push(format!(
                "{count} deliveries were not verified: their recipients had no login at the end"
            ));
        }
        self.faults.extend(verdict.examples);
    }

    pub(super) fn set_latencies(&mut self, delivery: &Histogram<u64>, answer: &Histogram<u64>) {
        self.p50_us = delivery.value_at_quantile(0.5);
        self.p99_us = delivery.value_at_quantile(0.99);
        self.max_us = delivery.max();
        self.ack_p50_us = answer.value_at_quantile(0.5);
        self.ack_p99_us = answer.value_at_quantile(0.99);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.seconds;
        #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
        let per_second = |count: u64| count as f64 / seconds.max(0.001);
        let rows: [(&str, u64); 15] = [
            ("sent", self.sent),
            ("acknowledged", self.acknowledged),
            ("delivered", self.delivered),
            ("errors", self.errors),
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("out of order", self.out_of_order),
            ("corrupted", self.corrupted),
            ("misdelivered", self.misdelivered),
            ("disagreeing", self.disagreeing),
            ("not verified", self.unverified),
            ("reconnects", self.reconnects),
            ("retries", self.retries),
            ("late sends", self.late_sends),
            ("clients", u64::from(self.clients)),
        ];
        for (index, (name, count)) in rows.into_iter().enumerate() {
            write!(f, "{name:<14}{count:>12}")?;
            if index < 3 {
                write!(f, "{:>14.1}/s", per_second(count))?;
            }
            writeln!(f)?;
        }
        let latency = |f: &mut fmt::Formatter<'_>, name: &str, p50, p99| {
            writeln!(f, "{name:<14}{:>12}  p99 {}", millis(p50), millis(p99))
        };
        latency(f, "delivery p50", self.p50_us, self.p99_us)?;
        latency(f, "answer p50", self.ack_p50_us, self.ack_p99_us)?;
        writeln!(f, "{:<14}{:>12}", "slowest", millis(self.max_us))?;
        writeln!(f, "{:<14}{seconds:>11.1}s", "time")?;
        write!(f, "run {}, seed {}", self.run, self.seed)?;
        for fault in &self.faults {
            write!(f, "\n! {fault}")?;
        }
        Ok(())
    }
}

fn millis(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            sent: 120_000,
            acknowledged: 119_999,
            delivered: 480_000,
            lost: 0,
            duplicated: 0,
            out_of_order: 0,
            p50_us: 1_234,
            p99_us: 20_042,
            errors: 1,
            seconds: 60.0,
            ack_p50_us: 900,
            ack_p99_us: 19_000,
            max_us: 2_000_001,
            corrupted: 0,
            misdelivered: 0,
            disagreeing: 0,
            unverified: 0,
            reconnects: 500,
            retries: 733,
            late_sends: 2,
            clients: 500,
            seed: 7,
            run: "abc".into(),
            faults: Vec::new(),
        }
    }

    #[test]
    fn any_fault_is_not_clean_and_neither_is_silence() {
        assert!(report().is_clean(), "a given-up send is no fault");
        let changes: [fn(&mut Report); 8] = [
            |r| r.lost = 1,
            |r| r.duplicated = 1,
            |r| r.out_of_order = 1,
            |r| r.corrupted = 1,
            |r| r.misdelivered = 1,
            |r| r.disagreeing = 1,
            |r| r.unverified = 1,
            |r| r.acknowledged = 0,
        ];
        for change in changes {
            let mut report = report();
            change(&mut report);
            assert!(!report.is_clean(), "{report}");
        }
    }

    /// Scripts read these names.
    #[test]
    fn json_has_the_promised_names_first() {
        let json = serde_json::to_string(&report()).unwrap();
        let start = "{\"sent\":120000,\"acknowledged\":119999,\"delivered\":480000,\
            \"lost\":0,\"duplicated\":0,\"out_of_order\":0,\"p50_us\":1234,\"p99_us\":20042,\
            \"errors\":1,\"seconds\":60.0,\"ack_p50_us\":900,\"ack_p99_us\":19000,";
        assert!(json.starts_with(start), "{json}");
        assert!(!json.contains('\n'));
    }

    #[test]
    fn the_table_reads_well() {
        let mut report = report();
        report.faults.push("to a was lost: x".into());
        let expected = "\
sent                120000        2000.0/s
acknowledged        119999        2000.0/s
delivered           480000        8000.0/s
errors                   1
lost                     0
duplicated               0
out of order             0
corrupted                0
misdelivered             0
disagreeing              0
not verified             0
reconnects             500
retries                733
late sends               2
clients                500
delivery p50      1.234 ms  p99 20.042 ms
answer p50        0.900 ms  p99 19.000 ms
slowest        2000.001 ms
time                 60.0s
run abc, seed 7
! to a was lost: x";
        assert_eq!(report.to_string(), expected);
    }
}
