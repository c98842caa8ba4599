//! Moments, ids, names, limits, seeded randomness and the deadline wheel.
