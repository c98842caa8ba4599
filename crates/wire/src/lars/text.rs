//! Codes and ports.

/// What an answer says of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum RetCode {
    /// A host is in the answer; in a report, the call went well.
    Success = 0,
    /// All hosts are overloaded.
    Overload = 1,
    /// The agent failed; in a report any other code than success is a failure.
    SystemError = 2,
    /// Nobody knows the service, or not yet: the route is being asked for.
    NoSuchService = 3,
}

impl RetCode {
    /// The code on the wire.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The meaning of a code, if it has one.
    pub const fn of(code: i32) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::Overload),
            2 => Some(Self::SystemError),
            3 => Some(Self::NoSuchService),
            _ => None,
        }
    }
}

/// The agent's UDP ports, on loopback.
pub const UDP_PORTS: [u16; 3] = [8888, 8889, 8890];

/// Which of `workers` of an agent serves a pair; callers ask there. Lars adds in
/// 32 bits and takes the remainder; a negative one, which leads outside of its
/// table, is turned into a positive one here.
///
/// # Panics
/// Without workers.
pub const fn worker_of(modid: i32, cmdid: i32, workers: u32) -> u32 {
    let sum = modid.wrapping_add(cmdid) as i64;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below a number of 32 bits, and not negative"
    )]
    let worker = sum.rem_euclid(workers as i64) as u32;
    worker
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In Lars a negative sum indexed before the table of workers, and the agent
    /// died of one datagram.
    #[test]
    fn negative_pairs_have_a_worker() {
        assert_eq!(worker_of(1, 1, 3), 2);
        assert_eq!(worker_of(1, 2, 3), 0);
        assert_eq!(worker_of(-1, 0, 3), 2);
        assert_eq!(worker_of(i32::MAX, 1, 3), worker_of(i32::MIN, 0, 3));
        for sum in -10..10 {
            assert!(worker_of(sum, 0, 3) < 3);
        }
    }

    #[test]
    fn codes_are_those_of_lars() {
        for code in -1..6 {
            let meaning = RetCode::of(code);
            assert_eq!(
                meaning.map(RetCode::code),
                (0..4).contains(&code).then_some(code)
            );
        }
    }
}
