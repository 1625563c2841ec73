//! Fuzz targets of kmsfs. See README.md.

pub mod bodies;
mod crash;
#[path = "../../tests/integration/fixture.rs"]
#[allow(dead_code, reason = "it serves the integration tests too")]
mod fixture;
mod model;
