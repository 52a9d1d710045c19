//! The map of the house: how barback is laid out and where each way begins.
pub mod domain;
pub mod error;
