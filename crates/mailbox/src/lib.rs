//! The bounded mailbox that carries messages between shards.
