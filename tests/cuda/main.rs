//! The kernels of the CUDA device on softcuda, each against its scalar definition.

mod attention;
mod harness;
mod ptx;
