//! gavel

pub mod model;
