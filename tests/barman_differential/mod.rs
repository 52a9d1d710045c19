//! Every command of Barman 3.19.1 beside ours of the same name: what scripts and operators see must be the same.
//!
//! Each module runs one kind of call by both, from the same state, and compares exit code, stdout and the messages on
//! stderr. `BARBACK_SHOW=1` prints what each did. Deliberate differences have tests of their own, which name them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a helper of tests fails the test that called it"
)]

mod base_backups;
mod bucket;
mod catalogue;
mod causes;
mod duel;
mod usage;
mod wal;
