//! Shards, listeners, connections, upstreams, timers and drain.
