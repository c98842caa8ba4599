//! The service framework under test: a shop and its depot, generated from
//! `proto/demo.proto`, and peers that speak each wire by hand.
//!
//! Tests run whole processes on in-memory streams. They wait for events, with
//! a deadline that only a failure reaches ([`PATIENCE`]), and never for time.
//!
//! ```
//! use waystation_net::MemoryIo;
//! use waystation_service_check::{HttpPeer, Stage, block_on, shop};
//!
//! let io = MemoryIo::new(0, Default::default());
//! let app = shop(&io, &Stage::default()).start()?;
//! let answer = block_on(async {
//!     let mut peer = HttpPeer::dial(&io, "shop");
//!     peer.post("/demo.Shop/Echo", r#"{"weightGrams":"7"}"#).await
//! });
//! assert_eq!(answer.body, r#"{"weightGrams":"7"}"#);
//! app.drain();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admin;
mod event;
mod http;
mod native;
mod process;
mod services;
mod states;
mod websocket;

include!(concat!(env!("OUT_DIR"), "/_mod.rs"));

pub use self::admin::{AdminAnswer, admin, metric, wait_for_metric};
pub use self::event::{Event, PATIENCE, block_on, eventually, with_deadlines};
pub use self::http::{HttpAnswer, HttpPeer};
pub use self::native::{NativeListener, NativePeer};
pub use self::process::{client, config, depot, memory, run_on, shop, shop_under, shop_with};
pub use self::services::{DepotService, ShopService, Stage};
pub use self::states::Ordering;
pub use self::websocket::WebSocketPeer;
