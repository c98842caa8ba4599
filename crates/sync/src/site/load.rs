//! How busy this machine is: donors are chosen by it, among other things.

use std::time::Duration;

/// How often it is looked at.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Where the kernel says how many processes want to run.
const SOURCE: &str = "/proc/loadavg";

/// Processes that wanted to run in the last minute, in thousandths of what the
/// machine's cores can run; 0 where the system does not say.
pub(super) fn machine_permille() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string(SOURCE).unwrap_or_default();
    permille(&text, cores).unwrap_or_default()
}

fn permille(text: &str, cores: usize) -> Option<u16> {
    let (whole, hundredths) = text.split_ascii_whitespace().next()?.split_once('.')?;
    let wanting = whole.parse::<u64>().ok()?.checked_mul(100)?;
    let wanting = wanting.checked_add(hundredths.get(..2)?.parse().ok()?)?;
    let permille = wanting.checked_mul(10)? / u64::try_from(cores.max(1)).ok()?;
    Some(u16::try_from(permille).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::permille;

    #[test]
    fn the_load_is_a_share_of_the_cores() {
        assert_eq!(permille("0.50 0.40 0.30 1/234 5678\n", 2), Some(250));
        assert_eq!(permille("12.00 1.00 1.00 1/2 3\n", 4), Some(3000));
        assert_eq!(permille("99999.99 0 0\n", 1), Some(u16::MAX));
        for nonsense in ["", "x", "1", "1.x", "-1.00", "1.2"] {
            assert_eq!(permille(nonsense, 2), None, "{nonsense}");
        }
    }
}
