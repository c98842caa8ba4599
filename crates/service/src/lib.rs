//! The framework for services: routes, request contexts, deadlines, shedding.
