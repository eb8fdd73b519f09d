//! gavel

pub mod judge;
pub mod model;
pub mod output;
