//! A handler of one method, whatever wire its requests come by.

use std::future::Future;
use std::marker::PhantomData;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use waystation_net::Label;

use crate::ctx::Ctx;
use crate::method::{Format, Method};
use crate::status::Status;

/// A handler's future, which ends in an encoded answer.
pub(crate) type Answering = LocalBoxFuture<'static, Result<Vec<u8>, Status>>;

/// A handler with its types erased.
pub(crate) trait Endpoint: 'static {
    fn name(&self) -> &'static str;
    fn label(&self) -> Label;
    /// Decodes the body and starts the handler.
    fn start(&self, ctx: &Ctx, format: Format, body: &[u8]) -> Result<Answering, Status>;
}

pub(crate) struct TypedEndpoint<M, H> {
    handler: Rc<H>,
    label: Label,
    method: PhantomData<fn() -> M>,
}

impl<M: Method, H> TypedEndpoint<M, H> {
    pub(crate) fn new(handler: H) -> Self {
        Self {
            handler: Rc::new(handler),
            label: Label::of(M::NAME),
            method: PhantomData,
        }
    }
}

impl<M, H, F> Endpoint for TypedEndpoint<M, H>
where
    M: Method,
    H: Fn(Ctx, M::Request) -> F + 'static,
    F: Future<Output = Result<M::Reply, Status>> + 'static,
{
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn label(&self) -> Label {
        self.label
    }

    fn start(&self, ctx: &Ctx, format: Format, body: &[u8]) -> Result<Answering, Status> {
        let request = format.decode::<M::Request>(body)?;
        let (handler, ctx) = (self.handler.clone(), ctx.clone());
        Ok(Box::pin(async move {
            ctx.run(async {
                let reply = handler(ctx.clone(), request).await?;
                format.encode(&reply)
            })
            .await
        }))
    }
}
