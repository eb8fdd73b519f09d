//! The driver as a program meets it: through cudarc, which loads it as `libcuda.so`.

mod answers;
mod calls;
mod captures;
mod faults;
mod graphs;
mod memory;
mod order;
mod safe;
mod support;
mod symbols;
