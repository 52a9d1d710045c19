//! The second face: the nine `barman-cloud-*` commands of Barman 3.19.1, under their own names.
//!
//! [`call::parse`] turns a command line into a [`call::Call`].

mod argparse;
pub mod call;
mod grammar;
pub mod output;
mod python;
mod typed;
mod usage;
mod values;

#[cfg(test)]
mod tests;
