//! The driver: every `cu*` function, what they share, and the order in which work is done.
//!
//! [`api`] holds the entry points by subject, [`symbols`] the table of all names. They work on one
//! [`state::State`] behind a lock; [`queue`] decides what is done when, and calls the executor
//! without the lock. Pointers of the program are read and written in [`abi`] and, for copies, in
//! [`work`].

pub mod abi;
pub mod api;
pub mod error;
pub mod exit;
pub mod graph;
pub mod image;
pub mod queue;
pub mod settings;
pub mod state;
pub mod symbols;
pub mod work;
