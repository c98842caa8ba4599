//! How a request ended.

use std::fmt;

/// How a request ended, as its reply says it.
///
/// The conversion from a number is total, and a number that this version does
/// not know survives it: a node may pass on what a newer one answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Status {
    /// The request was carried out; the body is its result.
    #[default]
    Ok,
    /// The caller gave up before the end.
    Cancelled,
    /// The request itself is wrong; sending it again cannot help.
    InvalidRequest,
    /// The deadline passed first. Whether the request took effect is not known.
    DeadlineExceeded,
    /// What the request names does not exist.
    NotFound,
    /// The callee has no handler for this message id.
    Unimplemented,
    /// The callee had too much to do and refused at once; nothing was begun.
    Overloaded,
    /// No callee could be reached; nothing was begun.
    Unavailable,
    /// The callee failed: an error or a panic in its handler.
    Internal,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// The request contradicts the present state (a lost race, a stale version).
    Conflict,
    /// The connection broke after the request was sent: it may have taken effect.
    OutcomeUnknown,
    /// The request or its answer is larger than a limit.
    TooLarge,
    /// The callee is shutting down and took no new request; nothing was begun.
    Draining,
    /// The caller has not said, or not proven, who it is.
    Unauthenticated,
    /// A number of a newer version.
    Unknown(UnknownStatus),
}

/// The number of a status that this version does not know.
///
/// Made only by [`Status::from`], so that a known number has one form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UnknownStatus(u16);

impl UnknownStatus {
    /// The number as received.
    pub const fn code(self) -> u16 {
        self.0
    }
}

impl Status {
    /// Every status that this version knows, by ascending number from 0.
    pub const ALL: [Self; 15] = [
        Self::Ok,
        Self::Cancelled,
        Self::InvalidRequest,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::Unimplemented,
        Self::Overloaded,
        Self::Unavailable,
        Self::Internal,
        Self::PermissionDenied,
        Self::Conflict,
        Self::OutcomeUnknown,
        Self::TooLarge,
        Self::Draining,
        Self::Unauthenticated,
    ];

    /// The status with this number; total, see [`Status::Unknown`].
    pub const fn from_code(code: u16) -> Self {
        if (code as usize) < Self::ALL.len() {
            Self::ALL[code as usize]
        } else {
            Self::Unknown(UnknownStatus(code))
        }
    }

    /// The number on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Self::Ok => 0,
            Self::Cancelled => 1,
            Self::InvalidRequest => 2,
            Self::DeadlineExceeded => 3,
            Self::NotFound => 4,
            Self::Unimplemented => 5,
            Self::Overloaded => 6,
            Self::Unavailable => 7,
            Self::Internal => 8,
            Self::PermissionDenied => 9,
            Self::Conflict => 10,
            Self::OutcomeUnknown => 11,
            Self::TooLarge => 12,
            Self::Draining => 13,
            Self::Unauthenticated => 14,
            Self::Unknown(unknown) => unknown.0,
        }
    }

    /// A stable name in `snake_case`, for JSON and metric labels.
    ///
    /// Every unknown number shares one name, so that labels stay bounded.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled => "cancelled",
            Self::InvalidRequest => "invalid_request",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::Unimplemented => "unimplemented",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::PermissionDenied => "permission_denied",
            Self::Conflict => "conflict",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::TooLarge => "too_large",
            Self::Draining => "draining",
            Self::Unauthenticated => "unauthenticated",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The HTTP status code that says the same to an HTTP caller.
    ///
    /// A refusal for load is 503, not 429: it speaks of the callee's state, not
    /// of this caller's rate.
    pub const fn http_code(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::InvalidRequest => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Cancelled => 499,
            Self::Internal | Self::Unknown(_) => 500,
            Self::Unimplemented => 501,
            Self::OutcomeUnknown => 502,
            Self::Overloaded | Self::Unavailable | Self::Draining => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// Whether the request was carried out.
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Ok)
    }

    /// Whether any request with this end may be sent again: it was certainly not
    /// begun, and another attempt or another host may take it.
    pub const fn may_retry(self) -> bool {
        matches!(self, Self::Overloaded | Self::Unavailable | Self::Draining)
    }

    /// Whether a request marked idempotent may be sent again after this end.
    ///
    /// Adds [`Status::OutcomeUnknown`] to [`Status::may_retry`]. A deadline that
    /// has passed leaves no time for another attempt.
    pub const fn may_retry_idempotent(self) -> bool {
        self.may_retry() || matches!(self, Self::OutcomeUnknown)
    }
}

impl From<u16> for Status {
    fn from(code: u16) -> Self {
        Self::from_code(code)
    }
}

impl From<Status> for u16 {
    fn from(status: Status) -> Self {
        status.code()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(unknown) => write!(f, "unknown status {}", unknown.0),
            known => f.write_str(known.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_number_survives_the_conversion() {
        for code in 0..=u16::MAX {
            let status = Status::from(code);
            assert_eq!(u16::from(status), code);
            assert_eq!(matches!(status, Status::Unknown(_)), code > 14, "{code}");
        }
    }

    #[test]
    fn known_statuses_stand_at_their_number_with_a_name_each() {
        let mut names = HashSet::new();
        for (code, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(status.code()), code);
            assert!(
                names.insert(status.name()),
                "{} is named twice",
                status.name()
            );
            assert!(
                status
                    .name()
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            );
        }
        assert_eq!(Status::from(9000).name(), "unknown");
        assert_eq!(Status::from(9000).to_string(), "unknown status 9000");
    }

    #[test]
    fn only_what_was_not_begun_may_be_sent_again() {
        let again: Vec<_> = Status::ALL
            .into_iter()
            .filter(|status| status.may_retry())
            .collect();
        assert_eq!(
            again,
            [Status::Overloaded, Status::Unavailable, Status::Draining]
        );
        assert!(!Status::OutcomeUnknown.may_retry());
        assert!(Status::OutcomeUnknown.may_retry_idempotent());
        assert!(!Status::DeadlineExceeded.may_retry_idempotent());
        assert!(!Status::from(999).may_retry_idempotent());
    }

    #[test]
    fn http_codes_are_valid_and_only_ok_is_a_success() {
        for status in Status::ALL {
            assert_eq!(status.http_code() / 100 == 2, status.is_ok());
            assert!((200..600).contains(&status.http_code()));
        }
        assert_eq!(Status::from(15).http_code(), 500);
    }
}
