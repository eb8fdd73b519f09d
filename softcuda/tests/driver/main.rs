//! The driver as a program meets it: through cudarc, which loads it as `libcuda.so`.

mod calls;
mod captures;
mod faults;
mod order;
mod safe;
mod support;
mod symbols;
