//! A CUDA driver in software: executes the PTX that nvcc emits, finds faults, counts.
//!
//! The core, in the order in which a program meets it:
//!
//! 1. [`device::Model`] — which device is played, and its limits.
//! 2. [`memory::Memory`] — the device's address space. `alloc`, `free`, `read`, `write`, `copy`,
//!    `fill`, `label`, host memory made visible to kernels. Every byte knows whether it was ever
//!    written. All of it may be called from several threads.
//! 3. [`ptx::Module::load`] — PTX text to decoded kernels; places the module's variables in a
//!    `Memory`. An instruction that is not known stops it with the line.
//!    [`image::read`] finds the PTX in a fat binary.
//! 4. [`exec::launch`] — runs one grid, or a list of grids each of which may overlap the one
//!    before it (programmatic dependent launch); gives [`counts::Counts`] per grid, or the
//!    [`exec::Violation`] that stopped them.

pub mod counts;
pub mod device;
mod driver;
pub mod exec;
pub use driver::image;
pub mod memory;
pub mod ptx;
pub mod report;
