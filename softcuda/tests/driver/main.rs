//! The driver as a program meets it: through cudarc, which loads it as `libcuda.so`.

mod answers;
mod calls;
mod captures;
mod edges;
mod entry;
mod faults;
mod functions;
mod graphs;
mod memory;
mod order;
mod queries;
mod safe;
mod support;
mod symbols;
