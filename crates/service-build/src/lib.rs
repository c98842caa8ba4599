//! Typed handlers and client stubs from .proto files.
