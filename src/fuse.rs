//! FUSE: a thin adapter. Each request becomes one call of [`crate::vfs`], each answer one reply.

mod adapter;
mod convert;
mod direct;
mod seek;
mod session;

pub use session::{MountSpec, serve};
