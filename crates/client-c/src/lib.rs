//! The client for C, and for what calls C: Python, Go, Lua and others.
//!
//! The header is `include/waystation_client.h`. A caller belongs to one thread at a
//! time; [`waystation_caller_clone`] makes others for other threads, which share
//! what the agent gave to this process. A pick from shared memory makes no system
//! call. Without shared memory the agent's Unix socket is asked, and without that
//! its UDP port, if [`waystation_caller_use_lars`] told the service's numbers; without
//! all of these the hosts are used that it gave last. [`waystation_host::source`] says which it was. No function panics or unwinds
//! into C, whatever it is given, as far as its pointers are what they are said to
//! be.
//!
//! ```c
//! waystation_caller *caller = waystation_caller_new("pay", "/run/waystation/agent.sock");
//! waystation_host host;
//! if (waystation_pick(caller, &host) == WAYSTATION_STATUS_OK) {
//!     /* ... call host.address ... */
//!     waystation_report(caller, &host, WAYSTATION_END_OK, latency_ns);
//! } else {
//!     fprintf(stderr, "%s\n", waystation_error(caller));
//! }
//! waystation_caller_free(caller);
//! ```
//!
//! It leaves out calls themselves, and what is known of each host.

#![allow(
    non_camel_case_types,
    reason = "C programs see these names, and in C they are written so"
)]

mod ffi;
mod picks;

pub use ffi::{
    WAYSTATION_ADDRESS_LEN, waystation_address, waystation_caller, waystation_caller_clone,
    waystation_caller_free, waystation_caller_new, waystation_caller_use_lars, waystation_end,
    waystation_error, waystation_get_route, waystation_host, waystation_load, waystation_pick,
    waystation_pick_by, waystation_reg_init, waystation_report, waystation_report_load,
    waystation_source, waystation_source_name, waystation_status, waystation_version,
};
