//! The C interface of gavel, in two levels: an [`engine`], and the [`verifier`] alone
//! for an engine with a forward pass of its own. `include/gavel.h` is made from these files;
//! `docs/c-interface.md` is their guide.
//!
//! Nothing is global but each thread's last error. No panic crosses: every function catches it.
#![allow(non_camel_case_types)] // the names of C

pub mod engine;
pub mod error;
mod host;
pub mod options;
pub mod verifier;

pub use engine::*;
pub use error::*;
pub use options::*;
pub use verifier::*;
