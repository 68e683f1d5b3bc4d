//! The chain loader.
