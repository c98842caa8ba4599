//! What the kernel tells of processes and of the machine in `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

/// CPU seconds that a process has used so far, all its threads together, in user and kernel mode.
/// Resolution: one clock tick, 10 ms.
///
/// # Errors
/// The process is gone, or the kernel writes something else there.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = cpu_ticks(&text).with_context(|| format!("{path} has no CPU times: {text}"))?;
    Ok(crate::stats::number(ticks) / crate::stats::number(rustix::param::clock_ticks_per_second()))
}

/// The memory of a process that is in RAM now.
///
/// # Errors
/// The process is gone, or the kernel writes something else there.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib = field(&text, "VmRSS").and_then(|value| value.strip_suffix(" kB")?.parse().ok());
    let kib: u64 = kib.with_context(|| format!("{path} has no resident size"))?;
    Ok(kib * 1024)
}

/// User and system ticks in a line of `/proc/PID/stat`. The program's name stands in parentheses
/// and may itself hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    // The state is field 3 of the line, the user time field 14, the system time field 15.
    let mut fields = after_name.split_ascii_whitespace().skip(14 - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Ticks of all CPUs since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MachineTicks {
    /// With something to do.
    pub(crate) busy: u64,
    /// Taken by the host for other machines.
    pub(crate) stolen: u64,
    /// All of them.
    pub(crate) total: u64,
}

impl MachineTicks {
    /// The present counts; zeros where `/proc/stat` is missing.
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&text).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user nice system idle iowait irq softirq steal; guests are within user and nice.
        let ticks: Vec<u64> = line
            .split_ascii_whitespace()
            .take(8)
            .map_while(|field| field.parse().ok())
            .collect();
        let [user, nice, system, idle, iowait, irq, softirq, stolen] = ticks.try_into().ok()?;
        let busy = user + nice + system + irq + softirq;
        Some(Self {
            busy,
            stolen,
            total: busy + idle + iowait + stolen,
        })
    }

    /// What was counted between `earlier` and this.
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            stolen: self.stolen.saturating_sub(earlier.stolen),
            total: self.total.saturating_sub(earlier.total),
        }
    }
}

/// The first value of `key` in a file of `key : value` lines, such as `/proc/cpuinfo`.
pub(crate) fn field(text: &str, key: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.trim(), value.trim()))
        .find(|&(name, _)| name == key)
        .map(|(_, value)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "77 (a) b) (c 1 2 3) S 1 77 77 0 -1 4194304 500 0 0 0 250 50 9 9 20 0 3 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("77 (short) S 1 2"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn this_process_uses_cpu_time() {
        let before = cpu_seconds(std::process::id()).unwrap();
        while cpu_seconds(std::process::id()).unwrap() <= before {}
        assert!(cpu_seconds(u32::MAX).is_err());
    }

    #[test]
    fn this_process_takes_memory() {
        let before = resident_bytes(std::process::id()).unwrap();
        let much = vec![1_u8; 64 << 20];
        let with_much = resident_bytes(std::process::id()).unwrap();
        assert!(with_much > before + (32 << 20), "{before} {with_much}");
        drop(much);
        assert!(resident_bytes(u32::MAX).is_err());
    }

    #[test]
    fn the_machines_ticks_are_split_into_busy_stolen_and_idle() {
        let text = "cpu  10 1 20 300 40 2 3 5 7 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        let expected = MachineTicks {
            busy: 36,
            stolen: 5,
            total: 381,
        };
        assert_eq!(MachineTicks::parse(text), Some(expected));
        assert_eq!(MachineTicks::parse("cpu 1 2 x"), None);
        let later = MachineTicks {
            busy: 46,
            stolen: 5,
            total: 401,
        };
        let between = later.since(expected);
        assert_eq!((between.busy, between.stolen, between.total), (10, 0, 20));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "model\t\t: 17\nmodel name\t: Some CPU @ 3: fast\nmodel name\t: other\n";
        assert_eq!(
            field(text, "model name").as_deref(),
            Some("Some CPU @ 3: fast")
        );
        assert_eq!(field(text, "name"), None);
    }
}
