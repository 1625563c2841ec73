//! The one integration-test binary, a module per subject.

mod architecture;
mod backends;
mod cli;
mod control;
mod cost;
mod crash;
mod damage;
mod directories;
mod documents;
mod events;
mod faults;
mod fixture;
mod freshness;
mod fuzz;
mod holes;
mod key_store;
mod model;
mod modes;
mod museum;
mod ops;
mod server;
mod shredding;
mod transport;
mod vectors;
mod warm;
