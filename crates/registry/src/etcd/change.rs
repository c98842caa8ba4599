//! Changes of keys, each on the condition that nobody else was faster.

use std::sync::Arc;

use waystation_membership::{Instance, InstanceId};

use super::backend::Shared;
use super::entry::{instance_of, value_of};
use super::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use super::proto::request_op::Request;
use super::proto::response_op::Response;
use super::proto::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest,
    TxnResponse,
};
use super::replica::Entry;
use super::wire::{Fault, Wire};
use crate::limits::ETCD_TRIES;

/// What became of a change.
#[derive(Debug)]
pub(super) enum Changed {
    /// It stands as it should.
    Done(Arc<Instance>),
    /// The key is not there, or not the one that was meant.
    Not(Option<Entry>),
}

/// Changes an instance in place, on the lease that it has, if `edit` finds that
/// it is the right one.
pub(super) async fn change(
    shared: &Shared,
    wire: &Wire,
    id: &InstanceId,
    edit: impl Fn(&Instance) -> Option<Instance>,
) -> Result<Changed, Fault> {
    let mut stand = shared.replica.borrow().entry(id).cloned();
    let mut is_sure = false;
    for _ in 0..ETCD_TRIES {
        let instance = stand.as_ref().and_then(|entry| entry.instance.as_deref());
        let edited = instance.and_then(&edit);
        let (Some(instance), Some(edited), Some(entry)) = (instance, edited, &stand) else {
            if is_sure {
                return Ok(Changed::Not(stand));
            }
            stand = read(shared, wire, id).await?;
            is_sure = true;
            continue;
        };
        if *instance == edited && is_sure {
            return Ok(Changed::Done(Arc::new(edited)));
        }
        let request = write(shared, &edited, entry.lease, entry.mod_revision, None);
        let answer = wire.txn(request).await?;
        if answer.succeeded {
            return Ok(Changed::Done(Arc::new(edited)));
        }
        let found = found_in(answer);
        stand = found[0].as_ref().map(|kv| entry_of(id, kv));
        is_sure = true;
    }
    Err(Fault::Nonsense("others are always faster"))
}

pub(super) async fn read(
    shared: &Shared,
    wire: &Wire,
    id: &InstanceId,
) -> Result<Option<Entry>, Fault> {
    let request = RangeRequest {
        key: shared.keys.instance(id).into(),
        ..RangeRequest::default()
    };
    let answer = wire.range(request).await?;
    Ok(answer.kvs.first().map(|kv| entry_of(id, kv)))
}

pub(super) fn entry_of(id: &InstanceId, kv: &KeyValue) -> Entry {
    Entry {
        instance: instance_of(id, kv).ok().map(Arc::new),
        mod_revision: kv.mod_revision,
        lease: kv.lease,
    }
}

/// Writes an instance over what was written at a revision; else reads what
/// stands there, and the epoch. The epoch must be the one of `epoch_mod`.
pub(super) fn write(
    shared: &Shared,
    instance: &Instance,
    lease: i64,
    mod_revision: i64,
    epoch_mod: Option<i64>,
) -> TxnRequest {
    let (key, epoch) = (shared.keys.instance(&instance.id), shared.keys.epoch());
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

fn get(key: Vec<u8>) -> RequestOp {
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
