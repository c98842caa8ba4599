//! What an answer says of the host that gave it.

use http::Response;
use waystation_balance::{CallEnd, Load};

use crate::limits::STATUS_BYTES;

/// Says how a call ended, by its answer. A call without one was refused.
pub trait Judge<Answer>: Clone + Send + 'static {
    /// How it ended, and the load that the answer tells, if it tells any.
    fn judge(&self, answer: &Answer) -> (CallEnd, Load);
}

/// Every answer is a good one: for protocols in which a failure is no answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerJudge;

impl<Answer> Judge<Answer> for AnswerJudge {
    fn judge(&self, _: &Answer) -> (CallEnd, Load) {
        (CallEnd::Ok, Load::default())
    }
}

impl<Answer, F> Judge<Answer> for F
where
    F: Fn(&Answer) -> CallEnd + Clone + Send + 'static,
{
    fn judge(&self, answer: &Answer) -> (CallEnd, Load) {
        (self(answer), Load::default())
    }
}

/// Judges by the status of HTTP, and by that of gRPC where it comes with the
/// headers: so come the errors of calls with one answer. A host that finds fault
/// with the request has done its work.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpJudge;

impl<Body> Judge<Response<Body>> for HttpJudge {
    fn judge(&self, answer: &Response<Body>) -> (CallEnd, Load) {
        let end = match answer.status().as_u16() {
            429 | 503 => CallEnd::Overloaded,
            504 => CallEnd::TimedOut,
            500.. => CallEnd::Failed,
            _ => answer
                .headers()
                .get("grpc-status")
                .map_or(CallEnd::Ok, |status| of_grpc(status.as_bytes())),
        };
        (end, Load::default())
    }
}

/// What a gRPC status says of the host.
fn of_grpc(status: &[u8]) -> CallEnd {
    let digits = status.get(..status.len().min(STATUS_BYTES));
    let text = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    match text.and_then(|text| text.parse::<u16>().ok()) {
        // Unknown, internal, data loss; or no status at all.
        Some(2 | 13 | 15) | None => CallEnd::Failed,
        Some(4) => CallEnd::TimedOut,
        // Resource exhausted, unavailable.
        Some(8 | 14) => CallEnd::Overloaded,
        Some(_) => CallEnd::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_say_what_they_mean_for_the_host() {
        let judged = |code: u16, grpc: Option<&str>| {
            let mut answer = Response::builder().status(code);
            if let Some(grpc) = grpc {
                answer = answer.header("grpc-status", grpc);
            }
            HttpJudge.judge(&answer.body(()).unwrap()).0
        };
        assert_eq!(judged(200, None), CallEnd::Ok);
        assert_eq!(judged(404, None), CallEnd::Ok, "it has done its work");
        assert_eq!(judged(500, None), CallEnd::Failed);
        assert_eq!(judged(503, None), CallEnd::Overloaded);
        assert_eq!(judged(504, None), CallEnd::TimedOut);
        assert_eq!(judged(200, Some("0")), CallEnd::Ok);
        assert_eq!(judged(200, Some("5")), CallEnd::Ok, "not found");
        assert_eq!(judged(200, Some("13")), CallEnd::Failed);
        assert_eq!(judged(200, Some("14")), CallEnd::Overloaded);
        for nonsense in ["", "x", "99999999999999999999"] {
            let end = judged(200, Some(nonsense));
            assert!(matches!(end, CallEnd::Failed | CallEnd::Ok), "{nonsense}");
        }
    }
}
