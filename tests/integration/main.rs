//! The one integration-test binary, a module per subject.

mod architecture;
mod backends;
mod cli;
mod control;
mod crash;
mod damage;
mod documents;
mod faults;
mod fixture;
mod fuzz;
mod key_store;
mod model;
mod museum;
mod ops;
mod vectors;
