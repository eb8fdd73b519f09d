//! The CUDA device: hand-written kernels, driver API only.
//!
//! The kernels are in kernels/, compiled and embedded by build.rs ([`images`] says of which files).
//! [`Gpu`] is a device with its context, stream and kernels; [`Buffer`] is memory on it.

mod driver;
mod image;
pub mod layout;
mod memory;
mod weights;

pub use driver::{Arg, Function, Gpu, OLDEST_DRIVER, Properties};
pub use memory::{Buffer, Need, Pinned};
pub use weights::{LayerWeights, Matrix, Weights};

/// Names of the embedded images, those of the files of kernels/; empty where the build had no nvcc.
pub fn images() -> impl Iterator<Item = &'static str> {
    image::IMAGES.iter().map(|image| image.name)
}

/// Types that may be copied to and from device memory byte by byte.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for i32 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}

/// The bytes of `data`.
fn bytes_of<T: Plain>(data: &[T]) -> &[u8] {
    // SAFETY: plain data has no padding, so that all its bytes are initialised.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) }
}

/// The bytes of `data`, to be written.
fn bytes_of_mut<T: Plain>(data: &mut [T]) -> &mut [u8] {
    // SAFETY: of plain data every bit pattern is a value.
    unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), size_of_val(data)) }
}
