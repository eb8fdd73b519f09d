//! What becomes libgavel.a and libgavel.so: the C interface, whole.

#[allow(unused_imports)] // its functions are exported by their C names
pub use gavel_c::*;
