//! The compiled kernels that build.rs embedded.

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// A fat binary: machine code for several architectures, and PTX for newer ones.
pub(crate) struct Image {
    /// File of kernels/ without its extension.
    pub(crate) name: &'static str,
    /// What nvcc made of it.
    pub(crate) fatbin: &'static Aligned<[u8]>,
}

/// Bytes as the driver reads them: the headers in them hold 64-bit numbers.
#[repr(C, align(16))]
pub(crate) struct Aligned<T: ?Sized>(pub(crate) T);
