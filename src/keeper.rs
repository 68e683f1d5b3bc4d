//! The keeper: supervises, decides, never touches traffic.
