//! gavel
pub mod tree;
pub mod verify;
