//! The model test's operations and comparison.

#![allow(dead_code, reason = "they serve the integration tests too")]

#[path = "../../tests/integration/model/ops.rs"]
pub mod ops;
#[path = "../../tests/integration/model/run.rs"]
pub mod run;
#[path = "../../tests/integration/model/subject.rs"]
pub mod subject;
