//! Tests against real servers.

mod fidelity;
