//! The CUDA device: hand-written kernels, driver API only.
//!
//! The kernels are in kernels/, compiled and embedded by build.rs ([`images`] says of which files).
//! [`Gpu`] is a device with its context, stream and kernels; [`Buffer`] is memory on it.

mod driver;
mod image;
pub mod layout;
pub mod linear;
mod memory;
pub mod plan;
mod weights;

pub use driver::{Arg, Function, Gpu, OLDEST_DRIVER, Properties};
pub use memory::{Buffer, Need, Pinned};
pub use weights::{LayerWeights, Matrix, Weights};

/// Names of the embedded images, those of the files of kernels/; empty where the build had no nvcc.
pub fn images() -> impl Iterator<Item = &'static str> {
    image::IMAGES.iter().map(|image| image.name)
}
