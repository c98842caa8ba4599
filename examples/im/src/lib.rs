//! A chat system in three layers, small and complete.

pub mod store;
