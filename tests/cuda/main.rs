//! The CUDA kernels against their scalar definitions, executed by softcuda.
//!
//! What each kernel computes is compared, at both levels of PTX and under many orders of execution;
//! softcuda stops at races, at reads of what was never written and at whatever lies out of bounds.
//! The bytes that each kernel moves are compared with what its comment states.

mod agreement;
mod attention;
mod bench;
mod build_script;
mod common;
mod counting;
mod draft;
mod driver;
mod economy;
mod embed;
mod enumeration;
mod graph;
mod head;
mod judge;
mod kv;
mod linear;
mod ngram;
mod pack;
mod pass;
mod process;
mod refusal;
mod resources;
mod sass;
mod step;
mod toolkit;
mod verifier;
mod verify;
mod widths;

// What proves the reference lossless proves the kernel, too.
#[allow(dead_code)]
#[path = "../lossless/enumerate.rs"]
mod enumerate;
#[allow(dead_code)]
#[path = "../lossless/toy.rs"]
mod toy;
