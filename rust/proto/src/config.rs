//! Every tunable, with its unit, its source and any deviation from the source.
