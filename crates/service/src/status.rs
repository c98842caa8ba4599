//! The error of a request: a code for programs, a message for people.

use std::fmt;

use waystation_wire::Status as Code;

use crate::limits::REASON_BYTES;

/// Why a request failed, or was refused.
///
/// The codes are those of the native frame; over HTTP they become the nearest
/// HTTP status ([`Code::http_code`]).
///
/// Two are equal when they say the same, wherever they came from.
#[derive(Debug, Clone)]
pub struct Status {
    code: Code,
    message: String,
    origin: Origin,
}

/// Who found out that the request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// This process.
    Here,
    /// A callee, which has answered so.
    Callee,
    /// Whoever tried it again, as often as it may be tried.
    Retried,
}

impl PartialEq for Status {
    fn eq(&self, other: &Self) -> bool {
        (self.code, &self.message) == (other.code, &other.message)
    }
}

impl Eq for Status {}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident $code:ident),* $(,)?) => {
        impl Status {
            $($(#[$doc])*
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new(Code::$code, message)
            })*
        }
    };
}

constructors! {
    /// The caller gave up.
    cancelled Cancelled,
    /// The request itself is wrong; the same request fails again.
    invalid_request InvalidRequest,
    /// The deadline passed.
    deadline_exceeded DeadlineExceeded,
    /// What the request names does not exist.
    not_found NotFound,
    /// No handler has this method.
    unimplemented Unimplemented,
    /// Too much work is in progress; nothing was done.
    overloaded Overloaded,
    /// A part that the request needs is away; it may be tried again.
    unavailable Unavailable,
    /// A fault of our own.
    internal Internal,
    /// The caller may not do this.
    permission_denied PermissionDenied,
    /// It exists already, or changed meanwhile.
    conflict Conflict,
    /// It was sent, and nobody knows whether it was done.
    outcome_unknown OutcomeUnknown,
    /// A message is larger than it may be.
    too_large TooLarge,
    /// The process goes away.
    draining Draining,
    /// The caller has not said who it is.
    unauthenticated Unauthenticated,
}

impl Status {
    /// A status of any code. `Ok` is none of a failure: a caller would take
    /// its message for the answer. It becomes `Internal`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let code = if code.is_ok() { Code::Internal } else { code };
        Self {
            code,
            message: message.into(),
            origin: Origin::Here,
        }
    }

    /// What a callee answered, and whether it has tried that again itself.
    pub(crate) fn answered(code: Code, message: String, retried: bool) -> Self {
        let origin = match code {
            _ if retried => Origin::Retried,
            // It goes away itself: another one, or its successor, may answer.
            Code::Draining => Origin::Here,
            _ => Origin::Callee,
        };
        Self {
            origin,
            ..Self::new(code, message)
        }
    }

    /// The same, which is not to be tried again by those further up: what they
    /// would try has been tried, as often as it may be. It travels with the
    /// answer. [`Ctx::retry`](crate::Ctx::retry) marks what it gives up on.
    #[must_use]
    pub fn retried(mut self) -> Self {
        self.origin = Origin::Retried;
        self
    }

    /// Whether it was tried again already, see [`Status::retried`].
    pub fn is_retried(&self) -> bool {
        self.origin == Origin::Retried
    }

    /// Whether a callee said so, which knows more of it than who waited for it.
    pub(crate) fn is_answered(&self) -> bool {
        self.origin != Origin::Here
    }

    /// What went wrong, for programs.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What went wrong, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same with a message of at most [`REASON_BYTES`]: a refusal has to
    /// find room where an answer does not.
    pub(crate) fn shortened(mut self) -> Self {
        let end = self.message.floor_char_boundary(REASON_BYTES);
        self.message.truncate(end);
        self
    }

    pub(crate) fn into_message(self) -> String {
        self.message
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Status {}

impl From<waystation_net::native::CallError> for Status {
    fn from(error: waystation_net::native::CallError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

impl From<waystation_net::OffloadError> for Status {
    fn from(error: waystation_net::OffloadError) -> Self {
        match error {
            waystation_net::OffloadError::Full(_) => Self::overloaded(error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}
