//! gavel
