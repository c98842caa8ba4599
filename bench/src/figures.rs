//! Numbers as people read them.

use crate::stats::Summary;

/// At least three significant digits: `2.81`, `28.3`, `399`, `12,345`. Thousands are separated.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    // Rounding comes first, so that 9.996 has as many digits as 10.0.
    let decimals = match () {
        () if size == 0.0 => 0,
        () if size < 0.0995 => 3,
        () if size < 9.995 => 2,
        () if size < 99.95 => 1,
        () => 0,
    };
    let digits = format!("{value:.decimals$}");
    match digits.split_once('.') {
        Some((whole, rest)) => format!("{}.{rest}", separated(whole)),
        None => separated(&digits),
    }
}

/// A whole number with its thousands separated.
pub(crate) fn count(value: u64) -> String {
    separated(&value.to_string())
}

/// A fraction as a percentage.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

/// The extremes of a series: `2.70–2.95`.
pub(crate) fn spread(summary: &Summary) -> String {
    format!("{}–{}", figure(summary.min), figure(summary.max))
}

/// Puts a comma before each group of three digits but the first.
fn separated(digits: &str) -> String {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", digits),
    };
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits_and_no_more_decimals_than_that() {
        let shown = [
            0.0,
            0.012_34,
            0.5,
            2.812,
            9.996,
            28.34,
            99.96,
            399.4,
            12_345.6,
            -1_234_567.0,
        ]
        .map(figure);
        let expected = [
            "0",
            "0.012",
            "0.50",
            "2.81",
            "10.0",
            "28.3",
            "100",
            "399",
            "12,346",
            "-1,234,567",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn counts_and_shares_are_readable() {
        assert_eq!(
            [0, 999, 1_000, 1_000_000].map(count),
            ["0", "999", "1,000", "1,000,000"]
        );
        assert_eq!(percent(0.1234), "12.3 %");
        let summary = Summary::of(&[2.5, 30.0, 3.0]).unwrap();
        assert_eq!(spread(&summary), "2.50–30.0");
    }
}
