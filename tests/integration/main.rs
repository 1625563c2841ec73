//! The one integration-test binary, a module per subject.

mod architecture;
mod backends;
mod cli;
mod ops;
mod vectors;
