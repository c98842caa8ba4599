//! Transactions: what is written on which condition.

use waystation_membership::Instance;

use super::entry::{Keys, value_of};
use super::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use super::proto::request_op::Request;
use super::proto::response_op::Response;
use super::proto::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest,
    TxnResponse,
};

/// Writes an instance over what was written at a revision; else reads what
/// stands there, and the epoch. The epoch must be the one of `epoch_mod`.
pub(super) fn write(
    keys: &Keys,
    instance: &Instance,
    lease: i64,
    mod_revision: i64,
    epoch_mod: Option<i64>,
) -> TxnRequest {
    let (key, epoch) = (keys.instance(&instance.id), keys.epoch());
    let mut compare = vec![compare_mod(&key, mod_revision)];
    compare.extend(epoch_mod.map(|at| compare_mod(&epoch, at)));
    TxnRequest {
        compare,
        failure: vec![get(key.clone()), get(epoch)],
        success: vec![put(key, value_of(instance), lease)],
    }
}

/// What the two reads of a write that failed have found.
pub(super) fn found_in(answer: TxnResponse) -> [Option<KeyValue>; 2] {
    let mut ranges = answer.responses.into_iter().map(|one| match one.response {
        Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    });
    [ranges.next().flatten(), ranges.next().flatten()]
}

/// That a key was last written at this revision; zero if it is not there.
pub(super) fn compare_mod(key: &[u8], mod_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.to_vec().into(),
        target_union: Some(TargetUnion::ModRevision(mod_revision)),
    }
}

/// That a key is attached to this lease.
pub(super) fn compare_lease(key: &[u8], lease: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Lease.into(),
        key: key.to_vec().into(),
        target_union: Some(TargetUnion::Lease(lease)),
    }
}

pub(super) fn put(key: Vec<u8>, value: Vec<u8>, lease: i64) -> RequestOp {
    of(Request::RequestPut(PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
    }))
}

pub(super) fn get(key: Vec<u8>) -> RequestOp {
    of(Request::RequestRange(RangeRequest {
        key: key.into(),
        ..RangeRequest::default()
    }))
}

pub(super) fn delete(key: Vec<u8>) -> RequestOp {
    of(Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.into(),
        ..DeleteRangeRequest::default()
    }))
}

fn of(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}
