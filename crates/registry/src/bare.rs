//! Watches of a registry's server with nothing around them, to measure beside.

pub use crate::etcd::{EtcdWatch, EtcdWriter};
