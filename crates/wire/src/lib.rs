//! Bytes to messages and back: the native frame.
